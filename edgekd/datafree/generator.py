"""The generator of data-free distillation: noise in, images in [0, 1] out."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

COARSEST, LEAST_WIDTH = 16, 8  # the side at which it starts is at most this


class Generator(nn.Module):
    """Linear to a coarse map, then (up x 2, convolution, norm, leaky ReLU) per doubling; a norm and a sigmoid at the end.

    noise [N, latent] -> images [N, C, H, W]. Of 32 x 32 images in ZSKT's form (latent 100, width 128) 1.05 M parameters,
    in CMI's (latent 256, ``plain``: no bias and no last norm) 2.33 M. Micaelli and Storkey 2019 end at the norm, in the
    teacher's normalised space; a sigmoid, as in CMI, keeps pixels in their range. Norms always go by the batch.
    """

    def __init__(self, shape: tuple[int, int, int], latent: int, width: int, *, plain: bool = False) -> None:
        super().__init__()
        channels, self.height, self.width_ = shape
        doublings = 2
        while math.ceil(max(shape[1:]) / 2**doublings) > COARSEST:
            doublings += 1
        self.coarse = tuple(math.ceil(side / 2**doublings) for side in shape[1:])
        self.start = width
        self.dense = nn.Linear(latent, width * self.coarse[0] * self.coarse[1])
        self.norm = nn.BatchNorm2d(width, track_running_stats=False)
        blocks, now = [], width
        for number in range(doublings):
            then = now if number == 0 else max(LEAST_WIDTH, now // 2)
            blocks.append(
                nn.Sequential(
                    nn.Upsample(scale_factor=2),
                    nn.Conv2d(now, then, 3, padding=1, bias=not plain),
                    nn.BatchNorm2d(then, track_running_stats=False),
                    nn.LeakyReLU(0.2),
                )
            )
            now = then
        self.blocks = nn.ModuleList(blocks)
        self.last = nn.Conv2d(now, channels, 3, padding=1)
        self.level = nn.Identity() if plain else nn.BatchNorm2d(channels, track_running_stats=False)

    def forward(self, noise: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.dense(noise).view(-1, self.start, *self.coarse))
        for block in self.blocks:
            x = block(x)
        images: torch.Tensor = torch.sigmoid(self.level(self.last(x))).float()
        top, left = (images.shape[2] - self.height) // 2, (images.shape[3] - self.width_) // 2
        return images[:, :, top : top + self.height, left : left + self.width_]


@torch.no_grad()
def refill(generator: nn.Module, draws: torch.Generator) -> None:
    """Fresh weights as CMI draws them each round: N(0, 0.02), norms around 1, biases 0."""
    for part in generator.modules():
        if isinstance(part, nn.Conv2d | nn.Linear | nn.BatchNorm2d):
            middle = 1.0 if isinstance(part, nn.BatchNorm2d) else 0.0
            device = part.weight.device
            part.weight.copy_((middle + 0.02 * torch.randn(part.weight.shape, generator=draws)).to(device))
            if part.bias is not None:
                part.bias.zero_()


def views(images: torch.Tensor, draws: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Two differentiable looks at images [N, C, H, W]: shifted by up to an eighth, and a crop of 1/4 to all of the area.

    Both are mirrored at random; what lies outside is black. Fang et al. 2021 (CMI), global and local view.
    """
    count, device = len(images), images.device
    shift = torch.randint(-(images.shape[3] // 8), images.shape[3] // 8 + 1, (2, count), generator=draws)
    moved = 2 * shift / torch.tensor([[images.shape[3]], [images.shape[2]]])
    wide = _look(images, torch.ones(count), moved.to(torch.float32), draws)
    scale = (0.25 + 0.75 * torch.rand(count, generator=draws)).sqrt()
    place = (2 * torch.rand(2, count, generator=draws) - 1) * (1 - scale)
    return wide.to(device), _look(images, scale, place, draws).to(device)


def _look(images: torch.Tensor, scale: torch.Tensor, place: torch.Tensor, draws: torch.Generator) -> torch.Tensor:
    mirror = 1 - 2.0 * torch.randint(0, 2, (len(images),), generator=draws)
    zero = torch.zeros_like(scale)
    rows = torch.stack([torch.stack([scale * mirror, zero, place[0]], 1), torch.stack([zero, scale, place[1]], 1)], 1)
    grid = F.affine_grid(rows.to(images.device), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
