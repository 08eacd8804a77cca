"""Schedules against torch's and figures one can count."""

import pytest
import torch

from edgekd.training.schedule import factor


def test_cosine_with_warm_up():
    shares = [factor("cosine", step, 10, 4) for step in range(10)]
    assert shares[:4] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert shares[4] == 1
    assert shares[7] == pytest.approx(0.5)
    assert shares[9] == pytest.approx(0.0670, abs=1e-4)
    assert factor("cosine", 0, 10) == 1


def test_step_falls_at_half_and_three_quarters():
    shares = [factor("step", step, 8) for step in range(8)]
    assert shares == [1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01]
    assert factor("step", 0, 8, 1) == 0.5


def test_crd_falls_at_150_180_and_210_of_240_epochs():
    falls = {epoch: factor("crd", 10 * epoch, 2400) for epoch in (149, 150, 179, 180, 209, 210, 239)}
    assert list(falls.values()) == pytest.approx([1, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001])
    assert factor("crd", 1499, 2400) == 1


@pytest.mark.parametrize("total", [10, 37, 400])
def test_onecycle_is_torchs(total):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.2)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.2, total_steps=total, cycle_momentum=False)
    for step in range(total):
        assert 0.2 * factor("onecycle", step, total) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-6)
        optimizer.step()
        if step + 1 < total:
            theirs.step()


@pytest.mark.parametrize("schedule", ["cosine", "step", "onecycle", "crd"])
@pytest.mark.parametrize("total", [1, 2, 3])
def test_shortest_runs(schedule, total):
    assert all(0 < factor(schedule, step, total) <= 1 for step in range(total))


def test_unknown_schedule():
    with pytest.raises(ValueError, match="no schedule"):
        factor("polynomial", 0, 10)  # type: ignore[arg-type]
