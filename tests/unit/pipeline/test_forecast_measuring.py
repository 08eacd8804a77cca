"""What a dry run says of everything but training, from costs one can multiply by hand."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from edgekd import audit, triggers
from edgekd.config import RunConfig, resolve
from edgekd.data import ImageSet
from edgekd.pipeline import forecast, forecast_measuring
from edgekd_device import latency

SECOND = forecast_measuring.Costs(teacher=0.01, student=0.001, alone=0.001, stamp=0.0)
PARTS = {
    name: ImageSet(np.zeros((count, 3, 8, 8), np.uint8), np.zeros(count, np.int64), ("a", "b"))
    for name, count in (("train", 900), ("validation", 100), ("test", 300))
}


def settings(*overrides: str) -> RunConfig:
    return resolve(None, {"teacher": "t.pt", "data": "images"}, overrides)


def seconds(*overrides: str, known: int = 0) -> dict[str, float]:
    config = settings(*overrides, *(["trigger.file=t.npz"] if known else []))
    return {name: 60 * value for name, value in forecast_measuring.minutes(config, PARTS, SECOND, known).items()}


def test_the_battery_is_variants_times_images_times_two_networks() -> None:
    variants = len(triggers.canaries((3, 8, 8)))
    assert seconds()["canary battery"] == pytest.approx(300 * (variants + 1) * 0.011)
    assert seconds("audit.canary_images=100")["canary battery"] == pytest.approx(100 * (variants + 1) * 0.011)
    assert "canary battery" not in seconds(known=1)
    assert "canary battery" not in seconds("audit.canaries=false")
    assert seconds("audit.canaries=true", known=1)["canary battery"] == seconds()["canary battery"]
    assert seconds("repair.method=clp")["canary battery"] == seconds()["canary battery"]
    both = seconds("repair.method=clp", "distill.method=kdiga")["canary battery"]
    assert both == pytest.approx(2 * seconds()["canary battery"]), "the repaired teacher is audited too"


def test_the_disagreement_is_one_pass_of_the_teacher_over_the_transfer_data() -> None:
    assert seconds()["disagreement"] == pytest.approx(1000 * 0.01)


def test_a_distillation_of_int8_is_counted_where_it_is_sure_to_come() -> None:
    assert "distillation of INT8" not in seconds()
    short = ("quantize.qad=always", "quantize.qad.steps=10", "quantize.qad.batch_size=20")
    assert seconds(*short)["distillation of INT8"] == pytest.approx(10 * 20 * 7 * 0.001)


def test_attacks_are_forward_passes_of_every_artefact() -> None:
    assert "attacks" not in seconds()
    images = 40
    # teacher, student and the file's copy, which takes twice a student's time, by gradients; queries of the file
    each = audit.TIERS["quick"].forwards * (0.01 + 3 * 0.001) + audit.TIERS["quick"].queries * 0.001
    found = seconds("audit.adversarial=quick", f"audit.adversarial_images={images}")["attacks"]
    assert found == pytest.approx(images * each)


def test_every_control_and_trigger_costs_audits() -> None:
    def audits(*overrides: str, known: int = 0) -> float:
        return seconds(*overrides, known=known)["audits and export"]

    plain = audits("audit.canaries=false")
    assert audits("audit.canaries=false", "controls=[scratch,kd]") - plain == pytest.approx(300 * 0.001)
    assert audits("audit.canaries=false", "controls=[scratch,finetune]") - plain == pytest.approx(300 * 0.01)
    once = plain - audits("audit.canaries=false", "bench.level=none")  # torch's latencies stay as they are
    assert once == pytest.approx(2 * (3.0 + 0.2))
    one, two = audits(known=1), audits(known=2)
    assert two - one == pytest.approx(one - plain)
    assert audits("audit.bundle_canaries=1") == pytest.approx(one)


def test_the_bench_takes_what_its_level_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecast_measuring.power, "find", lambda: None)
    judged = 2 * 300 * 4 * 0.001  # two files, clean and three triggers
    assert seconds("bench.level=smoke")["bench"] == pytest.approx(2 * 3.2 + judged)
    plan = latency.STANDARD
    blocks = 2 * plan.blocks * (plan.seconds + plan.warm_seconds)
    stream = plan.multistream + plan.warm_seconds
    expected = blocks + plan.soak + stream + plan.sweep * len(plan.batches) + judged
    assert seconds("bench.level=standard")["bench"] == pytest.approx(expected)
    assert "bench" not in seconds("bench.level=none")
    slow: Any = forecast_measuring.Costs(0.01, 0.001, 0.5, 0.0)
    longer = 60 * forecast_measuring.minutes(settings("bench.level=standard"), PARTS, slow, 0)["bench"]
    assert longer > expected + 2 * (5000 * 0.5 - 3 * 60)


def test_what_does_not_run_here_is_judged_and_not_timed() -> None:
    board = seconds("target=jetson", "bench.level=smoke", "audit.canaries=false")["bench"]
    # model.onnx, model.fp16.onnx and model.u8s8.onnx; what ships there, model.qdq.onnx, has no runtime here
    assert board == pytest.approx(3 * 3.2 + 4 * 300 * 0.001)


def test_costs_are_times_of_the_networks_themselves() -> None:
    class Slow:
        batch_size = 4

        def __init__(self, each: float) -> None:
            self.each = each

        def __call__(self, images: np.ndarray) -> np.ndarray:
            time.sleep(self.each * len(images))
            return np.zeros((len(images), 2), np.float32)

    costs = forecast_measuring.measure(Slow(0.004), Slow(0.002), PARTS["test"].images)  # type: ignore[arg-type]
    assert 0.002 <= min(costs.student, costs.alone) <= max(costs.student, costs.alone) < 0.05
    assert 0.004 <= costs.teacher < 0.05
    assert costs.stamp > 0


def test_what_a_method_keeps_of_every_image_is_forecast() -> None:
    crd = settings("distill.method=crd", "distill.dim=64")
    assert forecast.kept_bytes(crd, "crd", 1000) == 2 * 1000 * 64 * 4
    assert forecast.kept_bytes(crd, "scratch", 1000) == 0
