"""Two discriminators as the lower level: targets as in the infrared, edges as in the visible image."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.func import functional_call

from clipfuse.errors import UserError
from clipfuse.losses.base import BilevelLoss, FusionLoss, LossArtifacts, require, require_terms
from clipfuse.ops.seeding import derived_seed
from clipfuse.ops.sending import send
from clipfuse.types import LossInputs, LossOutput

_LOSS = "adversarial"
Region = Literal["auto", "mask", "saliency", "whole"]
_LEVELS = 256


@dataclass(frozen=True)
class _State:
    """What both levels share in one update.

    Attributes:
        fidelity: fidelity loss of the fused image, with graph.
        fused: what each discriminator gets of the fused image, (N, 1, H, W), with graph.
        source: what it gets of its source.
        shares: how much of the source the image has at which its slope is measured, (N, 1, 1, 1).
    """

    fidelity: LossOutput
    fused: Mapping[str, Tensor]
    source: Mapping[str, Tensor]
    shares: Tensor


class AdversarialLoss(BilevelLoss):
    """Upper level: the network under fidelity and two discriminators. Lower level: the discriminators.

    F = fidelity - w_t mean D_t(m F) - w_d mean D_d(G((1 - m) F))
    f = mean D_t(m F) - mean D_t(m I) + p_t + mean D_d(G((1 - m) F)) - mean D_d(G((1 - m) V)) + p_d

    m is 1 on targets, G the length of the gradient, sqrt(x^2 + y^2 + 1e-6) of central differences. The
    discriminators learn to give the source more than the fused image, the network to be given more. p is
    the penalty of Wasserstein divergence (Wu et al., ECCV 2018), k mean s^6: s is the slope of D at a
    random place between both images, drawn by (seed, step, sample id).

    Source: TarDAL (Liu et al., CVPR 2022; JinyuanLiu-CV/TarDAL at 7afdeb7), with k = 2. Different from the
    release: any fidelity in place of SSIM + 20 L1 weighted by saliency; masks of the data or computed ones
    where the release has those of a trained network; discriminators that end in a mean over pixels in place
    of a linear layer for 224 x 224 pixels, and s as the root mean square over pixels of the slope that each
    pixel would have in a sum, so that weights mean the same for all sizes of images: where the network
    cannot close a gap d, k s^6 stops s at (d / 6 k)^(1/5), below 0.61, beside the slope of 1 of an L1 term.
    As released there is no norm layer. Only `solver=alternate` trains a game; `joint` would have the
    network lower f, too, which is the opposite of F.

    Args:
        fidelity: another loss.
        target_weight: w_t, 0 or more; at 0 there is no such discriminator.
        detail_weight: w_d, 0 or more.
        region: m: `mask`, the targets of the data; `saliency`, how unlike the grey level of a pixel is to
            those of all others in its infrared image, from 0 to 1; `whole`, both discriminators see whole
            images; `auto`, the mask where the data have one, else whole images.
        penalty: k, 0 or more.
        width: channels of the first layer of a discriminator, 1 or more.
        seed: of their first weights.

    Raises:
        ValueError: an argument out of range.
    """

    solvers = frozenset({"alternate"})

    def __init__(
        self,
        fidelity: FusionLoss,
        target_weight: float = 0.5,
        detail_weight: float = 0.5,
        region: Region = "auto",
        penalty: float = 2.0,
        width: int = 16,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.weights = {"target": target_weight, "detail": detail_weight}
        require_terms(_LOSS, self.weights)
        require(_LOSS, 0, penalty=penalty)
        require(_LOSS, 1, width=width)
        if region not in get_args(Region):
            raise ValueError(
                f"{_LOSS} loss: region is {region!r}; expected one of {', '.join(get_args(Region))}"
            )
        self.fidelity, self.region, self.penalty = fidelity, region, penalty
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(seed)
            self.discriminators = nn.ModuleDict(
                {name: _discriminator(width) for name, weight in self.weights.items() if weight}
            )
        self._names = [name for name, _ in self.discriminators.named_parameters()]

    def setup(self, sample: LossInputs) -> None:
        """Refuse data without the masks that `region=mask` needs; set up the fidelity."""
        super().setup(sample)
        if self.region == "mask" and sample.target_mask is None:
            raise ValueError(
                f"{_LOSS} loss: region=mask needs data with masks of targets (data.masks); take "
                f"{self.place}.region=saliency or whole"
            )

    def lower_parameters(self) -> Sequence[Tensor]:
        """Return the weights of the discriminators."""
        return tuple(self.discriminators.parameters())

    def prepare(self, inputs: LossInputs) -> _State:
        """Cut out what each discriminator sees.

        Raises:
            UserError: `region=mask`, and a batch has no masks.
        """
        targets, rest = self._regions(inputs)
        draws = [
            torch.rand(
                1, generator=torch.Generator().manual_seed(derived_seed(inputs.seed, inputs.step, each))
            )
            for each in inputs.sample_ids
        ]
        return _State(
            self.fidelity(inputs),
            {"target": targets * inputs.fused, "detail": gradient_length(rest * inputs.fused)},
            {"target": targets * inputs.infrared, "detail": gradient_length(rest * inputs.visible)},
            send(torch.stack(draws), inputs.fused.device, inputs.fused.dtype).view(-1, 1, 1, 1),
        )

    def upper_loss(self, state: _State, lower: Sequence[Tensor]) -> LossOutput:
        """Return F; `terms` has `target` and `detail`, minus what the discriminators give the fused image."""
        total, terms = state.fidelity.total, dict(state.fidelity.terms)
        for name in self.discriminators:
            found = -self._judged(name, state.fused[name], lower).mean()
            total = total + self.weights[name] * found.to(total.dtype)
            terms[name] = found.detach()
        return LossOutput(total, terms)

    def lower_loss(self, state: _State, lower: Sequence[Tensor]) -> LossOutput:
        """Return f; `terms` has, of each discriminator, the gap that it sees and the penalty of its slope."""
        terms: dict[str, Tensor] = {}
        for name in self.discriminators:
            fused, source = state.fused[name], state.source[name]
            gap = (self._judged(name, source, lower) - self._judged(name, fused, lower)).mean()
            between = state.shares * source + (1 - state.shares) * fused
            terms |= {f"{name}_gap": gap, f"{name}_penalty": self._slope_penalty(name, between, lower)}
        total = torch.stack(
            [-value if name.endswith("gap") else value for name, value in terms.items()]
        ).sum()
        return LossOutput(total, {name: value.detach() for name, value in terms.items()})

    @torch.no_grad()
    def artifacts(self, inputs: LossInputs) -> LossArtifacts:
        """Return what the discriminators see of one pair, and what they give source and fused image."""
        state = self.prepare(inputs.part(slice(0, 1)))
        texts, images = {}, []
        for name in self.discriminators:
            for kind, seen in {"source": state.source[name], "fused": state.fused[name]}.items():
                texts[f"{name}, {kind}"] = f"{float(self._judged(name, seen, self.lower_parameters())):.3f}"
                images.append((f"{name}, {kind}", seen[0].clamp(0, 1)))
        return LossArtifacts(texts, images)

    def _regions(self, inputs: LossInputs) -> tuple[Tensor, Tensor]:
        """Return the weights of pixels, (N, 1, H, W), that the two discriminators see."""
        mask = inputs.target_mask
        if self.region == "saliency":
            mask = saliency(inputs.infrared)
        elif self.region == "mask" and mask is None:
            raise UserError(f"{_LOSS} loss: region=mask, and a batch has no masks of targets")
        if mask is None or self.region == "whole":
            whole = torch.ones_like(inputs.infrared)
            return whole, whole
        return mask.to(inputs.infrared), 1 - mask.to(inputs.infrared)

    def _judged(self, name: str, images: Tensor, lower: Sequence[Tensor]) -> Tensor:
        """Return what a discriminator gives each image, (N,)."""
        part = f"{name}."
        values = {
            key.removeprefix(part): value
            for key, value in zip(self._names, lower, strict=True)
            if key.startswith(part)
        }
        planes: Tensor = functional_call(self.discriminators[name], values, (images,))
        return planes.mean((1, 2, 3))

    def _slope_penalty(self, name: str, images: Tensor, lower: Sequence[Tensor]) -> Tensor:
        again = torch.is_grad_enabled()
        with torch.enable_grad():  # a solver evaluates f without a gradient, too; its slope is part of it
            images = images if images.requires_grad else images.detach().requires_grad_()
            (slope,) = torch.autograd.grad(
                self._judged(name, images, lower).sum(), images, create_graph=again
            )
        squares = slope.square().sum((1, 2, 3)) * slope[0].numel()
        return self.penalty * (squares**3).mean()


def gradient_length(image: Tensor) -> Tensor:
    """Return sqrt(x^2 + y^2 + 1e-6) of half central differences, as TarDAL releases it.

    Args:
        image: (N, 1, H, W); its borders are repeated.

    Returns:
        (N, 1, H, W).
    """
    # Not by torch's padding, whose gradient is not deterministic on CUDA.
    wide = torch.cat([image[..., :1], image, image[..., -1:]], 3)
    high = torch.cat([image[..., :1, :], image, image[..., -1:, :]], 2)
    across, down = (wide[..., 2:] - wide[..., :-2]) / 2, (high[..., 2:, :] - high[..., :-2, :]) / 2
    return (across.square() + down.square() + 1e-6).sqrt()


def saliency(image: Tensor) -> Tensor:
    """Return the mean distance of each pixel's grey level to those of all pixels, scaled to 0 to 1.

    The visual saliency map of the fusion literature (Zhai and Shah, ACM Multimedia 2006), by which TarDAL
    weighs its fidelity. 0 everywhere in an image of one level.

    Args:
        image: (N, 1, H, W), float in [0, 1]; without gradient.

    Returns:
        (N, 1, H, W).
    """
    levels = (image.detach() * (_LEVELS - 1)).round().long().clamp(0, _LEVELS - 1).flatten(1)
    ramp = torch.arange(_LEVELS, device=image.device, dtype=image.dtype)
    distances = (ramp[:, None] - ramp).abs()
    counts = torch.stack([torch.bincount(row, minlength=_LEVELS) for row in levels]).to(image.dtype)
    found = (counts @ distances).gather(1, levels)
    low, high = found.amin(1, keepdim=True), found.amax(1, keepdim=True)
    return ((found - low) / (high - low).clamp(min=1e-12)).view_as(image)


def _discriminator(width: int) -> nn.Sequential:
    """Return three halvings as released, with width, twice and four times as many channels, to one plane."""
    sizes = [(1, width), (width, 2 * width), (2 * width, 4 * width)]
    layers = [part for a, b in sizes for part in (nn.Conv2d(a, b, 3, 2, 1), nn.ReLU())]
    return nn.Sequential(*layers, nn.Conv2d(4 * width, 1, 1))
