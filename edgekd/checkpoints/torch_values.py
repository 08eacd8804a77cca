"""The names that a state dict's pickle may hold, each with a builder that makes a description and nothing else."""

from __future__ import annotations

from typing import Any

from ..errors import UnsafeInput, UsageError
from .numpy_values import SCALAR_NAMES, Dtype, set_dtype
from .opcodes import CHECKPOINT_OPCODES, Builder, Global, Rules
from .tensors import Storage, Tensor, checked
from .wording import DAMAGED, WAY_OUT, printable

_STORAGES = {
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "DoubleStorage": "F64",
    "LongStorage": "I64",
    "IntStorage": "I32",
    "ShortStorage": "I16",
    "CharStorage": "I8",
    "ByteStorage": "U8",
    "BoolStorage": "BOOL",
}
_HINTS = {
    "_rebuild_sparse_tensor": "a sparse tensor (save tensor.to_dense() instead)",
    "_rebuild_sparse_csr_tensor": "a sparse tensor (save tensor.to_dense() instead)",
    "_rebuild_qtensor": "a quantised tensor (save the float weights instead)",
    "_rebuild_nested_tensor": "a nested tensor",
    "_rebuild_meta_tensor_no_storage": "a tensor without numbers (of the meta device)",
    "_rebuild_device_tensor_from_numpy": "a tensor saved from XLA (save tensor.cpu() instead)",
    "_rebuild_wrapper_subclass": "a tensor of a class of its own",
    "_rebuild_from_type_v2": "a tensor of a class of its own",
    "_rebuild_tensor_v3": "a tensor of a type that edgekd does not know",
    "ComplexFloatStorage": "a tensor of complex numbers",
    "ComplexDoubleStorage": "a tensor of complex numbers",
    "QInt8Storage": "a quantised tensor (save the float weights instead)",
    "QUInt8Storage": "a quantised tensor (save the float weights instead)",
    "QInt32Storage": "a quantised tensor (save the float weights instead)",
}


def ordered_dict(pairs: Any = ()) -> dict[Any, Any]:
    """collections.OrderedDict as a plain dict; Python 2 hands over a list of pairs."""
    if not isinstance(pairs, (list, tuple)) or any(not isinstance(p, (list, tuple)) or len(p) != 2 for p in pairs):
        raise UsageError(f"An ordered dict is malformed. {DAMAGED}")
    if any(not isinstance(key, (str, int)) for key, _ in pairs):
        raise UsageError(f"An ordered dict has a key that is neither text nor a number. {DAMAGED}")
    return dict(pairs)


def rebuild_tensor(storage: Any, offset: Any, shape: Any, stride: Any) -> Tensor:
    """torch._utils._rebuild_tensor."""
    return checked(storage, offset, shape, stride)


def rebuild_tensor_2(
    storage: Any, offset: Any, shape: Any, stride: Any, grad: Any, hooks: Any, metadata: Any = None
) -> Tensor:
    """torch._utils._rebuild_tensor_v2; hooks are not kept, a conjugate or negative view is refused."""
    if metadata:
        raise UnsafeInput(f"It holds a tensor that is a lazy view (conjugate or negative). {WAY_OUT}")
    return checked(storage, offset, shape, stride)


def rebuild_parameter(data: Any, grad: Any = True, hooks: Any = None) -> Tensor:
    """torch._utils._rebuild_parameter: a parameter is its tensor."""
    if not isinstance(data, Tensor):
        raise UsageError(f"A parameter is not a tensor. {DAMAGED}")
    return data


def size(items: Any = ()) -> tuple[Any, ...]:
    """torch.Size as a tuple."""
    return tuple(items) if isinstance(items, (list, tuple)) else ()


NAMES: dict[Global, Builder | None] = {
    Global("collections", "OrderedDict"): ordered_dict,
    Global("torch._utils", "_rebuild_tensor"): rebuild_tensor,
    Global("torch._utils", "_rebuild_tensor_v2"): rebuild_tensor_2,
    Global("torch._utils", "_rebuild_parameter"): rebuild_parameter,
    Global("torch", "Size"): size,
    **{Global(module, name): None for module in ("torch", "torch.cuda") for name in _STORAGES},
    **SCALAR_NAMES,
}


class Storages:
    """The storages that a pickle refers to, by key; ``persistent`` is what the machine calls for each reference."""

    def __init__(self) -> None:
        self.found: dict[str, Storage] = {}

    def persistent(self, reference: Any) -> Storage:
        if not isinstance(reference, tuple) or not reference or reference[0] not in ("storage", b"storage"):
            raise UnsafeInput(f"Its pickle refers to something that is not a tensor's storage. {WAY_OUT}")
        if len(reference) not in (5, 6) or (len(reference) == 6 and reference[5] is not None):
            raise UsageError("It holds views as torch 0.3 wrote them. Load it and save it again with a newer torch.")
        _, kind, key, _, numel = reference[
            :5
        ]  # the fourth is the device it was saved from: everything is read to memory
        dtype = _STORAGES.get(kind.name) if isinstance(kind, Global) else None
        if dtype is None or not isinstance(key, str) or type(numel) is not int or numel < 0:
            raise UsageError(f"A storage is malformed. {DAMAGED}")
        storage = self.found.setdefault(key, Storage(dtype, numel))
        if (storage.dtype, storage.numel) != (dtype, numel):
            raise UnsafeInput(f"The storage {printable(key)!r} is described in two ways: the file lies in one.")
        return storage

    def rules(self) -> Rules:
        """The machine's rules for a state dict."""
        return Rules(
            CHECKPOINT_OPCODES,
            NAMES,
            self.persistent,
            states={dict: lambda target, _: target, Dtype: set_dtype},  # an OrderedDict's attributes are not needed
            hints=_HINTS,
        )
