"""What the figures of an attack's record hang on."""

from __future__ import annotations

from typing import Any

from ..config import AttackConfig, public
from ..types import Model, TrainLog
from .environment import commit, describe


def origin(config: AttackConfig, made: Model, start: Model | None, log: TrainLog) -> dict[str, Any]:
    """Settings, networks and machine, as fields of the record; ``start``: the network that ``made`` began from, if any."""
    return {
        "attack": config.name,
        "config": public(config),
        "spec": made.spec.to_json(),
        "weights_sha256": made.sha256,
        "start_sha256": None if start is None else start.sha256,
        "training": log.to_json(),
        "environment": describe(),
        "commit": commit(),
    }
