"""Images of any shape end in success or in one line, in bounded memory, in every command."""

import csv
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipfuse.metrics.protocols import PROTOCOLS
from clipfuse.tracking.pictures import draw_panel

Run = Callable[..., tuple[int, str, str]]
Memory = Callable[[int], AbstractContextManager[None]]
LONG = [(8, 8000), (8000, 8), (1, 3000), (3000, 1)]
SMALL = [(1, 1), (2, 2), (1, 64), (64, 1), (3, 5), (7, 7), (15, 17), (16, 16), (31, 33)]
MEGABYTES = 1500  # beside what is loaded already; torch alone reserves several hundred


def pairs(root: Path, height: int, width: int, train: tuple[int, int] | None = None) -> Path:
    """Write two pairs of each part; those of training may have another shape."""
    generator = np.random.default_rng(0)
    for part in ("train", "val", "test"):
        shape = train if train and part == "train" else (height, width)
        for band, more in (("ir", ()), ("vi", (3,))):
            folder = root / part / band
            folder.mkdir(parents=True)
            for index in range(2):
                pixels = generator.integers(0, 256, (*shape, *more), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{part}{index}.png")
    return root


def bands(root: Path) -> list[str]:
    return ["--infrared", f"{root}/test/ir", "--visible", f"{root}/test/vi"]


def training(root: Path, run: Path, *more: str) -> list[str]:
    small = ["trainer=cpu", "data=folder", f"data.root={root}", "backbone=conv_tiny", "backbone.width=8"]
    small += ["steps=2", "validate_every=1", "loader.batch_size=2", "loader.crop_size=32", "loader.workers=0"]
    small += ["~callbacks.progress", "+trainer.enable_progress_bar=false", f"run_dir={run}"]
    return ["train", *small, *more]


def check(answer: tuple[int, str, str]) -> str | None:
    """Return the one line of a refusal, or None after a success."""
    code, _, errors = answer
    lines = [line for line in errors.splitlines() if line.startswith("clipfuse: error: ")]
    assert "Traceback" not in errors
    assert (code, len(lines)) in ((0, 0), (2, 1)), errors
    return lines[0] if lines else None


@pytest.mark.parametrize(("height", "width"), LONG + SMALL)
def test_fuse_evaluate_and_score(
    clipfuse: Run, limited_memory: Memory, trained: Path, tmp_path: Path, height: int, width: int
) -> None:
    root, checkpoint = pairs(tmp_path / "in", height, width), f"{trained}/checkpoints/last.ckpt"
    with limited_memory(MEGABYTES):
        for name, network in {"mine": ["--checkpoint", checkpoint], "bundled": []}.items():
            answer = clipfuse("fuse", *network, *bands(root), "--out", f"{tmp_path}/{name}")
            assert check(answer) is None
        run = tmp_path / "run"
        words = [
            f"checkpoint={checkpoint}",
            f"run_dir={run}",
            "trainer=cpu",
            "data=folder",
            f"data.root={root}",
        ]
        assert check(clipfuse("evaluate", *words)) is None
        fused = [word for name in ("mine", "bundled") for word in ("--fused", f"{tmp_path}/{name}")]
        words = ["score", *fused, *bands(root), "--out", f"{tmp_path}/s.csv"]
        assert check(clipfuse(*words)) is None
    with Image.open(tmp_path / "bundled/test0.png") as image:
        assert image.size == (width, height)
    with Image.open(run / "test/panel.png") as panel:
        assert panel.width <= 4 * (4 * 224 + 6) + 6
        assert panel.height <= 2 * 230 + 28
    assert len(list(csv.DictReader((run / "test/per_image.csv").open()))) == 2


def test_fuse_with_an_onnx_file(clipfuse: Run, limited_memory: Memory, trained: Path, tmp_path: Path) -> None:
    words = ["--checkpoint", f"{trained}/checkpoints/last.ckpt", "--out", f"{tmp_path}/net.onnx"]
    assert check(clipfuse("export", *words)) is None
    for height, width in LONG + SMALL:
        root = pairs(tmp_path / f"{height}x{width}", height, width)
        with limited_memory(4 * MEGABYTES):  # onnxruntime reserves far more than it touches
            answer = clipfuse("fuse", "--onnx", f"{tmp_path}/net.onnx", *bands(root), "--out", f"{root}/out")
        assert check(answer) is None, (height, width)
        with Image.open(root / "out/test0.png") as image:
            assert image.size == (width, height)


@pytest.mark.parametrize("protocol", sorted(PROTOCOLS))
def test_every_metric_of_every_protocol(
    clipfuse: Run, limited_memory: Memory, tmp_path: Path, protocol: str
) -> None:
    for height, width in [*SMALL, (4, 900), (900, 4)]:
        root = pairs(tmp_path / f"{height}x{width}", height, width)
        masks = tmp_path / f"masks {height}x{width}"
        masks.mkdir()
        for path in (root / "test/ir").iterdir():
            Image.open(path).point(lambda value: 255 * (value > 127)).save(masks / path.name)
        with limited_memory(MEGABYTES):
            words = ["--protocol", protocol, "--out", f"{root}/s.csv", "--masks", str(masks)]
            answer = clipfuse("score", "--fused", f"{root}/test/vi", *bands(root), *words)
        assert check(answer) is None, (height, width)
        for row in csv.DictReader((root / "s.csv").open()):
            for name, value in row.items():
                if name not in ("method", "name", "protocol"):
                    float(value or "nan")  # a number, or an empty or NaN cell where the metric is not defined


@pytest.mark.parametrize(("height", "width"), [(8, 8000), (1, 64), (2, 2), (16, 16), (31, 33)])
def test_train_refuses_by_advice_that_holds(
    clipfuse: Run, limited_memory: Memory, tmp_path: Path, height: int, width: int
) -> None:
    root = pairs(tmp_path / "in", height, width)
    with limited_memory(MEGABYTES):
        line = check(clipfuse(*training(root, tmp_path / "run", "loader.crop_size=64", "test=false")))
        assert line is not None
        assert f"{width} x {height} pixels, too small for patches of 64" in line
        advice = re.search(r"loader.crop_size to at most (\d+)", line)
        assert (advice is None) == (min(height, width) <= 8)
        if advice:
            words = training(root, tmp_path / "again", f"loader.crop_size={advice[1]}", "test=false")
            assert check(clipfuse(*words)) is None


@pytest.mark.parametrize(("height", "width"), [(2000, 8), (1, 1)])
def test_train_and_compare_with_long_and_small_test_images(
    clipfuse: Run, limited_memory: Memory, tmp_path: Path, height: int, width: int
) -> None:
    root = pairs(tmp_path / "in", height, width, train=(64, 64))
    with limited_memory(MEGABYTES):
        for loss in ("pixel", "weighted_sum"):
            more = [] if loss == "pixel" else ["loss=weighted_sum", "+loss.parts={pixel:1}"]
            words = training(root, tmp_path / "runs" / loss, *more)
            assert check(clipfuse(*words)) is None
        line = check(clipfuse("compare", f"{tmp_path}/runs", "--html", f"{tmp_path}/r.html"))
    if min(height, width) > 1:
        assert line is None
        assert (tmp_path / "r.html").stat().st_size > 10_000
    else:
        assert line is not None
        assert "there is nothing to rank the losses by; test them on larger images" in line
        assert not (tmp_path / "r.html").exists()


@pytest.mark.parametrize(("infrared", "visible"), [(0, 0), (255, 255), (0, 255), (7000, 0), (65535, 65535)])
def test_constant_images(clipfuse: Run, tmp_path: Path, infrared: int, visible: int) -> None:
    for band, value, more in (("ir", infrared, ()), ("vi", visible, (3,) if visible < 256 else ())):
        (tmp_path / band).mkdir()
        array = np.full((24, 31, *more), value, np.uint16 if value > 255 else np.uint8)
        Image.fromarray(array).save(tmp_path / band / "a.png")
    names = ["--infrared", f"{tmp_path}/ir", "--visible", f"{tmp_path}/vi"]
    for ranges in ([], ["--range=percentile"]):
        assert check(clipfuse("fuse", *names, "--out", f"{tmp_path}/out", "--overwrite", *ranges)) is None
        assert check(clipfuse("score", "--fused", f"{tmp_path}/out", *names, *ranges)) is None


@pytest.mark.parametrize("size", [(1, 1), (8, 8000), (8000, 8), (100_000, 1), (1, 100_000), (30, 40)])
def test_a_panel_has_bounded_sides(size: tuple[int, int]) -> None:
    import torch

    image = torch.rand(3, *size)
    panel = draw_panel(("a", "b"), [[image, image]])
    assert panel.width <= 2 * (4 * 224 + 6) + 6
    assert panel.height <= 224 + 6 + 28
    if size == (30, 40):
        assert panel.size == (2 * (299 + 6) + 6, 224 + 6 + 28)
