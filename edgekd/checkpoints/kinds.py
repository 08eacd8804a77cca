"""What a file is, by its first bytes; its name only has to agree."""

from __future__ import annotations

import pickletools

from ..errors import EdgekdError, UnsafeInput, UsageError
from . import zip_members
from .opcodes import quiet
from .torch_legacy import MAGIC_BYTES
from .wording import WAY_OUT, printable

# what an ending promises; other endings promise nothing
ENDINGS = {
    **dict.fromkeys((".pt", ".pth", ".th", ".ckpt", ".pkl", ".pickle", ".model"), "torch"),
    ".safetensors": "safetensors",
    ".onnx": "onnx",
    **dict.fromkeys((".engine", ".plan", ".trt"), "tensorrt"),
}
_FORMATS = {"torch-zip": "torch", "torch-legacy": "torch"}
_PROGRAMS = (b"\x7fELF", b"MZ", b"\xcf\xfa\xed\xfe", b"\xca\xfe\xba\xbe", b"#!")
_PACKED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"7z\xbc\xaf": "7z",
    b"Rar!": "rar",
}
_OTHERS = {
    b"\x89HDF": "an HDF5 file (Keras?)",
    b"GGUF": "a GGUF file",
    b"\x93NUMPY": "a numpy array",
    b"\x89PNG": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"%PDF": "a PDF",
}
_ONNX_SECOND_FIELD = (0x12, 0x1A, 0x22, 0x2A, 0x32, 0x3A, 0x42)
_ENGINES = (b"ptrt", b"ftrt")  # TensorRT's magic tags, older and newer


def kind_of(data: bytes, ending: str) -> str:
    """torch-zip | torch-legacy | safetensors | onnx.

    Raises UnsafeInput for programs, engines and foreign pickles, UsageError for what edgekd does not read and for an
    ``ending`` (".pt", lower case) that promises something else.
    """
    found = _by_content(data)
    promised = ENDINGS.get(ending)
    if found is None:
        if promised == "onnx":
            return "onnx"  # protobuf has no magic: the parser decides
        raise _unknown(data, promised)
    if promised is not None and _FORMATS.get(found, found) != promised:
        raise UsageError(
            f"Its name ends in {ending}, but its content is {found}. Check where it came from, then rename it to "
            "what it is."
        )
    return found


def _by_content(data: bytes) -> str | None:
    if data[:4] == b"PK\x03\x04":
        return "torch-zip"
    if data[:1] == b"\x80" and MAGIC_BYTES in data[:32]:
        return "torch-legacy"
    if len(data) > 9 and data[8:9] == b"{" and data[4:8] == b"\0\0\0\0":
        return "safetensors"
    if len(data) > 3 and data[0] == 0x08 and 0 < data[1] < 0x20 and data[2] in _ONNX_SECOND_FIELD:
        return "onnx"  # field 1, the format's version, then one of the fields that may follow it
    return None


def _unknown(data: bytes, promised: str | None) -> EdgekdError:
    """The error for content that is none of ours."""
    head = data[:8]
    prefixed = int.from_bytes(data[:4], "little") + 4 if data[4:5] == b"{" else 0  # JSON first, as some exporters write
    if head[:4] in _ENGINES or data[prefixed : prefixed + 4] in _ENGINES or (promised == "tensorrt" and _binary(data)):
        return UnsafeInput(
            "It is a TensorRT engine: native code for one board, which may carry libraries. edgekd loads no "
            "engine that it did not build. Give edgekd the network that the engine was built from (.pt, "
            ".safetensors or .onnx)."
        )
    if head.startswith(_PROGRAMS):
        return UnsafeInput("It is a program, not a model. It was not run.")
    if data[257:262] == b"ustar":
        return UnsafeInput("It is a tar archive; archives are not opened. Unpack it and give the file inside.")
    if data[-22:-18] == b"PK\x05\x06" and len(data) > 22:
        return zip_members.trick("other bytes stand before it")
    name = _pickled_name(data)
    if name is not None:
        return UnsafeInput(f"It is a plain pickle{name}, not a torch.save file. {WAY_OUT}")
    for magic, what in _PACKED.items():
        if head.startswith(magic):
            return UsageError(f"It is packed with {what}. Unpack it and give the file inside.")
    for magic, what in _OTHERS.items():
        if head.startswith(magic):
            return UsageError(f"It is {what}; edgekd reads torch state dicts, safetensors and ONNX.")
    if data.startswith(b"version https://git-lfs"):
        return UsageError("It is a Git LFS pointer, not the file itself. Run `git lfs pull` where it came from.")
    what = "of a kind edgekd does not know" if _binary(data) else "text"
    return UsageError(f"It is {what}; edgekd reads torch state dicts, safetensors and ONNX.")


def _binary(data: bytes) -> bool:
    try:
        data[:4096].decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start < 4090  # the sample may end inside a character
    return b"\0" in data[:4096]


def _pickled_name(data: bytes) -> str | None:
    """`` that names os.system`` when ``data`` is a pickle that does, an empty text when it names nothing, else None."""
    marked = data[:1] == b"\x80" and data[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")
    texts: list[str] = []
    names: list[str] = []
    try:
        with quiet():
            for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):
                if opcode.name in ("GLOBAL", "INST"):
                    names.append(str(argument).replace(" ", "."))
                elif opcode.name == "STACK_GLOBAL":
                    names.append(".".join(texts[-2:]))
                elif isinstance(argument, str):
                    texts.append(argument[:60])
                if marked and (names or count > 10_000):
                    break
    except Exception:  # its argument readers raise many kinds
        if not marked:
            return None  # the old text protocol has no mark: only what reads as one to its end counts
    if names:
        return f" that names {printable(names[0])}"
    return "" if marked else None
