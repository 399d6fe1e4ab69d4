"""From a composed configuration to a finished run folder."""

import logging
import signal
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from pkgutil import resolve_name
from typing import Annotated, Any

import hydra
import lightning as L
import torch
from hydra.errors import InstantiationException
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.exceptions import SIGTERMException
from omegaconf import DictConfig, OmegaConf
from pydantic import Field
from torch import nn

from clipfuse.engine.callbacks import TestWriter
from clipfuse.engine.checkpoints import load_weights, read_checkpoint
from clipfuse.engine.folder import lies_in, prepare_folder, run_status, write_atomically
from clipfuse.engine.loggers import RunWandbLogger
from clipfuse.engine.module import FusionModule
from clipfuse.engine.progress import RunProgress
from clipfuse.engine.scoring import ScoringModule
from clipfuse.errors import UserError
from clipfuse.losses.base import FusionLoss

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
    ema: Annotated[float, Field(gt=0, lt=1)] | None
    objective: str
    checkpoint: str | None
    run_dir: str
    overwrite: bool
    test: bool


@dataclass
class EvaluateSettings:
    """The keys of `conf/evaluate.yaml` beside its groups."""

    name: str
    checkpoint: str
    run_dir: str
    overwrite: bool
    save_sources: bool
    trust: list[str]


def build(node: DictConfig | Mapping[str, Any], where: str, **extra: Any) -> Any:
    """Instantiate what `node` describes; every object of a run is made here.

    Raises:
        UserError: the constructor refused; the message starts with the place in the configuration.
    """
    try:
        return hydra.utils.instantiate(node, _convert_="all", **extra)
    except InstantiationException as error:
        cause: BaseException = error
        while isinstance(cause, InstantiationException) and cause.__cause__ is not None:
            cause = cause.__cause__
        if isinstance(cause, UserError | ValueError | TypeError | ImportError | MisconfigurationException):
            raise UserError(f"{where}: {cause}") from error
        raise


def _objects(nodes: DictConfig | None, where: str) -> list[Any]:
    return [build(node, f"{where}.{key!s}") for key, node in (nodes or {}).items() if node is not None]


def _check_targets(node: Any, trusted: Sequence[str], path: str | Path) -> None:
    """Refuse whatever a file names that is not a class of a trusted package.

    The name alone proves nothing: `clipfuse.engine.checkpoints.torch.load` is a function of torch.
    """
    if isinstance(node, Mapping):
        for child in node.values():
            _check_targets(child, trusted, path)
    elif isinstance(node, list):
        for child in node:
            _check_targets(child, trusted, path)
    if not isinstance(node, Mapping) or "_target_" not in node:
        return
    target = str(node["_target_"])
    package = target.partition(".")[0]
    if package not in trusted:
        raise UserError(f"{path} wants to run code of '{package}'; if you trust it, add: trust '{package}'")
    try:
        found = resolve_name(target)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"{path} names '{target}', which cannot be imported here ({error})") from error
    if not isinstance(found, type) or found.__module__.partition(".")[0] not in trusted:
        raise UserError(
            f"{path} names '{target}', which is not a class of {' or '.join(trusted)}; do not use it"
        )


def load_backbone(path: str | Path, trusted: Sequence[str] = ()) -> nn.Module:
    """Build the backbone of a checkpoint, in eval mode, with its weights.

    Args:
        path: a checkpoint of `clipfuse train`.
        trusted: packages beside clipfuse whose classes the checkpoint may name.

    Raises:
        UserError: no such checkpoint, or it names what is not a class of a trusted package.
    """
    checkpoint = read_checkpoint(path)
    node = checkpoint["clipfuse"]["config"]["backbone"]
    _check_targets(node, ("clipfuse", *trusted), path)
    backbone = build(node, f"the backbone of {path}")
    if not isinstance(backbone, nn.Module):
        raise UserError(f"{path} names '{node['_target_']}', which is no network; do not use it")
    load_weights(backbone, checkpoint, path)
    return backbone.eval()


# What a resumed run may change: nothing that its weights, curves or scores depend on.
_FREE = (
    *("name", "run_dir", "checkpoint", "overwrite", "test", "objective", "logger", "callbacks", "versions"),
    *("data.root", "loader.workers", "loader.cache_mb", "trainer.accelerator", "trainer.max_time"),
    *("trainer.enable_progress_bar", "trainer.log_every_n_steps"),
)


def _leaves(node: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(node, Mapping):
        return {path: node}
    found = (_leaves(child, f"{path}.{key}" if path else str(key)) for key, child in node.items())
    return {name: value for leaves in found for name, value in leaves.items()}


def _check_resumable(path: str, config: Mapping[str, Any]) -> None:
    checkpoint = read_checkpoint(path)
    saved, asked = (_leaves(each) for each in (checkpoint["clipfuse"]["config"], config))
    for key in sorted(saved.keys() | asked.keys()):
        if key.startswith(_FREE) or saved.get(key) == asked.get(key):
            continue
        raise UserError(
            f"checkpoint {path} cannot be resumed: its {key} is {saved.get(key)!r}, this run's is "
            f"{asked.get(key)!r}; a resumed run keeps its settings"
        )
    if checkpoint["global_step"] >= config["steps"]:
        raise UserError(f"checkpoint {path} is the end of its run; score it with: clipfuse evaluate")


def _check_trainer(config: DictConfig) -> None:
    """Refuse what Lightning would accept and this engine does not do."""
    precisions = ("32-true", "bf16-mixed", "64-true")
    precision = config.trainer.get("precision")
    if precision not in precisions:
        raise UserError(f"trainer.precision is {precision}; expected one of {', '.join(precisions)}")
    for key in ("devices", "num_nodes"):
        if (count := config.trainer.get(key, 1)) != 1:
            raise UserError(f"trainer.{key} is {count}; expected 1: training is on one device so far")
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
    )
    for text in ignored:
        warnings.filterwarnings("ignore", f".*{text}.*")


def _record(config: DictConfig, fingerprint: str) -> dict[str, Any]:
    plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    assert isinstance(plain, dict)
    versions = {name: version(name) for name in ("clipfuse", "torch", "lightning", "torchmetrics", "kornia")}
    return {
        **{str(key): value for key, value in plain.items()},
        "split_sha256": fingerprint,
        "versions": versions,
    }


@contextmanager
def _recorded(folder: Path, record: Mapping[str, Any], loggers: Sequence[Any]) -> Iterator[dict[str, Any]]:
    """Keep configuration and status of a run, and close its loggers whatever happens."""
    with write_atomically(folder / "config.yaml") as file:
        file.write(OmegaConf.to_yaml(OmegaConf.create(dict(record))))
    failed = True
    try:
        with run_status(folder) as status:
            for logger in loggers:
                logger.log_hyperparams(record)
            try:
                yield status
            except MisconfigurationException as error:
                raise UserError(f"trainer: {' '.join(str(error).split())}") from error
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


def _print_scores(writer: TestWriter, trainer: L.Trainer, protocol: str) -> None:
    means = {
        k.removeprefix("test/"): float(v)
        for k, v in trainer.callback_metrics.items()
        if k.startswith("test/")
    }
    row = "  ".join(f"{name} {value:.4f}" for name, value in means.items())
    print(f"scores ({len(writer.scores)} images, protocol {protocol}):  {row}")
    print(f"pictures: {writer.panel_path}")


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
    source = build(config.data, "data")
    metrics = build(config.metrics, "metrics")
    for key in {"source", "accumulate", "seed"} & config.loader.keys():
        raise UserError(f"loader.{key} is set by the engine; use data, accumulate or seed")
    data = build(config.loader, "loader", source=source, accumulate=config.accumulate, seed=config.seed)
    data.check_parts("train", "val", *(["test"] if config.test else []))
    optimizer = build(config.optimizer, "optimizer")
    scheduler = build(config.scheduler, "scheduler")
    _try_schedule(optimizer, scheduler, config.steps)
    record = _record(config, source.fingerprint())
    if config.checkpoint is not None:
        _check_resumable(config.checkpoint, record)
    module = FusionModule(
        backbone,
        loss,
        optimizer,
        scheduler,
        metrics,
        seed=config.seed,
        accumulate=config.accumulate,
        gradient_clip=config.gradient_clip,
        config=record,
    )
    callbacks = _objects(config.get("callbacks"), "callbacks")
    writer = next((callback for callback in callbacks if isinstance(callback, TestWriter)), None)
    loggers = _objects(config.get("logger"), "logger")
    trainer: L.Trainer = build(
        config.trainer,
        "trainer",
        logger=loggers,
        callbacks=callbacks + _weight_averaging(config.ema),
        max_steps=config.steps,
        max_epochs=-1,
        val_check_interval=min(config.validate_every, config.steps) * config.accumulate,
    )
    resumes = lies_in(config.checkpoint, folder)
    prepare_folder(folder, config.overwrite, config.checkpoint, resumes)
    print(f"run folder: {folder}")
    with _recorded(folder, record, loggers) as status:
        trainer.fit(module, datamodule=data, ckpt_path=config.checkpoint)
        status["samples_seen"] = module.samples_seen
        objective = trainer.callback_metrics.get(config.objective)
        if config.test:
            # After fit the module holds the last weights, averaged if the run averages.
            trainer.test(module, datamodule=data, verbose=False)
            objective = trainer.callback_metrics.get(config.objective, objective)
            if writer is not None:
                _print_scores(writer, trainer, metrics.protocol)
        status["objective"] = None if objective is None else float(objective)
        if objective is None:
            known = ", ".join(sorted(trainer.callback_metrics))
            log.warning("the objective '%s' was not logged; logged were %s", config.objective, known)
    return status["objective"]


def _weight_averaging(decay: float | None) -> list[L.Callback]:
    if decay is None:
        return []
    from lightning.pytorch.callbacks import EMAWeightAveraging

    return [EMAWeightAveraging(decay=decay)]


def _try_schedule(optimizer: Callable[..., Any], scheduler: Callable[..., Any], steps: int) -> None:
    """Build both once on a dummy parameter: a bad value is found before the run folder is made."""
    try:
        built = optimizer([nn.Parameter(torch.zeros(1))])
        built.step()
        scheduler(built, steps=steps)
    except (ValueError, TypeError) as error:
        raise UserError(f"optimizer or scheduler: {error}") from error


def evaluate(config: DictConfig) -> float | None:
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
    data.check_parts("test")
    record = _record(config, source.fingerprint())
    module = ScoringModule(backbone, metrics)
    writer = TestWriter(config.run_dir, save_sources=config.save_sources)
    loggers = _objects(config.get("logger"), "logger")
    progress = RunProgress()
    trainer: L.Trainer = build(config.trainer, "trainer", logger=loggers, callbacks=[writer, progress])
    prepare_folder(folder, config.overwrite, config.checkpoint)
    with _recorded(folder, record, loggers):
        trainer.test(module, datamodule=data, verbose=False)
        _print_scores(writer, trainer, metrics.protocol)
    print(f"run folder: {folder}")
    return None
