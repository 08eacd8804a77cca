"""The TensorRT runner on a fake TensorRT and a fake CUDA runtime: what it computes, how it builds, how it fails."""

from __future__ import annotations

import gc
import shutil
import sys
import time
from typing import Any

import fake_tensorrt
import numpy as np
import onnx
import pytest
import trt_models
from onnx import TensorProto, helper

from edgekd_device.errors import EnvironmentFault, UsageError
from edgekd_device.runtime import base, cuda_ctypes, engines, trt_build

IMAGES = np.random.RandomState(0).rand(150, 3, 8, 8).astype(np.float32)


def opened(name: str = "model.qdq.onnx", data: bytes | None = None, **settings: Any) -> base.Runner:
    runner = base.make("tensorrt", base.Settings(name, **settings))
    runner.open(trt_models.model(name) if data is None else data, 1)
    return runner


def expected(name: str, images: np.ndarray) -> np.ndarray:
    """What onnxruntime computes of the same file: Q/DQ is not exact, but it is the same everywhere."""
    runner = base.make("onnxruntime")
    runner.open(trt_models.model(name), 1)
    return runner.infer(images)


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("version", ["10.3.0", "11.4.0"])
@pytest.mark.parametrize("name", trt_models.FLAVOURS)
def test_logits_are_those_of_the_file_whatever_the_batch(name, version, graph, tensorrt, fake_cuda):
    tensorrt(version)
    runner = opened(name, cuda_graph=graph)
    wanted = expected(name, IMAGES)
    for count in (1, 1, 1, 7, 1, 1, 64, 150, 64, 64, 1):  # 150 goes in pieces; a graph is recorded anew for each count
        start = count % 5
        assert runner.infer(IMAGES[start : start + count]) == pytest.approx(wanted[start : start + count], abs=1e-3)
    assert (fake_cuda.calls("cudaGraphLaunch") > 0) == graph
    first = runner.infer(IMAGES[:1])
    assert (runner.infer(IMAGES[1:2]) != first).any()  # what was handed out stays as it was
    assert first == pytest.approx(wanted[:1], abs=1e-3)
    runner.close()
    runner.close()
    assert runner.engine is not None
    assert runner.engine["cuda_graph"] == graph
    assert ("launched as one CUDA graph" in runner.notes) == graph
    with pytest.raises(UsageError, match="No model is open"):
        runner.infer(IMAGES[:1])


@pytest.mark.parametrize(
    ("version", "name", "typing", "flags"),
    [
        ("10.3.0", "model.onnx", "weak", []),
        ("10.3.0", "model.fp16.onnx", "strong", []),
        ("10.3.0", "model.qdq.onnx", "weak", ["FP16", "INT8"]),
        ("10.3.0", "model.qdq.fp16.onnx", "strong", []),
        ("11.4.0", "model.onnx", "strong", []),
        ("11.4.0", "model.fp16.onnx", "strong", []),
        ("11.4.0", "model.qdq.onnx", "strong", []),
        ("11.4.0", "model.qdq.fp16.onnx", "strong", []),
    ],
)
def test_typing_follows_what_the_module_offers_and_what_the_file_holds(version, name, typing, flags, tensorrt):
    tensorrt(version)
    runner = opened(name)
    assert runner.foreign == (() if version == "10.3.0" else ("model.qdq.onnx",))
    assert runner.engine is not None
    assert (runner.engine["typing"], runner.engine["flags"]) == (typing, flags)
    assert runner.engine["tensorrt"] == version
    assert (runner.engine["gpu"], runner.engine["compute_capability"]) == ("Fake Orin", "8.7")
    assert runner.engine["cuda"] == "ctypes, CUDA 12.6"
    assert runner.engine["workspace"] == 1 << 30  # a board with 8 GB
    assert runner.notes[0].startswith(f"TensorRT {version}, {typing}ly typed")
    assert ("FP16 + INT8" in runner.notes[0]) == bool(flags)
    assert ("1 in int8" in runner.notes[0]) == ("qdq" in name)
    runner.close()
    assert runner.engine["plan_bytes"] > 0  # what a report says of it outlives the session


def test_a_file_for_onnxruntime_is_refused_before_the_builder_sees_it(tensorrt, fake_cuda, engines_folder):
    script = tensorrt()
    for zero in (np.uint8(0), np.uint8(128), np.int8(1), None):
        with pytest.raises(UsageError, match="--runtime onnxruntime"):
            opened("model.u8s8.onnx", trt_models.model("model.u8s8.onnx", zero))
    assert (script.builds, fake_cuda.calls("cudaGetDeviceCount"), engines_folder.exists()) == (0, 0, False)


def test_a_warning_of_zero_points_is_an_error(tensorrt):
    script = tensorrt()
    script.warns = ("Weights are FLOAT", "onnx2trt: non-zero zero-point is\nnot supported")
    with pytest.raises(UsageError, match="would not compute what the model says: onnx2trt: non-zero zero-point is not"):
        opened()
    assert script.builds == 0
    script.warns = ("Weights are FLOAT",)
    opened().close()


def test_a_tensor_that_stays_float_is_a_note(tensorrt):
    script = tensorrt()
    missing = "Missing scale and zero-point for tensor {}, expect fall back to non-int8 implementation for any layer"
    script.warns = (missing.format("logits"), missing.format("mean"))
    for _ in range(2):  # built, and kept from before
        runner = opened()
        assert "2 tensors have no INT8 scale in the file and stay float" in runner.notes
        runner.close()
    assert script.builds == 1
    script.warns += ("non-zero zero-point",)
    with pytest.raises(UsageError, match="would not compute what the model says: non-zero"):
        opened("model.onnx")


@pytest.mark.parametrize(
    ("refuses", "kind", "word"),
    [
        ("parse", UsageError, r"does not take the model: no importer registered for op: Turn +\[2J\. Export"),
        ("no_runtime", EnvironmentFault, r"does not start\. See edgekd-device doctor"),
        ("no_builder", EnvironmentFault, r"does not start \(CUDA initialization failure with error: 35\)"),
        ("build", EnvironmentFault, r"could not build an engine \(Could not find any implementation for node {Foreig"),
        ("deserialize", EnvironmentFault, r"does not load the engine that it built \(Serialization assertion"),
        ("context", EnvironmentFault, "does not find the memory"),
        ("address", EnvironmentFault, "does not take a tensor's address"),
    ],
)
def test_what_tensorrt_refuses_is_one_clear_message(refuses, kind, word, tensorrt, fake_cuda):
    script = tensorrt()
    script.refuses = (refuses,)
    with pytest.raises(kind, match=word) as caught:
        opened()
    assert str(caught.value).isprintable()
    assert fake_cuda.live == 0


@pytest.mark.parametrize(
    ("refuses", "word"), [("shapes", "does not know the shape of logits"), ("run", "does not run the engine")]
)
def test_what_tensorrt_refuses_while_it_runs(refuses, word, tensorrt):
    script = tensorrt()
    runner = opened()
    script.refuses = (refuses,)
    with pytest.raises(EnvironmentFault, match=word):
        runner.infer(IMAGES[:1])
    runner.close()


def test_an_engine_that_tensorrt_does_not_take_any_more_is_built_again(tensorrt):
    script = tensorrt()
    opened().close()
    module = sys.modules["tensorrt"]
    real, calls = module.Runtime.deserialize_cuda_engine, []

    def once(self: Any, serialized_engine: bytes) -> Any:
        calls.append(len(serialized_engine))
        return None if len(calls) == 1 else real(self, serialized_engine)

    module.Runtime.deserialize_cuda_engine = once
    runner = opened()
    assert script.builds == 2
    assert runner.notes[0].endswith("a new one was built: TensorRT does not take it")
    runner.close()


def _model(nodes, inputs=("input",), outputs=("logits",), kind=TensorProto.FLOAT, batch: Any = "N") -> bytes:
    made = helper.make_graph(
        nodes,
        "odd",
        [helper.make_tensor_value_info(name, kind, [batch, 3, 8, 8]) for name in inputs],
        [helper.make_tensor_value_info(name, kind, [batch, 3, 8, 8]) for name in outputs],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=8).SerializeToString()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no model",
        _model([helper.make_node("Add", ["input", "second"], ["logits"])], inputs=("input", "second")),
        _model([helper.make_node("Neg", ["input"], [n]) for n in ("logits", "more")], outputs=("logits", "more")),
        _model([helper.make_node("Neg", ["input"], ["logits"])], kind=TensorProto.FLOAT16),
        _model([helper.make_node("Neg", ["input"], ["logits"])], batch=4),
        _model([helper.make_node("Neg", ["input"], ["logits"])]),
    ],
)
def test_models_that_do_not_fit_are_a_users_error(data, tensorrt, fake_cuda):
    tensorrt()
    with pytest.raises(UsageError, match=r"(Export|Copy) the bundle again"):
        opened(data=data)
    assert fake_cuda.live == 0


def test_an_output_that_is_not_float(tensorrt):
    nodes = [helper.make_node("Cast", ["input"], ["logits"], to=TensorProto.FLOAT16)]
    model = onnx.load_from_string(_model(nodes))
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    tensorrt()
    with pytest.raises(UsageError, match="one float32 input and give one output"):
        opened(data=model.SerializeToString())


def test_a_file_for_one_image_at_a_time(tensorrt):
    tensorrt()
    runner = opened(data=trt_models.model(batch=1))
    assert runner.infer(IMAGES[:5]) == pytest.approx(expected("model.qdq.onnx", IMAGES[:5]), abs=1e-3)
    runner.close()


def test_images_that_do_not_fit(tensorrt):
    tensorrt()
    runner = opened()
    for images in (np.zeros((1, 3, 9, 8), np.float32), np.zeros((1, 3, 8, 8), np.float64)):
        with pytest.raises(UsageError, match=r"takes float32 images of shape \(3, 8, 8\)"):
            runner.infer(images)
    runner.close()


def test_no_thread_at_all(tensorrt):
    tensorrt()
    with pytest.raises(UsageError, match="--threads"):
        base.make("tensorrt").open(trt_models.model(), 0)


def test_a_graph_that_cannot_be_recorded_is_noted_and_the_work_goes_on(tensorrt, fake_cuda):
    tensorrt()
    runner = opened(cuda_graph=True)
    fake_cuda.fail("cudaStreamEndCapture", code=901)
    for _ in range(5):
        assert runner.infer(IMAGES[:1]) == pytest.approx(expected("model.qdq.onnx", IMAGES[:1]), abs=1e-3)
    assert [note for note in runner.notes if note.startswith("no CUDA graph: cudaStreamEndCapture: CUDA error 901")]
    assert fake_cuda.calls("cudaStreamBeginCapture") == 1
    runner.close()


def test_an_adapter_without_graphs_is_noted(tensorrt, fake_cuda, monkeypatch):
    tensorrt()
    monkeypatch.setattr(cuda_ctypes.Cudart, "graphs", False)
    runner = opened(cuda_graph=True)
    for _ in range(3):
        runner.infer(IMAGES[:1])
    assert fake_cuda.calls("cudaStreamBeginCapture") == 0
    assert "no CUDA graph: pycuda records none" in runner.notes[1]
    runner.close()


@pytest.mark.parametrize("graph", [False, True])
def test_the_gpus_own_time(graph, tensorrt, fake_cuda):
    tensorrt()
    runner = opened(cuda_graph=graph)
    inputs = [IMAGES[k : k + 1] for k in range(70)]
    waits = fake_cuda.calls("cudaStreamSynchronize")
    times = runner.gpu_block(inputs, 0.0, 200, time.perf_counter_ns)
    assert times is not None
    assert times.dtype == np.int64
    assert len(times) >= 200
    assert (times > 1000).all()  # onnxruntime ran between every two events
    # before the pass, and every eight launches of the one that times them; none while the GPU is timed
    assert fake_cuda.calls("cudaStreamSynchronize") - waits == 1 + graph + 64 // 8 + 1
    assert fake_cuda.calls("cudaGraphLaunch") == (len(times) + 1 + 64 if graph else 0)  # the first is not timed
    events = fake_cuda.calls("cudaEventCreateWithFlags")
    runner.gpu_block(inputs[:3], 0.0, 1, time.perf_counter_ns)
    assert fake_cuda.calls("cudaEventCreateWithFlags") == events
    assert runner.infer(IMAGES[:1]) == pytest.approx(expected("model.qdq.onnx", IMAGES[:1]), abs=1e-3)
    runner.close()


def test_launches_are_timed_with_room_in_the_queue(tensorrt, fake_cuda, monkeypatch):
    """A launch into a full queue takes as long as the GPU: never more than a few are given without a wait."""
    tensorrt()
    runner, given, most = opened(), [], []
    session = runner._session
    compute, wait, timed = session._compute, session._gpu.wait, session._launches

    def give() -> None:
        assert not gc.isenabled()
        given.append(True)
        compute()

    def empty() -> None:
        most.append(len(given))
        given.clear()
        wait()

    def launches(*rest: Any) -> None:
        timed(give, rest[1])
        assert given == []

    monkeypatch.setattr(session, "_launches", launches)
    monkeypatch.setattr(session._gpu, "wait", empty)
    for _ in range(2):
        runner.gpu_block([IMAGES[:1]], 0.0, 300, time.perf_counter_ns)
    assert max(most) == 8
    assert gc.isenabled()
    assert len(session.launch_ns) == 2 * 64  # however many were timed on the GPU
    assert session.launch_ns.itemsize == 8
    runner.close()
    assert 0 < runner.engine["launch_ms"] < 1000


def test_a_shape_that_was_never_run_cannot_be_recorded(tensorrt):
    """Held against the fake itself: what the session must do before it records is really asked of it."""
    tensorrt()
    runner = opened(cuda_graph=True)
    runner._session._fit(3)
    assert runner._session._captured(runner._session._compute) is None
    assert "no CUDA graph: TensorRT does not run the engine" in runner.notes[-1]
    runner.close()


@pytest.mark.parametrize("graph", [False, True])
def test_throughput_has_two_batches_in_flight(graph, tensorrt, fake_cuda):
    class Ticking:
        now = 0

        def __call__(self) -> int:
            self.now += 10_000_000
            return self.now

    tensorrt()
    runner = opened(cuda_graph=graph)
    wanted = expected("model.qdq.onnx", IMAGES[:64])
    for _ in range(2):  # buffers and events are made once
        waits = fake_cuda.calls("cudaStreamSynchronize")
        speed = runner.throughput(IMAGES[:64], 1.0, Ticking())
        assert speed == pytest.approx(100 * 64 / 1.01)  # a batch every 10 ms, and one more that was on its way
        assert fake_cuda.calls("cudaStreamSynchronize") - waits == 2  # before and after; none in between
        for _, host_out in runner._session._host:
            assert host_out.reshape(-1, 3) == pytest.approx(wanted, abs=1e-3)
            host_out[:] = 0
    assert fake_cuda.calls("cudaHostAlloc") == 4
    assert (fake_cuda.calls("cudaGraphLaunch") > 190) == graph
    assert runner.throughput(IMAGES[:65], 0.1, Ticking()) is None
    assert runner.infer(IMAGES[:3]) == pytest.approx(wanted[:3], abs=1e-3)
    runner.close()


def test_timings_of_layers_are_handed_on(tensorrt, engines_folder):
    script = tensorrt()
    opened("model.onnx").close()
    opened("model.fp16.onnx").close()
    assert script.timings == [b"", b"timings "]
    script.refuses = ("timings",)  # one that no longer fits: an empty one is taken
    opened("model.qdq.onnx").close()
    assert script.timings[2:] == [b"timings ", b""]
    (engines_folder / "timings").write_bytes(b"foreign")
    opened("model.qdq.fp16.onnx").close()
    assert script.timings[4:] == [b""]


def test_timings_that_cannot_be_had_or_kept_cost_no_engine(tensorrt, engines_folder, monkeypatch):
    script = tensorrt()
    script.refuses = ("no_timings",)
    opened("model.onnx").close()
    assert (engines_folder / "timings").read_bytes() == b""
    save = engines.Store.save

    def full(self: engines.Store, name: str, *rest: Any) -> None:
        if name == "timings":
            raise EnvironmentFault("Could not write: no space left on device.")
        save(self, name, *rest)

    monkeypatch.setattr(engines.Store, "save", full)
    opened().close()
    assert script.builds == 2
    opened().close()
    assert script.builds == 2


def test_an_engine_is_no_timings(tensorrt, engines_folder):
    """Whole, of this device, and sealed: but for another use."""
    script = tensorrt()
    opened("model.onnx").close()
    name = next(engines_folder.glob("*.plan")).name
    for end in ("", ".json"):
        shutil.copy(engines_folder / (name + end), engines_folder / ("timings" + end))
    opened("model.fp16.onnx").close()
    assert script.timings == [b"", b""]


def test_an_old_error_is_not_quoted_for_a_new_one(tensorrt):
    script = tensorrt()
    opened().close()
    script.refuses = ("deserialize", "no_builder")
    with pytest.raises(EnvironmentFault, match="CUDA initialization failure") as caught:
        opened()
    assert "Serialization" not in str(caught.value)
    script.refuses = ()
    runner = opened()
    script.refuses = ("run",)
    with pytest.raises(EnvironmentFault, match=r"does not run the engine\. Close"):
        runner.infer(IMAGES[:1])
    runner.close()


def test_two_models_are_open_at_once(tensorrt):
    tensorrt()
    first, second = opened("model.onnx"), opened("model.fp16.onnx", cuda_graph=True)
    for _ in range(3):
        for runner, name in ((first, "model.onnx"), (second, "model.fp16.onnx")):
            assert runner.infer(IMAGES[:2]) == pytest.approx(expected(name, IMAGES[:2]), abs=1e-3)
    second.close()
    first.open(trt_models.model("model.qdq.onnx"), 1)  # another file in its place
    assert first.infer(IMAGES[:2]) == pytest.approx(expected("model.qdq.onnx", IMAGES[:2]), abs=1e-3)
    first.close()


def test_a_build_is_heard_of(tensorrt, monkeypatch):
    script, said = tensorrt(), []
    monkeypatch.setattr(trt_build, "BEAT", 0.01)
    module = sys.modules["tensorrt"]
    real = module.Builder.build_serialized_network

    def slow(self: Any, network: Any, config: Any) -> Any:
        time.sleep(0.4)
        return real(self, network, config)

    module.Builder.build_serialized_network = slow
    opened(progress=lambda *report: said.append(report)).close()
    what = "building the engine of model.qdq.onnx"
    assert said[0] == (what, 0, 1, {})
    assert said[-1] == (what, 1, 1, {})
    assert len(said) > 4
    assert said[-2][3]["seconds"] > 0.01
    assert script.builds == 1
    said.clear()
    opened(progress=lambda *report: said.append(report)).close()
    assert said == []  # nothing was built


def test_tensorrt_absent_broken_or_too_old(fake_cuda, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(EnvironmentFault, match=r"sudo apt install nvidia-jetpack.*--runtime onnxruntime measures"):
        base.make("tensorrt")
    monkeypatch.delitem(sys.modules, "tensorrt")
    (tmp_path / "tensorrt.py").write_text("raise OSError('libnvinfer.so.10: cannot open\\nshared object file')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(EnvironmentFault, match=r"It said: libnvinfer\.so\.10: cannot open shared object file"):
        base.make("tensorrt")
    import ctypes

    for version in ("8.6.1.6", "10.2.0", "10.0"):
        module, _ = fake_tensorrt.make(version, ctypes.CDLL(fake_cuda.path))
        monkeypatch.setitem(sys.modules, "tensorrt", module)
        with pytest.raises(EnvironmentFault, match=rf"TensorRT {version} is too old: edgekd needs 10\.3 or newer"):
            base.make("tensorrt")


@pytest.mark.gpu
@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("name", trt_models.FLAVOURS)
def test_a_real_engine_on_a_gpu(name, graph, tmp_path, monkeypatch):
    """Built, kept, loaded again; logits near those of onnxruntime; the GPU's own time."""
    pytest.importorskip("tensorrt")
    monkeypatch.setenv("EDGEKD_ENGINES", str(tmp_path / "engines"))
    for built in (True, False):
        runner = opened(name, cuda_graph=graph)
        assert runner.engine is not None
        assert runner.engine["built_now"] is built
        for count in (1, 1, 1, 64, 150):
            assert runner.infer(IMAGES[:count]) == pytest.approx(expected(name, IMAGES[:count]), abs=0.1)
        times = runner.gpu_block([IMAGES[k : k + 1] for k in range(8)], 0.2, 100, time.perf_counter_ns)
        assert times is not None
        assert 1e3 < np.median(times) < 1e8
        assert not [note for note in runner.notes if "no CUDA graph" in note]
        runner.close()
