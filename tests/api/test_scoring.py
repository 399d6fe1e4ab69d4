import csv
from collections.abc import Callable
from math import isnan
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from clipfuse import score
from clipfuse.api.scoring import ScoreTable
from clipfuse.errors import UserError
from clipfuse.ops.vgg import _layers

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def folders(pairs_folder: Path, tmp_path: Path) -> dict[str, Path]:
    """Two test pairs, and their average as the fused images."""
    found = {"infrared": pairs_folder / "test/ir", "visible": pairs_folder / "test/vi"}
    (tmp_path / "fused").mkdir()
    for path in found["infrared"].iterdir():
        infrared, visible = (Image.open(found[word] / path.name).convert("L") for word in found)
        Image.blend(infrared, visible, 0.5).save(tmp_path / "fused" / path.name)
    return {"fused": tmp_path / "fused", **found}


def test_it_gives_what_the_command_writes(
    clipfuse: Command, folders: dict[str, Path], tmp_path: Path
) -> None:
    words = [word for name, folder in folders.items() for word in (f"--{name}", str(folder))]
    table = tmp_path / "scores.csv"
    code, _, error = clipfuse("score", *words, "--metrics", "fast", "--out", str(table), "--no-trivial")
    assert (code, "error" in error) == (0, False)
    rows = {row["name"]: row for row in csv.DictReader(table.open())}
    images = [sorted(folder.iterdir()) for folder in folders.values()]
    found = score(*images, metrics="fast")
    assert isinstance(found, ScoreTable)
    for path, scores in zip(images[0], found.images, strict=True):
        assert scores == {name: float(rows[path.stem][name]) for name in scores}
    arrays = [[np.array(Image.open(path)) for path in paths] for paths in images]
    single = score(*(each[0] for each in arrays), metrics="fast")
    assert single == found.images[0]
    batch = score(*(np.stack(each) for each in arrays), metrics=["EN", "SSIM"])
    assert isinstance(batch, ScoreTable)
    assert batch.means["SSIM"] == pytest.approx(np.mean([row["SSIM"] for row in found.images]), rel=1e-12)
    assert "protocol strict-2" in str(batch)
    assert "fused (2 images)" in str(batch)


def test_masks_bring_the_metrics_that_need_them(folders: dict[str, Path]) -> None:
    images = [next(iter(sorted(folder.iterdir()))) for folder in folders.values()]
    arrays = [np.array(Image.open(path)) for path in images]
    mask = np.zeros((48, 64), np.uint8)
    mask[10:30, 10:30] = 255
    scores = score(*arrays, metrics="fast", target_mask=mask)
    assert isinstance(scores, dict)
    assert "kept-targets" in scores
    assert "kept-targets" not in score(*arrays, metrics="fast")
    with pytest.raises(UserError, match="metric 'kept-targets' needs a target_mask"):
        score(*arrays, metrics="kept-targets")


def test_images_that_are_too_small_for_a_metric_are_left_out_of_its_mean() -> None:
    generator = np.random.default_rng(0)
    small, large = generator.random((8, 8)), generator.random((180, 180))
    found = score([small, large], [small, large], [small, large], metrics="MS-SSIM")
    assert isinstance(found, ScoreTable)
    assert isnan(found.images[0]["MS-SSIM"])
    assert found.means == {"MS-SSIM": found.images[1]["MS-SSIM"]}
    none = score([small], [small], [small], metrics="MS-SSIM")
    assert isinstance(none, ScoreTable)
    assert isnan(none.means["MS-SSIM"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"protocol": "stric"}, "unknown protocol 'stric'. Did you mean 'strict'?"),
        ({"metrics": "SSMI"}, "Did you mean 'SSIM'?"),
        ({"metrics": []}, "no metrics are chosen"),
    ],
)
def test_unknown_names_are_explained(options: dict[str, str], message: str) -> None:
    image = np.zeros((16, 16))
    with pytest.raises(UserError) as error:
        score(image, image, image, **options)  # type: ignore[arg-type]
    assert message in str(error.value)


def test_lpips_by_a_file_of_weights(tmp_path: Path) -> None:
    state = {f"features.{name}": value for name, value in _layers("alexnet").state_dict().items()}
    torch.save(state, tmp_path / "alexnet.pth")
    images = [np.random.default_rng(seed).integers(0, 256, (40, 44), dtype=np.uint8) for seed in range(3)]
    found = score(*images, metrics="EN,LPIPS", lpips_weights=tmp_path / "alexnet.pth")
    assert isinstance(found, dict)
    assert found["LPIPS"] > 0
    with pytest.raises(UserError, match=r"'LPIPS' needs a file .* lpips_weights=FILE in Python"):
        score(*images, metrics="LPIPS")
