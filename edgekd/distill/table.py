"""The methods by name; a method's module is imported when it is asked for."""

METHODS = {
    "scratch": "edgekd.distill.scratch:Scratch",
    "kd": "edgekd.distill.kd:LogitDistillation",
    "at": "edgekd.distill.at:AttentionTransfer",
    "overhaul": "edgekd.distill.overhaul:Overhaul",
    "robustkd": "edgekd.distill.robustkd:RobustKD",
    "robustkd-plus": "edgekd.distill.robustkd_plus:RobustKDPlus",
    "finetune": "edgekd.distill.finetune:FineTuning",
}
