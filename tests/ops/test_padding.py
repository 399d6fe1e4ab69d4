"""Any size is padded to a multiple, and cut back."""

import pytest
import torch

from clipfuse.ops.padding import crop_to, pad_to_multiple


@pytest.mark.parametrize("size", [(1, 1), (5, 16), (17, 31), (16, 32)])
def test_the_last_row_and_column_are_repeated_and_cut_off_again(size: tuple[int, int]) -> None:
    image = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    padded = pad_to_multiple(image, 16)
    height, width = padded.shape[-2:]
    assert height % 16 == width % 16 == 0
    assert 0 <= height - size[0] < 16
    assert 0 <= width - size[1] < 16
    assert torch.equal(crop_to(padded, size), image)
    assert (padded[..., size[0] :, :] == padded[..., size[0] - 1 : size[0], :]).all()
    assert (padded[..., size[1] :] == padded[..., size[1] - 1 : size[1]]).all()


def test_an_image_that_fits_is_not_copied() -> None:
    image = torch.rand(1, 1, 8, 12)
    assert pad_to_multiple(image, 4) is image
