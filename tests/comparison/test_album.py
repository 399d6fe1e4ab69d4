"""Which test images a report shows, and how they fit into it."""

import base64
import os
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipfuse.comparison.album import BUDGET, LADDER, album, choose, extremes, fused_image
from clipfuse.comparison.collect import find_runs
from clipfuse.comparison.compute import build_table
from clipfuse.comparison.insets import draw_insets
from clipfuse.comparison.variants import group
from clipfuse.metrics.protocols import STRICT

Factory = Callable[..., Path]


@pytest.mark.parametrize("step", [1, 4])
def test_images_fit_into_the_budget_at_the_finest_step_that_does(sweep: Factory, step: int) -> None:
    """Noise is the hardest content for a codec."""
    generator = np.random.default_rng(0)
    images = [f"test-{index:06d}" for index in range(8)]
    for place in range(2):
        root = sweep(options={"loss.weight": float(place)}, images=images)
        for image in images[:6]:
            path = root / str(place) / "test/color" / f"{image}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            noise = generator.integers(0, 255, (60, 80, 3), dtype=np.uint8)
            Image.fromarray(noise).resize((480, 360), Image.Resampling.NEAREST).save(path, compress_level=1)
    variants = group(find_runs([root]))
    table = build_table(variants, STRICT, ("SSIM",), "pixel weight=0.0")
    found = extremes(table, variants)

    def size(side: int, quality: int) -> int:
        total = 0
        for variant in variants:
            for name in images[:6]:
                image = fused_image(variant, name)
                assert image is not None
                image.thumbnail((side, side), Image.Resampling.LANCZOS)
                out = BytesIO()
                image.save(out, format="WEBP", quality=quality, method=4)
                total += len("data:image/webp;base64,") + len(base64.b64encode(out.getvalue()))
        return total

    budget = size(*LADDER[step])
    made = album(table, variants, found, None, budget)
    assert len(made.uris) == 6
    assert sum(len(uri) for shown in made.uris.values() for uri in shown.values()) == budget
    side, quality = LADDER[step]
    assert "6 of 8 test images" in made.note
    assert f"at most {side} px wide or high, WebP of quality {quality}" in made.note
    if step == 4:  # what does not fit at the last step is left out
        least = album(table, variants, found, None, size(*LADDER[-1]) // 2)
        assert 1 <= len(least.uris) <= 4


def test_the_budget_leaves_room_for_the_rest_of_a_page() -> None:
    assert BUDGET < 7e6  # of 8 MB
    assert list(LADDER) == sorted(LADDER, reverse=True)


def test_sources_stand_before_the_losses(sweep: Factory) -> None:
    root = sweep(pictures=16)
    variants = group(find_runs([root]))
    table = build_table(variants, STRICT, ("SSIM",), "pixel")
    plain = Image.new("RGB", (16, 16))
    made = album(table, variants, extremes(table, variants), lambda _: {"infrared": plain, "visible": plain})
    assert {tuple(shown) for shown in made.uris.values()} == {("infrared", "visible", "pixel")}


def test_images_are_chosen_from_the_extremes_and_evenly() -> None:
    images = [str(index) for index in range(100)]
    found = {"SSIM": {"pixel": {"best": [("97", 1.0)], "worst": [("3", 0.0)]}}}
    chosen = choose(images, found, 12)
    assert len(chosen) == 12
    assert {"97", "3"} <= set(chosen)
    assert chosen == sorted(chosen, key=int)
    assert max(np.diff([int(image) for image in chosen])) <= 15
    assert choose(images[:4], {"SSIM": {}}, 12) == images[:4]


def test_no_image_behind_a_link_is_shown(sweep: Factory, tmp_path: Path) -> None:
    """A stranger's folder could show what is private; links within the run folder are followed."""
    root = sweep(pictures=16)
    for seed in (1, 2):
        sweep("ldfusion", seed=seed, pictures=16)
    private = tmp_path / "private"
    (root / "1/test/color").rename(private)
    (root / "1/test/color").symlink_to(private)
    one = root / "0/test/color/test-000000.png"
    one.unlink()
    one.symlink_to(private / "test-000000.png")
    two = root / "0/test/color/test-000001.png"
    two.unlink()
    two.symlink_to("test-000002.png")
    variants = group(find_runs([root]))
    table = build_table(variants, STRICT, ["SSIM"], "pixel")
    shown = album(table, variants, extremes(table, variants), None)
    assert set(shown.uris) == {f"test-{index:06d}" for index in range(1, 6)}
    assert all(set(each) == {"pixel"} for each in shown.uris.values())
    assert shown.uris["test-000001"] == shown.uris["test-000002"]
    assert "7 images cannot be read, the first: " in shown.note
    assert "is a link that leads out of" in shown.note
    assert draw_insets(table, variants, None) is None


def test_a_damaged_image_leaves_itself_out(sweep: Factory) -> None:
    root = sweep(pictures=16)
    path = root / "0/test/color/test-000000.png"
    path.write_bytes(path.read_bytes()[:50])
    os.mkfifo(root / "0/test/color/pipe")
    (root / "0/test/color/pipe").rename(root / "0/test/color/test-000001.png")
    variants = group(find_runs([root]))
    table = build_table(variants, STRICT, ["SSIM"], "pixel")
    shown = album(table, variants, extremes(table, variants), None)
    assert len(shown.uris) == 4
    assert "2 images cannot be read" in shown.note
