"""Drawings: colours, labels, and SVG that can stand in any page."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from clipfuse.comparison.collect import find_runs
from clipfuse.comparison.compute import build_table
from clipfuse.comparison.plots import draw_all, draw_better, draw_curves, draw_ranks, style, wrap_names
from clipfuse.comparison.table import Table
from clipfuse.comparison.variants import Variant, group
from clipfuse.metrics.protocols import STRICT

Factory = Callable[..., Path]


@pytest.fixture
def variants(sweep: Factory) -> list[Variant]:
    for seed in (0, 1):
        sweep(seed=seed)
        root = sweep("ldfusion", seed=seed, level=1.0)
    return group(find_runs([root]))


@pytest.fixture
def table(variants: list[Variant]) -> Table:
    images = variants[0].runs[0].scenes
    trivial = {"trivial:average": {"SSIM": dict.fromkeys(images, 0.1)}}
    return build_table(variants, STRICT, ("SSIM",), "pixel", trivial)


def test_the_first_36_losses_look_different() -> None:
    assert len({tuple(style(place).values()) for place in range(36)}) == 36


def test_every_row_is_in_the_drawings(table: Table) -> None:
    ranks, better, metric = draw_all(table)
    # Two trainings of each loss; the fusion is behind all by SSIM and, without scores, by the others.
    assert ranks.label == "Average ranks: ldfusion 1.50; pixel 3.50; average 4.50"
    assert "ldfusion against pixel 100%" in better.label
    assert metric.label.startswith("SSIM: ldfusion 2.2")
    assert metric.label.endswith("average 0.1")
    text = ranks.inline()
    assert [name in text for name in ("ldfusion", "pixel", "average")] == [True] * 3


def test_one_loss_has_no_ranks(sweep: Factory) -> None:
    table = build_table(group(find_runs([sweep()])), STRICT, ("SSIM",), "pixel")
    assert draw_ranks(table) is None
    assert draw_better(table) is None
    assert [drawing.name for drawing in draw_all(table)] == ["metric0"]


def test_a_page_can_hold_several_drawings(variants: list[Variant]) -> None:
    (one,) = draw_curves("a", variants, {"pixel": 0}, "val/metric/")
    text = one.inline()
    assert one.label == "SSIM over training samples: pixel, ldfusion"
    assert text.startswith('<svg role="img" aria-label="SSIM over')
    ids = re.findall(r' id="([^"]+)"', text)
    assert ids
    assert all(each.startswith("a0-") for each in ids)
    assert set(re.findall(r'(?:url\(|href=")#([^")]+)', text)) <= set(ids)
    assert "currentColor" in text
    assert f'width="{4.4 * 96:.0f}"' in text


def test_long_names_are_wrapped() -> None:
    assert wrap_names(["a" * 5 + " " + "b" * 5, "$x$"], 6) == (["aaaaa\nbbbbb", r"\$x\$"], 2)
