"""What the child gives up before it reads a byte of a stranger's file: memory, time, files, network, other programs.

Each layer is used where the platform has it: resource limits everywhere; on Linux also an empty network, a filter of
system calls (x86-64, AArch64) and death with the parent. `confine` says which of them hold.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import resource
import signal
import struct
import sys
from typing import Any

_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 22, 38
_SECCOMP_MODE_FILTER = 2
_OPEN_FILES = 64

# system call -> its number on x86-64 and on AArch64 (-1: it does not exist there)
_DENIED = {
    "socket": (41, 198),
    "socketpair": (53, 199),
    "connect": (42, 203),
    "bind": (49, 200),
    "accept": (43, 202),
    "sendto": (44, 206),
    "sendmsg": (46, 211),
    "sendmmsg": (307, 269),
    "execve": (59, 221),
    "execveat": (322, 281),
    "fork": (57, -1),
    "vfork": (58, -1),
    "clone": (56, 220),
    "clone3": (435, 435),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "pidfd_getfd": (438, 438),
    "kill": (62, 129),
    "tkill": (200, 130),
    "tgkill": (234, 131),
    "pidfd_send_signal": (424, 424),
    "openat2": (437, 437),
    "open_by_handle_at": (304, 265),
    "creat": (85, -1),
    "mkdir": (83, -1),
    "mkdirat": (258, 34),
    "rmdir": (84, -1),
    "unlink": (87, -1),
    "unlinkat": (263, 35),
    "rename": (82, -1),
    "renameat": (264, 38),
    "renameat2": (316, 276),
    "link": (86, -1),
    "linkat": (265, 37),
    "symlink": (88, -1),
    "symlinkat": (266, 36),
    "mknod": (133, -1),
    "mknodat": (259, 33),
    "truncate": (76, 45),
    "chmod": (90, -1),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, -1),
    "fchown": (93, 55),
    "fchownat": (260, 54),
    "lchown": (94, -1),
    "utimensat": (280, 88),
    "utime": (132, -1),
    "utimes": (235, -1),
    "futimesat": (261, -1),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "setxattrat": (463, 463),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    "removexattrat": (466, 466),
    # what acts on other processes of the user, its own parent first
    "prlimit64": (302, 261),
    "setpriority": (141, 140),
    "ioprio_set": (251, 30),
    "sched_setaffinity": (203, 122),
    "sched_setscheduler": (144, 119),
    "sched_setattr": (314, 274),
    "sched_setparam": (142, 118),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    "process_madvise": (440, 440),
    # what outlives it or is shared with others
    "shmget": (29, 194),
    "msgget": (68, 186),
    "semget": (64, 190),
    "mq_open": (240, 180),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "mount": (165, 40),
    "umount2": (166, 39),
    "chroot": (161, 51),
    "pivot_root": (155, 41),
    "unshare": (272, 97),
    "setns": (308, 268),
    "bpf": (321, 280),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "keyctl": (250, 219),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "memfd_create": (319, 279),
}
_MACHINES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}  # the kernel's name for it, column above
_OPENAT = (257, 56)
_OPEN = (2, -1)
_WRITES = 0o20001103  # O_WRONLY | O_RDWR | O_CREAT | O_TRUNC | O_TMPFILE
_ALLOW, _DENY, _KILL = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x80000000
_LOAD, _EQUAL, _AT_LEAST, _AND, _RETURN = 0x20, 0x15, 0x35, 0x54, 0x06


def program(machine: str) -> bytes:
    """The filter of system calls for ``machine`` in the kernel's form: EPERM for what is denied."""
    arch, column = _MACHINES[machine]
    steps: list[tuple[int, int, int, int]] = [
        (_LOAD, 0, 0, 4),  # the call table
        (_EQUAL, 1, 0, arch),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, 0),  # the number of the call
        (_AT_LEAST, 0, 1, 0x40000000),  # x32 calls of x86-64: the same work under other numbers
        (_RETURN, 0, 0, _DENY),
    ]
    for numbers in _DENIED.values():
        if numbers[column] >= 0:
            steps += [(_EQUAL, 0, 1, numbers[column]), (_RETURN, 0, 0, _DENY)]
    for numbers, flags in ((_OPENAT, 32), (_OPEN, 24)):  # where the flags lie among the arguments
        if numbers[column] >= 0:
            steps += [
                (_EQUAL, 0, 4, numbers[column]),
                (_LOAD, 0, 0, flags),
                (_AND, 0, 0, _WRITES),
                (_EQUAL, 1, 0, 0),
                (_RETURN, 0, 0, _DENY),
                (_LOAD, 0, 0, 0),
            ]
    steps.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("<HBBI", *step) for step in steps)


def limit(seconds: float, memory_bytes: int, resources: Any = resource) -> None:
    """Lower the limits of this process; no file may grow, no core is dumped, no process is started."""
    wanted = {
        "RLIMIT_AS": memory_bytes,
        "RLIMIT_CPU": max(1, round(seconds)),
        "RLIMIT_FSIZE": 0,
        "RLIMIT_NOFILE": _OPEN_FILES,
        "RLIMIT_CORE": 0,
        "RLIMIT_NPROC": 0,
    }
    for name, value in wanted.items():
        kind = getattr(resources, name, None)
        if kind is None:
            continue
        _, most = resources.getrlimit(kind)
        value = value if most == resources.RLIM_INFINITY else min(value, most)
        resources.setrlimit(kind, (value, value))


def confine(seconds: float, memory_bytes: int, libc: Any = None, machine: str = "") -> tuple[str, ...]:
    """Give up what parsing does not need; returns the names of the layers that hold."""
    held = ["limits"]
    if sys.platform == "linux":
        libc = libc or ctypes.CDLL(None, use_errno=True)
        if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) == 0:
            held.append("empty network")
        if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) == 0:  # after unshare, which clears it
            held.append("dies with its parent")
        if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0:
            held.append("no new privileges")
    limit(seconds, memory_bytes)
    machine = machine or platform.machine()
    if "no new privileges" in held and machine in _MACHINES:
        code = program(machine)
        pointer = ctypes.create_string_buffer(code, len(code))

        class Program(ctypes.Structure):
            _fields_ = (("length", ctypes.c_ushort), ("steps", ctypes.c_void_p))

        filled = Program(len(code) // 8, ctypes.addressof(pointer))
        if libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(filled), 0, 0) == 0:
            held.append("system calls filtered")
    return tuple(held)
