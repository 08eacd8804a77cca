"""Kills: `kill -9` inside each stage of a run and at random times, each followed by the same command until it ends.

    python -m benchmarks.kills

Runs on the demo's teacher, prepared once, with a short schedule. It shows that the student, every ONNX file and the
manifest have the bytes of an unbroken run, and that a training resumes from its last checkpoint. There is one record;
if the benchmark itself is killed, it goes on where it stopped. Figures are outcomes, not times, so a busy machine does
no harm.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.grid import ONE_THREAD, Config, Table, main
from edgekd import files
from edgekd.pipeline import demo

EPOCHS, DETOX_CHUNKS = 3, 4
SETTINGS = (
    *demo.OVERRIDES,
    f"train.epochs={EPOCHS}",
    "distill.lambda_f=0.1",
    f"distill.detox_steps={5 * DETOX_CHUNKS}",
    "distill.guard_every=5",
)
# Where in the run: stage, fault point (edgekd_device/files.py) and how often it is reached before the kill; the training
# that must then go on, and from which epoch. The trainings come in this order: scratch, kd, detoxification, robustkd.
_KD, _DETOX, _STUDENT = EPOCHS, 2 * EPOCHS, 2 * EPOCHS + DETOX_CHUNKS
POINTS: tuple[tuple[str, str, int, str, int | None], ...] = (
    ("the folder's mark", "mark.after_rename", 1, "", None),
    ("intake", "intake.begin", 1, "", None),
    ("intake", "intake.done.before_rename", 1, "", None),
    ("claim of the folder", "config.before_rename", 1, "", None),
    ("train-scratch", "training.notes.after_rename", 2, "scratch", 2),
    ("train-scratch", "training.checkpoint.before_rename", 3, "scratch", 2),
    ("train-scratch", "weights.before_rename", 1, "scratch", 3),
    ("audit-floor", "predictions.before_rename", 1, "", None),
    ("audit-teacher", "audit-teacher.done.before_write", 1, "", None),
    ("latency-teacher", "latency-teacher.begin", 1, "", None),
    ("audit-scratch", "audit-scratch.begin", 1, "", None),
    ("train-kd", "training.notes.before_rename", _KD + 2, "kd", 1),
    ("audit-kd", "audit-kd.begin", 1, "", None),
    ("detoxification", "training.notes.after_rename", _DETOX + 2, "", None),
    ("train-robustkd", "training.checkpoint.after_rename", _STUDENT + 2, "robustkd", 1),
    ("train-robustkd", "journal.before_append", _STUDENT + 2, "robustkd", 2),
    ("train-robustkd", "train-robustkd.done.before_rename", 1, "robustkd", 3),
    ("audit-student-fp32", "audit-student-fp32.begin", 1, "", None),
    ("latency-student-fp32", "latency-student-fp32.begin", 1, "", None),
    ("export", "onnx.before_rename", 1, "", None),
    ("export", "onnx.before_write", 2, "", None),
    ("audit-student-int8-simulated", "audit-student-int8-simulated.begin", 1, "", None),
    ("audit-model.onnx", "audit-model.onnx.begin", 1, "", None),
    ("audit-model.u8s8.onnx", "audit-model.u8s8.onnx.begin", 1, "", None),
    ("bundle", "student.after_rename", 1, "", None),
    ("bundle", "bundle-model.after_rename", 1, "", None),
    ("bundle", "bundle-probes.before_rename", 1, "", None),
    ("bundle", "bundle-manifest.before_rename", 1, "", None),
    ("bundle", "bundle.done.before_write", 1, "", None),
    ("bench", "bench.begin", 1, "", None),
    ("bench", "bench.done.before_rename", 1, "", None),
    ("disagreement", "disagreement.begin", 1, "", None),
    ("report", "run.before_rename", 1, "", None),
    ("report", "report.html.before_rename", 1, "", None),
    ("report", "report.md.after_rename", 1, "", None),
)
TIMED = ("latency-teacher", "latency-student-fp32", "bench")  # only these need the seconds that measuring takes
RANDOM = 4
SAME = ("student.safetensors", "bundle/*.onnx", "bundle/manifest.json", "bundle/probe.npz", "bundle/edgekd-device.pyz")


def cells() -> Iterator[Config]:
    yield {"points": [f"{point}:{count}" for _, point, count, _, _ in POINTS], "random": RANDOM, "epochs": EPOCHS}


def words(inputs: Path, folder: Path, *, timed: bool) -> list[str]:
    """The command that is given again and again."""
    line = [sys.executable, "-m", "edgekd", "compress", "--out", str(folder), "--controls", "scratch,kd", "--quiet"]
    line += ["--bench", "smoke" if timed else "none", "--target-label", str(demo.TARGET_LABEL)]
    names = {"teacher": "", "data": "--data", "test": "--test", "trigger.file": "--trigger"}
    for setting, path in demo.places(inputs).items():
        line += [names[setting], str(path)] if names[setting] else [str(path)]
    for setting in SETTINGS:
        line += ["-o", setting]
    return line


def start(line: list[str], fault: str = "") -> subprocess.Popen[bytes]:
    environment = {**os.environ, **ONE_THREAD, "EDGEKD_FAULT": fault}
    return subprocess.Popen(line, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def ended(process: subprocess.Popen[bytes]) -> int:
    """The exit code; what was said on standard error is raised where the command neither ended well nor was killed."""
    try:
        _, said = process.communicate()
    except BaseException:  # this table was stopped: nothing may go on in the folder of the next attempt
        process.kill()
        process.wait()
        raise
    if process.returncode not in (0, -signal.SIGKILL):
        raise RuntimeError(f"edgekd ended with {process.returncode}: {said.decode(errors='replace')[-500:]}")
    return process.returncode


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of everything that must not depend on whether a run was broken."""
    return {
        str(path.relative_to(folder)): files.sha256_file(path)
        for pattern in SAME
        for path in sorted(folder.glob(pattern))
    }


def where(folder: Path) -> str:
    """The stage that was under way when the last process ended."""
    with contextlib.suppress(OSError):
        lines = (folder / "run.log").read_text("utf-8", errors="replace").splitlines()
        if lines and lines[-1].endswith(" begins"):
            return lines[-1].split("stage ")[1].removesuffix(" begins")
        return "between stages"
    return "before the first stage"


def outcome(folder: Path, line: list[str], whole: dict[str, str], training: str, epoch: int | None) -> dict[str, Any]:
    """Give the command until it ends, then hold the folder against the unbroken run."""
    kept = sum(1 for _ in folder.glob("work/*/done.json"))
    runs = 1
    while ended(start(line)) != 0:
        runs += 1
    found, record = hashes(folder), files.read_json(folder / "run.json")
    different = sorted(name for name in whole.keys() | found.keys() if whole.get(name) != found.get(name))
    resumed = record["training"][training]["resumed_at"] if training else None
    return {
        "stages_kept": kept,
        "runs_after": runs,
        "different": different,
        "resumed_at": resumed,
        "resumed_at_expected": epoch,
        "leftovers": sorted(path.name for path in folder.rglob("*.part")),
        "met": not different and resumed == epoch and not list(folder.rglob("*.part")),
    }


def at_point(place: Path, inputs: Path, whole: dict[str, str], number: int) -> dict[str, Any]:
    """One kill at a named point."""
    stage, point, count, training, epoch = POINTS[number]
    line = words(inputs, place, timed=stage in TIMED)
    code = ended(start(line, f"{point}:{count}:kill"))
    row = {"stage": stage, "point": f"{point}:{count}", "reached": code == -signal.SIGKILL, "hit": where(place)}
    if code != -signal.SIGKILL:
        return {**row, "met": False}
    return {**row, **outcome(place, line, whole, training, epoch)}


def at_random(place: Path, inputs: Path, whole: dict[str, str], seconds: float, number: int) -> dict[str, Any]:
    """One kill at a time drawn from the length of the unbroken run; drawn earlier where the run was over by then."""
    share = random.Random(number).uniform(0.1, 0.95)
    while True:
        line = words(inputs, place, timed=False)
        process = start(line)
        try:
            time.sleep(share * seconds)
        finally:
            process.kill()
        if ended(process) == -signal.SIGKILL:
            break
        share *= 0.8
        shutil.rmtree(place)
    row = {"stage": "random", "point": f"{share:.0%} of the run", "reached": True, "hit": where(place)}
    return {**row, **outcome(place, line, whole, "", None)}


def unbroken(folder: Path, inputs: Path) -> tuple[dict[str, str], float]:
    """Hashes of a run that nobody broke, and the seconds it took."""
    if not (folder / "unbroken.json").exists():
        shutil.rmtree(folder / "unbroken", ignore_errors=True)
        started = time.monotonic()
        ended(start(words(inputs, folder / "unbroken", timed=False)))
        found = {"hashes": hashes(folder / "unbroken"), "seconds": time.monotonic() - started}
        files.write_json(folder / "unbroken.json", found)
    found = files.read_json(folder / "unbroken.json")
    return found["hashes"], found["seconds"]


def run(config: Config, folder: Path) -> dict[str, Any]:
    inputs = folder / "inputs"
    demo.prepare(inputs)
    whole, seconds = unbroken(folder, inputs)
    rows = []
    for number in range(len(POINTS) + config["random"]):
        kept, place = folder / f"row-{number}.json", folder / "run"
        if not kept.exists():
            shutil.rmtree(place, ignore_errors=True)
            if number < len(POINTS):
                row = at_point(place, inputs, whole, number)
            else:
                row = at_random(place, inputs, whole, seconds, number - len(POINTS))
            files.write_json(kept, row)
            print(f"{row['stage']:<30} {row['point']:<45} {'met' if row['met'] else row}", flush=True)
        rows.append(files.read_json(kept))
    return {
        "kills": len(rows),
        "met": sum(row["met"] for row in rows),
        "files_compared": sorted(whole),
        "rows": rows,
    }


def forecast(config: Config) -> float:
    return 0.4 * float(len(config["points"]) + config["random"])


if __name__ == "__main__":
    sys.exit(main(Table("kills", cells, run, forecast, resumable=True)))
