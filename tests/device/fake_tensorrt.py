"""TensorRT without a GPU: as narrow as what edgekd calls, and run by onnxruntime.

Its engines work on the memory and the stream of the fake CUDA runtime (fake_cudart.c), so a forgotten copy, wait or address
shows in the logits. Every class, method, argument and enum here is held against NVIDIA's real bindings by
tests/trt/test_names.py. ``make("10.3.0")`` gives a module of the weakly typed family, ``make("11.4.0")`` one
of the strongly typed.
"""

from __future__ import annotations

import contextlib
import ctypes
import enum
import io
import json
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import onnx
import onnxruntime

HOST_FUNCTION = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
MAGIC = b"ptrt fake\n"


@dataclass
class Script:
    """What the module is to do, and what was done."""

    cudart: ctypes.CDLL
    refuses: tuple[
        str, ...
    ] = ()  # no_runtime, no_builder, parse, build, deserialize, context, shapes, address, run, timings, no_timings
    warns: tuple[str, ...] = ()  # said by the parser
    float_layers: bool = False  # the inspector says that nothing computes in INT8
    silent_layers: bool = False  # the inspector names none that computes
    activations: int = 1 << 20  # bytes that a context of an engine takes
    builds: int = 0
    timings: list[bytes] = field(default_factory=list)
    kept: list[Any] = field(default_factory=list)


class ILogger:
    class Severity(enum.IntEnum):
        INTERNAL_ERROR = 0
        ERROR = 1
        WARNING = 2
        INFO = 3
        VERBOSE = 4

    def log(self, severity: Severity, msg: str) -> None:
        raise NotImplementedError


class TensorIOMode(enum.Enum):
    NONE, INPUT, OUTPUT = range(3)


class DataType(enum.Enum):
    FLOAT, HALF, INT8 = range(3)


class MemoryPoolType(enum.Enum):
    WORKSPACE = 0


class ProfilingVerbosity(enum.Enum):
    LAYER_NAMES_ONLY, NONE, DETAILED = range(3)


class LayerInformationFormat(enum.Enum):
    ONELINE, JSON = range(2)


class NetworkDefinitionCreationFlag(enum.IntEnum):
    STRONGLY_TYPED = 1


class IHostMemory(bytes):
    """Bytes, as the real one offers them through the buffer protocol."""


class ITensor:
    def __init__(self, value: Any) -> None:
        kinds = {onnx.TensorProto.FLOAT: DataType.FLOAT, onnx.TensorProto.FLOAT16: DataType.HALF}
        self.name = value.name
        self.dtype = kinds.get(value.type.tensor_type.elem_type, DataType.INT8)
        self.shape = tuple(d.dim_value if d.HasField("dim_value") else -1 for d in value.type.tensor_type.shape.dim)


class ParserError:
    def __init__(self, text: str) -> None:
        self._text = text

    def desc(self) -> str:
        return self._text


class IOptimizationProfile:
    def __init__(self) -> None:
        self.shapes: dict[str, Any] = {}

    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
        assert tuple(min) <= tuple(opt) <= tuple(max)
        self.shapes[input] = (min, opt, max)


class ITimingCache:
    def __init__(self, data: bytes) -> None:
        self.data = data

    def serialize(self) -> IHostMemory:
        return IHostMemory(b"timings " + self.data)


def make(version: str, cudart: ctypes.CDLL, flags: tuple[str, ...] | None = None) -> tuple[Any, Script]:
    """A module that calls itself tensorrt ``version``, and the script that it follows."""
    script, weak = Script(cudart), int(version.split(".")[0]) < 11
    names = ("FP16", "INT8", "TF32", "REFIT") if weak else ("TF32", "REFIT")
    BuilderFlag = enum.Enum("BuilderFlag", names if flags is None else flags)  # type: ignore[misc]

    def say(log: ILogger, severity: ILogger.Severity, text: str) -> None:
        log.log(severity, text)

    class INetworkDefinition:
        def __init__(self, typing: int) -> None:
            self.strong = bool(typing & 1 << NetworkDefinitionCreationFlag.STRONGLY_TYPED) or not weak
            self.model: Any = None

        @property
        def num_inputs(self) -> int:
            return len(self.model.graph.input)

        @property
        def num_outputs(self) -> int:
            return len(self.model.graph.output)

        def get_input(self, index: int) -> ITensor:
            return ITensor(self.model.graph.input[index])

    class OnnxParser:
        def __init__(self, network: INetworkDefinition, logger: ILogger) -> None:
            self._network, self._log, self._errors = network, logger, []

        def parse(self, model: bytes, path: str | None = None) -> bool:
            assert path is None
            for text in script.warns:
                say(self._log, ILogger.Severity.WARNING, text)
            if "parse" in script.refuses:
                self._errors = [ParserError("no importer registered for op: Turn\n\x1b[2J")]
                return False
            self._network.model = onnx.load_from_string(bytes(model))
            return True

        @property
        def num_errors(self) -> int:
            return len(self._errors)

        def get_error(self, index: int) -> ParserError:
            return self._errors[index]

    class IBuilderConfig:
        def __init__(self) -> None:
            self.flags: set[Any] = {BuilderFlag.TF32}
            self.profiling_verbosity = ProfilingVerbosity.LAYER_NAMES_ONLY
            self.profiles: list[IOptimizationProfile] = []
            self.cache: ITimingCache | None = None

        def set_memory_pool_limit(self, pool: MemoryPoolType, pool_size: int) -> None:
            assert pool is MemoryPoolType.WORKSPACE
            self.workspace = pool_size

        def set_flag(self, flag: Any) -> None:
            self.flags.add(BuilderFlag(flag))

        def clear_flag(self, flag: Any) -> None:
            self.flags.discard(BuilderFlag(flag))

        def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache | None:
            script.timings.append(bytes(serialized_timing_cache))
            return None if "timings" in script.refuses and serialized_timing_cache else ITimingCache(b"")

        def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
            self.cache = cache
            return not ignore_mismatch

        def get_timing_cache(self) -> ITimingCache | None:
            return None if "no_timings" in script.refuses else self.cache

        def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
            self.profiles.append(profile)
            return len(self.profiles) - 1

    class Builder:
        def __init__(self, logger: ILogger) -> None:
            if "no_builder" in script.refuses:
                say(logger, ILogger.Severity.INTERNAL_ERROR, "CUDA initialization failure with error: 35")
                raise TypeError("pybind11::init(): factory function returned nullptr")
            self._log = logger

        def create_network(self, flags: int = 0) -> INetworkDefinition:
            return INetworkDefinition(flags)

        def create_builder_config(self) -> IBuilderConfig:
            return IBuilderConfig()

        def create_optimization_profile(self) -> IOptimizationProfile:
            return IOptimizationProfile()

        def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> IHostMemory | None:
            script.builds += 1
            chosen = sorted(flag.name for flag in config.flags)
            if network.strong and {"FP16", "INT8"} & set(chosen):
                say(
                    self._log, ILogger.Severity.ERROR, "precision flags and a strongly typed network exclude each other"
                )
                return None
            if "build" in script.refuses or (network.get_input(0).shape[0] == -1 and not config.profiles):
                say(self._log, ILogger.Severity.ERROR, "Could not find any implementation for node {ForeignNode}")
                return None
            head = {
                "version": version,
                "flags": chosen,
                "strong": network.strong,
                "workspace": config.workspace,
                "detailed": config.profiling_verbosity is ProfilingVerbosity.DETAILED,
                "profile": [list(p.shapes.values()) for p in config.profiles],
            }
            return IHostMemory(MAGIC + json.dumps(head).encode() + b"\n" + network.model.SerializeToString())

    class Runtime:
        def __init__(self, logger: ILogger) -> None:
            if "no_runtime" in script.refuses:
                raise TypeError("pybind11::init(): factory function returned nullptr")
            self._log = logger

        def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
            data = bytes(serialized_engine)
            if "deserialize" in script.refuses or not data.startswith(MAGIC):
                say(self._log, ILogger.Severity.ERROR, "Serialization assertion stdVersionRead == kVERSION failed")
                return None
            head, model = data[len(MAGIC) :].split(b"\n", 1)
            return ICudaEngine(json.loads(head), model)

    class ICudaEngine:
        def __init__(self, head: dict[str, Any], model: bytes) -> None:
            self.head, self.model = head, onnx.load_from_string(model)
            self._tensors = [ITensor(v) for v in (*self.model.graph.input, *self.model.graph.output)]

        @property
        def num_io_tensors(self) -> int:
            return len(self._tensors)

        @property
        def device_memory_size_v2(self) -> int:
            return script.activations

        def get_tensor_name(self, index: int) -> str:
            return self._tensors[index].name

        def _tensor(self, name: str) -> ITensor:
            return next(t for t in self._tensors if t.name == name)

        def get_tensor_mode(self, name: str) -> TensorIOMode:
            return TensorIOMode.INPUT if name in [v.name for v in self.model.graph.input] else TensorIOMode.OUTPUT

        def get_tensor_dtype(self, name: str) -> DataType:
            return self._tensor(name).dtype

        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            return self._tensor(name).shape

        def create_execution_context(self) -> IExecutionContext | None:
            return None if "context" in script.refuses else IExecutionContext(self)

        def create_engine_inspector(self) -> EngineInspector:
            return EngineInspector(self)

    class EngineInspector:
        def __init__(self, engine: ICudaEngine) -> None:
            self._engine = engine

        def get_engine_information(self, format: LayerInformationFormat) -> str:
            assert format is LayerInformationFormat.JSON
            if not self._engine.head["detailed"]:
                return json.dumps({"Layers": [node.name for node in self._engine.model.graph.node]})
            dequantised = {n.output[0] for n in self._engine.model.graph.node if n.op_type == "DequantizeLinear"}
            copy = "Reformatting CopyNode for Input Tensor 0 to Conv_0"  # in whatever precision, it computes nothing
            layers: list[dict[str, Any]] = [
                {"Name": copy, "LayerType": "Reformat", "Inputs": [{"Format/Datatype": "Row major linear Int8 format"}]}
            ]
            for node in self._engine.model.graph.node:
                if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
                    continue
                int8 = node.input and node.input[0] in dequantised and not script.float_layers
                kind = (
                    "Int8 NC/32HW32" if int8 else "FP16 NCHW" if "FP16" in self._engine.head["flags"] else "FP32 NCHW"
                )
                if not script.silent_layers:
                    layers.append(
                        {"Name": node.op_type, "LayerType": node.op_type, "Inputs": [{"Format/Datatype": kind}]}
                    )
            return json.dumps({"Layers": layers, "Bindings": ["input", "logits"]})

    class IExecutionContext:
        def __init__(self, engine: ICudaEngine) -> None:
            self._engine = engine
            self._run = onnxruntime.InferenceSession(
                engine.model.SerializeToString(),
                providers=["CPUExecutionProvider"],
                disabled_optimizers=["WeightBiasQuantization"],
            )
            self._addresses: dict[str, int] = {}
            self._shape: tuple[int, ...] | None = None
            self._set_up = (
                False  # the first inference after a change of shape sets itself up, which no graph can record
            )

        def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
            profile = self._engine.head["profile"]
            most = profile[0][0][2][0] if profile else self._engine.get_tensor_shape(name)[0]
            self._shape, self._set_up = tuple(shape), False
            return 1 <= shape[0] <= most

        def infer_shapes(self) -> list[str]:
            return ["logits"] if "shapes" in script.refuses or self._shape is None else []

        def set_tensor_address(self, name: str, memory: int) -> bool:
            self._addresses[name] = memory
            return "address" not in script.refuses

        def execute_async_v3(self, stream_handle: int) -> bool:
            recording = ctypes.c_int()
            script.cudart.cudaStreamIsCapturing(ctypes.c_void_p(stream_handle), ctypes.byref(recording))
            if "run" in script.refuses or (recording.value and not self._set_up):
                return False
            self._set_up = True
            names = (self._engine.get_tensor_name(0), self._engine.get_tensor_name(1))
            there, back, shape = self._addresses[names[0]], self._addresses[names[1]], self._shape
            assert shape is not None

            def work(_: Any) -> None:
                data = ctypes.string_at(there, 4 * int(np.prod(shape)))
                images = np.frombuffer(data, np.float32).reshape(shape)
                logits = np.ascontiguousarray(self._run.run(None, {names[0]: images})[0], np.float32)
                ctypes.memmove(back, logits.ctypes.data, logits.nbytes)

            call = HOST_FUNCTION(work)
            script.kept.append(call)
            return script.cudart.cudaLaunchHostFunc(ctypes.c_void_p(stream_handle), call, None) == 0

    module = types.ModuleType("tensorrt")
    made = (
        *(ILogger, TensorIOMode, DataType, MemoryPoolType, ProfilingVerbosity, LayerInformationFormat, IHostMemory),
        *(NetworkDefinitionCreationFlag, ITensor, ParserError, IOptimizationProfile, ITimingCache, BuilderFlag),
        *(INetworkDefinition, OnnxParser, IBuilderConfig, Builder, Runtime, ICudaEngine, EngineInspector),
        IExecutionContext,
    )
    for kind in made:
        setattr(module, kind.__name__, kind)
    module.__version__ = version  # type: ignore[attr-defined]
    return module, script


def builds_here(words: bytes, back: int) -> tuple[int, bytes]:
    """In place of the child that builds engines, which would not have this module."""
    from edgekd_device.runtime import builder

    stream = io.BytesIO(words)
    builder.work(json.loads(stream.readline()), stream)
    return 0, b""


@contextlib.contextmanager
def installed(cudart: Path, version: str = "10.3.0") -> Iterator[Script]:
    """This process has this TensorRT, in which it builds too, this CUDA runtime alone, and no pycuda."""
    from edgekd_device.runtime import builder, cuda_ctypes, cuda_pycuda

    module, script = make(version, ctypes.CDLL(str(cudart)))
    with (
        mock.patch.dict(sys.modules, {"tensorrt": module}),
        mock.patch.object(builder, "_run", builds_here),
        mock.patch.object(cuda_ctypes, "LIBRARIES", (str(cudart),)),
        mock.patch.object(cuda_ctypes, "WHEELS", ()),
        mock.patch.object(cuda_pycuda, "available", return_value=False),
    ):
        yield script
