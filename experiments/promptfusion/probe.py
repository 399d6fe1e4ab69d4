"""How much does the value function tell the network that alternation does not?

    python -m experiments.promptfusion.probe RUN [RUN ...]

For finished runs of `solver=value_penalty`: at the last weights, on held-out batches, the gradient of the
network's parameters is split into that of F at the prompts y, and of the value term w (f(y) - f(z)): once at
the run's own y and z, once where both were given time to solve that batch (300 steps of Adam from the run's
y: z minimises f, y minimises F + w f). What batches have in common is the mean cosine between gradients of
two of them: what points elsewhere in every batch does not add up in training.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from statistics import fmean

import torch
from experiments.common import format_cell, format_table, load_loss, make_parser, rendered_scenes
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from clipfuse.losses.promptfusion import PromptFusionLoss
from clipfuse.networks.load import load_backbone
from clipfuse.types import LossInputs

BATCH, CROP, STEPS, RATE = 8, 96, 300, 1e-3
Prompts = Sequence[Tensor]


def solve(start: Prompts, objective: Callable[[Prompts], Tensor]) -> list[Tensor]:
    """Return what 300 steps of Adam make of `start`."""
    values = [value.detach().clone().requires_grad_() for value in start]
    optimizer = torch.optim.Adam(values, lr=RATE)
    for _ in range(STEPS):
        for value, slope in zip(values, torch.autograd.grad(objective(values), values), strict=True):
            value.grad = slope
        optimizer.step()
        torch.autograd.graph.increment_version(values)
    return [value.detach() for value in values]


def gradient(total: Tensor, network: nn.Module) -> Tensor:
    """Return d total / d network, flat."""
    parameters = list(network.parameters())
    found = torch.autograd.grad(total, parameters, retain_graph=True, allow_unused=True)
    pairs = zip(found, parameters, strict=True)
    return torch.cat([(torch.zeros_like(p) if each is None else each).flatten() for each, p in pairs])


class Batch:
    """One batch under the loss of a run."""

    def __init__(self, loss: PromptFusionLoss, network: nn.Module, inputs: LossInputs, w: float) -> None:
        self.loss, self.network, self.w = loss, network, w
        self.state = loss.prepare(inputs)
        features = {name: value.detach() for name, value in inputs.features.items()}
        self.still = loss.prepare(replace(inputs, fused=inputs.fused.detach(), features=features))

    def gradients(self, y: Prompts, z: Prompts) -> tuple[Tensor, Tensor]:
        """Return those of F and of the value term."""
        residual = self.loss.lower_loss(self.state, y).total - self.loss.lower_loss(self.state, z).total
        upper = self.loss.upper_loss(self.state, y).total
        return gradient(upper, self.network), gradient(self.w * residual, self.network)

    def solved(self, start: Prompts) -> tuple[list[Tensor], list[Tensor]]:
        """Return y and z of this batch."""

        def both(y: Prompts) -> Tensor:
            f, upper = self.loss.lower_loss(self.still, y).total, self.loss.upper_loss(self.still, y).total
            return (upper + self.w * f) / (1 + self.w)

        return solve(start, both), solve(start, lambda z: self.loss.lower_loss(self.still, z).total)


def probe(run: Path) -> dict[str, float]:
    """Return means over the batches."""
    loss, checkpoint = load_loss(run / "checkpoints/last.ckpt")
    assert isinstance(loss, PromptFusionLoss)
    loss.train()
    config = checkpoint["clipfuse"]["config"]
    network = load_backbone(run / "checkpoints/last.ckpt").train()
    y, z = list(loss.lower_parameters()), checkpoint["clipfuse"]["solver"]["z"]
    scenes = rendered_scenes(config["data"])
    found: dict[str, list[tuple[Tensor, Tensor]]] = {"as trained": [], "solved": []}
    for index in range(len(scenes["infrared"]) // BATCH):
        part = slice(index * BATCH, (index + 1) * BATCH)
        infrared, visible = (scenes[name][part, :, :CROP, :CROP] for name in ("infrared", "visible"))
        output = network(infrared, visible)
        names = tuple(f"{index}-{place}" for place in range(BATCH))
        step = config["steps"] // loss.pictures_every * loss.pictures_every
        inputs = LossInputs(
            output.fused, infrared, visible, features=output.features, sample_ids=names, step=step
        )
        batch = Batch(loss, network, inputs, config["solver"]["w_max"])
        found["as trained"].append(batch.gradients(y, z))
        found["solved"].append(batch.gradients(*batch.solved(y)))
    rows = {}
    for name, pairs in found.items():
        rows[f"value term / F, {name}"] = fmean(float(value.norm() / upper.norm()) for upper, value in pairs)
        for kind, place in {"F": 0, "value term": 1}.items():
            between = combinations([pair[place] for pair in pairs], 2)
            rows[f"common to two batches: {kind}, {name}"] = fmean(
                float(cosine_similarity(a, b, dim=0)) for a, b in between
            )
    return rows


def main() -> None:
    """Print the table, a column per run."""
    parser = make_parser(__doc__)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    torch.set_num_threads(1)
    found = [probe(run) for run in parser.parse_args().runs]
    table = []
    for name in found[0]:
        values = [rows[name] for rows in found]
        table.append([name, *(f"{value:.3f}" for value in values), format_cell(values)])
    print(*format_table(["", *(f"run {index}" for index in range(len(found))), "all"], table), sep="\n")


if __name__ == "__main__":
    main()
