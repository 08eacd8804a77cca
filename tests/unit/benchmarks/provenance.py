"""What every made-up record says of where it was made."""

ABOUT = {
    "commit": "c0ffee",
    "dirty": False,
    "hardware": {"cpu": "cpu", "cores_usable": 2},
    "versions": {"torch": "2", "onnxruntime": "1"},
    "load_average": 0.1,
}
