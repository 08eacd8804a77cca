"""What detoxification did to the teacher before the student saw it, from the training logs of a record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..types import RunRecord
from . import text
from .cells import Cell, Table, quiet

MOST_SITES = 64
COLUMNS = ("network", "λ_f", "teacher's validation ACC", "detoxified", "variance ratio per site", "sweep", "restored")
READING = (
    "Stage 1 of RobustKD: offsets on the frozen teacher's features, trained before the student. Variance "
    "ratio: variance of a site's features after over before, first site first. It should be below 1 at "
    "every site; at 1 or above, the site stayed as it was or got worse. Sweep: every λ_f tried, with the "
    "ACC of its last state. Restored: the last state lost too much ACC, so the one before was used."
)


def not_lowered(ratios: Any) -> tuple[int, ...]:
    """Sites whose variance ratio is 1.000 or more as it is printed, or no number."""
    given = ratios if isinstance(ratios, list | tuple) else ()
    return tuple(site for site, ratio in enumerate(given) if not (_is_number(ratio) and round(ratio, 3) < 1))


def warning(detox: Mapping[str, Any]) -> str | None:
    """What the record says where a site kept its variance; None where every site's fell, or nothing was detoxified."""
    ratios = detox.get("variance_ratio")
    sites = not_lowered(ratios)
    if not sites or not isinstance(ratios, list | tuple):
        return None
    found = ", ".join(f"{ratios[site]:.3f} at site {site}" for site in sites)
    return (
        f"Detoxification did not lower the variance of the teacher's features everywhere: {found}; the ratio after to "
        "before should be below 1 at every site."
    )


def table(record: RunRecord) -> Table:
    """One row per network that was distilled from a detoxified teacher; its ``method`` log may be anybody's."""
    rows = []
    for name, log in record.training.items():
        method = log.get("method") if isinstance(log, Mapping) else None
        detox = method.get("detox") if isinstance(method, Mapping) else None
        if isinstance(detox, Mapping):
            rows.append(_row(name, detox))
    return Table(COLUMNS, tuple(rows), READING)


def _row(name: str, detox: Mapping[str, Any]) -> tuple[Cell, ...]:
    after = quiet(_share(detox.get("acc_detox")))
    if detox.get("within_max_drop") is False:
        after = Cell(after.text, ("lost more than max_drop allows",), "warn")
    restored = next((word for word, is_it in (("yes", True), ("no", False)) if detox.get("restored") is is_it), None)
    return (
        Cell(text.clean(name), () if detox.get("steps") is None else (f"{text.figure(detox['steps'])} steps",)),
        quiet(text.short(detox.get("lambda_f"))),
        quiet(_share(detox.get("acc_raw"))),
        after,
        _ratios(detox),
        quiet(_sweep(detox.get("sweep"))),
        quiet(restored or text.NOT_MEASURED),
    )


def _ratios(detox: Mapping[str, Any]) -> Cell:
    ratios, edited = detox.get("variance_ratio"), detox.get("offset_norm")
    if not isinstance(ratios, list | tuple) or not ratios:
        return quiet(text.NOT_MEASURED)
    ratios = ratios[:MOST_SITES]
    kept = not_lowered(ratios)
    details = [f"not below 1 at site {_listed(kept)}"] if kept else []
    if isinstance(edited, Mapping):
        left = [site for site in range(len(ratios)) if str(site) not in edited]
        details += [f"not edited: site {_listed(left)}"] if left else []
    shown = ", ".join(f"{ratio:.3f}" if _is_number(ratio) else text.NOT_MEASURED for ratio in ratios)
    return Cell(shown, tuple(details), "warn" if kept else "")


def _listed(sites: Sequence[int]) -> str:
    return ", ".join(map(str, sites))


def _sweep(tried: Any) -> str:
    steps = [step for step in tried if isinstance(step, Mapping)] if isinstance(tried, list | tuple) else []
    said = (f"{text.short(step.get('lambda_f'))}: {_share(step.get('acc'))}" for step in steps[:MOST_SITES])
    return "; ".join(said) or text.NOT_MEASURED


def _share(value: Any) -> str:
    return f"{100 * value:.2f} %" if _is_number(value) else text.NOT_MEASURED


def _is_number(value: Any) -> bool:
    """A number that is one: not a truth value, not NaN."""
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value
