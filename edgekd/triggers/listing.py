"""A YAML list of triggers: each entry names a ``file``, or a ``family`` with its options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from edgekd.errors import UsageError
from edgekd.triggers import rules, single
from edgekd.triggers.battery import made
from edgekd.triggers.drawings import Shape
from edgekd.triggers.options import did_you_mean, known_only
from edgekd.triggers.stamp import FAMILIES
from edgekd.types import Trigger

_YAML_LIMIT = 1 << 20
_COMMON = ("name", "target_label", "rule", "source_labels")


def read(path: Path, shape: Shape, defaults: dict[str, Any], num_classes: int | None) -> tuple[Trigger, ...]:
    """Every trigger of the list; what an entry does not set it takes from ``defaults``. Raises UsageError."""
    entries = _parse(path)
    if isinstance(entries, dict) and set(entries) == {"triggers"}:
        entries = entries["triggers"]
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        raise UsageError(f"{path} is not a list of triggers: expected entries such as '- file: patch.png'.")
    found: dict[str, Trigger] = {}
    for number, entry in enumerate(entries, 1):
        trigger = _entry(path, number, entry, shape, defaults, num_classes)
        if trigger.name in found:
            raise UsageError(f"{path} has two triggers called {trigger.name!r}; give each a name of its own.")
        found[trigger.name] = trigger
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
    fields = {"origin": "known", "rule": rule, "target_label": target, "source_labels": tuple(sources)}
    if rule != "source" and "source_labels" not in entry:
        fields["source_labels"] = ()
    rules.check(rule, target, fields["source_labels"], num_classes)
    if "file" in entry:
        known_only(what.capitalize(), entry, ("file", "opacity", "position", *_COMMON))
        file = path.parent / str(entry["file"])
        if not file.is_file():
            raise UsageError(f"{what.capitalize()} names the file {file}, which is not there.")
        family, params = single.read(file, shape, entry.get("opacity"), entry.get("position"))
        name = single.plain_name(entry.get("name", file.name.split(".")[0]))
        return Trigger(name=name, family=family, params=params, **fields)
    family = entry["family"]
    names = [name for name in FAMILIES if name != "affine"]  # which has arrays, and so a file
    if family not in names:
        raise UsageError(f"{what.capitalize()} has the unknown family {family!r}.{did_you_mean(family, names)}")
    options = {key: value for key, value in entry.items() if key not in (*_COMMON, "family")}
    return made(single.plain_name(entry.get("name", f"{family}-{number}")), family, options, shape, **fields)


class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses a key standing twice, and aliases, which a short file can use to become a huge one."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not allowed")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        if len(set(map(str, keys))) < len(keys):
            raise yaml.YAMLError(f"a key stands twice among {', '.join(map(str, keys))}")
        return super().construct_mapping(node, deep)


def _parse(path: Path) -> Any:
    data = path.read_bytes()[: _YAML_LIMIT + 1]
    if len(data) > _YAML_LIMIT:
        raise UsageError(f"{path} is larger than {_YAML_LIMIT} bytes: not a list of triggers.")
    try:
        loader = _Loader(data.decode("utf-8-sig"))
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"{path} is not YAML that edgekd reads: {reason}.") from error
