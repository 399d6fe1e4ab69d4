"""The comparison as one HTML page that needs no other file and no network."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from clipfuse.comparison import formats, plots
from clipfuse.comparison.album import Album, Extremes
from clipfuse.comparison.collect import Run
from clipfuse.comparison.facts import facts
from clipfuse.comparison.table import Table
from clipfuse.comparison.variants import Variant
from clipfuse.ops.drawing import class_colors
from clipfuse.ops.settings import leaves


def report(
    table: Table,
    variants: Sequence[Variant],
    sentences: Sequence[str],
    notes: Sequence[str],
    album: Album,
    extremes: Extremes,
    command: str,
    overlays: Sequence[Album] = (),
) -> str:
    """Return the page.

    Args:
        table: the numbers.
        variants: the losses with all runs whose curves are drawn, also those without scores.
        sentences: the verdict.
        notes: warnings, and runs or metrics that were left out.
        album: the test images.
        extremes: images each loss is best and worst on.
        command: the command line that writes this page.
        overlays: for each part of `table.seen` what was found, over the test images.
    """
    losses = [row.name for row in table.losses]
    places = {name: place for place, name in enumerate(losses)}
    drawn = sorted(variants, key=lambda variant: places.get(variant.name, len(places)))
    terms = {
        variant.name: plots.draw_curves(f"terms{index}-", [variant], places, "train/loss/")
        for index, variant in enumerate(drawn)
    }
    return render(
        "report.html.j2",
        table=table,
        sentences=sentences,
        notes=notes,
        formats=formats,
        lines=formats.grid(table, _mark),
        styles={name: plots.style(place) for name, place in places.items()},
        ranks=plots.draw_ranks(table),
        better=plots.draw_better(table),
        intervals=[plots.draw_metric(table, index) for index in range(len(table.columns))],
        curves=plots.draw_curves("validation", drawn, places, "val/metric/"),
        terms=terms,
        album=album,
        data={
            "images": album.uris,
            "losses": losses,
            "extremes": extremes,
            "decimals": {column.name: column.decimals for column in table.columns},
        },
        differences=_differences(drawn),
        variants=drawn,
        dump=_dump,
        train_commands=_commands,
        head=facts(table, drawn),
        facts=_facts([run for variant in drawn for run in variant.runs]),
        command=command,
        parts=list(zip(table.seen, overlays, strict=True))
        if overlays
        else [(each, None) for each in table.seen],
        seen_drawings=[plots.draw_seen(seen, losses, place) for place, seen in enumerate(table.seen)],
        ends=formats.ends,
        seen_colors=lambda seen: [*zip(seen.labels.names, class_colors(seen.labels), strict=True)],
        album_rows=lambda drawn: list(dict.fromkeys(n for shown in drawn.uris.values() for n in shown)),
    )


def render(template: str, **values: Any) -> str:
    """Return a page of a template beside this file."""
    environment = Environment(
        loader=PackageLoader("clipfuse.comparison", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {}  # keep the order of the images
    return environment.get_template(template).render(values)


def _differences(variants: Sequence[Variant]) -> dict[str, list[str]]:
    """Return the settings and versions in which variants differ: key -> one value per variant."""
    columns = [
        {**variant.settings, **leaves(variant.runs[0].config.get("versions", {}), "versions")}
        for variant in variants
    ]
    keys = dict.fromkeys(key for column in columns for key in column)
    table = {key: ["-" if key not in column else str(column[key]) for column in columns] for key in keys}
    return {key: values for key, values in table.items() if len(set(values)) > 1}


def _facts(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Return budget, protocol and split of the runs: one value of each, unless the runs differ."""
    kinds = ("budget", "protocol", "split")
    return {kind: list(dict.fromkeys(str(getattr(run, kind)) for run in runs)) for kind in kinds}


def _mark(place: int | None, text: str) -> str:
    return Markup({1: "<b>{}</b>", 2: "<u>{}</u>", None: "{}"}[place]).format(text)


def _dump(config: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)


def _commands(run: Run) -> list[str]:
    """Return the command that repeats a run from its folder, and that of the sweep's record."""
    again = ["--from", str(run.folder)] if isinstance(run.folder, Path) and run.config else []
    return [f"clipfuse train {shlex.join(words)}" for words in (again, run.overrides) if words]
