"""Our own quantiser: calibration, placement of Q/DQ by flavour, and what stayed float with the reason."""

from edgekd.quantize.calibrators import CALIBRATORS
from edgekd.quantize.config import PtqConfig
from edgekd.quantize.guard import guarded, sensitivity
from edgekd.quantize.ptq import QuantizedNetwork, ptq

__all__ = ["CALIBRATORS", "PtqConfig", "QuantizedNetwork", "guarded", "ptq", "sensitivity"]
