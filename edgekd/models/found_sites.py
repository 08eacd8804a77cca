"""Sites of a network that nobody wrote with sites in mind: found by watching its activations while it runs.

Every call of an activation function is seen, from a module or from the functional interface. The site of a resolution
is the input of the last activation at that resolution; an edit replaces that input. In a residual network written with
activations after the sums this is the sum itself, so an edit reaches everything behind it; in a pre-activation network
it is the branch only, the shortcut goes round it. The target is the raw tensor: no norm is known to follow.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..errors import UsageError
from .sites import Edit, Recorder, Sites

ACTIVATIONS = frozenset(
    ("relu relu_ relu6 elu elu_ selu selu_ celu celu_ gelu silu mish leaky_relu leaky_relu_ prelu rrelu rrelu_ "
     "hardswish hardtanh hardtanh_ softplus tanh tanh_ sigmoid sigmoid_").split()
)  # fmt: skip


class ActivationCalls(TorchFunctionMode):
    """Hands the input of each activation on a feature map to ``see``, by the call's number; what comes back goes in."""

    def __init__(self, see: Callable[[int, Tensor], Tensor]) -> None:
        super().__init__()
        self.see = see
        self.calls = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if getattr(func, "__name__", "") in ACTIVATIONS:
            x = args[0] if args else kwargs.get("input")
            if isinstance(x, Tensor) and x.dim() == 4:
                seen = self.see(self.calls, x)
                self.calls += 1
                if args:
                    args = (seen, *args[1:])
                else:
                    kwargs["input"] = seen
        return func(*args, **kwargs)


class FoundSites:
    """Which activation calls of a network are its sites, found once on one grey image."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self.shape = shape
        self._calls: tuple[int, ...] | None = None

    def calls(self, net: nn.Module) -> tuple[int, ...]:
        """Numbers of the activation calls that are sites; raises UsageError when there are none."""
        if self._calls is None:
            last_at: dict[tuple[int, int], int] = {}

            def note(call: int, x: Tensor) -> Tensor:
                if x.shape[2] * x.shape[3] > 1:  # squeezed maps of channel attention are no stage
                    last_at[x.shape[2], x.shape[3]] = call
                return x

            watch(net, self.shape, note)
            self._calls = tuple(sorted(last_at.values()))
        if not self._calls:
            raise UsageError(
                "This network shows no activations to distil features from. Use a method that needs only its logits: "
                "--method kd, dkd, dist, scratch or finetune."
            )
        return self._calls

    def sites(self, net: nn.Module, images: Tensor, edit: Edit | None) -> Sites:
        """One pass over normalised images, with the edits put in."""
        levels = {call: level for level, call in enumerate(self.calls(net))}
        recorder = Recorder(edit)

        def see(call: int, x: Tensor) -> Tensor:
            if call not in levels:
                return x
            # an activation in place must not write over what was recorded
            return recorder.site(levels[call], x).clone()

        with ActivationCalls(see):
            logits = net(images)
        if len(recorder.raws) != len(levels):
            raise UsageError(
                "This network takes a different path for these images than for others, so its sites are not fixed."
            )
        return recorder.sites(logits)


@torch.no_grad()
def watch(net: nn.Module, shape: tuple[int, int, int], see: Callable[[int, Tensor], Tensor]) -> None:
    """Run one grey image through the network in eval mode; its mode and statistics are as before afterwards."""
    parameter = next(net.parameters(), None)
    device = torch.device("cpu") if parameter is None else parameter.device
    training = [module for module in net.modules() if module.training]
    net.eval()
    try:
        with ActivationCalls(see):
            net(torch.full((1, *shape), 0.5, device=device))
    finally:
        for module in training:
            module.training = True
