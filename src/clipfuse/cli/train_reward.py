"""`clipfuse train-reward CSV --out F`: a scorer for `loss=reward` from choices between fused images."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from clipfuse.cli.devices import chosen_device
from clipfuse.errors import UserError

if TYPE_CHECKING:
    import torch

    from clipfuse.cli.preferences import Choice
    from clipfuse.rewards.network import RewardNetwork

_BATCH = 8
_RATE = {"bundled": 5e-4, "none": 2e-3}


def main(arguments: Sequence[str]) -> None:
    """Read the choices, train, print how many held-out choices the scorer makes too, and write it."""
    options = _parse(arguments)
    out = Path(options.out)

    # Imported late: --help must not wait for torch.
    from clipfuse.cli.preferences import accuracy, counted, divide, draws, read_choices
    from clipfuse.files import check_output, file_sha256
    from clipfuse.rewards.learning import learn
    from clipfuse.rewards.scorer import check_names, read_reward, write_reward
    from clipfuse.tracking.progress import amount_bar

    if out.suffix != ".safetensors":
        raise UserError(f"--out {out}: expected a name that ends in .safetensors")
    table = Path(options.table)
    choices, held_out = divide(read_choices(table), options.holdout, options.seed)
    check_output(out, options.overwrite, (table,))
    print(counted(choices, held_out))
    device = chosen_device(options.device, "--device ")
    before = read_reward("bundled").network if options.start == "bundled" else None
    named = [*(before.scores if before else ()), *(each.score for each in [*choices, *held_out])]
    scores = list(dict.fromkeys(named))
    try:
        check_names(scores)
    except ValueError as error:
        raise UserError(f"{table}: {error}") from None
    network = _network(scores, before, options.seed).to(device)
    start = None if before is None else before.to(device)
    draw = draws(choices, scores, _BATCH, options.seed, device)
    quiet = not sys.stderr.isatty()
    with amount_bar("training", " updates", options.updates, quiet) as advance:
        learn(network, draw, options.updates, _RATE[options.start], start=start, advance=advance)
    found = accuracy(held_out, lambda choice: _differences(network, choice, device))
    earlier = {} if start is None else accuracy(held_out, lambda choice: _differences(start, choice, device))
    lines = []
    for name, (share, low, high, count) in found.items():
        known = start is not None and name in start.scores
        was = f"; the scorer it started from {100 * earlier[name][0]:.1f} %" if known else ""
        reach = f"[{100 * low:.1f}, {100 * high:.1f}]"
        lines.append(f"{name}: {100 * share:.1f} % of {count} held-out choices {reach}{was}")
    training = {
        "table_sha256": file_sha256(table),
        "choices": len(choices),
        "held_out": {name: list(each) for name, each in found.items()},
        **{name: getattr(options, name) for name in ("start", "updates", "seed", "holdout")},
    }
    try:
        write_reward(out, network, training, options.overwrite)
    except ValueError as error:
        raise UserError(str(error)) from None
    print(*lines, sep="\n", end="\n" if lines else "")
    print(f"written: {out}; take it by loss=reward loss.scorer={out}")


def _network(scores: Sequence[str], before: "RewardNetwork | None", seed: int) -> "RewardNetwork":
    """Return the network to train: the earlier one, whose new scores begin as its `overall`."""
    import torch

    from clipfuse.rewards.network import RewardNetwork

    network = RewardNetwork(scores, seed)
    if before is not None:
        state = before.state_dict()
        rows = [before.scores.index(name if name in before.scores else "overall") for name in scores]
        for name in ("judge.weight", "judge.bias"):
            state[name] = state[name][torch.tensor(rows)]
        network.load_state_dict(state)
    return network


def _differences(network: "RewardNetwork", choice: "Choice", device: "torch.device") -> Mapping[str, float]:
    """Return by how much the first image is better, by score."""
    import torch

    from clipfuse.cli.preferences import luma
    from clipfuse.ops.depth import to_unit

    infrared, visible, first, second = (to_unit(luma(file)).to(device) for file in choice.files)
    with torch.no_grad():
        one, _ = network(first, infrared, visible)
        other, _ = network(second, infrared, visible)
    return dict(zip(network.scores, (one - other)[0].tolist(), strict=True))


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="clipfuse train-reward",
        description="Train the scorer of loss=reward on choices between fused images. The table has a line "
        "for each choice: infrared, visible, first, second (paths of images, relative to the table) and "
        "preferred (first, second or tie); it may have rater, and score: what the choice is about, by "
        "default overall. "
        "Whole scenes are held out, and the share of their choices that the scorer makes too is printed.",
        allow_abbrev=False,
    )
    parser.add_argument("table", metavar="CSV", help="table of choices")
    parser.add_argument("--out", required=True, help="file to write, such as scorer.safetensors")
    parser.add_argument("--overwrite", action="store_true", help="replace --out")
    parser.add_argument(
        "--start",
        choices=tuple(_RATE),
        default="bundled",
        help="scorer to start from; its other scores and its map are kept. none: a new one, without a map",
    )
    parser.add_argument("--updates", type=int, default=300, help="updates of the training (300)")
    parser.add_argument("--seed", type=int, default=0, help="of first weights, crops and held-out scenes (0)")
    parser.add_argument("--holdout", type=float, default=0.2, help="share of the scenes held out (0.2)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ...; by default a GPU if there is one")
    options = parser.parse_args(arguments)
    if options.updates < 1 or not 0 <= options.holdout < 1 or not 0 <= options.seed < 2**31:
        raise UserError(
            f"--updates {options.updates} --holdout {options.holdout} --seed {options.seed}: expected 1 or "
            "more, a share of 0 or more, below 1, and 0 or more"
        )
    return options
