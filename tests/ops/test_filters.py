import torch
from scipy.ndimage import sobel

from clipfuse.ops.filters import sobel_magnitude


def test_sobel_equals_scipy_with_a_border_of_zeros() -> None:
    image = torch.rand(2, 1, 9, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = sobel_magnitude(image)
    for plane, magnitude in zip(image[:, 0].numpy(), found[:, 0], strict=True):
        expected = sum(abs(sobel(plane, axis, mode="constant")) for axis in (0, 1))
        torch.testing.assert_close(magnitude, torch.from_numpy(expected), rtol=0, atol=1e-13)
    step = torch.zeros(1, 1, 5, 6)
    step[..., 3:] = 1
    assert sobel_magnitude(step)[0, 0, 2].tolist() == [0, 0, 4, 4, 0, 4]
