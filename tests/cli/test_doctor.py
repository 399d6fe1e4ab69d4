"""Single checks of `clipfuse doctor`; the command as a whole: test_commands.py."""

from pathlib import Path

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
    assert asked == [("ViT-B-32", "openai"), ("hf-hub:a/b", None)]
    assert "clip.pretrained=/path/to/it" in capsys.readouterr().out
