"""The chroma of a network that learns it, on its way to the loss."""

import logging

from torch import Tensor

from clipfuse.errors import UserError
from clipfuse.networks.apply import ROUNDING
from clipfuse.types import FusionBatch, FusionOutput

log = logging.getLogger(__name__)


class LearnedChroma:
    """Gives a loss luma and chroma of the fused images, and warns where it looks at luma alone.

    What learns the chroma then gets a gradient of 0 in each update, as DDP waits for the gradient of every
    parameter, and an optimiser must not skip some of them in some updates.
    """

    def __init__(self) -> None:
        self._passes = 0
        self._seen = False
        self._checked = False

    def __call__(self, output: FusionOutput, batch: FusionBatch) -> tuple[Tensor, Tensor | None]:
        """Return `fused` and `fused_chroma` for `LossInputs`, in the types of the batch.

        Args:
            output: of the network.
            batch: that it has fused.

        Raises:
            UserError: the first chroma is not in [0, 1].
        """
        fused = output.fused.to(batch.visible.dtype)
        if output.chroma is None:
            return fused, None
        chroma = output.chroma.to(batch.chroma.dtype)
        if not self._checked:
            self._check(chroma)
        if not chroma.requires_grad:
            return fused, chroma
        given = chroma.view_as(chroma)  # whose gradient is that of the loss alone
        self._passes += 1
        if not self._seen:
            given.register_hook(self._see)
        return fused + 0 * chroma.sum(dim=(1, 2, 3), keepdim=True), given

    def _check(self, chroma: Tensor) -> None:
        self._checked = True
        low, high = (float(value) for value in chroma.detach().aminmax())
        if not -ROUNDING <= low <= high <= 1 + ROUNDING:
            raise UserError(
                f"the network gives a chroma from {low:g} to {high:g} before the first update; expected Cb "
                "and Cr in [0, 1], gray at 0.5"
            )

    def _see(self, gradient: Tensor) -> None:
        self._seen = True

    def report(self, loss: str) -> None:
        """Warn once if the loss of that name has looked at no chroma since the training began."""
        if self._passes and not self._seen:
            self._seen = True
            log.warning(
                "the network learns the chroma, but the loss '%s' has not looked at inputs.fused_chroma in "
                "%d batches: fused images keep that of the visible images; backbone.chroma=false is cheaper",
                *(loss, self._passes),
            )
