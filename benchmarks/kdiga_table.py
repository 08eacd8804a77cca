"""KDIGA's tables: accuracy left under attack beside the controls of the teacher's slopes, and what backdoored teachers hand on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.main_job_table import head, line, mean, provenance, spread
from edgekd.report import text
from edgekd.report.transferability import beside, transferable

Record = dict[str, Any]
Rows = dict[str, dict[int, Record]]  # row -> seed -> result
CONTROLS = {"KDIGA": "KDIGA, zero", "KDIGA, paper": "KDIGA, paper, zero"}
SHUFFLED = {"KDIGA": "KDIGA, shuffled"}
LEAST = 2.0  # points above the control with zeroed slopes, below which the teacher's slopes add nothing
PENALTY = "gradient penalty"
ORDER = (
    "teacher",
    "CE",
    "KD",
    "KDIGA",
    "KDIGA, zero",
    "KDIGA, shuffled",
    "KDIGA, paper",
    "KDIGA, paper, zero",
    "IGDM",
    "PGD-AT",
)
ROBUST = ("row", "ACC %", "left under attack %", "gap to zero", "gap to shuffled", "at 2/255 %", "radius × 255", "cosine", "tests failed", "minutes")  # fmt: skip
BACKDOOR = ("row", "ACC %", "ASR %", "excess", "carried over")


def tables(records: Sequence[Record]) -> str:
    """Mean [lowest to highest] over seeds; gaps and excesses over the seeds that both have."""
    found: dict[tuple[str, str], Rows] = {}
    for record in records:
        config = record["config"]
        rows = found.setdefault((config["part"], config["teacher"]), {})
        rows.setdefault(config["row"], {})[config["seed"]] = record["result"]
    parts = [_robust(*key, found[key]) for key in sorted(found, reverse=True) if key[0] == "robust"]
    parts += [_backdoor(*key, found[key]) for key in sorted(found) if key[0] == "backdoor"]
    return "\n\n".join([*parts, provenance(records)])


def _robust(_: str, teacher: str, rows: Rows) -> str:
    result = _any(rows)
    table = result["robustness"]
    head_line = (
        f"**{text.markdown(teacher)}** (ACC {result['teacher_acc']:.1f} %), {table['robust']['total']:,} test images, "
        f"tier {table['tier']}, largest change {255 * table['bound']:g}/255"
    )
    return "\n".join([head_line, "", *head(ROBUST), *(_robust_line(name, rows) for name in sorted(rows, key=_place))])


def _robust_line(name: str, rows: Rows) -> str:
    results = list(rows[name].values())
    failed = sorted(
        {check["check"] for one in results for check in one["robustness"]["checks"] if check["passed"] is False}
    )
    return line(
        [
            called(name, rows),
            spread(one["acc"] for one in results),
            spread(one["robust"] for one in results),
            *(
                spread(_gaps(name, rows, controls), "{:+.2f}".format) if name in controls else "–"
                for controls in (CONTROLS, SHUFFLED)
            ),
            spread(_at(one, 2 / 255) for one in results),
            spread((_radius(one) for one in results), "{:.2f}".format),
            spread((one["slopes"][0]["cosine"] if one["slopes"] else None for one in results), "{:.2f}".format)
            if any(one["slopes"] for one in results)
            else "–",
            text.markdown(", ".join(failed)) or "none",
            spread((one["seconds"] / 60 for one in results), "{:.1f}".format) if name != "teacher" else "–",
        ]
    )


def called(name: str, rows: Rows) -> str:
    """A row's name: KDIGA is a gradient penalty where its control without the teacher's slopes is as robust.

    Forms of KDIGA without such a control may not be called by its name alone.
    """
    if name not in CONTROLS:
        is_control = name in (*CONTROLS.values(), *SHUFFLED.values())
        return text.markdown(name) + (" (no control)" if name.startswith("KDIGA") and not is_control else "")
    gaps = _gaps(name, rows, CONTROLS)
    gap = mean(gaps) if gaps else None
    if gap is None:
        return f"{text.markdown(name)} (no control)"
    said = text.markdown(name) if gap >= LEAST else f"**{PENALTY}** ({text.markdown(name)})"
    return said + beside(len(gaps))


def _gaps(name: str, rows: Rows, controls: dict[str, str]) -> list[float]:
    """Points above the row's control of the same seed."""
    control = rows.get(controls[name], {})
    return [one["robust"] - control[seed]["robust"] for seed, one in rows[name].items() if seed in control]


def _at(result: Record, bound: float) -> float | None:
    """Percent left by PGD-20 within a smaller bound of the curve."""
    for point in result["robustness"]["curve"]:
        if abs(point["bound"] - bound) < 1e-6:
            return 100 * float(point["left"]["hits"]) / float(point["left"]["total"])
    return None


def _radius(result: Record) -> float | None:
    radius = result["robustness"]["radius"]
    return None if radius is None else 255 * float(radius)


def _backdoor(_: str, teacher: str, rows: Rows) -> str:
    result = _any(rows)
    lines = [
        f"**{text.markdown(teacher)}** (ASR {result['teacher_asr']:.1f} %), students of clean images alone",
        "",
        *head(BACKDOOR),
    ]
    floor = rows.get("CE", {})
    for name in sorted(rows, key=_place):
        results = rows[name]
        excess = [one["asr"] - floor[seed]["asr"] for seed, one in results.items() if seed in floor]
        carried = transferable(mean(one["asr"] for one in results.values()), mean(excess) if excess else None)
        verdict = "open, without CE" if carried is None else ("**yes**" if carried else "no") + beside(len(excess))
        lines.append(
            line(
                [
                    text.markdown(name),
                    spread(one["acc"] for one in results.values()),
                    spread(one["asr"] for one in results.values()),
                    spread(excess, "{:+.2f}".format),
                    "–" if name == "CE" else verdict,
                ]
            )
        )
    return "\n".join(lines)


def _any(rows: Rows) -> Record:
    return next(iter(next(iter(rows.values())).values()))


def _place(name: str) -> tuple[int, str]:
    return (ORDER.index(name) if name in ORDER else len(ORDER), name)
