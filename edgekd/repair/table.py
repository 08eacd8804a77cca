"""The repairs by name; a repair's module is imported when it is asked for."""

REPAIRS = {
    "ft": "edgekd.repair.ft:FineTuning",
    "ft-sam": "edgekd.repair.ft_sam:SharpnessAware",
    "nad": "edgekd.repair.nad:AttentionDistillation",
    "anp": "edgekd.repair.anp:NeuronPruning",
    "clp": "edgekd.repair.clp:LipschitzPruning",
    "gate": "edgekd.repair.gate:ChannelGate",
    "i-bau": "edgekd.repair.i_bau:AdversarialUnlearning",
}
