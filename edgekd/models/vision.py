"""The one place that imports torchvision, and only when a user names one of its networks."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import torch

from ..errors import EnvironmentFault

# Operator schemas live as long as the library that defined them.
_library: Any = None


def load_torchvision() -> ModuleType:
    """torchvision, also where its compiled part does not fit this torch (the CUDA wheel beside a CPU torch).

    Its import then fails on a missing operator; with the two schemas defined all but ops.nms, detection models and
    torchvision.io works. Raises EnvironmentFault when it is not installed.
    """
    global _library
    try:
        import torchvision
    except ModuleNotFoundError as error:
        raise EnvironmentFault("torchvision is not installed. Install it: pip install torchvision.") from error
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        library: Any = torch.library.Library
        _library = library("torchvision", "FRAGMENT")
        for operator in ("nms", "qnms"):
            _library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision
    module: ModuleType = torchvision
    return module
