"""The RobustKD card's unit tests, by its numbers; A5 and A6 stand with the losses, A6's weights here."""

import copy

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from small_teacher import QUICK, context, model, spec

from edgekd import distill
from edgekd.distill.detox import Detox, DetoxifiedTeacher, DetoxSettings, Seen
from edgekd.distill.overhaul import Overhaul, OverhaulSettings
from edgekd.distill.robustkd import RobustKD, RobustKDSettings
from edgekd.export.onnx import export
from edgekd.files import sha256_bytes
from edgekd.losses import feature_variance
from edgekd.models import weights_sha256
from edgekd.training import TrainConfig
from edgekd_device.metrics import attack_success

TRAIN = TrainConfig(epochs=1, batch_size=32, lr=0.02, precision="fp32", augment="none")


def shapes(teacher, images):
    return tuple(shape[1:] for shape in teacher.module.site_shapes(images))


def pixels(images, count=32):
    return torch.from_numpy(images.images[:count]).float() / 255


@pytest.mark.parametrize("mode", ["add", "blend"])
def test_a1_a_mask_of_zero_changes_nothing(tiny_images, mode):
    teacher, x = model("wrn-10-1"), pixels(tiny_images)
    detox = Detox(shapes(teacher, x), DetoxSettings(mode=mode, tau=0))
    detox.begin([Seen(torch.randn(shape), torch.tensor(1.0), torch.tensor(1.0)) for shape in detox.shapes])
    with torch.no_grad():
        plain, edited = teacher.module.sites(x), teacher.module.sites(x, detox.edit)
        assert torch.equal(plain.logits, edited.logits)
        assert torch.equal(DetoxifiedTeacher(teacher.module, detox)(x), teacher.module(x))
        assert all(torch.equal(a, b) for a, b in zip(plain.raw, edited.raw, strict=True))


def test_a1_a_mask_of_zero_gives_the_plain_overhaul_loss(tiny_images):
    teacher, student, losses = model("wrn-10-1"), model("resnet8-w4", seed=1), []
    for method in (
        Overhaul(OverhaulSettings(), teacher.module),
        RobustKD(RobustKDSettings(tau=0, detox_steps=2), teacher.module),
    ):
        twin = copy.deepcopy(student)
        place = context(twin, tiny_images)
        method.prepare(place)
        twin.module.train()
        losses.append({k: v.item() for k, v in method.step(next(iter(place.batches.epoch(0)))).items()})
    assert losses[0] == losses[1]


def test_a2_sample_variance_with_an_additive_edit_is_refused_and_why(tiny_images):
    with pytest.raises(ValueError, match="sample does nothing with mode add"):
        DetoxSettings(mode="add", variance_mode="sample")
    teacher, x = model("wrn-10-1"), pixels(tiny_images)
    gradients = {}
    for mode in ("add", "blend"):
        detox = Detox(shapes(teacher, x), DetoxSettings(mode=mode, granularity="chw"))
        with torch.no_grad():
            for p in detox.p.values():
                p.normal_()
        feature = teacher.module.sites(x, detox.edit).raw[0]
        feature_variance(feature, "sample").backward()
        gradients[mode] = max(float(w["0"].grad.abs().max()) for w in (detox.p, detox.u))
    assert gradients["add"] < 1e-7 < 1e-5 < gradients["blend"]


def test_a3_the_penalty_alone_flattens_the_mean_map():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(64, 6, 4, 4, generator=generator) + 3 * torch.randn(6, 4, 4, generator=generator)
    detox = Detox((features.shape[1:],), DetoxSettings(tau=1, granularity="chw"))
    detox.begin([Seen(features.mean(0), torch.tensor(1.0), torch.tensor(1.0))])
    torch.nn.init.constant_(detox.u["0"], 20.0)  # m = 1: the offset is free
    optimizer = torch.optim.Adam(detox.p.parameters(), lr=0.2)
    for _ in range(300):
        optimizer.zero_grad()
        loss = feature_variance(detox.edit(0, features), "map")
        loss.backward()
        optimizer.step()
    expected = float(feature_variance(features - features.mean(0), "map"))
    assert loss.item() == pytest.approx(expected, rel=0.01)
    assert float(feature_variance(features, "map")) > 3 * expected


def test_a4_batch_statistics_cancel_what_is_constant_per_channel(tiny_images):
    teacher, x = model("wrn-10-1"), pixels(tiny_images)
    detox = Detox(shapes(teacher, x), DetoxSettings(granularity="c"))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in detox.p.values():
            p.copy_(5 * torch.randn(p.shape, generator=generator))
    changes = {}
    for training in (True, False):
        twin = copy.deepcopy(teacher.module).train(training)
        with torch.no_grad():
            for site in range(3):  # one site at a time: what an edit does deeper down is not cancelled

                def one(level, feature, site=site):
                    return detox.edit(level, feature) if level == site else feature

                before, after = twin.sites(x).targets[site], twin.sites(x, one).targets[site]
                changes[training, site] = float((after - before).norm() / before.norm())
    assert max(v for (training, _), v in changes.items() if training) < 1e-5
    assert min(v for (training, _), v in changes.items() if not training) > 1e-2


def test_a6_deeper_sites_weigh_more(tiny_images):
    method = Overhaul(OverhaulSettings(scale="none"), model("wrn-10-1").module)
    method.prepare(context(model("resnet8-w4"), tiny_images))
    assert [method.site_weight(index) for index in range(3)] == [0.25, 0.5, 1.0]
    batch = next(iter(context(model("resnet8-w4"), tiny_images).batches.epoch(0)))
    method.student.eval(), method.connectors.eval()
    with torch.no_grad():
        sites, expected = method.student.sites(batch.images), 0.0
        for index, target in enumerate(method.targets(batch.images)):
            q = np.maximum(target.numpy(), method.connectors.margin(index).numpy()[:, None, None])
            s = method.connectors(index, sites.targets[index]).numpy()
            expected += 2.0 ** (index - 2) * np.where((s <= q) & (q <= 0), 0, (q - s) ** 2).sum() / 32 * 1e-3
        assert method.step(batch)["features"].item() == pytest.approx(expected, rel=1e-4)


def test_a7_the_mask_moves_and_stays_in_its_bounds(tiny_images):
    method = RobustKD(RobustKDSettings(detox_steps=40, lambda_f=1.0, granularity="chw"), model("wrn-10-1").module)
    method.prepare(context(model("resnet8-w4"), tiny_images))
    masks = torch.cat([method.detox.mask(site).flatten() for site in method.detox.sites])
    assert 0 <= float(masks.min()) <= float(masks.max()) <= 0.2
    assert float(((masks - 0.1).abs() > 0.02).float().mean()) > 0.05


@pytest.mark.parametrize("method", ["kd", "overhaul", "robustkd"])
def test_a8_the_teacher_is_the_same_to_the_bit(tiny_images, method):
    teacher = model("wrn-10-1")
    before = weights_sha256(teacher.module.state_dict())
    options = QUICK if method == "robustkd" else {}
    distill.run(teacher, spec("resnet8-w4"), tiny_images, method, options, TRAIN)
    assert weights_sha256(teacher.module.state_dict()) == before
    assert not any(part.training for part in teacher.module.modules())


def test_a9_the_success_rate_leaves_out_the_target_class():
    labels = np.array([0, 0, 1, 1, 2, 2, 3, 3, 3, 3])
    target = np.full(10, 3)
    rate = attack_success(target, labels, target)
    assert (rate.hits, rate.total) == (6, 6)
    rate = attack_success(labels, labels, target)
    assert (rate.hits, rate.total) == (0, 6)


def test_a10_the_student_is_an_ordinary_network(tiny_images, tmp_path):
    students = {
        method: distill.run(
            model("wrn-10-1"), spec("resnet8-w4"), tiny_images, method, QUICK if method == "robustkd" else {}, TRAIN
        )[0]
        for method in ("scratch", "robustkd")
    }
    plans = {
        name: sha256_bytes(repr([(n, tuple(t.shape)) for n, t in s.module.state_dict().items()] + [s.module]).encode())
        for name, s in students.items()
    }
    assert len(set(plans.values())) == 1
    x = pixels(tiny_images)
    graphs = set()
    for name, student in students.items():
        assert not student.module.training
        assert torch.equal(student.module(x), student.module.sites(x).logits)
        file = export(student, tmp_path / f"{name}.onnx", "fp32", tiny_images.images[:8])
        graph = onnx.load(file.path).graph
        graphs.add(repr([(node.op_type, list(node.input), list(node.output)) for node in graph.node]))
        session = onnxruntime.InferenceSession(file.path)
        logits = session.run(None, {"input": x[:8].numpy()})[0]
        assert np.abs(logits - student.module(x[:8]).detach().numpy()).max() < 1e-3
    assert len(graphs) == 1
