import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from clipfuse.backbones.student import Student


def images(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.fixture
def network() -> Student:
    """A network whose last layers are not zero, as after training."""
    torch.manual_seed(0)
    network = Student()
    for last in (network.fine, network.coarse):
        torch.nn.init.normal_(last.weight, std=0.3)
    return network


def test_it_is_as_small_as_its_docstring_states() -> None:
    assert f"{sum(each.numel() for each in Student().parameters()):,} parameters" in str(Student.__doc__)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (17, 16), (40, 33)])
def test_any_size(network: Student, size: tuple[int, int]) -> None:
    output = network(images(2, 1, *size), images(2, 1, *size[::-1]).mT)
    fused = output.fused.detach()
    assert fused.shape == (2, 1, *size)
    assert 0 <= float(fused.min()) <= float(fused.max()) <= 1
    assert output.features["shares"].shape[1] == 2


def test_untrained_it_is_the_average() -> None:
    infrared, visible = (0.1 + 0.8 * images(2, 1, 37, width)[..., :50] for width in (50, 51))
    # float32: the details are subtracted and added again.
    torch.testing.assert_close(
        Student()(infrared, visible).fused, (infrared + visible) / 2, rtol=0, atol=1e-6
    )


def test_the_mixture_is_the_formula_of_the_docstring(network: Student) -> None:
    """A second implementation, written out scale by scale from the features that the network computes."""
    network.double()
    torch.nn.init.normal_(network.fine.bias, std=0.5)
    torch.nn.init.normal_(network.coarse.bias, std=0.5)
    infrared, visible = (0.3 + 0.4 * images(2, 1, 48, width)[..., :64].double() for width in (64, 65))
    seen: dict[str, Tensor] = {}
    for name in ("fine", "coarse"):
        layer = getattr(network, name)
        layer.register_forward_hook(lambda _, __, made, name=name: seen.update({name: made.detach()}))
    fused = network(infrared, visible).fused.detach()

    def enlarged(plane: Tensor) -> Tensor:
        height, width = plane.shape[-2:]
        return F.interpolate(plane, (2 * height, 2 * width), mode="bilinear")

    def gain(plane: Tensor) -> Tensor:
        return 3.0 ** plane.tanh()

    maps = [seen["fine"][:, 0:2], seen["fine"][:, 2:4], seen["coarse"][:, 0:2], seen["coarse"][:, 2:4]]
    layers = []
    warm, seen_light = infrared, visible
    for level in range(4):
        halves = F.avg_pool2d(warm, 2), F.avg_pool2d(seen_light, 2)
        weight, strength = maps[level][:, :1].sigmoid(), gain(maps[level][:, 1:])
        both = [strength * weight, strength * (1 - weight)]
        if level == 0:
            both = [enlarged(each) for each in both]
        if level == 3:
            both = [F.avg_pool2d(each, 2) for each in both]
        details = warm - enlarged(halves[0]), seen_light - enlarged(halves[1])
        layers.append(both[0] * details[0] + both[1] * details[1])
        warm, seen_light = halves
    base = F.avg_pool2d(seen["coarse"][:, 4:], 4)
    weight = base[:, :1].sigmoid()
    mixed = weight * warm + (1 - weight) * seen_light
    level_of = mixed.mean((2, 3), keepdim=True)
    expected = level_of + gain(base[:, 1:2]) * (mixed - level_of) + 0.25 * base[:, 2:].tanh()
    for layer in reversed(layers):
        expected = enlarged(expected) + layer
    inside = (expected > 0.02) & (expected < 0.98)  # beyond, the approach to black and white begins
    assert inside.double().mean() > 0.8
    torch.testing.assert_close(fused[inside], expected[inside], rtol=0, atol=1e-12)


def test_beyond_black_and_white_a_gradient_is_left_and_black_is_kept() -> None:
    network = Student()
    with torch.no_grad():
        network.coarse.bias[-1] = -0.2  # darker by a twentieth
    dark = torch.full((1, 1, 32, 32), 0.01)
    fused = network(dark, dark).fused
    assert 0 < float(fused.detach().min()) < 0.02
    fused.sum().backward()
    assert network.coarse.bias.grad is not None
    assert float(network.coarse.bias.grad[-1]) > 0
    black = torch.zeros(1, 1, 32, 32)
    assert not network.eval()(black, black).fused.any()


def test_maps_are_smooth_so_that_flat_images_stay_flat(network: Student) -> None:
    """Between two flat bands no pattern of sub-pixels appears, whatever the weights are."""
    fused = network.eval()(torch.full((1, 1, 96, 96), 0.3), torch.full((1, 1, 96, 96), 0.7)).fused.detach()
    # The bend of each row and column; a checkerboard of one level of 255 would have 0.008.
    bends = (
        fused[..., 1:-1] - (fused[..., 2:] + fused[..., :-2]) / 2,
        fused.mT[..., 1:-1] - (fused.mT[..., 2:] + fused.mT[..., :-2]) / 2,
    )
    assert max(float(bend[..., 16:80, 16:80].abs().max()) for bend in bends) < 5e-4


def test_samples_do_not_touch_each_other(network: Student) -> None:
    infrared, visible = images(3, 1, 32, 32), images(3, 1, 32, 34)[..., :32]
    together = network(infrared, visible).fused
    alone = torch.cat([network(infrared[i : i + 1], visible[i : i + 1]).fused for i in range(3)])
    # float32: batched convolution may sum in another order.
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


def test_every_parameter_has_a_gradient(network: Student) -> None:
    network(images(1, 1, 48, 48), images(1, 1, 48, 49)[..., :48]).fused.square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in network.parameters())


def test_bfloat16_and_float64(network: Student) -> None:
    infrared, visible = images(1, 1, 32, 32), images(1, 1, 32, 33)[..., :32]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = network(infrared, visible).fused
    exact = network.double()(infrared.double(), visible.double()).fused
    assert exact.dtype == torch.float64
    # bfloat16 has 8 bits; the weights carry its error, the bands do not.
    assert float((rough - exact).abs().max()) < 0.05


def test_sizes_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="student: width 3 and start 'average'; expected 4 or more"):
        Student(width=3)


def by_rule(infrared: Tensor, visible: Tensor) -> Tensor:
    """The untrained network of `start=energy`, written out for one pair of planes in float64."""

    def blurred(plane: Tensor) -> Tensor:
        taps = torch.tensor([1.0, 4, 6, 4, 1], dtype=plane.dtype) / 16
        kernel = (taps[:, None] * taps)[None, None]
        return F.conv2d(F.pad(plane, (2, 2, 2, 2), mode="reflect"), kernel)

    def sized(plane: Tensor, height: int, width: int) -> Tensor:
        return F.interpolate(plane, (height, width), mode="bilinear", align_corners=False)

    faint = (0.25 / 255) ** 2
    bands, layers = [infrared, visible], []
    for level in range(4):
        height, width = bands[0].shape[-2:]
        small = [sized(blurred(band), height // 2, width // 2) for band in bands]
        details = [band - sized(half, height, width) for band, half in zip(bands, small, strict=True)]
        if level == 0:
            halves = [F.avg_pool2d(detail**2, 2) for detail in details]
            energies = [F.avg_pool2d(half, 3, 1, 1, count_include_pad=False) + faint for half in halves]
        else:
            energies = [blurred(detail**2) + faint for detail in details]
        warm, light = (energy**2 for energy in energies)
        share = warm / (warm + light)
        if level == 0:
            share = sized(share, height, width)
        layers.append(share * details[0] + (1 - share) * details[1])
        bands = small
    ahead = bands[1] - bands[0]
    size = (ahead**2 + 0.02**2).sqrt()
    ratio = float(ahead.mean() / (size.mean() - 0.02))
    day = min(max((ratio - 0.7) / 0.25, 0), 1)
    weight = 0.5 - (3 * day**2 - 2 * day**3) * ahead / size / 2
    above = bands[0] - bands[0].mean() - 0.3
    hot = 1 / (1 + (-above / 0.04).exp()) / (1 + (ahead / 0.05).exp())
    weight = (weight + (1 - weight) * hot).clamp(0.01, 0.99)
    fused = weight * bands[0] + (1 - weight) * bands[1]
    for layer in reversed(layers):
        fused = sized(fused, *layer.shape[-2:]) + layer
    limited = fused.clone()
    height, width = fused.shape[-2:]
    for row in range(height):
        for column in range(width):
            place = (..., slice(max(0, row - 3), row + 4), slice(max(0, column - 3), column + 4))
            near = torch.cat([infrared[place].flatten(), visible[place].flatten()])
            value = min(
                max(float(fused[..., row, column]), float(near.min()) - 7 / 255), float(near.max()) + 7 / 255
            )
            limited[..., row, column] = value
    return limited


@pytest.mark.parametrize("lifted", [0.0, 0.35])
def test_untrained_by_energy_it_is_the_rule(lifted: float) -> None:
    """By night and, with a brighter visible band, by day."""
    infrared, visible = (0.2 + 0.4 * images(1, 1, 64, width)[..., :96].double() for width in (96, 97))
    infrared = F.avg_pool2d(infrared, 5, 1, 2)
    network = Student(start="energy").double()
    with torch.no_grad():
        # 1e-9: the weights of the network pass through a logarithm and back.
        torch.testing.assert_close(
            network(infrared, visible + lifted).fused, by_rule(infrared, visible + lifted), rtol=0, atol=1e-9
        )


@pytest.mark.parametrize("size", [(1, 1), (17, 16), (40, 33)])
def test_any_size_by_energy(size: tuple[int, int]) -> None:
    fused = Student(start="energy")(images(2, 1, *size), images(2, 1, *size[::-1]).mT).fused
    assert fused.shape == (2, 1, *size)
    assert fused.isfinite().all()


def test_no_pixel_lies_far_outside_of_both_bands() -> None:
    torch.manual_seed(0)
    network = Student(start="energy")
    torch.nn.init.normal_(network.fine.weight, std=2)
    torch.nn.init.normal_(network.coarse.weight, std=2)
    infrared, visible = 0.3 + 0.1 * images(2, 1, 64, 64), 0.4 + 0.1 * images(2, 1, 64, 64)
    with torch.no_grad():
        fused = network(infrared, visible).fused
    # 1e-6: float32
    assert float(fused.min()) >= 0.3 - 7 / 255 - 1e-6
    assert float(fused.max()) <= 0.5 + 7 / 255 + 1e-6


def test_an_unknown_start_is_refused() -> None:
    with pytest.raises(ValueError, match="start 'maximum'; expected 4 or more, and one of average, energy"):
        Student(start="maximum")
