"""Settings without effect are named before a training, and in its folder."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra import initialize_config_dir
from omegaconf import DictConfig

from clipfuse.cli.options import conf_dir
from clipfuse.cli.parts import join_parts
from clipfuse.errors import UserError
from clipfuse.runs import train as module
from clipfuse.runs.train import train

Config = Callable[..., DictConfig]
PROMPTS = ["loss=promptfusion", "loss.fidelity.decomposition_weight=0"]
STOP = "+callbacks.stop={_target_: lightning.pytorch.callbacks.EarlyStopping, monitor: val/loss/total, "
STOP += "patience: 5}"


def joined(config: DictConfig) -> None:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        join_parts(config)


class Stopped(Exception):
    """What would have been trained is not."""


@pytest.fixture
def found(tiny_config: Config, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Return the notices about a training of six updates, and train nothing."""

    def stop(*arguments: Any, **keywords: Any) -> Any:
        raise Stopped(arguments[6])

    monkeypatch.setattr(module, "recorded", stop)

    def call(*words: str) -> list[str]:
        config = tiny_config(*words)
        joined(config)
        with pytest.raises(Stopped) as caught:
            train(config)
        (notices,) = caught.value.args
        assert isinstance(notices, list)
        return notices

    return call


def test_nothing_is_named_where_all_has_its_effect(found: Callable[..., list[str]]) -> None:
    assert found() == []
    assert found(*PROMPTS, "loss.warmup=2", "solver.every=2") == []
    assert found("loss=ldfusion", "scheduler=milestones", "scheduler.warmup=0.5") == []
    assert found("loss=text_weights", "backbone.chroma=true") == []


def test_a_weight_of_a_chroma_that_is_kept_is_named(found: Callable[..., list[str]]) -> None:
    (line,) = found("loss=weighted_sum", "+loss.parts={text_weights: 1}")
    assert line == (
        "loss.of.text_weights.chroma_weight=12.0 has no effect: the network keeps the chroma of the visible "
        "image; backbone.chroma=true lets it learn"
    )


@pytest.mark.parametrize(
    ("words", "notices"),
    [
        (
            PROMPTS,
            [
                "loss.warmup=100 outlasts the 6 updates of this run: .* lower loss.warmup or raise steps",
                "solver.every=10 ",
            ],
        ),
        ([*PROMPTS, "loss.warmup=6", "solver.every=1"], ["loss.warmup=6 outlasts the 6 updates"]),
        (
            [*PROMPTS, "loss.warmup=0", "loss.guidance_weight=0", "solver.every=1"],
            ["loss.guidance_weight=0: the network is trained by the fidelity alone"],
        ),
        (
            [*PROMPTS, "loss.warmup=0", "loss.ranking_weight=0", "loss.margin=0.2", "solver.every=1"],
            ["loss.margin=0.2 has no effect: ranking_weight is 0"],
        ),
        (
            [*PROMPTS, "loss.warmup=0", "loss.prompts=fixed", "loss.ranking_weight=2"],
            [
                "loss.ranking_weight=2 has no effect: fixed prompts are not trained",
                "solver._target_=ValuePenalty has no effect: the loss 'promptfusion' has no lower level",
            ],
        ),
        (
            ["loss=ldfusion", "loss.patch_weight=0", "loss.patches=4"],
            ["loss.patches=4 has no effect: patch_weight is 0"],
        ),
        (
            ["loss=ldfusion", "loss.loss_threshold=0.5"],
            ["loss.loss_threshold=0.5 has no effect: patch_filter is entropy"],
        ),
        (
            ["loss=ldfusion", "loss.similarity_weight=0", "loss.visible_share=0.3"],
            ["loss.visible_share=0.3 has no"],
        ),
        (
            ["loss=ldfusion", "loss.perceptual_weight=0", "loss.perceptual=clip"],
            ["loss.perceptual=clip has no effect"],
        ),
        (
            ["loss=weighted_sum", "+loss.parts={pixel:1,ldfusion:0}"],
            ["loss.parts.ldfusion=0 leaves this part out"],
        ),
        (
            [
                "loss=weighted_sum",
                "+loss.parts={pixel:1,promptfusion:1}",
                "+loss.of.promptfusion.fidelity.decomposition_weight=0",
            ],
            [
                "loss.of.promptfusion.warmup=100 outlasts .* lower loss.of.promptfusion.warmup",
                "solver.every=10 ",
            ],
        ),
        (["validate_every=7"], ["validate_every=7 lies beyond the 6 updates"]),
        (["scheduler.warmup=1"], ["scheduler.warmup=1.*rises through the whole run"]),
        (
            ["scheduler.warmup=0.01"],
            ["scheduler.warmup=0.01 has no effect: it is less than one of 6 updates"],
        ),
        (
            ["scheduler=milestones", "scheduler.at=[0.5,0.99]"],
            ["scheduler.at: 1 of 2 milestones lie at the end"],
        ),
        (
            ["solver.lower_weight=2"],
            ["solver.lower_weight=2 has no effect: the loss 'pixel' has no lower level"],
        ),
        (
            ["trainer.log_every_n_steps=50"],
            ["trainer.log_every_n_steps=50: the curves get no row of the 6 updates"],
        ),
        (["ema=0.999"], ["ema=0.999 averages over some 1000 updates, and the run has 6"]),
        (["clip=vit_b32_openai"], ["clip.model=.* has no effect: the loss 'pixel' uses no CLIP"]),
        ([STOP], ["callbacks.stop.patience=5 is never used up: the run has 2 validations"]),
    ],
    ids=lambda value: value[-1].partition("=")[0] if isinstance(value, list) and value else "",
)
def test_what_has_no_effect_is_named(
    found: Callable[..., list[str]], words: list[str], notices: list[str]
) -> None:
    got = found(*words)
    assert len(got) == len(notices), got
    for one, pattern in zip(got, notices, strict=True):
        assert re.match(pattern, one), one


def test_a_notice_is_shown_once_and_kept_in_the_folder(
    tiny_config: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(tiny_config("validate_every=9", "test=false"))
    line = "validate_every=9 lies beyond the 6 updates of this run, which is validated once"
    assert caplog.text.count(line) == 1
    assert (tmp_path / "run/notes/settings.txt").read_text() == f"{line}\n"


def test_a_checkpoint_that_auto_resume_passes_over_is_named(
    tiny_config: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tiny_config("test=false", f"run_dir={tmp_path / 'other'}"))
    with monkeypatch.context() as patch:
        patch.setattr("clipfuse.runs.train.print_scores", lambda *_: (_ for _ in ()).throw(KeyError()))
        patch.setattr(
            "clipfuse.training.module.FusionModule.test_step", lambda *_: (_ for _ in ()).throw(KeyError())
        )
        with pytest.raises(KeyError):
            train(tiny_config())
    train(tiny_config("auto_resume=true", f"checkpoint={tmp_path / 'other/checkpoints/last.ckpt'}"))
    assert "last.ckpt has no effect: auto_resume=true goes on from " in caplog.text


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (["loss=promptfusion"], "loss.fidelity.decomposition_weight"),
        (["loss.decomposition_weight=2"], "loss.decomposition_weight"),
        (["loss=clip_ratio", "loss.fidelity.decomposition_weight=2"], "loss.fidelity.decomposition_weight"),
        (
            ["loss=weighted_sum", "+loss.parts={promptfusion:1}"],
            "loss.of.promptfusion.fidelity.decomposition_weight",
        ),
    ],
)
def test_the_remedy_names_the_setting_where_it_lies(tiny_config: Config, words: list[str], key: str) -> None:
    def run(*more: str) -> None:
        config = tiny_config(*words, *more, "test=false", "steps=1", "validate_every=1", "overwrite=true")
        joined(config)
        train(config)

    with pytest.raises(UserError, match=rf"take a contourlet backbone, or set {re.escape(key)}=0$"):
        run()
    run(f"++{key}=0")
