import pytest
import torch

from clipfuse.metrics import FusionMetrics, Scorer
from clipfuse.metrics.protocols import PROTOCOLS, protocol_named
from clipfuse.metrics.scoring import image_scores

PLANES = torch.rand(3, 2, 1, 40, 44, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_mean_of_the_scores_is_that_of_the_torchmetrics_class(protocol: str) -> None:
    metrics = FusionMetrics(protocol)
    metrics.update(*PLANES)
    scorer = Scorer(protocol)
    scores = scorer.score(*PLANES)
    means = metrics.compute()
    assert list(scores) == list(means)
    for name, mean in means.items():
        assert scores[name].shape == (2,)
        torch.testing.assert_close(scores[name].mean(), mean, rtol=1e-12, atol=1e-15, equal_nan=True)


def test_all_fusions_of_a_pair_have_the_scores_of_each_alone() -> None:
    scorer = Scorer("strict", ["EN", "SSIM", "Qabf", "kept-targets"])
    fused, infrared, visible = (plane[:1] for plane in PLANES)
    found = scorer.score_all({"ours": fused, "theirs": visible}, infrared, visible)
    assert list(found["ours"]) == ["EN", "SSIM", "Qabf"]  # there is no mask
    for name, plane in {"ours": fused, "theirs": visible}.items():
        alone = scorer.score(plane, infrared, visible)
        assert found[name] == {metric: float(value) for metric, value in alone.items()}


def test_undefined_and_impossible_scores() -> None:
    strict = protocol_named("strict")
    small = PLANES[..., :8, :8]
    scores = image_scores(strict, "MS-SSIM", *small)
    assert scores is not None
    assert scores.isnan().all()
    assert image_scores(strict, "kept-targets", *PLANES) is None
    with pytest.raises(ValueError, match=r"EN: fused has values from .*; expected \[0, 1\]"):
        image_scores(strict, "EN", PLANES[0] * 255, *PLANES[1:])
