"""`clipfuse evaluate checkpoint=... data=...`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from clipfuse.cli.config import run_hydra
from clipfuse.errors import UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig


def main(arguments: Sequence[str]) -> None:
    """Compose `conf/evaluate.yaml` with the overrides and score."""
    if {"-m", "--multirun"} & set(arguments):
        raise UserError("evaluate takes one checkpoint at a time; call it once for each instead of -m")
    run_hydra("evaluate", arguments, _task)


def _task(config: "DictConfig") -> None:
    from clipfuse.cli.config import check_config
    from clipfuse.cli.repeat import command_line, run_dir_made
    from clipfuse.runs.evaluate import evaluate
    from clipfuse.runs.train import EvaluateSettings

    command = command_line("evaluate", config)
    with run_dir_made(config):
        check_config(config, EvaluateSettings, ("data", "loader", "metrics", "trainer"))
        evaluate(config, command)
