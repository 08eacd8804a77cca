"""The exception tree; its home is the device package, which must stand alone."""

from edgekd_device.errors import (
    EdgekdError,
    EnvironmentFault,
    GateFailed,
    UnsafeInput,
    UsageError,
    did_you_mean,
    nearest,
)

__all__ = ["EdgekdError", "EnvironmentFault", "GateFailed", "UnsafeInput", "UsageError", "did_you_mean", "nearest"]
