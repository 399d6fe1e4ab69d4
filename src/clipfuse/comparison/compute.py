"""From the scores of all runs to the table."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from math import floor, isfinite, log10, nan
from statistics import fmean, median

import numpy as np

from clipfuse.comparison import statistics
from clipfuse.comparison.collect import Run
from clipfuse.comparison.judged import PLAIN
from clipfuse.comparison.machine import BOTH, Seen
from clipfuse.comparison.ranking import Ranking
from clipfuse.comparison.scores import Scores, collect, shared_images
from clipfuse.comparison.statistics import LEVEL, Cell
from clipfuse.comparison.table import Column, Difference, Rival, Row, Table
from clipfuse.comparison.variants import Variant
from clipfuse.errors import UserError
from clipfuse.metrics.protocols import Protocol
from clipfuse.metrics.verdict import CLASSIC, VerdictSet

SEED = 0  # of all resampling: the same runs give the same bytes
ALL = "all"  # in place of a reference loss: every loss against every other
TrivialScores = Mapping[str, Mapping[str, Mapping[str, float]]]  # fusion -> metric -> image -> score


def build_table(
    variants: Sequence[Variant],
    protocol: Protocol,
    metrics: Sequence[str],
    reference: str,
    trivial: TrivialScores | None = None,
    verdict_set: VerdictSet = CLASSIC,
    pooled: bool = False,
    seen: Sequence[Seen] = (),
    machine: Sequence[str] = (),
) -> Table:
    """Compute every number of a comparison.

    Args:
        variants: the losses; all have tested runs, no two runs of one loss are the same (`without_repeats`).
        protocol: the protocol of their scores.
        metrics: columns of the table; all runs have them.
        reference: name of the reference loss, or "all": each loss is tested against each.
        trivial: scores of the trivial fusions, if there are any.
        verdict_set: the metrics that rank the runs, in the table or not; the runs have some of them.
        pooled: take the variance of seeds to be the same for all losses.
        seen: what machines see, of the same losses.
        machine: columns of it that the table has, behind the metrics.

    Raises:
        UserError: several losses are to be ranked, and none of those metrics is defined on any image, or the
            scenes of a downstream score that ranks are others.
    """
    images, member = shared_images(variants)
    fusions = dict(trivial or {})
    for name in (name for each in seen for name in each.rows[each.losses :]):
        fusions.setdefault(f"trivial:{name}", {})
    names = [variant.name for variant in variants]
    scenes = list(dict.fromkeys(variants[0].runs[0].scenes[image] for image in images))
    rows_of = [*names, *(name.removeprefix("trivial:") for name in fusions)]
    downstream = {name: each for part in seen for name, each in part.scores(rows_of, scenes).items()}
    shared = [
        name for name in protocol.metrics if all(name in run.scores for v in variants for run in v.runs)
    ]
    families = verdict_set.families([*shared, *(downstream if verdict_set.members else ())])
    ranked = [name for members in families.values() for name in members]
    scores = downstream | {
        name: collect(variants, protocol, name, images, member, list(fusions.values()))
        for name in dict.fromkeys([*metrics, *ranked])
        if name not in downstream
    }
    shown = [scores[name] for name in (*metrics, *machine)]
    if strange := [name for name in ranked if name in downstream and not downstream[name].present.any()]:
        raise UserError(
            f"verdict {verdict_set.name}: {strange[0]} was judged on other scenes than the metrics, so that "
            "it cannot rank with them; judge the runs on their own test images, or take the verdict balanced"
        )
    shares = member.sum(axis=0) / len(images)
    ranking = None
    if len(variants) > 1:
        if not any(scores[name].present.any() for name in ranked):
            raise UserError(
                f"none of {', '.join(ranked)} is defined on any of the {len(images)} common test images: "
                "there is nothing to rank the losses by; test them on larger images"
            )
        counts = [len(variant.runs) for variant in variants]
        signed = {name: signed_scores(scores[name], counts) for name in ranked}
        ranking = Ranking(signed, families, counts, shares)
    against = pairs(names, reference)
    twins = _twins(variants)
    differences = _differences(shown, names, against, pooled)
    rows = [
        _row(variant, _cells(shown, place, len(names), ranking), ranking, place)
        for place, variant in enumerate(variants)
    ]
    if ranking is not None:
        rows = _with_shares(rows, ranking)
    order = sorted(range(len(rows)), key=lambda place: (rows[place].rank or 0, rows[place].name))
    ordered = [rows[place] for place in order]
    for place, (name, found) in enumerate(fusions.items(), start=len(variants)):
        rank = None if ranking is None or not found else ranking.average(place).value
        if any(downstream[each].by_scene[place] is None for each in ranked if each in downstream):
            rank = None
        cells = _cells(shown, place, len(names), ranking)
        short = name.removeprefix("trivial:")
        kind = "both bands" if short == BOTH else "trivial" if found or short in PLAIN else "given"
        ordered.append(Row(short, trivial=True, cells=cells, rank=rank, kind=kind))
        order.append(place)
    return Table(
        protocol=protocol,
        verdict_set=verdict_set,
        families=families,
        columns=[_column(metric, protocol, ordered, differences, seen) for metric in shown],
        rows=ordered,
        against=against,
        differences=differences,
        rivals=_rivals(ranking, names, order[: len(variants)], twins),
        better=None if ranking is None else ranking.better[np.ix_(order, order)],
        images=images,
        scenes=member.shape[1],
        effective_scenes=statistics.effective_scenes(shares),
        twins=twins,
        seen=seen,
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


def signed_scores(metric: Scores, counts: Sequence[int]) -> statistics.Array:
    """Return scene means of all runs, then of the trivial fusions, for `Ranking`: larger is better.

    Args:
        metric: of all rows.
        counts: number of runs of each loss; further rows have one.
    """
    sign = 1.0 if metric.higher_is_better else -1.0
    sizes = [*counts, *[1] * (len(metric.by_scene) - len(counts))]
    signed = np.full((sum(sizes), len(metric.present)), nan)
    signed[:, metric.present] = -np.inf
    for end, size, scores in zip(np.cumsum(sizes), sizes, metric.by_scene, strict=True):
        if scores is not None:
            signed[end - size : end, metric.present] = sign * scores
    return signed


def pairs(names: Sequence[str], reference: str) -> list[tuple[str, str]]:
    """Return which losses are tested against which: all against the reference loss, or each against each."""
    if reference == ALL and ALL not in names:
        return [(other, one) for one, other in combinations(names, 2)]
    return [(name, reference) for name in names if name != reference]


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
        losses = dict(zip(names, zip(metric.spreads, metric.images, strict=True), strict=False))
        several = [spread for spread, _ in losses.values() if spread]
        pool = statistics.pool(several) if pooled else None
        for pair in pairs:
            (one, first), (other, second) = (losses[name] for name in pair)
            if one is None or other is None or first is None or second is None:
                continue
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


def _cells(metrics: Sequence[Scores], row: int, losses: int, ranking: Ranking | None) -> dict[str, Cell]:
    """Return the cells of a row by metric; the first `losses` rows compete for the places."""
    cells = {}
    for metric in metrics:
        spread = metric.spreads[row]
        if spread is None:
            continue
        place = None
        if row < losses > 1:
            means = {each.mean for each in metric.spreads[:losses] if each is not None}
            place = sorted(means, reverse=metric.higher_is_better).index(spread.mean) + 1
        ranks = {} if ranking is None else ranking.by_metric
        cells[metric.name] = Cell(
            spread.mean,
            spread.of_runs**0.5 if spread.runs > 1 else None,
            *statistics.crossed_mean(spread, metric.shares).interval(),
            place=place if place in (1, 2) else None,
            rank=float(ranks[metric.name][row]) if metric.name in ranks else None,
        )
    return cells


def _row(variant: Variant, cells: Mapping[str, Cell], ranking: Ranking | None, place: int) -> Row:
    times = [run.seconds for run in variant.runs]
    known = [time for time in times if time is not None]
    peaks = [run.fit["peak_memory_mb"] for run in variant.runs if run.fit.get("peak_memory_mb")]
    seconds = fmean(seconds for seconds, _ in known) if len(known) == len(times) else None
    samples = fmean(run.samples_seen or 0 for run in variant.runs)
    average = None if ranking is None else ranking.average(place)
    devices = dict.fromkeys(str(run.fit["device"]) for run in variant.runs if "device" in run.fit)
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
        device=", ".join(devices),
    )


def _with_shares(rows: Sequence[Row], ranking: Ranking) -> list[Row]:
    generator = np.random.default_rng(SEED)
    first, stable = ranking.first(generator), ranking.stable(generator)
    several = min(ranking.losses) > 1  # resamples of one training hold no variation of seeds
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


def _column(
    metric: Scores,
    protocol: Protocol,
    rows: Sequence[Row],
    differences: Mapping[tuple[str, str], Mapping[str, Difference]],
    seen: Sequence[Seen],
) -> Column:
    part = next((each for each in seen if metric.name in each.columns.values()), None)
    largest = max((abs(row.cells[metric.name].mean) for row in rows if metric.name in row.cells), default=0)
    found = [row[metric.name].detectable for row in differences.values() if metric.name in row]
    finite = [each for each in found if isfinite(each)]
    return Column(
        name=metric.name,
        higher_is_better=metric.higher_is_better,
        checked=part is not None or metric.name in protocol.checked,
        decimals=min(4, max(0, 3 - floor(log10(largest)))) if largest else 4,
        images=int(metric.kept.sum()),
        left_out=int((~metric.kept).sum()),
        detectable=median(finite) if finite else None,
        protocol=None if part is None else part.protocol,
        scenes=None if part is None else len(part.scenes),
    )
