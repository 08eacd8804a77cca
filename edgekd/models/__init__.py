"""Networks: model = normalise, then net. Build one, recognise one from its tensors, see its sites and its cost."""

from .builder import build, renormalise, weights, weights_sha256, with_input
from .costs import Cost, cost, default_student, zoo
from .normalization import (
    NORMALIZATIONS,
    detect_normalization,
    normalization,
    normalization_note,
    student_normalization,
)
from .onnx_teacher import onnx_cost, onnx_teacher
from .recognise import infer_spec
from .registry import ARCHITECTURES, FAMILIES, resolve
from .sites import Edit, Norms, Sites, TappedNet
from .user import is_user_network
from .wrap import Network, Normalize

__all__ = [
    "ARCHITECTURES",
    "FAMILIES",
    "NORMALIZATIONS",
    "Cost",
    "Edit",
    "Network",
    "Normalize",
    "Norms",
    "Sites",
    "TappedNet",
    "build",
    "cost",
    "default_student",
    "detect_normalization",
    "infer_spec",
    "is_user_network",
    "normalization",
    "normalization_note",
    "onnx_cost",
    "onnx_teacher",
    "renormalise",
    "resolve",
    "student_normalization",
    "weights",
    "weights_sha256",
    "with_input",
    "zoo",
]
