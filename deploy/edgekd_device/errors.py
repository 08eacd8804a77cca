"""What can go wrong, and the exit code each kind ends with.

EdgekdError                5  something broke inside edgekd
├── GateFailed             1  a measured figure missed the limit that the user set
├── UsageError             2  bad argument, bad data, bad configuration
├── UnsafeInput            3  a file that could run code or reach outside itself
└── EnvironmentFault       4  disk, lock, missing runtime, engine

A user's mistake is one message that says what to do next and is printed without a traceback.
"""


class EdgekdError(Exception):
    exit_code = 5


class GateFailed(EdgekdError):
    exit_code = 1


class UsageError(EdgekdError):
    exit_code = 2


class UnsafeInput(EdgekdError):
    exit_code = 3


class EnvironmentFault(EdgekdError):
    exit_code = 4
