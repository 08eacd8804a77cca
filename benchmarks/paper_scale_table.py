"""Attacks at the size of the literature's benchmark, beside its figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks import datafree_table
from benchmarks.main_job_table import head, line, provenance
from edgekd.report import text

Record = dict[str, Any]
FIRST = "preactresnet18"  # which the published figures are of
PUBLISHED: dict[tuple[str, float | None], tuple[float | None, float]] = {  # ACC None: the card has none
    ("badnets", 0.1): (91.3, 95.0),
    ("blended", 0.1): (93.5, 99.9),
    ("lf", 0.1): (93.2, 99.3),
    ("wanet", 0.1): (91.2, 89.7),
    ("input-aware", 0.1): (90.7, 98.3),
    ("bpp", 0.1): (90.7, 99.8),
    ("trojannn", 0.1): (93.4, 100.0),
    ("sig", 0.05): (93.6, 97.1),
    ("label-consistent", 0.05): (93.5, 99.8),
    ("badnets", 0.01): (None, 74.7),
    ("blended", 0.01): (None, 94.9),
    ("wanet", 0.01): (None, 12.6),
    ("trojannn", 0.01): (None, 100.0),
}
TOLERANCE = 5.0  # points
# Without data, (source, attack) -> row -> (least ACC, most ACC, least ASR, most ASR), percent: the bands of the method card
# abd 15.2. It says "about 98" of CMI and the watermark, and gives +SR alone no band.
BANDS: dict[tuple[str, str], dict[str, tuple[float, float, float, float]]] = {
    ("zskt", "badnets"): {"plain": (70, 83, 87, 100), "+SV": (65, 83, 0, 5), "KD on clean data": (0, 100, 0, 12)},
    ("zskt", "trojan-wm"): {"plain": (70, 83, 90, 100), "+ABD": (65, 83, 0, 25), "KD on clean data": (0, 100, 0, 12)},
    ("zskt", "blended"): {"KD on clean data": (0, 100, 0, 12)},
    ("cmi", "badnets"): {"plain": (87, 89, 0, 10)},
    ("cmi", "trojan-wm"): {"plain": (87, 89, 95, 100)},
}


def without_data(records: Sequence[Record]) -> str:
    """As the small table, then every band that the card gives."""
    lines = []
    for record in records:
        config, found = record["config"], record["result"]["fp32"]
        band = BANDS.get((config["source"], config["teacher"]), {}).get(config["row"])
        if band is not None:
            low, high, least, most = band
            fits = low <= found["acc"] <= high and least <= found["asr"] <= most
            lines.append(
                f"- {config['source']}, {text.markdown(config['teacher'])}, {config['row']}: {found['acc']:.1f} / {found['asr']:.1f}, expected "
                f"{low:g} to {high:g} / {least:g} to {most:g}: {'yes' if fits else '**no**'}"
            )
    return "\n".join([datafree_table.tables(records), "", *sorted(lines)])


def tables(records: Sequence[Record]) -> str:
    """A row per teacher beside what was published."""
    lines = head(
        ["attack", "network", "rate %", "ACC %", "ASR %", "published ACC / ASR %", f"within {TOLERANCE:g} points"]
    )
    for record in sorted(
        records, key=lambda r: (r["config"]["arch"], r["config"]["attack"], -r["config"].get("rate", 0))
    ):
        config, result = record["config"], record["result"]
        known = PUBLISHED.get((config["attack"], config.get("rate"))) if config["arch"] == FIRST else None
        pairs = [] if known is None else [(result[k], v) for k, v in zip(("acc", "asr"), known, strict=True) if v]
        lines.append(
            line(
                [
                    text.markdown(config["attack"]),
                    config["arch"],
                    f"{100 * config['rate']:g}" if "rate" in config else "–",
                    *(f"{result[key]:.2f}" if key in result else "–" for key in ("acc", "asr")),
                    "–" if known is None else " / ".join("–" if v is None else f"{v:g}" for v in known),
                    "–" if not pairs else "yes" if all(abs(a - b) <= TOLERANCE for a, b in pairs) else "**no**",
                ]
            )
        )
    return "\n".join([*lines, "", provenance(records)])
