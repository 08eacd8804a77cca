"""How much a stranger's file may cost us."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1 << 20


@dataclass(frozen=True)
class Limits:
    """Bounds for one file; bytes, seconds and counts. A file over a bound is refused, never read in part."""

    file_bytes: int = 2048 * MIB
    seconds: float = 30.0  # wall clock and processor time, before the allowance for large files
    memory_bytes: int = 768 * MIB  # address space of the child, before the allowance for large files

    def seconds_for(self, size: int) -> float:
        """Seconds that a file of ``size`` bytes may take: the base and one more per 10 MiB."""
        return self.seconds + size / (10 * MIB)

    def memory_for(self, size: int) -> int:
        """Address space in bytes for a file of ``size`` bytes: the base, the file, its parsed form and copies."""
        return self.memory_bytes + 8 * size

    def answer_for(self, size: int) -> int:
        """Bytes that the child may send back: tensors may be repeated, but a small file must not swell without end."""
        return MIB + 8 * size


PICKLE_BYTES = 16 * MIB  # the pickle beside the storages
BATCH_PICKLE_BYTES = 256 * MIB  # a CIFAR batch is one pickle with the images inside
OPCODES = 2_000_000
STRING_CHARACTERS = 1 << 16
MEMBERS = 20_000
TENSORS = 20_000
RANK = 8
DIMENSION = 1 << 31
EMPTY = 1 << 16  # product of the other sizes of a tensor of no numbers: what is built after it takes no file to back it
NESTING = 6  # wrappings around a state dict
HEADER_BYTES = 8 * MIB  # a safetensors header
METADATA_ENTRIES = 64
METADATA_CHARACTERS = 200
