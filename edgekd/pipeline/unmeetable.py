"""Gates that a run cannot meet whatever it does, said before it starts."""

from __future__ import annotations

from .. import targets
from ..config import RunConfig
from .vetting import runs_battery


def unmeetable(config: RunConfig) -> list[str]:
    """A sentence for each gate whose value this run will not measure; it fails at the end."""
    found, known = [], config.trigger.file is not None
    if config.gates.max_latency_ms is not None:
        target = targets.get(config.target)
        if config.bench.level == "none":
            found.append(_said("--max-latency-ms", "nothing is timed with --bench none"))
        elif target.runtime == "tensorrt":
            why = (
                f"{target.ships} is timed on the board; read the board's report in with `edgekd report RUN "
                "--device-report FILE`"
            )
            found.append(_said("--max-latency-ms", why))
    unlabelled = config.data_free and config.test is None
    if config.gates.max_acc_drop is not None and unlabelled:
        found.append(_said("--max-acc-drop", "ACC is measured on labelled images; give some with --test"))
    if config.gates.max_asr is None:
        return found
    if unlabelled:
        found.append(_said("--max-asr", "ASR is measured on labelled images; give some with --test"))
    elif config.data_free and known and config.reference is None:
        why = "a given trigger needs a floor: give a network that no attacker touched with --reference, or give --data"
        found.append(_said("--max-asr", why))
    elif not known and not runs_battery(config):
        found.append(_said("--max-asr", "no trigger is measured; give one with --trigger, or leave audit.canaries on"))
    return found


def _said(gate: str, why: str) -> str:
    return f"The gate {gate} cannot be met: {why}."
