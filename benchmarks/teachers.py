"""Remake teachers of benchmarks/attacks.py that are missing from the cache, and check them against their records.

    python -m benchmarks.teachers              # of every attack that has a record
    python -m benchmarks.teachers latent sig   # of these

Training is bit-identical on one kind of machine with one thread. If the bytes differ all the same, the record and the
tables built on it (transfer, robustkd) describe another teacher: the new one is put aside, and nothing else is
touched.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import attacks
from benchmarks.grid import HERE, ONE_THREAD, Cell
from edgekd.attacks import ATTACKS
from edgekd.files import lock, read_json


def make(name: str, root: Path = HERE) -> str:
    """Make one teacher: there | without a record | made | of other bytes than the record's."""
    place = Cell(attacks.TABLE, attacks.cell(name), root)
    if not place.record.exists():
        return "without a record"
    wanted = read_json(place.record)["result"]["weights_sha256"]
    work = place.folder / "work"
    work.mkdir(parents=True, exist_ok=True)
    with lock(place.folder):
        if (work / "teacher.safetensors").exists():
            return "there"
        aside = sorted(place.folder.glob("other-*"))
        if aside:  # another kind of machine makes the same other bytes again
            return f"of other bytes than the record's: {aside[0].relative_to(root)}"
        found = attacks.run(place.config, work)["weights_sha256"]
        if found == wanted:
            return "made"
        other = work.with_name(f"other-{found[:12]}")
        work.rename(other)
        return f"of other bytes than the record's, put aside as {other.relative_to(root)}"


def main(names: Sequence[str]) -> int:
    """0, or 1 if a teacher is not that of its record."""
    unknown = [name for name in names if name not in ATTACKS]
    if unknown:
        print(f"No attack {', '.join(unknown)}; there are {', '.join(ATTACKS)}.", file=sys.stderr)
        return 2
    outcomes = []
    for name in names or ATTACKS:
        start = time.monotonic()
        outcomes.append(make(name))
        print(f"{name}: {outcomes[-1]} ({(time.monotonic() - start) / 60:.1f} min)", flush=True)
    return int(any(outcome.startswith("of other") for outcome in outcomes))


if __name__ == "__main__":
    if os.environ.get("OMP_NUM_THREADS") != "1":  # too late to set it in this process, whose numpy is loaded
        os.execve(sys.executable, sys.orig_argv, {**os.environ, **ONE_THREAD})
    sys.exit(main(sys.argv[1:]))
