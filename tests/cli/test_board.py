"""`clipfuse score --json --html` and `clipfuse board`, as a user runs them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

Run = Callable[..., tuple[int, str, str]]
CHEAP = "EN,SD,CC,kept-structure"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four pairs of two scenes, and two methods."""
    root = tmp_path_factory.mktemp("folders") / "road/test"
    generator = np.random.default_rng(0)
    for name in ("s1_1", "s1_2", "s2_1", "s2_2"):
        infrared = generator.integers(0, 256, (32, 40))
        visible = generator.integers(0, 256, (32, 40, 3))
        images = {"ir": infrared, "vi": visible, "mean": (infrared[..., None] + visible) // 2}
        images["max"] = np.maximum(infrared, visible.mean(-1))
        for folder, image in images.items():
            (root / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.astype(np.uint8)).save(root / folder / f"{name}.png")
    return root


def words(root: Path, *more: str) -> list[str]:
    sources = [f"--infrared={root / 'ir'}", f"--visible={root / 'vi'}", "--metrics", CHEAP, "--workers=1"]
    return ["score", *sources, *more]


def test_results_of_two_people_become_one_page(clipfuse: Run, folders: Path, tmp_path: Path) -> None:
    results, html = tmp_path / "results", tmp_path / "score.html"
    assert "--images nowhere: no such folder" in clipfuse("board", str(tmp_path), "--images", "nowhere")[2]
    one = [f"--fused=my mean={folders / 'mean'}", f"--fused=max={folders / 'max'}", "--scenes=^s."]
    one += ["--parameters=max=10", "--seconds=max=0.5", "--device=a thread"]
    code, text, errors = clipfuse(*words(folders, *one, f"--json={results}/", f"--html={html}"))
    assert code == 0, errors
    names = {f"{name}@road.json" for name in ("my-mean", "max")}
    trivial = {f"trivial-{name}@road.json" for name in ("infrared", "visible", "average", "maximum")}
    assert {path.name for path in results.iterdir()} == names | trivial
    assert str(results / "max@road.json") in text
    content = json.loads((results / "max@road.json").read_text())
    assert [pair["scene"] for pair in content["pairs"].values()] == ["s1", "s1", "s2", "s2"]
    assert content["about"] == {"max": {"parameters": 10, "seconds": 0.5, "device": "a thread"}}
    assert content["set"] == "road"  # test is the name of a part
    assert html.read_text().count("data:image/webp") == 4 * 4  # both bands, both methods
    again = words(folders, f"--fused=third={folders / 'mean'}", f"--json={results}/third.json")
    assert clipfuse(*again)[0] == 0
    out = tmp_path / "board.html"
    code, text, errors = clipfuse("board", str(results), f"--out={out}")
    assert code == 0, errors
    assert "road by strict-2: 4 images of 2 scenes" in text
    assert {"my mean", "third", "max"} <= {line.split("  ")[0] for line in text.splitlines()}
    assert out.stat().st_size > 10_000
    code, _, errors = clipfuse("board", str(results), f"--out={out}")
    assert code == 2
    assert "board.html" in errors


def test_degraded_pairs_carry_their_record(clipfuse: Run, folders: Path, tmp_path: Path) -> None:
    degraded = tmp_path / "noise-2"
    degraded.mkdir()
    record = {"protocol": "degraded-1", "kind": "noise", "strength": 2, "set": "road"}
    (degraded / "degradation.json").write_text(json.dumps(record))
    fused = f"--fused=mean={folders / 'mean'}"
    code, _, errors = clipfuse(
        *words(folders, fused, f"--degraded={degraded}", f"--json={tmp_path / 'a.json'}")
    )
    assert code == 0, errors
    content = json.loads((tmp_path / "a.json").read_text())
    known = {key: value for key, value in record.items() if key != "set"}
    assert content["degradation"] == known | {"against": "clean"}
    assert list(content["scores"]) == ["mean"]  # trivial fusions would be of the clean pairs
    for band in ("ir", "vi"):
        (degraded / band).symlink_to(folders / band)
    mixed = words(folders, fused, f"--json={tmp_path / 'c.json'}")
    mixed[1] = f"--infrared={degraded / 'ir'}"
    code, _, errors = clipfuse(*mixed)
    assert (code, errors.count("\n")) == (2, 1)
    assert "has no degradation.json; expected both bands of one kind and strength" in errors
    absent = f"--degraded={degraded / 'nowhere'}"
    code, _, errors = clipfuse(*words(folders, fused, absent, f"--json={tmp_path / 'c.json'}"))
    assert (code, "no such folder; expected one that clipfuse degrade has written" in errors) == (2, True)
    assert clipfuse(*words(degraded, fused, f"--json={tmp_path / 'b.json'}"))[0] == 0
    content = json.loads((tmp_path / "b.json").read_text())
    assert (content["set"], content["degradation"]["against"]) == ("road", "degraded")


def test_copies_of_an_image_are_named_and_share_a_scene(clipfuse: Run, folders: Path, tmp_path: Path) -> None:
    for folder in ("ir", "vi", "mean"):
        (tmp_path / folder).mkdir()
        for place, name in enumerate(("s1_1", "s1_2", "s1_1")):
            shutil.copy(folders / folder / f"{name}.png", tmp_path / folder / f"{place}.png")
    fused = f"--fused=mean={tmp_path / 'mean'}"
    code, _, errors = clipfuse(*words(tmp_path, fused, f"--json={tmp_path / 'a.json'}"))
    assert code == 0, errors
    assert "warning: 1 image is a copy of another one under its own name" in errors
    content = json.loads((tmp_path / "a.json").read_text())
    assert [pair["scene"] for pair in content["pairs"].values()] == ["0", "1", "0"]


def test_two_methods_of_one_file_are_told_to_change_a_label(
    clipfuse: Run, folders: Path, tmp_path: Path
) -> None:
    both = [f"--fused={label}={folders / 'mean'}" for label in ("a b", "a-b")]
    code, _, errors = clipfuse(*words(folders, *both, f"--json={tmp_path}/"))
    assert code == 2
    assert "a-b@road.json; choose a file for each, or labels of --fused that differ in letters" in errors


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--set=x"], "--set has no effect without --json or --html"),
        (["--json={out}", "--parameters=other=3"], "no --fused is called 'other'; there are mean, max"),
        (["--json={out}", "--parameters=3"], "there are 2 methods; expected LABEL=3"),
        (["--json={out}", "--seconds=mean=fast"], "--seconds mean=fast: expected a number above 0"),
        (["--json={out}", "--parameters=mean=1.5"], "--parameters 1.5: expected a whole number"),
        (
            ["--json={out}", "--seconds=mean=1", "--seconds=mean=2"],
            "--seconds mean=2: --seconds of 'mean' is given twice",
        ),
        (["--json={out}", "--device=a thread"], "--device has no effect without --seconds"),
        (["--json={out}", "--degraded={root}"], "holds no degradation.json"),
        (["--json={out}", "--scenes=nothing"], "--scenes=nothing: 's1_1' does not match"),
        (["--json={out}", "--html={out}"], "two of --out, --json and --html are"),
        (["--json={out}", "--set=a\nb"], "cannot be printed"),
    ],
)
def test_mistakes_are_one_line(
    clipfuse: Run, folders: Path, tmp_path: Path, more: list[str], message: str
) -> None:
    given = [word.format(out=tmp_path / "out.json", root=tmp_path) for word in more]
    both = [f"--fused=mean={folders / 'mean'}", f"--fused=max={folders / 'max'}"]
    code, _, errors = clipfuse(*words(folders, *both, *given))
    assert code == 2
    assert message in errors
    assert len([line for line in errors.splitlines() if line.startswith("clipfuse: error")]) == 1
    assert not (tmp_path / "out.json").exists()
