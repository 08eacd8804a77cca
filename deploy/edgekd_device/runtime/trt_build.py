"""From an ONNX file to an engine, for TensorRT 10 and 11: what a module offers decides, not what it is called.

Every variable that holds an object of TensorRT's is annotated with its class: tests/trt/test_names.py reads
the annotations and holds every name used here against NVIDIA's own bindings, branch by branch of the hasattr's.
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
from typing import TYPE_CHECKING, Any, Iterator, NamedTuple

from ..errors import EnvironmentFault, UsageError
from ..graph_facts import Facts
from .base import Progress

if TYPE_CHECKING:
    import tensorrt

MAX_BATCH = 64  # of one inference; larger batches go in pieces
SMALL_MEMORY = 6 << 30  # boards below share it with the processor, and the kernel kills what takes too much
# More than the card's 256 MiB: TensorRT for RTX counts what a network keeps between its layers too, 514 MiB of a MobileNetV2
# at 224 x 224 and batches of 64; whether 10.x does is not known.
WORKSPACES = (768 << 20, 1 << 30)
ZERO_POINT = re.compile(r"zero[\s_-]?point", re.IGNORECASE)
# Of a tensor that stays float, as is meant: a flag allows INT8, the file asks for it elsewhere.
STAYS_FLOAT = re.compile(r"missing scale and zero[\s_-]?point for tensor", re.IGNORECASE)
OLDEST = (10, 3)
BEAT = 1.0  # seconds


def library() -> Any:
    """The tensorrt module; raises EnvironmentFault where it is absent, broken or 8.x."""
    try:
        import tensorrt as trt
    except (ImportError, OSError) as error:
        raise EnvironmentFault(
            "TensorRT is not installed here, or does not load. On a Jetson, JetPack installs it (sudo apt "
            "install nvidia-jetpack, or tensorrt and python3-libnvinfer alone), on a PC python3 -m pip install "
            "tensorrt; --runtime onnxruntime measures on the processor."
            + ("" if isinstance(error, ModuleNotFoundError) else f" It said: {plain(str(error))}")
        ) from error
    if tuple(int(part) for part in str(trt.__version__).split(".")[:2]) < OLDEST:
        raise EnvironmentFault(
            f"TensorRT {trt.__version__} is too old: edgekd needs 10.3 or newer, which comes with JetPack 6.1; "
            "--runtime onnxruntime measures on the processor."
        )
    return trt


def plain(text: str) -> str:
    """A foreign message on one line, without control characters, cut short."""
    return "".join(c if c.isprintable() else " " for c in " ".join(text.split()))[:300].rstrip(". ")


class Recipe(NamedTuple):
    """What decides an engine, besides the file, the version and the GPU."""

    typing: str  # "weak": flags say which types may be used; "strong": the file does
    flags: tuple[str, ...]
    max_batch: int
    workspace: int


def recipe(trt: Any, facts: Facts, memory_bytes: int) -> Recipe:
    """How a file is built: a float32-typed one by flags where there are such flags, else as its types stand."""
    workspace = WORKSPACES[memory_bytes > SMALL_MEMORY]
    if facts.half or not hasattr(trt.BuilderFlag, "INT8"):
        return Recipe("strong", (), MAX_BATCH, workspace)
    return Recipe("weak", ("FP16", "INT8") if facts.quantised else (), MAX_BATCH, workspace)


_logs: dict[str, Any] = {}


def open_log(trt: Any) -> Any:
    """The logger, which keeps warnings and errors in ``lines``, emptied; nothing else belongs on the user's terminal.

    One per process: TensorRT holds on to the first that it is given, and never lets go of it.
    """
    log = _logs.get(trt.__version__)
    if log is None:
        log = _logs[trt.__version__] = _made_log(trt)
    log.lines.clear()
    return log


def _made_log(trt: Any) -> Any:
    severe = (trt.ILogger.Severity.WARNING, trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR)

    def begin(self: Any) -> None:
        trt.ILogger.__init__(self)
        self.lines = []

    def log(self: Any, severity: Any, message: str) -> None:  # called from native code: it must not raise
        if severity in severe and len(self.lines) < 1000:
            self.lines.append((severity != severe[0], message))

    return type("Log", (trt.ILogger,), {"__init__": begin, "log": log})()


def last_error(log: Any) -> str:
    """What TensorRT said last that was an error, in brackets; empty where it said none."""
    errors = [message for error, message in log.lines if error]
    return f" ({plain(errors[-1])})" if errors else ""


@contextlib.contextmanager
def _starting(trt: Any, log: Any) -> Iterator[None]:
    try:
        yield
    except (TypeError, RuntimeError) as error:  # the bindings' own words are of pointers
        raise EnvironmentFault(
            f"TensorRT {trt.__version__} does not start{last_error(log)}. See edgekd-device doctor."
        ) from error


def runtime(trt: Any, log: Any) -> tensorrt.Runtime:
    """What loads engines; raises EnvironmentFault where it does not start."""
    with _starting(trt, log):
        made: tensorrt.Runtime = trt.Runtime(log)
    return made


class Built(NamedTuple):
    plan: bytes
    timings: bytes  # of single layers: the next engine on this device is built faster; empty where there are none
    unscaled: int  # tensors that TensorRT found no scale for, and so keeps out of INT8


def build(trt: Any, model: bytes, how: Recipe, log: Any, timings: bytes) -> Built:
    """An engine of the ONNX file in ``model``; timings: of engines before, or empty.

    Raises UsageError for a model that TensorRT does not take as it is meant, EnvironmentFault where building fails.
    """
    log.lines.clear()  # what was said of an engine before is not of this one
    with _starting(trt, log):
        builder: tensorrt.Builder = trt.Builder(log)
    strong = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network: tensorrt.INetworkDefinition = builder.create_network(strong if how.typing == "strong" else 0)
    _parse(trt, model, network, log)
    config: tensorrt.IBuilderConfig = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, how.workspace)
    config.clear_flag(trt.BuilderFlag.TF32)  # float32 is meant as float32
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # so that an engine can say what its layers compute in
    if hasattr(trt.BuilderFlag, "INT8"):
        if "FP16" in how.flags:
            config.set_flag(trt.BuilderFlag.FP16)
        if "INT8" in how.flags:
            config.set_flag(trt.BuilderFlag.INT8)
    _profile(builder, network, config, how.max_batch)
    _time_with(config, timings)
    plan = builder.build_serialized_network(network, config)
    _refuse_zero_points(trt, log)
    if plan is None:
        raise EnvironmentFault(
            f"TensorRT {trt.__version__} could not build an engine{last_error(log)}. Close whatever else uses "
            "memory, and try again; --runtime onnxruntime measures on the processor."
        )
    kept: tensorrt.ITimingCache = config.get_timing_cache()
    unscaled = {message for _, message in log.lines if STAYS_FLOAT.search(message)}
    return Built(bytes(plan), b"" if kept is None else bytes(kept.serialize()), len(unscaled))


def _parse(trt: Any, model: bytes, network: tensorrt.INetworkDefinition, log: Any) -> None:
    parser: tensorrt.OnnxParser = trt.OnnxParser(network, log)
    accepted = parser.parse(model)  # of bytes: there is no folder from which to read anything else
    said = []
    for k in range(parser.num_errors):
        error: tensorrt.ParserError = parser.get_error(k)
        said.append(error.desc())
    if not accepted or said:
        raise UsageError(
            f"TensorRT {trt.__version__} does not take the model: {plain('; '.join(said)) or 'it does not say why'}. "
            "Export the bundle again, or measure it with --runtime onnxruntime."
        )
    _refuse_zero_points(trt, log)
    if network.num_inputs != 1 or network.num_outputs != 1:
        raise UsageError("The model must take one float32 input and give one output. Export the bundle again.")
    tensor: tensorrt.ITensor = network.get_input(0)
    shape = tuple(tensor.shape)
    if tensor.dtype != trt.DataType.FLOAT or len(shape) != 4 or -1 in shape[1:] or shape[0] not in (-1, 1):
        raise UsageError("The model must take float32 images in batches of any size. Export the bundle again.")


def _refuse_zero_points(trt: Any, log: Any) -> None:
    """A warning about zero points means that the logits will be wrong."""
    for _, message in log.lines:
        if ZERO_POINT.search(message) and not STAYS_FLOAT.search(message):
            raise UsageError(
                f"TensorRT {trt.__version__} would not compute what the model says: {plain(message)}. "
                "Give it model.qdq.onnx or model.qdq.fp16.onnx."
            )


def _profile(
    builder: tensorrt.Builder, network: tensorrt.INetworkDefinition, config: tensorrt.IBuilderConfig, most: int
) -> None:
    """Batches from 1 to ``most``, tuned for 1, where the file leaves the batch open."""
    tensor: tensorrt.ITensor = network.get_input(0)
    batch, *image = tuple(tensor.shape)
    if batch == -1:
        profile: tensorrt.IOptimizationProfile = builder.create_optimization_profile()
        profile.set_shape(tensor.name, (1, *image), (1, *image), (most, *image))
        config.add_optimization_profile(profile)


def _time_with(config: tensorrt.IBuilderConfig, timings: bytes) -> None:
    """Attach a timing cache: the one of before, or an empty one where it does not fit."""
    for data in (timings, b""):
        cache: tensorrt.ITimingCache = config.create_timing_cache(data)
        if cache is not None and config.set_timing_cache(cache, ignore_mismatch=False):
            return


@contextlib.contextmanager
def heartbeat(report: Progress, what: str) -> Iterator[None]:
    """Report once a second that ``what`` goes on: TensorRT builds for minutes and says nothing."""
    stop, begun = threading.Event(), time.monotonic()

    def beat() -> None:
        while not stop.wait(BEAT):
            report(what, 0, 1, {"seconds": time.monotonic() - begun})

    report(what, 0, 1, {})
    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        report(what, 1, 1, {})
