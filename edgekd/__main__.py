"""The entry of the `edgekd` command."""

import os

from .cli import main as _main

__all__ = ["main"]


def main() -> None:
    """Run the command line in a process whose threads wait kindly.

    libgomp reads these when torch loads it. By default it spins while it waits and starves its neighbours: one busy
    process beside a training takes it to a fiftieth. A short spin costs nothing when alone.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    _main()


if __name__ == "__main__":
    main()
