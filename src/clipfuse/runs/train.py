"""From a composed configuration to a finished run folder."""

import logging
import signal
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import lightning as L
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import SIGTERMException
from omegaconf import DictConfig, OmegaConf
from pydantic import Field
from torch import nn

from clipfuse.bilevel import Joint, Solver
from clipfuse.errors import UserError
from clipfuse.files import write_atomically
from clipfuse.losses.base import BilevelLoss, FusionLoss
from clipfuse.networks.load import load_backbone
from clipfuse.runs.build import build, build_all
from clipfuse.runs.contract import read_tuning
from clipfuse.runs.cost import Cost
from clipfuse.runs.failures import memory_explained
from clipfuse.runs.folder import lies_in, prepare_folder, run_status
from clipfuse.runs.record import run_record
from clipfuse.runs.resume import find_start
from clipfuse.runs.test_writer import TestWriter
from clipfuse.tracking.progress import RunProgress
from clipfuse.tracking.wandb_record import WandbRecord
from clipfuse.tracking.wandb_run import RunWandbLogger
from clipfuse.training.checkpoints import CheckpointFiles, LastCheckpoint
from clipfuse.training.module import FusionModule
from clipfuse.training.scoring import ScoringModule
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
    checkpoint: str | None
    auto_resume: bool
    run_dir: str
    overwrite: bool
    test: bool
    tuning: dict[str, Any] | None


@dataclass
class EvaluateSettings:
    """The keys of `conf/evaluate.yaml` beside its groups."""

    name: str
    checkpoint: str
    run_dir: str
    overwrite: bool
    save_sources: bool
    trust: list[str]


def _check_trainer(config: DictConfig) -> None:
    """Refuse what Lightning would accept and this engine does not do."""
    precisions = ("32-true", "bf16-mixed", "64-true")
    precision = config.trainer.get("precision")
    if precision not in precisions:
        raise UserError(f"trainer.precision is {precision}; expected one of {', '.join(precisions)}")
    many = next((key for key in ("devices", "num_nodes") if config.trainer.get(key, 1) != 1), None)
    if many and not config.trainer.get("strategy"):
        raise UserError(f"trainer.{many} is {config.trainer[many]}; for more than one take trainer=ddp")
    for key in ("max_steps", "max_epochs", "val_check_interval", "logger", "callbacks"):
        if key in config.trainer:
            raise UserError(
                f"trainer.{key} is set by the engine; use steps, validate_every, logger or callbacks"
            )


def _quiet() -> None:
    """Keep Lightning's advertisements and its doubled lines off the screen."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.WARNING)
    ignored = (
        "does not have many workers",
        "LeafSpec",
        "checkpoint directory",
        "smaller than the logging interval",
        "your dataloader is not resumable",  # it is, by the data module
        "sync_dist=True",  # what is logged is the same on all ranks
        "Grad strides do not match bucket view",  # 1x1 kernels: which strides is a matter of taste
        "`broadcast_buffers` is deprecated",  # older torch does not know its successor
    )
    for text in ignored:
        warnings.filterwarnings("ignore", f".*{text}.*")


@contextmanager
def _recorded(folder: Path, record: Mapping[str, Any], loggers: Sequence[Any]) -> Iterator[dict[str, Any]]:
    """Keep configuration and status of a run, and close its loggers whatever happens."""
    leads: bool = rank_zero_only.rank == 0  # type: ignore[attr-defined]
    if leads and (warning := record["scenes"]["warning"]):
        log.warning("%s", warning)
    failed = True
    try:
        with run_status(folder, leads) as status, memory_explained(record):
            if leads:
                with write_atomically(folder / "config.yaml") as file:
                    file.write(OmegaConf.to_yaml(OmegaConf.create(dict(record))))
            for logger in loggers:
                logger.log_hyperparams(record)
            try:
                yield status
            except MisconfigurationException as error:
                raise UserError(f"trainer: {' '.join(str(error).split())}") from error
            except RuntimeError as error:
                if "find_unused_parameters=True" not in str(error):
                    raise
                raise UserError(
                    "some parameters of the network or the loss took no part in an update; set "
                    "trainer.strategy.find_unused_parameters=true"
                ) from error
            except SIGTERMException:
                raise SystemExit(128 + signal.SIGTERM) from None
            except SystemExit as error:
                # Lightning turns Ctrl-C into exit code 1.
                raise (
                    error.__context__ if isinstance(error.__context__, KeyboardInterrupt) else error
                ) from None
        failed = False
    finally:
        for logger in loggers:
            logger.finalize("failed" if failed else "success")
            if isinstance(logger, RunWandbLogger) and (command := logger.finish(failed)):
                print(f"upload this run later with: {command}")


@rank_zero_only
def _print_scores(writer: TestWriter, metrics: Any) -> None:
    print(metrics.test.table({f"fused ({len(writer.scores)} images)": writer.columns()}))
    print(f"pictures: {writer.panel_path}")


def _check_names(config: DictConfig, metrics: Any, callbacks: Sequence[L.Callback]) -> None:
    """Refuse to watch a score that will never be computed, before the hours it would take to find out."""
    watched = {getattr(callback, "monitor", None): "callbacks" for callback in callbacks}
    watched |= {config.objective: "objective"} if config.test else {}
    for prefix, part in {"val/metric/": "validation", "test/": "test"}.items():
        known = getattr(metrics, part).names
        for key, where in watched.items():
            if key is not None and key.startswith(prefix) and (name := key.removeprefix(prefix)) not in known:
                raise UserError(
                    f"{where} watches {key}, but {name} is not in metrics.{part} ({', '.join(known)}); "
                    "add it there or watch another"
                )


def train(config: DictConfig) -> float | None:
    """Train, test the last weights, and leave a run folder; the objective is returned for sweepers.

    Raises:
        UserError: the configuration cannot work, or the loss is no longer finite.
    """
    _quiet()
    _check_trainer(config)
    folder = Path(config.run_dir)
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
        raise UserError(f"loader.{key} is set by the engine; use data, accumulate or seed")
    data = build(config.loader, "loader", source=source, accumulate=config.accumulate, seed=config.seed)
    optimizer = build(config.optimizer, "optimizer")
    scheduler = build(config.scheduler, "scheduler")
    _try_schedule(optimizer, scheduler, config.steps)
    record = run_record(config, source, metrics, loss)
    read_tuning(record)
    start = find_start(config.checkpoint, config.auto_resume, folder, record)
    if start.finished is not None:
        print(f"{folder} holds this run, finished; nothing is left to do")
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
    callbacks = build_all(config.get("callbacks"), "callbacks")
    if config.auto_resume and not any(isinstance(callback, LastCheckpoint) for callback in callbacks):
        raise UserError("auto_resume=true needs the checkpoint that callbacks.last writes; leave it in")
    _check_names(config, metrics, callbacks)
    writer = next((callback for callback in callbacks if isinstance(callback, TestWriter)), None)
    loggers = build_all(config.get("logger"), "logger")
    trainer: L.Trainer = build(
        config.trainer,
        "trainer",
        logger=loggers,
        callbacks=callbacks + _weight_averaging(config.ema) + _wandb_records(loggers),
        plugins=[CheckpointFiles(start.checkpoint)],
        max_steps=config.steps,
        max_epochs=-1,
        val_check_interval=min(config.validate_every, config.steps) * config.accumulate,
    )
    data.check_parts("train", "val", *(["test"] if config.test else []), ranks=trainer.world_size)
    resumes = lies_in(start.path, folder)
    _prepare(folder, config.overwrite or config.auto_resume, start.path, resumes)
    with _recorded(folder, record, loggers) as status:
        cost = Cost(trainer.strategy.root_device)
        trainer.fit(module, datamodule=data, ckpt_path=start.path, weights_only=True)
        status["fit"] = cost.record(start.updates, trainer.global_step, module.samples_seen)
        status["samples_seen"] = module.samples_seen
        objective = trainer.callback_metrics.get(config.objective)
        if start.trained and start.checkpoint is not None:
            # There was nothing to fit, hence no end of fitting that would leave the averaged weights.
            module.load_state_dict(start.checkpoint["state_dict"])
            objective = start.checkpoint["clipfuse"]["scores"].get(config.objective)
        if config.test:
            # After fit the module holds the last weights, averaged if the run averages.
            trainer.test(module, datamodule=data, verbose=False)
            objective = trainer.callback_metrics.get(config.objective, objective)
            if writer is not None:
                _print_scores(writer, metrics)
        status["objective"] = None if objective is None else float(objective)
        if objective is None:
            known = ", ".join(sorted(trainer.callback_metrics))
            rank_zero_only(log.warning)(
                "the objective '%s' was not logged; logged were %s", config.objective, known
            )
    return status["objective"]


@rank_zero_only
def _prepare(folder: Path, overwrite: bool, checkpoint: str | None, resumes: bool = False) -> None:
    prepare_folder(folder, overwrite, checkpoint, resumes)
    print(f"run folder: {folder}")


def _solver(config: DictConfig, loss: FusionLoss) -> Solver:
    """Build the solver; a lower level that the configuration left empty needs none but `Joint`."""
    solver: Solver = build(config.solver, "solver")
    if lower_parameters(loss):
        if isinstance(solver, Joint) and not solver.lower_weight:
            raise UserError(
                f"solver.lower_weight is 0: the lower level of '{loss.name}' would please the network and "
                "learn nothing else; set it above 0"
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


def _wandb_records(loggers: Sequence[Any]) -> list[L.Callback]:
    return [WandbRecord(logger) for logger in loggers if isinstance(logger, RunWandbLogger)]


def _weight_averaging(decay: float | None) -> list[L.Callback]:
    if decay is None:
        return []
    from lightning.pytorch.callbacks import EMAWeightAveraging

    # Buffers are taken as they are: a mean of indices would be none.
    return [EMAWeightAveraging(decay=decay, use_buffers=False)]


def _try_schedule(optimizer: Callable[..., Any], scheduler: Callable[..., Any], steps: int) -> None:
    """Build both once on a dummy parameter: a bad value is found before the run folder is made."""
    try:
        built = optimizer([nn.Parameter(torch.zeros(1))])
        built.step()
        scheduler(built, steps=steps)
    except (ValueError, TypeError) as error:
        raise UserError(f"optimizer or scheduler: {error}") from error


def evaluate(config: DictConfig) -> None:
    """Score a checkpoint on the test part of a data set and leave a run folder.

    Raises:
        UserError: the checkpoint or the configuration cannot be used.
    """
    _quiet()
    _check_trainer(config)
    folder = Path(config.run_dir)
    backbone = load_backbone(config.checkpoint, config.trust)
    source = build(config.data, "data")
    metrics = build(config.metrics, "metrics")
    data = build(config.loader, "loader", source=source)
    record = run_record(config, source, metrics)
    module = ScoringModule(backbone, metrics.test)
    writer = TestWriter(config.run_dir, save_sources=config.save_sources)
    loggers = build_all(config.get("logger"), "logger")
    callbacks = [writer, RunProgress(), *_wandb_records(loggers)]
    trainer: L.Trainer = build(config.trainer, "trainer", logger=loggers, callbacks=callbacks)
    data.check_parts("test", ranks=trainer.world_size)
    _prepare(folder, config.overwrite, config.checkpoint)
    with _recorded(folder, record, loggers):
        trainer.test(module, datamodule=data, verbose=False)
        _print_scores(writer, metrics)
