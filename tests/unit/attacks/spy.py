"""A network that notes what it is shown."""

import torch


class Spy(torch.nn.Module):
    """``network``, and ``shown``: the images of every pass."""

    def __init__(self, network):
        super().__init__()
        self.network, self.shown = network, []

    def forward(self, images):
        self.shown.append(images.detach().clone())
        return self.network(images)

    def sites(self, images, edit=None):
        self.shown.append(images.detach().clone())
        return self.network.sites(images, edit)
