"""A mark in every folder of our own, so that nothing of anybody else's is ever overwritten or deleted."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

from ..errors import UsageError
from ..files import write_text

RUN, ATTACK = ".edgekd-run", ".edgekd-attack"


def marked(folder: Path, mark: str) -> bool:
    """Whether the folder is ours."""
    return (folder / mark).is_file()


def leave(folder: Path, mark: str) -> bool:
    """Mark a folder that is ours or holds nothing, while its lock is held; False where it was marked before."""
    if marked(folder, mark):
        return False
    write_text(folder / mark, "edgekd works in this folder and may delete its contents.\n", "mark")
    return True


def refuse_foreign(folder: Path, mark: str, what: str, way_out: str = "Choose another folder with --out.") -> None:
    """Raise UsageError for a folder that holds something and is not ours, before anything of it is touched."""
    if not folder.is_dir() or marked(folder, mark):
        return
    found = sorted(path.name for path in folder.iterdir() if not _before_the_mark(path, mark))
    if found:
        raise UsageError(f"{folder} is not empty and not {what} (it holds {', '.join(found[:3])}). {way_out}")


def clear(folder: Path, last: tuple[str, ...]) -> None:
    """Empty a folder of ours; ``last`` says that it is one, so a kill on the way leaves a folder that is still known."""
    for path in sorted(folder.iterdir(), key=lambda path: path.name in last):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def take_away(folder: Path, mark: str) -> None:
    """Delete a folder of ours whose work is done: its remains are only in the way, so none of them is an error."""
    with contextlib.suppress(OSError):
        clear(folder, (mark,))
        folder.rmdir()


def _before_the_mark(path: Path, mark: str) -> bool:
    """Whether a process that was killed before it could leave the mark may have left this: a lock, half a mark."""
    if path.name.startswith(f".{mark}."):
        return path.name.endswith(".part")
    if path.name != ".lock" or path.is_symlink() or not path.is_file():
        return False
    try:
        holder = path.read_bytes()[:32].strip()
    except OSError:
        return False
    return not holder or holder.isdigit()
