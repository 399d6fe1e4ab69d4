"""From the scores of all runs to the one table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import floor, log10, nan
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from clipfuse.compare import statistics
from clipfuse.compare.statistics import Array
from clipfuse.compare.table import Cell, Column, Difference, Row, Table
from clipfuse.compare.variants import Variant
from clipfuse.metrics.protocols import Protocol

RANK_RESAMPLES = 1000
SEED = 0  # of all resampling: the same runs give the same bytes
TrivialScores = Mapping[str, Mapping[str, Mapping[str, float]]]  # fusion -> metric -> image -> score


def build_table(
    variants: Sequence[Variant],
    protocol: Protocol,
    metrics: Sequence[str],
    baseline: str,
    trivial: TrivialScores | None = None,
) -> Table:
    """Compute every number of a comparison.

    An image on which some run leaves a metric undefined is left out for all, so that means are over the
    same images; a variant with a run that defines it on none has no score, and the last rank.

    Args:
        variants: all with tested runs.
        protocol: of their scores.
        metrics: that all runs have.
        baseline: name of one variant.
        trivial: scores of the trivial fusions, if they could be had.
    """
    runs = [run for variant in variants for run in variant.runs]
    scenes = {image: scene for run in runs for image, scene in run.scenes.items()}
    images = [image for image in runs[0].scenes if all(image in run.scenes for run in runs)]
    member = statistics.membership([scenes[image] for image in images])
    generator = np.random.default_rng(SEED)
    scene_counts = statistics.draw_counts(member.shape[1], generator)
    seed_counts = [statistics.draw_counts(len(variant.runs), generator) for variant in variants]
    collected = [_collect(variants, protocol, name, images, member) for name in metrics]
    ranking = Ranking(collected, seed_counts, scene_counts)
    against = [variant.name for variant in variants].index(baseline)
    columns = [_cells(metric, against, seed_counts, scene_counts) for metric in collected]
    by_variant = zip(*_with_ranks(_corrected(columns), ranking), strict=True)
    cells = [{m.name: cell for m, cell in zip(collected, each, strict=True) if cell} for each in by_variant]
    rows = [_row(variant, cells[place], ranking, place) for place, variant in enumerate(variants)]
    rows.sort(key=lambda row: (row.rank or 0, row.name))
    rows += [
        _trivial(name, scores, collected, images, scene_counts) for name, scores in (trivial or {}).items()
    ]
    several = len(variants) > 2
    return Table(
        protocol=protocol,
        columns=[_column(metric, protocol, rows) for metric in collected],
        rows=rows,
        baseline=baseline,
        images=images,
        scenes=member.shape[1],
        critical_difference=statistics.critical_difference(len(variants), len(member[0]))
        if several
        else None,
        friedman=statistics.friedman(ranking.blocks) if several and len(ranking.blocks) > 1 else None,
        tests=sum(cell is not None and cell.against is not None for column in columns for cell in column),
    )


@dataclass(frozen=True)
class Scores:
    """One metric: (seeds, images) of each variant over the images all define; None where one does not."""

    name: str
    higher_is_better: bool
    kept: NDArray[np.bool_]
    variants: Sequence[Array | None]
    member: Array


def _collect(
    variants: Sequence[Variant], protocol: Protocol, name: str, images: Sequence[str], member: Array
) -> Scores:
    arrays = [
        np.array([[run.scores[name].get(image, nan) for image in images] for run in variant.runs])
        for variant in variants
    ]
    defined = [not np.isnan(array).all(axis=1).any() for array in arrays]
    part = [array for array, here in zip(arrays, defined, strict=True) if here]
    kept = ~np.isnan(np.concatenate(part)).any(axis=0) if part else np.zeros(len(images), dtype=bool)
    shared = [
        array[:, kept] if here and kept.any() else None for array, here in zip(arrays, defined, strict=True)
    ]
    return Scores(name, protocol.definition(name).higher_is_better, kept, shared, member[kept])


class Ranking:
    """Ranks of the variants within each scene by each metric, and how sure they are.

    Attributes:
        by_metric: mean over scenes, (metrics, variants).
        blocks: mean over metrics, (scenes, variants).
        average: mean over both, (variants,).
        resampled: `average` in resamples over seeds and scenes, (resamples, variants).
        first: share of these in which each variant has the best, (variants,).
    """

    def __init__(self, metrics: Sequence[Scores], seed_counts: Sequence[Array], scene_counts: Array) -> None:
        sums = [[None if s is None else s @ metric.member for s in metric.variants] for metric in metrics]
        sizes = [metric.member.sum(axis=0) for metric in metrics]

        def ranked(weights: Sequence[Array]) -> Array:
            """Return ranks (metrics, scenes, variants); a scene without scores ranks all alike."""
            means = [
                [
                    np.full(size.shape, nan)
                    if each is None
                    else np.divide(w @ each / w.sum(), size, out=np.full(size.shape, nan), where=size > 0)
                    for w, each in zip(weights, row, strict=True)
                ]
                for row, size in zip(sums, sizes, strict=True)
            ]
            signs = np.array([1.0 if metric.higher_is_better else -1.0 for metric in metrics])
            return statistics.ranks(np.array(means).transpose(0, 2, 1) * signs[:, None, None], True)

        ranks = ranked([np.ones(counts.shape[1]) for counts in seed_counts])
        self.by_metric, self.blocks = ranks.mean(axis=1), ranks.mean(axis=0)
        self.average = self.blocks.mean(axis=0)
        self.resampled = np.array(
            [
                np.average(
                    ranked([counts[b] for counts in seed_counts]).mean(axis=0), axis=0, weights=weights
                )
                for b, weights in enumerate(scene_counts[:RANK_RESAMPLES])
            ]
        )
        best = np.isclose(self.resampled, self.resampled.min(axis=1, keepdims=True))
        self.first = (best / best.sum(axis=1, keepdims=True)).mean(axis=0)


def _cells(
    metric: Scores, baseline: int, seed_counts: Sequence[Array], scene_counts: Array
) -> list[Cell | None]:
    """Return the cells of a column, p-values as they are."""
    given = [scores for scores in metric.variants if scores is not None]
    distinct = sorted({float(scores.mean()) for scores in given}, reverse=metric.higher_is_better)
    means = [
        None if scores is None else statistics.resampled_means(scores, metric.member, counts, scene_counts)
        for scores, counts in zip(metric.variants, seed_counts, strict=True)
    ]
    other, other_means = metric.variants[baseline], means[baseline]
    cells: list[Cell | None] = []
    for variant, (scores, resampled) in enumerate(zip(metric.variants, means, strict=True)):
        if scores is None or resampled is None:
            cells.append(None)
            continue
        against = None
        if variant != baseline and other is not None and other_means is not None:
            per_image, baseline_per_image = scores.mean(axis=0), other.mean(axis=0)
            sign = 1 if metric.higher_is_better else -1
            against = Difference(
                float(scores.mean() - other.mean()),
                *statistics.interval(resampled - other_means),
                p=statistics.wilcoxon(per_image, baseline_per_image),
                effect=sign * statistics.rank_biserial(per_image, baseline_per_image),
            )
        mean = float(scores.mean())
        place = distinct.index(mean) + 1
        cells.append(
            Cell(
                mean,
                float(scores.mean(axis=1).std(ddof=1)) if len(scores) > 1 else None,
                *statistics.interval(resampled),
                place=place if place < 3 and len(metric.variants) > 1 else None,
                against=against,
            )
        )
    return cells


def _corrected(columns: Sequence[Sequence[Cell | None]]) -> list[list[Cell | None]]:
    """Return the columns with p-values corrected over all of them."""
    tested = [cell.against.p for column in columns for cell in column if cell and cell.against]
    corrected = iter(statistics.holm(tested))
    return [
        [
            replace(cell, against=replace(cell.against, p=next(corrected))) if cell and cell.against else cell
            for cell in column
        ]
        for column in columns
    ]


def _with_ranks(columns: Sequence[Sequence[Cell | None]], ranking: Ranking) -> list[list[Cell | None]]:
    if len(ranking.average) < 2:
        return [list(column) for column in columns]
    return [
        [replace(cell, rank=float(rank)) if cell else None for cell, rank in zip(column, ranks, strict=True)]
        for column, ranks in zip(columns, ranking.by_metric, strict=True)
    ]


def _row(variant: Variant, cells: Mapping[str, Cell], ranking: Ranking, place: int) -> Row:
    times = [run.seconds for run in variant.runs]
    known = [time for time in times if time is not None]
    peaks = [run.fit["peak_memory_mb"] for run in variant.runs if run.fit.get("peak_memory_mb")]
    complete = len(known) == len(times)
    seconds = fmean(seconds for seconds, _ in known) if complete else None
    samples = fmean(run.samples_seen or 0 for run in variant.runs)
    many = len(ranking.average) > 1
    return Row(
        name=variant.name,
        trivial=False,
        seeds=tuple(run.seed for run in variant.runs),
        cells=cells,
        rank=float(ranking.average[place]) if many else None,
        rank_interval=statistics.interval(ranking.resampled[:, place]) if many else None,
        first=float(ranking.first[place]) if many else None,
        seconds=seconds,
        projected=any(projected for _, projected in known),
        samples_per_second=samples / seconds if seconds else None,
        memory_mb=max(peaks) if peaks else None,
        device=", ".join(
            dict.fromkeys(str(run.fit["device"]) for run in variant.runs if "device" in run.fit)
        ),
    )


def _trivial(
    name: str,
    scores: Mapping[str, Mapping[str, float]],
    metrics: Sequence[Scores],
    images: Sequence[str],
    scene_counts: Array,
) -> Row:
    cells = {}
    for metric in metrics:
        values = np.array([scores.get(metric.name, {}).get(image, nan) for image in images])[
            None, metric.kept
        ]
        if values.size and not np.isnan(values).any():
            ones = np.ones((len(scene_counts), 1))
            resampled = statistics.resampled_means(values, metric.member, ones, scene_counts)
            cells[metric.name] = Cell(float(values.mean()), None, *statistics.interval(resampled))
    return Row(name=name.removeprefix("baseline:"), trivial=True, cells=cells)


def _column(metric: Scores, protocol: Protocol, rows: Sequence[Row]) -> Column:
    largest = max((abs(row.cells[metric.name].mean) for row in rows if metric.name in row.cells), default=0)
    decimals = min(4, max(0, 3 - floor(log10(largest)))) if largest else 4
    kept = int(metric.kept.sum())
    return Column(
        name=metric.name,
        higher_is_better=metric.higher_is_better,
        checked=metric.name in protocol.checked,
        decimals=decimals,
        images=kept,
        left_out=len(metric.kept) - kept,
    )
