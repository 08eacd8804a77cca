"""Where a network is trained: the device, its precision and its random stream."""

from __future__ import annotations

import hashlib
import logging
from typing import Any

import torch
from torch import nn

from ..errors import UsageError


def resolve_device(name: str) -> torch.device:
    """The device of a name; ``auto`` is CUDA where there is one. Raises UsageError for a device that is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda"):
        index = int(name.partition(":")[2] or 0)
        if not torch.cuda.is_available() or index >= torch.cuda.device_count():
            raise UsageError(f"This machine has no device {name!r}. Use --device cpu or auto.")
        return torch.device("cuda", index)
    return torch.device("cpu")


def place(module: nn.Module, device: torch.device) -> None:
    """Move a module to the device, its weights in channels_last: a tenth to two thirds faster on CPUs."""
    module.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def epoch_seed(seed: int, epoch: int) -> int:
    """Seed of torch's generator in an epoch: dropout is then a function of (seed, epoch), as the order of images is."""
    digest = hashlib.blake2b(f"edgekd.training/{seed}/{epoch}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def resolve_precision(name: str, device: torch.device) -> str:
    """bf16 or fp32; ``auto`` is bf16 where the device computes in it, since a processor that has to emulate it is slower so."""
    if name != "auto":
        return name
    return "bf16" if (_gpu_has_bf16(device) if device.type == "cuda" else cpu_has_bf16()) else "fp32"


def _gpu_has_bf16(device: torch.device) -> bool:
    """From Ampere on; torch's own answer counts emulation in. AMD's GPUs that torch supports have it."""
    return torch.version.hip is not None or torch.cuda.get_device_capability(device) >= (8, 0)


def cpu_has_bf16() -> bool:
    """AVX512-BF16 or AMX of x86; False where torch does not say, as on other processors."""
    asked = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(ask is not None and ask() for ask in asked)


def make_fabric(device: torch.device, precision: str) -> Any:
    """Fabric on one device; imported here because it costs a second."""
    # It announces its precision on standard error, which belongs to our own progress bars.
    logging.getLogger("lightning_fabric.utilities.rank_zero").setLevel(logging.WARNING)
    from lightning_fabric import Fabric

    return Fabric(
        accelerator=device.type,
        devices=1 if device.type == "cpu" else [device.index],
        precision="bf16-mixed" if precision == "bf16" else "32-true",
    )
