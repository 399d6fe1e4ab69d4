"""Does the comparison keep its word? Tables whose truth is known, from real trainings and from chance.

    python -m experiments.verdict.simulate [--tables 200] [--long]

- A/A from real trainings: three seeds of one loss, named as three losses. Nothing differs but the seed.
- A/A from chance: losses without any difference, with seeds, scenes and variances as those of the study. A
table is
  false if it says "clearly" once, or names a winner.
- Coverage: how often the 95 % interval of a difference holds the true one.
- Power: how often a difference of three standard deviations of a seed is found clearly.

Beside each stands what the comparison of version 0.1 would have said: Wilcoxon's test over images with Holm's
correction, and a percentile bootstrap over seeds and scenes.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import sqrt
from pathlib import Path

import numpy as np
from experiments.common import make_parser
from scipy import stats

from clipfuse.comparison import statistics
from clipfuse.comparison.collect import Run, find_runs
from clipfuse.comparison.compute import build_table
from clipfuse.comparison.statistics import Array
from clipfuse.comparison.table import Table
from clipfuse.comparison.variants import Variant
from clipfuse.comparison.verdict import verdict
from clipfuse.metrics.protocols import STRICT

ROADSCENE = (18, 3, 2, 2, 2, 2, 1, 1)  # images of each scene of RoadScene's test part
METRICS = STRICT.metrics[:22]
FIRST = {name for name in STRICT.metrics if STRICT.since.get(name, 1) == 1}  # what version 0.1 had, too
FACTORS = 4  # independent sources of what 22 metrics say
STUDY = Path(__file__).parents[1] / "compare_losses" / "results"


def made_run(scores: Mapping[str, Mapping[str, float]], scenes: Mapping[str, str], seed: int) -> Run:
    """Return a run of nothing but scores."""
    return Run(Path(), {"seed": seed}, "finished", None, None, {}, scores, scenes, {})


def chance_variants(
    generator: np.random.Generator,
    losses: int,
    seeds: int,
    scenes: Sequence[int],
    spread: Sequence[float] = (1.0,),
    own: float = 0.0,
    rest: float = 1.0,
    metrics: Sequence[str] = METRICS,
    shift: float = 0.0,
) -> list[Variant]:
    """Draw losses without a difference.

    A score is the seed's, plus the loss's own in that scene, plus the rest in that scene, plus the image's;
    metrics are mixtures of `FACTORS` independent ones, so that many say the same.

    Args:
        generator: draws.
        losses: how many.
        seeds: of each.
        scenes: number of images of each scene.
        spread: standard deviation of the losses' seeds, repeated over them.
        own: standard deviation of a loss in a scene, the same for all its seeds.
        rest: standard deviation of a seed in a scene.
        metrics: names.
        shift: of the last loss's mean, in every metric.
    """
    names = [f"image-{index:04d}" for index in range(sum(scenes))]
    scene = np.repeat(np.arange(len(scenes)), scenes)
    mixture = np.random.default_rng(1).normal(size=(FACTORS, len(metrics)))
    mixture /= np.sqrt(np.square(mixture).sum(axis=0))
    common = generator.normal(0, 3, (len(names), FACTORS))

    variants = []
    for loss in range(losses):
        deviation = spread[loss % len(spread)]
        factors = (
            common
            + generator.normal(0, deviation, (seeds, 1, FACTORS))
            + generator.normal(0, own, (1, len(scenes), FACTORS))[:, scene]
            + deviation * generator.normal(0, rest, (seeds, len(scenes), FACTORS))[:, scene]
            + deviation * generator.normal(0, 0.3, (seeds, len(names), FACTORS))
        )
        scores = factors @ mixture + (shift if loss == losses - 1 else 0.0)
        runs = tuple(
            made_run(
                {
                    m: dict(zip(names, scores[seed, :, k].tolist(), strict=True))
                    for k, m in enumerate(metrics)
                },
                {name: f"scene-{each}" for name, each in zip(names, scene, strict=True)},
                seed,
            )
            for seed in range(seeds)
        )
        variants.append(Variant(f"loss-{loss}", runs, {}))
    return variants


def real_variants(study: Path = STUDY) -> Iterator[tuple[str, list[Variant]]]:
    """Give each loss of the study, its seeds named as losses: one training each, only the seed differs."""
    for kept in sorted(study.glob("*.zip")):
        losses: dict[str, list[Run]] = {}
        for run in find_runs([kept]):
            if run.scores:
                first = {name: each for name, each in run.scores.items() if name in FIRST}
                losses.setdefault(run.label.split("/")[0], []).append(replace(run, scores=first))
        for loss, runs in sorted(losses.items()):
            if len(runs) == 3:
                yield f"{kept.stem}/{loss}", [Variant(f"seed-{run.seed}", (run,), {}) for run in runs]


def tabled(variants: Sequence[Variant], pooled: bool = False) -> Table:
    """Return the table of losses that are held against the first."""
    runs = [run for variant in variants for run in variant.runs]
    metrics = [name for name in STRICT.metrics if all(name in run.scores for run in runs)]
    return build_table(variants, STRICT, metrics, variants[0].name, pooled=pooled)


def said(table: Table) -> tuple[int, int, bool]:
    """Return how many differences are clear, of how many, and whether a winner is named."""
    every = [each for row in table.differences.values() for each in row.values()]
    return sum(each.word == "clearly" for each in every), len(every), "' wins" in verdict(table)[0]


def said_before(variants: Sequence[Variant], generator: np.random.Generator) -> tuple[int, int]:
    """Return how many differences version 0.1 called clear, and of how many.

    "Clearly": Wilcoxon's signed-rank test over images, scores averaged over seeds, Holm-corrected, has p <
    0.05, and the percentile interval of a bootstrap over seeds and scenes leaves out 0.
    """
    first, *others = variants
    metrics = [name for name in STRICT.metrics if all(name in v.runs[0].scores for v in variants)]
    images = list(first.runs[0].scenes)
    member = statistics.membership([first.runs[0].scenes[image] for image in images])
    sizes = member.sum(axis=0)
    scene_counts = statistics.draw_counts(len(sizes), generator)
    p_values, sure = [], []
    for other in others:
        counts = [statistics.draw_counts(len(v.runs), generator) for v in (other, first)]
        for metric in metrics:
            arrays = [
                np.array([[run.scores[metric][image] for image in images] for run in v.runs])
                for v in (other, first)
            ]
            kept = ~np.isnan(np.concatenate(arrays)).any(axis=0)
            arrays = [array[:, kept] for array in arrays]
            present = (share := member[kept].sum(axis=0)) > 0
            means = [
                statistics.resampled_means(
                    (array @ member[kept][:, present]) / share[present],
                    share[present] / share.sum(),
                    count,
                    scene_counts[:, present],
                )
                for array, count in zip(arrays, counts, strict=True)
            ]
            apart = arrays[0].mean(axis=0) - arrays[1].mean(axis=0)
            p_values.append(float(stats.wilcoxon(apart).pvalue) if apart.any() else 1.0)
            low, high = np.nanquantile(means[0] - means[1], [0.025, 0.975])
            sure.append(bool(low > 0 or high < 0))
    corrected = statistics.holm(p_values)
    return sum(p < 0.05 and each for p, each in zip(corrected, sure, strict=True)), len(sure)


def coverage(
    generator: np.random.Generator,
    seeds: int,
    shares: Array,
    spread: tuple[float, float],
    own: float,
    rest: float,
    times: int,
) -> float:
    """Return how often the 95 % interval of a difference of two losses holds the true one, 0."""
    held = 0
    for _ in range(times):
        both = [
            statistics.spread(
                generator.normal(0, each, (seeds, 1))
                + generator.normal(0, own, (1, len(shares)))
                + each * generator.normal(0, rest, (seeds, len(shares))),
                shares,
            )
            for each in spread
        ]
        low, high = statistics.crossed_difference(both[0], both[1], shares).interval()
        held += low <= 0 <= high
    return held / times


def false_tables(
    generator: np.random.Generator, tables: int, before: bool = False, **settings: object
) -> tuple[float, float, float]:
    """Return the shares of A/A tables with a false "clearly", with a false winner, and with one before."""
    clear = won = earlier = 0
    for _ in range(tables):
        variants = chance_variants(generator, **settings)  # type: ignore[arg-type]
        found, _, winner = said(tabled(variants))
        clear += found > 0
        won += winner
        if before:
            earlier += said_before(variants, generator)[0] > 0
    return clear / tables, won / tables, earlier / tables if before else float("nan")


def conditions(long: bool) -> Iterator[dict[str, object]]:
    """Give the settings of `chance_variants` that are tried."""
    for scenes in (ROADSCENE, (1,) * 24):
        for losses in (2, 3, 6):
            for seeds in (1, 3, 5, 10):
                yield {"losses": losses, "seeds": seeds, "scenes": scenes}
    for seeds in (3, 5, 10):
        yield {"losses": 6, "seeds": seeds, "scenes": (1,) * 24, "spread": (1.0, 3.0)}
        yield {"losses": 6, "seeds": seeds, "scenes": (1,) * 24, "spread": (0.3, 1.0, 3.0)}
    if long:
        yield {"losses": 3, "seeds": 5, "scenes": (20,) * 10}
        yield {"losses": 3, "seeds": 5, "scenes": (1,) * 24, "own": 1.0}


def main() -> None:
    """Print the tables."""
    parser = make_parser(__doc__)
    parser.add_argument("--tables", type=int, default=200, help="simulated tables of each condition")
    parser.add_argument("--long", action="store_true", help="more conditions")
    options = parser.parse_args()
    generator = np.random.default_rng(0)

    print("| A/A of real trainings | before: clear | tables with one | now: clear | tables with one |")
    print("|---|---|---|---|---|")
    counts = np.zeros(6, dtype=int)
    for _, variants in real_variants():
        earlier, of = said_before(variants, generator)
        now, _, won = said(tabled(variants))
        counts += [earlier, earlier > 0, now, now > 0 or won, of, 1]
    print(
        f"| {counts[5]} tables, {counts[4]} tests | {counts[0]} | {counts[1]} | {counts[2]} | {counts[3]} "
        "|\n",
        flush=True,
    )
    print(
        "| losses | seeds | scenes | spread of seeds | before: false clearly | now: false clearly | false "
        "win |"
    )
    print("|---|---|---|---|---|---|---|")
    for settings in conditions(options.long):
        clear, wins, before = false_tables(generator, options.tables, before=True, **settings)
        scenes = settings["scenes"]
        shown = "RoadScene's 8" if scenes == ROADSCENE else f"{len(scenes)} of {scenes[0]}"  # type: ignore[index,arg-type]
        more = f", own {settings['own']}" if "own" in settings else ""
        print(
            f"| {settings['losses']} | {settings['seeds']} | {shown}{more} | {settings.get('spread', '(1)')} "
            f"| {before:.0%} | {clear:.1%} | {wins:.1%} |",
            flush=True,
        )
    error = sqrt(0.05 * 0.95 / options.tables)
    print(f"\nMonte Carlo standard error of a share of 5 %: {error:.1%}\n")
    print("| seeds | scenes | spread | own | rest | covers |\n|---|---|---|---|---|---|")
    for shares in (np.array(ROADSCENE) / 31, np.full(24, 1 / 24)):
        for seeds in (2, 3, 5, 10):
            for spread, own, rest in (((1, 1), 0, 1), ((1, 1), 1, 0.5), ((1, 3), 0, 1), ((1, 1), 3, 1)):
                held = coverage(generator, seeds, shares, spread, own, rest, 4000)
                print(f"| {seeds} | {len(shares)} | {spread} | {own} | {rest} | {held:.1%} |", flush=True)
    print("\n| losses | seeds | spread | false clearly, seeds pooled |\n|---|---|---|---|")
    for seeds in (3, 5):
        for several in ((1.0,), (1.0, 3.0), (0.3, 1.0, 3.0)):
            wrong = 0
            for _ in range(options.tables):
                variants = chance_variants(generator, 6, seeds, (1,) * 24, several)
                wrong += said(tabled(variants, pooled=True))[0] > 0
            print(f"| 6 | {seeds} | {several} | {wrong / options.tables:.1%} |", flush=True)
    print("\n| losses | seeds | scenes | power at 3 standard deviations of a seed |\n|---|---|---|---|")
    for seeds in (3, 5, 10):
        for shift_scenes in (ROADSCENE, (1,) * 24):
            found = total = 0
            for _ in range(options.tables // 4):
                variants = chance_variants(generator, 3, seeds, shift_scenes, shift=3.0)
                row = tabled(variants).differences["loss-2", "loss-0"]
                found += sum(each.word == "clearly" for each in row.values())
                total += len(row)
            print(f"| 3 | {seeds} | {len(shift_scenes)} | {found / total:.0%} |", flush=True)


if __name__ == "__main__":
    main()
