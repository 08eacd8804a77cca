"""One engine on the GPU: batches through it, as a CUDA graph where asked for, and the GPU's own time of it."""

from __future__ import annotations

import functools
from array import array
from typing import TYPE_CHECKING, Any, Callable, Sequence

from .. import latency
from ..errors import EnvironmentFault, UsageError
from .cuda import Cuda
from .trt_build import MAX_BATCH, last_error, plain

if TYPE_CHECKING:
    import numpy as np
    import tensorrt

RING = 64  # event pairs: those of 64 inferences are read while the next 64 run
FEW = 8  # inferences that the stream takes without a wait, however many kernels each has


class TrtSession:
    """An engine with its memory. It closes ``gpu``; what goes wrong on the way is added to ``notes``.

    graphs: whether inferences are launched as CUDA graphs; False from the moment at which one could not be recorded.

    Raises UsageError for an engine that is no classifier of images, EnvironmentFault where there is no memory for it.
    """

    def __init__(
        self,
        trt: Any,
        runtime: tensorrt.Runtime,
        engine: tensorrt.ICudaEngine,
        gpu: Cuda,
        log: Any,
        notes: list[str],
        graphs: bool,
    ) -> None:
        names = [engine.get_tensor_name(k) for k in range(engine.num_io_tensors)]
        inputs = [n for n in names if engine.get_tensor_mode(n) == trt.TensorIOMode.INPUT]
        outputs = [n for n in names if engine.get_tensor_mode(n) == trt.TensorIOMode.OUTPUT]
        floats = all(engine.get_tensor_dtype(n) == trt.DataType.FLOAT for n in names)
        if len(inputs) != 1 or len(outputs) != 1 or not floats:
            raise UsageError("The model must take one float32 input and give one output. Export the bundle again.")
        self._gpu, self._log, self._notes, self.graphs = gpu, log, notes, graphs
        context: tensorrt.IExecutionContext = engine.create_execution_context()
        self._did(context is not None, "find the memory to run the engine")
        self._runtime, self._engine, self._context, self._input = runtime, engine, context, inputs[0]
        batch, *image = tuple(engine.get_tensor_shape(inputs[0]))
        self._most, self._image = MAX_BATCH if batch == -1 else 1, tuple(image)
        _, *logits = tuple(engine.get_tensor_shape(outputs[0]))
        if len(logits) != 1 or logits[0] < 1:
            raise UsageError("The model must give one row of logits per image. Export the bundle again.")
        self._size, self._classes = _product(image), logits[0]
        self._host: list[tuple[np.ndarray, np.ndarray]] = []  # pinned: in and out
        self._more_buffers()
        self._there_in = gpu.allocate(4 * self._most * self._size)
        self._there_out = gpu.allocate(4 * self._most * self._classes)
        for name, address in ((inputs[0], self._there_in), (outputs[0], self._there_out)):
            self._did(context.set_tensor_address(name, address), "take a tensor's address")
        self._shape = 0  # images of the next inference
        self._uses = 0  # how often with that many
        self._graph: Any = None
        self._rings: list[list[tuple[Any, Any]]] = []
        self._marks: tuple[Any, ...] = ()
        self._stage: np.ndarray | None = None
        self.launch_ns = array("q")  # of the processor, to give the stream one inference

    def _did(self, done: bool, what: str) -> None:
        if not done:
            raise EnvironmentFault(
                f"TensorRT does not {what}{last_error(self._log)}. Close whatever else uses the GPU, and try again."
            )

    def infer(self, images: np.ndarray) -> np.ndarray:
        """Logits float32 [N, K] of images float32 [N, C, H, W], in pieces of what the engine takes at once."""
        import numpy as np

        if images.shape[1:] != self._image or images.dtype != np.float32:
            raise UsageError(f"The model takes float32 images of shape {self._image}, not {images.shape[1:]}.")
        if len(images) <= self._most:
            return self._piece(images)
        return np.concatenate([self._piece(images[k : k + self._most]) for k in range(0, len(images), self._most)])

    def _piece(self, images: np.ndarray) -> np.ndarray:
        count = len(images)
        self._fit(count)
        host_in, host_out = self._host[0]
        host_in[: images.size] = images.reshape(-1)
        if self._graph is None:
            self._trip()
        else:
            self._gpu.launch(self._graph)
        self._gpu.wait()
        self._uses += 1
        if self._uses == 2 and self.graphs:  # TensorRT sets itself up during the first
            self._graph = self._captured(self._trip)
        found: np.ndarray = host_out[: count * self._classes].reshape(count, -1).copy()
        return found

    def _fit(self, count: int) -> None:
        """Let the next inference be of ``count`` images; a graph holds for one count only."""
        if count == self._shape:
            return
        graph, self._graph = self._graph, None
        if graph is not None:
            self._gpu.forget(graph)
        context: tensorrt.IExecutionContext = self._context
        self._did(context.set_input_shape(self._input, (count, *self._image)), f"take {count} images at once")
        missing = context.infer_shapes()
        self._did(not missing, f"know the shape of {plain(', '.join(missing))}")
        self._shape, self._uses = count, 0

    def _trip(self, buffers: int = 0) -> None:
        """In, through and out again, as the stream gets it."""
        host_in, host_out = self._host[buffers]
        self._gpu.copy_in(self._there_in, host_in[: self._shape * self._size])
        self._compute()
        self._gpu.copy_out(host_out[: self._shape * self._classes], self._there_out)

    def _compute(self) -> None:
        context: tensorrt.IExecutionContext = self._context
        self._did(context.execute_async_v3(self._gpu.stream), "run the engine")

    def _captured(self, work: Callable[[], None]) -> Any:
        """A graph of ``work``, or None where it cannot be recorded: then none is tried again."""
        try:
            return self._gpu.capture(work)
        except EnvironmentFault as error:
            self.graphs = False
            self._notes.append(f"no CUDA graph: {error}")
            return None

    def gpu_block(
        self, inputs: Sequence[np.ndarray], seconds: float, samples: int, clock: Callable[[], int]
    ) -> np.ndarray:
        """Nanoseconds [n] between two events around the engine alone; copies lie outside, and nothing waits in between."""
        import numpy as np

        waiting = self._staged(inputs[:RING])
        self._fit(len(inputs[0]))
        self._compute()  # before a graph is recorded
        self._gpu.wait()
        graph = self._captured(self._compute) if self.graphs else None
        give = self._compute if graph is None else functools.partial(self._gpu.launch, graph)
        if graph is not None:
            give()  # the first launch of a graph uploads it
            self._gpu.wait()
        rings, times = self._events(), array("d")
        before: list[tuple[Any, Any]] = []
        with latency.uncollected():
            self._launches(give, clock)
            turn, deadline = 0, clock() + int(seconds * 1e9)
            while True:
                for k, (start, end) in enumerate(rings[turn]):
                    self._gpu.copy_in(self._there_in, waiting[k % len(waiting)])
                    self._gpu.record(start)
                    give()
                    self._gpu.record(end)
                times.extend(self._gpu.elapsed_ms(start, end) for start, end in before)
                before, turn = rings[turn], 1 - turn
                if clock() >= deadline and len(times) + RING >= samples:
                    break
            times.extend(self._gpu.elapsed_ms(start, end) for start, end in before)
        if graph is not None:
            self._gpu.forget(graph)
        return np.array(np.frombuffer(times) * 1e6, np.int64)

    def _launches(self, give: Callable[[], None], clock: Callable[[], int]) -> None:
        """Time what ``give`` takes of the processor, into ``launch_ns``.

        In a pass of its own that waits again and again: a launch into a queue that is full, of about a thousand kernels,
        would take as long as the GPU does.
        """
        for k in range(RING):
            if k % FEW == 0:
                self._gpu.wait()
            begun = clock()
            give()
            self.launch_ns.append(clock() - begun)
        self._gpu.wait()

    def throughput(self, images: np.ndarray, seconds: float, clock: Callable[[], int]) -> float | None:
        """Samples per second of ``images`` float32 [B, C, H, W] given again and again, two batches in flight, by the wall clock.

        The processor fills one buffer while the GPU works on the other (card device_harness 3.6); in one stream, so that
        no copy overlaps the engine. None where the engine does not take as many at once.
        """
        if len(images) > self._most:
            return None
        while len(self._host) < 2:
            self._more_buffers()
        self._marks = self._marks or (self._gpu.event(), self._gpu.event())
        self.infer(images)  # sets the shape, and TensorRT up for it
        trips = [self._captured(functools.partial(self._trip, k)) if self.graphs else None for k in (0, 1)]
        values, turn, done = images.reshape(-1), 0, 0

        def send(turn: int) -> None:
            self._host[turn][0][: values.size] = values
            if trips[turn] is None:
                self._trip(turn)
            else:
                self._gpu.launch(trips[turn])
            self._gpu.record(self._marks[turn])

        begun = clock()
        send(turn)
        while clock() - begun < seconds * 1e9:
            turn = 1 - turn
            send(turn)
            self._gpu.reach(self._marks[1 - turn])
            done += len(images)
        self._gpu.wait()
        speed = (done + len(images)) / (clock() - begun) * 1e9
        for graph in trips:
            if graph is not None:
                self._gpu.forget(graph)
        return speed

    def _more_buffers(self) -> None:
        pair = self._gpu.pinned(self._most * self._size), self._gpu.pinned(self._most * self._classes)
        self._host.append(pair)

    def _events(self) -> list[list[tuple[Any, Any]]]:
        """Two rings of event pairs, made once."""
        if not self._rings:
            self._rings = [[(self._gpu.event(), self._gpu.event()) for _ in range(RING)] for _ in range(2)]
        return self._rings

    def _staged(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The inputs in pinned memory of their own: the stream reads them while the processor is already further."""
        size = inputs[0].size
        if self._stage is None or self._stage.size < len(inputs) * size:
            self._stage = self._gpu.pinned(len(inputs) * size)
        staged = [self._stage[k * size : (k + 1) * size] for k in range(len(inputs))]
        for place, image in zip(staged, inputs):
            place[:] = image.reshape(-1)
        return staged

    def close(self) -> None:
        """Give everything back: what runs the engine before the engine, both before the GPU's memory."""
        self._context = self._engine = self._runtime = None
        self._gpu.close()


def _product(sides: Sequence[int]) -> int:
    product = 1
    for side in sides:
        product *= side
    return product
