"""The fusions on trial: degenerate ones, which no score should reward, and honest ones."""

import io
from collections.abc import Mapping

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.functional import gaussian_blur

from clipfuse.metrics import trivial_fusions
from clipfuse.ops.depth import to_bytes, to_unit
from clipfuse.ops.pyramid import detail_maximum, energy_fusion, pyramid_fusion

TILE = 8
DEGRADATIONS: Mapping[str, tuple[float, float, float]] = {  # three strengths each, weakest first
    "noise": (5, 10, 20),  # deviation in grey levels
    "blur": (1, 2, 4),  # deviation in pixels
    "stretch": (1.3, 1.7, 2.2),  # factor of the deviations from the mean
    "sharpening": (0.5, 1.5, 3),  # weight of what a blur of 1 px takes away
    "copying infrared": (0.5, 0.75, 1),  # share of the band in the mixture with the fusion
    "copying visible": (0.5, 0.75, 1),
}


def degrade(
    kind: str, strength: float, fused: Tensor, infrared: Tensor, visible: Tensor, seed: int
) -> Tensor:
    """Return a fusion made worse in one way of `DEGRADATIONS`.

    Args:
        kind: the way.
        strength: how much; see `DEGRADATIONS`.
        fused: (N, 1, H, W) in [0, 1].
        infrared: the same shape.
        visible: the same shape.
        seed: of the noise, whose image is the same for each strength.

    Returns:
        (N, 1, H, W) in [0, 1].
    """
    if kind == "noise":
        return add_noise(fused, strength, seed)
    if kind == "blur":
        return blur(fused, strength)
    if kind == "stretch":
        return stretch(fused, strength)
    if kind == "sharpening":
        return sharpen(fused, strength)
    band = infrared if kind == "copying infrared" else visible
    return (1 - strength) * fused + strength * band


def degenerate(infrared: Tensor, visible: Tensor, seed: int) -> dict[str, Tensor]:
    """Return the degenerate fusions of (1, 1, H, W) bands in [0, 1] by name, with 8-bit values.

    Args:
        infrared: (1, 1, H, W) in [0, 1].
        visible: the same shape.
        seed: of the noise.
    """
    simple = {
        name.removeprefix("trivial:"): plane for name, plane in trivial_fusions(infrared, visible).items()
    }
    average, maximum = simple["average"], simple["maximum"]
    total = plain_sum(infrared, visible)
    pyramid = pyramid_fusion(infrared, visible).clamp(0, 1)
    left = torch.arange(infrared.shape[3]) < infrared.shape[3] // 2
    rows, columns = (torch.arange(side) // TILE for side in infrared.shape[2:])
    even = (rows[:, None] + columns) % 2 == 0
    found = {
        "infrared": infrared,
        "visible": visible,
        "infrared, 5 % visible": 0.95 * infrared + 0.05 * visible,
        "visible, 5 % infrared": 0.95 * visible + 0.05 * infrared,
        "sum": total,
        "average": average,
        "maximum": maximum,
        "average, contrast x 2.2": stretch(average, 2.2),
        "sum, sharpened": sharpen(total, 1.5),
        "maximum, sharpened": sharpen(maximum, 1.5),
        "left infrared, right visible": torch.where(left, infrared, visible),
        "checkerboard": torch.where(even, infrared, visible),
        "infrared, equalised": equalise(infrared),
        "sum, blurred": blur(total, 2),
        "pyramid, JPEG 10": jpeg(pyramid, 10),
    }
    for name, base in (("average", average), ("maximum", maximum), ("pyramid", pyramid)):
        for level in (10, 20):
            found[f"{name}, noise {level}"] = add_noise(base, level, seed)
    return {name: rounded(plane) for name, plane in found.items()}


def honest(infrared: Tensor, visible: Tensor, networks: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Return the honest fusions: by rule, and of the networks; by name, with 8-bit values."""
    found = {
        "Laplacian pyramid": pyramid_fusion(infrared, visible),
        "energy pyramid": energy_fusion(infrared, visible),
        "detail maximum": detail_maximum(infrared, visible),
    }
    with torch.inference_mode():
        found.update({name: network(infrared, visible).fused for name, network in networks.items()})
    return {name: rounded(plane) for name, plane in found.items()}


def rounded(plane: Tensor) -> Tensor:
    """Return the plane as a file would hold it, in [0, 1]."""
    return to_unit(to_bytes(plane))


def plain_sum(infrared: Tensor, visible: Tensor) -> Tensor:
    """Return the sum of both bands' deviations from their means, about the mean of these; in [0, 1]."""
    means = [plane.mean((2, 3), keepdim=True) for plane in (infrared, visible)]
    return (infrared + visible - (means[0] + means[1]) / 2).clamp(0, 1)


def stretch(plane: Tensor, factor: float) -> Tensor:
    """Return the plane with its deviations from the mean multiplied, clipped to [0, 1]."""
    mean = plane.mean((2, 3), keepdim=True)
    return (mean + factor * (plane - mean)).clamp(0, 1)


def sharpen(plane: Tensor, weight: float) -> Tensor:
    """Return the plane with `weight` times what a blur of 1 px takes away added, clipped to [0, 1]."""
    return (plane + weight * (plane - blur(plane, 1))).clamp(0, 1)


def add_noise(plane: Tensor, level: float, seed: int) -> Tensor:
    """Return the plane with white Gaussian noise, of a deviation in grey levels, clipped to [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    return (plane + level / 255 * torch.randn(plane.shape, generator=generator)).clamp(0, 1)


def blur(plane: Tensor, sigma: float) -> Tensor:
    """Return the plane under a Gaussian of `sigma` pixels, mirrored at the border."""
    return gaussian_blur(plane, [2 * round(3 * sigma) + 1] * 2, [sigma, sigma])


def equalise(plane: Tensor) -> Tensor:
    """Return a (1, 1, H, W) plane with each of 256 levels replaced by the share of pixels not above it."""
    levels = to_bytes(plane).long().flatten()
    share = torch.bincount(levels, minlength=256).cumsum(0) / levels.numel()
    return share[levels].view_as(plane).to(plane.dtype)


def jpeg(plane: Tensor, quality: int) -> Tensor:
    """Return a (1, 1, H, W) plane after JPEG."""
    file = io.BytesIO()
    Image.fromarray(to_bytes(plane)[0, 0].numpy()).save(file, "JPEG", quality=quality)
    picture = Image.open(file)
    data = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
    return to_unit(data.view(1, 1, *plane.shape[2:]))
