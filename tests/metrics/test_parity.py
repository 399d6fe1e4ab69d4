"""The metrics against what the published code computes, on 27 triples of images."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from clipfuse.metrics.protocols import CDDFUSE, GOLDEN, STRICT, Protocol

# The golden record calls the sum of two VIFp "VIFF".
RECORDED = {name: "VIFF" if name == "VIF" else name for name in GOLDEN}
# 0/0 in the record, and ours by definition: a correlation with a constant is 0.
DEFINED_BY_US = {"CC", "SCD"}


class Record:
    def __init__(self, path: Path) -> None:
        self.file = np.load(path)
        self.cases = list(self.file["case_names"])
        self.columns = {
            **dict(zip(self.file["metric_names"], self.file["values_f64"].T, strict=True)),
            **dict(zip(self.file["extra_names"], self.file["values_extra"].T, strict=True)),
        }

    def planes(self, case: str) -> list[Tensor]:
        return [torch.from_numpy(self.file[f"{case}/{key}"]).double()[None, None] for key in "FAB"]


@pytest.fixture(scope="module", params=["synthetic", "real"])
def record(request: pytest.FixtureRequest) -> Record:
    if request.param == "synthetic":
        return Record(Path(__file__).parents[1] / "golden" / "metrics.npz")
    folder = os.environ.get("CLIPFUSE_GOLDEN")
    if folder is None:
        pytest.skip("CLIPFUSE_GOLDEN is not set: the record on real images is not on this machine")
    return Record(Path(folder) / "metrics_real.npz")


def score(protocol: Protocol, name: str, planes: list[Tensor]) -> float:
    options = protocol.options.get(name, {})
    return protocol.definition(name).score(*planes, data_range=255, **options).item()


def check(
    record: Record, name: str, column: str, ours: Callable[[list[Tensor]], float], relative: float = 1e-9
) -> int:
    """Compare all cases; returns their number. Absolute 1e-12: correlations of noise are near 0."""
    compared = 0
    for case, expected in zip(record.cases, record.columns[column], strict=True):
        planes = record.planes(case)
        if name == "VIF" and min(planes[0].shape[2:]) < 41:
            with pytest.raises(ValueError, match=r"VIF: fused is .* px; expected sides of at least 41 px"):
                ours(planes)
            continue
        value = ours(planes)
        if np.isnan(expected):
            assert name in DEFINED_BY_US, case
            assert np.isfinite(value), case
            continue
        assert value == pytest.approx(expected, rel=relative, abs=1e-12), case
        compared += 1
    return compared


@pytest.mark.parametrize("name", [name for name in GOLDEN if name != "SSIM"])
def test_cddfuse_gives_the_published_values(record: Record, name: str) -> None:
    # VIF: where a flat region's variance is under 1e-10 the rounding decides what is counted.
    relative = 1e-6 if name == "VIF" else 1e-9
    compared = check(record, name, RECORDED[name], lambda planes: score(CDDFUSE, name, planes), relative)
    assert compared >= len(record.cases) // 2


@pytest.mark.parametrize(
    ("column", "tolerance"), [("SSIM_f64_data_range_2", 1e-9), ("SSIM_f32_data_range_2", 2e-4)]
)
def test_cddfuse_gives_the_published_ssim(record: Record, column: str, tolerance: float) -> None:
    # 2e-4 absolute: single precision of the original, cancelling in flat windows.
    for case, expected in zip(record.cases, record.columns[column], strict=True):
        ours = score(CDDFUSE, "SSIM", record.planes(case))
        if tolerance == 1e-9:
            assert ours == pytest.approx(expected, rel=1e-9, abs=1e-12), case
        else:
            assert ours == pytest.approx(expected, abs=tolerance), case


@pytest.mark.parametrize("name", ["EN", "SD", "SF", "AG", "MSE", "CC", "SCD", "VIF"])
def test_strict_keeps_the_published_values(record: Record, name: str) -> None:
    relative = 1e-6 if name == "VIF" else 1e-9
    assert check(record, name, RECORDED[name], lambda planes: score(STRICT, name, planes), relative)


def test_strict_ssim_has_range_255(record: Record) -> None:
    assert check(record, "SSIM", "SSIM_f64_data_range_255", lambda planes: score(STRICT, "SSIM", planes))


def test_strict_mutual_information_is_in_bits(record: Record) -> None:
    assert check(record, "MI", "MI", lambda planes: score(STRICT, "MI", planes) * np.log(2))


def test_strict_psnr_has_peak_255(record: Record) -> None:
    for case, error in zip(record.cases, record.columns["MSE"], strict=True):
        expected = np.inf if error == 0 else 10 * np.log10(255**2 / error)
        assert score(STRICT, "PSNR", record.planes(case)) == pytest.approx(expected, rel=1e-9), case


def test_strict_qabf_repairs_two_flaws(record: Record) -> None:
    for case in record.cases:
        planes = record.planes(case)
        ours = score(STRICT, "Qabf", planes)
        assert ours == pytest.approx(qabf(*(plane[0, 0].numpy() for plane in planes)), rel=1e-9), case


def qabf(fused: np.ndarray, infrared: np.ndarray, visible: np.ndarray) -> float:
    """Qabf as Xydeas and Petrovic write it: equal gradients have ratio 1, angles wrap."""
    from scipy.signal import convolve2d

    kernel = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])

    def gradient(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x, y = (convolve2d(image, k, mode="same") for k in (kernel, kernel.T[::-1]))
        safe = np.where(x == 0, 1, x)
        return np.hypot(x, y), np.where(x == 0, np.pi / 2, np.arctan(y / safe))

    strength_f, angle_f = gradient(fused)
    above = below = 0.0
    for strength, angle in (gradient(infrared), gradient(visible)):
        small, large = np.minimum(strength, strength_f), np.maximum(strength, strength_f)
        ratio = np.where(large == small, 1, small / np.where(large == 0, 1, large))
        turn = np.abs(angle - angle_f)
        alignment = 1 - np.minimum(turn, np.pi - turn) / (np.pi / 2)
        kept = 0.9994 / (1 + np.exp(-15 * (ratio - 0.5))) * 0.9879 / (1 + np.exp(-22 * (alignment - 0.8)))
        above += (kept * strength).sum()
        below += strength.sum()
    return above / below if below else 0.9994 / (1 + np.exp(-7.5)) * 0.9879 / (1 + np.exp(-22 * 0.2))
