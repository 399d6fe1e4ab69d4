"""Single checks of `clipfuse doctor`; the command as a whole: test_commands.py."""

import csv
import re
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from clipfuse.cli import doctor
from clipfuse.errors import UserError


def test_a_folder_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert doctor._folder() == f"{tmp_path} can be written"
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(UserError, match="cannot be written; run folders need another run_dir"):
        doctor._folder()


def test_gpus_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert doctor._compute().endswith("; no GPU")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"Card {index}")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    assert doctor._compute().endswith("; GPU: Card 0, Card 1 (bf16 no)")


@pytest.mark.parametrize(("mode", "words"), [("online", "found: "), ("offline", "none: ")])
def test_the_login_of_wandb(monkeypatch: pytest.MonkeyPatch, mode: str, words: str) -> None:
    monkeypatch.setattr("clipfuse.tracking.wandb_run.login_mode", lambda: mode)
    assert doctor._wandb_login().startswith(words)


def test_weights_are_fetched_by_model_and_tag(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []
    monkeypatch.setattr(
        "clipfuse.clip.loading.find_weights", lambda *names: asked.append(names) or Path("/cache/w.bin")
    )
    assert doctor.main(["--download", "ViT-B-32", "openai"]) == 0
    assert doctor.main(["--download", "hf-hub:a/b", "-"]) == 0
    for words in (["--pairs", "data"], ["--out", "a.csv"], ["--overwrite"]):
        with pytest.raises(
            UserError, match="fetches weights and does nothing else: leave out --pairs, --out"
        ):
            doctor.main(["--download", "ViT-B-32", "openai", *words])
    assert asked == [("ViT-B-32", "openai"), ("hf-hub:a/b", None)]
    assert "clip.pretrained=/path/to/it" in capsys.readouterr().out


def test_shifted_pairs_are_flagged(clipfuse: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    for index in range(7):
        visible = cv2.blur(
            np.random.default_rng(index).integers(0, 256, (96, 128)).astype(np.float32), (7, 7)
        )
        levels = ((visible - 100) * 4).clip(0, 255).astype(np.uint8)
        infrared = np.roll(255 - levels, (1, 5 if index == 3 else 1), (0, 1))
        for band, image in (("ir", infrared), ("vi", levels if index < 6 else np.zeros_like(levels))):
            (tmp_path / "pairs" / band).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(tmp_path / "pairs" / band / f"{index}.png"), image)
    words = ("doctor", "--pairs", str(tmp_path / "pairs"), "--out", str(tmp_path / "shifts.csv"))
    code, printed, error = clipfuse(*words)
    assert code == 1, error
    lines = printed.splitlines()
    head = next(index for index, line in enumerate(lines) if line.startswith("pair "))
    assert re.fullmatch(r"3 +\+[45]\.\d\d +\+[01]\.\d\d +[34]\.\d\d +\d+\.\d\d  flagged", lines[head + 1])
    assert lines[head + 7].startswith("6  ")
    assert lines[head + 7].endswith("not known")
    assert "1 of 7 pairs lie more than 2.25 px from there" in printed
    assert "warning: the whole set is shifted" in printed
    assert "1 of 7 shifts are not known" in printed
    rows = list(csv.DictReader((tmp_path / "shifts.csv").open()))
    assert [row["verdict"] for row in rows] == ["flagged", *["ok"] * 5, "not known"]
    assert clipfuse(*words)[0] == 2
    for band in ("ir", "vi"):
        (tmp_path / "pairs" / band / "3.png").unlink()
    assert clipfuse(*words, "--overwrite")[0] == 0
    assert "are for --pairs" in clipfuse("doctor", "--overwrite")[2]
