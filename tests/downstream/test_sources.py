"""The images of every source are what is written about them, pixel by pixel."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from clipfuse.downstream.sources import (
    ALWAYS,
    as_luma,
    files_source,
    fused_image,
    network_source,
    plain_source,
    run_source,
)
from clipfuse.ops.color import rgb_to_luma_chroma

sys.path.append(str(Path(__file__).parents[2]))
from tests.downstream.tiny import TinyPairs, tiny_pair


def luma(image: Tensor) -> Tensor:
    """BT.601 written out, rounded to 8 bits."""
    red, green, blue = image.double()
    return (0.299 * red + 0.587 * green + 0.114 * blue + 0.5).floor()


def test_plain_sources_are_the_bands_their_mean_and_their_maximum(tmp_path: Path) -> None:
    stored, pair = tiny_pair(3), TinyPairs().pair("3N")
    images = {name: plain_source(name, tmp_path).image(pair) for name in ALWAYS}
    assert {name: len(image) for name, image in images.items()} == dict.fromkeys(ALWAYS, 3) | {"both": 4}
    assert all(image.dtype == torch.uint8 for image in images.values())
    assert images["infrared"].equal(stored.infrared.expand(3, -1, -1))
    assert images["visible"].equal(stored.visible)
    assert images["both"].equal(torch.cat((stored.visible, stored.infrared)))
    warm = stored.infrared[0].double()
    red, green, blue = stored.visible.double()
    seen = 0.299 * red + 0.587 * green + 0.114 * blue
    for name, wanted in (("average", (warm + seen) / 2), ("maximum", torch.maximum(warm, seen))):
        assert (luma(images[name]) - wanted).abs().max() <= 0.5 + 1e-4  # rounded once, in single precision
    assert len({plain_source(name, tmp_path).origin for name in ALWAYS}) == len(ALWAYS)


def test_a_fused_image_has_the_networks_luma_and_the_chroma_of_the_visible_image() -> None:
    class Darker(nn.Module):
        def forward(self, infrared: Tensor, visible: Tensor) -> Tensor:
            return 0.5 * visible + 0.1 * infrared

    pair = TinyPairs().pair("0D")
    image = fused_image(Darker(), pair, "darker")
    wanted = 255 * (0.5 * pair.visible[0, 0] + 0.1 * pair.infrared[0, 0]).double()
    assert (luma(image) - wanted).abs().max() <= 0.5 + 1e-4
    gray = as_luma(torch.cat((image, image[:1])))
    assert gray[0].equal(gray[1])
    assert gray[0].double().equal(luma(image))
    assert gray[3].equal(image[0])  # infrared stays


def test_a_run_is_fused_as_the_command_does_it_and_its_test_images_are_read(
    trained: Path, pairs_folder: Path, tmp_path: Path, clipfuse: Any
) -> None:
    out = tmp_path / "fused"
    words = ["--infrared", str(pairs_folder / "train/ir"), "--visible", str(pairs_folder / "train/vi")]
    checkpoint = trained / "checkpoints/last.ckpt"
    code, _, errors = clipfuse("fuse", "--checkpoint", str(checkpoint), *words, "--out", str(out))
    assert code == 0, errors
    from clipfuse.data.folder import PairedFolder
    from clipfuse.data.transforms import whole

    data = PairedFolder(str(pairs_folder))
    source = run_source(trained, "run", "cpu", True)
    for name in ("train-0", "train-3"):
        made = source.image(whole(data.load(name), name))
        assert np.array_equal(made.permute(1, 2, 0).numpy(), np.asarray(Image.open(out / f"{name}.png")))
    pair = whole(data.load("test-0"), "test-0")
    stored = np.asarray(Image.open(trained / "test/color/test-0.png"))
    assert np.array_equal(source.image(pair).permute(1, 2, 0).numpy(), stored)
    # Of other data they are fused anew: the same here, and another origin.
    anew = run_source(trained, "run", "cpu", False)
    assert anew.image(pair).equal(source.image(pair))
    assert anew.origin != source.origin
    assert network_source("net", tmp_path, checkpoint, "cpu").image(pair).equal(source.image(pair))


def test_images_of_others_are_read_and_must_have_the_size_of_their_pair(
    tmp_path: Path, user_error: Any
) -> None:
    pair = TinyPairs().pair("0D")
    files = {"0D": tmp_path / "0D.png", "1N": tmp_path / "1N.png"}
    generator = np.random.default_rng(0)
    color = generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(color).save(files["0D"])
    Image.fromarray(color[:20, :, 0]).save(files["1N"])
    source = files_source("theirs", tmp_path, files)
    assert np.array_equal(source.image(pair).permute(1, 2, 0).numpy(), color)
    Image.fromarray(color[..., 0]).save(files["0D"])  # gray: it gets the chroma of the visible image
    assert source.image(pair).shape == (3, 32, 32)
    assert np.array_equal(luma(source.image(pair)).numpy(), color[..., 0])
    assert files_source("theirs", tmp_path, files).origin != source.origin
    small = TinyPairs().pair("1N")
    assert "1N.png is 32 x 20 pixels, its pair 1N 32 x 32" in user_error(source.image, small)


def test_a_run_without_checkpoint_is_refused(tmp_path: Path, user_error: Any) -> None:
    assert "there is no checkpoints/last.ckpt" in user_error(run_source, tmp_path, "run", "cpu", True)


@pytest.mark.parametrize("gray", [True, False])
def test_the_visible_image_is_kept_bit_by_bit(gray: bool, tmp_path: Path) -> None:
    from clipfuse.data.pairs import Pair
    from clipfuse.data.transforms import whole

    generator = torch.Generator().manual_seed(0)
    channels = 1 if gray else 3
    visible = torch.randint(0, 256, (channels, 200, 200), generator=generator, dtype=torch.uint8)
    pair = whole(Pair(visible[:1], visible), "0")
    assert plain_source("visible", tmp_path).image(pair).equal(visible.expand(3, -1, -1))
    assert rgb_to_luma_chroma(pair.visible)[0].equal(pair.visible)
