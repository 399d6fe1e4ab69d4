"""`clipfuse score` finds its files by names, and takes masks and maps of classes."""

import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Both bands in one folder, as IR1 and VIS1; a method that takes the visible names; maps of classes."""
    generator = np.random.default_rng(0)
    for number in range(3):
        infrared = generator.integers(0, 256, (48, 50)).astype(np.uint8)
        visible = generator.integers(0, 256, (48, 50, 3)).astype(np.uint8)
        classes = generator.integers(0, 4, (6, 5)).repeat(8, 0).repeat(10, 1).astype(np.uint8)
        images = {"both/IR": infrared, "both/VIS": visible, "ours/VIS": visible[..., 1], "labels/": classes}
        images |= {
            "masks/": 255 * np.isin(classes, (1, 2)).astype(np.uint8),
            "ones/": (classes == 1).astype(np.uint8),
        }
        for name, image in images.items():
            path = tmp_path / f"{name}{number}.png"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(image).save(path)
    return tmp_path


def score(clipfuse: Run, root: Path, *words: str) -> tuple[int, str, list[dict[str, str]], str]:
    sources = ["--infrared", f"{root}/both", "--visible", f"{root}/both", "--fused", f"{root}/ours"]
    file = root / "scores.csv"
    words = ("--metrics", "EN,target-contrast" if "--masks" in words else "EN", *words)
    code, out, errors = clipfuse("score", *sources, "--out", str(file), "--overwrite", *words)
    return code, out, list(csv.DictReader(file.open())) if file.exists() else [], errors


def test_names_that_mark_the_band(clipfuse: Run, root: Path) -> None:
    code, out, rows, errors = score(clipfuse, root)
    assert code == 0, errors
    assert "3 pairs: 3 by names that mark the band" in out
    assert [row["name"] for row in rows[:3]] == ["0", "1", "2"]
    shutil.copytree(root / "both", root / "two/ir")
    shutil.copytree(root / "both", root / "two/vi")
    for number in range(3):
        (root / f"two/ir/VIS{number}.png").unlink()
        (root / f"two/vi/IR{number}.png").unlink()
        (root / f"ours/VIS{number}.png").rename(root / f"ours/{number}.png")
    words = ["--infrared", f"{root}/two/ir", "--visible", f"{root}/two/vi"]
    assert score(clipfuse, root, *words)[2] == rows
    assert score(clipfuse, root, "--pairs", "IR{id} | VIS{id}")[2] == rows


def test_scores_do_not_depend_on_the_number_of_processes(
    clipfuse: Run, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "contrast_of_mine.py").write_text(
        "from clipfuse.metrics import metric\n\n\n"
        "@metric('contrast_of_mine', higher_is_better=True, bounds=(0, 255))\n"
        "def contrast(fused, infrared, visible):\n    return fused.amax((1, 2, 3))\n"
    )
    monkeypatch.chdir(tmp_path)
    words = ("--own", "contrast_of_mine.contrast", "--metrics", "full", "--workers")
    code, _, rows, errors = score(clipfuse, root, *words, "1")
    assert code == 0, errors
    code, _, others, errors = score(clipfuse, root, *words, "2")
    assert code == 0, errors
    assert others == rows
    assert float(rows[0]["contrast_of_mine"]) > 0
    assert "3/3" in errors
    code, _, _, errors = score(clipfuse, root, "--workers", "0")
    assert code == 2
    assert errors == "clipfuse: error: --workers is 0; expected a number of processes, 1 or more\n"


def test_classes_are_the_masks_they_make(clipfuse: Run, root: Path) -> None:
    words = ["--masks", f"{root}/labels", "--mask-classes"]
    code, _, rows, errors = score(clipfuse, root, *words, "1,2")
    assert code == 0, errors
    assert score(clipfuse, root, "--masks", f"{root}/masks")[2] == rows
    assert (
        score(clipfuse, root, "--masks", f"{root}/ones")[2] == score(clipfuse, root, *words, "1")[2] != rows
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--masks", "{root}/labels"],
            "labels/0.png: holds the values 0, 1, 2, 3; expected a mask of two values",
        ),
        (["--masks", "{root}/labels", "--mask-classes", "7"], "no mask holds the class 7"),
        (["--masks", "{root}/labels", "--mask-classes", "cars"], "--mask-classes is 'cars'"),
        (["--mask-classes", "1"], "--mask-classes has no effect without --masks"),
        (["--masks", "{root}/odd"], "1 of 3 pairs have no mask in"),
        (["--pairs", "IR{{id}}"], "expected two patterns"),
    ],
)
def test_what_is_refused(clipfuse: Run, root: Path, words: list[str], message: str) -> None:
    shutil.copytree(root / "labels", root / "odd")
    (root / "odd/0.png").unlink()
    code, _, rows, errors = score(clipfuse, root, *(word.format(root=root) for word in words))
    assert code == 2
    assert message in errors
    assert not rows


def test_a_spoiled_mask_or_source_is_found_before_the_first_score(clipfuse: Run, root: Path) -> None:
    (root / "both/IR2.png").write_bytes(b"no image")
    code, _, rows, errors = score(clipfuse, root)
    assert (code, rows) == (2, [])
    assert "IR2.png: cannot be read" in errors


def test_persons_and_cars_of_msrs_stand_out(clipfuse: Run, roadscene: Path, tmp_path: Path) -> None:
    """The labels hold kerbs and cones as well: half of their maximum picks these."""
    msrs = roadscene.parent / "msrs/test"
    names = sorted(path.name for path in (msrs / "Segmentation_labels").iterdir())
    chosen = [
        name for name in names if (np.array(Image.open(msrs / "Segmentation_labels" / name)) == 2).sum() > 100
    ][:6]
    for folder in ("ir", "vi", "Segmentation_labels"):
        (tmp_path / folder).mkdir()
        for name in chosen:
            (file,) = (msrs / folder).glob(f"{Path(name).stem}.*")
            shutil.copy(file, tmp_path / folder)
    words = ["--infrared", f"{tmp_path}/ir", "--visible", f"{tmp_path}/vi", "--fused", f"{tmp_path}/ir"]
    words += ["--masks", f"{tmp_path}/Segmentation_labels", "--metrics", "target-contrast", "--no-trivial"]
    code, _, errors = clipfuse("score", *words)
    assert code == 2
    assert "name those that are targets" in errors
    code, _, errors = clipfuse("score", *words, "--mask-classes", "2", "--out", f"{tmp_path}/s.csv")
    assert code == 0, errors
    contrast = [float(row["target-contrast"]) for row in csv.DictReader((tmp_path / "s.csv").open())]
    assert np.mean(contrast) > 0.3  # persons are warm
