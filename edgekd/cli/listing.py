"""edgekd list: what there is to choose from."""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Any

import typer

from . import options


class Kind(str, Enum):
    methods = "methods"
    targets = "targets"
    models = "models"
    triggers = "triggers"


def register(app: typer.Typer) -> None:
    app.command("list", rich_help_panel="Tools")(listing)


def listing(
    kind: Annotated[Kind, typer.Argument(help="What to list.")],
    json_: options.Json = False,
) -> None:
    """List distillation methods, deployment targets, network architectures or trigger families."""
    from ..files import canonical_json

    rows = {"methods": _methods, "targets": _targets, "models": _models, "triggers": _triggers}[kind.value]()
    if json_:
        typer.echo(canonical_json(rows))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(*rows[0].keys(), box=None, header_style="bold")
    for row in rows:
        table.add_row(*(f"{value:,}" if isinstance(value, int) else str(value) for value in row.values()))
    Console().print(table)


def _summary(text: str | None) -> str:
    return (text or "").strip().splitlines()[0].rstrip(".") if text else ""


def _methods() -> list[dict[str, Any]]:
    from importlib import import_module

    from ..distill import METHODS

    rows = []
    for name, place in METHODS.items():
        module = import_module(place.partition(":")[0])
        rows.append({"method": name, "what it does": _summary(module.__doc__)})
    return rows


def _targets() -> list[dict[str, Any]]:
    from ..targets import TARGETS

    return [
        {"target": name, "runtime": target.runtime, "ships": target.ships, "about": target.description}
        for name, target in TARGETS.items()
    ]


def _models() -> list[dict[str, Any]]:
    from ..models import zoo

    return zoo()


def _triggers() -> list[dict[str, Any]]:
    from importlib import import_module

    from ..triggers import FAMILIES

    return [{"family": name, "what it is": _summary(import_module(place).__doc__)} for name, place in FAMILIES.items()]
