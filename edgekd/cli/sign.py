"""edgekd sign: a key of one's own vouches for a bundle."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from . import options, screen


def register(app: typer.Typer) -> None:
    examples = options.examples("edgekd sign runs/mine/bundle --key key.pem")
    app.command(rich_help_panel="Tools", epilog=examples)(sign)


def sign(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="The folder that `compress` or `export` wrote.")],
    key: Annotated[
        Path,
        typer.Option(
            "--key",
            metavar="FILE",
            help="Elliptic-curve private key (P-256, P-384, P-521) in PEM form; if it is encrypted, you are asked for "
            "its password.",
        ),
    ],
    json_: options.Json = False,
) -> None:
    """Sign a bundle's manifest, and with it every file, with your own key: OpenSSF model-signing, without a network.

    The board checks it with the public half: edgekd-device check BUNDLE --public-key pub.pem. Needs the extra edgekd\\[sign].
    """
    from edgekd_device.bundle import SIGNATURE

    from ..export import sign as signing

    try:
        sha256 = signing.sign(bundle, key)
    except signing.Locked:
        if not sys.stdin.isatty():
            raise
        password = typer.prompt(f"Password of {key.name}", hide_input=True, err=True)
        sha256 = signing.sign(bundle, key, password)
    written = bundle / SIGNATURE
    if json_:
        screen.print_json({"signature": str(written), "public_key_sha256": sha256})
    else:
        typer.echo(f"signed    {written}\npublic key  sha256 {sha256}")
