"""YAML that a stranger may have written: bounded, without aliases, no key twice; variables are never filled in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from .errors import UsageError

LIMIT_BYTES = 1 << 20
NUMBER_CHARACTERS = 64
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


class _Strict(yaml.SafeLoader):
    """Refuses aliases, by which a short file becomes a huge one, and keys that stand twice, of which one would be lost.

    Long numbers too: those of base 60 (1:1:1...) take the square of their length to read, others cannot be printed.
    """

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not allowed")
        return super().compose_node(parent, index)

    def construct_scalar(self, node: Any) -> Any:
        if node.tag in _NUMBERS and len(node.value) > NUMBER_CHARACTERS:
            raise yaml.YAMLError(f"a number has {len(node.value)} characters, more than {NUMBER_CHARACTERS}")
        return super().construct_scalar(node)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        if len(set(map(str, keys))) < len(keys):
            raise yaml.YAMLError(f"a key appears twice among {', '.join(map(str, keys))[:80]}")
        return super().construct_mapping(node, deep)


def read_yaml(path: str | Path, what: str) -> Any:
    """The value of a YAML file as plain Python, numbers as OmegaConf reads them (1e-3 is one).

    what: how messages call the file. Raises UsageError naming the file and the reason.
    """
    path = Path(path)
    try:
        if path.exists() and not path.is_file():
            raise UsageError(f"The {what} {path} is not a file.")  # a pipe would be waited for without end
        with path.open("rb") as stream:
            data = stream.read(LIMIT_BYTES + 1)
    except OSError as error:
        raise UsageError(f"Cannot read the {what} {path}: {error.strerror or error}.") from None
    if len(data) > LIMIT_BYTES:
        raise UsageError(f"{path} is larger than {LIMIT_BYTES >> 20} MiB, too large for a {what}.")
    try:
        text = data.decode("utf-8-sig")
        loader = _Strict(text)
        try:
            plain = loader.get_single_data()
        finally:
            loader.dispose()
        if not isinstance(plain, dict | list):
            return plain
        return OmegaConf.to_container(OmegaConf.create(text), resolve=False)
    except Exception as error:  # the YAML parser and OmegaConf have no common base for what a stranger can write
        raise UsageError(f"The {what} {path} is not YAML that edgekd reads: {_reason(error)}.") from None


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    mark = getattr(error, "problem_mark", None)
    if mark is not None:
        return f"line {mark.line + 1}, column {mark.column + 1}: {getattr(error, 'problem', '')}"
    return " ".join(str(error).split())[:200] or type(error).__name__
