"""Minus the scores that a frozen scorer gives a fused image beside its sources."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from clipfuse.errors import UserError
from clipfuse.losses.base import FusionLoss, LossArtifacts, named_errors, require
from clipfuse.ops.noise import seeded_noise
from clipfuse.rewards.scorer import Judgement, Reward, Scorer, read_reward
from clipfuse.types import LossInputs, LossOutput

_LOSS = "reward"


class RewardLoss(FusionLoss):
    """A fidelity loss plus what a scorer misses.

    total = fidelity + w (1 - mean_k mean_i r_k(F_i, I_i, V_i)),   r_k in [0, 1], 1 is best

    Source: EVAFusion (CVPR 2026, arXiv 2603.03871; its release at 8ea9258 lacks the code of this stage),
    which trains a reward model on human scores and then the fusion network by policy gradients on its
    rewards. Here the scorer is a differentiable function, so that its own gradient is used; its human scores
    are not to be had, so the scorer in the package has learned preferences from defects that were made by
    rule (`clipfuse.rewards.pairs`), and `clipfuse train-reward` learns those of people.

    Against a network that deceives the scorer instead of fusing well: the scorer is bounded, so that an
    image it holds for perfect has no gradient; it has learned that images made against itself are worse; in
    training it sees the fused image under seeded noise, in which a fine pattern is lost; and `fidelity` is
    not optional. A large `weight` deceives it nevertheless: experiments/reward/README.md shows how.

    The scorer is frozen, always in evaluation mode, and in no checkpoint; a checkpoint has the digest of
    its weights, and a training is not resumed with others.

    Args:
        fidelity: another loss, added with weight 1.
        weight: w, 0 or more.
        scores: which scores r_k count, by name; None: all that the scorer has.
        scorer: `bundled`, a file of `clipfuse train-reward`, or another `Scorer`.
        noise: standard deviation of the noise on the fused image in training, 0 or more, of 1.

    Raises:
        ValueError: a number out of its range, or a score that the scorer does not have.
        UserError: the file cannot be read or is no scorer.
    """

    def __init__(
        self,
        fidelity: FusionLoss,
        weight: float = 1.0,
        scores: Sequence[str] | None = None,
        scorer: str | Scorer = "bundled",
        noise: float = 0.01,
    ) -> None:
        super().__init__()
        require(_LOSS, 0, weight=weight, noise=noise)
        self.fidelity, self.weight, self.noise = fidelity, weight, noise
        found: Scorer = read_reward(scorer) if isinstance(scorer, str) else scorer
        if isinstance(found, nn.Module):
            found.eval().requires_grad_(False)
        self._scorer = (found,)  # in a tuple it is no part of this module, whatever it is
        known = tuple(found.names)
        self.scores = known if scores is None else tuple(scores)
        with named_errors(f"{_LOSS} loss"):
            if not self.scores or (unknown := [name for name in self.scores if name not in known]):
                given = unknown[0] if self.scores else "empty"
                raise ValueError(f"scores has {given}; expected some of {', '.join(known)}")

    @property
    def scorer(self) -> Scorer:
        """The frozen scorer."""
        return self._scorer[0]

    def notices(self, steps: int) -> list[str]:
        """Name a weight of 0."""
        idle = f"{self.place}.weight=0: the network is trained by the fidelity alone"
        return super().notices(steps) + ([] if self.weight else [idle])

    def forward(self, inputs: LossInputs) -> LossOutput:
        """Return the sum; `terms` has `reward`, `score_*`, the map's mean as `artifact`, fidelity's."""
        fused = inputs.fused
        if self.training and self.noise:
            # The noise is added, not its clamp: a clamp takes the gradient of white and black.
            still = fused.detach()
            moved = seeded_noise(still, self.noise, inputs.seed, inputs.step, inputs.sample_ids)
            fused = fused + (moved - still)
        found = self._judge(fused, inputs)
        reward = torch.stack([found.scores[name] for name in self.scores]).mean()
        fidelity = self.fidelity(inputs)
        total = fidelity.total + self.weight * (1 - reward).to(fidelity.total.dtype)
        terms = dict(fidelity.terms) | {"reward": reward.detach()}
        terms |= {f"score_{name}": found.scores[name].mean().detach() for name in self.scores}
        return LossOutput(total, terms | {"artifact": found.map.mean().detach()})

    @torch.no_grad()
    def artifacts(self, inputs: LossInputs) -> LossArtifacts:
        """Return the scores of the first pair and of its trivial fusions, and the artefact map."""
        warm, seen = inputs.infrared[:1], inputs.visible[:1]
        shown = {"fused": inputs.fused[:1], "infrared": warm, "visible": seen}
        shown |= {"average": (warm + seen) / 2, "maximum": warm.maximum(seen)}
        texts, images = {}, []
        for name, image in shown.items():
            found = self.scorer(image, warm, seen)
            texts[name] = ", ".join(f"{key} {float(found.scores[key][0]):.2f}" for key in self.scores)
            if name == "fused":
                images = [("fused", image[0]), ("artifacts", _heat(image[0], found.map[0]))]
        return LossArtifacts(texts, images)

    def get_extra_state(self) -> Tensor:
        """Return the digest of the scorer's weights; empty where it is another kind of scorer."""
        return torch.tensor(list(self._digest()), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """Compare what `get_extra_state` returned.

        Raises:
            UserError: the checkpoint was made with another scorer.
        """
        if bytes(state.tolist()) != self._digest():
            raise UserError(
                f"{self.place}.scorer has other weights than at the time of the checkpoint; restore its "
                "file, or begin a new training"
            )

    def _digest(self) -> bytes:
        return bytes.fromhex(self.scorer.sha256) if isinstance(self.scorer, Reward) else b""

    def _judge(self, fused: Tensor, inputs: LossInputs) -> Judgement:
        scorer = self.scorer
        if isinstance(scorer, nn.Module):
            scorer.to(fused.device)
        return scorer(fused, inputs.infrared, inputs.visible)


def _heat(image: Tensor, shares: Tensor) -> Tensor:
    """Return (3, H, W): the image in gray, red where artefacts are."""
    plain = image.expand(3, -1, -1).clamp(0, 1)
    red = plain.new_tensor([1.0, 0.0, 0.0])[:, None, None].expand_as(plain)
    return torch.lerp(plain, red, 0.7 * shares.to(plain))
