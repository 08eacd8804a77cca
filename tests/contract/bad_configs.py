"""Bad settings, one row each: the words of the command line that hold them, the exit code, a word of the message."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

Maker = Callable[[Path], list[str]]


class Row(NamedTuple):
    name: str
    make: Maker  # folder -> words behind `edgekd compress TEACHER --data DATA`
    exit_code: int
    word: str


def settings(text: str | bytes, option: str = "-c") -> Maker:
    """A maker that writes the text to a file and names it with ``option``."""

    def make(folder: Path) -> list[str]:
        path = folder / "settings.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return [option, str(path)]

    return make


def words(*given: str) -> Maker:
    return lambda folder: list(given)


def class_map(text: str) -> Maker:
    return settings(text, "--class-map")


def _folder(folder: Path) -> list[str]:
    (folder / "settings.yaml").mkdir()
    return ["-c", str(folder / "settings.yaml")]


def _pipe(folder: Path) -> list[str]:
    os.mkfifo(folder / "settings.yaml")
    return ["-c", str(folder / "settings.yaml")]


def _claimed(text: str) -> Maker:
    """A run folder whose stored configuration is this."""

    def make(folder: Path) -> list[str]:
        (folder / "run").mkdir()
        (folder / "run" / "config.yaml").write_text(text)
        return []

    return make


def inputs(folder: Path) -> list[str]:
    """What stands before the bad part: a teacher and data that are read later than every setting."""
    (folder / "teacher.pt").write_bytes(b"never read")
    images = np.random.default_rng(0).integers(0, 255, (40, 8, 8, 3), dtype=np.uint8)
    np.savez(folder / "data.npz", images=images, labels=np.arange(40) % 4, class_names=np.array(["a", "b", "c", "d"]))
    return ["compress", str(folder / "teacher.pt"), "--data", str(folder / "data.npz"), "--out", str(folder / "run")]


_BOMB = "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\ntrain: *c\n"

ROWS = (
    Row("file that is not there", words("-c", "absent.yaml"), 2, "absent.yaml: No such file"),
    Row("folder instead of a file", _folder, 2, "is not a file"),
    Row("pipe instead of a file", _pipe, 2, "is not a file"),
    Row("not YAML", settings("train: {epochs: 3"), 2, "is not YAML"),
    Row("not text", settings(b"\xff\xfe\x00\x01"), 2, "is not YAML"),
    Row("list at the top", settings("- epochs\n- 3\n"), 2, "`key: value` lines"),
    Row("number at the top", settings("3\n"), 2, "`key: value` lines"),
    Row("number as a key", settings("3: epochs\n"), 2, "`key: value` lines"),
    Row("key twice", settings("seed: 1\nseed: 2\n"), 2, "a key appears twice"),
    Row("aliases", settings(_BOMB), 2, "aliases"),
    Row("object of Python", settings("teacher: !!python/object/apply:os.getcwd []\n"), 2, "is not YAML"),
    Row("number of base 60, long", settings("seed: 1" + ":1" * 50_000), 2, "a number has 100001 characters"),
    Row("number too long to be printed", settings("seed: 0x" + "f" * 5000), 2, "a number has 5002 characters"),
    Row("code of a stranger", settings("student: antigravity:fly\n"), 3, "names code"),
    Row("deep nesting", settings("a: " + "[" * 20_000), 2, "nested too deeply"),
    Row("larger than a megabyte", settings("# " + "x" * (1 << 20)), 2, "larger than 1 MiB"),
    Row("variable of the environment", settings("student: ${oc.env:HOME}\n"), 2, "cannot use variables"),
    Row("variable of another key", words("-o", "train.lr=${seed}"), 2, "cannot use variables"),
    Row("misspelt section", settings("trian:\n  epochs: 3\n"), 2, "did you mean 'train'"),
    Row("misspelt key", words("-o", "train.epoch=3"), 2, "did you mean 'train.epochs'"),
    Row("misspelt setting of the method", words("-o", "distill.taus=0.1"), 2, "did you mean 'distill.tau'"),
    Row("setting of another method", words("-o", "distill.agree=false"), 2, "is a setting of kdiga, robustkd-plus"),
    Row("method that is none", words("--method", "robustdk"), 2, "Did you mean 'robustkd'"),
    Row("method that is a list", words("-o", "distill.method=[kd]"), 2, "There is no method"),
    Row("contradictory settings", words("-o", "distill.variance_mode=sample"), 2, "variance_mode"),
    Row("profile that is none", words("--profile", "slow"), 2, "There is no profile"),
    Row("profile that is a list", words("-o", "profile=[fast]"), 2, "There is no profile"),
    Row("target that is none", words("--target", "jetson-orin"), 2, "Did you mean 'jetson-orin"),
    Row("control that is none", words("--controls", "kd,magic"), 2, "controls.1 = 'magic'"),
    Row("word for a number", words("-o", "train.epochs=many"), 2, "train.epochs = 'many'"),
    Row("fraction of an epoch", words("-o", "train.epochs=1.5"), 2, "train.epochs"),
    Row("no epochs", words("-o", "train.epochs=0"), 2, "greater than or equal to 1"),
    Row("negative rate", words("-o", "train.lr=-0.1"), 2, "greater than 0"),
    Row("rate that is no number", settings("train:\n  lr: .nan\n"), 2, "train.lr"),
    Row("endless limit", settings("gates:\n  max_asr: .inf\n"), 2, "gates.max_asr"),
    Row("limit above a hundred", words("--max-asr", "101"), 2, "less than or equal to 100"),
    Row("number too large", words("-o", f"seed={10**30}"), 2, "seed"),
    Row("section as a number", words("-o", "train=5"), 2, "group of settings"),
    Row("override without a value", words("-o", "train.epochs"), 2, "key=value"),
    Row("override without a key", words("-o", "=5"), 2, "key=value"),
    Row("override of a broken list", words("-o", "controls=[kd"), 2, "Cannot read the overrides"),
    Row("override of an odd key", words("-o", "train.__class__.x=1"), 2, "train.__class__"),
    Row("very long value", words("-o", "train.lr=" + "9" * 100_000 + "x"), 2, "…"),
    Row("distillation of INT8 that is none", words("-o", "quantize.qad=sometimes"), 2, "quantize.qad.when = 'sometimes'"),
    Row("misspelt setting of it", words("-o", "quantize.qad.step=9"), 2, "did you mean 'quantize.qad.steps'"),
    Row("scales that learn by magic", words("-o", "quantize.qad.kind=lsq3"), 2, "quantize.qad.kind = 'lsq3'"),
    Row("no steps of it", words("-o", "quantize.qad.steps=0"), 2, "greater than or equal to 1"),
    Row("endless rate of it", words("-o", "quantize.qad.lr=.inf"), 2, "quantize.qad.lr"),
    Row("fewer than no layers in float", words("-o", "quantize.guard.most_float=-1"), 2, "quantize.guard.most_float = -1"),
    Row("labels of nothing", words("--data", "none", "-o", "quantize.qad.ce_weight=1"), 2, "qad.ce_weight needs images"),
    Row("seed of a part", words("-o", "train.seed=1"), 2, "set seed instead"),
    Row("colours in a value", settings('device: "\\e[31mcuda"\n'), 2, "device"),
    Row("normalisation that is none", words("--normalize", "imagenet,cifar"), 2, "There is no normalisation"),
    Row("normalisation without deviations", words("--normalize", "0.5,0.5,0.5/"), 2, "such as 0.5,0.5,0.5/"),
    Row("normalisation of other channels", words("--normalize", "0.5,0.5/0.5,0.5"), 2, "need 3 means"),
    Row("class map that is a list", class_map("- 1\n- 0\n"), 2, "`class: label` lines"),
    Row("class map with a negative label", class_map("a: -1\n"), 2, "`class: label` lines"),
    Row("class map with a word for a label", class_map("a: first\n"), 2, "`class: label` lines"),
    Row("class map of an unknown class", class_map("e: 0\n"), 2, "class map names 'e'"),
    Row("class map of two on one label", class_map("a: 1\n"), 2, "needs its own"),
    Row("class map that is not there", words("--class-map", "absent.yaml"), 2, "class map absent.yaml"),
    Row("image size of nothing", words("--image-size", "0"), 2, "image_size = 0"),
    Row("channels that are none", words("--channels", "4"), 2, "channels = 4"),
    Row("folder of another run", _claimed("teacher: other.pt\n"), 2, "holds a run with other settings"),
    Row("folder with a damaged configuration", _claimed("{"), 2, "cannot be read"),
    Row("folder with a list for a configuration", _claimed("- 1\n"), 2, "not the configuration of a run"),
)  # fmt: skip
