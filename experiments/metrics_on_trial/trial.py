"""Which fusions does each metric reward? Degenerate ones against honest ones, on real and rendered scenes.

    python -m experiments.metrics_on_trial.trial --roadscene data/roadscene [--runs RUNS] --out OUT

RUNS holds trainings of several losses as RUNS/{roadscene,synthetic}/LOSS/SEED/checkpoints/last.ckpt; those of
rendered scenes fuse these, those of RoadScene the real ones. A loss is judged by its mean score over seeds.
Writes into OUT, for each kind of scenes, `scores_KIND.csv` (per image), `ranks_KIND.csv` (mean ranks),
`moves_KIND.csv` (what each degradation does to each metric) and `ranks_KIND.png`; and `report.md`, the bars.
"""

import csv
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations, pairwise
from math import comb, isnan
from pathlib import Path
from statistics import fmean

import numpy as np
from experiments.common import format_table, load_sources, make_parser
from experiments.metrics_on_trial.fusions import DEGRADATIONS, degenerate, degrade, honest, rounded
from experiments.metrics_on_trial.heatmap import draw
from scipy.stats import rankdata
from torch import nn

from clipfuse.data.pairs import PairSource
from clipfuse.data.transforms import whole
from clipfuse.metrics import DEFINITIONS, PROTOCOLS, FusionMetrics
from clipfuse.metrics.verdict import BALANCED, CLASSIC, VerdictSet
from clipfuse.networks.load import load_backbone, named

Scores = dict[str, dict[str, list[float]]]  # fusion -> metric -> one per scene
BASES = ("energy pyramid", "Laplacian pyramid", "bundled network")  # the first came first on validation
BEST = 3  # honest fusions that must come before every degenerate one
HALVES = 1000
KINDS = {"real": "roadscene", "rendered": "synthetic"}
SLOW = ("FMI-pixel", "FMI-gradient")  # nine tenths of the time of all metrics; left out
VOTING = [name for members in BALANCED.members.values() for name in members]


def load_networks(runs: Path | None, kind: str) -> dict[str, nn.Module]:
    """Return the bundled network and the trained ones, as "LOSS/SEED"."""
    networks = {"bundled network": load_backbone(named("first"))}
    for file in sorted((runs / KINDS[kind]).glob("*/*/checkpoints/last.ckpt")) if runs else ():
        if (file.parents[1] / "test" / "metrics.json").exists():  # it has finished
            loss, seed = file.parts[-4:-2]
            networks[f"{loss}/{seed}"] = load_backbone(file, ["experiments"])
    return networks


def judge(
    source: PairSource, part: str, networks: Mapping[str, nn.Module]
) -> tuple[Scores, set[str], dict[str, Scores]]:
    """Score all fusions and all degradations of a part of a data set.

    Returns:
        The scores by fusion, the names of the honest ones, and for each base the scores by degradation and
        strength, such as "blur 2"; "" is the base itself.
    """
    protocol = PROTOCOLS["strict"]
    metrics = [name for name in protocol.metrics if name not in SLOW]
    full, few = FusionMetrics(protocol, metrics), FusionMetrics(protocol, VOTING)
    found: Scores = {}
    moves: dict[str, Scores] = {base: {} for base in BASES}
    good: set[str] = set()
    for index, name in enumerate(source.parts()[part]):
        batch = whole(source.load(name), name)
        infrared, visible, mask = batch.infrared, batch.visible, batch.target_mask
        ours = honest(infrared, visible, networks)
        good.update(ours)
        fused = {**degenerate(infrared, visible, index), **ours}
        _add(found, full.score_all(fused, infrared, visible, mask), metrics)
        for base in BASES:
            worse = {
                f"{kind} {strength:g}": rounded(degrade(kind, strength, ours[base], infrared, visible, index))
                for kind, strengths in DEGRADATIONS.items()
                for strength in strengths
            }
            _add(moves[base], few.score_all({"": ours[base], **worse}, infrared, visible, mask), VOTING)
        print(f"{name}: {len(fused)} fusions", flush=True)
    return found, good, moves


def _add(found: Scores, rows: Mapping[str, Mapping[str, float]], metrics: Sequence[str]) -> None:
    for name, row in rows.items():
        for metric in metrics:
            found.setdefault(name, {}).setdefault(metric, []).append(row.get(metric, float("nan")))


def over_seeds(scores: Scores) -> Scores:
    """Return the scores with the seeds of each loss averaged."""
    groups: dict[str, list[str]] = {}
    for name in scores:
        groups.setdefault(name.split("/")[0], []).append(name)
    return {
        group: {
            metric: [fmean(values) for values in zip(*(scores[name][metric] for name in names), strict=True)]
            for metric in scores[names[0]]
        }
        for group, names in groups.items()
    }


def scene_ranks(scores: Scores) -> dict[str, np.ndarray]:
    """Return metric -> rank of each fusion in each scene, (scenes, fusions); scenes without are left out."""
    names = list(scores)
    ranks: dict[str, np.ndarray] = {}
    for metric in scores[names[0]]:
        sign = -1 if DEFINITIONS[metric].higher_is_better else 1
        table = np.array([scores[name][metric] for name in names]).T
        rows = [rankdata(sign * row) if np.isfinite(row).all() else row * np.nan for row in table]
        if np.isfinite(rows).any():
            ranks[metric] = np.array(rows)
    return ranks


def overall(ranks: Mapping[str, np.ndarray], families: Iterable[Sequence[str]]) -> np.ndarray:
    """Return each fusion's rank per scene: the mean over families of the mean over their metrics."""
    votes = [np.mean([ranks[name] for name in members], 0) for members in families]
    return np.asarray(np.nanmean(votes, 0))


def stability(scores: Scores, verdict: VerdictSet) -> str:
    """Say how often the best of the losses stays the best with half of the families, or of the scenes."""
    ranks = scene_ranks(scores)
    families = list(verdict.families(ranks).values())
    names, votes = list(scores), overall(ranks, families)
    random = np.random.default_rng(0)

    def best(table: np.ndarray) -> str:
        return names[int(np.argmin(table.mean(0)))]

    sizes = {len(families) // 2, (len(families) + 1) // 2}
    halves: list[Sequence[Sequence[str]]] = []
    if sum(comb(len(families), size) for size in sizes) <= HALVES:
        halves = [half for size in sizes for half in combinations(families, size)]
    else:
        picks = [random.permutation(len(families))[: min(sizes)] for _ in range(HALVES)]
        halves = [[families[index] for index in pick] for pick in picks]
    kept = fmean(best(overall(ranks, half)) == best(votes) for half in halves)
    picks = [random.permutation(len(votes))[: len(votes) // 2] for _ in range(HALVES)]
    same = fmean(best(votes[pick]) == best(votes) for pick in picks)
    order = sorted(zip(votes.mean(0), names, strict=True))
    ranked = ", ".join(f"{name} {rank:.2f}" for rank, name in order)
    return (
        f"{verdict}, losses alone: {ranked}; '{best(votes)}' is first in {kept:.0%} of {len(halves)} halves "
        f"of the families and in {same:.0%} of {HALVES} random halves of the scenes"
    )


def monotone(moves: Scores) -> dict[str, dict[str, float]]:
    """Return degradation -> metric -> share of scenes in which each strength scores worse than the last."""
    shares: dict[str, dict[str, float]] = {}
    for kind, strengths in DEGRADATIONS.items():
        steps = ["", *(f"{kind} {strength:g}" for strength in strengths)]
        for metric in VOTING:
            runs = [run for run in zip(*(moves[step][metric] for step in steps), strict=True)]
            falls = [all(a > b for a, b in pairwise(run)) for run in runs if not isnan(run[0])]
            if falls:
                shares.setdefault(kind, {})[metric] = fmean(falls)
    return shares


def report(kind: str, scores: Scores, good: set[str], moves: Mapping[str, Scores], out: Path) -> list[str]:
    """Write the files of one kind of scenes; return what the bars say."""
    merged = over_seeds(scores)
    names = list(merged)
    honest_names = {name.split("/")[0] for name in good}
    ranks = scene_ranks(merged)
    means = {metric: table[np.isfinite(table).all(1)].mean(0) for metric, table in ranks.items()}
    table = {
        str(verdict): overall(ranks, verdict.families(ranks).values()) for verdict in (BALANCED, CLASSIC)
    }
    means = {**{name: np.nanmean(rows, 0) for name, rows in table.items()}, **means}
    balanced = means[str(BALANCED)]
    order = [names[index] for index in np.argsort(balanced)]
    with (out / f"ranks_{kind}.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["fusion", "honest", *means])
        for name in order:
            cells = (f"{column[names.index(name)]:.2f}" for column in means.values())
            writer.writerow([name, int(name in honest_names), *cells])
    _write_scores(out / f"scores_{kind}.csv", scores)
    draw(out / f"ranks_{kind}.png", order, honest_names, names, means, VOTING)

    count = len(next(iter(ranks.values())))
    degenerate_ranks = {n: r for n, r in zip(names, balanced, strict=True) if n not in honest_names}
    honest_ranks = sorted((r, n) for n, r in zip(names, balanced, strict=True) if n in honest_names)
    third = honest_ranks[BEST - 1]
    before = [name for name, rank in degenerate_ranks.items() if rank < third[0]]
    closest = min(degenerate_ranks, key=degenerate_ranks.__getitem__)
    ahead = np.mean(
        table[str(BALANCED)][:, names.index(third[1])] < table[str(BALANCED)][:, names.index(closest)]
    )
    bold = {name: f"**{name}**" if name in honest_names else name for name in names}
    body = [
        [str(place), bold[name], *(f"{means[str(v)][names.index(name)]:.2f}" for v in (BALANCED, CLASSIC))]
        for place, name in enumerate(order, 1)
    ]
    lines = [
        f"## {kind}, {count} scenes, {len(names)} fusions",
        "",
        *format_table(["rank", "fusion", "balanced-1", "classic-1"], body),
        "",
        f"Degenerate fusions before the best {BEST} honest ones: {', '.join(before) or 'none'}. The third is "
        f"'{third[1]}' with {third[0]:.2f}; the best degenerate one is '{closest}' with "
        f"{degenerate_ranks[closest]:.2f}, behind it in {ahead:.0%} of the scenes.",
        "",
    ]
    body = [
        [metric, *(f"{bold[names[index]]} {column[index]:.1f}" for index in np.argsort(column)[:BEST])]
        for metric, column in means.items()
    ]
    lines += [*format_table(["metric", "first", "second", "third"], body), ""]
    losses = {name: row for name, row in merged.items() if f"{name}/0" in scores}
    if len(losses) > 1:
        lines += [f"- {stability(losses, verdict)}" for verdict in (BALANCED, CLASSIC)] + [""]
    rows: list[list[str]] = []
    for base in BASES:
        shares = monotone(moves[base])
        metrics = list(next(iter(shares.values())))
        body = []
        for way, falls in shares.items():
            strengths = ", ".join(f"{strength:g}" for strength in DEGRADATIONS[way])
            body.append([f"{way} {strengths}", *(f"{falls[metric]:.0%}" for metric in metrics)])
            rows += [[base, way, metric, f"{share:.4f}"] for metric, share in falls.items()]
        lines += [
            f"Share of scenes in which each strength scores worse than the one before, from {base}:",
            "",
            *format_table(["degradation", *metrics], body),
            "",
        ]
    with (out / f"moves_{kind}.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["base", "degradation", "metric", "monotone"], *rows])
    return lines


def _write_scores(path: Path, scores: Scores) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        metrics = list(next(iter(scores.values())))
        writer.writerow(["fusion", "scene", *metrics])
        for name, row in scores.items():
            for scene, values in enumerate(zip(*row.values(), strict=True)):
                writer.writerow([name, scene, *(f"{value:.6g}" for value in values)])


def main() -> None:
    """Fuse, score, write."""
    parser = make_parser(__doc__, roadscene=True)
    parser.add_argument("--runs", type=Path, help="folder of trained losses")
    parser.add_argument("--part", choices=("val", "test"), default="test")
    parser.add_argument("--out", type=Path, default=Path("runs/metrics_on_trial"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    lines: list[str] = []
    for kind, source in load_sources(options.roadscene, val=16).items():
        found = judge(source, options.part, load_networks(options.runs, kind))
        lines += report(kind, *found, options.out)
    (options.out / "report.md").write_text("\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
