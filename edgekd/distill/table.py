"""The methods by name; a method's module is imported when it is asked for."""

METHODS = {
    "scratch": "edgekd.distill.scratch:Scratch",
    "kd": "edgekd.distill.kd:LogitDistillation",
    "overhaul": "edgekd.distill.overhaul:Overhaul",
    "robustkd": "edgekd.distill.robustkd:RobustKD",
    "finetune": "edgekd.distill.finetune:FineTuning",
}
