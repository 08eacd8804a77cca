"""Logits of a bundle's model files on its clean probe images, by the bundle's own package; runs on Python 3.8 too.

python3 device_logits.py BUNDLE OUT.npz      one float32 [N, K] array per model file made for onnxruntime
"""

import platform
import sys
from typing import Any

BATCH = 50


def main(folder: str, out: str) -> None:
    sys.path.insert(0, folder + "/edgekd-device.pyz")
    import numpy as np

    from edgekd_device import bundle, session
    from edgekd_device.runtime import base

    contents = bundle.read(folder)
    images = bundle.probes(contents).images
    found: Any = {}
    for name in contents.models:
        if session.made_for(name) in (None, "onnxruntime"):
            runner = base.make("onnxruntime")
            runner.open(contents.model(name), 1)
            parts = [
                runner.infer(session.as_float(images[start : start + BATCH])) for start in range(0, len(images), BATCH)
            ]
            found[name] = np.concatenate(parts)
            runner.close()
    np.savez(out, **found)
    print(platform.machine(), platform.python_version(), runner.version, np.__version__)


if __name__ == "__main__":
    main(*sys.argv[1:])
