"""From the scores of all runs to the one table."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from math import floor, isfinite, log10, nan
from statistics import fmean, median

import numpy as np

from clipfuse.comparison import statistics
from clipfuse.comparison.collect import Run
from clipfuse.comparison.ranking import Ranking
from clipfuse.comparison.scores import Scores, collect, scene_means, shared_images
from clipfuse.comparison.statistics import LEVEL, Array
from clipfuse.comparison.table import Cell, Column, Difference, Rival, Row, Table
from clipfuse.comparison.variants import Variant
from clipfuse.metrics.protocols import Protocol
from clipfuse.metrics.verdict import CLASSIC, VerdictSet

SEED = 0  # of all resampling: the same runs give the same bytes
ALL = "all"  # as a baseline: every loss against every other
TrivialScores = Mapping[str, Mapping[str, Mapping[str, float]]]  # fusion -> metric -> image -> score


def build_table(
    variants: Sequence[Variant],
    protocol: Protocol,
    metrics: Sequence[str],
    baseline: str,
    trivial: TrivialScores | None = None,
    verdict_set: VerdictSet = CLASSIC,
    pooled: bool = False,
) -> Table:
    """Compute every number of a comparison.

    Args:
        variants: all with tested runs, no two runs of one loss the same; see `without_repeats`.
        protocol: of their scores.
        metrics: columns of the table; all runs have them.
        baseline: name of the loss the others are tested against, or "all": each against each.
        trivial: scores of the trivial fusions, if they could be had.
        verdict_set: whose metrics rank the runs, shown or not; the runs have some.
        pooled: take the variance of seeds to be the same for all losses.
    """
    images, member = shared_images(variants)
    families = verdict_set.families(
        name for name in protocol.metrics if all(name in run.scores for v in variants for run in v.runs)
    )
    ranked = [name for members in families.values() for name in members]
    scores = {
        name: collect(variants, protocol, name, images, member) for name in dict.fromkeys([*metrics, *ranked])
    }
    shown = [scores[name] for name in metrics]
    fusions = dict(trivial or {})
    ranking = None
    if len(variants) > 1:
        ranking = _rank([scores[name] for name in ranked], families, variants, fusions, images, member)
    names = [variant.name for variant in variants]
    against = pairs(names, baseline)
    twins = _twins(variants)
    differences = _differences(shown, names, against, pooled)
    rows = [
        _row(variant, _cells(shown, place, ranking), ranking, place) for place, variant in enumerate(variants)
    ]
    if ranking is not None:
        rows = _with_shares(rows, ranking)
    order = sorted(range(len(rows)), key=lambda place: (rows[place].rank or 0, rows[place].name))
    ordered = [rows[place] for place in order]
    for place, (name, found) in enumerate(fusions.items(), start=len(variants)):
        ordered.append(_trivial(name, found, shown, images, member, ranking, place))
        order.append(place)
    shares = member.sum(axis=0) / len(images)
    return Table(
        protocol=protocol,
        verdict_set=verdict_set,
        families=families,
        columns=[_column(metric, protocol, ordered, differences) for metric in shown],
        rows=ordered,
        against=against,
        differences=differences,
        rivals=_rivals(ranking, names, order[: len(variants)], twins),
        better=None if ranking is None else ranking.better[np.ix_(order, order)],
        images=images,
        scenes=member.shape[1],
        effective_scenes=statistics.effective_scenes(shares),
        twins=twins,
    )


def without_repeats(variants: Sequence[Variant]) -> tuple[list[Variant], list[str]]:
    """Leave out trainings that repeat another of the same loss to the last bit: they would feign certainty.

    Returns:
        The losses, and a line for each training that is left out.
    """
    kept, notes = [], []
    for variant in variants:
        runs: list[Run] = []
        for run in variant.runs:
            twin = next((each for each in runs if each.scores == run.scores), None)
            if twin is None or not run.scores:
                runs.append(run)
            else:
                notes.append(
                    f"Left out: {run.folder}: all its scores are those of {twin.folder} to the last bit, so "
                    f"that seeds {twin.seed} and {run.seed} of '{variant.name}' are one training."
                )
        kept.append(replace(variant, runs=tuple(runs)))
    return kept, notes


def _rank(
    metrics: Sequence[Scores],
    families: Mapping[str, Sequence[str]],
    variants: Sequence[Variant],
    trivial: TrivialScores,
    images: Sequence[str],
    member: Array,
) -> Ranking:
    counts = [len(variant.runs) for variant in variants]
    table = {}
    for metric in metrics:
        sign = 1.0 if metric.higher_is_better else -1.0
        signed = np.full((sum(counts) + len(trivial), len(metric.present)), nan)
        signed[:, metric.present] = -np.inf
        start = 0
        for count, scores in zip(counts, metric.by_scene, strict=True):
            if scores is not None:
                signed[start : start + count, metric.present] = sign * scores
            start += count
        for place, found in enumerate(trivial.values(), start=sum(counts)):
            values = _of_fusion(found, metric, images)
            if not np.isnan(values).any():
                signed[place, metric.present] = sign * scene_means(values, member[metric.kept])[0]
        table[metric.name] = signed
    return Ranking(table, families, counts, member.sum(axis=0) / len(images))


def _of_fusion(found: Mapping[str, Mapping[str, float]], metric: Scores, images: Sequence[str]) -> Array:
    scores = found.get(metric.name, {})
    return np.array([[scores.get(image, nan) for image in images]])[:, metric.kept]


def pairs(names: Sequence[str], baseline: str) -> list[tuple[str, str]]:
    """Return which losses are tested against which: all against the baseline, or each against each."""
    if baseline == ALL and ALL not in names:
        return [(other, one) for one, other in combinations(names, 2)]
    return [(name, baseline) for name in names if name != baseline]


def _twins(variants: Sequence[Variant]) -> list[tuple[str, str]]:
    """Return the pairs of losses whose trainings have the same scores to the last bit."""
    return [
        (one.name, other.name)
        for one, other in combinations(variants, 2)
        if [run.scores for run in one.runs] == [run.scores for run in other.runs]
    ]


def _differences(
    metrics: Sequence[Scores], names: Sequence[str], pairs: Sequence[tuple[str, str]], pooled: bool
) -> dict[tuple[str, str], dict[str, Difference]]:
    raw: dict[tuple[str, str], dict[str, Difference]] = {pair: {} for pair in pairs}
    for metric in metrics:
        spreads = dict(zip(names, metric.spreads, strict=True))
        images = dict(zip(names, metric.images, strict=True))
        pool = statistics.pool([each for each in spreads.values() if each]) if pooled else None
        for pair in pairs:
            one, other = (spreads[name] for name in pair)
            if one is None or other is None:
                continue
            first, second = (images[name] for name in pair)
            assert first is not None
            assert second is not None
            raw[pair][metric.name] = Difference(
                statistics.crossed_difference(one, other, metric.shares, pool),
                metric.higher_is_better,
                holm=1.0,
                discovery=1.0,
                median=median((first.mean(axis=0) - second.mean(axis=0)).tolist()),
                detectable=nan,
                equal=np.array_equal(first, second),
            )
    tested = [each for row in raw.values() for each in row.values() if each.tested]
    p_values = [each.estimate.p for each in tested]
    corrected = zip(statistics.holm(p_values), statistics.benjamini_hochberg(p_values), strict=True)
    level = LEVEL / max(1, len(tested))
    found: dict[tuple[str, str], dict[str, Difference]] = {pair: {} for pair in pairs}
    for pair, row in raw.items():
        for name, each in row.items():
            holm, discovery = next(corrected) if each.tested else (1.0, 1.0)
            detectable = statistics.detectable(each.estimate, level)
            found[pair][name] = replace(each, holm=holm, discovery=discovery, detectable=detectable)
    return found


def _cells(metrics: Sequence[Scores], loss: int, ranking: Ranking | None) -> dict[str, Cell]:
    cells = {}
    for metric in metrics:
        spreads = metric.spreads
        spread = spreads[loss]
        if spread is None:
            continue
        means = [each.mean for each in spreads if each is not None]
        place = sorted(set(means), reverse=metric.higher_is_better).index(spread.mean) + 1
        cells[metric.name] = Cell(
            spread.mean,
            spread.of_runs**0.5 if spread.runs > 1 else None,
            *statistics.crossed_mean(spread, metric.shares).interval(),
            place=place if place < 3 and len(metric.by_scene) > 1 else None,
            rank=_metric_rank(ranking, metric.name, loss),
        )
    return cells


def _metric_rank(ranking: Ranking | None, name: str, row: int) -> float | None:
    return None if ranking is None or name not in ranking.by_metric else float(ranking.by_metric[name][row])


def _row(variant: Variant, cells: Mapping[str, Cell], ranking: Ranking | None, place: int) -> Row:
    times = [run.seconds for run in variant.runs]
    known = [time for time in times if time is not None]
    peaks = [run.fit["peak_memory_mb"] for run in variant.runs if run.fit.get("peak_memory_mb")]
    seconds = fmean(seconds for seconds, _ in known) if len(known) == len(times) else None
    samples = fmean(run.samples_seen or 0 for run in variant.runs)
    average = None if ranking is None else ranking.average(place)
    return Row(
        name=variant.name,
        trivial=False,
        seeds=tuple(run.seed for run in variant.runs),
        cells=cells,
        rank=None if average is None else average.value,
        rank_interval=None if average is None else average.interval(),
        seconds=seconds,
        projected=any(projected for _, projected in known),
        samples_per_second=samples / seconds if seconds else None,
        memory_mb=max(peaks) if peaks else None,
        device=", ".join(
            dict.fromkeys(str(run.fit["device"]) for run in variant.runs if "device" in run.fit)
        ),
    )


def _with_shares(rows: Sequence[Row], ranking: Ranking) -> list[Row]:
    generator = np.random.default_rng(SEED)
    first, stable = ranking.first(generator), ranking.stable(generator)
    several = min(ranking.losses) > 1  # resamples of one training would know nothing of seeds
    return [
        replace(row, first=float(a) if several else None, stable=float(b))
        for row, a, b in zip(rows, first, stable, strict=True)
    ]


def _rivals(
    ranking: Ranking | None, names: Sequence[str], order: Sequence[int], twins: Iterable[tuple[str, str]]
) -> list[Rival]:
    if ranking is None:
        return []
    best, *others = order
    return [
        Rival(
            names[other],
            ranking.difference(other, best),
            any({names[best], names[other]} == {*pair} for pair in twins),
        )
        for other in others
    ]


def _trivial(
    name: str,
    found: Mapping[str, Mapping[str, float]],
    metrics: Sequence[Scores],
    images: Sequence[str],
    member: Array,
    ranking: Ranking | None,
    place: int,
) -> Row:
    cells = {}
    for metric in metrics:
        values = _of_fusion(found, metric, images)
        if values.size and not np.isnan(values).any():
            spread = statistics.spread(scene_means(values, member[metric.kept]), metric.shares)
            low, high = statistics.crossed_mean(spread, metric.shares).interval()
            cells[metric.name] = Cell(
                spread.mean, None, low, high, rank=_metric_rank(ranking, metric.name, place)
            )
    rank = None if ranking is None or not found else ranking.average(place).value
    return Row(name=name.removeprefix("baseline:"), trivial=True, cells=cells, rank=rank)


def _column(
    metric: Scores,
    protocol: Protocol,
    rows: Sequence[Row],
    differences: Mapping[tuple[str, str], Mapping[str, Difference]],
) -> Column:
    largest = max((abs(row.cells[metric.name].mean) for row in rows if metric.name in row.cells), default=0)
    decimals = min(4, max(0, 3 - floor(log10(largest)))) if largest else 4
    kept = int(metric.kept.sum())
    found = [row[metric.name].detectable for row in differences.values() if metric.name in row]
    finite = [each for each in found if isfinite(each)]
    return Column(
        name=metric.name,
        higher_is_better=metric.higher_is_better,
        checked=metric.name in protocol.checked,
        decimals=decimals,
        images=kept,
        left_out=len(metric.kept) - kept,
        detectable=median(finite) if finite else None,
    )
