"""Bad triggers, one row each, for 3 x 8 x 8 images of 10 classes and --target-label 1 unless the row says otherwise."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from bad_data import PIXELS, BadInput, png_bytes
from PIL import Image

SHAPE = (3, 8, 8)
NUM_CLASSES = 10
ONES, ZEROS = np.ones((8, 8, 3), np.float32), np.zeros((8, 8, 3), np.float32)


def npz(**arrays: Any) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        kept = {k: v for k, v in {"a": ONES * 0.5, "b": ZEROS, **arrays}.items() if v is not None}
        np.savez(folder / "trigger.npz", **kept)
        return folder / "trigger.npz"

    return make


def file(name: str, data: bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(data)
        return folder / name

    return make


def listing(text: str) -> Callable[[Path], Path]:
    """A maker of a YAML list, beside a good patch ``patch.png`` of 3 x 3 and a good ``ab.npz``."""

    def make(folder: Path) -> Path:
        (folder / "patch.png").write_bytes(png_bytes(PIXELS[0][:3, :3]))
        np.savez(folder / "ab.npz", a=ONES * 0.5, b=ZEROS)
        (folder / "list.yaml").write_text(text)
        return folder / "list.yaml"

    return make


def _clear_picture(folder: Path) -> Path:
    Image.fromarray(np.dstack([PIXELS[0], np.full((8, 8), 90, np.uint8)])).save(folder / "clear.png")
    return folder / "clear.png"


def _nan(value: float) -> np.ndarray:
    array = ZEROS.copy()
    array[2, 3, 1] = value
    return array


PATCH, FULL = png_bytes(PIXELS[0][:3, :3]), png_bytes(PIXELS[0])
TALL = png_bytes(np.zeros((9, 3, 3), np.uint8))

BAD_TRIGGERS = (
    BadInput("file that is not there", lambda folder: folder / "absent.npz", 2, "no trigger file"),
    BadInput("another file type", file("trigger.bin", b"123"), 2, "not a trigger file"),
    BadInput("no b", npz(b=None), 2, "lacks the array 'b'"),
    BadInput("unknown array", npz(mask=ZEROS), 2, "'mask'"),
    BadInput("misspelt array", npz(A=ZEROS), 2, "Did you mean"),
    BadInput("other size", npz(b=np.zeros((9, 8, 3), np.float32)), 2, "[9, 8, 3]"),
    BadInput("channels first", npz(a=np.zeros((3, 8, 8), np.float32)), 2, "height, width, channels"),
    BadInput("NaN", npz(b=_nan(np.nan)), 2, "NaN"),
    BadInput("infinity", npz(b=_nan(np.inf)), 2, "infinity"),
    BadInput("0 to 255", npz(b=_nan(255)), 2, "Divide b by 255"),
    BadInput("text for numbers", npz(b=np.full((8, 8, 3), "x")), 2, "expected float32"),
    BadInput("pickled array", npz(b=np.array([[{}]], dtype=object)), 3, "pickle"),
    BadInput("changes nothing", npz(a=ONES), 2, "changes nothing"),
    BadInput("not a zip", file("trigger.npz", b"\x80\x04."), 2, "not a complete .npz"),
    BadInput("npz with a position", npz(), 2, "Leave opacity and position out", {"position": (0, 0)}),
    BadInput("no target label", npz(), 2, "--target-label", {"target_label": None}),
    BadInput("target out of range", npz(), 2, "out of range", {"target_label": 10}),
    BadInput("negative target", npz(), 2, "out of range", {"target_label": -1}),
    BadInput("unknown rule", npz(), 2, "Did you mean 'all-to-one'", {"rule": "all-to-noe"}),
    BadInput("all-to-all with a target", npz(), 2, "no target label", {"rule": "all-to-all"}),
    BadInput("source rule without a source", npz(), 2, "--source-label", {"rule": "source"}),
    BadInput("sources without the rule", npz(), 2, "--trigger-rule source", {"source_labels": (2,)}),
    BadInput("target among the sources", npz(), 2, "among the source", {"rule": "source", "source_labels": (1, 2)}),
    BadInput("source out of range", npz(), 2, "source label 12", {"rule": "source", "source_labels": (12,)}),
    BadInput("patch without a position", file("patch.png", PATCH), 2, "position"),
    BadInput("whole picture, no opacity", file("full.png", FULL), 2, "opacity"),
    BadInput("patch outside", file("patch.png", PATCH), 2, "does not fit into images", {"position": (6, 0)}),
    BadInput("patch larger than the image", file("p.png", TALL), 2, "does not fit into images", {"position": "top-left"}),
    BadInput("misspelt corner", file("patch.png", PATCH), 2, "Did you mean 'top-left'", {"position": "topleft"}),
    BadInput("position of three", file("patch.png", PATCH), 2, "row, column", {"position": (1, 2, 3)}),
    BadInput("opacity above 1", file("full.png", FULL), 2, "from 0 to 1", {"opacity": 1.5}),
    BadInput("opacity NaN", file("full.png", FULL), 2, "from 0 to 1", {"opacity": float("nan")}),
    BadInput("opacity 0", file("full.png", FULL), 2, "changes nothing", {"opacity": 0.0}),
    BadInput("damaged picture", file("patch.png", PATCH[:-30]), 2, "patch.png", {"position": (0, 0)}),
    BadInput("blend of a transparent picture", _clear_picture, 2, "transparent", {"opacity": 0.2}),
    BadInput("YAML that is none", listing("- file: [patch.png"), 2, "not YAML"),
    BadInput("YAML tag that builds an object", listing("- !!python/object/apply:os.system [id]"), 2, "not YAML"),
    BadInput("YAML aliases", listing("- &a {file: ab.npz}\n- *a"), 2, "aliases"),
    BadInput("YAML key twice", listing("- file: ab.npz\n  file: patch.png"), 2, "twice"),
    BadInput("YAML bytes", file("list.yaml", b"- file: \xff\xfe"), 2, "not YAML"),
    BadInput("YAML nested without end", listing("[" * 5000), 2, "not YAML"),
    BadInput("YAML too large", file("list.yaml", b"#" * (2 << 20)), 2, "larger than"),
    BadInput("YAML without a list", listing("file: ab.npz"), 2, "not a list"),
    BadInput("empty list", listing("[]"), 2, "not a list"),
    BadInput("neither file nor family", listing("- target_label: 1"), 2, "either a file or a family"),
    BadInput("unknown key", listing("- file: patch.png\n  postion: [0, 0]"), 2, "Did you mean 'position'"),
    BadInput("unknown origin", listing("- file: ab.npz\n  origin: invertd"), 2, "Did you mean 'inverted'"),
    BadInput("unknown family", listing("- family: sinusiod"), 2, "Did you mean 'sinusoid'"),
    BadInput("family that is a list", listing("- family: [sinusoid]"), 2, "unknown family"),
    BadInput("unknown option", listing("- family: sinusoid\n  frequncy: 6"), 2, "Did you mean 'frequency'"),
    BadInput("option out of range", listing("- family: bitdepth\n  levels: 1"), 2, "from 2 to 256"),
    BadInput("option of another type", listing("- family: bitdepth\n  dither: maybe"), 2, "true or false"),
    BadInput("number that is none", listing("- family: sinusoid\n  delta: .nan"), 2, "delta"),
    BadInput("file of the list absent", listing("- file: absent.png"), 2, "does not exist"),
    BadInput("name twice", listing("- file: ab.npz\n- file: ab.npz"), 2, "two triggers called"),
    BadInput("name with control characters", listing('- file: ab.npz\n  name: "a\\e[31mb"'), 2, "not a valid trigger name"),
    BadInput("target of the list as text", listing("- file: ab.npz\n  target_label: ship"), 2, "class index"),
    BadInput("sources of the list as a number", listing("- file: ab.npz\n  source_labels: 3"), 2, "expected a list"),
)  # fmt: skip
