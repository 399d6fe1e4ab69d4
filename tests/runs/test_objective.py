"""Which scores can be the objective, and which way is better."""

from collections.abc import Callable

import pytest

from clipfuse.metrics.base import RunMetrics
from clipfuse.runs.objective import check_objective, check_selection, higher_is_better

METRICS = RunMetrics(validation=["SSIM", "MSE"], test=["VIF"])


@pytest.mark.parametrize(
    ("name", "test"),
    [
        *(("val/metric/SSIM", False), ("test/VIF", True), ("val/loss/total", False), ("loss", False)),
        *(("val/loss/pixel/edges", True), ("train/loss/pixel/edges", False), ("train/loss/total", True)),
    ],
)
def test_what_is_logged_is_taken(name: str, test: bool) -> None:
    check_objective(name, METRICS, test, "pixel")


@pytest.mark.parametrize(
    ("name", "test", "message"),
    [
        (
            "val/SSIM",
            True,
            "Did you mean 'val/metric/SSIM'? Known are val/metric/MSE, val/metric/SSIM, val/loss/total, ",
        ),
        ("val/metric/VIF", True, "objective is val/metric/VIF, which nothing logs"),
        ("SSIM", False, "Known are val/metric/MSE, val/metric/SSIM, val/loss/total, "),
        ("val/loss", False, "Did you mean 'val/loss/total'?"),
        ("test/SSIM", True, "or add a metric to metrics"),
        ("test/VIF", False, "test=false computes no scores on the test images; take one of validation"),
        ("val/loss/ldfusion/edges", False, "and val/loss/pixel/TERM"),
        ("", False, "which nothing logs"),
    ],
)
def test_what_is_not_logged_is_refused(
    name: str, test: bool, message: str, user_error: Callable[..., str]
) -> None:
    assert message in user_error(check_objective, name, METRICS, test, "pixel")


def test_a_loss_that_is_not_known_yet_may_have_any_term() -> None:
    check_objective("val/loss/ldfusion/edges", METRICS, False)


def test_a_selection_on_test_scores_is_asked_for_twice(user_error: Callable[..., str]) -> None:
    assert "add objective_on_test=true" in user_error(check_selection, "test/SSIM", False)
    check_selection("test/SSIM", True)
    check_selection("val/metric/SSIM", False)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        *(
            ("val/metric/SSIM", True),
            ("val/metric/MSE", False),
            ("test/VIF", True),
            ("val/loss/total", False),
        ),
        *(("loss", False), ("val/metric/other", None)),
    ],
)
def test_which_way_is_better(name: str, expected: bool | None) -> None:
    assert higher_is_better(name, METRICS) is expected
