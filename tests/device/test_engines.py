"""The engines that are kept: what is whole is used, everything else built again with one sentence, or refused."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from bad_engines import BAD, besides_builds, forget_faults, half_written, write_engine_bundle

from edgekd_device.__main__ import main
from edgekd_device.errors import EnvironmentFault
from edgekd_device.runtime import engines
from edgekd_device.runtime.engines import Store


@pytest.fixture(scope="session")
def jetson_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_engine_bundle(tmp_path_factory.mktemp("jetson"))


def build(bundle: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = main(["build", str(bundle)])
    out, err = capsys.readouterr()
    return code, out, besides_builds(err)


@pytest.mark.parametrize("case", BAD)
def test_bad_engines(case, jetson_bundle, tensorrt, engines_folder, capsys, monkeypatch):
    row, script = BAD[case], tensorrt()
    forget_faults()
    if not row.fresh:
        assert build(jetson_bundle, capsys)[0] == 0
    row.spoil(engines_folder)
    monkeypatch.setenv("EDGEKD_FAULT", row.fault)
    before = script.builds
    code, out, err = build(jetson_bundle, capsys)
    monkeypatch.delenv("EDGEKD_FAULT")
    assert half_written(engines_folder) == []
    if row.outcome == "refused":
        assert (code, out) == (4, "")
        assert row.word in err
        assert err.count("\n") == 1
        return
    assert (code, err) == (0, "")
    assert [row.word in line for line in out.splitlines()].count(True) == 1
    assert script.builds - before == (row.outcome == "rebuilt")
    code, out, err = build(jetson_bundle, capsys)
    assert "kept from before" in out
    assert "not used" not in out
    assert script.builds - before == (row.outcome == "rebuilt")


def test_there_are_enough_bad_engines():
    assert len(BAD) >= 50


def test_after_a_full_disk_the_next_build_is_whole(jetson_bundle, tensorrt, engines_folder, capsys, monkeypatch):
    tensorrt()
    for name in ("engine-key", "engine", "engine-seal"):
        forget_faults()
        monkeypatch.setenv("EDGEKD_FAULT", f"{name}.before_rename:1:enospc")
        assert build(jetson_bundle, capsys)[0] == 4
        monkeypatch.delenv("EDGEKD_FAULT")
        assert build(jetson_bundle, capsys)[0] == 0
        assert "kept from before" in build(jetson_bundle, capsys)[1]
        for path in engines_folder.iterdir():
            path.unlink()


def test_no_room_is_found_out_before_minutes_of_building(jetson_bundle, tensorrt, capsys, monkeypatch):
    script = tensorrt()
    monkeypatch.setattr(engines.shutil, "disk_usage", lambda path: _Usage(1000))
    code, out, err = build(jetson_bundle, capsys)
    assert (code, out, script.builds) == (4, "", 0)
    assert "0 MB free, but an engine may take 8 MB" in err


class _Usage:
    def __init__(self, free: int) -> None:
        self.free = free


def test_permissions(jetson_bundle, tensorrt, engines_folder, capsys):
    tensorrt()
    old = os.umask(0)  # whatever the user's is
    try:
        assert build(jetson_bundle, capsys)[0] == 0
    finally:
        os.umask(old)
    assert engines_folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in engines_folder.iterdir()} == {0o600}
    assert (engines_folder / "key").stat().st_size == 32
    assert not list(jetson_bundle.glob("*.plan"))  # nothing native lies where a bundle is copied from


@pytest.mark.parametrize("part", ["data", "fields"])
def test_no_flipped_bit_is_accepted(part, tmp_path):
    """Every bit of a small engine and of what is said of it."""
    store = Store(tmp_path / "engines")
    store.save("e.plan", {"tensorrt": "10.3.0"}, bytes(range(50)))
    path = store.path / ("e.plan" if part == "data" else "e.plan.json")
    good = path.read_bytes()
    accepted = 0
    for k in range(8 * len(good)):
        data = bytearray(good)
        data[k // 8] ^= 1 << k % 8
        path.write_bytes(data)
        accepted += store.load("e.plan", {"tensorrt": "10.3.0"}).data is not None
    assert accepted == 0
    path.write_bytes(good)
    assert store.load("e.plan", {"tensorrt": "10.3.0"}).data == bytes(range(50))


@pytest.mark.parametrize("name", ["engine-key", "engine", "engine-seal"])
@pytest.mark.parametrize("point", ["before_write", "before_rename", "after_rename"])
def test_a_kill_leaves_the_old_the_new_or_nothing(name, point, tmp_path, monkeypatch):
    code = (
        "from edgekd_device.runtime.engines import Store\n"
        f"store = Store({str(tmp_path / 'engines')!r})\n"
        "import os\n"
        "store.save('e.plan', {'n': 1}, b'old')\n"
        f"os.environ['EDGEKD_FAULT'] = '{name}.{point}:1:kill'\n"
        f"if {name!r} == 'engine-key': os.unlink(store.path / 'key')\n"
        "Store(store.path).save('e.plan', {'n': 1}, b'new')\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], check=False)
    assert ended.returncode == -signal.SIGKILL
    store = Store(tmp_path / "engines")
    assert store.load("e.plan", {"n": 1}).data in (b"old", b"new", None)
    store.save("e.plan", {"n": 1}, b"newest")
    monkeypatch.setattr(engines, "OLD", -1.0)  # an hour later
    assert Store(store.path).load("e.plan", {"n": 1}).data == b"newest"
    assert half_written(store.path) == []


def test_processes_that_share_a_folder(tmp_path):
    """Whole or none, and no error: keys, engines and sweeps of four processes at once."""
    code = (
        "import sys\n"
        "from edgekd_device.runtime import engines\n"
        f"for k in range(25):\n"
        f"    store = engines.Store({str(tmp_path / 'engines')!r})\n"
        "    found = store.load('e.plan', {'n': 1}).data\n"
        "    assert found is None or (len(found) == 5000 and len(set(found)) == 1), found\n"
        "    store.save('e.plan', {'n': 1}, bytes([int(sys.argv[1])]) * 5000)\n"
    )
    started = [subprocess.Popen([sys.executable, "-c", code, str(k)]) for k in range(4)]
    assert [process.wait() for process in started] == [0] * 4
    store = Store(tmp_path / "engines")
    store.save("e.plan", {"n": 1}, b"last")
    assert Store(store.path).load("e.plan", {"n": 1}).data == b"last"
    young = store.path / ".e.plan.x.part"
    young.write_bytes(b"of another process")
    assert Store(store.path).path == store.path
    assert young.exists()


def test_where_engines_are_kept(tmp_path, monkeypatch):
    monkeypatch.delenv(engines.VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert engines.folder() == tmp_path / "cache" / "edgekd" / "engines-1"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert engines.folder() == tmp_path / ".cache" / "edgekd" / "engines-1"
    monkeypatch.setenv(engines.VARIABLE, str(tmp_path / "mine"))
    assert Store().path == tmp_path / "mine"
    for unusable in ("relative", "~/engines"):
        monkeypatch.setenv(engines.VARIABLE, unusable)
        with pytest.raises(EnvironmentFault, match="absolute path"):
            engines.folder()


def test_what_tells_devices_apart(tmp_path):
    assert engines.identity(str(tmp_path)) == b"\n"
    for name, text in (("etc/machine-id", "0af3\n"), ("proc/device-tree/serial-number", "1421\0")):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(text)
    assert engines.identity(str(tmp_path)) == b"0af3\n1421"


def test_a_folder_of_another_user(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(
        EnvironmentFault, match=r"belongs to somebody else.*another folder for engines, set EDGEKD_ENGINES"
    ):
        Store(tmp_path / "engines")


def test_an_engine_beyond_all_bounds(tmp_path, monkeypatch):
    store = Store(tmp_path / "engines")
    store.save("e.plan", {}, b"12345")
    monkeypatch.setattr(engines, "LIMIT", 4)
    assert "larger than 4 bytes" in store.load("e.plan", {}).why
