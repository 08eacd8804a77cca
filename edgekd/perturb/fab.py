"""FAB (Croce and Hein 2020b) in the maximum norm: the nearest point across the boundary, by steps onto its tangent."""

from __future__ import annotations

import torch

from ..losses import margin_targeted
from .slopes import Predict, per_image, slope

OVERSHOOT = 1.05  # of each step onto the tangent
PULL = 0.1  # largest share of the step that starts at the image itself
BACK = 0.9  # after a success: how far from the image to go on
HALVINGS = 3  # of the way to the image, at the end


def fab(
    predict: Predict, images: torch.Tensor, labels: torch.Tensor, targets: torch.Tensor, *, steps: int
) -> torch.Tensor:
    """The nearest misclassified images that were found towards the classes ``targets`` [N]; the image where none was.

    images: float [N, C, H, W] in [0, 1]; labels, targets: int64 [N]. predict: images -> logits, in eval mode. Nothing is
    random: the search starts at the image. Distances are largest changes of a pixel.
    """
    origin = images.detach()
    place, found = origin, origin
    distance = torch.full((len(origin),), torch.inf, device=origin.device)
    for _ in range(steps):
        value, _, gradient = slope(predict, place, labels, lambda z, y: margin_targeted(z, y, targets))
        to_origin = (gradient * (origin - place)).flatten(1).sum(1)
        near = onto_plane(place, gradient, value)
        far = onto_plane(origin, gradient, value + to_origin)
        lengths = [step.flatten(1).abs().amax(1) for step in (near, far)]
        pull = per_image((lengths[0] / (lengths[0] + lengths[1]).clamp_min(1e-12)).clamp_max(PULL))
        place = ((place + OVERSHOOT * near) * (1 - pull) + (origin + OVERSHOOT * far) * pull).clamp(0, 1)
        wrong = _wrong(predict, place, labels)
        length = (place - origin).flatten(1).abs().amax(1)
        nearer = wrong & (length < distance)
        found, distance = torch.where(per_image(nearer), place, found), torch.where(nearer, length, distance)
        place = torch.where(per_image(wrong), origin + BACK * (place - origin), place)
    return _halved(predict, origin, found, labels)


def onto_plane(images: torch.Tensor, gradient: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """The smallest step, in the maximum norm, from images in [0, 1] to where value + ⟨gradient, step⟩ = 0, inside [0, 1].

    images, gradient: [N, C, H, W]; value: [N]. Where the plane misses the cube the step goes as near as it can. Every
    pixel moves by the same length r, those that have less room as far as they can, so Σ |g_i| min(r, room_i) = |value|
    gives r; the left side is piecewise linear between the sorted rooms.
    """
    slopes, pixels = gradient.flatten(1), images.flatten(1)
    signs = -torch.sign(slopes) * torch.sign(value)[:, None]
    room = torch.where(signs > 0, 1 - pixels, pixels)
    rooms, order = room.sort(dim=1)
    weights = slopes.abs().gather(1, order)
    full = (weights * rooms).cumsum(1)  # what pixels up to this one give when they have used their room
    rest = weights.flip(1).cumsum(1).flip(1)  # the weight of this one and all with more room
    reach = full + rooms * (rest - weights)  # the left side at r = this room
    wanted = value.abs()[:, None]
    first = (reach < wanted).sum(1, keepdim=True).clamp_max(pixels.shape[1] - 1)
    before = full.gather(1, first) - (weights * rooms).gather(1, first)
    length = (wanted - before) / rest.gather(1, first).clamp_min(1e-12)
    return (signs * torch.minimum(length.clamp_min(0), room)).view_as(images)


def _wrong(predict: Predict, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return predict(images).argmax(1) != labels


def _halved(predict: Predict, origin: torch.Tensor, found: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Nearer to the image by bisection, where that is still misclassified."""
    right = origin
    for _ in range(HALVINGS):
        middle = (right + found) / 2
        wrong = per_image(_wrong(predict, middle, labels))
        found, right = torch.where(wrong, middle, found), torch.where(wrong, right, middle)
    return found
