"""The card of the standard methods: their terms put together by hand, their schedules, what they compare."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_teacher import context, model

from edgekd.distill.features import Pair
from edgekd.distill.reviewkd import with_pooled
from edgekd.distill.run import method_class
from edgekd.distill.warmup import WarmupSettings
from edgekd.errors import UsageError
from edgekd.losses import decoupled_kl, hierarchical_context, pearson, selectivity_distance, similarity_distance


def ready(name, images, teacher="wrn-10-1", student="resnet8-w4", options=None, **train):
    """A prepared method, its student in training mode, and the first batch."""
    kind = method_class(name)
    method = kind(kind.Config(**(options or {})), model(teacher).module)
    place = context(model(student, seed=1), images, **train)
    torch.manual_seed(0)
    method.prepare(place)
    method.student.train()
    return method, next(iter(place.batches.epoch(0)))


@torch.no_grad()
def both(method, batch):
    """Sites of teacher and student, the latter with batch statistics as in a step."""
    return method.teacher.sites(batch.images), method.student.sites(batch.images)


@pytest.mark.parametrize(
    ("asked", "epochs", "shares"),
    [
        ("auto", 240, {0: 1 / 20, 9: 0.5, 18: 0.95, 19: 1, 239: 1}),
        ("auto", 480, {9: 0.5, 19: 1}),
        ("auto", 48, {0: 0.25, 1: 0.5, 3: 1, 47: 1}),
        ("auto", 3, {0: 1}),
        (20, 30, {9: 0.5, 19: 1, 29: 1}),
        (0, 240, {0: 1}),
    ],
)
def test_the_warm_up_is_the_papers_and_a_short_run_has_its_share_of_it(asked, epochs, shares):
    settings = WarmupSettings(warmup_epochs=asked)
    assert {epoch: settings.share(epoch, epochs) for epoch in shares} == pytest.approx(shares)


@pytest.mark.parametrize(("name", "terms"), [("dkd", ("tckd", "nckd")), ("reviewkd", ("features",))])
def test_the_teachers_terms_rise_and_the_labels_do_not(tiny_images, name, terms):
    method, batch = ready(name, tiny_images, epochs=48)
    found = []
    for epoch in (0, 1, 2, 3, 40):
        method.start_epoch(epoch)
        with torch.no_grad():
            found.append(method.step(batch))
    for term in terms:
        risen = [float(terms[term] / found[-1][term]) for terms in found]
        assert risen == pytest.approx([0.25, 0.5, 0.75, 1, 1], rel=1e-4)
    assert len({float(terms["ce"]) for terms in found}) == 1


def test_dkd_is_the_weighted_sum_of_its_parts(tiny_images):
    method, batch = ready("dkd", tiny_images, options={"alpha": 0.5, "temperature": 3})
    with torch.no_grad():
        terms = method.step(batch)
        student = method.student(batch.images)
        target, others = decoupled_kl(student, method.teacher(batch.images), batch.labels, 3.0)
    assert {name: float(value) for name, value in terms.items()} == pytest.approx(
        {
            "ce": float(F.cross_entropy(student, batch.labels)),
            "tckd": 0.5 * float(target.mean()),
            "nckd": 8 * float(others.mean()),
        }
    )


def test_dist_correlates_rows_and_columns_of_softened_predictions(tiny_images):
    method, batch = ready("dist", tiny_images)
    with torch.no_grad():
        terms = method.step(batch)
        student = method.student(batch.images)
        s, t = (torch.softmax(z / 4, 1).double().numpy() for z in (student, method.teacher(batch.images)))
    rows, columns = (
        np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(x, y, strict=True)]) for x, y in ((s, t), (s.T, t.T))
    )
    assert float(terms["inter"]) == pytest.approx(32 * (1 - rows), rel=1e-4)
    assert float(terms["intra"]) == pytest.approx(32 * (1 - columns), rel=1e-4)
    assert float(terms["ce"]) == pytest.approx(float(F.cross_entropy(student, batch.labels)))
    assert float(pearson(torch.tensor(s), torch.tensor(t)).mean()) == pytest.approx(rows, abs=1e-5)


def test_nst_adds_up_the_sites_after_their_activation(tiny_images):
    method, batch = ready("nst", tiny_images, teacher="convpool-mnist")  # maps of 12 and 4 against 16, 8 and 4
    with torch.no_grad():
        teacher, student = both(method, batch)
        terms = method.step(batch)
        pairs = [
            (teacher.targets[0].relu(), student.targets[1].relu()),
            (teacher.targets[1].relu(), student.targets[2].relu()),
        ]
        sizes = [t.shape[2:] for t, _ in pairs], [s.shape[2:] for _, s in pairs]
        assert sizes[0] != sizes[1]
        expected = 0.0
        for t, s in pairs:
            size = min(t.shape[2], s.shape[2])
            expected += 50 * float(selectivity_distance(*(F.adaptive_avg_pool2d(f, size) for f in (t, s))))
    assert float(terms["features"]) == pytest.approx(expected, rel=1e-5)


def test_sp_compares_the_deepest_site_whole(tiny_images):
    method, batch = ready("sp", tiny_images, teacher="mobilenetv2")
    with torch.no_grad():
        teacher, student = (sites.targets[-1].relu() for sites in both(method, batch))
        assert teacher.shape[1:] != student.shape[1:]
        assert float(method.step(batch)["features"]) == pytest.approx(
            3000 * float(similarity_distance(teacher, student))
        )
    assert len(method.report["sites"]) == 1


HINTS = [  # teacher, layer asked for, what is compared: sites of teacher and student, counted from 0
    ("wrn-10-1", "middle", (1, 1)),
    ("preactresnet18", "middle", (2, 1)),
    ("badnet-cnn", "middle", (0, 1)),
    ("wrn-10-1", 3, (2, 2)),
]


@pytest.mark.parametrize(("teacher", "layer", "sites"), HINTS)
def test_the_hint_is_a_layer_in_the_middle(tiny_images, teacher, layer, sites):
    method, batch = ready("fitnets", tiny_images, teacher=teacher, options={"layer": layer})
    (pair,) = method.pairs
    assert (pair.teacher, pair.student) == sites
    with torch.no_grad():
        found = [shown.targets[n].relu() for shown, n in zip(both(method, batch), sites, strict=True)]
        target, feature = (F.adaptive_avg_pool2d(f, pair.size) for f in found)
        expected = 100 * ((method.regressor(feature) - target) ** 2).mean()
        assert float(method.step(batch)["features"]) == pytest.approx(float(expected), rel=1e-5)


def test_a_hint_that_is_not_there_is_refused(tiny_images):
    with pytest.raises(UsageError, match=r"distill.layer=3, but .* 2 pairs of sites. Choose 1 to 2"):
        ready("fitnets", tiny_images, teacher="badnet-cnn", options={"layer": 3})


def test_reviewkd_matches_what_each_stage_and_the_deeper_ones_make(tiny_images):
    method, batch = ready("reviewkd", tiny_images, options={"warmup_epochs": 0})
    with torch.no_grad():
        teacher, student = both(method, batch)
        expected, carried = 0.0, None
        ours, theirs = (
            [*sites.targets, sites.targets[2].relu().mean((2, 3), keepdim=True)] for sites in (student, teacher)
        )
        for level in (3, 2, 1, 0):
            fusion = method.review.fusions[level]
            fused = fusion.narrow(ours[level])
            if carried is not None:
                times = fused.shape[2] // carried.shape[2]
                large = carried.repeat_interleave(times, 2).repeat_interleave(times, 3)
                weights = torch.sigmoid(fusion.attention(torch.cat([fused, large], 1)))
                fused = weights[:, :1] * fused + weights[:, 1:] * large
            expected += 5 * float(hierarchical_context(theirs[level], fusion.widen(fused)))
            carried = fused
        assert float(method.step(batch)["features"]) == pytest.approx(expected, rel=1e-5)
    assert float(min(feature.min() for feature in teacher.targets)) < 0  # before the activation
    assert [fusion.attention is None for fusion in method.review.fusions] == [False] * 3 + [True]  # nothing is deeper
    for fusion in method.review.fusions:
        for weight in (fusion.narrow[0].weight, fusion.widen[0].weight):
            bound = (3 / weight[0].numel()) ** 0.5
            assert 0.8 * bound < float(weight.detach().abs().max()) <= bound + 1e-6


def test_features_of_one_value_a_channel_have_no_level_of_their_pooled_ones():
    flat, wide = Pair(1, 1, 4, 4, (1, 1)), Pair(0, 0, 4, 4, (2, 2))
    assert with_pooled((wide, flat)) == (wide, flat)
    assert with_pooled((flat, wide)) == (flat, wide, Pair(0, 0, 4, 4, (1, 1)))


def test_deeper_stages_learn_from_shallower_targets(tiny_images):
    """The review: without it the teacher's first stage would teach the student's first alone."""
    method, batch = ready("reviewkd", tiny_images)
    student = method.student.sites(batch.images).targets
    features = [*student, student[2].mean((2, 3), keepdim=True)]
    reviewed = method.review([feature.detach().requires_grad_() for feature in features])
    deepest = method.review.fusions[3].narrow[0].weight
    assert float(torch.autograd.grad(reviewed[0].square().sum(), deepest)[0].abs().max()) > 0


def test_what_is_trained_beside_the_student_is_none_of_its_parts(tiny_images):
    for name in ("fitnets", "crd", "reviewkd"):
        method, batch = ready(name, tiny_images)
        own = {id(p) for p in method.student.parameters()}
        beside = [p for part in method.modules() for p in part.parameters()]
        assert beside
        assert not any(id(p) in own for p in beside)
        torch.stack(list(method.step(batch).values())).sum().backward()
        assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in beside), name
        assert all(p.grad is None for p in method.teacher.parameters())
