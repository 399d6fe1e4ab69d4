"""Further passes of the network for a loss: on other images, with other weights, or by its teacher."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.func import functional_call

from clipfuse.errors import UserError, did_you_mean
from clipfuse.networks.apply import passed_planes
from clipfuse.ops.checks import check_planes
from clipfuse.ops.modes import evaluating
from clipfuse.training.scoring import check_output
from clipfuse.types import FusionOutput, NetworkPass


class Teacher:
    """A moving average of the weights of the network (Mean Teacher: Tarvainen and Valpola, NeurIPS 2017).

    It starts as the network. After update k, counted from 1, it becomes d teacher + (1 - d) network with
    d = min(decay, 1 - 1 / (k + 1)), the plain mean at first, as in their release. Own design: its buffers are
    those of the network.

    Args:
        backbone: the network.
        decay: in [0, 1).

    Attributes:
        weights: the averages of the parameters that learn, by name, without gradient.
    """

    def __init__(self, backbone: nn.Module, decay: float) -> None:
        self.decay = decay
        self._learnt = {name: value for name, value in backbone.named_parameters() if value.requires_grad}
        self.weights = {name: value.detach().clone() for name, value in self._learnt.items()}

    @torch.no_grad()
    def follow(self, updates: int) -> None:
        """Move towards the network after so many updates."""
        share = 1 - min(self.decay, 1 - 1 / (updates + 1))
        torch._foreach_lerp_(list(self.weights.values()), list(self._learnt.values()), share)

    @torch.no_grad()
    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Take over averages of a checkpoint.

        Raises:
            UserError: they are not those of this network.
        """
        if {name: value.shape for name, value in weights.items()} != {
            name: value.shape for name, value in self.weights.items()
        }:
            raise UserError("the checkpoint's teacher is that of another network; start anew without it")
        for name, value in weights.items():
            self.weights[name].copy_(value)


class FurtherPass(NetworkPass):
    """`LossInputs.network` and `LossInputs.teacher`: the backbone itself, outside of DDP's wrapper.

    Under DDP a parameter's gradients of all passes meet in it before the ranks exchange them: one backward
    of the loss is one exchange, however often the network was passed. No noise is added to the images. The
    precision is that of the moment in which this object is made, which in a training is that of the main
    pass: losses themselves are computed without autocast.

    Args:
        backbone: (infrared, visible) -> `FusionOutput`.
        device: type of the device, such as "cuda", whose autocast is taken over.
        weights: values in place of the backbone's own, by name, without gradient: those of a teacher, which
            is passed in eval mode. None: its own, in the mode it is in.
    """

    def __init__(self, backbone: nn.Module, device: str, weights: Mapping[str, Tensor] | None = None) -> None:
        self._backbone = backbone
        self._weights = weights
        self._device = device
        self._type = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None

    def parameters(self) -> dict[str, Tensor]:
        """Return the parameters that learn, by name; those of a teacher have no gradient."""
        if self._weights is not None:
            return dict(self._weights)
        return {name: value for name, value in self._backbone.named_parameters() if value.requires_grad}

    def __call__(
        self,
        infrared: Tensor,
        visible: Tensor,
        parameters: Mapping[str, Tensor] | None = None,
        chroma: Tensor | None = None,
    ) -> FusionOutput:
        """Return the network's output for other luma, its `fused` and `chroma` in the type of `visible`.

        Args:
            infrared: (N, 1, H, W), float in [0, 1].
            visible: the same.
            parameters: values to use in place of the network's own, by the names of `parameters`; those that
                are left out stay. Gradients reach them, to any order.
            chroma: Cb and Cr of the visible images, (N, 2, H, W); with it a network that learns the chroma
                returns that of the fused images.

        Raises:
            ValueError: the planes are not of one shape, or a parameter has an unknown name or another shape.
        """
        check_planes(infrared=infrared, visible=visible)
        values = dict(self._weights or {})
        if parameters is not None:
            self._check(parameters)
            values |= parameters
        learns = self._weights is None
        mode: AbstractContextManager[object] = nullcontext() if learns else evaluating(self._backbone)
        with mode, torch.set_grad_enabled(torch.is_grad_enabled() and learns), self._precision():
            planes = passed_planes(self._backbone, infrared, visible, chroma)
            output = functional_call(self._backbone, values, planes)
        output = check_output(output, infrared, type(self._backbone).__name__)
        learned = None if output.chroma is None else output.chroma.to(visible.dtype)
        return replace(output, fused=output.fused.to(visible.dtype), chroma=learned)

    def _precision(self) -> torch.autocast:
        # Without a cache: a copy that was cast without gradient would be found by the next pass with one.
        enabled = self._type is not None
        return torch.autocast(self._device, dtype=self._type, enabled=enabled, cache_enabled=False)

    def _check(self, parameters: Mapping[str, Tensor]) -> None:
        known = self.parameters()
        for name, value in parameters.items():
            if name not in known:
                raise ValueError(
                    f"inputs.network got the parameter {name!r}, which the network does not have."
                    f"{did_you_mean(name, known)} Expected names of inputs.network.parameters()"
                )
            if value.shape != known[name].shape:
                raise ValueError(
                    f"inputs.network got the parameter {name} with shape {tuple(value.shape)}; expected "
                    f"{tuple(known[name].shape)}"
                )
