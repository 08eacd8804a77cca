"""A user's own network, named on the command line as ``package.module:callable``.

This runs the user's code. The name is only ever taken from the user, never from a file.
"""

from __future__ import annotations

import inspect
import os
import re
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

from torch import nn

from ..errors import EdgekdError, UsageError
from .vision import load_torchvision

FORM = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
CHANNELS = ("in_channels", "in_chans", "channels")


def is_user_network(arch: str) -> bool:
    """Whether the name has the form ``package.module:callable``."""
    return FORM.fullmatch(arch) is not None


def network(arch: str, shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    """Call the user's callable with the arguments that it takes, of num_classes and in_channels.

    Raises UsageError when it cannot be imported, called, or does not give an nn.Module.
    """
    make = find(arch)
    arguments = fitting_arguments(make, shape, num_classes)
    try:
        net = make(**arguments)
    except EdgekdError:
        raise
    except Exception as error:  # whatever a stranger's constructor raises
        called = ", ".join(f"{key}={value}" for key, value in arguments.items())
        raise UsageError(f"{arch}({called}) failed: {type(error).__name__}: {error}") from error
    if not isinstance(net, nn.Module):
        raise UsageError(f"{arch} must return a torch.nn.Module, not {type(net).__name__}.")
    return net


def find(arch: str) -> Callable[..., Any]:
    """Import the callable; the current directory is searched last."""
    module_name, _, attribute = arch.partition(":")
    if module_name.split(".")[0] == "torchvision":
        load_torchvision()
    sys.path.append(os.getcwd())
    try:
        found: Any = import_module(module_name)
    except Exception as error:  # importing runs the user's code
        raise UsageError(
            f"Cannot import {module_name!r} of the network {arch}: {type(error).__name__}: {error}. Run edgekd "
            "where Python finds it, or put its folder on PYTHONPATH."
        ) from error
    finally:
        sys.path.remove(os.getcwd())
    for part in attribute.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise UsageError(
            f"{module_name} has no callable {attribute!r}: name a network of your own as package.module:callable."
        )
    make: Callable[..., Any] = found
    return make


def fitting_arguments(make: Callable[..., Any], shape: tuple[int, int, int], num_classes: int) -> dict[str, int]:
    """num_classes and in_channels, as far as the signature names them; ``**kwargs`` takes num_classes."""
    try:
        parameters = inspect.signature(make).parameters
    except (TypeError, ValueError):  # a builtin without a signature
        return {}
    anything = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    arguments = {"num_classes": num_classes} if anything or "num_classes" in parameters else {}
    arguments |= {name: shape[0] for name in CHANNELS if name in parameters}
    return arguments
