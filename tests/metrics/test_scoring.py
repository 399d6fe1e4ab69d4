import pytest
import torch

from clipfuse.metrics import FusionMetrics, Scorer, ssim, trivial_fusions


def pair(side: int = 48) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    infrared, visible = torch.rand(2, 1, 1, side, side, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(1, 1, side, side, dtype=torch.bool)
    mask[..., 10:20, 12:22] = True
    return infrared, visible, mask


@pytest.mark.parametrize("protocol", ["strict", "tang", "tang_uint8", "ivif_zoo", "vifb"])
def test_it_scores_as_the_classes_do_to_the_bit(protocol: str) -> None:
    infrared, visible, mask = pair()
    fusions = trivial_fusions(infrared, visible)
    scores = Scorer(protocol).score_all(fusions, infrared, visible, mask)
    assert list(scores) == list(fusions)
    for method, fused in fusions.items():
        metrics = FusionMetrics(protocol)
        metrics.update(fused, infrared, visible, target_mask=mask)
        means = {name: float(mean) for name, mean in metrics.compute().items()}
        assert list(scores[method]) == list(means)
        assert scores[method] == pytest.approx(means, rel=0, abs=0, nan_ok=True)


def test_vifb_takes_the_mean_over_colour_channels() -> None:
    generator = torch.Generator().manual_seed(1)
    fused, visible = torch.rand(2, 2, 3, 48, 52, generator=generator)
    infrared = torch.rand(2, 1, 48, 52, generator=generator)
    scorer = Scorer("vifb")
    row = scorer.score_all({"it": fused}, infrared, visible)["it"]
    channels = [
        scorer.score_all({"it": fused[:, c : c + 1]}, infrared, visible[:, c : c + 1])["it"] for c in range(3)
    ]
    metrics = FusionMetrics("vifb")
    metrics.update(fused, infrared, visible)
    for name, mean in metrics.compute().items():
        expected = sum(channel[name] for channel in channels) / 3
        assert row[name] == pytest.approx(expected, rel=1e-12), name
        assert float(mean) == pytest.approx(expected, rel=1e-12), name
    gray = scorer.score_all({"it": infrared}, infrared, visible[:, :1])["it"]
    colour = scorer.score_all({"it": infrared}, infrared, visible[:, :1].expand(-1, 3, -1, -1))["it"]
    assert gray == pytest.approx(colour, rel=1e-12)
    with pytest.raises(ValueError, match=r"fused has shape \(2, 3, 48, 52\); expected one luma plane"):
        Scorer("tang").score_all({"it": fused}, infrared, visible)


def test_what_is_not_defined_is_nan_and_what_needs_a_mask_is_left_out() -> None:
    infrared, visible, _ = pair(8)
    scores = Scorer(names=["SSIM", "VIF", "PSNR", "kept-targets"]).score_all(
        {"copy": infrared, "mean": (infrared + visible) / 2}, infrared, infrared
    )
    assert list(scores["copy"]) == ["PSNR", "SSIM", "VIF"]
    assert torch.tensor([scores["copy"]["PSNR"], scores["copy"]["VIF"]]).isnan().all()
    assert scores["mean"]["SSIM"] == ssim((infrared + visible) / 2, infrared, infrared).item()


def test_wrong_images_and_names_are_refused() -> None:
    infrared, visible, _ = pair()
    with pytest.raises(ValueError, match=r"EN: fused has values from .*; expected \[0, 1\]$"):
        Scorer(names="EN").score_all({"bright": 255 * infrared}, infrared, visible)
    with pytest.raises(ValueError, match="metric 'SSM' is unknown"):
        Scorer(names=["SSM"])
