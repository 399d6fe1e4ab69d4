import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from clipfuse import images
from clipfuse.decoding.ranges import Range, Ranges, read_ranges
from clipfuse.images import check_ranges, read_image
from clipfuse.ops.depth import to_unit

generator = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def nothing_warned_of(monkeypatch):
    monkeypatch.setattr(images, "_warned", set())


def both(limits, word):
    return Ranges(Range(limits, word), Range(limits, word))


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        (None, Ranges()),
        ("null", Ranges()),
        ([27000, 31000], both((27000, 31000), "[27000,31000]")),
        ((-20.5, 120), both((-20.5, 120), "[-20.5,120]")),
        ("27000,31000", both((27000, 31000), "[27000,31000]")),
        ("[27000, 31000]", both((27000, 31000), "[27000,31000]")),
        ("bits:14", both((0, 16383), "bits:14")),
        ("bits=12", both((0, 4095), "bits:12")),
        ("Percentile", both(None, "percentile")),
        ({"infrared": [1, 2]}, Ranges(Range((1, 2), "[1,2]"), None)),
        ({"infrared": None, "visible": "bits:12"}, Ranges(None, Range((0, 4095), "bits:12"))),
        ("infrared=1,2", Ranges(Range((1, 2), "[1,2]"), None)),
        ("visible=percentile", Ranges(None, Range(None, "percentile"))),
        (Ranges(), Ranges()),
    ],
)
def test_what_a_setting_means(setting, expected):
    assert read_ranges(setting) == expected
    assert bool(expected) == (expected != Ranges())


@pytest.mark.parametrize(
    "setting",
    [
        *("bits:8", "bits:33", "bits:0", "bits", "14", 14, "high", "1,2,3", "2,1", "1,1", "nan,1", "0,inf"),
        *([1], [1, 2, 3], [[1], 2], [False, True], {"lo": 1}, {"infrared": "x"}, "thermal=1,2", 1.5, True),
    ],
)
def test_what_is_no_range_is_named(setting, user_error):
    message = user_error(read_ranges, setting, "--range")
    assert message.startswith("--range")
    assert "expected null, [lo,hi], bits:N" in message


@pytest.mark.parametrize("kind", ["u1", "u2", "u4", "i2", "i4", "f4", "f8"])
def test_values_between_the_limits(kind):
    whole = kind[0] != "f"
    low, high = (np.iinfo(kind).min, np.iinfo(kind).max) if whole else (-300.0, 300.0)
    values = np.linspace(low, high, 1001).reshape(13, 77).astype(kind)
    limits = (low + 0.2 * (high - low), low + 0.7 * (high - low))
    slow = [
        (min(max(float(value), limits[0]), limits[1]) - limits[0]) / (limits[1] - limits[0])
        for value in values.flat
    ]
    unit = Range(limits, "").apply(values)
    assert unit.dtype == np.float32
    # Two roundings to float32: of the difference and of the quotient.
    assert np.abs(unit.ravel() - np.array(slow)).max() <= 2 * 2**-24
    assert unit.min() == 0
    assert unit.max() == 1


def test_percentiles_of_each_image():
    values = np.arange(100_001, dtype=np.float64).reshape(1, -1) - 50
    unit = Range(None, "percentile").apply(values)
    # The limits are 100 and 99,900 places from the first value.
    assert unit[0, 100] == 0
    assert unit[0, 99_900] == 1
    assert unit[0, 50_000] == pytest.approx(0.5, abs=1e-6)
    assert (np.diff(unit) >= 0).all()


def test_a_flat_image_is_black_or_white():
    assert Range(None, "percentile").apply(np.full((4, 4), 7000, np.uint16)).max() == 0
    assert Range((0.0, 100.0), "").apply(np.full((4, 4), 7000, np.uint16)).min() == 1


KELVIN = (generator.random((9, 11)) * 40 + 280).astype(np.float32)


@pytest.mark.parametrize(
    "array",
    [
        KELVIN,
        KELVIN.astype(np.float64),
        (KELVIN * 100).astype(np.uint16),
        (KELVIN * 100).astype(np.int32),
        (KELVIN * 100).astype(np.uint32),
        ((KELVIN - 300) * 100).astype(np.int16),
    ],
)
def test_files_that_a_range_makes_readable(tmp_path, array):
    tifffile.imwrite(tmp_path / "a.tif", array)
    low, high = float(array.min()), float(array.max())
    read = read_image(tmp_path / "a.tif", Range((low, high), ""))
    assert read.dtype == torch.float32
    expected = (array.astype(np.float64) - low) / (high - low)
    assert np.abs(read[0].numpy() - expected).max() < 1e-6


@pytest.mark.parametrize(
    "array",
    [
        KELVIN,
        (KELVIN * 100).astype(np.int32),
        (KELVIN * 100).astype(np.uint32),
        ((KELVIN - 300) * 100).astype(np.int16),
    ],
)
def test_without_a_range_they_are_refused_with_the_one_that_fits(tmp_path, array, user_error):
    tifffile.imwrite(tmp_path / "a.tif", array)
    message = user_error(read_image, tmp_path / "a.tif")
    assert f"data.range=[{array.min():g},{array.max():g}]" in message
    assert f"--range={array.min():g},{array.max():g}" in message


def test_a_12_bit_file_is_not_dark(tmp_path):
    array = generator.integers(0, 4096, (9, 11), dtype=np.uint16)
    array[0, :2] = 0, 4095
    tifffile.imwrite(tmp_path / "a.tif", array, bitspersample=12)
    read = read_image(tmp_path / "a.tif")
    assert float(read.min()) == 0
    assert float(read.max()) == 1
    assert np.abs(read[0].numpy() - array / 4095.0).max() < 1e-7
    stretched = read_image(tmp_path / "a.tif", Range((1000.0, 2000.0), ""))
    assert np.abs(stretched[0].numpy() - ((array - 1000.0) / 1000).clip(0, 1)).max() < 1e-6


def test_8_bit_files_are_read_as_they_are(tmp_path):
    array = generator.integers(0, 256, (9, 11), dtype=np.uint8)
    Image.fromarray(array).save(tmp_path / "a.png")
    read = read_image(tmp_path / "a.png", Range((10.0, 20.0), ""))
    assert torch.equal(to_unit(read), torch.from_numpy(array[None]) / 255)


def folder_of(folder, low, high, count=20, white=65535, **last):
    folder.mkdir()
    for index in range(count):
        array = generator.integers(low, high + 1, (9, 11)).astype(np.uint16)
        array[0, :2] = low, high
        Image.fromarray(array).save(folder / f"{index}.png")
    return [folder / f"{index}.png" for index in range(count)]


def test_a_small_part_of_the_range_is_one_warning_with_the_numbers(tmp_path, caplog):
    thermal = folder_of(tmp_path / "ir", 7012, 8190)
    visible = folder_of(tmp_path / "vi", 100, 60000)
    pairs = list(zip(thermal, visible, strict=True))
    check_ranges(pairs, Ranges())
    check_ranges(pairs, Ranges())
    (record,) = caplog.records
    text = record.getMessage()
    assert text.startswith(
        f"{thermal[0]} and its like (8 looked at) hold values 7012 to 8190, most 7012 to 8190, 1.8 % "
    )
    assert "0 to 65535" in text
    assert "set data.range=[7012,8190] or bits:14" in text
    caplog.clear()
    check_ranges(pairs, read_ranges("bits:14"))
    check_ranges(pairs, read_ranges({"infrared": "bits:14"}))
    assert not caplog.records


def test_one_hot_pixel_does_not_hide_it(tmp_path, caplog):
    (thermal,) = folder_of(tmp_path / "ir", 7012, 8190, 1)
    array = np.tile(np.array(Image.open(thermal)), (20, 20))
    array[3, 3] = 65535
    Image.fromarray(array).save(thermal)
    check_ranges([(thermal, thermal)], Ranges(), "--range={},{}")
    assert "hold values 7012 to 65535, most 7012 to 81" in caplog.text


@pytest.mark.parametrize(("low", "high"), [(0, 40000), (5000, 5000), (0, 0)])
def test_whole_and_flat_images_are_no_matter(tmp_path, caplog, low, high):
    files = folder_of(tmp_path / "ir", low, high, 3)
    check_ranges([(path, path) for path in files], Ranges())
    assert not caplog.records


def test_a_range_without_effect_is_a_warning(tmp_path, caplog):
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "a.png")
    check_ranges([(tmp_path / "a.png", tmp_path / "a.png")], read_ranges("bits:14"), "--range={},{}")
    assert caplog.messages == [
        f"--range has no effect: {tmp_path}/a.png and its like have 8 bits, and are read as they are"
    ]
