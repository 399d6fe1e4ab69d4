"""Do the intervals of downstream scores hold what they promise? Losses that do not differ, from chance.

    python -m experiments.verdict.jackknife [--draws 2000]

Each draw makes confusion matrices (or boxes) of two losses with the same distribution, and of one plain
source with the same expectation, by fusion seed, task seed and scene. It counts how often the 95 % interval
of their difference misses 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
from experiments.common import make_parser

from clipfuse.comparison.evidence import Confusions, Detections, Evidence
from clipfuse.comparison.jackknife import Crossed, cross
from clipfuse.comparison.statistics import LEVEL, Array
from clipfuse.types import LabelSet

LABELS = LabelSet(("background", "car", "person", "bike", "bump"))
SIZES = np.array((60000, 6000, 1500, 600, 400.0))  # pixels of each class in a scene that has it


@dataclass(frozen=True)
class World:
    """Standard deviations of the logit of the share that is found, and how many there are of each.

    Attributes:
        seeds: fusion seeds of each loss.
        tasks: task seeds.
        scenes: scenes; each is one image.
        rare: scenes that have the last class.
        run: of a fusion seed, by class.
        task: of a task seed, the same in all runs.
        both: of a task seed in one run.
        common: of a task seed in all runs of one loss.
        scene: of a scene, the same in all runs; `own`: in one loss; `rest`: in one run.
        false: share of the background that is found as another class.
    """

    seeds: int = 5
    tasks: int = 2
    scenes: int = 20
    rare: int = 20
    run: float = 0.15
    task: float = 0.15
    both: float = 0.15
    common: float = 0.0
    scene: float = 1.0
    own: float = 0.3
    rest: float = 0.3
    false: float = 0.01


def confusions(world: World, generator: np.random.Generator) -> list[Array]:
    """Return counts of two losses and a plain source, (runs, tasks, scenes, C, C) each."""
    classes, scenes, tasks = len(LABELS), world.scenes, world.tasks
    pixels = SIZES * generator.lognormal(0, 0.7, (scenes, classes))
    pixels[world.rare :, -1] = 0
    pixels = pixels.round()
    scene = generator.normal(0, world.scene, (scenes, classes))
    task = generator.normal(0, world.task, (tasks, 1, classes))
    found = []
    for runs in (world.seeds, world.seeds, 1):
        seed = 0.0 if runs == 1 else generator.normal(0, world.run, (runs, 1, 1, classes))
        logit = 0.8 + scene + task + generator.normal(0, world.own, (scenes, classes)) + seed
        logit = logit + generator.normal(0, world.common, (tasks, 1, classes))
        logit = logit + generator.normal(0, world.both, (runs, tasks, 1, classes))
        logit = logit + generator.normal(0, world.rest, (runs, tasks, scenes, classes))
        hit = np.floor(pixels / (1 + np.exp(-logit)))
        missed = np.where(np.arange(classes) > 0, pixels - hit, 0)
        wrong = np.floor(world.false * pixels[:, :1] * generator.lognormal(0, 0.5, hit.shape) / classes)
        wrong[..., 0] = 0
        counts = np.zeros((*hit.shape, classes))
        places = np.arange(classes)
        counts[..., places, places] = hit
        counts[..., places, 0] += missed
        counts[..., 0, places] += wrong
        counts[..., 0, 0] = pixels[:, 0] - wrong.sum(-1)
        found.append(counts)
    return found


def boxes(world: World, generator: np.random.Generator) -> list[list[list[Evidence]]]:
    """Return evidence of two losses and a plain source by run and task seed: boxes of two classes."""
    labels = LabelSet(("car", "person"), None)
    images = [str(scene) for scene in range(world.scenes)]
    truth = []
    for _ in images:
        corners = generator.uniform(0, 200, (generator.poisson(5) + 1, 2))
        kinds = generator.integers(0, 2, (len(corners), 1))
        truth.append(np.concatenate([corners, corners + 30, kinds], axis=1))
    scene = generator.normal(0, world.scene, world.scenes)
    task = generator.normal(0, world.task, world.tasks)
    rows = []
    for runs in (world.seeds, world.seeds, 1):
        own = scene + generator.normal(0, world.own, world.scenes)
        row = []
        for _ in range(runs):
            seed = 0.0 if runs == 1 else generator.normal(0, world.run)
            ones: list[Evidence] = []
            for index in range(world.tasks):
                skill = 0.8 + own + seed + task[index] + generator.normal(0, world.both)
                skill = skill + generator.normal(0, world.rest, world.scenes)
                found = [_found(each, level, generator) for each, level in zip(truth, skill, strict=True)]
                ones.append(Detections(labels, images, truth, found))
            row.append(ones)
        rows.append(row)
    return rows


def _found(truth: Array, skill: float, generator: np.random.Generator) -> Array:
    hit = truth[generator.uniform(size=len(truth)) < 1 / (1 + np.exp(-skill))]
    hit = hit[:, :4] + generator.normal(0, 2, (len(hit), 4)), hit[:, 4:]
    score = generator.beta(4, 2, (len(hit[1]), 1))
    corners = generator.uniform(0, 200, (generator.poisson(2), 2))
    wrong = np.concatenate(
        [
            corners,
            corners + 30,
            generator.beta(2, 4, (len(corners), 1)),
            generator.integers(0, 2, (len(corners), 1)),
        ],
        axis=1,
    )
    return np.concatenate([np.concatenate([hit[0], score, hit[1]], axis=1), wrong])


def crossed(world: World, generator: np.random.Generator, detection: bool = False) -> dict[str, Crossed]:
    """Draw once, and return the scores by the jackknife; rows: two losses, then the plain source."""
    images = [str(scene) for scene in range(world.scenes)]
    taken = np.ones((1 + world.scenes, world.scenes))
    taken[1:] -= np.eye(world.scenes)
    if detection:
        rows = [[[each.scores(taken) for each in run] for run in row] for row in boxes(world, generator)]
    else:
        rows = [
            [[Confusions(LABELS, images, counts).scores(taken) for counts in run] for run in row]
            for row in confusions(world, generator)
        ]
    return cross(rows, losses=2)


def missed(
    world: World, names: Sequence[str], draws: int, seed: int = 0, detection: bool = False
) -> dict[str, tuple[float, float]]:
    """Return how often intervals miss 0, by score: of two losses, and of a loss and the plain source."""
    counts = {name: np.zeros(2) for name in names}
    for draw in range(draws):
        found = crossed(world, np.random.default_rng([seed, draw]), detection)
        for name in names:
            for place, other in enumerate((1, 2)):
                gap = found[name].gap(0, other)
                if gap is not None:
                    low, high = gap.interval()
                    counts[name][place] += low > 0 or high < 0
    return {name: (float(each[0]) / draws, float(each[1]) / draws) for name, each in counts.items()}


def favoured(world: World, draws: int) -> float:
    """Return how often the F-test finds task seeds that favour a loss in mIoU."""
    found = (crossed(world, np.random.default_rng([1, draw]))["mIoU"].favoured for draw in range(draws))
    return sum(p < LEVEL for p in found) / draws


WORLDS = {
    "5 seeds, 2 task seeds, 20 scenes": World(),
    "3 seeds": World(seeds=3),
    "10 seeds": World(seeds=10),
    "8 scenes": World(scenes=8, rare=8),
    "50 scenes": World(scenes=50, rare=50),
    "bump in 5 scenes": World(rare=5),
    "bump in 3 scenes": World(rare=3),
    "bump in 1 scene": World(rare=1),
    "losses differ more by scene": World(own=1.0),
    "seeds differ more": World(run=0.5),
    "5 task seeds": World(tasks=5),
    "task seeds differ more": World(task=0.5, both=0.5),
    "task seeds favour a loss": World(common=0.15),
}


def main() -> None:
    """Print the tables of the README."""
    parser = make_parser(__doc__)
    parser.add_argument("--draws", type=int, default=2000)
    draws = parser.parse_args().draws
    print(f"standard error of a share of 5 %: {100 * sqrt(0.05 * 0.95 / draws):.1f} %\n")
    names = ("mIoU", "IoU/car", "IoU/bump")
    print("| | " + " | ".join(f"{name}: losses | loss and plain source" for name in names) + " |")
    print("|---|" + "---|" * (2 * len(names)))
    for title, world in WORLDS.items():
        found = missed(world, names, draws)
        print(f"| {title} | " + " | ".join(f"{100 * x:.1f} %" for name in names for x in found[name]) + " |")
    for common in (0.0, 0.15, 0.3):
        share = favoured(World(common=common), draws // 3)
        print(f"F-test, task seeds favour losses by {common}: found in {100 * share:.0f} %")
    found = missed(World(seeds=4, scenes=12), ("mAP50", "mAP"), draws // 5, detection=True)
    for name, (losses, plain) in found.items():
        print(f"{name}, 4 seeds, 12 scenes, {draws // 5} draws: {100 * losses:.1f} %, {100 * plain:.1f} %")


if __name__ == "__main__":
    main()
