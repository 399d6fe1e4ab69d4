"""The words that mark a band."""

import pytest

from clipfuse.data.names import INFRARED_NAMES, SECOND_NAMES, VISIBLE_NAMES, Words


@pytest.mark.parametrize(
    ("name", "band", "rest"),
    [
        ("IR1", "infrared", "1"),
        ("VIS1", "visible", "1"),
        ("IR_x", "infrared", "x"),
        ("x-thermal-01", "infrared", "x-01"),
        ("x_rgb 01", "visible", "x_01"),
        ("FLIR_00002_RGB", "visible", "FLIR_00002"),
        ("thermal_8_bit", "infrared", "8_bit"),
        ("ThermalImages_7", "infrared", "7"),
        ("VisibleGray", "visible", "Gray"),
        ("fl_ir_aligned_01", "infrared", "fl_01"),
        ("VIS_RGB_3", "visible", "3"),
        ("rgb_ir_3", None, "rgb_ir_3"),
        ("FLIR_01", None, "FLIR_01"),
        ("RGBT234", None, "RGBT234"),
        ("virtual", None, "virtual"),
        ("stir_vision", None, "stir_vision"),
        ("0001i", None, "0001i"),
        ("夜_ir_夜", "infrared", "夜_夜"),
        ("", None, ""),
    ],
)
def test_the_band_of_a_file(name: str, band: str | None, rest: str) -> None:
    assert Words().of_file(name) == (band, rest)


@pytest.mark.parametrize(
    ("name", "band"),
    [
        *((word.upper(), "infrared") for word in INFRARED_NAMES),
        *((word.title(), "visible") for word in VISIBLE_NAMES),
        *((f"crop{word}", "infrared") for word in ("infrared", "ir")),
        *((f"train{word}s", "visible") for word in ("vi", "rgb")),
        ("crop_LR_visible", "visible"),
        ("Vis_Y", "visible"),
        ("irimages", "infrared"),
        ("ir_labels", None),
        ("Segmentation_vis", None),
        ("fused_ir", None),
        ("images", None),
    ],
)
def test_the_band_of_a_folder(name: str, band: str | None) -> None:
    assert Words().of_folder(name)[0] == band


def test_second_names_mark_a_band_only_where_they_are_asked_for() -> None:
    every = [("infrared", word) for word in SECOND_NAMES["infrared"]]
    every += [("visible", word) for word in SECOND_NAMES["visible"]]
    for band, word in every:
        assert Words().of_file(f"a_{word}") == (None, f"a_{word}")
        assert Words().with_second_names().of_file(f"a_{word}") == (band, "a")
    assert Words().with_second_names().of_file("trainimgr") == ("infrared", "")
    assert Words().with_second_names().of_file("valimg") == ("visible", "")


def test_words_and_folders_that_were_chosen_are_the_only_ones_of_their_band() -> None:
    chosen = Words(infrared=("lwir",)).with_second_names()
    assert [chosen.of_file(name)[0] for name in ("LWIR", "NIR", "i", "v")] == [
        "infrared",
        None,
        None,
        "visible",
    ]
    folder = Words(folders={"infrared": "flir"})
    assert folder.of_folder("FLIR") == ("infrared", "")
    assert folder.of_folder("thermal") == (None, "thermal")
    assert folder.of_folder("rgb")[0] == "visible"
    assert folder.of_file("thermal_1") == ("infrared", "1")
