"""A run that was stopped anywhere ends with the bits of one that was not."""

import json

import pytest
import torch
from small_student import Labels, network, same

from edgekd import files
from edgekd.errors import EnvironmentFault, UsageError
from edgekd.training import fit, state
from edgekd.training.chunks import Chunks


class Killed(BaseException):
    pass


class Dying(Labels):
    """Dies in the step after ``steps`` steps, as on a signal."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.left = steps

    def step(self, batch):
        self.left -= 1
        if self.left < 0:
            raise Killed
        return super().step(batch)


@pytest.fixture
def unbroken(batches, config, tmp_path):
    student = network()
    return student, fit(student, Labels(), batches, config, folder=tmp_path / "unbroken")


@pytest.mark.parametrize("steps", [0, 3, 5, 7, 10, 16, 19])
def test_killed_in_any_step(batches, config, tmp_path, unbroken, steps):
    whole, log = unbroken
    with pytest.raises(Killed):
        fit(network(), Dying(steps), batches, config, folder=tmp_path / "run")
    student = network(seed=9)  # its weights come from the checkpoint, not from here
    if steps < 5:
        student = network()
    again = fit(student, Labels(), batches, config, folder=tmp_path / "run")
    assert again.resumed_at == (steps // 5 or None)
    assert same(student, whole)
    drop = ("seconds",)
    assert [{k: v for k, v in e.items() if k not in drop} for e in again.history] == [
        {k: v for k, v in e.items() if k not in drop} for e in log.history
    ]
    first, last = (tmp_path / name / "checkpoint-4.safetensors" for name in ("unbroken", "run"))
    assert first.read_bytes() == last.read_bytes()


@pytest.mark.parametrize("bf16", [False, True])
def test_killed_twice_and_in_bf16(batches, config, tmp_path, bf16):
    config = config.model_copy(update={"precision": "bf16" if bf16 else "fp32"})
    whole, student = network(), network()
    fit(whole, Labels(), batches, config)
    for steps in (6, 6):
        with pytest.raises(Killed):
            fit(student, Dying(steps), batches, config, folder=tmp_path)
    fit(student, Labels(), batches, config, folder=tmp_path)
    assert same(student, whole)


@pytest.mark.parametrize(
    "point", ["training.checkpoint.before_rename", "training.notes.before_rename", "journal.before_append"]
)
def test_a_disk_that_fails_while_it_saves(batches, config, tmp_path, unbroken, monkeypatch, point):
    monkeypatch.setenv("EDGEKD_FAULT", f"{point}:3:enospc")
    monkeypatch.setattr("edgekd_device.files._reached", {})
    with pytest.raises(EnvironmentFault):
        fit(network(), Labels(), batches, config, folder=tmp_path / "run")
    monkeypatch.delenv("EDGEKD_FAULT")
    student = network()
    log = fit(student, Labels(), batches, config, folder=tmp_path / "run")
    assert log.resumed_at == (3 if point.startswith("journal") else 2)
    assert same(student, unbroken[0])
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3, 4]


def test_metrics_hold_every_epoch_once_after_a_torn_line(batches, config, tmp_path):
    with pytest.raises(Killed):
        fit(network(), Dying(12), batches, config, folder=tmp_path)
    with open(tmp_path / "metrics.jsonl", "a") as stream:
        stream.write('{"epoch": 3, "lo')
    fit(network(), Labels(), batches, config, folder=tmp_path)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3, 4]


def test_two_generations_are_kept_and_a_damaged_one_falls_back(batches, config, tmp_path, unbroken):
    with pytest.raises(Killed):
        fit(network(), Dying(16), batches, config, folder=tmp_path / "run")
    names = sorted(path.name for path in (tmp_path / "run").glob("checkpoint-*"))
    assert names == [f"checkpoint-{n}.{ending}" for n in (2, 3) for ending in ("json", "safetensors")]
    damaged = tmp_path / "run" / "checkpoint-3.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\0")
    student = network()
    assert fit(student, Labels(), batches, config, folder=tmp_path / "run").resumed_at == 2
    assert same(student, unbroken[0])


def test_a_finished_run_is_not_done_again(batches, config, tmp_path, unbroken):
    before = {path.name: path.read_bytes() for path in (tmp_path / "unbroken").iterdir()}
    student = network(seed=8)
    log = fit(student, Dying(0), batches, config, folder=tmp_path / "unbroken")
    assert log.resumed_at == 4
    assert same(student, unbroken[0])
    assert {path.name: path.read_bytes() for path in (tmp_path / "unbroken").iterdir()} == before


def test_another_run_in_the_folder_is_refused_by_name(batches, config, tmp_path):
    fit(network(), Labels(), batches, config, folder=tmp_path, identity={"method": {"alpha": 0.9}})
    with pytest.raises(UsageError, match=r"other settings: train.lr"):
        fit(
            network(), Labels(), batches, config.model_copy(update={"lr": 0.2}), folder=tmp_path,
            identity={"method": {"alpha": 0.9}},
        )  # fmt: skip
    with pytest.raises(UsageError, match=r"other settings: method.alpha"):
        fit(network(), Labels(), batches, config, folder=tmp_path, identity={"method": {"alpha": 0.5}})


def test_state_of_adam_comes_back(tmp_path):
    def optimised(module):
        optimizer = torch.optim.Adam(module.parameters(), lr=0.1)
        return module, optimizer

    def step(module, optimizer):
        optimizer.zero_grad()
        module(torch.ones(2, 3)).square().sum().backward()
        optimizer.step()

    torch.manual_seed(0)
    module, optimizer = optimised(torch.nn.Linear(3, 2))
    step(module, optimizer)
    state.write(tmp_path, 1, state.collect(module, [optimizer]), {})
    other, its = optimised(torch.nn.Linear(3, 2))
    state.restore(state.read(tmp_path).tensors, other, [its])
    step(module, optimizer)
    step(other, its)
    assert same(module, other)


def test_notes_of_another_schema_are_no_checkpoint(tmp_path):
    state.write(tmp_path, 1, {"module.x": torch.zeros(1)}, {})
    notes = files.read_json(tmp_path / "checkpoint-1.json")
    files.write_json(tmp_path / "checkpoint-1.json", {**notes, "schema": 2})
    assert state.read(tmp_path) is None
    (tmp_path / "checkpoint-1.json").write_text("{")
    assert state.read(tmp_path) is None


def test_chunks_are_the_stream_cut_anew(batches):
    stream = [batch.index for n in range(3) for batch in batches.epoch(n)]
    in_order = Chunks(batches, 4)
    for number in range(3):
        for position, batch in enumerate(in_order.epoch(number)):
            assert torch.equal(batch.index, stream[4 * number + position])
    jumped = [batch.index for batch in Chunks(batches, 4).epoch(2)]
    assert all(torch.equal(a, b) for a, b in zip(jumped, stream[8:12], strict=True))
    assert [batch.index.tolist() for batch in in_order.once()] == [batch.index.tolist() for batch in batches.once()]
    left_early = Chunks(batches, 4)
    next(iter(left_early.epoch(0)))
    assert torch.equal(next(iter(left_early.epoch(1))).index, stream[4])
