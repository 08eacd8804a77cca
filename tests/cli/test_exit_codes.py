"""Every exit code, each met by what it is for, and what the user is told."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from endings import Ended, call, command, spawn
from world import World

from edgekd import config
from edgekd_device import files as device_files


def test_0_ok() -> None:
    ended = call("--version")
    assert ended.code == 0
    assert ended.out.startswith("edgekd ")
    assert not ended.err


def test_1_a_gate_failed(run_copy: Path, world: World) -> None:
    ended = call(*world.words("--max-latency-ms", "0.0000001", "--max-asr", "100", out=run_copy))
    assert ended.code == 1
    assert "gate: ASR above floor ≤ 100 %: passed" in ended.out
    assert "gate: latency p50 ≤ 1e-07 ms: FAILED, " in ended.out
    assert call("report", run_copy).code == 1  # the gates are the run's


def test_1_a_gate_over_what_was_not_measured_fails_and_says_so(run_copy: Path, world: World) -> None:
    """The host cannot run what ships to a Jetson: its latency there is not known."""
    (run_copy / "config.yaml").write_text(
        (run_copy / "config.yaml").read_text().replace("target: cpu", "target: jetson")
    )
    ended = call(*world.words("--target", "jetson", "--max-latency-ms", "5", "--bench", "none", out=run_copy))
    assert ended.code == 1
    assert "FAILED, model.qdq.onnx was not measured by tensorrt; run the bundle on the board" in ended.out
    assert "--target jetson means jetson-orin-nano: Jetson Orin Nano, JetPack" in ended.err
    assert "model.qdq.onnx has not run on its target yet." in ended.out
    assert {path.name for path in (run_copy / "bundle").iterdir()} >= {"model.qdq.onnx", "model.qdq.fp16.onnx"}
    assert call("compress", "--help").code == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["compres"], "Did you mean 'compress'? See `edgekd --help`."),
        (["--vers"], "--version"),
        (["compress", "--datta", "x"], "See `edgekd compress --help`."),
        (["compress", "--seed", "many"], "'--seed'"),
        (["compress", "--seed"], "requires an argument"),
        (["bench"], "BUNDLE"),
        (["list", "colours"], "is not one of 'methods'"),
        (["compress"], "No teacher was given"),
        (["compress", "teacher.pt"], "No data was given"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_2_usage(words: list[str], said: str) -> None:
    ended = call(*words)
    assert ended.code == 2
    assert said in ended.message()


def test_2_nothing_at_all_shows_the_help() -> None:
    ended = call()
    assert ended.code == 2
    assert "compress" in ended.out
    assert not ended.err


def test_3_unsafe_input(short: Callable[..., list[str]], tmp_path: Path) -> None:
    import pickle

    class Calls:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {tmp_path / 'canary'}",)

    (tmp_path / "teacher.pt").write_bytes(pickle.dumps({"weight": Calls()}))
    ended = call(*short("--out", tmp_path / "run", teacher=tmp_path / "teacher.pt"))
    assert ended.code == 3
    assert "teacher.pt" in ended.message()
    assert {path.name for path in tmp_path.iterdir()} == {"teacher.pt"}


def test_3_code_is_named_by_the_user_alone(run_copy: Path, world: World, tmp_path: Path) -> None:
    from edgekd.files import read_json, write_json

    sidecar = read_json(run_copy / "student.safetensors.json")
    sidecar["metadata"]["spec"]["arch"] = "antigravity:fly"
    write_json(run_copy / "student.safetensors.json", sidecar)
    words = ["export", run_copy / "student.safetensors", "--data", world.train, "--out", tmp_path / "bundle"]
    ended = call(*words)
    assert ended.code == 3
    assert "--arch antigravity:fly" in ended.message()
    assert not (tmp_path / "bundle").exists()


def test_4_environment(short: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("not a folder")
    assert "as a folder" in call(*short("--out", tmp_path / "file" / "run")).message()
    assert call(*short("--out", tmp_path / "file")).code == 4
    monkeypatch.setattr(device_files, "_reached", {})
    monkeypatch.setenv("EDGEKD_FAULT", "config.before_write:1:enospc")
    full = call(*short("--out", tmp_path / "run"))
    assert full.code == 4
    assert "No space left on device. Free some space" in full.message()
    monkeypatch.setenv("EDGEKD_FAULT", "log.before_append:99:enospc")  # other points are not concerned
    assert call("list", "targets").code == 0


@pytest.mark.parametrize(
    ("point", "fault"),
    [("run.before_rename", "enospc"), ("report.html.before_write", "eio"), ("metrics.before_write", "enospc")],
)
def test_4_a_disk_that_fails_leaves_what_was_there(
    run_copy: Path, world: World, monkeypatch: pytest.MonkeyPatch, point: str, fault: str
) -> None:
    monkeypatch.setattr(device_files, "_reached", {})
    words, before = world.words("--max-acc-drop", "99", out=run_copy), (run_copy / "report.html").read_bytes()
    monkeypatch.setenv("EDGEKD_FAULT", f"{point}:1:{fault}")
    failed = call(*words)
    assert failed.code == 4
    assert "what was there before is unchanged" in failed.message()
    assert (run_copy / "report.html").read_bytes() == before
    assert not list(run_copy.rglob("*.part"))
    monkeypatch.delenv("EDGEKD_FAULT")
    assert call(*words).code == 0


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_4_a_folder_that_is_not_ours_to_write(short: Callable[..., list[str]], tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    ended = call(*short("--out", tmp_path / "run"))
    tmp_path.chmod(0o700)
    assert ended.code == 4
    assert "Permission denied" in ended.message()


def test_5_internal_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("a mistake of ours")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(config, "resolve", broken)
    ended = call("compress", tmp_path / "secret" / "teacher.pt", "--data", "images")
    assert ended.code == 5
    assert "edgekd-error.txt" in ended.message()
    text = (tmp_path / "edgekd-error.txt").read_text()
    assert "ZeroDivisionError: a mistake of ours" in text
    assert "command: compress teacher.pt --data images" in text


def interrupted(words: list[str], folder: Path, number: signal.Signals) -> Ended:
    """The command, sent a signal as soon as its first epoch is done."""
    # a test run that was started in the background ignores SIGINT, and so would its children
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(command(*words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 120
        while not list(folder.glob("work/train-*/metrics.jsonl")) and process.poll() is None:
            assert time.monotonic() < deadline, "the first epoch never came"
            time.sleep(0.02)
        process.send_signal(number)
        out, err = process.communicate(timeout=180)
    return Ended(process.returncode, out, err)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_130_and_143_a_signal_and_then_the_same_command(
    world: World, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    words = ["distill", str(world.teacher), "--data", str(world.train), "--method", "kd", "--student", "resnet8-w4"]
    words += ["-o", "train.epochs=200", "-o", "train.batch_size=32", "--out", str(tmp_path / "run")]
    ended = interrupted(words, tmp_path / "run", number)
    assert ended.code == code
    assert "Run the same command again to continue where it stopped." in ended.message()
    kept = len((tmp_path / "run" / "metrics.jsonl").read_text()) if (tmp_path / "run" / "metrics.jsonl").exists() else 0
    assert kept == 0  # written when a training is finished
    assert list((tmp_path / "run").glob("work/train-kd/checkpoint-*.safetensors"))


def test_what_a_file_says_cannot_write_to_the_terminal(short: Callable[..., list[str]], tmp_path: Path) -> None:
    ended = call(*short("--out", tmp_path / "run", teacher=tmp_path / "\x1b[31mred\x07.pt"))
    assert ended.code == 2
    assert "\x1b" not in ended.err
    assert "\x07" not in ended.err


def test_a_reader_that_goes_away_is_no_error() -> None:
    with subprocess.Popen(command("list", "settings"), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert not process.stderr.read()
    assert process.returncode == 0


def test_a_terminal_without_our_characters_gets_its_answer(run_copy: Path) -> None:
    ended = spawn("report", run_copy, PYTHONIOENCODING="ascii")
    assert ended.code == 0, ended.err
    assert "gate: ACC drop ? 99 points: passed" in ended.out


def test_warnings_as_errors_are_no_trouble() -> None:
    ended = spawn("list", "targets", PYTHONWARNINGS="error")
    assert ended.code == 0
    assert not ended.err
