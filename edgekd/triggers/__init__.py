"""What an attacker puts on an image. Images are uint8 [N, C, H, W] in and out; no trigger file reaches a method."""

from edgekd.triggers.battery import BATTERY, canaries, made
from edgekd.triggers.poisoning import Chosen, choose, fingerprints
from edgekd.triggers.reading import load
from edgekd.triggers.rules import RULES, attacker_labels, counted_mask
from edgekd.triggers.stamp import FAMILIES, FROM_FILES, apply, picture

__all__ = [
    "BATTERY",
    "FAMILIES",
    "FROM_FILES",
    "RULES",
    "Chosen",
    "apply",
    "attacker_labels",
    "canaries",
    "choose",
    "counted_mask",
    "fingerprints",
    "load",
    "made",
    "picture",
]
