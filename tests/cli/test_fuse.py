import hashlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from PIL import Image

from clipfuse.cli.options import conf_dir
from clipfuse.images import read_image
from clipfuse.networks.checkpoints import read_checkpoint
from clipfuse.networks.load import BUNDLED, backbone_node, load_backbone, named
from clipfuse.ops.color import rgb_to_luma_chroma
from clipfuse.ops.depth import to_unit

Clipfuse = Callable[..., tuple[int, str, str]]


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Pairs of odd sizes: colour, gray visible, 16 bits in both bands, infrared stored as RGB."""
    generator = np.random.default_rng(0)
    infrared, visible = tmp_path / "ir", tmp_path / "vi"
    infrared.mkdir()
    visible.mkdir()

    def smooth(*shape: int) -> np.ndarray:
        noise = generator.random((4, 5, *shape[2:])).astype(np.float32)
        # Muted, so that few colours leave the gamut when their luma changes.
        return 0.35 + 0.2 * cv2.resize(noise, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR)

    Image.fromarray((smooth(37, 53) * 255).astype(np.uint8)).save(infrared / "colour.png")
    Image.fromarray((smooth(37, 53, 3) * 255).astype(np.uint8)).save(visible / "colour.bmp")
    Image.fromarray((smooth(32, 41) * 255).astype(np.uint8)).save(infrared / "gray.jpg")
    Image.fromarray((smooth(32, 41) * 255).astype(np.uint8)).save(visible / "gray.tif")
    cv2.imwrite(str(infrared / "deep.png"), (smooth(45, 33) * 65535).astype(np.uint16))
    cv2.imwrite(str(visible / "deep.tiff"), (smooth(45, 33, 3) * 65535).astype(np.uint16))
    Image.fromarray((smooth(1, 1, 3) * 255).astype(np.uint8)).save(infrared / "pixel.PNG")
    Image.fromarray((smooth(1, 1, 3) * 255).astype(np.uint8)).save(visible / "pixel.PNG")
    return infrared, visible


def test_any_size_depth_and_colour(
    clipfuse: Clipfuse, trained: Path, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    infrared, visible = folders
    checkpoint = trained / "checkpoints/last.ckpt"
    words = ["--checkpoint", str(checkpoint), "--infrared", str(infrared), "--visible", str(visible)]
    code, output, _ = clipfuse("fuse", *words, "--out", str(tmp_path / "out"))
    assert code == 0
    assert "4 fused images" in output
    backbone = load_backbone(checkpoint)
    for name in ("colour", "gray", "deep", "pixel"):
        (source,) = visible.glob(f"{name}.*")
        (thermal,) = infrared.glob(f"{name}.*")
        luma, chroma = rgb_to_luma_chroma(to_unit(read_image(source)))
        heat, _ = rgb_to_luma_chroma(to_unit(read_image(thermal)))
        with torch.no_grad():
            expected = backbone(heat[None], luma[None]).fused[0]
        fused = read_image(tmp_path / "out" / f"{name}.png")
        assert fused.shape == (1 if name == "gray" else 3, *luma.shape[1:])
        assert fused.dtype == torch.uint8
        fused_luma, fused_chroma = rgb_to_luma_chroma(to_unit(fused))
        # Rounding three channels to 8 bits moves luma by half a level at most, chroma by one;
        # colours that leave the gamut are clipped, so they are left out.
        inside = ((fused > 0) & (fused < 255)).all(dim=0)
        assert inside.float().mean() > 0.9
        assert (fused_luma - expected).abs()[0][inside].max() <= 0.51 / 255
        if name != "gray":
            assert (fused_chroma - chroma).abs()[:, inside].max() <= 1.01 / 255


def test_the_bundled_weights_are_used_and_named(
    clipfuse: Clipfuse, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    infrared, visible = folders
    words = ["--infrared", str(infrared / "gray.jpg"), "--visible", str(visible / "gray.tif")]
    code, output, _ = clipfuse("fuse", *words, "--out", str(tmp_path / "out"))
    assert code == 0
    assert f"the bundled weights, {BUNDLED}" in output
    with torch.no_grad():
        heat, luma = (
            to_unit(read_image(file))[None] for file in (infrared / "gray.jpg", visible / "gray.tif")
        )
        expected = load_backbone(BUNDLED)(heat, luma).fused[0]
    fused = to_unit(read_image(tmp_path / "out/gray.png"))
    assert float((fused - expected).abs().max()) <= 0.51 / 255  # a file has 8 bits


@pytest.mark.parametrize(
    ("name", "experiment", "card"), [("bundled", "best", "MODEL_CARD"), ("first", "first", "FIRST_CARD")]
)
def test_a_network_of_the_package_is_that_of_its_experiment_and_of_its_card(
    name: str, experiment: str, card: str
) -> None:
    file = named(name)
    node = backbone_node(read_checkpoint(file), (), file)
    content = file.read_bytes()
    assert len(content) < 5e6
    assert hashlib.sha256(content).hexdigest() in file.with_name(f"{card}.md").read_text()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        # That of `first` is older than the last setting, which is at its default.
        assert compose("train", [f"experiment={experiment}"]).backbone == {"chroma": False, **node}


def test_two_files(clipfuse: Clipfuse, trained: Path, folders: tuple[Path, Path], tmp_path: Path) -> None:
    infrared, visible = folders
    words = [
        "--checkpoint",
        str(trained / "checkpoints/last.ckpt"),
        "--infrared",
        str(infrared / "colour.png"),
    ]
    code, _, _ = clipfuse(
        "fuse", *words, "--visible", str(visible / "colour.bmp"), "--out", str(tmp_path / "o")
    )
    assert code == 0
    assert [path.name for path in (tmp_path / "o").iterdir()] == ["colour.png"]
