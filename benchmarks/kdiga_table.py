"""KDIGA's tables: accuracy left under attack beside the slopes' controls, and what backdoored teachers hand on."""

from __future__ import annotations

import collections
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from benchmarks.main_job_table import head, line, mean, provenance, spread
from benchmarks.paired import Difference, Spread, crossed, mcnemar, paired, values
from edgekd.report import text
from edgekd.report.transferability import beside, transferable

Record = dict[str, Any]
Rows = dict[str, dict[int, Record]]  # row -> seed -> result
GIVEN = "teacher"  # the row that trains no student
ROBUST = "pgd-at resnet14"
NO_SLOPES, SHUFFLED, OWN_ZERO = "KDIGA, weight 0", "KDIGA, shuffled", "KDIGA, zero"
THIRD, THRICE = "KDIGA, zero, a third", "KDIGA, zero, three times"
OWN = {"KDIGA": OWN_ZERO, "KDIGA, paper's slopes": "KDIGA, paper's slopes, zero"}  # at the same share or weight
ZEROS = (OWN_ZERO, THIRD, THRICE, "KDIGA, paper's slopes, zero")
LEAST = 2.0  # points above a control, below which what the control lacks adds nothing
FLOOR = 5.0  # percent under attack: where both are below, neither resists
GONE = 0.05  # of the first epoch's slopes, with an accuracy below the best: the method card's collapse
CONSTANT = 30.0  # percent of ACC, below which a student hardly looks at the image
COSTLY = 5.0  # points of ACC below KD: a poor student may call many images the target
SMALLER = 2 / 255
PENALTY, NOT_THIS = "gradient penalty", "not this image's slopes"
ORDER = (GIVEN, "CE", "KD", "PGD-AT", NO_SLOPES, "KDIGA", OWN_ZERO, SHUFFLED)
SUMMARY = (*ORDER, "IGDM, signs")
STUDENTS = (
    *("row", "ACC %", "left under attack %", "PGD-20 at 2/255 %", "radius × 255", "cosine on training images"),
    *("cosine on test images", "‖g_S‖ there", "‖g_S‖ kept %", "weight", "halvings", "tests failed", "minutes"),
)
SLOPES = (
    *(
        "row",
        "beside",
        "gap",
        "ACC against that zero",
        "gap to own zero",
        "images that it / the other keeps more often",
    ),
    *("gap, PGD-20 at 2/255", "gap to shuffled"),
)
BACKDOOR = ("row", "ACC %", "ASR %", "RA %", "untriggered %", "excess", "carried over", "ASR above untriggered", "ASR above zero", "raised")  # fmt: skip
NAMES = (
    "KDIGA: slopes of a softened cross-entropy, the method card's proposal and the default here, at a weight that the first epoch "
    "sets; a third, three times: of that share; paper's slopes: those of the plain one, as published, at a weight of 0.1 in our units. "
    "IGDM, signs: our cheap form; attack: nearer the published one. "
    "KD: temperature 4, alpha 0.9; KDIGA, weight 0: the terms that KDIGA has beside the slopes. The robust teacher saw 25,000 images, "
    "its students and PGD-AT 9,000 of them. Gaps: paired over seeds, with a 95 % interval (Student's t; the spread is what row and seed "
    f"leave unexplained in the rows above {FLOOR:g} % under attack), to the most "
    "robust zero of any weight among those that share most of the row's seeds and did not collapse; ACC beside it, since a stronger "
    f"penalty may be paid for with it. Under {LEAST:g} points of such a gap a row is a {PENALTY}; a zero of fewer seeds that is more "
    "robust on these leaves that open. KDIGA is held against shuffled slopes in the same way. p: McNemar's exact test on images, each counted once, for "
    "the row that keeps it in more seeds; it says nothing of other seeds. A test for masked gradients fails a row that fails it in more "
    f"than half of its seeds. Collapsed: slopes below {GONE:.0%} of the first epoch's and an "
    f"accuracy below its best on training images, or an ACC below {CONSTANT:g} %. ‖g_S‖ kept: in the last epoch of the first's, on training "
    "images, at the row's own temperature; on test images both slopes are softened alike. Halvings: of the weight, by the method's "
    "own guard against collapse."
)


def tables(records: Sequence[Record]) -> str:
    """Mean [lowest to highest] over seeds; gaps and excesses over the seeds that both have."""
    found: dict[str, Rows] = {}
    for record in records:
        config = record["config"]
        part = ROBUST if config["part"] == "robust" else config["teacher"]
        found.setdefault(part, {}).setdefault(config["row"], {})[config["seed"]] = record["result"]
    robust = _finished(found.get(ROBUST, {}))
    parts = [_robust(robust), _slopes(robust), NAMES] if robust else []
    parts += [_diverged(found.pop(ROBUST, {}))]
    for teacher, rows in sorted(found.items()):
        parts += [_backdoor(teacher, _finished(rows)), _diverged(rows)]
    return "\n\n".join([*filter(None, parts), provenance(records)])


def summary(records: Sequence[Record]) -> str:
    """The headline rows alone: ACC, worst case under attack, and in KDIGA's name what it is; empty without a student."""
    robust = [record for record in records if record["config"]["part"] == "robust"]
    rows: Rows = {}
    for record in robust:
        rows.setdefault(record["config"]["row"], {})[record["config"]["seed"]] = record["result"]
    rows = _finished(rows)
    lines = [
        line([called(name, rows), *(spread(one[key] for one in rows[name].values()) for key in ("acc", "robust"))])
        for name in SUMMARY
        if name in rows
    ]
    return "\n".join([*head(STUDENTS[:3]), *lines, "", provenance(robust)]) if lines else ""


def _finished(rows: Rows) -> Rows:
    """Without the seeds that diverged, which have no figures."""
    found = {name: {seed: one for seed, one in row.items() if "diverged" not in one} for name, row in rows.items()}
    return {name: row for name, row in found.items() if row}


def _diverged(rows: Rows) -> str:
    counts = {name: sum("diverged" in one for one in rows[name].values()) for name in sorted(rows, key=_place)}
    said = [f"{text.markdown(name)} ({count} of {len(rows[name])} seeds)" for name, count in counts.items() if count]
    return f"**Diverged**, and counted nowhere: {'; '.join(said)}." if said else ""


def _robust(rows: Rows) -> str:
    table = next(_every(rows))["robustness"]
    title = (
        f"**Students under attack**: {table['robust']['total']:,} test images, tier {table['tier']}, "
        f"largest change {255 * table['bound']:g}/255"
    )
    return "\n".join([title, "", *head(STUDENTS), *(_student(name, rows) for name in sorted(rows, key=_place))])


def _student(name: str, rows: Rows) -> str:
    results = list(rows[name].values())
    diaries = [one["slopes"] for one in results if one.get("slopes")]
    unseen = [one["unseen_slopes"] for one in results if one.get("unseen_slopes")]
    halvings = [one["halvings"] for one in results if one.get("halvings") is not None]
    timed = [one["seconds"] / 60 for one in results if one["seconds"] is not None]
    return line(
        [
            called(name, rows),
            spread(one["acc"] for one in results),
            spread(one["robust"] for one in results),
            spread(_at(one) for one in results),
            spread((_radius(one) for one in results), "{:.2f}".format),
            _known(diary[-1]["cosine"] for diary in diaries if "cosine" in diary[-1]),
            *(_known(one[key] for one in unseen) for key in ("cosine", "student")),
            _known((100 * diary[-1]["student"] / diary[0]["student"] for diary in diaries), "{:.0f}".format),
            _known((one["slope_weight"] for one in results if one.get("slope_weight") is not None), "{:.3g}".format),
            _known(halvings, "{:g}".format),
            text.markdown(", ".join(_failures(results))) or "none",
            _known(timed, "{:.1f}".format),
        ]
    )


def _known(figures: Iterable[float], show: Callable[[float], str] = "{:.2f}".format) -> str:
    """Of a figure that a row may not have at all."""
    found = list(figures)
    return spread(found, show) if found else "–"


def _slopes(rows: Rows) -> str:
    """What the teacher's slopes add; empty without a form of KDIGA that has its control."""
    lines = []
    for name in filter(rows.__contains__, OWN):
        zero = _zero(name, rows)
        if zero is None:
            continue
        kept = [_kept(rows[one], set(rows[name]) & set(rows[zero])) for one in (name, zero)]
        ours, theirs, p = mcnemar(*kept)
        lines.append(
            line(
                [
                    called(name, rows),
                    text.markdown(zero),
                    str(_gap(name, zero, rows)),
                    str(_gap(name, zero, rows, values)),
                    _shown(_gap(name, OWN[name], rows)),
                    f"{ours} / {theirs}, p {p:.2g}",
                    _shown(_gap(name, zero, rows, _smaller)),
                    _shown(_gap(name, SHUFFLED, rows)) if name == "KDIGA" else "–",
                ]
            )
        )
    return "\n".join(["**What the teacher's slopes add under attack**", "", *head(SLOPES), *lines]) if lines else ""


def _shown(gap: Difference | None) -> str:
    return text.NOT_MEASURED if gap is None else str(gap)


class Held(NamedTuple):
    """A row beside one control; word: what the row is where it is not above it. doubts: why that is not settled."""

    word: str
    gap: Difference
    doubts: list[str]


def called(name: str, rows: Rows) -> str:
    """A row's name: KDIGA is a gradient penalty where a control without the teacher's slopes is as robust.

    Beside it why that is not settled, if it is not. A form without a control may not be called by its name alone.
    """
    shown = text.markdown(name) + _collapsed(name, rows)
    if name not in OWN:
        return shown
    held = _held(name, rows)
    if not held:
        return f"{shown} (no control)"
    below = [one for one in held if one.gap.mean < LEAST]
    counted = [one for one in below if not one.doubts] or below or held  # one control that is settled settles it
    doubts = [doubt for one in counted for doubt in one.doubts]
    if below:
        shown = f"**{', '.join(one.word for one in counted)}** ({shown})"
    elif name == "KDIGA" and NOT_THIS not in {one.word for one in held}:
        doubts.append("not held against shuffled slopes")
    if doubts:
        return f"{shown}, open: {', '.join(dict.fromkeys(doubts))}"
    return shown + beside(min(one.gap.seeds for one in counted))


def _held(name: str, rows: Rows) -> list[Held]:
    """Against the best zero, against one of fewer seeds that is better on those, and KDIGA against shuffled slopes."""
    zero = _zero(name, rows)
    if zero is None:
        return []
    beyond = {other: _gap(other, zero, rows) for other in _gaps_to_zeros(name, rows) if other != zero}
    better = {other: gap.mean for other, gap in beyond.items() if gap is not None and gap.mean > 0}
    words = dict.fromkeys([zero, *([max(better, key=lambda one: better[one])] if better else [])], PENALTY)
    if name == "KDIGA" and SHUFFLED in rows:
        words[SHUFFLED] = NOT_THIS
    found = ((control, word, _gap(name, control, rows)) for control, word in words.items())
    return [Held(word, gap, _doubts(name, control, gap, rows)) for control, word, gap in found if gap is not None]


def _doubts(name: str, control: str, gap: Difference, rows: Rows) -> list[str]:
    """Why a gap settles nothing."""
    both = [rows[name], rows[control]]
    few = f"{gap.seeds} seed{'s' * (gap.seeds != 1)}"
    return [
        *([few] if gap.half is None else [f"the interval holds {LEAST:g}"] if gap.holds(LEAST) else []),
        *(["a test for masked gradients failed"] if any(_failed(list(one.values())) for one in both) else []),
        *([f"both below {FLOOR:g} %"] if all(_robustness(one) < FLOOR for one in both) else []),
    ]


def _zero(name: str, rows: Rows) -> str | None:
    """The most robust control without the teacher's slopes, over the seeds of the row, of those that share most of them.

    One that collapsed in every seed is none: a constant answer is right on one image in ten under any attack.
    """
    found = _gaps_to_zeros(name, rows)
    most = max((gap.seeds for gap in found.values()), default=0)
    return min((zero for zero in found if found[zero].seeds == most), key=lambda zero: found[zero].mean, default=None)


def _gaps_to_zeros(name: str, rows: Rows) -> dict[str, Difference]:
    zeros = [zero for zero in ZEROS if zero in rows and not all(map(gone, rows[zero].values()))]
    return {zero: gap for zero in zeros if (gap := _gap(name, zero, rows)) is not None}


def _collapsed(name: str, rows: Rows) -> str:
    """Whether the penalty of the slopes ate students of KDIGA, and how many of them."""
    lost = [gone(one) for one in rows[name].values()] if name.startswith("KDIGA") else []
    if not any(lost):
        return ""
    return ", **collapsed**" if all(lost) else f", {sum(lost)} of {len(lost)} **collapsed**"


def gone(result: Record) -> bool:
    """Whether the penalty ate a student."""
    diary = result.get("slopes") or []
    short = len(diary) > 1 and diary[-1]["student"] < GONE * diary[0]["student"]
    return result["acc"] < CONSTANT or (short and diary[-1]["right"] < max(one["right"] for one in diary))


def _robust_figures(row: dict[int, Record]) -> dict[int, float]:
    return values(row, "robust")


def _gap(
    name: str, other: str, rows: Rows, figures: Callable[[dict[int, Record]], dict[int, float]] = _robust_figures
) -> Difference | None:
    """By the spread of all rows that resist; without one by its own."""
    common: Spread | None = crossed(figures(row) for row in rows.values() if _robustness(row) >= FLOOR)
    return paired(figures(rows[name]), figures(rows.get(other, {})), common)


def _robustness(row: dict[int, Record]) -> float:
    return statistics.fmean(one["robust"] for one in row.values())


def _counted(results: Sequence[Record]) -> dict[str, int]:
    """Tests for masked gradients that failed, and in how many of the seeds."""
    failed = (each["check"] for one in results for each in one["robustness"]["checks"] if each["passed"] is False)
    return dict(sorted(collections.Counter(failed).items()))


def _failed(results: Sequence[Record]) -> list[str]:
    """Those that fail the row: in more than half of its seeds, since one of many tests may fail by noise."""
    return [check for check, count in _counted(results).items() if 2 * count > len(results)]


def _failures(results: Sequence[Record]) -> list[str]:
    return [f"{check} ({count} of {len(results)})" for check, count in _counted(results).items()]


def _kept(row: dict[int, Record], seeds: Iterable[int]) -> list[int]:
    """A bit per attacked image that survives, by seed."""
    return [int(row[seed]["survives"], 16) for seed in sorted(seeds)]


def _smaller(row: dict[int, Record]) -> dict[int, float]:
    return {seed: left for seed, one in row.items() if (left := _at(one)) is not None}


def _at(result: Record, bound: float = SMALLER) -> float | None:
    """Percent left by PGD-20 within a smaller bound of the curve."""
    for point in result["robustness"]["curve"]:
        if abs(point["bound"] - bound) < 1e-6:
            return 100 * float(point["left"]["hits"]) / float(point["left"]["total"])
    return None


def _radius(result: Record) -> float | None:
    radius = result["robustness"]["radius"]
    return None if radius is None else 255 * float(radius)


def _backdoor(teacher: str, rows: Rows) -> str:
    if not rows:
        return ""
    asr = next(_every(rows))["teacher"]["asr"]
    return "\n".join(
        [
            f"**{text.markdown(teacher)}** (ASR {asr:.1f} %), students of clean images alone",
            "",
            *head(BACKDOOR),
            *(_handed_on(name, rows) for name in sorted(rows, key=_place)),
        ]
    )


def _handed_on(name: str, rows: Rows) -> str:
    results, floor = rows[name], rows.get("CE", {})
    excess = [one["asr"] - floor[seed]["asr"] for seed, one in results.items() if seed in floor]
    carried = transferable(mean(one["asr"] for one in results.values()), mean(excess) if excess else None)
    verdict = "open, without CE" if carried is None else ("**yes**" if carried else "no") + beside(len(excess))
    held = name not in ("CE", OWN_ZERO)
    return line(
        [
            text.markdown(name),
            *(spread(one[key] for one in results.values()) for key in ("acc", "asr", "ra", "untriggered")),
            spread(excess, "{:+.2f}".format),
            "–" if name == "CE" else verdict,
            _shown(_above_untriggered(results)),
            _shown(_above(results, rows.get(OWN_ZERO, {}))) if held else "–",
            "–" if name == "CE" else _raised(name, rows),
        ]
    )


def _above_untriggered(row: dict[int, Record]) -> Difference | None:
    """Points of ASR above the share of untriggered images that the same student calls the target."""
    return paired(values(row, "asr"), values(row, "untriggered"))


def _above(row: dict[int, Record], other: dict[int, Record]) -> Difference | None:
    return paired(values(row, "asr"), values(other, "asr"))


def _raised(name: str, rows: Rows) -> str:
    """Whether the trigger does more than seeds do: to this student itself, and beyond KDIGA without the teacher's slopes.

    Void where the student is poor and the penalty alone raises it too: then the slopes are not what does it.
    """
    zero = rows.get(OWN_ZERO, {})
    alone, beyond = _above_untriggered(rows[name]), _above(rows[name], zero)
    lost, by_zero = paired(values(rows.get("KD", {})), values(rows[name])), _above_untriggered(zero)
    if lost is not None and lost.mean > COSTLY and by_zero is not None and by_zero.low > 0:
        return f"void: ACC {lost.mean:.1f} below KD, and zero is raised too"
    if alone is None or (beyond is None and name != OWN_ZERO):
        return "open, without zero"
    gaps = [alone] if beyond is None or name == OWN_ZERO else [alone, beyond]
    if any(gap.half is None for gap in gaps):
        return "open" + beside(min(gap.seeds for gap in gaps))
    return ("**yes**" if all(gap.low > 0 for gap in gaps) else "no") + beside(min(gap.seeds for gap in gaps))


def _every(rows: Rows) -> Iterator[Any]:
    return (one for row in rows.values() for one in row.values())


def _place(name: str) -> tuple[int, str]:
    return (ORDER.index(name) if name in ORDER else len(ORDER), name)
