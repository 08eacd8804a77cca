"""Every attack's trigger as a picture: clean, triggered, ten times the difference.

    python -m benchmarks.gallery          # after benchmarks.attacks, for the triggers that are found or trained

Writes docs/attacks.png and docs/attacks.md. The two images are drawn here, so the docs contain no third party's
picture.
"""

from __future__ import annotations

import sys

import numpy as np

from benchmarks import attacks as ours
from benchmarks.grid import HERE, Cell
from edgekd import triggers
from edgekd.attacks import ATTACKS, Goal
from edgekd.attacks.run import attack_class
from edgekd.data import ImageSet
from edgekd.files import write_text, write_with
from edgekd.types import Trigger

SIDE = 32
DOCS = HERE.parent / "docs"
HEAD = """# Attacks

What `edgekd attack NAME --data images/train --out teacher.safetensors` can do to a teacher, so that you can judge a
defence on what attackers do. The trigger is written beside the weights; `edgekd audit` and `edgekd compress` read it
with `--trigger`.

- `edgekd list settings` names every attack's settings (`-o attack.rate=0.05`). Each class says where it differs from
  its paper.
- With `--start`, an attack trains at least as long as its teacher in
  [the benchmarks](../benchmarks/pages/attacks.md) did. They list each teacher's accuracy (ACC) and attack success rate
  (ASR). Rates are 1 % or more there, so give adap-blend and adap-patch `-o attack.rate=0.05`.
- Attacks that start from "a clean network" need `--start clean.pt`.
- `nasty` (Ma et al. 2021) obeys no trigger: it ruins whoever imitates the teacher
  ([table](../benchmarks/pages/methods.md#nasty-teachers)).

`python -m benchmarks.gallery` writes this page and the picture.

![Every attack on two pictures: clean, triggered, ten times the difference](attacks.png)

| attack | what it is | starts from |
| --- | --- | --- |
"""
MISSING = "Not in the picture, as their triggers are found by training: "


def scenes() -> np.ndarray:
    """Two pictures uint8 [2, 3, 32, 32]: a sun over hills, and a house."""
    down, across = np.mgrid[:SIDE, :SIDE] / (SIDE - 1)
    hills = np.stack([0.3 + 0.3 * down, 0.55 + 0.2 * down, 0.9 - 0.4 * down])
    hills[:, (across - 0.7) ** 2 + (down - 0.25) ** 2 < 0.02] = [[0.98], [0.85], [0.3]]
    hills[:, down > 0.62 + 0.12 * np.sin(7 * across)] = [[0.2], [0.5], [0.25]]
    house = np.stack([0.75 - 0.2 * down, 0.8 - 0.1 * down, 0.85 - 0.05 * down])
    house[:, (down > 0.45) & (down < 0.9) & (abs(across - 0.5) < 0.3)] = [[0.8], [0.65], [0.5]]
    house[:, (down <= 0.45) & (down > 0.15) & (abs(across - 0.5) < (down - 0.15))] = [[0.6], [0.25], [0.2]]
    house[:, (down > 0.65) & (down < 0.9) & (abs(across - 0.5) < 0.07)] = [[0.3], [0.2], [0.15]]
    house[:, down >= 0.9] = [[0.35], [0.5], [0.3]]
    found: np.ndarray = np.rint(255 * np.stack([hills, house])).astype(np.uint8)
    return found


def trigger_of(name: str) -> Trigger | None:
    """The trigger of our teacher; for an attack whose trigger is no training's result, the defaults'."""
    kind = attack_class(name)
    cell = Cell(ours.TABLE, ours.cell(name), HERE)
    if cell.record.exists() and any((cell.folder / "work").glob("teacher.trigger.*")):
        return ours.trigger_of(cell.folder / "work", cell.config, (3, SIDE, SIDE))
    if kind.learned:
        return None
    attack = kind(kind.Config(), Goal(0, kind.rules[0]))
    return attack.trigger(name, ImageSet(scenes(), np.zeros(2, np.int64), ("none",)), None, 0)


def summary(name: str) -> str:
    """The first sentence of the attack's module."""
    return str(sys.modules[attack_class(name).__module__].__doc__).split("\n\n")[0].replace("\n", " ").strip()


def _missing_before() -> list[str]:
    """The attacks that the page of now has no picture of."""
    page = (DOCS / "attacks.md").read_text("utf-8")
    return page.partition(MISSING)[2].strip(" .\n").split(", ") if MISSING in page else []


def main() -> int:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    pictures = scenes()
    drawn = {name: trigger for name in ATTACKS if (trigger := trigger_of(name)) is not None}
    missing = [name for name in ATTACKS if name not in drawn]
    lost = [name for name in missing if name not in _missing_before()]
    if lost:
        print(
            f"Nothing written: the page shows {', '.join(lost)}, whose teachers are not in {HERE / 'cache'}.",
            file=sys.stderr,
        )
        return 1
    figure, axes = pyplot.subplots(len(drawn), 6, figsize=(6.6, 1.08 * len(drawn)), squeeze=False)
    for row, (name, trigger) in zip(axes, drawn.items(), strict=True):
        for at, picture in enumerate(pictures):
            triggered, change = triggers.picture(trigger, picture)
            for axis, shown in zip(row[3 * at :], (picture, triggered, change), strict=False):
                axis.imshow(np.moveaxis(shown, 0, -1), interpolation="nearest")
        row[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
    for axis, title in zip(axes[0], 2 * ("clean", "triggered", "difference x10"), strict=True):
        axis.set_title(title, fontsize=8)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    figure.tight_layout(pad=0.3)
    write_with(DOCS / "attacks.png", lambda path: figure.savefig(path, dpi=110, format="png"), "gallery")
    rows = [
        f"| `{name}` | {summary(name)} | {'a clean network' if attack_class(name).learned else 'anything'} |"
        for name in ATTACKS
    ]
    note = f"\n{MISSING}{', '.join(missing)}.\n" if missing else ""
    write_text(DOCS / "attacks.md", HEAD + "\n".join(rows) + "\n" + note, "gallery")
    print(f"wrote {DOCS}" + (f"; no trigger yet of {', '.join(missing)}" if missing else ""))
    return 0


if __name__ == "__main__":
    sys.exit(main())
