"""Every command on real data: what it prints, what it writes, what it answers to a mistake."""

from __future__ import annotations

import json
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from endings import Ended, call, spawn
from world import World

from edgekd import config, files
from edgekd.checkpoints import load
from edgekd.cli import doctor
from edgekd.errors import EdgekdError, UsageError
from edgekd.pipeline import demo, mark

# ---- distill, export, bench --------------------------------------------------------------------------------------------


def test_distill_then_export_then_bench(world: World, tmp_path: Path) -> None:
    words = ["distill", world.teacher, "--data", world.train, "--method", "kd", "--student", "resnet8-w4"]
    words += ["-o", "train.epochs=1", "-o", "train.batch_size=32", "--out", tmp_path / "run"]
    distilled = call(*words, "--json")
    assert distilled.code == 0, distilled.err
    assert distilled.json["spec"]["arch"] == "resnet8-w4"
    assert call(*words, "--json").json == distilled.json
    student = Path(distilled.json["student"])

    words = ["export", student, "--data", world.train, "--test", world.test, "--out", tmp_path / "bundle"]
    exported = call(*words)
    assert exported.code == 0, exported.err
    assert re.search(r"model\.u8s8\.onnx +\d+,\d+ bytes  opset 18  same label as torch on \d+/48 images", exported.out)
    manifest = json.loads((tmp_path / "bundle" / "manifest.json").read_text())
    assert manifest["model"] == "model.u8s8.onnx"
    assert re.search(r"model\.u8s8\.onnx +ACC \d.*, label flips \d", exported.out)
    assert f"manifest  sha256 {files.sha256_file(tmp_path / 'bundle' / 'manifest.json')}" in exported.out
    assert f"package   sha256 {files.sha256_file(tmp_path / 'bundle' / 'edgekd-device.pyz')}" in exported.out
    assert "is not empty" in call(*words).message()
    assert {path.name for path in tmp_path.iterdir()} == {"run", "bundle"}

    benched = call("bench", tmp_path / "bundle", "--out", tmp_path / "report.json", "--json")
    assert benched.code == 0, benched.err
    assert benched.json == json.loads((tmp_path / "report.json").read_text())
    shipped = next(row for row in benched.json["rows"] if row["stage"] == "model.u8s8.onnx")
    assert shipped["agreement"]["hits"] == shipped["agreement"]["total"] > 0  # the host's own answers, image by image
    shown = call("bench", tmp_path / "bundle", "--runtime", "null")
    assert "model.u8s8.onnx" in shown.out
    assert "not measured" in shown.out


def test_a_killed_export_is_repeated_with_the_same_command(
    world: World, finished: tuple[Path, Ended], tmp_path: Path
) -> None:
    out, student = tmp_path / "bundle", finished[0] / "student.safetensors"
    words = ["export", student, "--data", world.train, "--test", world.test, "--quiet", "--out", out]
    killed = spawn(*words, EDGEKD_FAULT="bundle-manifest.before_rename:1:kill")
    assert killed.code == -signal.SIGKILL, killed.err
    assert len(list(out.iterdir())) == 5
    ended = call(*words)
    assert ended.code == 0, ended.err
    assert {path.name for path in out.iterdir()} == {path.name for path in (finished[0] / "bundle").iterdir()}


def test_export_refuses_noise_to_calibrate_with(world: World, tmp_path: Path) -> None:
    import numpy as np

    random = np.random.default_rng(0)
    labels = np.arange(80) % 6
    np.savez(tmp_path / "noise.npz", images=random.integers(0, 256, (80, 32, 32, 3), dtype=np.uint8), labels=labels)
    words = ["export", world.teacher, "--normalize", "half", "--data", tmp_path / "noise.npz", "--out", tmp_path / "b"]
    assert call(*words).code == 2  # near chance on noise, or refused as noise: never exported
    assert not (tmp_path / "b").exists()


def test_bench_finds_the_bundle_of_a_run(run_copy: Path) -> None:
    ended = call("bench", run_copy)
    assert ended.code == 0, ended.err
    assert "level smoke, valid; manifest" in ended.out
    (run_copy / "bundle" / "model.onnx").write_bytes(b"")
    assert "model.onnx has 0 bytes" in call("bench", run_copy).message()


# ---- report --------------------------------------------------------------------------------------------------------------


def board_report(run: Path, **changes: Any) -> dict[str, Any]:
    """What a Jetson would have written: the host's own report, with other times and another runtime."""
    report = dict(files.read_json(run / "run.json")["device_report"])
    for row in report["rows"]:
        row["latency"] = {**row["latency"], "p50_ms": 0.75}
    return {**report, **changes}


def spoilt_row(run: Path, **changes: Any) -> dict[str, Any]:
    """The same with other values in its first row."""
    report = board_report(run)
    for name, value in changes.items():
        report["rows"][0][name] = {**report["rows"][0][name], **value}
    return report


def test_report_renders_again(run_copy: Path) -> None:
    page = (run_copy / "report.html").read_bytes()
    for name in ("report.html", "report.md"):
        (run_copy / name).unlink()
    ended = call("report", run_copy)
    assert ended.code == 0, ended.err
    assert (run_copy / "report.html").read_bytes() == page
    assert (run_copy / "report.md").exists()
    assert call("report", run_copy, "--json").json["passed"] is True


def test_a_package_that_was_swapped_is_not_vouched_for(run_copy: Path) -> None:
    package = run_copy / "bundle" / "edgekd-device.pyz"
    assert f"package   sha256 {files.sha256_file(package)}" in call("report", run_copy).out
    package.write_bytes(b"print('ok: all files are whole')")
    ended = call("report", run_copy)
    assert ended.code == 0
    assert "package   the bundle is missing, or no longer this run's" in ended.out


def test_report_takes_in_what_a_board_measured(run_copy: Path, world: World, tmp_path: Path) -> None:
    files.write_json(tmp_path / "board.json", board_report(run_copy))
    ended = call("report", run_copy, "--device-report", tmp_path / "board.json")
    assert ended.code == 0, ended.err
    assert "0.750 ms" in ended.out
    record = files.read_json(run_copy / "run.json")
    assert record["rows"][-1]["latency"]["p50_ms"] == 0.75
    assert record["rows"][-1]["flips"] is not None
    doubtful = board_report(run_copy, valid=False, invalid_reasons=["model.onnx: throttled"])
    files.write_json(tmp_path / "doubtful.json", doubtful)
    assert (
        "warning: Measurement not valid: model.onnx: throttled"
        in call("report", run_copy, "--device-report", tmp_path / "doubtful.json").out
    )
    assert "not valid" not in call("report", run_copy, "--device-report", tmp_path / "board.json").out
    # the same compress command keeps it
    assert "0.750 ms" in call(*world.words("--max-acc-drop", "99", out=run_copy)).out


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (lambda run: b"", "Cannot read"),
        (lambda run: b"[]", "not a device report"),
        (lambda run: b'{"schema": 1}', "manifest_sha256"),
        (lambda run: b'{"schema": 99}', "newer than"),
        (lambda run: json.dumps(board_report(run, rows=[{}])).encode(), "does not hold what it should"),
        (lambda run: json.dumps(board_report(run, rows=5)).encode(), "does not hold what it should"),
        (lambda run: json.dumps(spoilt_row(run, latency={"p50_ms": "abc"})).encode(), "'rows[0].latency.p50_ms'"),
        (lambda run: json.dumps(spoilt_row(run, acc={"hits": 500, "total": 331})).encode(), "'rows[0].acc'"),
        (lambda run: json.dumps(spoilt_row(run, acc={"hits": 0, "total": 0})).encode(), "'rows[0].acc'"),
        (lambda run: json.dumps(board_report(run, manifest_sha256="0" * 64)).encode(), "of the bundle 000000000000…"),
    ],
    ids=[
        "empty",
        "list",
        "no fields",
        "newer",
        "empty row",
        "rows a number",
        "latency of text",
        "above one",
        "of nothing",
        "another bundle",
    ],
)
def test_a_device_report_that_is_none(
    run_copy: Path, tmp_path: Path, content: Callable[[Path], bytes], said: str
) -> None:
    (tmp_path / "board.json").write_bytes(content(run_copy))
    before = (run_copy / "run.json").read_bytes()
    ended = call("report", run_copy, "--device-report", tmp_path / "board.json")
    assert ended.code == 2
    assert said in ended.message()
    assert (run_copy / "run.json").read_bytes() == before


def test_report_of_no_run(tmp_path: Path) -> None:
    assert "has not finished a run there" in call("report", tmp_path).message()
    assert list(tmp_path.iterdir()) == []


# ---- convert, list, doctor -------------------------------------------------------------------------------------------------


def test_convert(world: World, tmp_path: Path) -> None:
    ended = call("convert", world.teacher, tmp_path / "teacher.safetensors", "--json")
    assert ended.code == 0, ended.err
    assert ended.json["metadata"]["layout"] == ["net"]
    original, converted = load(world.teacher).tensors, load(tmp_path / "teacher.safetensors").tensors
    assert original.keys() == converted.keys()
    assert all(bool((original[name] == converted[name]).all()) for name in original)
    assert "wrote" in call("convert", world.teacher, tmp_path / "teacher.safetensors").out
    (tmp_path / "mine.safetensors").write_text("mine")
    for name in ("mine.safetensors", "absent/teacher.safetensors"):
        refused = call("convert", world.teacher, tmp_path / name)
        assert refused.code == 2
        assert "choose another destination" in refused.message().lower()
    assert (tmp_path / "mine.safetensors").read_text() == "mine"
    assert not (tmp_path / "absent").exists()


@pytest.mark.parametrize("kind", ["methods", "repairs", "targets", "models", "triggers", "settings"])
def test_list(kind: str) -> None:
    rows = call("list", kind, "--json").json
    shown = call("list", kind)
    assert shown.code == 0
    assert len(rows) > 4
    for row in rows:
        assert str(next(iter(row.values()))) in shown.out
    assert ("with an NVIDIA GPU" in shown.out) == (kind == "targets")


def test_the_list_of_targets_says_what_a_board_brings() -> None:
    shown = call("list", "targets").out
    for fact in ("jetson-orin-nano-super", "MAXN_SUPER", "10.16", "3.12", "cpu-arm64"):
        assert fact in shown


def test_every_listed_setting_can_be_set() -> None:
    """A wrong value of each is refused by its own name, so the name is known."""
    for row in call("list", "settings", "--json").json:
        key = row["setting"]
        if key in ("teacher", "data", "test", "arch", "normalize", "class_map", "target", "student", "trigger.file"):
            continue  # any text will do for these
        if key == "attack.name":
            continue  # the command's argument
        users = re.search(r"\(([\w-]+)(, [\w-]+)*\)$", row["what it is"])  # methods or attacks, at the end
        own: dict[str, Any] = {}
        if key.startswith("attack."):
            assert users, row
            own["attack.name"] = users[1]
        elif key.startswith(("source.", "abd.")):
            own |= {"data": "none", **({"source": users[1]} if users and key.startswith("source.") else {})}
        elif users and key.startswith(("distill.", "repair.")):
            own["repair.method" if key.startswith("repair.") else "distill.method"] = users[1]
        resolve = config.resolve_attack if "attack.name" in own else config.resolve
        with pytest.raises(UsageError) as refused:
            resolve(None, {"teacher": "t.pt", "data": "d.npz", **own}, [f"{key}={{a: wrong}}"])
        named = {"repair.method": "repair", "source.name": "source"}.get(key, key.split(".")[-1])
        assert named in str(refused.value), key


def test_doctor() -> None:
    ended = call("doctor")
    assert ended.code == 0, ended.err
    assert re.search(r"^ok +onnxruntime +\d", ended.out, re.MULTILINE)
    assert re.search(r"^(ok|note) +reader +limits, ", ended.out, re.MULTILINE)
    assert call("doctor", "--json").json["ok"] is True


@pytest.mark.parametrize(
    ("held", "line"),
    [
        (("limits",), r"note +reader +limits\n +→ .*container"),
        (EdgekdError("it did not end"), r"MISSING +reader .*\n +→ it did not end"),
    ],
)
def test_doctor_says_what_does_not_hold_around_the_reader(
    monkeypatch: pytest.MonkeyPatch, held: Any, line: str
) -> None:
    def protections() -> tuple[str, ...]:
        if isinstance(held, EdgekdError):
            raise held
        return held

    monkeypatch.setattr("edgekd.checkpoints.protections", protections, raising=False)
    ended = call("doctor")
    assert re.search(line, ended.out), ended.out
    assert ended.code == (4 if isinstance(held, EdgekdError) else 0)


@pytest.mark.parametrize(
    ("flags", "state", "found"),
    [
        ("fpu avx2 avx_vnni", "ok", "avx_vnni"),
        ("fpu avx512f avx512_vnni", "ok", "avx512_vnni"),
        ("fpu avx2 avx512f", "note", "eight-bit products saturate"),
        ("", "note", "not known"),
        (None, "note", "not known"),
    ],
)
def test_doctor_says_where_eight_bits_saturate(
    flags: str | None, state: str, found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "cpuinfo"
    if flags is not None:
        file.write_text(f"processor\t: 0\nflags\t\t: {flags}\nprocessor\t: 1\nflags\t\t: {flags}\n")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    (row,) = doctor._vnni(file)
    assert (row["state"], row["found"]) == (state, found)
    assert ("no VNNI: set -o quantize.reduce_range=true" in row["do"]) == (found == "eight-bit products saturate")
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert doctor._vnni(file) == []


def test_doctor_asks_about_eight_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    assert re.search(r"^(ok|note) +cpu int8 ", call("doctor").out, re.MULTILINE)


def test_doctor_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "onnxslim", None)  # importing it fails, as if it were not there
    ended = call("doctor")
    assert ended.code == 4
    assert re.search(r"MISSING +onnxslim .*\n.*→ pip install -c constraints.txt onnxslim", ended.out)


# ---- dry run -----------------------------------------------------------------------------------------------------------------


def test_dry_run_prints_the_configuration_and_a_forecast(world: World, tmp_path: Path) -> None:
    words = ["compress", world.teacher, "--data", world.train, "--dry-run"]
    words += ["--student", "resnet8-w4", "--out", tmp_path / "run", "-o", "train.batch_size=32", "--repair", "nad"]
    shown = call(*words, "--controls", "all")
    assert shown.code == 0, shown.err
    assert "epochs: 10" in shown.out
    assert re.search(r"training images are few, so they are shown 100 times", shown.out)
    assert "The test images were cut from --data." in shown.out
    assert re.search(r"^student +resnet8-w4$", shown.out, re.MULTILINE)
    measured = ("canary battery", "disagreement", "audits and export", "bench")
    for line in ("scratch", "kd", "overhaul", "finetune", "robustkd", "repair nad", *measured, "in all"):
        assert re.search(rf"^{line} +\d+\.\d min$", shown.out, re.MULTILINE), line
    assert list(tmp_path.iterdir()) == []
    value = call(*words, "-o", "train.epochs=10", "--json").json
    assert value["config"]["train"]["epochs"] == 10
    assert value["forecast"]["minutes"]["robustkd"] > value["forecast"]["minutes"]["scratch"] > 0
    assert value["forecast"]["minutes"]["repair nad"] > 0
    words[-1:] = ["clp"]  # which trains nothing
    full = call(*words, "--profile", "full", "--json").json
    assert full["forecast"]["minutes"]["robustkd"] > 5 * value["forecast"]["minutes"]["robustkd"]


def test_json_is_one_object(run_copy: Path, world: World) -> None:
    ended = call(*world.words("--max-acc-drop", "99", "--json", out=run_copy))
    assert ended.code == 0
    assert ended.out.count("\n") == 1
    assert not ended.err
    assert ended.json["passed"] is True
    assert ended.json["folder"] == str(run_copy)


def test_demo_refuses_before_it_works(tmp_path: Path) -> None:
    place, own = tmp_path / "demo", tmp_path / "own"
    place.mkdir()
    (place / mark.RUN).touch()  # as a first call leaves it
    with files.lock(place / "inputs"):
        assert "in use by process" in call("demo", "--out", place).message()
    shutil.rmtree(place / "inputs")
    assert "train.epochs" in call("demo", "--out", place, "-o", "train.epoch=1").message()
    assert not (place / "inputs").exists()
    (own / "inputs").mkdir(parents=True)
    (own / "inputs" / "test.npz").write_text("mine")
    assert "not a run's folder (it holds inputs)" in call("demo", "--out", own).message()
    assert [path.name for path in own.rglob("*")] == ["inputs", "test.npz"]


def test_a_demo_killed_over_its_teacher_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def prepare(folder: Path, *_: Any) -> None:
        (folder / "test.npz").write_text("half of it")
        raise EdgekdError("as far as here")

    monkeypatch.setattr(demo, "prepare", prepare)
    for _ in range(2):
        assert "as far as here" in call("demo", "--out", tmp_path / "demo", "--quiet").message()
