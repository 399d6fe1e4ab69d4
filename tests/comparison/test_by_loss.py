"""The page of what each loss makes of pairs: complete, self-contained, bounded."""

import json

import numpy as np
from PIL import Image
from tests.comparison.test_report import Page

from clipfuse.comparison.by_loss import BUDGET, Fused, by_loss_page
from clipfuse.metrics.protocols import STRICT

METRICS = [STRICT.definition(name) for name in ("SSIM", "MSE")]
LOSSES = {"pixel": "the brighter <pixel>", "ldfusion": "texts"}
PLAIN = ("infrared", "visible", "average", "maximum")


def pair(scores: dict[str, tuple[float, float]], side: int = 24) -> Fused:
    generator = np.random.default_rng(0)
    noise = Image.fromarray(generator.integers(0, 255, (side, side, 3), dtype=np.uint8))
    names = (*PLAIN, *LOSSES)
    return Fused(
        dict.fromkeys(names, noise),
        {name: dict(zip(("SSIM", "MSE"), scores.get(name, (0.25, 4.0)), strict=True)) for name in names},
    )


def test_the_page_has_every_image_and_mean_and_is_alone() -> None:
    one = pair({"pixel": (0.5, 1.0), "ldfusion": (0.75, 3.0)})
    other = pair({"pixel": (0.5, 3.0), "ldfusion": (0.25, 9.0)})
    text, note = by_loss_page({"a & b": one, "c": other}, LOSSES, METRICS, 9, "clipfuse fuse <&>")
    page = Page(text)
    assert page.open == []
    assert note.startswith("2 of 9 pairs, evenly spread; at most 1280 px wide or high, WebP of quality 92")
    data = json.loads(page.text["script"][0])
    assert data["losses"] == list(LOSSES)
    assert {name: list(shown) for name, shown in data["images"].items()} == {
        "a & b": [*PLAIN, *LOSSES],
        "c": [*PLAIN, *LOSSES],
    }
    rows = page.text["tr"]
    heads = [*(f"{name}for orientation" for name in PLAIN), *map("".join, LOSSES.items())]
    assert page.text["th"] == ["fused by", "SSIM ↑", "MSE ↓", *heads]
    assert rows[5].split()[-2:] == ["0.500", "2.000"]
    assert rows[6].split()[-2:] == ["0.500", "6.000"]
    marked = [cell["data-value"] for cell in page.all("td") if cell.get("class") == "best"]
    assert marked == ["0.5", "2.0", "0.5"]  # SSIM of both, the smaller MSE
    assert "the brighter <pixel>" in page.text["small"][4]
    assert "clipfuse fuse <&>" in page.text["code"]
    assert all(
        str(each.get("src", "data:")).startswith("data:") for _, each in page.elements if "src" in each
    )
    assert "http" not in text.replace("http-equiv", "")


def test_many_large_pairs_stay_below_the_budget_and_undefined_scores_are_empty() -> None:
    large = pair({"pixel": (float("nan"), 1.0)}, 90)
    text, note = by_loss_page({str(each): large for each in range(3)}, LOSSES, METRICS, 3, "", 60_000)
    assert len(text) < 60_000 + 20_000
    assert note.startswith("1 of 3 pairs; at most 240 px")
    pixel = Page(text).text["tr"][5].split()
    assert pixel[-2:] == ["-", "1.000"]
    single, note = by_loss_page({"a": large}, LOSSES, METRICS, 1, "")
    assert note.startswith("1 of 1 pair; ")
    assert len(single) < BUDGET + 100_000 <= 1e7
