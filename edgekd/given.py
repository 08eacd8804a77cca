"""What a user gave: a YAML file, flags and dotted overrides, as one nested value; later ones win."""

from __future__ import annotations

import re
from functools import reduce
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from .datafree.run import named_source
from .errors import UnsafeInput, UsageError
from .quantize.config import named_qad
from .yaml_files import read_yaml

# Settings of a part that the run decides: setting -> what it follows from.
DERIVED = {"train.seed": "seed", "train.device": "device", "quantize.flavour": "target"}
# What may name code, as package.module:callable: only the user does, never a file.
NETWORKS = ("arch", "student", "reference_arch")
QUOTED = 60  # characters of a value in a message


def given_settings(
    file: str | Path | None, flags: dict[str, Any], overrides: list[str] | tuple[str, ...]
) -> dict[str, Any]:
    """What file, flags and overrides say; later ones win. Raises UsageError, UnsafeInput for code named by the file."""
    given = _read(file) if file is not None else {}
    given = _merge(given, _nest({key: value for key, value in flags.items() if value is not None}))
    asked = _parse(overrides)
    for key, source in DERIVED.items():
        section, _, name = key.partition(".")
        if isinstance(asked.get(section), dict) and name in asked[section]:
            raise UsageError(f"{key} follows from {source} for the whole run: set {source} instead.")
    merged = _merge(given, asked)
    _refuse_interpolation(merged, "")
    if file is not None:
        _refuse_code(file, given, asked, flags)
    return merged


def shortened(value: Any) -> str:
    """A value as it is quoted in a message; a stranger's may be megabytes long."""
    text = repr(value)
    return text if len(text) <= QUOTED else text[:QUOTED] + "…"


def _read(file: str | Path) -> dict[str, Any]:
    loaded = read_yaml(file, "configuration")
    if not isinstance(loaded, dict) or not all(isinstance(key, str) for key in loaded):
        raise UsageError(f"{file} must hold `key: value` lines at the top level.")
    return loaded


def _parse(overrides: list[str] | tuple[str, ...]) -> dict[str, Any]:
    for text in overrides:
        name, equals, _ = text.partition("=")
        if not equals or not re.fullmatch(r"\w+(\.\w+)*", name.strip()):
            raise UsageError(f"An override has the form key=value, e.g. -o train.epochs=20; got {shortened(text)}.")
    try:
        found: list[Any] = [OmegaConf.to_container(OmegaConf.from_dotlist([text]), resolve=False) for text in overrides]
    except Exception as error:  # OmegaConf's own errors and the YAML scanner's have no common base
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UsageError(f"Cannot read the overrides {shortened(list(overrides))}: {reason}.") from None
    return reduce(_merge, found, {})  # one by one: of `distill=kd distill.alpha=1` OmegaConf would forget the first


def _nest(flat: dict[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        *path, last = key.split(".")
        place = nested
        for part in path:
            place = place.setdefault(part, {})
        place[last] = value
    return nested


def _merge(base: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in more.items():
        old = merged.get(key)
        if key in ("distill", "repair") and isinstance(old, str):
            old = {"method": old}
        if key == "source" and isinstance(old, str):
            old = named_source(old)
        if key == "qad":
            old, value = named_qad(old), named_qad(value)
        merged[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _refuse_code(file: str | Path, given: dict[str, Any], asked: dict[str, Any], flags: dict[str, Any]) -> None:
    """Raise UnsafeInput where the file, not the user, names code to run as a network."""
    for key in NETWORKS:
        name = given.get(key)
        if isinstance(name, str) and ":" in name and key not in asked and flags.get(key) != name:
            raise UnsafeInput(
                f"{file} names code that would have to run as a network: {key} is {shortened(name)}. If you trust "
                f"that code, name it yourself: -o {key}={shortened(name)}"
            )


def _refuse_interpolation(value: Any, where: str) -> None:
    if isinstance(value, dict):
        for key, inner in value.items():
            _refuse_interpolation(inner, f"{where}{key}.")
    elif isinstance(value, (list, tuple)):
        for inner in value:
            _refuse_interpolation(inner, where)
    elif isinstance(value, str) and "${" in value:
        raise UsageError(f"{where[:-1]} holds ${{…}}: a configuration cannot use variables. Write the value itself.")
