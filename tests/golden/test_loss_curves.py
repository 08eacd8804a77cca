"""Loss curves of every method on a fixed little task: a change here is a change of the mathematics.

After an intended change: ``python tests/golden/test_loss_curves.py`` writes loss_curves.json anew; look at its diff.
"""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

FILE = Path(__file__).with_name("loss_curves.json")
OPTIONS = {
    "scratch": {},
    "kd": {},
    "dkd": {},
    "dist": {"temperature": 1},
    "fitnets": {"beta": 10},
    "at": {},
    "nst": {},
    "sp": {},
    "crd": {"negatives": 48},
    "reviewkd": {},
    "overhaul": {"fade": "none", "scale": "none"},
    "overhaul-fading": {"fade": "cosine"},
    "overhaul-gaussian": {"margins": "gaussian", "fade": "none", "scale": "none"},
    "robustkd": {"detox_steps": 6, "guard_every": 3, "fade": "none", "scale": "none"},
    "robustkd-blend": {
        "fade": "none",
        "scale": "none",
        "mode": "blend",
        "variance_mode": "sample",
        "granularity": "c",
        "detox_steps": 6,
    },
    "finetune": {},
    "disk": {},
    "cmkd": {},
    "comparative-kd": {},
    "kdiga": {"trust_teacher": True},
    "kdiga-paper": {"trust_teacher": True, "slope_temperature": 1.0, "slope_weight": 1, "agree": False, "rise": 0},
    "igdm": {"trust_teacher": True},
    "igdm-attack": {"trust_teacher": True, "direction": "attack", "attack_steps": 2},
    "pgd-at": {"attack_steps": 3},
}


def curves(name: str) -> list[dict[str, float]]:
    """Terms per epoch of a WRN-10-1 teaching a narrow ResNet-8, four epochs of 64 made-up images."""
    from edgekd import distill, models
    from edgekd.data import ImageSet
    from edgekd.training import TrainConfig
    from edgekd.types import InputSpec, ModelSpec

    random = np.random.RandomState(0)
    labels = np.arange(64, dtype=np.int64) % 4
    images = random.randint(0, 90, (64, 3, 16, 16), dtype=np.uint8)
    for index, label in enumerate(labels):
        images[index, :, 4 * label : 4 * label + 4, :] += 150
    data = ImageSet(images, labels, ("first", "second", "third", "fourth"), "made up")
    inputs = InputSpec(3, 16, 16, (0.4, 0.5, 0.45), (0.2, 0.25, 0.3))
    train = TrainConfig(epochs=4, batch_size=16, lr=0.02, precision="fp32", augment="crop-flip")
    _, log = distill.run(
        models.build(ModelSpec("wrn-10-1", 4, inputs)), ModelSpec("resnet8-w4", 4, inputs), data,
        name if name in distill.METHODS else name.partition("-")[0], OPTIONS[name], train,
    )  # fmt: skip
    return [{k: round(v, 5) for k, v in entry.items() if k != "seconds"} for entry in log.history]


@pytest.mark.parametrize("name", OPTIONS)
def test_the_curve_is_the_recorded_one(name):
    # Another processor adds up in another order; over 16 steps that stays far below a percent.
    for got, expected in zip(curves(name), json.loads(FILE.read_text())[name], strict=True):
        assert got == pytest.approx(expected, rel=0.01, abs=1e-4)


if __name__ == "__main__":
    FILE.write_text(json.dumps({name: curves(name) for name in OPTIONS}, indent=1) + "\n")
    sys.stdout.write(f"{FILE}\n")
