"""Is it backdoored, and how badly: ACC, ASR and RA on probes, the canary battery, suspicious transfer data."""

from edgekd.audit.battery import FLAG_EXCESS, canary_battery, worst_canaries
from edgekd.audit.evaluate import Predict, flips, floors, probes, scan
from edgekd.audit.transfer import disagreement

__all__ = [
    "FLAG_EXCESS",
    "Predict",
    "canary_battery",
    "disagreement",
    "flips",
    "floors",
    "probes",
    "scan",
    "worst_canaries",
]
