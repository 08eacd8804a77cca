"""Patches: geometry, colours, CutMix, the balanced pool, and answers that are asked once."""

import numpy as np
import pytest
import torch
from PIL import Image

from edgekd import datafree, models
from edgekd.data import Batch
from edgekd.datafree import View, cutting, patches, textures
from edgekd.datafree.told import Told
from edgekd.datafree.vaccine import capped
from edgekd.errors import UsageError
from edgekd.training import TrainConfig
from edgekd.types import InputSpec, ModelSpec

TRAIN = TrainConfig(epochs=1, batch_size=16, precision="fp32")


@pytest.fixture(scope="module")
def picture():
    """Blocks of bright colours, nowhere black."""
    return np.kron(np.random.default_rng(0).integers(90, 255, (30, 40, 3)), np.ones((5, 5, 1))).astype(np.uint8)


@pytest.fixture(scope="module")
def photo(picture, tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    Image.fromarray(picture).save(folder / "b.png")
    Image.fromarray(picture[:60, :80]).convert("L").save(folder / "a.png")
    (folder / "notes.txt").write_text("no picture")
    return folder


@pytest.fixture(scope="module")
def teacher():
    made = models.build(ModelSpec("resnet8-w4", 5, InputSpec(3, 16, 16, (0.5,) * 3, (0.25,) * 3)), seed=3)
    made.module.requires_grad_(False)
    return made


def opened(teacher, folder=None, vaccine=None, spec=None, **options):
    source = datafree.make("patches", options, teacher, TRAIN, vaccine)
    source.open(View(Told(teacher.module), teacher.module, torch.device("cpu"), folder, teacher.sha256))
    return source


def test_more_patches_begin_with_the_same_ones(picture):
    some, more, other = (cutting.cut([picture], n, 16, seed) for n, seed in ((5, 0), (9, 0), (5, 1)))
    assert some.shape == (5, 3, 16, 16)
    assert some.dtype == np.uint8
    assert np.array_equal(some, more[:5])
    assert not np.array_equal(some, other)


def test_only_turning_shows_what_lies_outside(picture):
    plain = cutting.cut([picture], 60, 16, 0, turn=0.0)
    turned = cutting.cut([picture], 60, 16, 0)
    black = [(images.max(1) == 0).reshape(60, -1).any(1) for images in (plain, turned)]
    assert not black[0].any()
    assert black[1].mean() < 0.5


def test_half_of_them_are_recoloured_and_a_grey_one_keeps_its_hue():
    grey = np.full((400, 4, 4, 3), 120, np.uint8)
    made = cutting._recoloured(grey, np.random.default_rng(0))
    changed = (made != 120).any((1, 2, 3))
    assert 0.4 < changed.mean() < 0.6
    assert (np.ptp(made.astype(int), 3) <= 1).all()
    assert made[changed].min() >= 120 * 0.6 - 1
    assert made.max() <= 120 * 1.4 + 1


def test_cutmix_takes_a_box_of_the_same_place():
    images = np.broadcast_to(np.arange(200, dtype=np.uint8)[:, None, None, None], (200, 1, 8, 8)).copy()
    mixed = cutting.cutmix(images, 0)
    shares = []
    for number, image in enumerate(mixed[:, 0]):
        foreign = image != number
        values = np.unique(image[foreign])
        assert len(values) <= 1
        rows, columns = np.flatnonzero(foreign.any(1)), np.flatnonzero(foreign.any(0))
        assert foreign.sum() == len(rows) * len(columns)  # a box
        shares.append(foreign.mean())
    assert 0.2 < np.mean(shares) < 0.5  # E[1 - λ] is a half, less what hangs over the edge
    assert np.array_equal(mixed, cutting.cutmix(images, 0))


def test_a_folder_a_grey_picture_and_what_is_none(photo, picture, tmp_path):
    read = cutting.read(photo)
    assert [image.shape for image in read] == [(60, 80, 3), (150, 200, 3)]
    assert np.array_equal(read[1], picture)
    assert np.array_equal(cutting.read(photo / "b.png")[0], picture)
    with pytest.raises(UsageError, match=r"no picture .*gone.jpg.*patches:PATH"):
        cutting.read(tmp_path / "gone.jpg")
    with pytest.raises(UsageError, match="holds no PNG or JPEG"):
        cutting.read(tmp_path)
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(20))
    with pytest.raises(UsageError, match=r"bad.png"):
        cutting.read(tmp_path)


def test_pictures_are_hashed_once_while_they_stay(photo, tmp_path, monkeypatch):
    file = tmp_path / "photo.png"
    file.write_bytes((photo / "b.png").read_bytes())
    first = cutting.digest(file)
    with monkeypatch.context() as patched:
        patched.setattr(cutting, "_decoded", None)
        assert cutting.digest(file) == first
    file.write_bytes((photo / "a.png").read_bytes())
    assert cutting.digest(file) != first


def test_small_pictures_are_cut_inside_and_tiny_ones_refused(tmp_path):
    for side in (16, 17, 31, 51):  # a five-hundredth of whose area is less than a pixel
        picture = np.random.default_rng(0).integers(0, 255, (side, side + 3, 3)).astype(np.uint8)
        assert cutting.cut([picture], 300, 8, 1).shape == (300, 3, 8, 8)
    Image.fromarray(picture[:15]).save(tmp_path / "icon.png")
    with pytest.raises(UsageError, match=r"icon.png is too small.*16 pixels"):
        cutting.read(tmp_path)


def test_many_small_pictures_are_used_whole_and_some_of_them_held_out(monkeypatch):
    """A picture's number is its red above, with 40 added below; its green is at the right."""
    monkeypatch.setattr(cutting, "_recoloured", lambda images, random: images)
    monkeypatch.setattr(cutting, "MANY", 100)
    halves = np.zeros((200, 20, 26, 3), np.uint8)
    halves[:, :10, :, 0], halves[:, :, 13:, 1] = np.arange(200)[:, None, None], 200
    halves[:, 10:, :, 0] = halves[:, :1, :, 0] + 40

    def shown(many, held_out):
        made = cutting.cut(list(halves[:many]), 300, 8, 0, held_out=held_out).astype(int)
        whole = made[(made[:, 0, 7, 0] - made[:, 0, 0, 0] == 40) & (abs(made[:, 1, 0, 7] - made[:, 1, 0, 0]) == 200)]
        return len(whole) / 300, set(whole[:, 0, 0, 0].tolist()), (whole[:, 1, 0, 0] > 0).mean()

    share, held, mirrored = shown(200, held_out=True)
    assert (share, held) == (1, set(range(0, 200, 10)))
    assert 0.4 < mirrored < 0.6
    share, pool, _ = shown(200, held_out=False)
    assert share == 1
    assert pool <= set(range(200)) - held
    assert len(pool) > 100
    assert shown(99, held_out=False)[0] < 0.2  # a few are cut
    assert cutting.used_whole(list(halves), 5) == []  # and so are large ones


def test_of_large_images_the_pool_is_smaller_and_an_epoch_is_not(teacher, monkeypatch):
    each = 3 * 16 * 16 + 4 * 5
    for most, pooled in ((1000, 160), (100, 100)):
        monkeypatch.setattr(patches, "MOST_BYTES", most * each)
        source = datafree.make("patches", {"images": 160}, teacher, TRAIN)
        source.open(View(Told(teacher.module), teacher.module, torch.device("cpu")))
        assert source.report["images"] == pooled
        assert source.kept_bytes(teacher.module) == pooled * each
        assert len(list(source.epoch(0))) == source.steps == 10


def test_pictures_that_are_too_many_are_refused(photo, monkeypatch):
    monkeypatch.setattr(cutting, "MOST_PIXELS", 1000)
    with pytest.raises(UsageError, match="more than 1,000"):
        cutting.read(photo)


def test_drawn_textures_are_crowded_and_seeded():
    first, second = textures.pictures(2, 0, side=64)
    assert first.shape == (64, 64, 3)
    assert first.dtype == np.uint8
    assert not np.array_equal(first, second)
    assert np.array_equal(first, textures.pictures(1, 0, side=64)[0])
    edges = np.abs(np.diff(first.astype(int), axis=1)).sum(2) > 30
    assert 0.05 < edges.mean() < 0.6
    assert first.std() > 30


def test_balanced_takes_the_first_of_each_class_up_to_twice_its_share():
    labels = np.array([1, 2, 1, 2, 1] + [0] * 20)
    chosen = patches.balanced(labels, 9, 3)
    assert chosen.tolist() == list(range(9))  # five rare ones, and four of the many, of which six would be allowed
    assert patches.balanced(labels, 12, 3).tolist() == list(range(12))
    crowded = np.array([0] * 20 + [1, 2, 1, 2, 1])
    assert np.bincount(crowded[patches.balanced(crowded, 11, 3)]).tolist() == [7, 2, 2]
    even = patches.balanced(np.array([0] * 20 + [1] * 20), 10, 2)
    assert len(even) == 10
    lopsided = patches.balanced(np.zeros(20, int), 8, 4)
    assert lopsided.tolist() == list(range(8))  # there is nothing else


def test_the_pool_is_kept_and_told_and_mirrored(teacher, photo, tmp_path):
    source = opened(teacher, tmp_path, image=str(photo), images=64)
    assert len(source.pool.images) == 64
    assert np.array_equal(source.pool.images[:32, :, :, ::-1], source.pool.images[32:])
    with torch.no_grad():
        asked = teacher.module(torch.from_numpy(source.pool.images).float() / 255).numpy()
    assert source.pool.logits == pytest.approx(asked, abs=1e-4)
    file = tmp_path / "pool.npz"
    before = file.stat().st_mtime_ns
    again = opened(teacher, tmp_path, image=str(photo), images=64)
    assert np.array_equal(again.pool.images, source.pool.images)
    assert file.stat().st_mtime_ns == before
    other = opened(teacher, tmp_path, image=str(photo), images=96, mirrored=False, cutmix=False, balance=False)
    assert len(other.pool.images) == 96
    file.write_bytes(b"no pool")
    assert np.array_equal(opened(teacher, tmp_path, image=str(photo), images=64).pool.images, source.pool.images)
    first = next(iter(source.once()))
    assert first.index.tolist() == list(range(16))
    assert len(source.labels) == 64


def test_grey_teachers_get_grey_patches(photo):
    grey = models.build(ModelSpec("resnet8-w4", 5, InputSpec(1, 20, 16, (0.5,), (0.25,))), seed=3)
    source = opened(grey, image=str(photo), images=64)
    assert source.pool.images.shape == (64, 1, 20, 16)
    assert patches.held_out(str(photo), (1, 20, 16), 5, 0).shape == (5, 1, 20, 16)


def test_suspects_are_left_out_or_weighed(teacher, photo):
    vaccine = datafree.VaccineSettings(pool=64, copies=1, accept="always", most_of_a_class=1.0)
    teacher = models.build(teacher.spec, seed=4)  # one that names more than a class
    source = opened(teacher, image=str(photo), images=64, vaccine=vaccine)
    assert 0 < source.suspects.sum() < 64
    assert len(source.labels) == 64 - source.suspects.sum()
    assert source.steps == len(list(source.epoch(1))) == 4  # as many as with all of them
    shown = {image.tobytes() for image in source.collect(64, 0)}
    assert not shown & {image.tobytes() for image in source.pool.images[source.suspects]}
    for weight in (0.1, -0.1):
        weighed = opened(
            teacher, image=str(photo), images=64, vaccine=vaccine.model_copy(update={"suspect_weight": weight})
        )
        whole = next(iter(weighed.once()))
        batch = Batch(*(torch.cat([part, part]) for part in whole))
        parts = list(weighed.parts(batch))
        suspect = int(weighed.suspect[batch.index].sum())
        assert [(len(part.batch.images), part.suspect) for part in parts] == [(32 - suspect, False), (suspect, True)]
        kept, others = (part.weight for part in parts)
        if weight > 0:  # a weighted mean
            assert kept + others == pytest.approx(1)
            assert others / kept == pytest.approx(weight * suspect / (32 - suspect))
        else:  # as in the authors' code
            assert (kept, others) == (1.0, weight)


def test_a_search_is_done_once(teacher, photo, tmp_path, monkeypatch):
    teacher = models.build(teacher.spec, seed=4)
    settings = {"pool": 64, "copies": 1, "accept": "always"}
    vaccine = datafree.VaccineSettings(**settings)
    first = opened(teacher, tmp_path, image=str(photo), images=64, vaccine=vaccine)
    assert first.suspects.any()
    alone = opened(teacher, image=str(photo), images=64, vaccine=vaccine)
    monkeypatch.setattr("edgekd.datafree.vaccine.Vaccine.search", None)
    monkeypatch.setattr("edgekd.datafree.vaccine.Vaccine.distances", None)
    again = opened(teacher, tmp_path, image=str(photo), images=64, vaccine=vaccine)
    for other in (alone, again):
        assert other.report == first.report
        assert np.array_equal(other.suspects, first.suspects)
    with pytest.raises(TypeError):  # of other settings nothing is known
        opened(teacher, tmp_path, image=str(photo), images=64, vaccine=datafree.VaccineSettings(**settings, layers=2))


def test_a_vaccine_that_suspects_everything_is_not_obeyed(teacher, photo):
    vaccine = datafree.VaccineSettings(pool=64, copies=1, accept="always", layers=1)
    source = opened(models.build(teacher.spec, seed=2), image=str(photo), images=64, vaccine=vaccine)
    assert "100%" in source.report["doubt"]
    assert source.report["suspicious"] == 0
    assert not source.report["vaccine"]["accepted"]  # so that the retrospection is not left out
    assert len(source.labels) == 64


def test_no_class_is_taken_away_as_a_whole():
    labels, distances = np.array([0] * 10 + [1] * 10), np.full(20, np.inf)
    distances[:10] = np.arange(10)[::-1]  # all of class 0 suspected, the last the most
    distances[15] = 3.0
    assert np.flatnonzero(capped(distances, labels, 0.2)).tolist() == [8, 9, 15]
    assert np.flatnonzero(capped(distances, labels, 1.0)).tolist() == [*range(10), 15]


def test_a_favourite_class_shows_although_the_pool_is_balanced(teacher, photo):
    teacher = models.build(teacher.spec, seed=4)
    source = opened(teacher, image=str(photo), images=64, mirrored=False, cutmix=False)
    cut = cutting.cut(source.pictures(), 128, 16, TRAIN.seed)
    everything = np.bincount(source.ask(cut).argmax(1), minlength=5)
    assert source.report["classes"] == everything.tolist()
    assert everything.max() > np.bincount(source.pool.logits.argmax(1)).max()


def test_a_known_answer_is_for_one_tensor_only(teacher):
    told, images = Told(teacher.module), torch.rand(2, 3, 16, 16)
    told.tell(images, torch.full((2, 5), 7.0))
    assert told(images).tolist() == [[7.0] * 5] * 2
    assert torch.equal(told(images.clone()), teacher.module(images))
    assert torch.equal(told(images.requires_grad_()), teacher.module(images))
    assert told.site_norms() == teacher.module.site_norms()
    with pytest.raises(AttributeError):
        told.nothing  # noqa: B018
