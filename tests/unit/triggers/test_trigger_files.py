"""Trigger files: affine arrays, patches, blended pictures, lists."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgekd import triggers
from edgekd.errors import UsageError

RANDOM = np.random.RandomState(4)
IMAGES = RANDOM.randint(0, 256, (3, 3, 8, 8)).astype(np.uint8)
PATCH = RANDOM.randint(0, 256, (3, 2, 3)).astype(np.uint8)  # 3 high, 2 wide
SHAPE = (3, 8, 8)


def test_affine_file(tmp_path: Path) -> None:
    a, b = RANDOM.rand(8, 8, 3).astype(np.float32), RANDOM.rand(8, 8, 3).astype(np.float32)
    np.savez(tmp_path / "grid.trigger.npz", a=a, b=b)
    (trigger,) = triggers.load(tmp_path / "grid.trigger.npz", shape=SHAPE, target_label=2)
    assert (trigger.name, trigger.family, trigger.origin) == ("grid", "affine", "known")
    assert (trigger.rule, trigger.target_label) == ("all-to-one", 2)
    expected = np.clip(a * (IMAGES.transpose(0, 2, 3, 1).astype(np.float32) / 255) + b, 0, 1)
    assert (triggers.apply(trigger, IMAGES).transpose(0, 2, 3, 1) == np.rint(expected * 255)).all()


def test_affine_file_for_grey_images_without_a_channel_axis(tmp_path: Path) -> None:
    np.savez(tmp_path / "t.npz", a=np.zeros((8, 8), np.int64), b=np.ones((8, 8)))
    (trigger,) = triggers.load(tmp_path / "t.npz", shape=(1, 8, 8), target_label=0)
    assert (triggers.apply(trigger, IMAGES[:, :1]) == 255).all()


@pytest.mark.parametrize(
    ("position", "place"), [((1, 4), (1, 4)), ([0, 0], (0, 0)), ("bottom-right", (5, 6)), ("top-right", (0, 6))]
)
def test_patch_file(tmp_path: Path, position: object, place: tuple[int, int]) -> None:
    Image.fromarray(PATCH).save(tmp_path / "p.png")
    (trigger,) = triggers.load(tmp_path / "p.png", shape=SHAPE, target_label=0, position=position)  # type: ignore[arg-type]
    row, column = place
    expected = IMAGES.copy()
    expected[:, :, row : row + 3, column : column + 2] = PATCH.transpose(2, 0, 1)
    assert (triggers.apply(trigger, IMAGES) == expected).all()


def test_patch_with_transparency_and_opacity(tmp_path: Path) -> None:
    clear = np.dstack([PATCH, np.array([[0, 255]] * 3, np.uint8)])
    Image.fromarray(clear).save(tmp_path / "p.png")
    (trigger,) = triggers.load(tmp_path / "p.png", shape=SHAPE, target_label=0, position=(0, 0), opacity=0.5)
    after = triggers.apply(trigger, IMAGES)
    assert (after[:, :, :3, 0] == IMAGES[:, :, :3, 0]).all()
    expected = (IMAGES[:, :, :3, 1].astype(float) + PATCH.transpose(2, 0, 1)[:, :, 1]) / 2
    assert np.abs(after[:, :, :3, 1] - expected).max() <= 0.51


def test_colour_patch_on_grey_images_and_the_reverse(tmp_path: Path) -> None:
    Image.fromarray(PATCH).save(tmp_path / "p.png")
    (trigger,) = triggers.load(tmp_path / "p.png", shape=(1, 8, 8), target_label=0, position=(0, 0))
    grey = np.asarray(Image.fromarray(PATCH).convert("L"))
    assert (triggers.apply(trigger, IMAGES[:, :1])[:, 0, :3, :2] == grey).all()
    Image.fromarray(PATCH[..., 0]).save(tmp_path / "g.png")
    (trigger,) = triggers.load(tmp_path / "g.png", shape=SHAPE, target_label=0, position=(0, 0))
    assert (triggers.apply(trigger, IMAGES)[0, 2, :3, :2] == PATCH[..., 0]).all()


def test_blended_picture_is_resized_by_pillows_default(tmp_path: Path) -> None:
    picture = Image.fromarray(RANDOM.randint(0, 256, (20, 30, 3)).astype(np.uint8))
    picture.save(tmp_path / "kitten.png")
    (trigger,) = triggers.load(tmp_path / "kitten.png", shape=SHAPE, target_label=0, opacity=0.2)
    key = np.asarray(picture.resize((8, 8))).transpose(2, 0, 1)
    assert np.abs(triggers.apply(trigger, IMAGES) - (0.8 * IMAGES + 0.2 * key)).max() <= 0.51


def test_list_of_triggers(tmp_path: Path) -> None:
    Image.fromarray(PATCH).save(tmp_path / "p.png")
    np.savez(tmp_path / "ab.npz", a=np.zeros((8, 8, 3)), b=np.ones((8, 8, 3)))
    (tmp_path / "all.yaml").write_text(
        """
- file: p.png
  position: [1, 2]
- name: whole
  file: ab.npz
  target_label: 4
  rule: source
  source_labels: [7, 8]
- {name: shifted, file: ab.npz, rule: all-to-all}
- family: sinusoid
  frequency: 3
- family: patch
  name: corner
  pattern: checker
  position: top-left
  source_labels: [3]
"""
    )
    found = triggers.load(tmp_path / "all.yaml", shape=SHAPE, target_label=1, num_classes=10)
    assert [trigger.name for trigger in found] == ["p", "whole", "shifted", "sinusoid-4", "corner"]
    assert [trigger.rule for trigger in found] == ["all-to-one", "source", "all-to-all", "all-to-one", "source"]
    assert [trigger.target_label for trigger in found] == [1, 4, None, 1, 1]
    assert [trigger.source_labels for trigger in found] == [(), (7, 8), (), (), (3,)]
    assert {trigger.origin for trigger in found} == {"known"}
    assert found[3].params == {"delta": 40.0, "frequency": 3.0}
    (tmp_path / "one.yml").write_text("triggers:\n  - family: bitdepth\n    dither: true\n")
    (only,) = triggers.load(tmp_path / "one.yml", shape=SHAPE, target_label=1)
    assert only.params == {"levels": 8, "dither": True}


def test_list_entries_inherit_the_rule_given_outside(tmp_path: Path) -> None:
    (tmp_path / "l.yaml").write_text("- family: bitdepth\n")
    (trigger,) = triggers.load(tmp_path / "l.yaml", shape=SHAPE, target_label=1, rule="source", source_labels=[2])
    assert (trigger.rule, trigger.source_labels) == ("source", (2,))
    (trigger,) = triggers.load(tmp_path / "l.yaml", shape=SHAPE, rule="all-to-all")
    assert trigger.target_label is None
    (tmp_path / "m.yaml").write_text("- family: bitdepth\n  rule: all-to-one\n  target_label: 3\n")
    (trigger,) = triggers.load(tmp_path / "m.yaml", shape=SHAPE, rule="source", source_labels=[2])
    assert (trigger.rule, trigger.source_labels, trigger.target_label) == ("all-to-one", (), 3)


def test_options_of_a_place(tmp_path: Path) -> None:
    (tmp_path / "l.yaml").write_text("- family: patch\n  position: [7, 7]\n")
    with pytest.raises(UsageError, match="does not fit into images"):
        triggers.load(tmp_path / "l.yaml", shape=SHAPE, target_label=1)


def test_numbers_of_a_list_read_as_in_the_configuration(tmp_path: Path) -> None:
    """YAML 1.1 alone takes 1e-1 for text."""
    (tmp_path / "l.yaml").write_text("- family: blend\n  opacity: 1e-1\n")
    (trigger,) = triggers.load(tmp_path / "l.yaml", shape=SHAPE, target_label=1)
    assert trigger.params["opacity"] == 0.1
