"""A YAML list of triggers: each entry names a ``file``, or a ``family`` with its options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgekd.errors import UsageError, did_you_mean
from edgekd.triggers import rules, single
from edgekd.triggers.battery import made
from edgekd.triggers.drawings import Shape
from edgekd.triggers.options import Choice, known_only
from edgekd.triggers.stamp import FAMILIES, FROM_FILES
from edgekd.types import Trigger
from edgekd.yaml_files import read_yaml

_COMMON = ("name", "target_label", "rule", "source_labels", "origin")
ORIGINS = ("known", "inverted")


def read(path: Path, shape: Shape, defaults: dict[str, Any], num_classes: int | None) -> tuple[Trigger, ...]:
    """Every trigger of the list; what an entry does not set it takes from ``defaults``. Raises UsageError."""
    entries = read_yaml(path, "list of triggers")
    if isinstance(entries, dict) and set(entries) == {"triggers"}:
        entries = entries["triggers"]
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        raise UsageError(f"{path} is not a list of triggers: expected entries such as '- file: patch.png'.")
    found: dict[str, Trigger] = {}
    for number, entry in enumerate(entries, 1):
        trigger = _entry(path, number, entry, shape, defaults, num_classes)
        if trigger.name in found:
            raise UsageError(f"{path} has two triggers called {trigger.name!r}. Give each its own name.")
        found[trigger.name] = trigger
    given, own = defaults["target_label"], {trigger.target_label for trigger in found.values()}
    if given is not None and own.isdisjoint({given, None}):
        raise UsageError(
            f"{path} sets target label {', '.join(map(str, sorted(own, key=str)))}, which the given target label "
            f"{given} does not override. Leave --target-label out, or change the file."
        )
    return tuple(found.values())


def _entry(
    path: Path, number: int, entry: dict[str, Any], shape: Shape, defaults: dict[str, Any], num_classes: int | None
) -> Trigger:
    what = f"trigger {number} of {path}"
    if ("file" in entry) == ("family" in entry):
        raise UsageError(f"{what.capitalize()} needs either a file or a family (one of {', '.join(FAMILIES)}).")
    sources = entry.get("source_labels", defaults["source_labels"])
    if not isinstance(sources, list | tuple):
        raise UsageError(f"source_labels of {what} is {sources!r}, expected a list of class indices.")
    rule = entry.get("rule", "source" if "source_labels" in entry else defaults["rule"])
    target = entry.get("target_label", None if rule == "all-to-all" else defaults["target_label"])
    origin = Choice("known", ORIGINS).check(f"The origin of {what}", entry.get("origin", "known"))
    fields = {"origin": origin, "rule": rule, "target_label": target, "source_labels": tuple(sources)}
    if rule != "source" and "source_labels" not in entry:
        fields["source_labels"] = ()
    rules.check(rule, target, fields["source_labels"], num_classes)
    if "file" in entry:
        known_only(what.capitalize(), entry, ("file", "opacity", "position", *_COMMON))
        file = path.parent / str(entry["file"])
        if not file.is_file():
            raise UsageError(f"{what.capitalize()} names the file {file}, which does not exist.")
        family, params = single.read(file, shape, entry.get("opacity"), entry.get("position"))
        name = single.plain_name(entry.get("name", file.name.split(".")[0]))
        return Trigger(name=name, family=family, params=params, **fields)
    family = entry["family"]
    names = [name for name in FAMILIES if name not in FROM_FILES]
    if family not in names:
        raise UsageError(f"{what.capitalize()} has the unknown family {family!r}.{did_you_mean(family, names)}")
    options = {key: value for key, value in entry.items() if key not in (*_COMMON, "family")}
    return made(single.plain_name(entry.get("name", f"{family}-{number}")), family, options, shape, **fields)
