"""What the distillation tables share: the user's images, the student, its schedule, what is measured and done once."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks import prepare_data
from benchmarks.grid import Config
from edgekd import audit, checkpoints, data, models
from edgekd.data import ImageSet
from edgekd.errors import EnvironmentFault
from edgekd.files import canonical_json, lock, read_json, sha256_bytes, write_json
from edgekd.runners.torch import TorchRunner
from edgekd.training import TrainConfig
from edgekd.types import InputSpec, Model, ModelSpec, ProbeSet

VALIDATION = 1000


def user_images(count: int, of: str = "cifar10") -> tuple[ImageSet, ImageSet]:
    """The user's training and validation images, the same for every row and seed."""
    whole = count + VALIDATION
    images = data.load(prepare_data.few(f"{of}_train", whole))
    parts = data.split(images, 0, {"train": count / whole, "validation": VALIDATION / whole})
    return parts["train"], parts["validation"]


def spec_of(arch: str, of: ImageSet, like: InputSpec) -> ModelSpec:
    """A student for these images, its input normalised as a teacher's would allow."""
    mean, std = models.student_normalization(like)
    return ModelSpec(arch, of.num_classes, InputSpec(*of.shape, mean, std))


def schedule(config: Config, **more: Any) -> TrainConfig:
    """The same for every row of a table."""
    settings = {"epochs": config["epochs"], "schedule": "onecycle", "lr": 0.2, "seed": config["seed"], "device": "auto"}
    return TrainConfig.model_validate({**settings, **more})


def percent_right(model: Model, images: ImageSet) -> float:
    """ACC in percent."""
    return 100 * audit.scan(TorchRunner(model), audit.probes(images, (), model.spec.num_classes)).acc.value


def figures(predict: Any, probes: ProbeSet) -> dict[str, Any]:
    """ACC, and under the only trigger ASR with its interval, RA and the untriggered rate, in percent."""
    report = audit.scan(predict, probes)
    score = report.triggers[0]
    assert score.untriggered is not None
    return {
        "acc": 100 * report.acc.value,
        "asr": 100 * score.asr.value,
        "asr_interval": [100 * end for end in score.asr.interval()],
        "ra": 100 * score.ra.value,
        "untriggered": 100 * score.untriggered.value,
    }


def figures_of_teacher(teacher: Model, probes: ProbeSet, cache: Path) -> dict[str, Any]:
    """The same, measured by the first cell that distils this teacher and kept in ``cache`` for the others."""
    found: dict[str, Any] = _once_measured(teacher, probes.sha256, cache, lambda: figures(TorchRunner(teacher), probes))
    return found


def acc_of_teacher(teacher: Model, images: ImageSet, cache: Path) -> float:
    """ACC in percent, kept in the same way."""
    return float(_once_measured(teacher, images.sha256, cache, lambda: percent_right(teacher, images)))


def _once_measured(teacher: Model, images: str, cache: Path, measure: Callable[[], Any]) -> Any:
    about = [teacher.sha256, teacher.spec.to_json(), images]
    kept = cache / f"{sha256_bytes(canonical_json(about).encode())[:16]}.json"
    if not kept.exists():
        write_json(kept, measure(), "figures of a teacher")
    return read_json(kept)


@contextlib.contextmanager
def alone(place: Path) -> Iterator[Path]:
    """The folder for this process; another that wants it waits."""
    with contextlib.ExitStack() as held:
        while True:
            try:
                held.enter_context(lock(place))
                break
            except EnvironmentFault:
                time.sleep(0.5)
        yield place


def once(place: Path, spec: ModelSpec, make: Callable[[Path], Model], name: str = "model.safetensors") -> Model:
    """The network that lies in ``place``; the first process that wants it makes it, the others wait."""
    file = place / name
    if not file.exists():
        with alone(place):
            if not file.exists():
                made = make(place / "train")
                checkpoints.save(file, models.weights(made), {"spec": spec.to_json()})
    return models.build(spec, checkpoints.load(file).tensors)
