"""edgekd list: what there is to choose from."""

from __future__ import annotations

from enum import Enum
from itertools import groupby
from typing import Annotated, Any

import typer

from . import options, screen


class Kind(str, Enum):
    methods = "methods"
    sources = "sources"
    repairs = "repairs"
    attacks = "attacks"
    targets = "targets"
    models = "models"
    triggers = "triggers"
    settings = "settings"


def register(app: typer.Typer) -> None:
    examples = options.examples("edgekd list models", "edgekd list settings", "edgekd list targets --json")
    app.command("list", rich_help_panel="Tools", epilog=examples)(listing)


def listing(
    kind: Annotated[
        Kind,
        typer.Argument(
            metavar="KIND", help="methods, sources, repairs, attacks, targets, models, triggers or settings."
        ),
    ],
    json_: options.Json = False,
) -> None:
    """List distillation methods, image sources for runs without data, teacher repairs, attacks, deployment targets, networks, trigger families, or every setting of -c and -o."""
    makers = {
        "methods": _methods,
        "sources": _sources,
        "repairs": _repairs,
        "attacks": _attacks,
        "targets": _targets,
        "models": _models,
        "triggers": _triggers,
        "settings": _settings,
    }
    rows = makers[kind.value]()
    if json_:
        screen.print_json(rows)
        return
    out = screen.console()
    if kind is Kind.models:
        # what is said of a family is said once
        for about, members in groupby(rows, key=lambda row: str(row["about"])):
            out.print(f"\n{about}", style="dim")
            out.print(_table([{key: row[key] for key in ("model", "images", "parameters", "macs")} for row in members]))
        return
    if kind is not Kind.targets:
        out.print(_table(rows))
    else:
        _print_targets(out, rows)
        out.print(
            "\nMeasure tensorrt files on a machine with an NVIDIA GPU: `edgekd bench BUNDLE`. Elsewhere `edgekd "
            "bench BUNDLE --runtime onnxruntime` gives their ACC and ASR.",
            style="dim",
        )
    if kind is Kind.settings:
        out.print("\n" + _profiles(), style="dim")
    if kind is Kind.triggers:
        from ..triggers import BATTERY

        out.print(
            f"\nThe canary battery tries {len(BATTERY)} attacks built from these: {', '.join(BATTERY)}.", style="dim"
        )


def _table(rows: list[dict[str, Any]]) -> Any:
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for name, value in rows[0].items():
        number = isinstance(value, int)
        table.add_column(name, justify="right" if number else "left", min_width=20 if name == "model" else 13 * number)
    for row in rows:
        table.add_row(*(f"{value:,}" if isinstance(value, int) else str(value) for value in row.values()))
    return table


def _summary(text: str | None) -> str:
    return (text or "").strip().splitlines()[0].rstrip(".") if text else ""


def _methods() -> list[dict[str, Any]]:
    from ..distill import METHODS

    return _by_module("method", METHODS)


def _sources() -> list[dict[str, Any]]:
    from ..datafree import SOURCES

    return _by_module("source", SOURCES)


def _repairs() -> list[dict[str, Any]]:
    from ..repair import REPAIRS

    return _by_module("repair", REPAIRS)


def _attacks() -> list[dict[str, Any]]:
    from ..attacks import ATTACKS, SABOTAGE
    from ..attacks.run import attack_class

    rows = _by_module("attack", {**ATTACKS, **SABOTAGE})
    for row in rows:
        needs = row["attack"] in SABOTAGE or attack_class(row["attack"]).learned
        row["starts from"] = "a clean network: --start" if needs else "fresh weights, or --start"
    return rows


def _by_module(heading: str, table: dict[str, str]) -> list[dict[str, Any]]:
    """Name and the first line of its module's docstring, for every row of a static table."""
    from importlib import import_module

    found = ((name, import_module(place.partition(":")[0])) for name, place in table.items())
    return [{heading: name, "what it does": _summary(module.__doc__)} for name, module in found]


def _targets() -> list[dict[str, Any]]:
    from ..targets import TARGETS

    return [
        {
            "target": name,
            "runtime": target.runtime,
            "precision": target.precision,
            "ships": target.ships,
            "files": list(target.files),
            "JetPack": [system._asdict() for system in target.jetpacks],
            "DLA": target.dla,
            "power modes": list(target.power_modes),
            "about": target.description,
        }
        for name, target in TARGETS.items()
    ]


def _print_targets(out: Any, rows: list[dict[str, Any]]) -> None:
    """What is made for each target, then what there is to know of the boards and of the systems they run."""
    out.print(_table([{key: row[key] for key in ("target", "runtime", "precision", "ships", "about")} for row in rows]))
    boards = [row for row in rows if row["power modes"]]
    systems = {system["version"]: system for row in boards for system in row["JetPack"]}
    facts = [
        {
            "board": row["target"],
            "JetPack": " or ".join(system["version"] for system in row["JetPack"]),
            "DLA": row["DLA"] or "none",
            "power modes": ", ".join(row["power modes"]),
        }
        for row in boards
    ]
    headings = ("JetPack", "TensorRT", "CUDA", "Python")
    brought = [dict(zip(headings, systems[version].values(), strict=True)) for version in sorted(systems)]
    for table in (facts, brought):
        out.print()
        out.print(_table(table))


def _models() -> list[dict[str, Any]]:
    from ..models import zoo

    return zoo()


def _triggers() -> list[dict[str, Any]]:
    from importlib import import_module

    from ..triggers import FAMILIES

    return [{"family": name, "what it is": _summary(import_module(place).__doc__)} for name, place in FAMILIES.items()]


def _settings() -> list[dict[str, Any]]:
    from ..attacks import ATTACKS, SABOTAGE
    from ..attacks.run import settings_of
    from ..config import RunConfig, method_config, settings
    from ..datafree import SOURCES
    from ..datafree.run import source_class
    from ..distill import METHODS, AbdSettings
    from ..given import DERIVED
    from ..repair import REPAIRS
    from ..repair.run import repair_class

    groups = ("distill", "source", "abd", "repair", *DERIVED)
    found = [entry for entry in settings(RunConfig) if entry[0] not in groups]
    found.append(("distill.method", "robustkd", "see `edgekd list methods`"))
    found += _shared("distill", {name: settings(method_config(name)) for name in METHODS})
    found.append(("source.name", None, "see `edgekd list sources`; only with --data none"))
    found += _shared("source", {name: settings(source_class(name).Config) for name in SOURCES})
    found += settings(AbdSettings, "abd.")
    found.append(("repair.method", None, "see `edgekd list repairs`"))
    found += _shared("repair", {name: settings(repair_class(name).Config) for name in REPAIRS})
    found.append(("attack.name", None, "see `edgekd list attacks`; only for `edgekd attack`"))
    found += _shared("attack", {name: settings(settings_of(name)) for name in (*ATTACKS, *SABOTAGE)})
    return [{"setting": key, "default": "" if v is None else str(v), "what it is": about} for key, v, about in found]


def _profiles() -> str:
    """What a profile sets: the table's defaults are those without it."""
    from ..config import PROFILES
    from ..datafree import SOURCES
    from ..datafree.run import source_class

    lines = []
    for name, preset in PROFILES.items():
        said = [f"train.{key}={value}" for key, value in preset["train"].items()]
        said += [f"distill.{key}={value} (robustkd)" for key, value in preset["robustkd"].items()]
        lines.append(f"--profile {name} sets {', '.join(said)}")
        for source in SOURCES:
            own = source_class(source).presets[name]
            said = [f"train.{key}={value}" for key, value in own["train"].items()]
            said += [f"source.{key}={value}" for key, value in own.get("source", {}).items()]
            said += [f"distill.{key}={value} (kd)" for key, value in own["kd"].items()]
            lines.append(f"without data, --source {source} with --profile {name} sets {', '.join(said)}")
    return ".\n".join([*lines, "`edgekd compress … --dry-run` shows the values that a run would use."])


def _shared(section: str, tables: dict[str, list[tuple[str, Any, str]]]) -> list[tuple[str, Any, str]]:
    """Settings of many rows as one list: each key once per default and meaning, with the rows that have it."""
    users: dict[tuple[str, str, str], list[str]] = {}
    values: dict[tuple[str, str, str], Any] = {}
    for row, entries in tables.items():
        for key, default, about in entries:
            users.setdefault((key, str(default), about), []).append(row)
            values[(key, str(default), about)] = default
    return [
        (f"{section}.{key}", values[key, default, about], f"{about} ({', '.join(rows)})".strip())
        for (key, default, about), rows in users.items()
    ]
