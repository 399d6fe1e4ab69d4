"""`clipfuse fuse --loss` and `--compare-losses`, with tiny networks in place of those of the package."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from clipfuse.backbones.student import Student
from clipfuse.images import read_image
from clipfuse.networks.weights import write_safetensors

Clipfuse = Callable[..., tuple[int, str, str]]


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the weights of two losses, which differ."""
    folder = tmp_path / "weights"
    folder.mkdir()
    node = {"_target_": "clipfuse.backbones.student.Student", "width": 4, "chroma": False}
    for share, name in enumerate(("pixel", "ldfusion")):
        network = Student(width=4)
        assert network.fine.bias is not None
        network.fine.bias.data += share
        write_safetensors(folder / f"{name}.safetensors", node, network)
    monkeypatch.setattr("clipfuse.networks.by_loss.FOLDER", folder)
    return folder


def test_a_loss_is_a_file_of_the_package(
    clipfuse: Clipfuse, weights: Path, pairs_folder: Path, tmp_path: Path
) -> None:
    sources = ["--infrared", f"{pairs_folder}/test/ir", "--visible", f"{pairs_folder}/test/vi", "--out"]
    choices = {
        "a": ["--loss", "ldfusion"],
        "b": ["--checkpoint", f"{weights}/ldfusion.safetensors"],
        "c": ["--loss", "pixel"],
    }
    for name, words in choices.items():
        code, _, errors = clipfuse("fuse", *words, *sources, str(tmp_path / name))
        assert code == 0, errors
    first, same, other = (read_image(tmp_path / name / "test-0.png") for name in choices)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_one_page_of_all_losses(
    clipfuse: Clipfuse, weights: Path, pairs_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clipfuse.cli.fuse_losses.PAIRS", 3)
    words = ["--infrared", f"{pairs_folder}/train/ir", "--visible", f"{pairs_folder}/train/vi"]
    page = tmp_path / "new/losses.html"
    code, output, errors = clipfuse("fuse", "--compare-losses", *words, "--out", str(page))
    assert code == 0, errors
    assert f"written: {page}, 2 losses; 3 of 7 pairs, evenly spread; " in output
    found = re.search(r'id="data">(.*?)</script>', page.read_text())
    assert found is not None
    images = json.loads(found[1])["images"]
    assert list(images) == ["train-0", "train-2", "train-4"]
    assert list(images["train-0"]) == ["infrared", "visible", "average", "maximum", "pixel", "ldfusion"]
    assert len(set(images["train-0"].values())) == 6
    code, _, errors = clipfuse("fuse", "--compare-losses", *words, "--out", str(page))
    assert (code, "already" in errors or "exists" in errors) == (2, True)
    code, output, _ = clipfuse(
        "fuse", *words, "--compare-losses", "ldfusion", "--luma", "--out", str(page), "--overwrite"
    )
    assert (code, ", 1 loss; 3 of 7 pairs, " in output) == (0, True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--loss", "task", "--out", "o"], "the weights of the loss task are not in this package"),
        (["--loss", "pixl", "--out", "o"], "no weights of a loss 'pixl'"),
        (["--compare-losses", "pixel", "own", "--out", "o.html"], "Losses with weights: pixel, ldfusion"),
        (
            ["--compare-losses", "--out", "o"],
            "--out o: --compare-losses writes one page; name a file such as",
        ),
        (["--compare-losses", "--codec", "MJPG", "--out", "o.html"], "--codec is for videos"),
        (
            ["--compare-losses", "--trust", "mine", "--out", "o.html"],
            "--trust is for the classes that a --check",
        ),
        (
            ["--loss", "pixel", "--trust", "mine", "--out", "o"],
            "--trust is for the classes that a --checkpoint",
        ),
        (["--compare-losses", "--infrared", "gone", "--out", "o.html"], "gone"),
    ],
)
def test_mistakes_are_one_line(
    clipfuse: Clipfuse,
    weights: Path,
    pairs_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    sources = ["--infrared", f"{pairs_folder}/test/ir", "--visible", f"{pairs_folder}/test/vi"]
    code, _, errors = clipfuse("fuse", *sources, *words)
    assert code == 2
    assert message in errors
    assert errors.count("\n") == 1
    assert {path.name for path in tmp_path.iterdir()} == {"weights"}


@pytest.mark.parametrize("other", [["--network", "student"], ["--checkpoint", "x"], ["--compare-losses"]])
def test_a_loss_and_another_network(
    clipfuse: Clipfuse, other: list[str], capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit) as stopped:
        clipfuse("fuse", "--loss", "pixel", *other, "--infrared", "i", "--visible", "v", "--out", "o")
    assert stopped.value.code == 2
    assert re.search(
        rf"error: argument {other[0]}: not allowed with argument --loss\n$", capsys.readouterr().err
    )
