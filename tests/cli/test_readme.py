"""What README.md says is true: its options exist, its Python runs, its folder is the one that is written."""

from __future__ import annotations

import contextlib
import io
import re
import shutil
from pathlib import Path

import pytest
from endings import call
from test_help import COMMANDS, EVERY, device_options, options
from world import World

from edgekd import config

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text("utf-8")
PAGES = sorted(
    page
    for pattern in ("*.md", "docs/*.md", "deploy/*.md", "benchmarks/*.md", "benchmarks/pages/*.md")
    for page in ROOT.glob(pattern)
)
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_every_option_exists() -> None:
    named = set(re.findall(r"(?<![\w<-])--[a-z][a-z0-9-]+", README))
    assert named
    assert named <= EVERY | device_options(), named - EVERY - device_options()


def test_every_command_line_is_one() -> None:
    lines = re.findall(r"^ +(?:edgekd|`edgekd) ([a-z]+)(.*)$", README, re.MULTILINE)
    assert lines
    for name, rest in [*lines, *re.findall(r"`edgekd ([a-z]+)([^`]*)`", README)]:
        assert name in COMMANDS, name
        assert set(re.findall(r"--[a-z][a-z0-9-]+", rest)) <= options(COMMANDS[name])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for place, anchor in re.findall(r"\]\(([^)#\s]*)#?([^)\s]*)\)", page.read_text("utf-8")):
        if place.startswith("http"):
            continue
        target = page.parent / place if place else page
        assert target.exists(), place
        headings = re.findall(r"^#+ (.*)$", target.read_text("utf-8"), re.MULTILINE) if anchor else []
        assert not anchor or anchor in {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}, anchor


def test_the_commands_and_exit_codes_are_all_there() -> None:
    assert all(f"`{name}`" in README or f" {name}\n" in README or f"edgekd {name}" in README for name in COMMANDS)
    assert "0 ok · 1 a gate failed · 2 usage or bad input · 3 unsafe input refused · 4 environment" in README


def test_the_python_examples_run(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    example = re.search(r"<!-- example -->\n```python\n(.*?)```\n<!-- /example -->", README, re.DOTALL)
    assert example
    assert BLOCKS[0] == example[1]
    monkeypatch.chdir(tmp_path)
    shutil.copy(world.teacher, "teacher.pt")
    shutil.copy(world.train, "train.npz")
    shutil.copy(world.test, "test.npz")
    Image.new("RGB", (40, 30), (200, 120, 30)).save("cat.png")
    short = {"train": {"epochs": 1, "batch_size": 64}, "robustkd": {"detox_steps": 2, "guard_every": 2}}
    monkeypatch.setitem(config.PROFILES, "fast", short)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        for block in BLOCKS:
            exec(compile(block, "README.md", "exec"), {})  # noqa: S102  # it is what we tell others to run
    verdict, *rows, label = printed.getvalue().strip().splitlines()
    assert verdict.startswith("The student that ships (model.u8s8.onnx) has ACC ")
    assert rows[0].startswith("teacher 100.0% [")
    assert re.fullmatch(r"label [0-5]", label)
    # and the run folder is as drawn
    drawn = re.search(r"runs/<name>/(.*?)\n\n", README, re.DOTALL)
    assert drawn
    for name in re.findall(r"[\w./*-]+\.\w+|bundle/", drawn[1]):
        assert list(Path("runs/mine").glob(name.strip("/"))) or list(Path("runs/mine/bundle").glob(name)), name
    assert call("report", "runs/mine").code == 0
