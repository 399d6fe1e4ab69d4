import pytest
import torch

from clipfuse.ops.strips import may_split, strip_rows, strips


@pytest.mark.parametrize(("height", "rows"), [(1, 16), (7, 3), (48, 16), (50, 16), (33, 100)])
def test_a_3x3_convolution_by_strips_is_that_of_the_whole(height: int, rows: int) -> None:
    image = torch.rand(1, 2, height, 5, generator=torch.Generator().manual_seed(height), dtype=torch.float64)
    weight = torch.rand(3, 2, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    whole = torch.nn.functional.conv2d(image, weight, padding=1)
    parts, covered = [], []
    for own, reach, inner in strips(height, rows):
        parts.append(torch.nn.functional.conv2d(image[:, :, reach], weight, padding=1)[:, :, inner])
        covered += range(height)[own]
        assert parts[-1].shape[2] <= rows
    assert covered == list(range(height))
    # float64: a convolution of another height may sum in another order.
    torch.testing.assert_close(torch.cat(parts, dim=2), whole, rtol=1e-13, atol=1e-13)


def test_only_large_images_without_gradient_are_split() -> None:
    large, small = torch.empty(1, 1, 1024, 1024), torch.empty(1, 1, 32, 32)
    assert not may_split(large)
    assert strip_rows(large, 64) == 0
    with torch.no_grad():
        assert may_split(small)
        assert strip_rows(small, 64) == 0
        rows = strip_rows(large, 64)
        assert 16 <= rows < 1024
        assert strip_rows(large, 1024) == 16
        with torch.autocast("cpu", torch.bfloat16):
            assert not may_split(large)
        assert not may_split(torch.empty(1, 1, 8, 8, device="meta"))
