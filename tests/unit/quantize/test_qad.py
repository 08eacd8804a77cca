"""Distilling the INT8 twin from its FP32 student, on a small network whose activations were given ranges far too small."""

import copy

import pytest
import torch

from edgekd.data import ImageSet
from edgekd.errors import UsageError
from edgekd.export.onnx import export
from edgekd.losses import soft_target_kl
from edgekd.quantize import Guarded, PtqConfig, QadConfig, QuantizationAwareDistillation, guard, ptq, qad, refine
from edgekd.quantize.fake import ActivationQuantizer, WeightQuantizer
from edgekd.quantize.lsq import LearnedStep

SHORT = QadConfig(when="always", steps=6, batch_size=16, lr=0.003)


@pytest.fixture(scope="module")
def few(pictures) -> ImageSet:
    return pictures.subset(range(32))


@pytest.fixture(scope="module")
def student(lively):
    """Its answers are clear: logits ten times as large as fresh ones."""
    model = lively("cnn3")
    layers = [part for part in model.module.modules() if isinstance(part, torch.nn.Linear)]
    layers[-1].weight.data.mul_(10)
    return model


@pytest.fixture(scope="module")
def coarse(student, few):
    """The twin, cutting every activation behind the pixels at two fifths of its range."""
    twin = ptq(student, few, PtqConfig(calibrator="max", images=32))
    for name, module in twin.module.network.named_children():
        if isinstance(module, ActivationQuantizer) and "div" not in name:
            module.scale.mul_(0.4)
    return twin


def quantizers(twin):
    kinds = (ActivationQuantizer, WeightQuantizer)
    return {name: m for name, m in twin.module.network.named_children() if isinstance(m, kinds)}


def apart(student, twin, images) -> float:
    pixels = torch.from_numpy(images.images).float() / 255
    with torch.no_grad():
        return float(soft_target_kl(twin.module(pixels), student.module(pixels), 1.0))


@pytest.fixture(scope="module")
def distilled(student, coarse, few):
    """kind -> the twin after six steps, made once."""
    made = {}

    def distil(kind: str):
        if kind not in made:
            made[kind] = qad.distil(student, coarse, few, SHORT.model_copy(update={"kind": kind}))
        return made[kind]

    return distil


@pytest.mark.parametrize("kind", ["ste", "lsq"])
def test_the_twin_comes_nearer_to_its_student(kind, student, coarse, few, distilled):
    before = [copy.deepcopy(model.module.state_dict()) for model in (student, coarse)]
    twin, log = distilled(kind)
    assert apart(student, twin, few) < 0.75 * apart(student, coarse, few)
    for model, tensors in zip((student, coarse), before, strict=True):
        assert all(torch.equal(tensors[name], value) for name, value in model.module.state_dict().items())
    assert log.steps == 6
    assert not twin.module.training
    same = [torch.equal(q.scale, quantizers(coarse)[name].scale) for name, q in quantizers(twin).items()]
    assert all(same) if kind == "ste" else not any(same)
    assert twin.module.layers == coarse.module.layers


def test_the_file_computes_what_was_distilled(few, distilled, tmp_path):
    twin, _ = distilled("lsq")
    file = export(twin, tmp_path / "a.onnx", "u8s8", few.images)
    assert file.top1_agreement.hits >= 31
    assert file.nodes["DequantizeLinear"] > 1


def test_scales_stay_positive_biases_fit_and_weights_stay_within_the_integers(student, few):
    """Whatever a step did to them: here scales were driven below zero, and weights and a bias far away."""
    twin = ptq(student, few, PtqConfig(calibrator="max", images=32, reduce_range=True)).module
    method = QuantizationAwareDistillation(SHORT, student.module, twin)
    with torch.no_grad():
        for module in twin.network.children():
            if isinstance(module, LearnedStep):
                module.scale.sub_(1.0)
        for layer in method.layers:
            twin.network.get_parameter(layer.weight).mul_(50)
        twin.network.get_parameter(method.layers[0].bias).fill_(1e6)
    called: list[int] = []
    method.update(lambda: called.append(1))
    assert called == [1]
    for layer in method.layers:
        of_input, of_weight = (twin.network.get_submodule(name).scale for name in (layer.input, layer.quantizer))
        assert of_input > 0
        assert (of_weight > 0).all()
        bias = twin.network.get_parameter(layer.bias)
        assert (bias.abs() / (of_input * of_weight) < 2**31).all()
        levels = twin.network.get_parameter(layer.weight).flatten(1) / of_weight[:, None]
        assert levels.abs().max() < 63.01


def test_labels_count_where_they_are_asked_for(student, coarse, few):
    pixels = torch.from_numpy(few.images[:8]).float() / 255
    batch = next(iter(qad.Batches(few, 8, augment="none").epoch(0)))
    plain = QuantizationAwareDistillation(SHORT, student.module, coarse.module).step(batch)
    config = SHORT.model_copy(update={"ce_weight": 0.5})
    both = QuantizationAwareDistillation(config, student.module, coarse.module).step(batch)
    logits = coarse.module(batch.images)
    assert set(plain) == {"kl"}
    assert torch.equal(plain["kl"], both["kl"])
    assert torch.allclose(both["ce"], 0.5 * torch.nn.functional.cross_entropy(logits, batch.labels))
    assert not student.module(pixels).isnan().any()


def test_a_killed_distillation_ends_with_the_same_bits(student, coarse, few, distilled, monkeypatch, tmp_path):
    monkeypatch.setattr(qad, "ROUND", 2)
    whole, _ = qad.distil(student, coarse, few, SHORT)

    def kill(what, done, total, figures):
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        qad.distil(student, coarse, few, SHORT, folder=tmp_path, progress=kill)
    twin, log = qad.distil(student, coarse, few, SHORT, folder=tmp_path)
    assert log.resumed_at == 1
    expected = whole.module.state_dict()
    assert all(torch.equal(expected[name], value) for name, value in twin.module.state_dict().items())
    with pytest.raises(UsageError, match=r"other settings: qad\.lr"):
        qad.distil(student, coarse, few, SHORT.model_copy(update={"lr": 0.02}), folder=tmp_path)


@pytest.mark.parametrize(
    ("when", "reached", "trained"),
    [("auto", 0.9, False), ("auto", 0.8, True), ("off", 0.8, False), ("always", 0.9, True)],
)
def test_when_it_is_done(when, reached, trained, coarse):
    guarded = Guarded(coarse, {}, 0.9, reached, 0.895)
    assert qad.wanted(guarded, QadConfig(when=when)) is trained


def test_what_is_met_is_left_as_it_is(student, coarse, few):
    found = refine(student, Guarded(coarse, {}, 0.9, 0.9, 0.895), few, QadConfig(), lambda module: 1.0)
    assert found == (coarse, False, None)


@pytest.mark.parametrize(("after", "kept"), [(0.85, True), (0.8, False), (0.79, False)])
def test_only_what_the_validation_images_call_better_is_taken(after, kept, student, coarse, few):
    config = SHORT.model_copy(update={"when": "auto", "steps": 1})
    found = refine(student, Guarded(coarse, {}, 0.9, 0.8, 0.895), few, config, lambda module: after)
    assert found.kept is kept
    assert (found.twin is coarse) is not kept
    assert found.log is not None
    said = found.log.method["qad"]
    assert (said["float"], said["before"], said["after"], said["kept"]) == (0.9, 0.8, after, kept)
    assert said["images"] == {"count": 32, "sha256": few.sha256}


def test_layers_go_back_to_float_first(student, few):
    """The guard's twin is what is distilled: its float layers stay float, and are named."""

    def accuracy(module) -> float:
        """0.9 in FP32; 0.01 less for each layer in INT8, however it was trained."""
        return 0.9 - 0.01 * len(getattr(module, "layers", ()))

    config = PtqConfig(calibrator="max", images=32, guard={"max_drop": 0.005, "most_float": 1})
    guarded = guard(student, few, config, accuracy)
    assert not guarded.met
    assert len(guarded.keep) == 1
    twin, _ = qad.distil(student, guarded.twin, few, SHORT.model_copy(update={"steps": 1}))
    assert twin.module.float_layers == guarded.twin.module.float_layers
    assert len(twin.module.layers) == len(guarded.twin.module.layers) == 4


def test_only_twins_are_distilled(student, few):
    with pytest.raises(UsageError, match="twin made by ptq"):
        qad.distil(student, student, few, SHORT)
