from math import isnan, nan

import pytest

from clipfuse.runs.results import TestWriter


def test_a_panel_has_a_row() -> None:
    with pytest.raises(ValueError, match="panel_rows is 0; expected 1 or more"):
        TestWriter("runs/x", panel_rows=0)


def test_columns_have_a_score_per_image_where_the_metric_is_defined() -> None:
    writer = TestWriter("runs/x")
    writer.scores = [
        {"name": "a", "scene": "s", "SSIM": 1.0},
        {"name": "b", "scene": "s", "SSIM": nan, "target-contrast": 0.5},
    ]
    found = writer.columns()
    assert list(found) == ["SSIM", "target-contrast"]
    assert found["SSIM"][0] == 1.0
    assert isnan(found["SSIM"][1])
    assert isnan(found["target-contrast"][0])
