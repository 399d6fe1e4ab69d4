"""From a composed configuration to a finished run folder."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Annotated, Any

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig
from pydantic import Field
from torch import nn

from clipfuse.bilevel import Joint, Solver
from clipfuse.errors import UserError, reason
from clipfuse.losses.base import BilevelLoss, FusionLoss
from clipfuse.ops.settings import leaves, plugin_name
from clipfuse.runs.build import build, build_all
from clipfuse.runs.composed import texts
from clipfuse.runs.contract import read_tuning
from clipfuse.runs.cost import Cost
from clipfuse.runs.downstream import forget_judging, planned_judging
from clipfuse.runs.folder import lies_in
from clipfuse.runs.notices import notices
from clipfuse.runs.objective import check_objective, higher_is_better
from clipfuse.runs.owner import owned
from clipfuse.runs.record import run_record
from clipfuse.runs.results import TestWriter
from clipfuse.runs.resume import find_start, resume_notices
from clipfuse.runs.session import print_scores, rank_leads, recorded
from clipfuse.runs.trainer import check_callbacks, check_trainer, make_trainer, watch_scores
from clipfuse.tracking.base import SummaryLogger
from clipfuse.training.checkpoints import CheckpointFiles, LastCheckpoint
from clipfuse.training.interrupts import stopped_early
from clipfuse.training.module import FusionModule
from clipfuse.training.stepping import lower_parameters

log = logging.getLogger(__name__)


@dataclass
class TrainSettings:
    """The keys of `conf/train.yaml` beside its groups; types and limits are checked before a run."""

    name: str
    seed: Annotated[int, Field(ge=0, lt=2**31)]
    steps: Annotated[int, Field(ge=1)]
    validate_every: Annotated[int, Field(ge=1)]
    accumulate: Annotated[int, Field(ge=1)]
    gradient_clip: Annotated[float, Field(gt=0)] | None
    input_noise: Annotated[float, Field(ge=0, le=1)]
    ema: Annotated[float, Field(gt=0, lt=1)] | None
    skip_nonfinite: Annotated[int, Field(ge=0)]
    objective: str
    objective_on_test: bool
    checkpoint: str | None
    auto_resume: bool
    run_dir: str
    overwrite: bool
    test: bool
    tuning: dict[str, Any] | None
    downstream_seeds: list[Annotated[int, Field(ge=0, lt=2**31)]]


@dataclass
class EvaluateSettings:
    """The keys of `conf/evaluate.yaml` beside its groups."""

    name: str
    checkpoint: str
    run_dir: str
    overwrite: bool
    save_sources: bool
    trust: list[str]


def train(config: DictConfig, command: str | None = None) -> float | None:
    """Train, test the last weights, and leave a run folder.

    Args:
        config: `conf/train.yaml`, composed.
        command: the command line that repeats the run, for `command.txt`.

    Returns:
        The objective, for sweeps; None where it was not logged.

    Raises:
        UserError: the configuration cannot work, another process owns the run folder, or the loss is no
            longer finite.
    """
    check_trainer(config)
    with owned(Path(config.run_dir), rank_leads()):
        return _train(config, Path(config.run_dir), command)


def _train(config: DictConfig, folder: Path, command: str | None) -> float | None:
    # The network's start must not depend on what the other constructors draw.
    L.seed_everything(config.seed, workers=True, verbose=False)
    backbone = build(config.backbone, "backbone")
    loss = build(config.loss, "loss")
    if not isinstance(loss, FusionLoss):
        raise UserError(f"loss._target_ is {config.loss._target_}; expected a subclass of FusionLoss")
    solver = _solver(config, loss)
    source = build(config.data, "data")
    metrics = build(config.metrics, "metrics")
    for key in {"source", "accumulate", "seed"} & config.loader.keys():
        raise UserError(f"loader.{key} is set by each run itself; use data, accumulate or seed")
    data = build(config.loader, "loader", source=source, accumulate=config.accumulate, seed=config.seed)
    optimizer = build(config.optimizer, "optimizer")
    scheduler = build(config.scheduler, "scheduler")
    _try_schedule(optimizer, scheduler, config.steps)
    record = run_record(config, source, metrics, loss)
    read_tuning(record)
    _check_network_is_recorded(record["backbone"])
    start = find_start(config.checkpoint, config.auto_resume, folder, record)
    if start.finished is not None:
        early = start.finished.get("reason")
        more = f" ({early}); checkpoint=last goes on with it" if early else "; nothing is left to do"
        print(f"{folder} holds this run, finished{more}")
        return start.finished.get("objective")
    module = FusionModule(
        backbone,
        loss,
        optimizer,
        scheduler,
        metrics.test,
        metrics.validation,
        seed=config.seed,
        accumulate=config.accumulate,
        gradient_clip=config.gradient_clip,
        input_noise=config.input_noise,
        skip_nonfinite=config.skip_nonfinite,
        solver=solver,
        config=record,
    )
    module.objective = config.objective
    callbacks = build_all(config.get("callbacks"), "callbacks")
    names = [str(key) for key, node in (config.get("callbacks") or {}).items() if node is not None]
    check_callbacks(names, callbacks)
    if config.auto_resume and not any(isinstance(callback, LastCheckpoint) for callback in callbacks):
        raise UserError("auto_resume=true needs the checkpoint that callbacks.last writes; leave it in")
    scores = [f"val/metric/{name}" for name in metrics.validation.names] + ["val/loss/total"]
    watch_scores(names, callbacks, scores, loss.name)
    check_objective(config.objective, metrics, config.test, loss.name)
    judging = planned_judging(config, source, data, callbacks)
    said = resume_notices(start, config.checkpoint, record)
    said += [] if start.trained else notices(record, loss, solver, callbacks)
    writer = next((callback for callback in callbacks if isinstance(callback, TestWriter)), None)
    trainer = make_trainer(
        config,
        callbacks + _weight_averaging(config.ema),
        plugins=[CheckpointFiles(folder, start.checkpoint)],
        max_steps=start.updates if start.trained else config.steps,
        max_epochs=-1,
        val_check_interval=min(config.validate_every, config.steps) * config.accumulate,
    )
    data.check_parts("train", "val", *(["test"] if config.test else []), ranks=trainer.world_size)
    data.check_labels({kind: f"the loss {name}" for kind, name in loss.required().items()})
    overwrite, resumes = config.overwrite or config.auto_resume, lies_in(start.path, folder)
    with recorded(folder, record, trainer, overwrite, resumes, command, said) as status:
        if not start.trained and rank_leads():
            forget_judging(folder)
        cost = Cost(trainer.strategy.root_device)
        trainer.fit(module, datamodule=data, ckpt_path=start.path, weights_only=True)
        status["fit"] = cost.record(start.updates, trainer.global_step, module.samples_seen)
        status["samples_seen"] = module.samples_seen
        for logger in trainer.loggers:
            if isinstance(logger, SummaryLogger):
                logger.log_summary({f"fit/{name}": value for name, value in status["fit"].items()})
        if stopped := start.stopped or stopped_early(trainer):
            status["reason"] = stopped
            rank_zero_only(log.warning)("%s", stopped)
        objective = trainer.callback_metrics.get(config.objective)
        if start.trained and start.checkpoint is not None:
            # There was nothing to fit, hence no end of fitting that would leave the averaged weights.
            module.load_state_dict(start.checkpoint["state_dict"])
            objective = start.checkpoint["clipfuse"]["scores"].get(config.objective)
        if config.test:
            # After fit the module holds the last weights, averaged if the run averages.
            trainer.test(module, datamodule=data, verbose=False)
            objective = trainer.callback_metrics.get(config.objective, objective)
        if judging is not None:
            judging.run(folder, trainer, module)
        defined = sorted(name for name, value in trainer.callback_metrics.items() if value.isfinite())
        found = None if objective is None else float(objective)
        status["objective"] = found if found is not None and isfinite(found) else None
        status["objective_name"] = config.objective
        status["higher_is_better"] = higher_is_better(config.objective, metrics)
        if status["objective"] is None:
            known = ", ".join(defined)
            rank_zero_only(log.warning)(
                "the objective '%s' was not logged; logged were %s", config.objective, known
            )
    if config.test and writer is not None:
        print_scores(writer, metrics)
    return status["objective"]


def _check_network_is_recorded(node: Mapping[str, Any]) -> None:
    """Refuse a network that its checkpoint could not describe: texts of the environment are not recorded."""
    for key, value in leaves(node, "backbone").items():
        if not key.endswith("_weights") and any("${" in text for text in texts(value)):
            raise UserError(
                f"{key} is {value}, which no record resolves, and a checkpoint must describe its network; "
                "write the value itself"
            )


def _solver(config: DictConfig, loss: FusionLoss) -> Solver:
    """Build the solver; a two-level loss that is configured without lower parameters gets `Joint`."""
    solver: Solver = build(config.solver, "solver")
    if lower_parameters(loss):
        assert isinstance(loss, BilevelLoss)
        module = type(solver).__module__
        name = plugin_name(f"{module}.{type(solver).__name__}")
        if loss.solvers is not None and module.startswith("clipfuse.") and name not in loss.solvers:
            raise UserError(
                f"solver={name} cannot train the loss '{loss.name}': its own parameters would learn "
                f"nothing, or the wrong thing; take solver={' or solver='.join(sorted(loss.solvers))}"
            )
        if isinstance(solver, Joint) and not solver.lower_weight:
            raise UserError(
                f"solver.lower_weight is 0: the lower level of '{loss.name}' would be trained to lower the "
                "network's loss alone; set it above 0"
            )
        return solver
    if isinstance(solver, Joint):
        return solver
    if isinstance(loss, BilevelLoss):
        return Joint()
    raise UserError(
        f"solver._target_ is {config.solver._target_}, and the loss '{loss.name}' has no lower level; take "
        "solver=joint, or a loss with prompts that learn, such as loss=promptfusion"
    )


def _try_schedule(optimizer: Callable[..., Any], scheduler: Callable[..., Any], steps: int) -> None:
    """Build both once on a dummy parameter: a bad value is found before the run folder is made."""
    try:
        built = optimizer([nn.Parameter(torch.zeros(1))])
        built.step()
        scheduler(built, steps=steps)
    except (ValueError, TypeError) as error:
        raise UserError(f"optimizer or scheduler: {reason(error)}") from error


def _weight_averaging(decay: float | None) -> list[L.Callback]:
    if decay is None:
        return []
    from lightning.pytorch.callbacks import EMAWeightAveraging

    # Buffers are copied: the mean of an index would be meaningless.
    return [EMAWeightAveraging(decay=decay, use_buffers=False)]
