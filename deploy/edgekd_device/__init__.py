"""The half of edgekd that runs on the board: numpy, the standard library and one inference runtime."""

import os

# onnxruntime 1.31 and newer tell their maker of every session and keep an identifier in the home folder, unless told not to
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"
