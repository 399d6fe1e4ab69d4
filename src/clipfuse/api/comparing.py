"""`clipfuse.compare`."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial as bound
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from clipfuse.cli.sources import as_pictures, as_truth, find_sources, score_trivial
from clipfuse.comparison.assemble import Comparison, assemble, gather
from clipfuse.comparison.collect import find_runs
from clipfuse.comparison.machine import find_plain
from clipfuse.comparison.variants import select


def compare(
    *folders: str | PathLike[str] | Any,
    baseline: str | None = None,
    metrics: str | Iterable[str] | None = None,
    verdict: str | None = None,
    trivial: bool = True,
    pool_seeds: bool = False,
    partial: bool = False,
    mix: Sequence[str] = (),
    own: Sequence[str] = (),
) -> Comparison:
    """Compare the trainings of a sweep, as the command `clipfuse compare` does.

    Args:
        *folders: folders of sweeps or runs, or what `clipfuse.train` returned.
        baseline: name of the reference loss; "all" tests each pair; None: pixel, else the shortest name.
        metrics: columns of the table: names or the sets "fast", "full" and "machine" (of downstream
            tasks); None: all that the runs share.
        verdict: "balanced", "balanced+machine" or "classic", which rank the losses; None: balanced, where the
            runs have it.
        trivial: also score the trivial fusions of the test pairs, where these are at hand.
        pool_seeds: take the variance of seeds to be the same for all losses.
        partial: take unfinished runs as far as they are.
        mix: kinds of settings in which the runs may differ, with a warning, such as "budget".
        own: metrics of yours that the runs have, such as "my_metric.sharpness".

    Returns:
        The comparison: `.table` (a list of records), `.verdict` (text), `.save("report.html")`.

    Raises:
        UserError: no run there, none was tested, they do not compare, or a name is not known.
    """
    paths = [Path(fspath(getattr(folder, "path", folder))) for folder in folders]
    runs, notes = select(find_runs(paths), partial)
    plain, unreadable = find_plain(paths, runs if trivial else [])
    names = metrics.split(",") if isinstance(metrics, str) else metrics
    chosen = None if names is None else [name.strip() for name in names]
    material = gather(
        runs,
        [*notes, *unreadable],
        metrics=chosen,
        baseline=baseline,
        verdict_set=verdict,
        own=own,
        mix=mix,
        plain=plain,
    )
    sources, missing = find_sources(material.tested)
    if missing:
        material = replace(material, notes=[*material.notes, missing])
    scored = bound(score_trivial, sources=sources) if sources and trivial else None
    command = f"clipfuse.compare({', '.join(repr(str(path)) for path in paths)})"
    found = assemble(material, scored, as_pictures(sources), pool_seeds)
    return replace(found, command=command, truth=as_truth(sources))
