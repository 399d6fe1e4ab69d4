"""The checked functions: their range, their rounding, and one clear error for everything they cannot take."""

import inspect
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from clipfuse import metrics
from clipfuse.metrics.base import FusionMetric
from clipfuse.metrics.definition import DEFINITIONS
from clipfuse.metrics.protocols import PROTOCOLS, STRICT

SIZE = (163, 170)
QUICK = [name for name in STRICT.metrics if not name.startswith("FMI")]


def images(seed: int = 0, count: int = 1) -> list[Tensor]:
    """Sources and their average, (N, 1, H, W) float32 in [0, 1], not rounded to 8 bits."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(2, count, 1, 20, 20, generator=generator)
    infrared, visible = (torch.nn.functional.interpolate(plane, SIZE, mode="bilinear") for plane in coarse)
    grain = 0.02 * torch.rand(count, 1, *SIZE, generator=generator)
    return [((infrared + visible) / 2 + grain).clamp(0, 1), infrared, visible]


def regions(count: int = 1) -> Tensor:
    mask = torch.zeros(count, 1, *SIZE, dtype=torch.bool)
    mask[..., 20:40, 30:42] = True
    mask[..., 100:110, 90:120] = True
    return mask


def extra(name: str, mask: Tensor | None = None) -> dict[str, Tensor]:
    return {"target_mask": regions() if mask is None else mask} if DEFINITIONS[name].takes_mask else {}


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=str)
def test_functions_agree_to_the_bit_with_the_class_at_both_ranges(protocol) -> None:
    planes = images()
    eight = [(255 * plane.double() + 0.5).floor().byte() for plane in planes]
    for name in protocol.metrics:
        metric, score = FusionMetric(name, protocol), DEFINITIONS[name].score
        metric.update(*planes, target_mask=regions())
        expected, options = metric.compute().item(), {**protocol.options.get(name, {}), **extra(name)}
        assert score(*planes, **options).item() == expected, name
        assert score(*eight, data_range=255, **options).item() == expected, name
        assert score(*(plane.float() for plane in eight), data_range=255.0, **options).item() == expected


@settings(max_examples=50, deadline=None)
@given(levels=arrays(np.uint8, (3, 9, 8)), kind=st.sampled_from([torch.float32, torch.float64]))
def test_levels_survive_every_way_to_give_them(levels: np.ndarray, kind: torch.dtype) -> None:
    """Eight bits as uint8, int64 and float, and divided by 255: one score, to the bit, without a gradient."""
    planes = torch.from_numpy(levels)[:, None, None]
    for score in (metrics.ssim, metrics.mutual_information, metrics.average_gradient):
        expected = score(*planes, data_range=255)
        assert expected.dtype == torch.float64
        for given_as in (planes.long(), planes.short(), planes.to(kind)):
            assert torch.equal(score(*given_as, data_range=255), expected)
        unit = (planes.to(kind) / 255).requires_grad_()
        assert torch.equal(score(*unit), expected)
        assert not score(*unit).requires_grad


def test_what_float32_leaves_outside_of_the_range_is_rounded() -> None:
    plane = torch.tensor([-9e-6, 0.5, 1 + 9e-6]).view(1, 1, 1, 3)
    assert metrics.standard_deviation(plane) == metrics.standard_deviation(plane.clamp(0, 1))
    wide = 255 * plane
    assert metrics.standard_deviation(wide, data_range=255) == metrics.standard_deviation(plane)
    for bad, data_range in ((plane * 1.001, 1.0), (plane - 0.001, 1.0), (wide + 0.1, 255), (wide - 0.1, 255)):
        with pytest.raises(ValueError, match="SD: fused has values from"):
            metrics.standard_deviation(bad, data_range=data_range)


@pytest.mark.parametrize("name", STRICT.metrics)
def test_a_batch_scores_like_its_images(name: str) -> None:
    planes, mask = images(count=3), regions(3)
    mask[1, ..., 20:40, :] = False

    def score(part: slice) -> Tensor:
        return DEFINITIONS[name].score(*(plane[part] for plane in planes), **extra(name, mask[part]))

    each = torch.cat([score(slice(k, k + 1)) for k in range(3)])
    assert score(slice(None)).shape == (3,)
    torch.testing.assert_close(score(slice(None)), each, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", QUICK)
def test_bad_input_names_metric_and_image(name: str) -> None:
    score, options = DEFINITIONS[name].score, extra(name)
    fused, infrared, visible = images()
    nan = fused.clone()
    nan[0, 0, 3, 3] = torch.nan
    eight = (255 * fused).byte()
    remedy = r"expected \[0, 1\] with data_range=1\.0; images in 0\.\.255 need data_range=255"
    whole = r"expected 0\.\.255 with data_range=255; images in \[0, 1\] need data_range=1\.0"
    for bad, data_range, message in (
        (fused[0, 0].numpy(), 1.0, r"fused is a numpy\.ndarray; expected a torch\.Tensor"),
        (fused[0, 0], 1.0, r"fused has shape \(163, 170\); .* \(N, 1, H, W\); add .* image\[None, None\]"),
        (fused.expand(1, 3, -1, -1), 1.0, r"fused has shape \(1, 3, 163, 170\); expected one luma plane"),
        (fused[..., :9], 1.0, r"fused has shape \(1, 1, 163, 9\) and (infrared|visible) \(1, 1, 163, 170\)"),
        (nan, 1.0, "fused holds NaN"),
        (fused * torch.inf, 1.0, "fused holds NaN|fused has values from .* to inf"),
        (fused - 0.9, 1.0, rf"fused has values from -0\.[0-9]+ to .*; {remedy}"),
        (255 * fused, 1.0, rf"fused has values from .*; {remedy}"),
        (eight, 1.0, rf"fused has type torch\.uint8; expected floating-point values in {remedy[9:]}"),
        (fused > 0.5, 255, r"fused has type torch\.bool"),
        (fused.cfloat(), 1.0, r"fused has type torch\.complex64"),
        (fused, 255, rf"fused has fractions from .* alone; {whole}"),
        (300 * fused, 255, rf"fused has values from .*; {whole}"),
        (-eight.short(), 255, rf"fused has values from -.*; {whole}"),
        (fused, 65535, r"data_range is 65535; expected 1\.0, or 255 for 0\.\.255"),
        (fused, torch.tensor(255.0), r"data_range is tensor\(255\.\); expected"),
        (None, 1.0, "fused is None; expected a luma image"),
    ):
        if DEFINITIONS[name].kernel.__defaults__ and isinstance(bad, Tensor) and bad.shape[-1] == 9:
            continue  # looks at the fused image alone, and any size is right
        sources = [255 * plane if data_range == 255 else plane for plane in (infrared, visible)]
        if DEFINITIONS[name].kernel.__defaults__:
            sources = []
        with pytest.raises(ValueError, match=f"^{name}: ({message})"):
            score(bad, *sources, data_range=data_range, **options)
    smallest = DEFINITIONS[name].smallest
    if smallest > 1:
        small = [plane[..., : smallest - 1, :] for plane in (fused, infrared, visible)]
        mask = {"target_mask": regions()[..., : smallest - 1, :]} if options else {}
        expected = rf"^{name}: fused is {smallest - 1}x170 px; expected sides of at least {smallest} px"
        with pytest.raises(ValueError, match=expected):
            score(*small, **mask)


def test_masks_are_checked() -> None:
    planes, mask = images(), regions()
    for name in ("target-contrast", "local-detail"):
        metric = FusionMetric(name)
        for bad, message in (
            (mask.byte(), r"target_mask has type torch\.uint8; expected torch\.bool"),
            (mask.numpy(), "target_mask has type bool; expected torch"),
            (mask[..., :9], r"target_mask has shape \(1, 1, 163, 9\); fused has \(1, 1, 163, 170\)"),
        ):
            for score in (metric.update, DEFINITIONS[name].score):
                with pytest.raises(ValueError, match=f"^{name}: {message}"):
                    score(*planes, target_mask=bad)
    with pytest.raises(ValueError, match="target-contrast: target_mask is missing"):
        metrics.target_contrast(*planes)
    with pytest.raises(ValueError, match="EN has no option 'target_mask'"):
        metrics.entropy(*planes, target_mask=mask)


def test_misspelt_options_are_refused() -> None:
    for name, options in {
        "SSIM": {"window": "gauss"},
        "AG": {"divisor": "cels"},
        "PSNR": {"peak": "max"},
    }.items():
        ((key, value),) = options.items()
        message = f"^{name}: {key} is '{value}'; expected one of '"
        with pytest.raises(ValueError, match=message):
            DEFINITIONS[name].score(*images(), **options)
        wrong = replace(STRICT, options={name: options})
        for scores in (lambda: FusionMetric(name, wrong), lambda: metrics.Scorer(wrong, [name])):  # noqa: B023
            with pytest.raises(ValueError, match=message):
                scores()
    with pytest.raises(ValueError, match="EN has no option 'base'"):
        metrics.entropy(images()[0], base=2)


def test_a_metric_of_a_user_gets_rounded_planes_whatever_the_range(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clipfuse.metrics.definition.DEFINITIONS", dict(DEFINITIONS))
    seen = []

    @metrics.metric("mine", higher_is_better=True, bounds=(0, 255), smallest=3)
    def mine(fused, infrared=None, visible=None, *, power=1):
        """Mean level."""
        seen.append(fused)
        return fused.mean((1, 2, 3)) ** power

    plane = images()[0]
    levels = (255 * plane.double() + 0.5).floor()
    assert mine(plane).item() == levels.mean().item()
    assert mine(levels.byte(), data_range=255, power=2).item() == levels.mean().item() ** 2
    assert all(torch.equal(each, levels) for each in seen)
    assert str(inspect.signature(mine)) == (
        "(fused, infrared=None, visible=None, *, power=1, data_range: float = 1.0)"
    )
    assert mine.__doc__.startswith("Mean level.\n\nThe images fused,")
    assert "at least\n3 px" in mine.__doc__
    for bad, message in (
        (lambda fused: fused, r"takes \(fused\); expected"),
        (
            lambda fused, infrared, visible, data_range: fused,
            r"takes data_range; planes are always",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            metrics.metric("other", higher_is_better=True, bounds=(0, 1))(bad)


def test_every_function_is_exported_and_none_needs_torchmetrics_scipy_or_kornia() -> None:
    exported = [getattr(metrics, name) for name in metrics.__all__]
    assert all(DEFINITIONS[name].score in exported for name in STRICT.metrics)
    with pytest.raises(AttributeError, match="no attribute 'structural_similarity'"):
        _ = metrics.structural_similarity
    command = (
        "import sys, torch; from clipfuse.metrics import Scorer, ssim; p = torch.rand(1, 1, 41, 41); "
        "ssim(p, p, p); Scorer().score_all({'a': p}, p, p); "
        "print({'torchmetrics', 'scipy', 'kornia', 'torchvision'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)
    assert result.stdout == "set()\n"
