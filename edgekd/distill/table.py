"""The methods by name; a method's module is imported when it is asked for."""

METHODS = {
    "scratch": "edgekd.distill.scratch:Scratch",
    "kd": "edgekd.distill.kd:LogitDistillation",
    "dkd": "edgekd.distill.dkd:DecoupledDistillation",
    "dist": "edgekd.distill.dist:CorrelationDistillation",
    "fitnets": "edgekd.distill.fitnets:HintDistillation",
    "at": "edgekd.distill.at:AttentionTransfer",
    "nst": "edgekd.distill.nst:NeuronSelectivity",
    "sp": "edgekd.distill.sp:SimilarityPreserving",
    "crd": "edgekd.distill.crd:ContrastiveDistillation",
    "reviewkd": "edgekd.distill.reviewkd:KnowledgeReview",
    "overhaul": "edgekd.distill.overhaul:Overhaul",
    "disk": "edgekd.distill.disk:DiSK",
    "cmkd": "edgekd.distill.cmkd:CMKD",
    "comparative-kd": "edgekd.distill.comparative_kd:ComparativeKD",
    "kdiga": "edgekd.distill.kdiga:KDIGA",
    "igdm": "edgekd.distill.igdm:IGDM",
    "robustkd": "edgekd.distill.robustkd:RobustKD",
    "robustkd-plus": "edgekd.distill.robustkd_plus:RobustKDPlus",
    "pgd-at": "edgekd.distill.adversarial_training:AdversarialTraining",
    "finetune": "edgekd.distill.finetune:FineTuning",
}
