"""The run folder: one process, one configuration, stages that are recognised by the hash of their inputs."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from .. import __version__
from ..config import FILES, FOLLOWING, RunConfig, changed, settings
from ..errors import EdgekdError, EnvironmentFault, UnsafeInput, UsageError
from ..files import (
    append_line,
    canonical_json,
    lock,
    point,
    read_json,
    remove_leftovers,
    sha256_bytes,
    sha256_file,
    write_json,
    write_text,
)
from ..given import DERIVED
from ..yaml_files import read_yaml
from . import mark
from .environment import commit

RESERVE_BYTES = 256 << 20
# Measuring again with other limits, longer or under attack is no other run; nor is the same file by another path. Where
# --max-acc-drop binds the guard of INT8, its stages are done anew, as their inputs are others.
ALTERABLE = ("gates.", "bench.", "audit.adversarial", "audit.eps")
OURS = ("work", "bundle")  # folders within a run's folder
SIGNS = ("key.json", "done.json")  # a stage's folder holds one of them from its first moment on


class RunFolder:
    """``runs/<name>``: outputs at the top, one folder per stage under ``work``."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.seconds: dict[str, float] = {}
        self.sources: dict[str, str] = {}  # stage -> commit that made it, "" outside a checkout
        self._wanted: dict[str, Any] = {}
        self._made: list[Path] = []  # by this process: all that a refused run may take away

    @contextlib.contextmanager
    def open(self, config: RunConfig) -> Iterator[RunFolder]:
        """Hold the folder for this process; refuse it when it belongs to another configuration.

        Until ``claim`` the folder is nobody's: a run that is refused before takes away what it wrote.
        """
        self._wanted = config.model_dump(mode="json")
        new = [place for place in (self.path, *self.path.parents) if not place.exists()]
        self._refuse_foreign()
        with lock(self.path):
            self._enter()
            remove_leftovers(self.path, deep=False)
            for part in OURS:
                remove_leftovers(self.path / part)
            try:
                if shutil.disk_usage(self.path).free < RESERVE_BYTES:
                    raise EnvironmentFault(
                        f"Less than {RESERVE_BYTES >> 20} MiB are free under {self.path}. Free some space."
                    )
                yield self
            except (UsageError, UnsafeInput):
                if not (self.path / "config.yaml").exists():
                    self._take_away(new)
                raise

    def reserve(self, config: RunConfig) -> None:
        """Mark the folder as a run's, for what writes into it before the run begins; refuses what ``open`` refuses."""
        self._wanted = config.model_dump(mode="json")
        self._refuse_foreign()
        with lock(self.path):
            self._enter()

    def claim(self) -> None:
        """Make the folder this configuration's; from now on it refuses any other."""
        write_text(self.path / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(self._wanted)), "config")

    def _refuse_foreign(self) -> None:
        """Raise UsageError for a folder that holds something and is no run's: nothing of it may be touched."""
        # runs older than the mark are known by their configuration, or by a stage where they did not come so far
        if mark.marked(self.path, mark.RUN) or self._is_ours() or any(map(_key, self.path.glob("work/*"))):
            return
        mark.refuse_foreign(self.path, mark.RUN, "a run's folder")

    def _enter(self) -> None:
        """Mark the folder, once it is known not to be another configuration's; call while its lock is held."""
        self._is_ours()
        self._refuse_links()
        if mark.leave(self.path, mark.RUN):
            self._made.append(self.path / mark.RUN)

    def _is_ours(self) -> bool:
        """Whether this configuration has claimed the folder; UsageError where another one has."""
        file = self.path / "config.yaml"
        if not file.exists():
            return False
        try:
            stored = read_yaml(file, "configuration")
        except UsageError as error:
            raise UsageError(
                f"{error} It cannot be read as a run's configuration. Choose another folder with --out."
            ) from None
        if not isinstance(stored, dict) or "teacher" not in stored:
            raise UsageError(f"{file} is not the configuration of a run. Choose another folder with --out.")
        before = {str(key): value for key, value in stored.items()}
        differing = [key for key in changed(before, self._wanted) if not _harmless(key, before, self._wanted)]
        differing = [key for key in differing if (DERIVED | FOLLOWING).get(key) not in differing]
        if "distill.method" in differing:  # whose settings are others then
            differing = [key for key in differing if key == "distill.method" or not key.startswith("distill.")]
        if differing:
            raise UsageError(
                f"{self.path} holds a run with other settings: {', '.join(differing[:5])}. Choose another folder with "
                "--out, or delete this one."
            )
        return True

    def _refuse_links(self) -> None:
        """Raise UnsafeInput for a folder within that is a link: what is written or cleared there would be elsewhere."""
        for part in OURS:
            inner = (Path(place) / name for place, names, _ in os.walk(self.path / part) for name in names)
            for place in (self.path / part, *inner):
                if place.is_symlink():
                    raise UnsafeInput(
                        f"{place} is a link, and edgekd would write and delete where it leads. Put a folder there, or choose "
                        "another run folder with --out."
                    )

    def _take_away(self, new: list[Path]) -> None:
        """Delete what this process wrote, and the folders ``new`` that it made."""
        for path in reversed(self._made):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        if new:
            (self.path / ".lock").unlink(missing_ok=True)
        for place in (self.path / "work", *new):
            with contextlib.suppress(OSError):  # it was not made, or somebody else has put something there
                place.rmdir()

    def log(self, text: str) -> None:
        """Add a line to run.log."""
        file = self.path / "run.log"
        if not file.exists():
            self._made.append(file)
        append_line(file, f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {text}", "log")

    def stage(self, name: str, inputs: dict[str, Any], make: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
        """The result of ``make(folder)``, or the stored one when it was made from the same inputs.

        make writes into the folder it is given and returns JSON; a key ``files`` lists the files that the result stands
        on. A stage that was killed finds its folder as it left it, so that training goes on from its last checkpoint.
        """
        folder = self.path / "work" / name
        key = sha256_bytes(canonical_json({"inputs": inputs, "version": __version__}).encode())
        done = folder / "done.json"
        stored = _finished(done, key)
        if stored is not None:
            self.seconds[name], self.sources[name] = stored["seconds"], str(stored.get("source", ""))
            return dict(stored["result"])
        if not folder.exists():
            self._made.append(folder)
        elif _key(folder) != key:
            _clear(folder)
        write_json(folder / "key.json", key, f"{name}.key")
        self.log(f"stage {name} begins")
        point(f"{name}.begin")
        started = time.monotonic()
        result = make(folder)
        seconds = time.monotonic() - started
        hashes = {file: sha256_file(folder / file) for file in result.get("files", ())}
        stored = {"key": key, "result": result, "hashes": hashes, "seconds": seconds, "source": commit()}
        write_json(done, stored, f"{name}.done")
        self.log(f"stage {name} ends after {seconds:.1f} s")
        self.seconds[name], self.sources[name] = seconds, commit()
        return result

    def mixed(self) -> list[str]:
        """A warning where stages of this run come from different sources: one sentence, else nothing."""
        made: dict[str, list[str]] = {}
        for name, source in self.sources.items():
            made.setdefault(source or "unknown", []).append(name)
        if len(made) < 2:
            return []
        parts = "; ".join(f"{source}: {', '.join(names)}" for source, names in made.items())
        return [
            f"Stages of this run were made by different sources of edgekd ({parts}). Repeat the run before quoting it."
        ]

    def file(self, stage: str, name: str) -> Path:
        """Where a stage keeps a file."""
        return self.path / "work" / stage / name


def _key(folder: Path) -> str | None:
    """What a stage's folder was made from; None where it does not say."""
    try:
        key = read_json(folder / "key.json")
    except UsageError:
        return None
    return key if isinstance(key, str) and re.fullmatch("[0-9a-f]{64}", key) else None


def _clear(folder: Path) -> None:
    """Empty a stage's folder of other work; UsageError where what lies there is not known to be a stage's."""
    found = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else [folder.name]
    if found and not set(SIGNS) & set(found):
        raise UsageError(
            f"{folder} is not a stage of a run (it holds {', '.join(found[:3])}). Move it away, or choose another "
            "folder with --out."
        )
    mark.clear(folder, SIGNS)


def _finished(done: Path, key: str) -> dict[str, Any] | None:
    """What a finished stage stored, if it was made from the same inputs and its files are whole."""
    if not done.exists():
        return None
    try:
        stored = read_json(done)
        whole = stored["key"] == key and all(
            _within(done.parent, file) and sha256_file(done.parent / file) == digest
            for file, digest in stored["hashes"].items()
        )
        return dict(stored) if whole else None
    except (EdgekdError, OSError, KeyError, TypeError):
        return None


def _within(stage: Path, file: str) -> bool:
    """Whether a stage's record names a file of its run: what it wrote, or handed to the bundle."""
    run = stage.parent.parent
    return not os.path.isabs(file) and run.resolve() in (stage / file).resolve().parents


def _harmless(key: str, before: dict[str, Any], after: dict[str, Any]) -> bool:
    """Whether a setting may differ from that of the folder's run."""
    if key.startswith(ALTERABLE) or _newer(key, before, after):
        return True
    section, _, name = key.rpartition(".")
    old, new = (((part.get(section) or {}) if section else part).get(name) for part in (before, after))
    return key in FILES and bool(old) and bool(new) and Path(str(old)).resolve() == Path(str(new)).resolve()


def _newer(key: str, before: dict[str, Any], after: dict[str, Any]) -> bool:
    """Whether a setting came after the folder's run was begun, and stands at its default."""
    old: Any = before
    new: Any = after
    for name in key.split("."):
        missing = not isinstance(old, dict) or name not in old
        old, new = None if missing else old[name], new.get(name) if isinstance(new, dict) else None
    return missing and any(key == known and new == default for known, default, _ in settings(RunConfig))
