"""`clipfuse score`, as a user runs it."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from clipfuse.metrics.protocols import protocol_listing
from clipfuse.ops.vgg import _layers

Run = Callable[..., tuple[int, str, str]]
CHEAP = "EN,SD,CC,SSIM"
SOURCES = {"infrared": "ir", "visible": "vi"}


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Three pairs, gray infrared and colour visible, and two methods: "ours" in colour, "theirs" in gray."""
    generator = np.random.default_rng(0)
    for name in ("a", "b", "c10"):
        infrared = generator.integers(0, 256, (48, 50))
        visible = generator.integers(0, 256, (48, 50, 3))
        fused = (infrared[..., None] + visible) // 2
        for folder, image, suffix in (
            ("ir", infrared, "png"),
            ("vi", visible, "bmp"),
            ("ours", fused, "png"),
            ("theirs", np.maximum(infrared, visible.mean(-1)), "tif"),
        ):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(image.astype(np.uint8)).save(tmp_path / folder / f"{name}.{suffix}")
    return tmp_path


def sources(folder: Path) -> list[str]:
    return ["--infrared", str(folder / "ir"), "--visible", str(folder / "vi")]


def test_table_csv_and_json(clipfuse: Run, folders: Path) -> None:
    out, means = folders / "scores" / "out.csv", folders / "means.json"
    both = ["--fused", str(folders / "ours"), "--fused", f"maximum={folders / 'theirs'}"]
    code, text, errors = clipfuse(
        "score",
        *both,
        *sources(folders),
        "--metrics",
        f"{CHEAP},PSNR,Qcv",
        "--out",
        str(out),
        "--json",
        str(means),
    )
    assert code == 0, errors
    assert "protocol strict-2" in text
    assert "Qcv ↓*" in text
    assert "* from the description, not checked against the published code: Qcv" in text
    header = text.splitlines()[0].split()
    trivial = [f"trivial:{name}" for name in ("infrared", "visible", "average", "maximum")]
    assert header == ["metric", "ours", "maximum", *trivial]
    rows = list(csv.DictReader(out.open()))
    assert list(rows[0]) == ["method", "name", "EN", "SD", "CC", "PSNR", "SSIM", "Qcv", "protocol"]
    assert {row["protocol"] for row in rows} == {"strict-2"}
    assert [row["name"] for row in rows[:3]] == ["a", "b", "c10"]
    assert len(rows) == 6 * 3
    record = json.loads(means.read_text())
    assert record["protocol"] == "strict-2"
    for method, values in record["methods"].items():
        for name, mean in values.items():
            scores = [float(row[name]) for row in rows if row["method"] == method]
            assert mean == pytest.approx(np.mean(scores), rel=1e-12)
    assert record["unchecked"] == ["Qcv"]
    assert record["methods"]["trivial:infrared"]["SSIM"] > 1  # it equals one of its sources


def test_the_ranks_of_the_table(clipfuse: Run, folders: Path) -> None:
    both = ["--fused", str(folders / "ours"), "--fused", f"again={folders / 'ours'}"]
    _, text, _ = clipfuse("score", *both, *sources(folders), "--metrics", "EN,MSE", "--no-trivial")
    lines = text.splitlines()
    assert lines[2].count("(1)") == 2  # equal means share their rank
    assert lines[4].split() == ["rank,", "classic-1", "↓", "1.00", "1.00"]
    _, text, _ = clipfuse("score", *both[:2], *sources(folders), "--metrics", "MSE")
    ranks = text.splitlines()[2].split("MSE ↓")[1]
    assert "trivial" in text
    assert "(1)" in ranks
    assert ranks.count("(3)") == 3  # the bands and their maximum tie


def test_a_protocol_changes_numbers(clipfuse: Run, folders: Path) -> None:
    command = ["score", "--fused", str(folders / "ours"), *sources(folders), "--metrics", "MI,EN", "--json"]
    values = []
    for protocol, version in {"strict": 2, "cddfuse": 1}.items():
        code, text, _ = clipfuse(*command, str(folders / f"{protocol}.json"), "--protocol", protocol)
        assert code == 0
        assert f"protocol {protocol}-{version}" in text
        values.append(json.loads((folders / f"{protocol}.json").read_text())["methods"]["ours"])
    assert values[0]["EN"] == values[1]["EN"]
    assert values[0]["MI"] * np.log(2) == pytest.approx(values[1]["MI"])


def test_too_small_images_are_said_to_be_left_out(clipfuse: Run, folders: Path) -> None:
    command = ["score", "--fused", str(folders / "ours"), *sources(folders), "--metrics", "MS-SSIM"]
    code, text, _ = clipfuse(*command, "--json", str(folders / "m.json"))
    assert code == 0
    assert "MS-SSIM is not defined for 3 of 3 images of ours (it needs sides of 161 px)" in text
    record = json.loads((folders / "m.json").read_text())
    assert record["methods"]["ours"] == {"MS-SSIM": None}
    assert record["undefined"]["ours"] == {"MS-SSIM": 3}


def test_target_masks(clipfuse: Run, folders: Path) -> None:
    (folders / "masks").mkdir()
    for number, name in enumerate(("a", "b", "c10")):
        mask = np.zeros((48, 50), dtype=np.uint8)
        mask[20:25, 20:25] = 255 * (number > 0)
        Image.fromarray(mask).save(folders / "masks" / f"{name}.png")
    command = [
        "score",
        "--fused",
        str(folders / "ours"),
        *sources(folders),
        "--metrics",
        "target-contrast,SD",
    ]
    code, text, _ = clipfuse(*command, "--masks", str(folders / "masks"))
    assert code == 0
    assert "target-contrast is not defined for 1 of 3 images of ours" in text
    for path in (folders / "masks").iterdir():  # labels instead of pictures
        Image.fromarray(np.asarray(Image.open(path)) // 255).save(path)
    assert clipfuse(*command, "--masks", str(folders / "masks"))[1] == text
    code, _, errors = clipfuse(*command)
    assert code == 2
    assert "--metrics target-contrast needs target masks; add --masks" in errors


def test_labels_names_and_ties(clipfuse: Run, folders: Path) -> None:
    (folders / "ours").rename(folders / "lr=0.1")
    words = ["--fused", str(folders / "lr=0.1"), "--fused", f"max={folders / 'theirs'}", *sources(folders)]
    code, text, errors = clipfuse("score", *words, "--metrics", " EN , FMI-pixel,", "--no-trivial")
    assert code == 0, errors
    assert text.splitlines()[0].split() == ["metric", "lr=0.1", "max"]
    # Either band is as near to both bands as the other: what rounding tells apart is a tie.
    _, text, _ = clipfuse("score", *words, "--metrics", "FMI-pixel")
    assert text.splitlines()[2].count("(1)") == 2


@pytest.mark.parametrize(
    ("change", "words", "message"),
    [
        (
            lambda f: [path.rename(path.with_stem(f"{path.stem}_F")) for path in (f / "ours").iterdir()],
            [],
            "0 of 3 source images have a name that all folders have; expected half or more (source a, "
            "ours a_F)",
        ),
        (
            lambda f: [(f / f"ours/{name}.png").rename(f / f"ours/{name}_F.png") for name in ("a", "b")],
            [],
            "1 of 3 source images have a name that all folders have",
        ),
        (
            lambda f: Image.new("L", (50, 47)).save(f / "ours/b.png"),
            [],
            "1 of 3 images differ in size from their partners",
        ),
        (lambda f: (f / "ours/b.png").write_bytes(b"no"), [], "ours/b.png: cannot be read"),
        (None, ["--protocol", "cdfuse"], "unknown protocol 'cdfuse'. Did you mean 'cddfuse'?"),
        (None, ["--metrics", "SSMI"], "metric 'SSMI' is unknown to protocol strict-2. Did you mean 'SSIM'?"),
        (None, ["--fused", "{folder}/other/ours"], "are both called 'ours'; label them, as in LABEL="),
        (None, ["--fused", "trivial:average={folder}/ours"], "the label 'trivial:average' is taken"),
        (None, ["--fused", "{folder}/nowhere"], "nowhere: no such folder"),
        (None, ["--fused", "=nowhere"], "--fused =nowhere: expected a folder, or LABEL=folder"),
        (None, ["--out", "{folder}/m.json"], "two of --out, --json and --html are"),
        (None, ["--out", "{folder}/ours"], "ours is a folder; name a file"),
        (None, ["--out", "{folder}/ours/a.png/x.csv"], "ours/a.png: cannot be written to"),
        (None, ["--out", "{folder}/ours/a.png"], "is there already; choose another file or add --overwrite"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else None,
)
def test_mistakes_are_one_line(clipfuse: Run, folders: Path, change, words, message) -> None:
    if change:
        change(folders)
    words = [word.format(folder=folders) for word in words]
    metrics = [] if "--metrics" in words else ["--metrics", CHEAP]
    command = ["score", "--fused", str(folders / "ours"), *sources(folders), *metrics, *words]
    code, _, errors = clipfuse(*command, "--json", str(folders / "m.json"))
    assert code == 2
    assert message in errors
    assert len([line for line in errors.splitlines() if line.startswith("clipfuse: error")]) == 1
    assert "Traceback" not in errors
    assert not (folders / "m.json").exists()


@pytest.fixture(scope="module")
def saturated_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two test pairs of full colours under another light in the infrared band, and one in gray."""
    root = tmp_path_factory.mktemp("saturated")
    generator = np.random.default_rng(0)
    for name in ("a", "b", "gray"):
        infrared = np.kron(generator.integers(0, 256, (6, 8)), np.ones((8, 8)))
        colors = np.kron(255 * generator.integers(0, 2, (12, 16, 3)), np.ones((4, 4, 1)))
        visible = colors[..., 0] if name == "gray" else colors
        for band, image in (("ir", infrared), ("vi", visible)):
            path = root / "test" / band / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.astype(np.uint8)).save(path)
    return root


def test_images_that_not_all_folders_have_are_left_out_and_counted(clipfuse: Run, folders: Path) -> None:
    means = folders / "m.json"
    both = ["--fused", str(folders / "ours"), "--fused", str(folders / "theirs"), *sources(folders)]
    words = ["--metrics", CHEAP, "--json", str(means), "--overwrite"]
    assert clipfuse("score", *both, *words)[0] == 0
    whole = json.loads(means.read_text())
    assert whole["left_out"] == {}
    for number in range(7):
        shutil.copy(folders / "ours/a.png", folders / f"ours/more{number}.png")
    code, text, errors = clipfuse("score", *both, *words)
    assert code == 0, errors
    more = "more0, more1, more2, more3, more4, ..."
    assert f"left out: 7 images of ours whose name not all folders have: {more}" in text
    record = json.loads(means.read_text())
    assert record.pop("left_out") == {"ours": 7}
    assert record == {key: value for key, value in whole.items() if key != "left_out"}
    # Where a method lacks an image, the others are scored.
    (folders / "theirs/b.tif").unlink()
    code, text, errors = clipfuse("score", *both, *words)
    assert code == 0, errors
    assert "2 images; luma" in text
    assert "left out: 1 images of source whose name not all folders have: b" in text
    assert json.loads(means.read_text())["left_out"] == {"source": 1, "ours": 8}


def test_what_is_scored_is_what_is_written(
    clipfuse: Run, trained: Path, saturated_folder: Path, tmp_path: Path
) -> None:
    """`evaluate`, its gray and colour files, and those of `fuse` have one luma, to the level."""
    checkpoint, run = trained / "checkpoints/last.ckpt", tmp_path / "run"
    words = ("data=folder", f"data.root={saturated_folder}", "trainer=cpu")
    assert clipfuse("evaluate", f"checkpoint={checkpoint}", f"run_dir={run}", *words)[0] == 0
    bands = [f"--{word}={saturated_folder / 'test' / band}" for word, band in SOURCES.items()]
    folders = {"gray": run / "test/fused", "colour": run / "test/color"}
    for label, luma in (("luma", ["--luma"]), ("fused", [])):
        folders[label] = tmp_path / label
        words = ("fuse", f"--checkpoint={checkpoint}", f"--out={folders[label]}", *bands, *luma)
        assert clipfuse(*words)[0] == 0
    for path in (tmp_path / "luma").iterdir():
        assert Image.open(path).mode == "L"
        assert path.read_bytes() == (run / "test/fused" / path.name).read_bytes()
        assert (Image.open(tmp_path / "fused" / path.name).mode == "L") == (path.stem == "gray")
    out = tmp_path / "scores.csv"
    fused = [f"--fused={label}={folder}" for label, folder in folders.items()]
    assert clipfuse("score", *fused, *bands, f"--out={out}", "--no-trivial")[0] == 0
    written = {row["name"]: row for row in csv.DictReader((run / "test/per_image.csv").open())}
    rows = list(csv.DictReader(out.open()))
    assert len(rows) == 4 * 3
    compared = 0
    for row in rows:
        for name in row.keys() - {"method", "name", "protocol"}:
            expected = float(written[row["name"]][name])
            assert float(row[name]) == pytest.approx(expected, rel=1e-9, nan_ok=True), (row["method"], name)
            compared += np.isfinite(expected)
    assert compared > 4 * 3 * 20


def test_a_protocol_of_colour_channels_scores_the_colour_files(
    clipfuse: Run, trained: Path, saturated_folder: Path, tmp_path: Path
) -> None:
    run, out = tmp_path / "run", tmp_path / "scores.csv"
    words = ("data=folder", f"data.root={saturated_folder}", "trainer=cpu", "metrics.protocol=vifb")
    code, text, _ = clipfuse(
        "evaluate", f"checkpoint={trained}/checkpoints/last.ckpt", f"run_dir={run}", *words
    )
    assert code == 0
    assert "protocol vifb-2" in text
    bands = [f"--{word}={saturated_folder / 'test' / band}" for word, band in SOURCES.items()]
    fused = f"--fused={run / 'test/color'}"
    code, text, _ = clipfuse("score", fused, *bands, f"--out={out}", "--protocol", "vifb")
    assert code == 0
    assert "3 images; each channel of colour images, 8 bit" in text
    written = list(csv.DictReader((run / "test/per_image.csv").open()))
    scored = [row for row in csv.DictReader(out.open()) if row["method"] == "color"]
    for one, other in zip(written, scored, strict=True):
        for name in other.keys() - {"method", "name", "protocol"}:
            assert float(one[name]) == pytest.approx(float(other[name]), rel=1e-9), name
    _, luma, _ = clipfuse("score", f"--fused={run / 'test/fused'}", *bands, "--protocol", "vifb")
    assert luma.splitlines()[2] != text.splitlines()[2]  # gray files are three equal channels: other numbers


def test_the_protocols_are_listed_where_none_is_named(clipfuse: Run, folders: Path) -> None:
    for words in ([], ["--fused", str(folders / "ours"), *sources(folders)]):
        code, text, _ = clipfuse("score", *words, "--protocol")
        assert code == 0
        assert text == f"{protocol_listing()}\n"


@pytest.mark.parametrize("data", ["folder", "synthetic"])
def test_equals_what_evaluate_writes(
    clipfuse: Run, trained: Path, pairs_folder: Path, tmp_path: Path, data: str
) -> None:
    run = tmp_path / "run"
    chosen = (f"data.root={pairs_folder}",) if data == "folder" else ("data.test=2", "save_sources=true")
    code, text, errors = clipfuse(
        *("evaluate", f"checkpoint={trained}/checkpoints/last.ckpt", f"run_dir={run}", "trainer=cpu"),
        *(f"data={data}", *chosen),
    )
    assert code == 0, errors
    assert "protocol strict-2" in text
    folder = pairs_folder / "test" if data == "folder" else run / "test"
    names = ("ir", "vi") if data == "folder" else ("infrared", "visible")
    words = ["--infrared", str(folder / names[0]), "--visible", str(folder / names[1])]
    words += ["--masks", str(folder / "masks")] if data == "synthetic" else []
    out = tmp_path / "scores.csv"
    code, _, errors = clipfuse("score", "--fused", str(run / "test/fused"), *words, "--out", str(out))
    assert code == 0, errors
    written = list(csv.DictReader((run / "test/per_image.csv").open()))
    scored = [row for row in csv.DictReader(out.open()) if row["method"] == "fused"]
    assert len(written) == len(scored) == 2
    for one, other in zip(written, scored, strict=True):
        assert one.keys() - {"scene"} == other.keys() - {"method"}
        assert one.pop("name") == other["name"]
        assert one.pop("scene")
        assert one.pop("protocol") == other["protocol"]
        for name, value in one.items():
            assert float(value) == pytest.approx(float(other[name]), rel=1e-12, nan_ok=True), name
    assert ("target-contrast" in written[0]) == (data == "synthetic")


def test_lpips_needs_weights_and_takes_part_then(clipfuse: Run, folders: Path, tmp_path: Path) -> None:
    words = ["score", "--fused", str(folders / "ours"), *sources(folders), "--no-trivial"]
    code, _, error = clipfuse(*words, "--metrics", "LPIPS")
    assert code == 2
    assert "'LPIPS' needs a file with the weights of VGG16 or AlexNet" in error
    assert "--lpips-weights FILE of score" in error
    code, _, error = clipfuse(*words, "--lpips-weights", str(tmp_path / "none.pth"))
    assert code == 2
    assert "no file of vgg16 or alexnet's weights at" in error
    state = {f"features.{name}": value for name, value in _layers("alexnet").state_dict().items()}
    torch.save(state, tmp_path / "alexnet.pth")
    code, out, error = clipfuse(*words, "--metrics", "EN", "--lpips-weights", str(tmp_path / "alexnet.pth"))
    assert code == 0, error
    assert "LPIPS ↓" in out
    assert "LPIPS by alexnet, with other weights than the published ones" in out
