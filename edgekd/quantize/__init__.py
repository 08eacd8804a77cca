"""Our own quantiser: calibration, placement of Q/DQ by flavour, and what stayed float with the reason."""

from edgekd.quantize.calibrators import CALIBRATORS
from edgekd.quantize.config import GuardConfig, PtqConfig, QadConfig
from edgekd.quantize.guard import Guarded, guard, sensitivity
from edgekd.quantize.ptq import QuantizedNetwork, ptq
from edgekd.quantize.qad import QuantizationAwareDistillation, Refined, refine

__all__ = [
    "CALIBRATORS", "GuardConfig", "Guarded", "PtqConfig", "QadConfig", "QuantizationAwareDistillation", "QuantizedNetwork",
    "Refined", "guard", "ptq", "refine", "sensitivity",
]  # fmt: skip
