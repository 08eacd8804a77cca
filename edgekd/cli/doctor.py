"""edgekd doctor: is everything here that a run needs?"""

from __future__ import annotations

import platform
import shutil
import sys
from importlib import import_module
from pathlib import Path

import typer

from . import options, screen

NEEDED = ("torch", "torchvision", "onnx", "onnxscript", "onnxslim", "onnxruntime", "safetensors", "matplotlib")
X86 = ("x86_64", "amd64")
VNNI = ("avx512_vnni", "avx_vnni")  # as Linux spells the processor's flags


def register(app: typer.Typer) -> None:
    app.command(rich_help_panel="Tools")(doctor)


def doctor(json_: options.Json = False) -> int:
    """Check packages, memory, disk and runtimes, and say how to fix each problem. Exit 4 when something is missing."""

    rows = [*_packages(), *_machine(), *_vnni(), _reader()]
    sound = all(row["state"] != "missing" for row in rows)
    if json_:
        screen.print_json({"ok": sound, "checks": rows})
    else:
        for row in rows:
            mark = {"ok": "ok     ", "missing": "MISSING", "note": "note   "}[row["state"]]
            typer.echo(
                f"{mark}  {row['check']:<22} {row['found']}" + (f"\n         → {row['do']}" if row["do"] else "")
            )
    return 0 if sound else 4


def _check(check: str, state: str, found: str, do: str = "") -> dict[str, str]:
    return {"check": check, "state": state, "found": found, "do": do}


def _packages() -> list[dict[str, str]]:
    from importlib.metadata import version  # here, because `edgekd --help` must not wait for it

    rows = []
    for name in NEEDED:
        try:
            if name == "torchvision":
                from ..models.vision import load_torchvision

                load_torchvision()
            else:
                import_module(name)
            rows.append(_check(name, "ok", version(name)))
        except Exception as error:  # a broken binary package can fail in any way while it is imported
            rows.append(_check(name, "missing", type(error).__name__, f"pip install -c constraints.txt {name}"))
    for name, why in (
        ("tensorrt", "needed only where engines are built and run: on a Jetson, or here for the target cuda"),
        ("sklearn", "pip install 'edgekd[demo]'"),
    ):
        try:
            import_module(name)
            rows.append(_check(name, "ok", "installed"))
        except ImportError:
            rows.append(_check(name, "note", "not installed", why))
    return rows


def _machine() -> list[dict[str, str]]:
    import torch

    from ..training.device import cpu_has_bf16

    free = shutil.disk_usage(Path.cwd()).free >> 20
    rows = [
        _check("python", "ok", sys.version.split()[0]),
        _check(
            "disk",
            "ok" if free > 2048 else "note",
            f"{free:,} MiB free here",
            "" if free > 2048 else "a run needs about 2 GiB",
        ),
        _check("cpu threads", "ok", str(torch.get_num_threads())),
    ]
    if torch.cuda.is_available():
        rows.append(_check("cuda", "ok", torch.cuda.get_device_name(0)))
    else:
        rows.append(_check("cuda", "note", "no GPU", "training runs on the CPU; --profile fast is made for it"))
    if not cpu_has_bf16():
        rows.append(_check("cpu bf16", "note", *_without_bf16()))
    return rows


def _without_bf16() -> tuple[str, str]:
    """What is found, and what follows: only of x86 it is known."""
    if platform.machine().lower() in X86:
        return "not there", "training on the CPU runs in fp32, since bf16 would be emulated"
    return "not known", "training on the CPU runs in fp32; set -o train.precision=bf16 if the processor supports it"


def _vnni(cpuinfo: Path = Path("/proc/cpuinfo")) -> list[dict[str, str]]:
    """Whether the processor adds up eight-bit products without saturating; x86 alone knows both kinds."""
    if platform.machine().lower() not in X86:
        return []
    try:
        text = cpuinfo.read_text("utf-8", errors="replace")
    except OSError:  # another operating system
        text = ""
    flags = next((line.partition(":")[2].split() for line in text.splitlines() if line.startswith("flags")), [])
    if not flags:
        return [_check("cpu int8", "note", "not known")]
    found = [flag for flag in VNNI if flag in flags]
    if found:
        return [_check("cpu int8", "ok", ", ".join(found))]
    advice = "no VNNI: set -o quantize.reduce_range=true, or products of model.u8s8.onnx saturate here"
    return [_check("cpu int8", "note", "eight-bit products saturate", advice)]


def _reader() -> dict[str, str]:
    """What holds around the process that reads strangers' files."""
    from .. import checkpoints
    from ..errors import EdgekdError

    try:
        held = checkpoints.protections()
    except EdgekdError as error:
        return _check("reader", "missing", "the confined child process does not start", str(error))
    if "system calls filtered" in held:
        return _check("reader", "ok", ", ".join(held))
    advice = "system calls are not filtered here: open strangers' files in a container or a virtual machine"
    return _check("reader", "note", ", ".join(held), advice)
