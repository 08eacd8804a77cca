"""What a cell says of a training beside its figures: its settings, and that its loss was not finite."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from edgekd.files import read_json, write_json
from edgekd.training import Diverged, TrainConfig
from edgekd.types import Model


def settings(method: str, options: Mapping[str, Any], train: TrainConfig) -> dict[str, Any]:
    """Plain JSON; what is not among the options is the method's default at the record's commit."""
    return {"method": method, "options": dict(options), "train": train.model_dump(mode="json", exclude={"device"})}


def said(error: Diverged) -> str:
    """The cause alone, without advice and without a path."""
    return str(error).partition(";")[0]


def kept(make: Callable[[Path], Model]) -> Callable[[Path], Model]:
    """``make`` of ``students.once``; that it diverged lies beside its folder, so that no other cell trains it to that end."""

    def made(folder: Path) -> Model:
        note = folder.parent / "diverged.json"
        if note.exists():
            raise Diverged(read_json(note)["said"])
        try:
            return make(folder)
        except Diverged as error:
            write_json(note, {"said": said(error)}, "divergence")
            raise

    return made
