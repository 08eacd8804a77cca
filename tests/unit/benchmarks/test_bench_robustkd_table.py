"""The table of defences: paired seeds, verdicts of the bases, and bars only where a base carries the backdoor over."""

from __future__ import annotations

import ast
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from provenance import ABOUT
from small_pair import made_up

from benchmarks import robustkd, robustkd_table
from benchmarks.grid import HERE, Cell
from edgekd import models
from edgekd.files import canonical_json, write_json


def cell(row: str, seed: int, acc: float, asr: float, int8: float | None = None) -> dict[str, Any]:
    config = {"teacher": "leak", "rate": 0.0, "row": row, "images": 2500, "epochs": 40, "seed": seed}
    small = {"acc": acc - 1, "asr": asr if int8 is None else int8, "ra": 40.0}
    figures = {"acc": acc, "asr": asr, "ra": 50.0}
    return {**ABOUT, "config": config, "result": {"teacher": figures, "fp32": figures, "int8": small, "seconds": 90.0}}


def three(row: str, acc: float, asr: float, int8: float | None = None) -> list[dict[str, Any]]:
    return [cell(row, seed, acc + seed, asr + seed, None if int8 is None else int8 + seed) for seed in range(3)]


def shown(records: list[dict[str, Any]], row: str) -> list[str]:
    lines = robustkd_table.tables(records).splitlines()
    return next(line for line in lines if line.startswith(f"| {row} ")).strip("| ").split(" | ")


def test_points_are_above_scratch_of_the_same_seed() -> None:
    made = shown([*three("scratch", 60, 1), *three("kd", 65, 90, 80)], "kd")
    assert made[1:7] == ["3", "66.00 [65.00 to 67.00]", "+5.00 [+5.00 to +5.00]", "not measured", "91.00 [90.00 to 92.00]", "+89.00 [+89.00 to +89.00]"]  # fmt: skip
    assert made[9:12] == ["+5.00 [+5.00 to +5.00]", "81.00 [80.00 to 82.00]", "+79.00 [+79.00 to +79.00]"]
    alone = shown([*three("scratch", 60, 1), cell("kd", 7, 65, 90)], "kd")
    assert alone[3] == alone[6] == "not measured"


def test_rows_are_held_against_ours_at_the_same_seed() -> None:
    records = [*three("scratch", 60, 1), *three("robustkd-plus", 64, 2), cell("robustkd-plus, no views", 1, 64.5, 2)]
    made = shown(records, "robustkd-plus, no views")
    assert (made[1], made[4]) == ("1", "-0.50")


@pytest.mark.parametrize(
    ("ours", "said"),
    [
        ((64.0, 2.0, None), "all bars met"),
        ((64.0, 9.0, None), "**mean excess ASR above 5, mean excess ASR of INT8 above 5**"),
        ((62.5, 2.0, None), "**ACC more than 2 below kd and overhaul**"),
        ((64.0, 2.0, 5.0), "**INT8 ASR more than 2 from FP32**"),
        ((64.0, 5.0, 7.0), "**mean excess ASR of INT8 above 5**"),
        ((59.0, 20.0, None), "**mean excess ASR above 5, worst excess ASR above 15, mean excess ASR of INT8 above 5, worst excess ASR of INT8 above 15, ACC below scratch, ACC more than 2 below kd and overhaul**"),
    ],
)  # fmt: skip
def test_bars_of_ours_where_the_base_carries_the_backdoor_over(ours: tuple[Any, ...], said: str) -> None:
    records = [*three("scratch", 60, 1), *three("kd and overhaul", 65, 90), *three("robustkd-plus", *ours)]
    made = robustkd_table.tables(records)
    assert "- kd and overhaul: TRANSFERABLE" in made
    assert f"- RobustKD+: {said}" in made


def test_where_the_base_loses_it_nothing_is_claimed() -> None:
    records = [*three("scratch", 60, 1), *three("kd and overhaul", 65, 4), *three("robustkd-plus", 64, 1)]
    made = robustkd_table.tables(records)
    assert "- kd and overhaul: NOT TRANSFERABLE" in made
    assert "RobustKD+:" not in made
    assert "(2 seeds)" in robustkd_table.tables([r for r in records if r["config"]["seed"]])


def test_seeds_that_do_not_meet_are_not_compared() -> None:
    records = [*three("scratch", 60, 1)[1:], *three("kd and overhaul", 65, 90)[1:], cell("robustkd-plus", 0, 10, 99)]
    assert "- RobustKD+: **not measured beside its base and scratch** (0 seeds)" in robustkd_table.tables(records)


def test_a_base_that_had_as_long_as_ours_counts_too() -> None:
    records = [*three("scratch", 60, 1), *three("kd and overhaul", 65, 90), *three("robustkd-plus", 64, 1)]
    longer = three("kd and overhaul, twice as long", 67, 90)
    said = "- RobustKD+: **ACC more than 2 below kd and overhaul, twice as long**"
    assert said in robustkd_table.tables([*records, *longer])


def test_it_wins_where_no_other_row_is_as_safe_and_more_accurate() -> None:
    records = [*three("scratch", 60, 1), *three("kd and overhaul", 65, 90), *three("robustkd-plus", 64, 1)]
    made = robustkd_table.tables(records)
    said = "1 cell without that of its development: excess ASR 0.00 in the mean, 0.00 at worst; ACC 1.00 below its base; **it wins**."
    assert said in made
    assert "ore ACC" not in made
    made = robustkd_table.tables([*records, *three("overhaul", 64.5, 3)])
    assert "- More ACC than RobustKD+ at an excess of at most 5: overhaul, by 0.50 points" in made
    assert "**it does not win**: in 1 another row is as safe and more accurate." in made
    unsafe = [*records, *three("overhaul", 64.5, 9), *three("robustkd-plus, no views", 64.5, 1)]
    assert "**it wins**" in robustkd_table.tables(unsafe)
    assert "**it wins**" in robustkd_table.tables([*records, *three("overhaul", 64.5, 3, int8=9)]), "not safe in INT8"


@pytest.mark.parametrize(("more", "seeds"), [(0.4, 3), (2.0, 1)])
def test_a_lead_that_is_small_or_of_one_seed_is_to_be_looked_at(more: float, seeds: int) -> None:
    records = [*three("scratch", 60, 1), *three("kd and overhaul", 65, 90), *three("robustkd-plus", 64, 1)]
    made = robustkd_table.tables([*records, *three("overhaul", 64 + more, 3)[:seeds]])
    assert "**it wins**" in made
    assert f"- To look at, more ACC than RobustKD+ at an excess of at most 5: overhaul, by {more:.2f} points" in made


def test_it_does_not_win_where_a_bar_is_missed_or_seeds_are_few() -> None:
    records = [*three("scratch", 60, 1), *three("kd and overhaul", 65, 90)]
    made = robustkd_table.tables([*records, *three("robustkd-plus", 64, 90)])
    assert "**it does not win**: it misses bars in 1." in made
    made = robustkd_table.tables([*records, cell("robustkd-plus", 0, 64, 1)])
    assert "ACC 1.00 below its base; open: fewer than 3 seeds in 1." in made
    made = robustkd_table.tables([*records, cell("robustkd-plus", 0, 64, 90)])
    assert "open: fewer than 3 seeds in 1, bars missed there in 1." in made
    alone = [*three("scratch", 60, 1), *three("kd", 65, 90), *three("kd and overhaul", 65, 4)]
    assert "mean excess ASR above 5" in robustkd_table.tables([*alone, *three("robustkd-plus", 64, 20)]), (
        "kd carries it"
    )


@pytest.mark.parametrize("change", [{"teacher": "noise-blend"}, {"images": 45_000}])
def test_its_development_and_all_images_are_no_part_of_the_verdict(change: dict[str, Any]) -> None:
    records = [*three("scratch", 60, 1), *three("kd and overhaul", 65, 90), *three("robustkd-plus", 64, 1)]
    others = [*three("scratch", 60, 1), *three("kd and overhaul", 65, 90), *three("robustkd-plus", 50, 90)]
    for record in others:
        record["config"] = {**record["config"], **change}
    made = robustkd_table.tables([*records, *others])
    assert "1 cell without that of its development" in made
    assert "**it wins**" in made


def test_what_was_done_to_the_teacher_is_told() -> None:
    pruned, tuned, gated, detoxified = (
        cell("clp, kd", 0, 60, 50),
        cell("ft, kd", 0, 60, 50),
        cell("gate, kd", 0, 60, 50),
        cell("robustkd, logits", 0, 60, 50),
    )
    for record in (pruned, tuned, gated):
        record["result"].update(repaired={"acc": 88.0, "asr": 97.0}, repair={"method": {}})
    pruned["result"]["repair"]["method"] = {"pruned": 2, "channels": 112}
    gated["result"]["repair"]["method"] = {"gates": 0.958, "shut": 0, "channels": 112}
    said = {"steps": 250, "acc_raw": 0.97, "acc_detox": 0.96, "restored": True, "variance_ratio": [0.5, 0.9]}
    detoxified["result"]["method"] = {"detox": said}
    made = robustkd_table.tables([pruned, tuned, gated, detoxified])
    assert "| clp, kd | 1 | 88.00 | 97.00 | 2 of 112 channels pruned |" in made
    assert "| ft, kd | 1 | 88.00 | 97.00 | all weights trained |" in made
    assert "| robustkd, logits | 1 | – | – | 250 steps, 1.00 points of validation ACC lost, variance at the sites × 0.50, 0.90, taken back to the last good state in 1 |" in made  # fmt: skip
    assert "| gate, kd | 1 | 88.00 | 97.00 | scales and shifts of the norms, gates 0.96 in the mean |" in made
    assert "what was done" not in robustkd_table.tables(three("kd", 65, 90))


def test_a_summary_tells_what_ships() -> None:
    records = [*three("scratch", 60, 1), cell("robustkd-plus", 0, 64, 2), cell("gate, kd", 0, 64, 2)]
    taught = [{**record, "config": {**record["config"], "labels": "teacher", "rate": 0.02}} for record in records[:1]]
    made = robustkd_table.summary([*taught, *records]).splitlines()
    assert made[0] == "| INT8 ACC / ASR % | leak, clean images | leak, 2 % triggered, its labels |"
    assert made[2] == "| the teacher, FP32 | 60.0 / 1.0 | 60.0 / 1.0 |"
    assert made[3] == "| from scratch, no teacher | 60.0 / 2.0 | 59.0 / 1.0 (1 seed) |"
    assert made[4] == "| Hinton KD | not measured | not measured |"
    assert made[10] == "| RobustKD+, which is both with a defence | 63.0 / 2.0 (1 seed) | not measured |"
    assert "gate" not in "".join(made)


def test_labels_of_the_teacher_are_a_scenario_of_their_own() -> None:
    records = [*three("scratch", 60, 1), *three("overhaul", 65, 4)]
    for record in three("overhaul", 65, 97):
        records.append({**record, "config": {**record["config"], "labels": "teacher"}})
    made = robustkd_table.tables(records)
    assert "all under the teacher's labels (scratch: true ones)" in made
    assert "- overhaul KD: NOT TRANSFERABLE" in made
    assert "- overhaul KD: open, without scratch" in made


def test_under_the_teachers_labels_nothing_is_judged_before_they_are() -> None:
    records = [*three("scratch", 60, 1), *three("kd and overhaul", 65, 90), *three("robustkd-plus", 64, 90)]
    labels = three("the teacher's labels alone", 60, 4)
    for record in (*records, *labels):
        record["config"] = {**record["config"], "labels": "teacher"}
    assert "RobustKD+" not in robustkd_table.tables(records).split("RA %", 1)[1].replace("to RobustKD+", "")
    assert "misses bars in 1" in robustkd_table.tables([*records, *labels])


def test_where_the_labels_hand_it_on_nothing_is_judged() -> None:
    records = [*three("scratch", 60, 1), *three("kd and overhaul", 65, 90), *three("robustkd-plus", 64, 90)]
    made = robustkd_table.tables([*records, *three("the teacher's labels alone", 60, 93)])
    assert "- the labels hand it on by themselves: no defence of the distillation is judged here" in made
    assert "RobustKD+:" not in made
    assert "win" not in made
    assert "misses bars in 1" in robustkd_table.tables([*records, *three("the teacher's labels alone", 60, 4)])


def test_on_a_clean_teacher_it_may_cost_a_point() -> None:
    records = [*three("scratch", 60, 1), *three("kd and overhaul", 65, 2), *three("robustkd-plus", 63.5, 1)]
    for record in records:
        record["config"] = {**record["config"], "teacher": "clean"}
    assert "- RobustKD+: **ACC more than 1 below kd and overhaul**" in robustkd_table.tables(records)


def test_robustkd_plus_is_what_was_frozen() -> None:
    def frozen(file: str) -> str:
        command = ["git", "show", f"{robustkd.FROZEN}:{file}"]
        found = subprocess.run(command, cwd=HERE.parent, capture_output=True, text=True, check=False)
        assert not found.returncode, found.stderr
        return found.stdout

    known = subprocess.run(
        ["git", "cat-file", "-e", robustkd.FROZEN], cwd=HERE.parent, capture_output=True, check=False
    )
    if known.returncode:
        pytest.skip("without the history there is nothing to hold it against")
    for file in robustkd.FROZEN_FILES:
        today, then = (behaviour(text) for text in ((HERE.parent / file).read_text("utf-8"), frozen(file)))
        differ = {name for name in then | today if today.get(name) != then.get(name)}
        # what nothing frozen names cannot change it: a function or a class of its own
        added = {name for name in differ - set(then) if not (owner := name.partition(".")[0]) or f".{owner}" in differ}
        assert differ <= added, f"{sorted(differ - added)} of {file} is not what was frozen"


def behaviour(source: str) -> dict[str, str]:
    """Every function, class with its bases, constant, and setting with its default, by qualified name; texts do not count."""
    found = {}
    for part in ast.walk(ast.parse(source)):
        body = part.body if isinstance(part, (ast.ClassDef, ast.Module)) else []
        owner = getattr(part, "name", "")
        for node in body:
            if isinstance(node, ast.FunctionDef):
                if ast.get_docstring(node) is not None:
                    del node.body[0]
                found[f"{owner}.{node.name}"] = ast.dump(node)
            elif isinstance(node, ast.ClassDef):
                found[f"{owner}.{node.name}"] = str([ast.dump(base) for base in node.bases])
            elif isinstance(node, ast.Import | ast.ImportFrom):
                found |= {
                    f"{owner}.{name.asname or name.name}": f"{ast.unparse(node).split(' import ')[0]} {name.name}"
                    for name in node.names
                }
            elif isinstance(node, ast.Assign):
                found[f"{owner}.{ast.unparse(node.targets[0])}"] = ast.dump(node.value)
            elif isinstance(node, ast.AnnAssign):
                if isinstance(node.value, ast.Call):
                    node.value.keywords = [each for each in node.value.keywords if each.arg != "description"]
                found[f"{owner}.{ast.unparse(node.target)}"] = ast.dump(node)
    return found


def test_a_setting_is_its_default_and_its_bounds_not_its_text() -> None:
    written = 'class A:\n    share: float = Field({}, ge=0, description="{}")\n'
    one, said, other = (
        behaviour(written.format(*how)) for how in ((0.5, "share"), (0.5, "of a batch"), (0.6, "share"))
    )
    assert one == said
    assert one != other


@pytest.mark.parametrize(
    "other", ["FEW = 2\nclass A(B): ...", "FEW = 1\nclass A(C): ...", "FEW = 1\nclass A(B):\n    def f(self): ..."]
)
def test_constants_bases_and_new_methods_count(other: str) -> None:
    assert behaviour("FEW = 1\nclass A(B): ...") != behaviour(other)


def test_a_repaired_teacher_is_read_back_with_what_its_repair_said(tmp_path: Path) -> None:
    spec, images = made_up()
    teacher = models.build(
        spec, {name: _with_an_outlier(each) for name, each in models.weights(models.build(spec)).items()}
    )
    row, config = robustkd.Row("kd", {}, "clp"), {"seed": 0}
    repaired, said = robustkd._repaired(row, config, teacher, images, images, tmp_path)
    assert {"method", "seconds"} == set(said)
    assert said["method"]["pruned"] > 0
    assert repaired.sha256 != teacher.sha256
    again, unchanged = robustkd._repaired(row, config, teacher, images, images, tmp_path)
    assert (again.sha256, unchanged) == (repaired.sha256, said)


def _with_an_outlier(weights: torch.Tensor) -> torch.Tensor:
    """One channel of a convolution fifty times as strong as the others."""
    return weights if weights.ndim < 4 else torch.cat([50 * weights[:1], weights[1:]])


@pytest.mark.parametrize(("asr", "seeds"), [(90.0, {0, 1, 2}), (4.0, {0})])
def test_further_seeds_only_where_the_first_carries(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, asr: float, seeds: set[int]
) -> None:
    monkeypatch.setattr(robustkd, "HERE", tmp_path)
    assert _seeds("cheatkd") == {0, 1, 2}, "nothing is known yet"
    for row, found in (("scratch", 1.0), ("overhaul", 2.0), (robustkd.BASE, 3.0), ("kd", asr)):
        config = next(c for c in robustkd.cells() if (c["teacher"], c["row"], c["seed"]) == ("cheatkd", row, 0))
        write_json(Cell(robustkd.TABLE, config, tmp_path).record, {"result": {"fp32": {"asr": found}}})
    assert _seeds("cheatkd") == seeds
    assert _seeds("leak") == {0, 1, 2}


def _seeds(teacher: str) -> set[int]:
    return {config["seed"] for config in robustkd.cells() if config["teacher"] == teacher and "labels" not in config}


def test_no_cell_twice_and_every_row_is_run() -> None:
    every = [canonical_json(config) for config in robustkd.cells()]
    assert len(set(every)) == len(every)
    assert {config["row"] for config in robustkd.cells()} == set(robustkd.EVERY)
    assert set(robustkd_table.FIRST) <= set(robustkd.EVERY)


def test_a_row_of_twice_the_epochs_takes_twice_as_long() -> None:
    cells = {cell["row"]: cell for cell in robustkd.cells() if cell["epochs"] == robustkd.EPOCHS}
    for row in ("scratch", "overhaul", "kd and overhaul"):
        longer = cells[f"{row}, twice as long"]
        assert robustkd.EVERY[longer["row"]].longer == 2
        assert robustkd.forecast(longer) == pytest.approx(2 * robustkd.forecast({**longer, "row": row}))
