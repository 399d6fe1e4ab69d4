from math import isnan

import pytest
import torch

from clipfuse.metrics import FusionMetrics, Scorer
from clipfuse.metrics.protocols import PROTOCOLS

PLANES = torch.rand(3, 2, 1, 40, 44, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_scores_are_those_of_the_torchmetrics_class(protocol: str) -> None:
    metrics = FusionMetrics(protocol)
    metrics.update(*PLANES)
    found = Scorer(protocol).score_all({"ours": PLANES[0]}, *PLANES[1:])["ours"]
    means = metrics.compute()
    assert list(found) == list(means)
    for name, mean in means.items():
        assert found[name] == pytest.approx(float(mean), rel=1e-12, abs=1e-15, nan_ok=True)


def test_all_fusions_of_a_pair_have_the_scores_of_each_alone() -> None:
    scorer = Scorer("strict", ["EN", "SSIM", "Qabf", "kept-targets"])
    fused, infrared, visible = (plane[:1] for plane in PLANES)
    found = scorer.score_all({"ours": fused, "theirs": visible}, infrared, visible)
    assert list(found["ours"]) == ["EN", "SSIM", "Qabf"]  # there is no mask
    for name, plane in {"ours": fused, "theirs": visible}.items():
        assert found[name] == scorer.score_all({"alone": plane}, infrared, visible)["alone"]


def test_undefined_and_impossible_scores() -> None:
    small = PLANES[..., :8, :8]
    found = Scorer("strict", ["MS-SSIM"]).score_all({"": small[0]}, *small[1:])
    assert isnan(found[""]["MS-SSIM"])
    with pytest.raises(ValueError, match=r"EN: fused has values from .*; expected \[0, 1\]"):
        Scorer("strict", ["EN"]).score_all({"": PLANES[0] * 255}, *PLANES[1:])
