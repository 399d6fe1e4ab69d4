"""`clipfuse evaluate checkpoint=... data=...`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from clipfuse.cli.config import run_hydra

if TYPE_CHECKING:
    from omegaconf import DictConfig


def main(arguments: Sequence[str]) -> None:
    """Compose `conf/evaluate.yaml` with the overrides and score."""
    run_hydra("evaluate", arguments, _task)


def _task(config: "DictConfig") -> float | None:
    from clipfuse.cli.config import check_config
    from clipfuse.engine.run import EvaluateSettings, evaluate

    check_config(config, EvaluateSettings)
    return evaluate(config)
