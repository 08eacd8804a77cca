"""The formulas of the repairs against numpy, or against figures worked by hand."""

import numpy as np
import pytest
import torch
from torch import nn

from edgekd import models, repair
from edgekd.data import Batches, ImageSet
from edgekd.errors import UsageError
from edgekd.models import Network
from edgekd.repair import anp, clp, ft_sam, gate, i_bau, nad
from edgekd.repair.norms import scaled_convolutions, still_norms
from edgekd.training import Context, TrainConfig, fit
from edgekd.types import InputSpec, Model, ModelSpec

INPUT = InputSpec(3, 16, 16, (0.4, 0.5, 0.45), (0.2, 0.25, 0.3))
SPEC = ModelSpec("wrn-10-1", 4, INPUT)
TRAIN = TrainConfig(
    epochs=1, batch_size=16, precision="fp32", augment="none", momentum=0.0, nesterov=False, weight_decay=0
)


def prepared(kind, images: ImageSet, spec: ModelSpec = SPEC, **options):
    """A repair ready for its first step, and the first batch."""
    method = kind(kind.Config(**options), spec)
    batches = Batches(images, 16, seed=0, augment="none")
    method.prepare(Context(method.begin(models.build(spec).module), batches, TRAIN, torch.device("cpu")))
    return method, next(iter(batches.epoch(0)))


def test_the_ascent_of_adaptive_sam():
    random = np.random.default_rng(0)
    weights, gradients = ([random.normal(size=s) for s in ((3, 2), (4,))] for _ in range(2))
    length = np.sqrt(sum(((np.abs(w) * g) ** 2).sum() for w, g in zip(weights, gradients, strict=True)))
    given = ft_sam.ascent([torch.from_numpy(w) for w in weights], [torch.from_numpy(g) for g in gradients], 2.0)
    for move, w, g in zip(given, weights, gradients, strict=True):
        np.testing.assert_allclose(move.numpy(), 2.0 * w**2 * g / length, rtol=1e-12)
    relative = np.concatenate([(m.numpy() / np.abs(w)).ravel() for m, w in zip(given, weights, strict=True)])
    assert np.linalg.norm(relative) == pytest.approx(2.0)


def test_sharpness_aware_steps_from_home_with_the_gradient_of_the_far_point(tiny_images):
    method, batch = prepared(ft_sam.SharpnessAware, tiny_images)
    network = method.student.train()
    home = [w.detach().clone() for w in network.parameters()]
    (term,) = method.step(batch).values()
    away = [w.detach().clone() for w in network.parameters()]
    shares = [((a - h) / h.abs())[h != 0].flatten() for a, h in zip(away, home, strict=True)]
    assert float(torch.cat(shares).norm()) == pytest.approx(2.0, rel=1e-2)
    term.backward()
    with still_norms(network):
        loss = nn.functional.cross_entropy(network(batch.images), batch.labels)  # the weights are still away
    there = torch.autograd.grad(loss, list(network.parameters()))
    stepper = torch.optim.SGD(network.parameters(), lr=0.1)
    method.update(stepper.step)
    for weight, origin, gradient in zip(network.parameters(), home, there, strict=True):
        assert torch.allclose(weight, origin - 0.1 * gradient, atol=1e-6)
    assert int(network.net.bn1.num_batches_tracked) == 1  # the far pass moved no statistic


def test_in_mixed_precision_the_far_pass_sees_the_moved_weights(tiny_images):
    method, batch = prepared(ft_sam.SharpnessAware, tiny_images)
    method.student.eval()  # so that both passes below are functions of weights alone
    with torch.autocast("cpu", dtype=torch.bfloat16):
        term = method.step(batch)["ce"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        afresh = nn.functional.cross_entropy(method.student(batch.images).float(), batch.labels)
        for weight, home in zip(method.weights, method.home, strict=True):
            weight.data.copy_(home)
        torch.clear_autocast_cache()
        origin = nn.functional.cross_entropy(method.student(batch.images).float(), batch.labels)
    assert float(term.detach()) == pytest.approx(float(afresh.detach()), rel=1e-6)
    assert float(term.detach()) > float(origin.detach()) + 1e-3


def test_the_loop_brings_weights_home_and_keeps_masks_in_bounds(tiny_images):
    given = models.build(SPEC)
    still, _ = repair.run("ft-sam", given, tiny_images, {"epochs": 1, "lr": 1e-12}, TRAIN)
    for weight, home in zip(still.module.parameters(), given.module.parameters(), strict=True):
        assert torch.allclose(weight, home, atol=1e-7)
    method = anp.NeuronPruning(anp.NeuronPruning.Config(steps=3, lr=1e4), SPEC)
    masked, batches = method.begin(models.build(SPEC).module), Batches(tiny_images, 16, seed=0, augment="none")
    config, source = method.length(TRAIN, batches)
    fit(masked, method, source, config)
    masks = torch.cat([mask.detach() for mask in masked.masks])
    assert (float(masks.min()), float(masks.max())) == (0.0, 1.0)


def test_the_distance_of_attention_maps():
    random = np.random.default_rng(1)
    pairs = [[random.normal(size=(2, c, s, s)) for _ in range(2)] for c, s in ((5, 8), (3, 4), (4, 2), (6, 2))]
    wanted = 0.0
    for beta, (target, feature) in zip((500, 1000, 1000), pairs[1:], strict=True):  # the deepest three
        maps = [(f**2).sum(axis=1).reshape(2, -1) for f in (target, feature)]
        one, two = (m / np.linalg.norm(m, axis=1, keepdims=True) for m in maps)
        wanted += beta * ((one - two) ** 2).mean()
    targets, features = (tuple(torch.from_numpy(pair[n]).float() for pair in pairs) for n in (0, 1))
    assert float(nad.distances(targets, features, (500.0, 1000.0, 1000.0))) == pytest.approx(wanted, rel=1e-5)
    last = float(nad.distances(targets[-1:], features[-1:], (7.0, 1000.0)))
    assert last == pytest.approx(float(nad.distances(targets[-1:], features[-1:], (1000.0,))))


def test_its_teacher_is_a_tuned_copy(tiny_images):
    method, batch = prepared(nad.AttentionDistillation, tiny_images, tune_epochs=1)
    assert not torch.equal(method.teacher.net.fc.weight, method.student.net.fc.weight)
    assert not method.teacher.training
    assert not any(p.requires_grad for p in method.teacher.parameters())
    assert float(method.step(batch)["features"].detach()) > 0


class OneLayer(nn.Module):
    """conv, norm, pool: 12 channels that see one colour each with 1, but the last, which sees two with 3 and 4."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 12, 1, bias=False)
        self.norm = nn.BatchNorm2d(12, eps=0.0)
        self.lone = nn.BatchNorm2d(12)  # behind a sum: no convolution's own
        with torch.no_grad():
            self.conv.weight.zero_()
            self.conv.weight[:, 0] = 1.0
            self.conv.weight[11, :2, 0, 0] = torch.tensor([3.0, 4.0])
            self.norm.bias.fill_(0.5)
            self.norm.weight[3] = -2.0
            self.norm.running_var[3] = 16.0

    def forward(self, x):
        x = self.conv(x)
        return self.lone(self.norm(x) + x).mean((2, 3))


def one_layer() -> Network:
    return Network(OneLayer(), INPUT).eval()


def test_channel_constants_by_hand():
    network = one_layer()
    found = scaled_convolutions(network, INPUT.shape)
    assert list(found) == ["net.norm"]
    # filters of length 1, |−2| / √16 for channel 3, √(3² + 4²) for the last
    wanted = [1, 1, 1, 0.5, 1, 1, 1, 1, 1, 1, 1, 5]
    assert clp.channel_constants(*found["net.norm"]).tolist() == pytest.approx(wanted)


def test_a_constant_is_a_matrix_norm_not_a_length():
    conv, norm = nn.Conv2d(2, 1, (1, 2), bias=False), nn.BatchNorm2d(1, eps=0.0)
    with torch.no_grad():
        conv.weight.copy_(torch.tensor([[3.0, 0.0], [0.0, 4.0]]).view(1, 2, 1, 2))
    assert clp.channel_constants(conv, norm).tolist() == pytest.approx([4.0])


@pytest.mark.parametrize(("u", "pruned"), [(3.0, [11]), (3.4, [])])
def test_channels_three_deviations_above_the_mean_are_silenced(u, pruned):
    """mean 15.5 / 12, deviation √(35.25 / 12 − mean²) = 1.127: the last channel is 3.29 deviations above."""
    network = one_layer()
    repaired, notes = clp.LipschitzPruning(clp.LipschitzPruningSettings(u=u), SPEC).finish(network, None)
    assert notes["where"] == ({"net.norm": pruned} if pruned else {})
    assert (notes["pruned"], notes["channels"]) == (len(pruned), 12)
    norm = repaired.net.norm
    assert norm.weight.eq(0).nonzero().flatten().tolist() == pruned
    assert norm.bias.eq(0).nonzero().flatten().tolist() == pruned


def test_masks_scale_and_noise_moves_scale_and_shift():
    masked = anp.MaskedNetwork(one_layer()).eval()
    images = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(masked(images), masked.network(images))
    assert masked.names == ("net.norm", "net.lone")
    with torch.no_grad():
        masked.masks[0][11] = 0.25
    delta, xi = torch.full((12,), 0.1), torch.full((12,), -0.3)
    zero = torch.zeros(12)
    by_hand = one_layer()
    with torch.no_grad():
        by_hand.net.norm.weight *= torch.cat([torch.full((11,), 1.1), torch.tensor([0.35])])
        by_hand.net.norm.bias *= 0.7
    assert torch.allclose(masked(images, [delta, zero, xi, zero]), by_hand(images))


def test_masks_stay_between_0_and_1(tiny_images):
    method, batch = prepared(anp.NeuronPruning, tiny_images)
    method.student.train()
    optimizer = torch.optim.SGD(method.student.masks, lr=1e4)  # far out of the bounds without a clip
    before = {k: v.clone() for k, v in method.student.network.state_dict().items()}
    torch.stack(list(method.step(batch).values())).sum().backward()
    method.update(optimizer.step)
    masks = torch.cat([mask.detach() for mask in method.student.masks])
    assert (float(masks.min()), float(masks.max())) == (0.0, 1.0)
    assert all(torch.equal(before[k], v) for k, v in method.student.network.state_dict().items())


def test_the_noise_of_a_step_is_bounded_and_does_harm(tiny_images):
    method, batch = prepared(anp.NeuronPruning, tiny_images, epsilon=0.3)
    torch.manual_seed(0)
    noise = method._worst(batch)
    assert all(float(n.abs().max()) <= 0.3 + 1e-6 for n in noise)
    loss = [nn.functional.cross_entropy(method.student(batch.images, n), batch.labels) for n in (None, noise)]
    assert float(loss[1].detach()) > float(loss[0].detach())


def test_channels_below_the_threshold_are_pruned_and_the_threshold_keeps_accuracy():
    network = one_layer()
    masks = {"net.norm": torch.linspace(0, 0.99, 12), "net.lone": torch.ones(12)}
    cut = anp.pruned(network, masks, 0.27)  # masks 0, 0.09, 0.18 and, at 0.27, the fourth
    assert cut.net.norm.weight.eq(0).tolist() == [True] * 3 + [False] * 9
    assert float(cut.net.norm.bias.detach()[0]) == 0.5
    assert not network.net.norm.weight.eq(0).any()

    def accuracy(of) -> float:
        return 0.9 - 0.02 * int(of.net.norm.weight.eq(0).sum())

    threshold, figures = anp.best_threshold(network, masks, accuracy, 0.05)
    assert threshold == 0.15  # two channels; at 0.2 there are three
    assert figures == pytest.approx({"acc_raw": 0.9, "acc": 0.86})
    nothing, figures = anp.best_threshold(network, masks, accuracy, 0.0)
    assert (nothing, figures["acc"]) == (0.0, 0.9)


def test_without_validation_images_the_threshold_is_a_number(tiny_images):
    teacher = models.build(SPEC)
    with pytest.raises(UsageError, match="chooses its threshold on validation images"):
        repair.run("anp", teacher, tiny_images, {"steps": 1}, TRAIN)
    asked = []
    made, log = repair.run(
        "anp", teacher, tiny_images, {"steps": 1}, TRAIN, validate=lambda net: asked.append(1) or 0.5
    )
    assert asked
    assert log.method["threshold"] == 0.95  # nothing it prunes costs this validation anything
    assert isinstance(made, Model)


class Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[1.0, -2.0, 0.5], [-1.0, 1.0, 3.0]]))

    def forward(self, x):
        return x.flatten(1) @ self.weight.T


def test_the_universal_perturbation_and_its_hypergradient():
    """On a linear model, against a finite difference of what one step of ascent in the network's place would do."""
    pixels = np.full((16, 3, 1, 1), 128, dtype=np.uint8)
    images = ImageSet(pixels, np.zeros(16, dtype=np.int64), ("one", "two"), "made up")
    spec = ModelSpec("linear", 2, InputSpec(3, 1, 1, (0.0,) * 3, (1.0,) * 3))
    options = {"share": 1.0, "terms": 1, "rate": 1e-2, "radius": 3.2, "pull": 0.0}
    method = i_bau.AdversarialUnlearning(i_bau.AdversarialUnlearning.Config(**options), spec)
    batches = Batches(images, 16, seed=0, augment="none")
    method.prepare(Context(Network(Linear(), spec.input).eval(), batches, TRAIN, torch.device("cpu")))
    method.start_epoch(0)
    uphill = torch.tensor([-2.0, 3.0, 2.5])  # the other class's weights minus this one's
    radius = 3.2 * (3 / 3072) ** 0.5
    assert torch.allclose(method.delta.detach().flatten(), radius * uphill / uphill.norm(), atol=1e-6)

    batch = next(iter(batches.epoch(0)))
    weight, delta = method.student.net.weight, method.delta.detach().double()
    terms = method.step(batch)
    (given,) = torch.autograd.grad(terms["lead"], weight)

    def slope(of: torch.Tensor) -> torch.Tensor:
        """Of the loss for δ, of weights [2, 3]: Σ_c (p_c − y_c) w_c."""
        at = (batch.images[:1].double() + delta).flatten()
        chances = torch.softmax(of @ at, dim=0) - torch.tensor([1.0, 0.0], dtype=torch.float64)
        return chances @ of

    origin = weight.detach().double()
    first = slope(origin)
    wanted = torch.zeros(2, 3, dtype=torch.float64)
    for row in range(2):
        for column in range(3):
            step = torch.zeros(2, 3, dtype=torch.float64)
            step[row, column] = 1e-5
            # one step of the map moves δ by rate · slope(w): its change with w, along the outer gradient
            wanted[row, column] = 1e-2 * (slope(origin + step) - slope(origin - step)) @ first / 2e-5
    assert torch.allclose(given.double(), wanted, rtol=1e-3, atol=1e-7)
    assert float(terms["perturbed"].detach()) == pytest.approx(
        float(
            nn.functional.cross_entropy(
                (batch.images + method.delta.detach()).flatten(1) @ weight.detach().T, batch.labels
            )
        )
    )


def test_of_several_perturbations_the_most_harmful_is_unlearned(tiny_images, monkeypatch):
    method, _ = prepared(i_bau.AdversarialUnlearning, tiny_images, searches=3, inner_steps=2, pull=0.0)
    search, found = method._search, []

    def noted(batches):
        found.append(search(batches))
        return found[-1]

    monkeypatch.setattr(method, "_search", noted)
    method.start_epoch(0)
    judge = next(iter(method.batches.epoch(i_bau.STREAM)))
    with torch.no_grad():
        harm = [float(method._loss(delta, judge)) for delta in found]
    assert len(set(harm)) == 3
    assert torch.equal(method.delta.detach(), found[harm.index(max(harm))])


def test_running_statistics_do_not_follow_perturbed_images(tiny_images):
    given = models.build(SPEC)
    made, _ = repair.run("i-bau", given, tiny_images, {"epochs": 1, "inner_steps": 2}, TRAIN)
    buffers = dict(given.module.named_buffers())
    assert all(torch.equal(value, buffers[name]) for name, value in made.module.named_buffers())


def test_gates_start_open_and_are_folded_into_the_norms(tiny_images):
    method, batch = prepared(gate.ChannelGate, tiny_images, search_steps=1)
    student = method.student.eval()
    raw = models.build(SPEC).module(batch.images)
    assert torch.equal(student(batch.images), raw)
    with torch.no_grad():
        for part in (*student.gates, *student.shifts):
            part += 3 * torch.rand_like(part) - 2
    method.update(lambda: None)
    inputs = torch.randn(2, len(student.gates[0]), 4, 4)
    norm = student.network.get_submodule(student.names[0])
    wanted = student.gates[0].view(-1, 1, 1) * norm(inputs) + student.shifts[0].view(-1, 1, 1)
    gates = torch.cat([g.detach() for g in student.gates])
    assert gates.min() == 0
    assert gates.max() == 1
    folded, notes = method.finish(student, None)
    assert torch.allclose(folded.get_submodule(student.names[0])(inputs), wanted, atol=1e-6)
    assert torch.allclose(folded(batch.images), student(batch.images), atol=1e-5)
    assert not torch.allclose(folded(batch.images), raw, atol=1e-2)
    assert notes["shut"] == int((gates == 0).sum())


def test_the_gates_descend_what_the_perturbations_climb(tiny_images):
    method, batch = prepared(gate.ChannelGate, tiny_images, search_steps=2, ascent=0.02, weight=0.7, keep=2.0)
    (climber,) = method.own_optimizers()
    found = [p.detach().clone() for p in method.perturbations]
    assert all(float(p.abs().max()) <= 0.05 + 1e-7 for p in found)
    torch.manual_seed(3)
    terms = method.step(batch)
    torch.manual_seed(3)
    which = torch.randint(4, (16,))
    changed = (batch.images + torch.stack(found)[which]).clamp(0, 1)
    with torch.no_grad():
        fooled = nn.functional.cross_entropy(method.student(changed), batch.labels)
    assert float(terms["perturbed"].detach()) == pytest.approx(0.7 * float(fooled), rel=1e-4)
    assert float(terms["kept"].detach()) == pytest.approx(0, abs=1e-6)  # nothing has moved yet
    torch.stack(list(terms.values())).sum().backward()
    climber.step()
    moved = [p.detach() - f for p, f in zip(method.perturbations, found, strict=True)]
    assert float(torch.stack(moved).abs().max()) == pytest.approx(0.02, rel=1e-4)
    assert all(float(p.detach().abs().max()) <= 0.05 + 1e-7 for p in method.perturbations)
    with torch.no_grad():
        again = (batch.images + torch.stack([p.detach() for p in method.perturbations])[which]).clamp(0, 1)
        assert nn.functional.cross_entropy(method.student(again), batch.labels) > fooled
    assert not any(p.requires_grad for p in method.student.network.parameters())
