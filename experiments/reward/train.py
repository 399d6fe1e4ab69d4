"""Train the scorer in the package, and judge it on scenes that it has not seen.

    python -m experiments.reward.train [--sets rendered msrs roadscene] [--updates 800] [--out FILE]

The same machine and one thread give the same weights.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from experiments.reward.scenes import Draw, Scene, scenes, whole

from clipfuse.ops.seeding import derived_seed
from clipfuse.rewards.learning import learn
from clipfuse.rewards.network import SCORES, RewardNetwork
from clipfuse.rewards.pairs import KINDS
from clipfuse.rewards.scorer import BUNDLED, Reward, read_reward, write_reward

SETS = ("rendered", "msrs", "roadscene")
Table = dict[str, dict[str, dict[str, float]]]  # data set -> kind -> score -> share of pairs judged right


@torch.no_grad()
def judge(reward: Reward, data: Sequence[Scene], seed: int = 1) -> dict[str, dict[str, float]]:
    """Return by kind and score the share of scenes whose better image has the higher score."""
    table: dict[str, dict[str, float]] = {}
    for kind, rule in KINDS.items():
        right = torch.zeros(len(SCORES))
        for scene in data:
            pair = whole(scene, kind, derived_seed(seed, scene.name, kind))
            first, _ = reward.network(pair.first, pair.infrared, pair.visible)
            second, _ = reward.network(pair.second, pair.infrared, pair.visible)
            right += (first > second)[0]
        shares = dict(zip(SCORES, (right / len(data)).tolist(), strict=True))
        table[kind] = {name: shares[name] for name in rule.scores}
    return table


def show(table: Table) -> str:
    """Return a markdown table: of each kind `overall`, and the mean of all scores that it lowers, in per cent."""
    lines = [f"| made worse by | {' | '.join(table)} |", "|---|" + "---|" * len(table)]
    means: dict[str, list[tuple[float, float]]] = {data: [] for data in table}
    for kind in KINDS:
        for data, rows in table.items():
            shares = rows[kind].values()
            means[data].append((100 * rows[kind]["overall"], 100 * sum(shares) / len(shares)))
        cells = [f"{means[data][-1][0]:.0f} / {means[data][-1][1]:.0f}" for data in table]
        lines.append(f"| `{kind}` | {' | '.join(cells)} |")
    both = [[sum(column) / len(column) for column in zip(*rows, strict=True)] for rows in means.values()]
    return "\n".join([*lines, "| mean | " + " | ".join(f"{a:.1f} / {b:.1f}" for a, b in both) + " |"])


def main() -> None:
    """Read the arguments, train, write and judge."""
    parser = argparse.ArgumentParser(description="Train and judge the scorer in the package.")
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=SETS)
    parser.add_argument("--updates", type=int, default=800)
    parser.add_argument("--batch", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--deceive-every", type=int, default=4)
    parser.add_argument("--most", type=int, default=40, help="scenes of each set that judge")
    parser.add_argument("--out", type=Path, default=BUNDLED)
    parser.add_argument("--judge", action="store_true", help="judge --out as it is, without training")
    options = parser.parse_args()
    torch.set_num_threads(1)
    begin = time.monotonic()
    if not options.judge:
        sets = [scenes(data, "train") for data in options.sets]
        sizes = ", ".join(str(len(each)) for each in sets)
        print(f"{time.monotonic() - begin:.0f} s for {sizes} scenes", flush=True)
        network, draw = RewardNetwork(seed=options.seed), Draw(sets, options.batch, options.seed)
        losses = learn(network, draw, options.updates, deceive_every=options.deceive_every)
        chunks = [losses[at : at + 100] for at in range(0, len(losses), 100)]
        print("losses", " ".join(f"{sum(each) / len(each):.3f}" for each in chunks), flush=True)
        print(f"{time.monotonic() - begin:.0f} s", flush=True)
        command = f"python -m experiments.reward.train --sets {' '.join(options.sets)}"
        command += f" --updates {options.updates} --batch {options.batch} --seed {options.seed}"
        training = {name: getattr(options, name) for name in ("sets", "updates", "batch", "seed")}
        write_reward(options.out, network, {"command": command, **training})
    reward = read_reward(str(options.out))
    print(reward.sha256, flush=True)
    print(show({data: judge(reward, scenes(data, "test", options.most)) for data in SETS}), flush=True)


if __name__ == "__main__":
    main()
