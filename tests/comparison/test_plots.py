"""Drawings: colours, labels, and SVG that can stand in any page."""

import re
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from clipfuse.comparison.collect import find_runs
from clipfuse.comparison.compute import build_table
from clipfuse.comparison.plots import (
    Drawing,
    draw_all,
    draw_better,
    draw_curves,
    draw_ranks,
    style,
    wrap_names,
)
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


def test_names_in_chinese_need_no_warning_and_get_a_font_that_has_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def drawing(name: str) -> Drawing:
        return Drawing("x", name, 2, 1, lambda figure: figure.subplots().set_yticks([0], [name]))

    monkeypatch.setattr("clipfuse.comparison.plots._WIDE_FONTS", ("None Such", "DejaVu Serif"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        text = drawing("红外融合").inline()
        for kind in ("svg", "pdf"):
            drawing("红外 ไทย").save(tmp_path / f"x.{kind}", kind)  # type: ignore[arg-type]
    assert ">红外融合</text>" in text
    assert "DejaVu Serif" in text
    assert "None Such" not in text
    assert "DejaVu Serif" not in drawing("fusion").inline()
