"""What was found, drawn over the images, and the part of the page that shows it."""

import json
import re
from base64 import b64decode
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from clipfuse.comparison.assemble import Comparison, assemble, gather
from clipfuse.comparison.collect import find_runs
from clipfuse.comparison.machine import find_plain
from clipfuse.comparison.overlays import TRUTH, _boxes, _painted, _plain, overlays
from clipfuse.comparison.plots import draw_seen
from clipfuse.comparison.variants import select
from clipfuse.types import LabelSet

Factory = Callable[..., Path]
LABELS = LabelSet(("none", "car", "bus"), 0, ((0, 0, 0), (200, 0, 0), (0, 100, 0)))


def compared(root: Path) -> Comparison:
    runs, notes = select(find_runs([root]), partial=False)
    plain, unreadable = find_plain([root], runs)
    sources = lambda name: {  # noqa: E731
        "infrared": Image.new("L", (24, 24), 200),
        "visible": Image.new("RGB", (24, 24), (10, 20, 30)),
    }
    return assemble(gather(runs, [*notes, *unreadable], plain=plain), None, sources)


@pytest.fixture
def root(sweep: Factory, judge: Factory) -> Path:
    for seed in (0, 1):
        sweep("pixel", seed=seed, folder=f"pixel/{seed}", pictures=24)
        root = sweep("ldfusion", seed=seed, folder=f"ldfusion/{seed}", pictures=24)
    for folder in (*root.glob("[lp]*/*"), *(root / "downstream-sources" / n for n in ("visible", "both"))):
        judge(folder, maps=24)
        judge(folder, task="detection")
    return root


def test_colours_are_laid_over_all_but_the_background() -> None:
    base = Image.new("RGB", (3, 1), (100, 100, 100))
    image = np.asarray(_painted(torch.tensor([[0, 1, 255]]), LABELS, base))
    assert image.tolist() == [[[100, 100, 100], [160, 40, 40], [100, 100, 100]]]  # 0.4 x 100 + 0.6 x colour
    alone = np.asarray(_painted(torch.tensor([[2]]), LabelSet(LABELS.names, None, LABELS.palette), None))
    assert alone.tolist() == [[[0, 60, 0]]]


def test_boxes_that_miss_are_thin() -> None:
    base = Image.new("RGB", (40, 40))
    objects = np.array([[4.0, 4, 20, 20, 1]])
    hit, miss, weak = [5.0, 4, 20, 20, 0.9, 1], [24.0, 4, 38, 20, 0.8, 1], [4.0, 24, 20, 38, 0.1, 2]
    image = np.asarray(_boxes(base, LABELS, objects, np.array([hit, miss, weak])))
    car = [204, 0, 0]  # its colour in the palette, brightened
    assert image[12, 5].tolist() == image[12, 6].tolist() == car
    assert image[12, 24].tolist() == car
    assert image[12, 25].tolist() == [0, 0, 0]
    assert image[12, 4].tolist() == car  # the object, dashed
    assert not ((image[..., 1] > 0) & (image[..., 0] == 0)).any()  # a bus of too small a score


def test_plain_sources_are_made_of_the_pair() -> None:
    pair = {"infrared": Image.new("RGB", (2, 2), (200,) * 3), "visible": Image.new("RGB", (2, 2), (100,) * 3)}
    grays = {
        name: np.asarray(_plain(name, pair))[0, 0, 0] for name in ("infrared", "average", "maximum", "both")
    }
    assert grays == {"infrared": 200, "average": 150, "maximum": 200, "both": 100}
    assert _plain("both", {}) is None


def test_all_rows_are_shown_on_the_images_whose_maps_were_kept(root: Path) -> None:
    found = compared(root)
    segmentation, detection = found.numbers.seen
    truth = lambda name: torch.zeros(24, 24, dtype=torch.int64)  # noqa: E731
    drawn = overlays(segmentation, found.material.variants, found.sources, truth)
    assert list(drawn.uris) == ["test-000000", "test-000001"]
    assert list(drawn.uris["test-000000"]) == [TRUTH, "pixel", "ldfusion", "visible", "both"]
    assert "2 of 6 test images: those whose maps were kept" in drawn.note
    image = Image.open(BytesIO(b64decode(drawn.uris["test-000000"]["visible"].partition(",")[2])))
    assert image.size == (24, 24)
    boxes = overlays(detection, found.material.variants, found.sources, None)
    assert len(boxes.uris) == 6
    assert list(boxes.uris["test-000000"]) == [TRUTH, "pixel", "ldfusion", "visible", "both"]


def test_a_bad_map_is_named(root: Path) -> None:
    found = compared(root)
    first = found.numbers.seen[0].first[0]
    folder = first.folder
    place = f"downstream/segmentation/predicted/retrained-1-0-{first.kind[:8]}/test-000001.png"
    Image.new("L", (24, 24), 77).save(str(folder / place))
    drawn = overlays(found.numbers.seen[0], found.material.variants, None, None)
    assert f"1 cannot be drawn, the first: {folder / place}: is no map of 4 classes" in drawn.note


def test_the_page_has_a_part_for_it_where_there_are_results(root: Path) -> None:
    text = compared(root).text("html")
    assert '<h2 id="machine">What a machine sees</h2>' in text
    assert text.count('<section id="seen') == 2
    data = [json.loads(each) for each in re.findall(r'data-part="data">(.*?)</script>', text)]
    assert [len(each["images"]) for each in data] == [2, 6]
    assert data[0]["losses"] == ["pixel", "ldfusion"]
    (bus,) = re.findall(r'<th scope="row">IoU/bus</th>\n(.*?)</tr>', text, flags=re.DOTALL)
    assert re.findall(r"<td>(.*?)</td>", bus) == ["-"] * 5
    assert len(re.findall(r"mIoU less both", text)) == 1
    assert len(text.encode()) < 8e6
    for folder in (*root.glob("*/*/downstream"), root / "downstream-sources"):
        folder.rename(folder.with_name("elsewhere"))
    without = compared(root).text("html")
    assert "machine" not in without
    assert "data-part" not in without


def test_each_class_is_drawn_with_the_intervals_of_the_table(root: Path) -> None:
    found = compared(root)
    segmentation, detection = found.numbers.seen
    drawn = draw_seen(segmentation, ["ldfusion", "pixel"], 0)
    titles = [each.label.partition(":")[0] for each in drawn]
    groups = [name for name in segmentation.overall if name.startswith("mIoU/")]
    present = [name for name in segmentation.by_class if any(segmentation.cell(name, k) for k in range(4))]
    assert titles == [*groups, *present]
    assert "IoU/bus" not in titles  # no image has it
    cell = segmentation.cell(present[0], 0)
    assert cell is not None
    assert f"{segmentation.rows[0]} {cell.mean:.4g};" in drawn[len(groups)].label
    figure = Figure()
    drawn[len(groups)].draw(figure)
    lines = {tuple(line.get_xdata()) for line in figure.axes[0].get_lines()}
    assert (cell.low, cell.high) in lines
    assert all(each.label.startswith("AP/") or "mAP/" in each.label for each in draw_seen(detection, [], 1))
    text = found.text("html")
    assert text.count('aria-label="IoU/') == len(present)
    names = re.findall(r'id="(seen\d-\d+)-', text)
    assert {name for name in names if name.startswith("seen0")} == {each.name for each in drawn}
