"""What both adapters to CUDA must do, on whatever GPU they are given."""

from __future__ import annotations

import numpy as np
import pytest

from edgekd_device.runtime.cuda import CHOSEN, SPINS, Cuda, CudaError


def check(gpu: Cuda) -> None:
    """Hold ``gpu`` against the protocol, and close it."""
    assert gpu.name
    assert gpu.device.name
    assert float(gpu.device.compute_capability) >= 5
    assert gpu.device.memory_bytes > 1 << 28
    assert gpu.device.processors > 0
    assert gpu.stream
    assert gpu.waits in (SPINS, CHOSEN)
    sent, received = gpu.pinned(1000), gpu.pinned(1000)
    assert sent.dtype == received.dtype == np.float32
    there = gpu.allocate(4000)
    start, end = gpu.event(), gpu.event()
    sent[:], received[:] = np.arange(1000), -1
    gpu.record(start)
    gpu.copy_in(there, sent)
    gpu.copy_out(received, there)
    gpu.record(end)
    assert gpu.elapsed_ms(start, end) >= 0
    gpu.wait()
    assert (received == np.arange(1000)).all()
    sent[:10] = 7
    gpu.copy_in(there, sent[:10])  # part of a buffer
    gpu.copy_out(received[:20], there)
    gpu.wait()
    assert received[:20].tolist() == [7] * 10 + list(range(10, 20))

    def work() -> None:
        gpu.copy_in(there, sent)
        gpu.copy_out(received, there)

    if gpu.graphs:
        graph = gpu.capture(work)
        received[:] = -1
        gpu.wait()
        assert (received == -1).all()  # nothing of it has run
        for value in (3, 4):
            sent[:] = value
            gpu.launch(graph)
            gpu.wait()
            assert (received == value).all()
        gpu.forget(graph)
        with pytest.raises(ZeroDivisionError):
            gpu.capture(lambda: print(1 / 0))
        work()  # the stream is no longer recording
        gpu.wait()
    else:
        for call in (gpu.capture, gpu.launch):
            with pytest.raises(CudaError, match="cannot record CUDA graphs"):
                call(work)
        gpu.forget(None)
    with pytest.raises(CudaError):
        gpu.allocate(1 << 50)
    gpu.close()
    gpu.close()
