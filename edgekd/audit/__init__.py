"""Is it backdoored, and how badly: ACC, ASR and RA on probes, the canary battery, suspicious transfer data; and what is
left of its accuracy under attack."""

from edgekd.audit.battery import FLAG_EXCESS, canary_battery, worst_canaries
from edgekd.audit.evaluate import Predict, flips, floors, probes, right_by_class, scan
from edgekd.audit.inversion import invert
from edgekd.audit.shipped import robustness_of_file
from edgekd.audit.teachable import teaching
from edgekd.audit.tiers import TIERS
from edgekd.audit.transfer import disagreement
from edgekd.audit.under_attack import Robustness, robustness

__all__ = [
    "FLAG_EXCESS",
    "TIERS",
    "Predict",
    "Robustness",
    "canary_battery",
    "disagreement",
    "flips",
    "floors",
    "invert",
    "probes",
    "right_by_class",
    "robustness",
    "robustness_of_file",
    "scan",
    "teaching",
    "worst_canaries",
]
