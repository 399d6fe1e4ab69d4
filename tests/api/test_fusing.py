from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from clipfuse import fuse, read_pair
from clipfuse.errors import UserError
from clipfuse.images import read_image
from clipfuse.ops.color import rgb_to_luma_chroma
from clipfuse.ops.depth import to_unit

BT_601 = np.array([0.299, 0.587, 0.114])
Command = Callable[..., tuple[int, str, str]]


class Infrared(nn.Module):
    """Returns the infrared luma: its result is known without a network."""

    def forward(self, infrared: Tensor, visible: Tensor) -> Tensor:
        assert not self.training
        assert not torch.is_grad_enabled()
        return infrared


@pytest.fixture
def pair(pairs_folder: Path) -> tuple[Path, Path]:
    return pairs_folder / "test/ir/test-0.png", pairs_folder / "test/vi/test-0.png"


@pytest.fixture
def arrays(pair: tuple[Path, Path]) -> tuple[np.ndarray, np.ndarray]:
    return np.array(Image.open(pair[0])), np.array(Image.open(pair[1]))


def test_it_does_what_the_command_does(clipfuse: Command, pair: tuple[Path, Path], tmp_path: Path) -> None:
    words = ["--infrared", str(pair[0]), "--visible", str(pair[1]), "--out", str(tmp_path / "out")]
    assert clipfuse("fuse", *words)[0] == 0
    expected = np.array(Image.open(tmp_path / "out/test-0.png"))
    fused = fuse(*pair)
    assert fused.mode == "RGB"
    np.testing.assert_array_equal(np.array(fused), expected)
    infrared, visible = np.array(Image.open(pair[0])), np.array(Image.open(pair[1]))
    np.testing.assert_array_equal(fuse(infrared, visible), expected)
    np.testing.assert_array_equal(np.array(fuse(Image.open(pair[0]), Image.open(pair[1]))), expected)
    tensors = torch.from_numpy(infrared), torch.from_numpy(visible).movedim(-1, 0)
    np.testing.assert_array_equal(fuse(*tensors).movedim(0, -1).numpy(), expected)
    exact = 255 * fuse(infrared / 255, visible / 255)  # 8 bits round it: the luma to the nearest level
    np.testing.assert_allclose(exact, expected, atol=1.001)
    np.testing.assert_allclose(exact @ BT_601, expected @ BT_601, atol=0.501)
    (listed,) = fuse([infrared], [visible])
    np.testing.assert_array_equal(listed, expected)
    batch = fuse(np.stack([infrared] * 2), np.stack([visible] * 2))
    # float32: convolutions of two images add in another order than those of one
    assert np.abs(batch.astype(int) - expected).max() <= 1


def test_the_colour_of_the_visible_image_is_kept(arrays: tuple[np.ndarray, np.ndarray]) -> None:
    infrared, visible = arrays[0] / 255, 0.3 + 0.4 * (arrays[1] / 255)  # muted: no colour leaves the gamut
    infrared = 0.4 + 0.2 * infrared
    fused = torch.from_numpy(fuse(infrared, visible, Infrared())).movedim(-1, 0).float()
    luma, chroma = rgb_to_luma_chroma(fused)
    expected = rgb_to_luma_chroma(torch.from_numpy(visible).movedim(-1, 0).float())[1]
    torch.testing.assert_close(luma[0], torch.from_numpy(infrared).float(), rtol=0, atol=1e-6)
    torch.testing.assert_close(chroma, expected, rtol=0, atol=1e-6)


def test_types_follow_the_visible_image(arrays: tuple[np.ndarray, np.ndarray]) -> None:
    infrared, visible = arrays[0], arrays[1][..., 0]
    deep = visible.astype(np.uint16) * 257
    fused = fuse(infrared, deep, Infrared())
    assert (fused.dtype, fused.shape) == (np.uint16, visible.shape)
    np.testing.assert_array_equal(fused, infrared.astype(np.uint16) * 257)
    half = fuse(infrared, (visible / 255).astype(np.float16), Infrared())
    assert half.dtype == np.float16


def test_a_network_of_ones_own_is_left_as_it_was(arrays: tuple[np.ndarray, np.ndarray]) -> None:
    network = Infrared().train()
    fuse(arrays[0], arrays[1], network)
    assert network.training


def test_a_checkpoint(arrays: tuple[np.ndarray, np.ndarray], trained: Path) -> None:
    assert fuse(arrays[0], arrays[1], trained / "checkpoints/last.ckpt").shape == arrays[1].shape


def test_a_pair_that_differs_in_size_is_refused(arrays: tuple[np.ndarray, np.ndarray]) -> None:
    with pytest.raises(UserError, match="must be registered and of one size"):
        fuse(arrays[0][:20], arrays[1])


def test_a_pair_is_read_as_the_record_of_the_project(pair: tuple[Path, Path], tmp_path: Path) -> None:
    mask = np.zeros((48, 64), np.uint8)
    mask[4:9, 5:9] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    batch = read_pair(*pair, tmp_path / "mask.png")
    color = to_unit(read_image(pair[1]))[None]
    assert batch.sample_ids == ("test-0",)
    torch.testing.assert_close(batch.infrared[0], to_unit(read_image(pair[0])))
    assert torch.equal(torch.cat([batch.visible, batch.chroma], 1), torch.cat(rgb_to_luma_chroma(color), 1))
    assert batch.target_mask is not None
    assert torch.equal(batch.target_mask[0, 0], torch.from_numpy(mask > 0))
    Image.fromarray(mask[:5]).save(tmp_path / "mask.png")
    with pytest.raises(UserError, match="is not of the size of"):
        read_pair(*pair, tmp_path / "mask.png")
