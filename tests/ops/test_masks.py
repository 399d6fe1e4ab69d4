"""Masks of two values and maps of classes."""

import pytest
import torch

from clipfuse.ops.masks import target_mask


@pytest.mark.parametrize("high", [1, 255])
@pytest.mark.parametrize("channels", [1, 3])
def test_two_values(high: int, channels: int) -> None:
    plane = torch.tensor([[[0, 1], [1, 0]]], dtype=torch.uint8)
    stored = (plane * high).expand(channels, 2, 2)
    assert torch.equal(target_mask(stored), plane.bool())
    assert target_mask(stored[None]).shape == (1, 1, 2, 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint16, torch.int64])
def test_types(dtype: torch.dtype) -> None:
    top = 65535 if dtype == torch.uint16 else 1
    stored = torch.tensor([[[0, top]]]).to(dtype)
    assert target_mask(stored).tolist() == [[[False, True]]]


def test_empty_and_full_masks() -> None:
    assert not target_mask(torch.zeros(1, 2, 2, dtype=torch.uint8)).any()
    assert target_mask(torch.full((1, 2, 2), 255, dtype=torch.uint8)).all()


def test_classes() -> None:
    stored = torch.arange(9, dtype=torch.uint8).reshape(1, 3, 3)
    assert target_mask(stored, [1, 2]).flatten().tolist() == [label in (1, 2) for label in range(9)]
    assert target_mask(stored, [0]).sum() == 1


@pytest.mark.parametrize(
    ("stored", "words"),
    [
        (torch.arange(9, dtype=torch.uint8).reshape(1, 3, 3), "values 0, 1, 2, 3, 4, 5, 6, 7, 8; expected"),
        (torch.tensor([[[0, 3]]], dtype=torch.uint8), "values 0, 3; expected a mask of two values"),
        (torch.tensor([[[1, 255]]], dtype=torch.uint8), "values 1, 255"),
        (torch.tensor([[[0.0, 0.5]]]), "floating point values other than 0 and 1"),
        (torch.tensor([[[0]], [[1]], [[0]]], dtype=torch.uint8), "is in colour"),
    ],
)
def test_what_is_no_mask(stored: torch.Tensor, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        target_mask(stored)
