from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from torch import Tensor, nn

from clipfuse.backbones.contourlet_autoencoder import ContourletAutoencoder
from clipfuse.cli.options import conf_dir
from clipfuse.ops.pyramid import energy_fusion, pyramid_fusion
from clipfuse.runs.build import build

CONF = Path(__file__).parents[2] / "conf/backbone"
FEATURES = {f"{part}_{band}" for part in ("base", "detail") for band in ("infrared", "visible", "fused")}


def images(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def small(seed: int = 0, **changes: Any) -> ContourletAutoencoder:
    """A quick network whose last layer is not zero, as after training."""
    torch.manual_seed(seed)
    sizes = {"dim": 8, "heads": 2, "encoder_blocks": 1, "decoder_blocks": 1, "unet_width": 4, "stride": 2}
    network = ContourletAutoencoder(**{**sizes, "dense": False, **changes})
    nn.init.normal_(network.render.weight, std=0.3)
    return network


@pytest.mark.parametrize("size", [(1, 1), (33, 70), (32, 64), (5, 97)])
@pytest.mark.parametrize("stride", [1, 2])
def test_any_size(stride: int, size: tuple[int, int]) -> None:
    output = small(stride=stride)(images(2, 1, *size), images(2, 1, *size) ** 2)
    assert output.fused.shape == (2, 1, *size)
    assert 0 < float(output.fused.detach().min()) <= float(output.fused.detach().max()) < 1
    assert set(output.features) == FEATURES
    height, width = (side + -side % 32 for side in size)
    assert all(f.shape == (2, 8, height // stride, width // stride) for f in output.features.values())


@pytest.mark.parametrize("residual", ["average", "visible", "maximum", "pyramid", "energy"])
def test_untrained_it_is_its_residual(residual: str) -> None:
    infrared, visible = (0.1 + 0.8 * images(2, 1, 32, width)[..., :32] for width in (32, 33))
    gains = {"detail_gain": 1.2, "base_gain": 1.1} if residual == "energy" else {}
    network = ContourletAutoencoder(8, 2, 1, 1, 4, 2, residual=residual, **gains)
    expected = {
        "average": (infrared + visible) / 2,
        "visible": visible,
        "maximum": infrared.maximum(visible),
        "pyramid": pyramid_fusion(infrared, visible).clamp(0.01, 0.99),
        "energy": energy_fusion(infrared, visible, **gains).clamp(0.01, 0.99),
    }[residual]
    # float32 logit and sigmoid of values up to 0.9.
    torch.testing.assert_close(network(infrared, visible).fused, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("smooth", [False, True])
def test_smooth_output_holds_no_pattern_of_every_other_pixel(smooth: bool) -> None:
    network = ContourletAutoencoder(8, 2, 1, 1, 4, 2, smooth=smooth)
    nn.init.normal_(network.render.weight)
    network.refine = nn.Sequential(nn.Identity(), nn.Conv2d(8, 4, 1))
    nn.init.zeros_(network.refine[1].weight)
    flat = torch.full((1, 1, 32, 32), 0.5)
    inside = network(flat, flat).fused[..., 4:-4, 4:-4]
    # What has one value wherever there is one value to see; float32.
    assert bool(inside.std() < 1e-6) is smooth


def test_smoothing_weighs_neighbours_1_2_1_along_both_axes() -> None:
    network = ContourletAutoencoder(8, 2, 1, 1, 4, 1, smooth=True)
    network.refine, network.render = nn.Identity(), nn.Identity()  # type: ignore[assignment]
    network.reduce = nn.Identity()  # type: ignore[assignment]
    spike = torch.zeros(1, 1, 32, 32)
    spike[..., 0, 7] = 1
    network.decoder = nn.ModuleList([_Constant(spike)])
    flat = torch.full((1, 1, 32, 32), 0.5)
    change = torch.logit(network(flat, flat).fused)
    line = torch.tensor([1.0, 2.0, 1.0]) / 4
    # The border is repeated, so that the first row keeps three quarters.
    expected = torch.outer(torch.tensor([3.0, 1.0]) / 4, line)
    torch.testing.assert_close(change[0, 0, :2, 6:9], expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(change.sum(), expected.sum(), rtol=0, atol=1e-4)


class _Constant(nn.Module):
    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value = value

    def forward(self, _: Tensor) -> Tensor:
        return self.value


def test_samples_do_not_touch_each_other() -> None:
    network, infrared, visible = small(), images(3, 1, 32, 64), images(3, 1, 32, 65)[..., :64]
    together = network(infrared, visible)
    for index in range(3):
        alone = network(infrared[index : index + 1], visible[index : index + 1])
        # float32: batched products may sum in another order.
        torch.testing.assert_close(together.fused[index : index + 1], alone.fused, rtol=0, atol=1e-5)
        for name in FEATURES:
            ours = together.features[name][index : index + 1]
            torch.testing.assert_close(ours, alone.features[name], rtol=1e-4, atol=1e-5)


def test_the_bands_share_one_encoder_and_are_kept_apart() -> None:
    network, infrared, visible = small(), images(1, 1, 32, 32), images(1, 1, 32, 33)[..., :32]
    forth, back = network(infrared, visible).features, network(visible, infrared).features
    for part in ("base", "detail"):
        torch.testing.assert_close(forth[f"{part}_infrared"], back[f"{part}_visible"])
        assert not torch.allclose(forth[f"{part}_infrared"], forth[f"{part}_visible"], rtol=1e-2)
    # Only the weights of the sums can tell the bands apart.
    torch.testing.assert_close(network(infrared, visible).fused, network(visible, infrared).fused)
    with torch.no_grad():
        network.base_sum.weight[0].normal_()  # type: ignore[index]
    assert not torch.allclose(network(infrared, visible).fused, network(visible, infrared).fused, atol=1e-2)


@pytest.mark.parametrize("residual", ["average", "energy"])
def test_without_gradient_it_fuses_the_same_in_strips(residual: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network = small(smooth=True, residual=residual).eval()
    infrared, visible = images(2, 1, 70, 40), images(2, 1, 70, 41)[..., :40]
    whole = network(infrared, visible)
    monkeypatch.setattr("clipfuse.ops.strips._BYTES", 1)
    with torch.no_grad():
        parts = network(infrared, visible)
    # float32: sums over pixels in another order, through four blocks.
    torch.testing.assert_close(parts.fused, whole.fused, rtol=0, atol=1e-5)
    for name in FEATURES:
        torch.testing.assert_close(parts.features[name], whole.features[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("faithful", [False, True])
def test_each_feature_is_named_after_the_band_it_is_of(faithful: bool) -> None:
    network = small(stride=1, faithful=faithful).eval()
    infrared, visible = images(1, 1, 32, 32), images(1, 1, 32, 33)[..., :32]
    features = network(infrared, visible).features
    for band, plane in {"infrared": infrared, "visible": visible}.items():
        for part, alone in zip(("base", "detail"), network.encode(plane), strict=True):
            # float32: batched products may sum in another order.
            torch.testing.assert_close(features[f"{part}_{band}"], alone, rtol=1e-4, atol=1e-5)
    for part in ("base", "detail"):
        assert not torch.allclose(features[f"{part}_infrared"], features[f"{part}_visible"], rtol=1e-2)
    assert not torch.allclose(features["base_fused"], features["detail_fused"], rtol=1e-2)


@pytest.mark.parametrize("changes", [{}, {"stride": 1, "dense": True}, {"stride": 1, "faithful": True}])
def test_every_parameter_has_a_gradient(changes: dict[str, Any]) -> None:
    network = small(**changes)
    network(images(2, 1, 64, 64), images(2, 1, 64, 65)[..., :64]).fused.square().sum().backward()
    silent = [n for n, p in network.named_parameters() if p.grad is None or not bool(p.grad.any())]
    assert not silent


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_black_and_white_images_have_finite_gradients(value: float) -> None:
    network, plane = small(), torch.full((1, 1, 32, 32), value)
    network(plane, plane).fused.sum().backward()
    assert all(bool(p.grad.isfinite().all()) for p in network.parameters() if p.grad is not None)


def test_the_gradient_passes_through_the_contourlet() -> None:
    network = small().double()
    visible = images(1, 1, 32, 33)[..., :32].double()

    def detail(infrared: Tensor) -> Tensor:
        return network(infrared, visible).features["detail_infrared"].square().sum()

    infrared = images(1, 1, 32, 32).double().requires_grad_()
    direction = torch.randn(1, 1, 32, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    slope = (detail(infrared + 1e-6 * direction) - detail(infrared - 1e-6 * direction)) / 2e-6
    whole = (torch.autograd.grad(detail(infrared), infrared)[0] * direction).sum()
    # The same with the contourlet detached from the graph, as published.
    network.detail.transform.register_forward_pre_hook(lambda module, inputs: (inputs[0].detach(),))
    detached = (torch.autograd.grad(detail(infrared), infrared)[0] * direction).sum()
    # A central difference of step 1e-6 in float64; ReLUs that switch in between leave 1e-5 at most.
    torch.testing.assert_close(whole, slope.detach(), rtol=1e-4, atol=0)
    assert abs(float(detached - whole)) > 0.01 * abs(float(whole))


def test_the_unet_takes_every_subband_in() -> None:
    network = small().detail.double()
    plane = torch.randn(2, 1, 32, 48, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    coefficients = network.transform(plane)
    squares = network.subbands(plane)
    assert [square.shape[1:] for square in squares] == [(8, 16, 24), (8, 8, 12), (8, 4, 6), (4, 2, 3)]
    wide, tall = coefficients.details[-1][1], coefficients.details[-1][6]
    coarsest = torch.cat([coefficients.lowpass, *coefficients.details[0]], dim=1)
    for found, expected in (
        (squares[0][:, 1:2], wide.repeat_interleave(2, dim=-2)),
        (squares[0][:, 6:7], tall.repeat_interleave(2, dim=-1)),
        (squares[3], coarsest),
    ):
        # The transform runs twice: Fourier transforms of 1536 float64 values of order 1.
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "parameters", "encoder", "unet"),
    [
        # The published encoder: 6.85 M with 55,763 that are never used; its U-Net 6.25 M.
        ("contourlet", 7_380_273, 6_792_041, 6_248_577),
        ("contourlet_small", 923_569, 773_443, 649_477),
        ("contourlet_tiny", 100_599, 79_997, 62_739),
    ],
)
def test_the_configs(name: str, parameters: int, encoder: int, unet: int) -> None:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        network = build(compose("train", [f"backbone={name}"]).backbone, "backbone")

    def count(*modules: nn.Module) -> int:
        return sum(p.numel() for module in modules for p in module.parameters())

    assert count(network) == parameters
    assert count(network.embed, network.encoder, network.base, network.detail) == encoder
    assert count(network.detail) == unet


def gradients(network: ContourletAutoencoder) -> dict[str, Tensor]:
    network.zero_grad()
    network(images(2, 1, 32, 32), images(2, 1, 32, 33)[..., :32]).fused.square().sum().backward()
    return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


def test_checkpointing_changes_no_gradient() -> None:
    plain, recomputed = gradients(small()), gradients(small(checkpointing=True))
    assert plain.keys() == recomputed.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(recomputed[name], gradient)


def test_it_runs_in_bfloat16_and_in_either_memory_order() -> None:
    network, infrared, visible = small(), images(1, 1, 64, 64), images(1, 1, 64, 65)[..., :64]
    fused = network(infrared, visible).fused
    with torch.autocast("cpu", torch.bfloat16):
        half = network(infrared, visible).fused
        half.float().sum().backward()
    # bfloat16 keeps 8 bits, of logits of about 1.
    torch.testing.assert_close(half.float(), fused, rtol=0, atol=0.05)
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in network.parameters())
    network.to(memory_format=torch.channels_last)
    torch.testing.assert_close(network(infrared, visible).fused, fused)


def test_it_is_one_graph() -> None:
    network, infrared, visible = small(), images(1, 1, 32, 32), images(1, 1, 32, 33)[..., :32]
    compiled: Callable[..., Any] = torch.compile(network, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(infrared, visible).fused, network(infrared, visible).fused)


def test_the_faithful_network_is_as_published() -> None:
    network = small(stride=1, faithful=True)
    kinds = {type(module) for module in network.modules()}
    assert nn.BatchNorm2d in kinds
    assert nn.GroupNorm not in kinds
    assert nn.BatchNorm2d not in {type(module) for module in small().modules()}
    visible, infrared = images(2, 1, 32, 32), images(2, 1, 32, 33)[..., :32].requires_grad_()
    output = network(infrared, visible)
    for name in FEATURES:
        assert output.features[name].shape == (2, 8, 32, 32)
    # Nothing decoded: the sigmoid of an image is gray.
    nn.init.zeros_(network.render.weight)
    # A vector's sigmoid and a single value's may differ by a float32 rounding below 1.
    torch.testing.assert_close(network(infrared, visible).fused, torch.sigmoid(visible), rtol=0, atol=2**-22)
    # The contourlet sees 224x224 and gives no gradient.
    seen: list[Tensor] = []
    network.detail.transform.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    network(infrared, visible)
    assert [tuple(plane.shape) for plane in seen] == [(2, 1, 224, 224)] * 2
    assert not any(plane.requires_grad for plane in seen)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dim": 7, "heads": 1}, "dim 7 and heads 1; expected an even dim"),
        ({"dim": 8, "heads": 3}, "dim 8 and heads 3"),
        ({"dim": 8, "heads": 0}, "heads 0"),
        ({"encoder_blocks": -1}, "-1 encoder_blocks"),
        ({"unet_width": 0}, "width of 1 or more"),
        ({"stride": 4}, "stride 4"),
        ({"residual": "infrared"}, "residual 'infrared'; expected 1 or 2, and one of average, visible"),
        (
            {"residual": "energy", "detail_gain": 0},
            "detail_gain 0 and base_gain 1.0 with residual 'energy'; expected above 0",
        ),
        (
            {"residual": "pyramid", "detail_gain": 1.2},
            "detail_gain 1.2 and base_gain 1.0 with residual 'pyramid'",
        ),
        ({"base_gain": 1.2}, "detail_gain 1.0 and base_gain 1.2 with residual 'average'"),
        ({"faithful": True, "stride": 2}, "faithful needs stride 1"),
        ({"faithful": True, "smooth": True}, "faithful needs stride 1 and no smooth"),
        ({"faithful": True, "checkpointing": True}, "batch norm's statistics twice"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ContourletAutoencoder(**arguments)


def test_wrong_planes_are_named() -> None:
    with pytest.raises(ValueError, match=r"infrared has shape \(1, 3, 32, 32\)"):
        small()(torch.zeros(1, 3, 32, 32), torch.zeros(1, 1, 32, 32))
