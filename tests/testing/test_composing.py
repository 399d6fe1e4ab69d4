import os
from pathlib import Path

import pytest

from clipfuse.errors import UserError
from clipfuse.losses.clip_ratio import ClipRatioLoss
from clipfuse.testing.composing import loss_node
from clipfuse.testing.short_training import build_loss

CONFIG = """
defaults: [pixel@fidelity]
_target_: clipfuse.losses.clip_ratio.ClipRatioLoss
clip: ${clip}
guidance_weight: ${oc.select:accumulate,0}
"""


def test_a_file_is_composed_as_a_run_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "own files" / "loss" / "mine.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(CONFIG)
    monkeypatch.chdir(path.parent)
    for source in (path, str(path), "mine.yaml"):
        node = loss_node(source)
        assert node["clip"]["_target_"] == "clipfuse.clip.encoder.FrozenClip.load"
        assert node["fidelity"]["gradient_weight"] == 10.0
        assert node["guidance_weight"] == 1
    node = loss_node(path, "loss.fidelity.gradient_weight=2", "clip.model=other")
    assert (node["fidelity"]["gradient_weight"], node["clip"]["model"]) == (2.0, "other")
    assert type(build_loss(loss_node(path))) is ClipRatioLoss
    assert not list(tmp_path.rglob("runs"))
    assert os.listdir() == ["mine.yaml"]


def test_a_loss_that_a_run_knows_and_a_sum() -> None:
    assert loss_node("pixel", "loss.ssim_weight=2")["ssim_weight"] == 2.0
    node = loss_node("weighted_sum", "+loss.parts={pixel:1,clip_ratio:0.1}")
    assert node["of"]["clip_ratio"]["clip"]["model"] == "micro"


@pytest.mark.parametrize(
    ("source", "words", "message"),
    [
        ("conf/loss/absent.yaml", (), "expected a file in a folder loss, such as conf/loss/my_loss.yaml"),
        ("pixl", (), "Did you mean 'pixel'"),
        ("pixel", ("loss.gradient_wait=1",), "Did you mean 'loss.gradient_weight'"),
    ],
)
def test_what_a_run_would_refuse_is_refused(source: str, words: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        loss_node(source, *words)
