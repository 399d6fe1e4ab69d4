"""Answer the study's questions from its zips or run folders.

    python -m experiments.downstream.answers experiments/downstream/results/msrs.zip [--out msrs.md]

Questions 1 to 3 are the differences of mIoU that `clipfuse compare` computes, with the better band, `both`,
fixed texts and `pixel`. For question 4 the rows of the table (losses, bands, average, maximum) are ordered
by each metric, by the rank of balanced-1 and by mIoU; Kendall's tau-b compares the orders. Its interval is
the 95 % percentile bootstrap over scenes and over the runs of each loss, drawn independently
(`statistics.resampled_means`).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from experiments.common import format_table, make_parser
from scipy.stats import kendalltau

from clipfuse.cli.sources import find_sources, score_trivial
from clipfuse.comparison import statistics
from clipfuse.comparison.assemble import Material, gather
from clipfuse.comparison.collect import find_runs
from clipfuse.comparison.compute import signed_scores
from clipfuse.comparison.machine import Seen, find_plain
from clipfuse.comparison.ranking import Ranking
from clipfuse.comparison.scores import Scores, collect, shared_images
from clipfuse.comparison.statistics import Array, Estimate
from clipfuse.comparison.variants import select
from clipfuse.metrics.verdict import BALANCED

RESAMPLES, LEVEL = 2000, 0.05


def in_words(estimates: Sequence[Estimate | None]) -> list[str]:
    """Return differences with their intervals, and what can be said of each once all are corrected for.

    The words are those of `clipfuse compare`: clearly by Holm's correction, likely by Benjamini and
    Hochberg's, both at 5 %. Beside them is the difference that would be found in four of five repetitions
    if it were tested alone.
    """
    p_values = [each.p for each in estimates if each is not None]
    corrected = zip(statistics.holm(p_values), statistics.benjamini_hochberg(p_values), strict=True)
    found = []
    for each in estimates:
        if each is None:
            found.append("not measured")
            continue
        (low, high), (holm, discovery) = each.interval(), next(corrected)
        word = "clearly" if holm < LEVEL else "likely" if discovery < LEVEL else "not found"
        least = statistics.detectable(each)
        found.append(f"{each.value:+.2f} [{low:+.2f}, {high:+.2f}], {word}; {least:.2f} would be")
    return found


def resampled(scores: Scores, rows: Sequence[int], draws: Mapping[int, Array], scenes: Array) -> Array:
    """Return the score of each row in each resample, (resamples, rows); higher is better."""
    sign = 1 if scores.higher_is_better else -1
    kept = scenes[:, scores.present]
    found = []
    for row in rows:
        values = scores.by_scene[row]
        assert values is not None
        runs = draws[row] if len(values) > 1 else np.ones((len(scenes), 1))
        found.append(sign * statistics.resampled_means(values, scores.shares, runs, kept))
    return np.stack(found, axis=1)


def taus(of_metric: Array, of_machine: Array) -> tuple[float, float]:
    """Return the 2.5 % and 97.5 % quantiles of Kendall's tau over resamples; undefined ones count as 0."""
    pairs = zip(of_metric, of_machine, strict=True)
    found = np.nan_to_num([kendalltau(one, other).statistic for one, other in pairs])
    low, high = np.quantile(found, (0.025, 0.975))
    return float(low), float(high)


def balanced(metrics: Mapping[str, Scores], counts: Sequence[int], shares: Array) -> Scores | None:
    """Return the rank of each row within each scene by balanced-1; None if it has none of its metrics.

    Args:
        metrics: by name, of the same rows.
        counts: number of runs of each loss; further rows have one.
        shares: share of each scene in the images, (scenes,).
    """
    families = BALANCED.families(metrics)
    members = [metrics[name] for names in families.values() for name in names]
    if not members:
        return None
    ranked = Ranking({each.name: signed_scores(each, counts) for each in members}, families, counts, shares)
    present = np.any([each.present for each in members], axis=0)
    return Scores(str(BALANCED), False, members[0].kept, [], ranked.by_scene, ranked.shares, present)


def predictors(metrics: Mapping[str, Scores], machine: Scores, runs: Sequence[int]) -> list[list[str]]:
    """Return a line for each metric: tau with the machine's score, its interval, and whether it is found.

    Args:
        metrics: by name.
        machine: the score of the task.
        runs: number of runs of each loss; further rows have one.
    """
    rows = [row for row, values in enumerate(machine.by_scene) if values is not None]
    metrics = {
        name: each for name, each in metrics.items() if all(each.by_scene[row] is not None for row in rows)
    }
    generator = np.random.default_rng(0)
    scenes = statistics.draw_counts(len(machine.present), generator, RESAMPLES)
    draws = {row: statistics.draw_counts(count, generator, RESAMPLES) for row, count in enumerate(runs)}
    once = {row: np.ones((1, count)) for row, count in enumerate(runs)}
    everything = np.ones((1, len(machine.present)))
    own, seen = resampled(machine, rows, once, everything)[0], resampled(machine, rows, draws, scenes)
    lines = []
    for name, scores in metrics.items():
        value = kendalltau(resampled(scores, rows, once, everything)[0], own).statistic
        low, high = taus(resampled(scores, rows, draws, scenes), seen)
        found = "yes" if low > 0 or high < 0 else "no"
        lines.append([name, f"{value:+.2f}", f"[{low:+.2f}, {high:+.2f}]", found])
    return sorted(lines, key=lambda line: -float(line[1]))


def read(path: Path) -> tuple[Material, Seen]:
    """Return what `clipfuse compare` reads of a set, and what the segmentation found.

    Args:
        path: a zip or folder of trainings, or a folder of such zips.
    """
    paths = sorted(path.glob("*.zip")) or [path]
    runs, notes = select(find_runs(paths), partial=False)
    plain, more = find_plain(paths, runs)
    material = gather(runs, [*notes, *more], plain=plain)
    return material, next(each for each in material.seen if each.task == "segmentation")


def answers(path: Path) -> list[str]:
    """Return the answers of one set in Markdown."""
    material, seen = read(path)
    places = {name: row for row, name in enumerate(seen.rows)}
    losses = seen.rows[: seen.losses]
    lines = [
        f"Classes: {', '.join(seen.labels.names)}; {len(seen.images)} images of {len(seen.scenes)} scenes.",
        "",
    ]
    band = seen.band
    others = [other for other in (band, "both") if other]
    words = iter(in_words([seen.gap(places[loss], other) for loss in losses for other in others]))
    rows = []
    for name in seen.rows:
        cell = seen.cell(seen.main, places[name])
        mean = "-" if cell is None else f"{cell.mean:.2f} [{cell.low:.2f}, {cell.high:.2f}]"
        rows.append([name, mean, *(next(words) if name in losses else "" for _ in others)])
    lines += format_table(["source", "mIoU", *(f"less {other}" for other in others)], rows)
    crossed = seen.crossed[seen.main]
    lines += ["", "Losses against each other:", ""]
    pairs = [(a, b) for i, a in enumerate(losses) for b in losses[i + 1 :]]
    differences = in_words([crossed.gap(places[a], places[b]) for a, b in pairs])
    lines += format_table(
        ["loss", "less", "mIoU"], [[*pair, text] for pair, text in zip(pairs, differences, strict=True)]
    )
    images, member = shared_images(material.variants)
    sources, missing = find_sources(material.tested)
    if sources is None:
        return [*lines, "", f"Question 4 needs the trivial fusions: {missing}"]
    trivial = score_trivial(material.tested, material.protocol, material.metrics, sources=sources)
    named = [*losses, *(name.removeprefix("trivial:") for name in trivial)]
    scenes = list(dict.fromkeys(material.tested[0].scenes[image] for image in images))
    machine = seen.scores(named, scenes)[seen.main]
    found = {
        name: collect(material.variants, material.protocol, name, images, member, list(trivial.values()))
        for name in material.metrics
    }
    counts = [len(variant.runs) for variant in material.variants]
    if (ranks := balanced(found, counts, member.sum(axis=0) / len(images))) is not None:
        found[ranks.name] = ranks
    lines += ["", "Kendall's tau of each metric with mIoU over losses, bands and trivial fusions:", ""]
    return lines + format_table(
        ["metric", "tau", "95 % interval", "found"], predictors(found, machine, counts)
    )


def main() -> None:
    """Print the answers, and write them where that is asked for."""
    parser = make_parser(__doc__)
    parser.add_argument("runs", type=Path, help="zip, folder or folder of zips of the trainings of one set")
    parser.add_argument("--out", type=Path, help="Markdown file to write")
    options = parser.parse_args()
    text = "\n".join(answers(options.runs)) + "\n"
    print(text)
    if options.out:
        options.out.write_text(text)


if __name__ == "__main__":
    main()
