"""The command line: one file per command, each of which parses, calls and prints.

Nothing heavy is imported before a command runs, so that ``edgekd --help`` answers at once.
"""

from __future__ import annotations

import io
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

import typer

from .. import __version__
from ..errors import EdgekdError
from . import attack, audit, bench, compress, convert, demo, distill, doctor, export, listing, report, sign

app = typer.Typer(
    name="edgekd",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Distil a teacher that you do not trust into a small INT8 student, and prove what it does: ACC, "
    "attack success rate (ASR), size and latency of the very file that ships.\n\nStart with [bold]edgekd "
    "demo[/bold]; then [bold]edgekd compress teacher.pt --data DIR[/bold].",
    epilog="Exit codes: 0 ok · 1 a gate failed · 2 usage or bad input · 3 unsafe input refused · 4 environment · "
    "5 internal error · 130/143 interrupted.",
)

for module in (compress, demo, audit, attack, distill, export, bench, report, convert, sign, listing, doctor):
    module.register(app)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"edgekd {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", metavar="", callback=_version, is_eager=True, help="Print the version."
    ),
) -> None:
    pass


def main() -> None:
    """Run the command line and end the process with the exit code that the outcome asks for."""
    signal.signal(signal.SIGTERM, _terminated)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that knows no ≤ still gets its answer
    sys.exit(run(sys.argv[1:]))


# typer carries a copy of click since 0.20 and used the package before: this is the base of either's errors.
BAD_COMMAND_LINE: type[Any] = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")


class Terminated(BaseException):
    """SIGTERM arrived; what is atomic is finished, the rest is resumed by the next call."""


def _plain_help(command: Any) -> None:
    """--help without the word <bool>, as our own flags are shown."""
    option = command.get_help_option(command.context_class(command))
    if option is not None:
        option.metavar = ""


def _terminated(number: int, frame: Any) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    raise Terminated


def run(arguments: list[str]) -> int:
    """The exit code of one command line; messages go to standard error."""
    try:
        # not app(...), which has ideas of its own about interrupts and broken pipes
        command = typer.main.get_command(app)
        for one in (command, *getattr(command, "commands", {}).values()):
            _plain_help(one)
        with command.make_context("edgekd", list(arguments), obj=arguments) as context:
            code = command.invoke(context)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except typer.Exit as ending:
        return ending.exit_code
    except BAD_COMMAND_LINE as error:
        return _wrong(error)
    except (KeyboardInterrupt, typer.Abort):
        return _say("Interrupted. Run the same command again to continue where it stopped.", 130)
    except Terminated:
        return _say("Terminated. Run the same command again to continue where it stopped.", 143)
    except EdgekdError as error:
        return _say(str(error), error.exit_code)
    except BrokenPipeError:
        return _nobody_reads()
    except SystemExit as ending:
        if isinstance(ending.__context__, BrokenPipeError):  # how rich answers a reader that went away
            return _nobody_reads()
        return _say(
            f"The code of a network ended the process ({ending.code}). Check what --arch or --student names.", 2
        )
    except MemoryError:
        return _say("Out of memory. Use fewer or smaller images, or a smaller batch: -o train.batch_size=64.", 4)
    except Exception:
        return _internal(arguments)


def _wrong(error: Any) -> int:
    """One line for what does not parse, and where the help is; the help itself for a command line of nothing."""
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError" and context is not None:
        print(context.get_help())
        return 2
    place = "edgekd" if context is None else context.command_path
    message = error.format_message().replace("Value error, ", "").rstrip(".")
    return _say(f"{message}{'' if message.endswith('?') else '.'} See `{place} --help`.", 2)


def _nobody_reads() -> int:
    # no more output, and none when Python closes it
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _say(message: str, code: int) -> int:
    # A file's own words may stand in the message: control characters must not reach the terminal.
    clean = "".join(c if c.isprintable() or c == "\n" else "?" for c in message)
    print(f"edgekd: {clean}", file=sys.stderr)
    return code


def _internal(arguments: list[str]) -> int:
    from ..files import write_text

    words = " ".join(Path(word).name if os.sep in word else word for word in arguments)
    text = f"edgekd {__version__}\ncommand: {words}\n\n{traceback.format_exc()}"
    if os.environ.get("EDGEKD_DEBUG"):
        print(text, file=sys.stderr)
    try:
        file = write_text(Path.cwd() / "edgekd-error.txt", text)
        return _say(f"Something broke inside edgekd. Please report it with the file {file.name} in this folder.", 5)
    except EdgekdError:
        return _say("Something broke inside edgekd:\n" + text, 5)
