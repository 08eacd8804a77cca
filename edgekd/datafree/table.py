"""The image sources by name; a source's module is imported when it is asked for."""

SOURCES = {
    "patches": "edgekd.datafree.patches:Patches",
    "zskt": "edgekd.datafree.zskt:AdversarialGenerator",
    "cmi": "edgekd.datafree.cmi:ContrastiveInversion",
}
