"""The attacks on linear models, where the best that they can do can be written down, and on a small network."""

import numpy as np
import pytest
import torch

from edgekd.losses import dlr_targeted, margin, margin_targeted
from edgekd.perturb import apgd, each_target, fab, pgd, slope, square
from edgekd.perturb.apgd import checkpoints
from edgekd.perturb.fab import onto_plane
from edgekd.perturb.square import area, windows

BOUND = 0.05


def seeded(number=0):
    return torch.Generator().manual_seed(number)


WEIGHTS = torch.randn(5, 3 * 6 * 6, generator=seeded(1))
IMAGES = 0.3 + 0.4 * torch.rand(16, 3, 6, 6, generator=seeded(2))  # no pixel meets the range's end


def linear(images):
    return images.flatten(1) @ WEIGHTS.T


LABELS = linear(IMAGES).argmax(1)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(128, 5))
    return net.eval().requires_grad_(False)


def attacks(predict):
    """Every attack as (images, labels) -> images."""
    return {
        "fgsm": lambda x, y: pgd(predict, x, y, bound=BOUND, rate=BOUND, steps=1),
        "pgd": lambda x, y: pgd(
            predict, x, y, bound=BOUND, rate=BOUND / 4, steps=12, generator=seeded(), objective=margin, keep=True
        ),
        "apgd": lambda x, y: apgd(predict, x, y, bound=BOUND, steps=12, generator=seeded()),
        "apgd-t": lambda x, y: each_target(
            predict,
            x,
            y,
            count=3,
            attack=lambda i, t: apgd(
                predict,
                x[i],
                y[i],
                bound=BOUND,
                steps=12,
                generator=seeded(),
                objective=lambda z, _: dlr_targeted(z, y[i], t),
            ),
        ),
        "square": lambda x, y: square(predict, x, y, bound=BOUND, queries=60, generator=seeded()),
    }


NAMES = list(attacks(linear))


@pytest.mark.parametrize("name", NAMES)
def test_it_stays_within_the_bound_and_the_range_and_is_a_function_of_its_seed(name, network):
    images = torch.rand(12, 3, 6, 6, generator=seeded(5))
    labels = network(images).argmax(1)
    found = attacks(network)[name](images, labels)
    assert float((found - images).abs().max()) <= BOUND + 1e-6
    assert float(found.min()) >= 0
    assert float(found.max()) <= 1
    assert torch.equal(found, attacks(network)[name](images, labels))
    assert not found.requires_grad
    assert float(margin(network(found), labels).mean()) > float(margin(network(images), labels).mean())


@pytest.mark.parametrize("name", ["apgd", "pgd"])
def test_with_two_classes_a_linear_model_is_driven_to_the_analytic_optimum(name):
    """The margin grows by the bound times ‖w_y - w_j‖_1, and no further."""

    def two(images):
        return linear(images)[:, :2]

    labels = two(IMAGES).argmax(1)
    before, norm = margin(two(IMAGES), labels), (WEIGHTS[0] - WEIGHTS[1]).abs().sum()
    bound = float((-before).quantile(0.45) / norm)  # enough for some of them
    if name == "apgd":
        found = apgd(two, IMAGES, labels, bound=bound, steps=12, generator=seeded())
    else:
        found = pgd(two, IMAGES, labels, bound=bound, rate=bound / 4, steps=12, generator=seeded(), keep=True)
    after, best = margin(two(found), labels), bound * norm
    withstood = after < 0  # the others come as they were when they were misclassified
    assert torch.allclose((after - before)[withstood], best.expand(int(withstood.sum())), rtol=1e-4)
    assert torch.equal(withstood, before + best < 0)
    assert 0 < int(withstood.sum()) < len(IMAGES)


def test_pgd_keeps_what_was_misclassified_on_the_way():
    """From 0.5 by steps of 0.2 over the peak of the other class at 0.31, and back."""

    def peak(images):
        height = 1 - 10 * (images.flatten(1) - 0.31).abs()
        return torch.cat([torch.zeros_like(height), height], 1)

    def walked(keep):
        image, label = torch.full((1, 1, 1, 1), 0.5), torch.tensor([0])
        return float(pgd(peak, image, label, bound=0.3, rate=0.2, steps=2, keep=keep))

    assert walked(True) == pytest.approx(0.3)
    assert walked(False) == pytest.approx(0.5)


def test_a_bound_per_image_is_kept_by_each(network):
    bounds = torch.tensor([0.0, 0.01, 0.1]).view(3, 1, 1, 1)
    images, labels = IMAGES[:3], LABELS[:3]
    for found in (
        pgd(network, images, labels, bound=bounds, rate=bounds / 4, steps=8, generator=seeded()),
        apgd(network, images, labels, bound=bounds, steps=8, generator=seeded()),
        square(network, images, labels, bound=bounds, queries=8, generator=seeded()),
    ):
        moved = (found - images).flatten(1).abs().amax(1)
        assert torch.allclose(moved, bounds.flatten(), atol=1e-6)


def test_checkpoints_of_a_hundred_steps():
    # 0.22, + 0.19, + 0.16, + 0.13, + 0.10, + 0.07, + 0.06, + 0.06
    assert sorted(checkpoints(100)) == [22, 41, 57, 70, 80, 87, 93, 99]


def test_apgd_halves_its_step_where_a_fixed_one_oscillates():
    """Its own step is twice the bound: on a narrow ridge only a shorter one finds the top."""

    def ridge(images):
        height = -(images.flatten(1) - 0.43).abs().sum(1)
        return torch.stack([torch.zeros_like(height) - 1, height], 1)

    image, label = torch.full((1, 1, 2, 2), 0.4), torch.tensor([0])
    found = apgd(ridge, image, label, bound=0.1, steps=100, generator=seeded(), objective=lambda z, y: z[:, 1])
    assert float((found - 0.43).abs().max()) < 2e-3


# ---- FAB ---------------------------------------------------------------------------------------------------------------


def test_the_plane_is_reached_by_the_shortest_step():
    generator = seeded(3)
    images = torch.rand(40, 1, 3, 3, generator=generator)
    gradient, value = torch.randn(40, 1, 3, 3, generator=generator), torch.randn(40, generator=generator)
    step = onto_plane(images, gradient, value)
    moved = images + step
    assert float(moved.min()) >= -1e-6
    assert float(moved.max()) <= 1 + 1e-6
    left = value + (gradient * step).flatten(1).sum(1)
    for index in range(len(images)):
        slopes, pixels = gradient[index].flatten().numpy(), images[index].flatten().numpy()
        signs = -np.sign(slopes) * np.sign(float(value[index]))
        room = np.where(signs > 0, 1 - pixels, pixels)
        # what a radius gives, on a fine scale
        radii = np.linspace(0, 1, 20001)[:, None]
        gained = (np.abs(slopes) * np.minimum(radii, room)).sum(1)
        if gained[-1] < abs(float(value[index])):
            assert step[index].abs().flatten().numpy() == pytest.approx(room, abs=1e-6)
        else:
            assert float(left[index]) == pytest.approx(0, abs=1e-4)
            shortest = radii[np.searchsorted(gained, abs(float(value[index]))), 0]
            assert float(step[index].abs().max()) == pytest.approx(shortest, abs=1e-4)


def test_fab_finds_the_distance_to_the_boundary_of_a_linear_model():
    """margin / ‖w_y - w_t‖_1, towards the nearest class."""
    others = linear(IMAGES).scatter(1, LABELS[:, None], -torch.inf).argmax(1)
    found = fab(linear, IMAGES, LABELS, others, steps=20)
    assert torch.equal(linear(found).argmax(1) != LABELS, torch.ones(16, dtype=torch.bool))
    lengths = (found - IMAGES).flatten(1).abs().amax(1)
    distances = -margin_targeted(linear(IMAGES), LABELS, others) / (WEIGHTS[LABELS] - WEIGHTS[others]).abs().sum(1)
    assert bool((lengths >= distances - 1e-6).all())
    assert torch.allclose(lengths, distances, rtol=0.02)


def test_fab_leaves_alone_what_it_cannot_fool():
    constant = torch.tensor([1.0, 0.0])
    found = fab(lambda x: constant + 0 * x.flatten(1)[:, :2], IMAGES, LABELS * 0, LABELS * 0 + 1, steps=3)
    assert torch.equal(found, IMAGES)


# ---- targets -------------------------------------------------------------------------------------------------------------


def test_targets_come_in_the_order_of_their_logits_until_one_succeeds():
    asked = []

    def attack(index, targets):
        asked.append(targets.tolist())
        moved = images[index].clone()
        moved[targets == 2, 0] = 1
        return moved

    def predict(images):
        plain = torch.tensor([[5.0, 1.0, 2.0, 3.0], [5.0, 4.0, 3.0, 2.0]])
        fooled = torch.tensor([0.0, 0.0, 9.0, 0.0])
        rows = torch.arange(2)[images.flatten(1)[:, 1].long()]
        return torch.where(images.flatten(1)[:, :1] > 0.5, fooled, plain[rows])

    images = torch.zeros(2, 2, 1, 1)
    images[1, 1] = 1  # the second row of logits
    found = each_target(predict, images, torch.tensor([0, 0]), count=9, attack=attack)
    assert asked == [[3, 1], [2, 2]]
    assert predict(found).argmax(1).tolist() == [2, 2]


def test_more_targets_than_classes_are_not_asked_for():
    asked = []
    image = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)
    each_target(
        lambda x: x.flatten(1)[:, :3],
        image,
        torch.tensor([0]),
        count=9,
        attack=lambda i, t: asked.append(int(t)) or image,
    )
    assert asked == [1, 2]


# ---- Square --------------------------------------------------------------------------------------------------------------


def test_squares_shrink_as_in_the_paper():
    assert [area(0.8, query, 10_000) for query in (1, 11, 51, 501, 8001)] == [0.8, 0.4, 0.2, 0.05, 0.8 / 512]
    assert area(0.8, 50, 500) == area(0.8, 1000, 10_000)


def test_windows_are_squares_inside_the_image():
    made = windows(torch.tensor([[0.0, 0.0], [0.999, 0.999], [0.5, 0.0]]), 2, 4, 5)
    assert made.shape == (3, 1, 4, 5)
    assert made.flatten(1).sum(1).tolist() == [4, 4, 4]
    assert made[0, 0, :2, :2].all()
    assert made[1, 0, 2:, 3:].all()
    assert made[2, 0, 1:3, :2].all()


def test_square_asks_for_no_gradient_and_no_more_queries_than_allowed():
    asked = []

    def predict(images):
        assert not torch.is_grad_enabled()
        asked.append(len(images))
        return linear(images)

    robust = LABELS.clone()
    square(predict, IMAGES, robust, bound=1e-4, queries=30, generator=seeded())
    assert asked == [16] * 30
    asked.clear()
    square(predict, IMAGES, robust, bound=0.3, queries=30, generator=seeded())
    assert sum(asked) < 16 * 30  # what is misclassified is asked no more


def test_slopes_are_each_images_own(network):
    alone = [slope(network, IMAGES[i : i + 1], LABELS[i : i + 1])[2] for i in range(3)]
    assert torch.allclose(torch.cat(alone), slope(network, IMAGES[:3], LABELS[:3])[2], atol=1e-6)
