"""How far do the prompts of PromptFusion move when the network does, and how much of the gradient is that?

    python -m experiments.frontier.answer

The network is three numbers x: the share of the composite against the average, added detail, added contrast.
Rendered scenes, the first edition of the bundled CLIP, float64. For each lower level, y*(x) by L-BFGS from
the texts:

- moves: |y*(x1) - y*(x0)| / |y*(x0) - y0|, x1 = x0 with a share of the composite higher by 0.2, both solved
  anew from what L-BFGS found at x0: without a dependence on x they are equal;
- in 5 steps: which share of that way five steps of the solver's Adam from y*(x0) go, along it;
- indirect / direct: (dF(x, y*(x))/dx - F_x) / F_x at x0, along the share of the composite, the whole by
  central differences of solutions;
- slope: |f_y| where L-BFGS ended, over that at the texts: what is left to be solved.
"""

from collections.abc import Sequence
from typing import Any

import torch
from experiments.common import format_table, make_parser, stack_scenes
from omegaconf import OmegaConf
from torch import Tensor

from clipfuse.cli.options import conf_dir
from clipfuse.clip.encoder import FrozenClip
from clipfuse.data.synthetic import SyntheticPairs
from clipfuse.losses.pixel import PixelLoss
from clipfuse.losses.promptfusion import PromptFusionLoss
from clipfuse.losses.promptfusion_views import PromptFusionViewsLoss
from clipfuse.ops.pyramid import detail_maximum, soften
from clipfuse.types import LossInputs

STEP, BATCH, NUDGE, MOVE, RATE, ITERATIONS = 10, 8, 0.02, 0.2, 3e-3, 300
START = (0.3, 0.0, 0.0)
LEVELS: dict[str, dict[str, Any]] = {
    "promptfusion": {},
    **{
        f"views, t {target:g}, w_a {anchor:g}": {"fused_target": target, "anchor_weight": anchor}
        for target, anchor in ((0.5, 0.1), (0.5, 1.0), (0.5, 10.0), (0.0, 1.0), (0.0, 10.0))
    },
}
Prompts = list[Tensor]


def paint(x: Tensor, infrared: Tensor, visible: Tensor) -> Tensor:
    """Return what the three numbers make of the sources, (N, 1, H, W)."""
    good, mean = detail_maximum(infrared, visible), (infrared + visible) / 2
    mixed = x[0] * good + (1 - x[0]) * mean
    return mixed + x[1] * (good - soften(good, 3 / 112, 6 / 112)) + x[2] * (mean - mean.mean((2, 3), True))


def distance(values: Sequence[Tensor], others: Sequence[Tensor]) -> float:
    """Return the length of the difference."""
    return float(
        torch.stack([(a - b).square().sum() for a, b in zip(values, others, strict=True)]).sum().sqrt()
    )


class Level:
    """A loss on one batch, as a function of x and of the prompts."""

    def __init__(self, loss: PromptFusionLoss, batches: Sequence[tuple[Tensor, Tensor]]) -> None:
        self.loss, self.bands = loss, batches[1]
        self.start = [value.detach().clone() for value in loss.lower_parameters()]
        for step, bands in enumerate(batches):  # the first batch gives the held-out images
            loss.prepare(self._inputs(torch.tensor(START), *bands, step=step * STEP))

    def _inputs(self, x: Tensor, infrared: Tensor, visible: Tensor, step: int) -> LossInputs:
        return LossInputs(paint(x, infrared, visible), infrared, visible, step=step)

    def state(self, x: Tensor) -> Any:
        """Return what both levels share; good and bad images stay those that are kept."""
        return self.loss.prepare(self._inputs(x, *self.bands, step=STEP + 1))

    def slope(self, x: Tensor, y: Sequence[Tensor]) -> float:
        """Return the length of f's gradient in the prompts."""
        values = [value.detach().requires_grad_() for value in y]
        total = self.loss.lower_loss(self.state(x), values).total
        found = torch.autograd.grad(total, values)
        return distance(found, [torch.zeros_like(each) for each in found])

    def solve(self, x: Tensor, start: Sequence[Tensor], steps: int = 0) -> Prompts:
        """Return y*(x), or what `steps` of Adam find."""
        with torch.no_grad():
            state = self.state(x)
        values = [value.detach().clone().requires_grad_() for value in start]
        newton: dict[str, Any] = {
            "max_iter": ITERATIONS,
            "tolerance_grad": 1e-9,
            "line_search_fn": "strong_wolfe",
        }
        optimizer = torch.optim.Adam(values, lr=RATE) if steps else torch.optim.LBFGS(values, **newton)

        def closure() -> Tensor:
            total: Tensor = self.loss.lower_loss(state, values).total
            for value, slope in zip(values, torch.autograd.grad(total, values), strict=True):
                value.grad = slope
            return total

        for _ in range(steps or 1):
            optimizer.step(closure)
        return [value.detach() for value in values]

    def upper(self, x: Tensor, y: Sequence[Tensor]) -> Tensor:
        """Return F."""
        return self.loss.upper_loss(self.state(x), y).total


def measure(level: Level) -> list[str]:
    """Return the cells of one line."""
    x, nudge = torch.tensor(START), torch.tensor([1.0, 0.0, 0.0])
    first = level.solve(x, level.start)
    here, there = level.solve(x, first), level.solve(x + MOVE * nudge, first)
    quick = level.solve(x + MOVE * nudge, here, steps=5)
    way = distance(there, here)
    along = sum(float(((q - h) * (t - h)).sum()) for q, t, h in zip(quick, there, here, strict=True))
    free = x.clone().requires_grad_()
    direct = float(torch.autograd.grad(level.upper(free, here), free)[0] @ nudge)
    up, down = (
        level.upper(side, level.solve(side, first)) for side in (x + NUDGE * nudge, x - NUDGE * nudge)
    )
    indirect = float((up - down).detach()) / (2 * NUDGE) - direct
    left = level.slope(x, here) / level.slope(x, level.start)
    moves, part = way / distance(here, level.start), along / way**2 if way else 0.0
    return [f"{moves:.3f}", f"{part:.2f}", f"{indirect / direct:+.3f}", f"{left:.0e}"]


def main() -> None:
    """Print the table."""
    make_parser(__doc__).parse_args()
    torch.set_num_threads(1)
    clip = FrozenClip.load("micro", "micro_1").to(dtype=torch.float64)
    torch.set_default_dtype(torch.float64)
    pairs: Any = OmegaConf.to_container(OmegaConf.load(conf_dir() / "loss/promptfusion.yaml").pairs)
    source = SyntheticPairs(train=2 * BATCH, val=1, test=1, size=96)
    scenes = stack_scenes(source, "train", ("infrared", "visible"))
    both = [scenes[name].double().split(BATCH) for name in ("infrared", "visible")]
    batches = list(zip(*both, strict=True))
    rows = []
    for name, options in LEVELS.items():
        kind = PromptFusionViewsLoss if name.startswith("views") else PromptFusionLoss
        loss = kind(clip, PixelLoss(), pairs, warmup=0, **options).double().train()
        rows.append([name, *measure(Level(loss, batches))])
        print(*rows[-1], sep="  ", flush=True)
    head = ["lower level", "moves", "in 5 steps", "indirect / direct", "slope"]
    print("", *format_table(head, rows), sep="\n")


if __name__ == "__main__":
    main()
