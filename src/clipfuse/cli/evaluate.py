"""`clipfuse evaluate checkpoint=... data=...`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from clipfuse.cli.launch import COMPOSED, run_composed, run_hydra
from clipfuse.errors import UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig


def main(arguments: Sequence[str]) -> None:
    """Compose `conf/evaluate.yaml` with the overrides and score."""
    if {"-m", "--multirun"} & set(arguments):
        raise UserError("evaluate takes one checkpoint at a time; call it once for each instead of -m")
    if COMPOSED in arguments[:1]:
        return run_composed("evaluate", arguments[1], _check, _evaluate)
    run_hydra("evaluate", arguments, _check, _evaluate)


def _check(config: "DictConfig") -> None:
    from clipfuse.cli.config import check_config
    from clipfuse.runs.train import EvaluateSettings

    check_config(config, EvaluateSettings, ("data", "loader", "metrics", "trainer"))


def _evaluate(config: "DictConfig") -> None:
    from clipfuse.cli.repeat import command_line
    from clipfuse.runs.evaluate import evaluate

    evaluate(config, command_line("evaluate", config))
