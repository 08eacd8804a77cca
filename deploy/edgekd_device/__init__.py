"""The half of edgekd that runs on the board: numpy, the standard library and one inference runtime."""

__version__ = "0.1.0"
