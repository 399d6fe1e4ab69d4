import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from clipfuse.ops.entropy import entropy

GOLDEN = Path(__file__).parents[1] / "golden/ldfusion.npz"


def plainly(image: Tensor) -> float:
    """One image, by torch's own histogram."""
    share = torch.histc(image.flatten(), 256, 0, 1).double()
    share = share[share > 0] / share.sum()
    return float(-(share * share.log2()).sum())


def test_equals_the_published_values() -> None:
    golden = np.load(GOLDEN)
    patches = torch.from_numpy(golden["in/ld_patches"])
    expected = torch.from_numpy(golden["out/ld_entropy_norm_false"])
    torch.testing.assert_close(entropy(patches).double(), expected, rtol=0, atol=1e-5)
    # Standardised first, half of the values lie outside [0, 1] and are left out.
    spread = patches.std(dim=(1, 2, 3), keepdim=True)
    standard = (patches - patches.mean(dim=(1, 2, 3), keepdim=True)) / spread
    expected = torch.from_numpy(golden["out/ld_entropy_norm_true"])
    torch.testing.assert_close(entropy(standard).double(), expected, rtol=0, atol=1e-5)


def test_equals_one_histogram_at_a_time() -> None:
    images = torch.rand(5, 2, 31, 17, generator=torch.Generator().manual_seed(0)) * 1.2 - 0.1
    images[0] = images[0].clamp(0, 1)
    expected = torch.tensor([plainly(image) for image in images])
    torch.testing.assert_close(entropy(images), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(entropy(images.double()), expected.double(), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("value", "bits"), [(0.0, 0.0), (1.0, 0.0), (2.0, 0.0), (math.nan, 0.0)])
def test_of_a_constant_image_is_zero(value: float, bits: float) -> None:
    assert float(entropy(torch.full((1, 1, 8, 8), value))) == bits


def test_all_values_alike_often() -> None:
    ramp = (torch.arange(256) / 256).repeat(3, 4)
    assert entropy(ramp).tolist() == pytest.approx([8.0] * 3)
    assert entropy(ramp, bins=4).tolist() == pytest.approx([2.0] * 3)
    assert entropy(ramp.bfloat16()).dtype is torch.float32
