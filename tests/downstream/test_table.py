"""The table of scores: means, spreads, differences seed by seed, and what is not defined."""

from math import isnan, nan

from clipfuse.downstream.results import Result
from clipfuse.downstream.table import better_band, differences, mean_scores, result_table


def results(*scores: dict[str, float]) -> list[Result]:
    return [Result("p", seed, "", {}, "", "", 1.0, each, {}) for seed, each in enumerate(scores)]


FOUND = {
    "infrared": results({"mIoU": 40.0, "IoU/car": 30.0}, {"mIoU": 42.0, "IoU/car": 30.0}),
    "visible": results({"mIoU": 50.0, "IoU/car": 60.0}, {"mIoU": 54.0, "IoU/car": nan}),
    "both": results({"mIoU": 60.0, "IoU/car": 70.0}, {"mIoU": 62.0, "IoU/car": 70.0}),
    "fused": results({"mIoU": 55.0, "IoU/car": nan}, {"mIoU": 58.0, "IoU/car": nan}),
}


def test_the_gaps_are_those_to_both_bands_and_to_the_better_one() -> None:
    assert better_band(FOUND, "mIoU") == "visible"
    assert differences(FOUND["fused"], FOUND["visible"], "mIoU") == [5.0, 4.0]
    lines = result_table(FOUND, {"fused": "pixel, seed 3"}).splitlines()
    assert lines[0].split("  ")[0] == "source"
    assert lines[0].endswith("mIoU - both  mIoU - visible")
    (row,) = [line for line in lines if line.startswith("fused (pixel, seed 3)")]
    # 55 and 58: 56.5, sd 2.12; less 60 and 62: -5 and -4; less 50 and 54: 5 and 4
    assert row.split("  ")[1:] != []
    for cell in ("56.50 ± 2.12", "-4.50 ± 0.71", "+4.50 ± 0.71"):
        assert cell in row
    assert not next(line for line in lines if line.startswith("both")).rstrip().endswith("+0.00")


def test_what_is_not_defined_is_a_dash_and_no_zero() -> None:
    text = result_table(FOUND)
    by_class = text.split("\n\n")[1].splitlines()
    assert by_class[0].split() == ["IoU", "by", "class", "car"]
    cells = {line.split()[0]: line.split()[1] for line in by_class[2:]}
    assert cells == {"infrared": "30.00", "visible": "60.00", "both": "70.00", "fused": "-"}
    assert mean_scores(FOUND["visible"])["IoU/car"] == 60.0
    assert isnan(mean_scores(FOUND["fused"])["IoU/car"])


def test_kinds_of_images_are_shown_for_the_first_score_alone() -> None:
    found = {
        "infrared": results({"mIoU": 1.0, "mIoU_mfnet": 2.0, "mIoU/night": 3.0, "mIoU_mfnet/night": 4.0})
    }
    head = result_table(found).splitlines()[0].split()
    assert head == ["source", "mIoU", "mIoU_mfnet", "mIoU/night", "mIoU", "-", "infrared"]
    assert result_table({}) == "no score is defined"
