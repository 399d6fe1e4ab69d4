"""What does a bi-level step with learned prompts cost, against a step with fixed ones?

A batch of 8 crops of 96 pixels, contourlet_tiny with Adam, loss and solver as configured or by overrides. A
cycle is 10 updates: one embeds new images and solves the lower level, the others do not (of solver=meha all
do). Both kinds of training take their cycles in turns. ViT-B-32 has random weights, which cost as much as
any.

    OMP_NUM_THREADS=2 python -m experiments.benchmarks.promptfusion_step [--rounds 3] [--clip micro]
        [solver=value_penalty solver.order=2]
"""

import argparse
from collections.abc import Callable, Sequence

import hydra
import torch
from experiments.benchmarks.ldfusion_step import make_backbone, make_clip, seconds
from hydra import compose, initialize_config_dir

from clipfuse.bilevel import Joint, Solver, ValuePenalty
from clipfuse.cli.options import conf_dir
from clipfuse.clip.encoder import FrozenClip
from clipfuse.losses.promptfusion import PromptFusionLoss
from clipfuse.training.stepping import LossProblem
from clipfuse.types import LossInputs

COUNT, SIDE = 8, 96


def make_loss(clip: FrozenClip, prompts: str, solver: Sequence[str] = ()) -> tuple[PromptFusionLoss, Solver]:
    """Return the configured loss, past its first stage, and its solver."""
    words = ["loss=promptfusion", f"loss.prompts={prompts}", "loss.warmup=0", "~loss.clip", *solver]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = compose("train", words)
    loss = hydra.utils.instantiate(config.loss, clip=clip, _convert_="all").train()
    return loss, Joint() if prompts == "fixed" else hydra.utils.instantiate(config.solver)


def make_cycle(clip: FrozenClip, prompts: str, updates: int, words: Sequence[str] = ()) -> Callable[[], None]:
    """Return `updates` steps of training, the first of which solves the lower level."""
    loss, solver = make_loss(clip, prompts, words)
    network = make_backbone()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)
    infrared, visible = torch.rand(2, COUNT, 1, SIDE, SIDE)

    def cycle() -> None:
        for step in range(updates):
            output = network(infrared, visible)
            inputs = LossInputs(output.fused, infrared, visible, features=output.features, step=step)
            solver.step(LossProblem(loss, inputs), optimizer, backward=torch.Tensor.backward)

    return cycle


def parts(clip: FrozenClip) -> dict[str, Callable[[], object]]:
    """Return each part of a cycle as work of its own."""
    loss, solver = make_loss(clip, "learned")
    network = make_backbone()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)
    fused, infrared, visible = torch.rand(3, COUNT, 1, SIDE, SIDE)
    features = {key: value.detach() for key, value in network(infrared, visible).features.items()}
    inputs = LossInputs(fused.requires_grad_(), infrared, visible, features=features, step=1)
    loss.prepare(inputs)
    assert isinstance(solver, ValuePenalty)
    problem = LossProblem(loss, inputs)
    values = [value.detach().clone().requires_grad_() for value in loss.lower_parameters()]
    solver._start(loss.lower_parameters())

    def backbone() -> None:
        optimizer.zero_grad()
        network(infrared, visible).fused.mean().backward()
        optimizer.step()

    return {
        "backbone and Adam": backbone,
        "fidelity": lambda: torch.autograd.grad(loss.fidelity(inputs).total, fused),
        "CLIP on the fused images, with backward": lambda: torch.autograd.grad(
            loss._encode(fused, inputs, "fused").sum(), fused
        ),
        "good and bad pictures, once a cycle": lambda: loss._embed_pictures(inputs),
        "texts of all prompts, with backward": lambda: torch.autograd.grad(loss._texts(values).sum(), values),
        "solving the lower level, once a cycle": lambda: solver._solve(problem, loss.lower_parameters(), 0),
    }


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clip", action="append", choices=("micro", "ViT-B-32"))
    parser.add_argument("solver", nargs="*", help="overrides of the solver with learned prompts")
    options = parser.parse_args()
    every = 10  # as in conf/solver/value_penalty.yaml
    print(f"{torch.get_num_threads()} threads, batch {COUNT}, {SIDE}x{SIDE}, a cycle of {every} updates")
    for name in options.clip or ("micro", "ViT-B-32"):
        torch.manual_seed(0)
        clip = make_clip(name)
        learned, fixed = seconds(
            options.rounds,
            make_cycle(clip, "learned", every, options.solver),
            make_cycle(clip, "fixed", every),
        )
        print(f"\n{name}: a step of the cycle {1e3 * learned / every:.0f} ms, with fixed prompts "
              f"{1e3 * fixed / every:.0f} ms, ratio {learned / fixed:.2f}")  # fmt: skip
        if options.solver:
            continue
        work = parts(clip)
        for row, duration in zip(work, seconds(options.rounds, *work.values()), strict=True):
            print(f"  {row:<42}{1e3 * duration:>8.0f} ms")


if __name__ == "__main__":
    main()
