"""TensorRT on the GPU of this machine: an engine is built here once, sealed, and loaded from then on."""

from __future__ import annotations

import contextlib
import statistics
import time
from typing import TYPE_CHECKING, Any, Callable, Mapping, Sequence

from .. import environment, files, graph_facts
from ..errors import EnvironmentFault, UsageError
from . import builder, cuda, engines, trt_build, trt_layers
from .base import BUILDING, Settings
from .trt_build import Recipe, last_error
from .trt_session import TrtSession

if TYPE_CHECKING:
    import numpy as np
    import tensorrt

RESERVE = 8 << 20  # bytes that must be free besides twice the model
# Bytes of memory that must be there besides; a board shares it with the GPU, and its kernel kills what takes too much.
SPARE = 300 << 20
CAN_CHANGE = {"power_mode": "power mode", "l4t": "L4T"}  # an engine still runs, but was tuned for another
TIMINGS = "timings"  # of layers, kept beside the engines


class TrtRunner:
    """A Runner for TensorRT 10 and 11. ``notes`` and ``engine`` are those of the model opened last."""

    name = "tensorrt"

    def __init__(self, settings: Settings) -> None:
        self._trt = trt_build.library()
        self._settings = settings
        self.version: str = self._trt.__version__
        # written for flags that say which types may be used; 11 has them no more
        self.foreign: Sequence[str] = () if hasattr(self._trt.BuilderFlag, "INT8") else ("model.qdq.onnx",)
        self.notes: list[str] = []
        self.engine: dict[str, Any] | None = None
        self._session: TrtSession | None = None
        self._fresh = ""  # the engine that `prepare` built

    def prepare(self, model: bytes) -> None:
        facts = graph_facts.read(model)
        self.notes, self._log = [], trt_build.open_log(self._trt)
        with contextlib.closing(cuda.start(self._settings.cuda_graph)) as gpu:
            how = trt_build.recipe(self._trt, facts, gpu.device.memory_bytes)
            key, store = self._key(model, how, gpu.device), engines.Store()
        kept = store.load(_name(key), key)
        if kept.data is None:  # no memory of the GPU's is held but its context: the process that builds needs it
            self._built(store, model, how, key, kept.why)
            self._fresh = _name(key)

    def open(self, model: bytes, threads: int) -> None:
        if threads < 1:
            raise UsageError("--threads must be 1 or more.")
        facts = graph_facts.read(model)
        self.close()
        self.notes, self._log = self.notes if self._fresh else [], trt_build.open_log(self._trt)
        gpu = cuda.start(self._settings.cuda_graph)
        try:
            how = trt_build.recipe(self._trt, facts, gpu.device.memory_bytes)
            runtime: tensorrt.Runtime = trt_build.runtime(self._trt, self._log)
            engine: tensorrt.ICudaEngine = self._loaded(runtime, model, how, self._key(model, how, gpu.device))
            activations: int = engine.device_memory_size_v2  # for the largest batch
            self._memory_for(0, activations)
            self._describe(engine, facts, gpu)
            graphs = self._settings.cuda_graph and gpu.graphs
            self._session = TrtSession(self._trt, runtime, engine, gpu, self._log, self.notes, graphs)
            self._log.lines.clear()  # so that what goes wrong later is not put down to something said before
        except BaseException:
            gpu.close()
            raise

    def _key(self, model: bytes, how: Recipe, device: cuda.Device) -> dict[str, Any]:
        """What an engine is tied to."""
        return {
            "kind": "engine",
            "onnx_sha256": files.sha256_bytes(model),
            "tensorrt": self.version,
            "gpu": device.name,
            "compute_capability": device.compute_capability,
            "processors": device.processors,
            "cuda_driver": device.cuda,
            "board": environment.board(self._settings.root)["board"],
            **how._asdict(),
            "flags": list(how.flags),
        }

    def _loaded(
        self, runtime: tensorrt.Runtime, model: bytes, how: Recipe, key: Mapping[str, Any]
    ) -> tensorrt.ICudaEngine:
        """The engine that was kept, or a new one where there is none that fits; ``self.engine`` says which."""
        store = engines.Store()
        name = _name(key)
        kept = store.load(name, key)
        why, fresh, self._fresh = kept.why, self._fresh == name, ""
        if kept.data is not None:
            self._memory_for(2 * len(kept.data))
            # no plugin and no runtime of the engine's own is ever loaded: engine_host_code_allowed stays False
            engine: tensorrt.ICudaEngine = runtime.deserialize_cuda_engine(kept.data)
            if engine is not None:
                self.engine = {**kept.fields, "file": name, "built_now": fresh}
                self._compare(kept.fields)
                return engine
            why = f"TensorRT does not take it{last_error(self._log)}"
        plan, fields = self._built(store, model, how, key, why)
        self.engine = {**fields, "file": name, "built_now": True}
        made: tensorrt.ICudaEngine = runtime.deserialize_cuda_engine(plan)
        if made is None:
            raise EnvironmentFault(
                f"TensorRT {self.version} does not load the engine that it built{last_error(self._log)}. Close "
                "whatever else uses memory, and try again; --runtime onnxruntime measures on the processor."
            )
        return made

    def _built(
        self, store: engines.Store, model: bytes, how: Recipe, key: Mapping[str, Any], why: str
    ) -> tuple[bytes, dict[str, Any]]:
        """A new engine and what is said of it, both kept; why: the one that was kept was not used, or empty."""
        if why:
            self.notes.append(f"the stored engine was not used and a new one was built: {why}")
        store.room_for(2 * len(model) + RESERVE)
        self._memory_for(2 * len(model), how.workspace)
        around = environment.board(self._settings.root)
        words = ("tensorrt", "gpu", "compute_capability", "processors", "cuda_driver", "board")
        # what is fastest depends on the clocks too
        tied = {"kind": TIMINGS, **{word: key[word] for word in words}, "power_mode": around["power_mode"]}
        begun = time.monotonic()
        with trt_build.heartbeat(self._settings.progress, BUILDING + self._settings.label):
            timings = store.load(TIMINGS, tied).data or b""
            built = builder.build(self.version, store.path, model, how, timings)
        fields = {
            **key,
            **{word: around[word] for word in CAN_CHANGE},
            "plan_sha256": files.sha256_bytes(built.plan),
            "plan_bytes": len(built.plan),
            "build_seconds": round(time.monotonic() - begun, 3),
            "unscaled_tensors": built.unscaled,
        }
        store.save(_name(key), fields, built.plan)
        with contextlib.suppress(EnvironmentFault):  # without them the next build takes longer, that is all
            store.save(TIMINGS, tied, built.timings)
        return built.plan, fields

    def _memory_for(self, size: int, on_gpu: int = 0) -> None:
        """Raise EnvironmentFault unless there are so many bytes of memory, and some to spare (card 7). A board's GPU has no other."""
        shared = on_gpu if environment.board(self._settings.root)["board"] else 0
        free, needed = environment.memory_available(self._settings.root), size + shared + SPARE
        if free is not None and free < needed:
            raise EnvironmentFault(
                f"{free / 1e6:.0f} MB of memory are available, but {needed / 1e6:.0f} MB are needed. Close whatever "
                "else uses memory (a desktop: sudo systemctl isolate multi-user.target), and try again."
            )

    def _compare(self, fields: Mapping[str, Any]) -> None:
        """Note what was another when the engine was built."""
        around = environment.board(self._settings.root)
        for word, said in CAN_CHANGE.items():
            if fields[word] != around[word]:
                self.notes.append(f"the engine was built with {said} {fields[word]}, but here it is {around[word]}")

    def _describe(self, engine: tensorrt.ICudaEngine, facts: graph_facts.Facts, gpu: cuda.Cuda) -> None:
        """What a report says of the engine."""
        described = self.engine or {}
        inspector: tensorrt.EngineInspector = engine.create_engine_inspector()
        layers = trt_layers.precisions(inspector.get_engine_information(self._trt.LayerInformationFormat.JSON))
        described.update(layers=layers, int8_layers_of_file=facts.int8_layers, cuda=gpu.name, cuda_graph=False)
        described.update(bus=gpu.device.bus, waits=gpu.waits, memory="copy")
        flags = " + ".join(described["flags"])
        typed = described["typing"] + "ly typed" + (f", {flags}" if flags else "")
        self.notes.append(f"TensorRT {self.version}, {typed}; {trt_layers.sentence(layers)}")
        if described["unscaled_tensors"]:
            self.notes.append(f"{described['unscaled_tensors']} tensors have no INT8 scale in the file and stay float")
        if self._settings.cuda_graph and not gpu.graphs:
            self.notes.append("no CUDA graph: pycuda records none, and there is no libcudart")

    def infer(self, images: np.ndarray) -> np.ndarray:
        return self._opened().infer(images)

    def gpu_block(
        self, inputs: Sequence[np.ndarray], seconds: float, samples: int, clock: Callable[[], int]
    ) -> np.ndarray | None:
        return self._opened().gpu_block(inputs, seconds, samples, clock)

    def throughput(self, images: np.ndarray, seconds: float, clock: Callable[[], int]) -> float | None:
        return self._opened().throughput(images, seconds, clock)

    def _opened(self) -> TrtSession:
        if self._session is None:
            raise UsageError("No model is open.")
        return self._session

    def close(self) -> None:
        session, self._session = self._session, None
        if session is None:
            return
        session.close()
        if self.engine is not None:
            self.engine["cuda_graph"] = session.graphs
            if session.launch_ns:
                self.engine["launch_ms"] = statistics.median(session.launch_ns) / 1e6
        if session.graphs:
            self.notes.append("launched as one CUDA graph")


def _name(key: Mapping[str, Any]) -> str:
    """One per model: what was built for another TensorRT, GPU or recipe makes room for what is needed now."""
    return f"{key['onnx_sha256'][:32]}.plan"
