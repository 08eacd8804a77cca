"""What a refusal says: the thing that was found, and the way out."""

from __future__ import annotations

import unicodedata

WAY_OUT = (
    "Nothing in it was run. If you trust the file, extract its weights on a machine of your own that may run it: "
    'python -c "import sys, torch, safetensors.torch as s; '
    "m = torch.load(sys.argv[1], map_location='cpu', weights_only=False); "
    "m = m.state_dict() if hasattr(m, 'state_dict') else m; "
    's.save_file({k: v.clone().contiguous() for k, v in m.items()}, sys.argv[2])" IN.pt OUT.safetensors'
)
DAMAGED = "The file is cut short or damaged. Fetch it again and compare its checksum."


def printable(text: object, limit: int = 120) -> str:
    """``text`` without control, bidirectional and lone surrogate characters, at most ``limit`` characters long."""
    clean = "".join(
        character if unicodedata.category(character)[0] != "C" else "?" for character in str(text)[: limit + 1]
    )
    return clean if len(clean) <= limit else clean[: limit - 1] + "…"
