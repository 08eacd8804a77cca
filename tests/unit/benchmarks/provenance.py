"""What every made-up record says of where it was made, and a line of the table that is made of it."""

ABOUT = {
    "commit": "c0ffee",
    "dirty": False,
    "hardware": {"cpu": "cpu", "cores_usable": 2},
    "versions": {"torch": "2", "onnxruntime": "1"},
    "load_average": 0.1,
}


def shown(made: str, row: str) -> list[str]:
    return next(line for line in made.splitlines() if line.startswith(f"| {row} ")).strip("| ").split(" | ")
