"""Our own quantiser: calibration, placement of Q/DQ by flavour, and what stayed float with the reason."""

from edgekd.quantize.calibrators import CALIBRATORS
from edgekd.quantize.ptq import PtqConfig, QuantizedNetwork, ptq

__all__ = ["CALIBRATORS", "PtqConfig", "QuantizedNetwork", "ptq"]
