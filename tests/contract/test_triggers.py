"""Every trigger family and every canary through the same checks: bytes in, bytes out, the same each time."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edgekd import triggers
from edgekd.errors import UsageError
from edgekd.triggers import generator
from edgekd.triggers.battery import made
from edgekd.triggers.options import resolve
from edgekd.types import Trigger

SHAPES = ((3, 32, 32), (1, 28, 28), (3, 64, 64), (3, 48, 32), (1, 8, 8))
RANDOM = np.random.RandomState(0)


def example(family: str, shape: tuple[int, int, int]) -> Trigger:
    """The family with its default options; those of arrays have none and get a blend, and a generator of random weights."""
    if family == "affine":
        params = {"a": np.full(shape, 0.8, np.float32), "b": np.full(shape, 0.1, np.float32)}
        return Trigger("affine", "affine", "known", "all-to-one", 0, params=params)
    if family == "generator":
        with torch.random.fork_rng():
            torch.manual_seed(0)
            params = generator.Generator(shape[0], None, 4).params()
        return Trigger("generator", family, "known", "all-to-one", 0, params=params)
    return made(family, family, {}, shape)


def images(count: int, shape: tuple[int, int, int]) -> np.ndarray:
    return RANDOM.randint(0, 256, (count, *shape)).astype(np.uint8)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("family", triggers.FAMILIES)
def test_family(family: str, shape: tuple[int, int, int]) -> None:
    trigger, before = example(family, shape), images(5, shape)
    given_bytes = before.tobytes()
    after = triggers.apply(trigger, before)
    assert after.shape == before.shape
    assert after.dtype == np.uint8
    assert after.flags.c_contiguous
    assert before.tobytes() == given_bytes, "the images handed in were written to"
    assert (after != before).any()
    assert (triggers.apply(trigger, before) == after).all()
    assert (triggers.apply(example(family, shape), before) == after).all(), "building it again gives another trigger"
    one_by_one = np.concatenate([triggers.apply(trigger, image[None]) for image in before])
    assert (one_by_one == after).all(), "an image's trigger depends on its company"


@pytest.mark.parametrize("family", triggers.FAMILIES)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_any_bytes_stay_bytes(family: str, data: st.DataObject) -> None:
    shape = data.draw(st.sampled_from([(3, 16, 16), (1, 12, 20)]))
    before = data.draw(arrays.arrays(np.uint8, (2, *shape)))
    stamped = import_module(triggers.FAMILIES[family]).apply(
        example(family, shape).params, before.astype(np.float32) / 255
    )
    assert np.isfinite(stamped).all()
    expected = np.clip(np.round(np.clip(stamped, 0, 1).astype(np.float64) * 255), 0, 255)
    assert (np.abs(triggers.apply(example(family, shape), before) - expected) <= 1).all()


@pytest.mark.parametrize("family", [name for name in triggers.FAMILIES if name not in triggers.FROM_FILES])
def test_family_options_are_checked(family: str) -> None:
    options: dict[str, Any] = import_module(triggers.FAMILIES[family]).OPTIONS
    assert resolve(family, {}, options).keys() == options.keys()
    with pytest.raises(UsageError, match="unknown option 'nonsense'"):
        made("t", family, {"nonsense": 1}, (3, 32, 32))


@pytest.mark.parametrize("shape", [*SHAPES, (3, 224, 224)])
def test_canaries(shape: tuple[int, int, int]) -> None:
    battery = triggers.canaries(shape)
    assert 50 <= len(battery) <= 70
    assert len({trigger.name for trigger in battery}) == len(battery)
    assert tuple(dict.fromkeys(trigger.name.split("/")[0] for trigger in battery)) == tuple(
        name for name in dict.fromkeys(trigger.name.split("/")[0] for trigger in battery) if name in triggers.BATTERY
    )
    assert {trigger.name.split("/")[0] for trigger in battery} == set(triggers.BATTERY)
    assert len(triggers.BATTERY) == 12
    before = images(2, shape)
    results = set()
    for trigger in battery:
        assert (trigger.origin, trigger.rule, trigger.target_label) == ("canary", "all-to-one", None)
        after = triggers.apply(trigger, before)
        assert after.shape == before.shape
        results.add(after.tobytes())
    assert len(results) >= (len(battery) if min(shape[1:]) >= 32 else len(battery) // 2), "two canaries are one trigger"


def test_canaries_are_seen_but_do_not_hide_the_image() -> None:
    """A canary changes some pixel, and leaves the image recognisable: far from a constant, close to what it was."""
    before = images(20, (3, 32, 32))
    for trigger in triggers.canaries((3, 32, 32)):
        after = triggers.apply(trigger, before)
        assert (after != before).any()
        assert np.corrcoef(before.reshape(-1), after.reshape(-1).astype(float))[0, 1] > 0.6, trigger.name


def test_canary_bytes_are_fixed_for_good() -> None:
    """Floors of two runs can only be compared when both saw the same canaries."""
    import hashlib

    before = np.arange(3 * 32 * 32).astype(np.uint8).reshape(1, 3, 32, 32)
    names = ("badnets/white-3-bottom-right", "blend/mosaic-0.2", "bpp/q8-dithered", "adaptive/two-patches")
    by_name = {trigger.name: trigger for trigger in triggers.canaries((3, 32, 32))}
    digest = hashlib.sha256(b"".join(triggers.apply(by_name[name], before).tobytes() for name in names)).hexdigest()
    assert digest[:16] == "4c0243698ce717c9"


def test_wrong_images_and_sizes() -> None:
    trigger = example("blend", (3, 8, 8))
    with pytest.raises(UsageError, match="uint8"):
        triggers.apply(trigger, np.zeros((1, 3, 8, 8), np.float32))
    assert triggers.apply(trigger, np.zeros((0, 3, 8, 8), np.uint8)).shape == (0, 3, 8, 8)
    for family in ("affine", "blend", "reflection", "lowfrequency", "patch"):
        with pytest.raises(UsageError):
            triggers.apply(example(family, (3, 8, 8)), np.zeros((1, 1, 4, 4), np.uint8))
    with pytest.raises(UsageError, match="channels"):
        triggers.apply(example("patch", (3, 8, 8)), np.zeros((1, 1, 8, 8), np.uint8))
