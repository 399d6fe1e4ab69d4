"""The parts of a sum of losses are composed as if each were the loss of the run."""

from collections.abc import Callable

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from clipfuse.cli.config import conf_dir
from clipfuse.cli.parts import join_parts
from clipfuse.errors import UserError


@pytest.fixture
def joined() -> Callable[..., DictConfig]:
    def compose_and_join(*words: str) -> DictConfig:
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            config = compose("train", ["name=test", *words], return_hydra_config=True)
            HydraConfig.instance().set_config(config)
            join_parts(config)
        return config

    return compose_and_join


def test_a_part_holds_its_file_with_the_users_settings_over_it(joined: Callable[..., DictConfig]) -> None:
    alone = joined("loss=pixel").loss
    config = joined(
        "loss=weighted_sum", "+loss.parts={pixel:1,clip_ratio:0.2}", "+loss.of.pixel.gradient_weight=7"
    )
    assert set(config.loss.of) == {"pixel", "clip_ratio"}
    part = OmegaConf.to_container(config.loss.of.pixel)
    assert part == {**OmegaConf.to_container(alone), "gradient_weight": 7}
    assert config.loss.parts == {"pixel": 1, "clip_ratio": 0.2}


def test_a_part_of_weight_0_is_left_out(joined: Callable[..., DictConfig]) -> None:
    config = joined("loss=weighted_sum", "+loss.parts={pixel:1,ldfusion:0}")
    assert set(config.loss.of) == {"pixel"}


def test_the_solver_of_a_part_is_that_of_the_sum(joined: Callable[..., DictConfig]) -> None:
    alone = joined("loss=promptfusion").solver
    assert alone != joined("loss=pixel").solver
    assert joined("loss=weighted_sum", "+loss.parts={pixel:1,promptfusion:1}").solver == alone


def test_another_loss_is_left_as_it_is(joined: Callable[..., DictConfig]) -> None:
    assert "of" not in joined("loss=ldfusion").loss


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "loss.parts must be given"),
        (("+loss.parts={pixle:1}",), "loss.parts: unknown loss 'pixle'. Did you mean 'pixel'?"),
        (("+loss.parts={pixle:0}",), "loss.parts: unknown loss 'pixle'"),
        (
            ("+loss.parts={pixel:1}", "+loss.of.ldfusion.patches=3"),
            "loss.of.ldfusion: loss.parts has no 'ldfusion', only pixel",
        ),
    ],
)
def test_what_is_no_part_is_named(
    joined: Callable[..., DictConfig], words: tuple[str, ...], message: str
) -> None:
    with pytest.raises(UserError) as refused:
        joined("loss=weighted_sum", *words)
    assert message in str(refused.value)
