"""What of Lightning a run uses: settings and callbacks that it counts right; others are refused by name."""

import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from typing import Any

import lightning as L
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Checkpoint, Timer
from lightning.pytorch.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from clipfuse.errors import UserError, did_you_mean
from clipfuse.runs.build import build, build_all
from clipfuse.tracking.base import MediaLogger
from clipfuse.tracking.record import MediaRecord

log = logging.getLogger(__name__)

# Warnings that do not concern a user of these runs.
_SILENT = (
    "does not have many workers",
    "LeafSpec",
    "checkpoint directory",
    "in eval mode at the start of training",  # a frozen part of a loss: its mode is kept
    "smaller than the logging interval",
    "your dataloader is not resumable",  # it is, by the data module
    "sync_dist=True",  # what is logged is the same on all ranks
    "Grad strides do not match bucket view",  # for 1x1 kernels both strides are right
    "`broadcast_buffers` is deprecated",  # older torch does not know its successor
)

_PRECISIONS = ("32-true", "bf16-mixed", "64-true")
# Settings of Lightning's trainer that a user may choose; `_check_values` limits some of them.
ALLOWED = (
    *("accelerator", "devices", "num_nodes", "strategy", "precision", "max_time", "log_every_n_steps"),
    *("deterministic", "benchmark", "detect_anomaly", "enable_progress_bar", "enable_model_summary"),
)
# Settings with one value that is right here, which conf/trainer/default.yaml gives.
_FIXED = {"check_val_every_n_epoch": None, "num_sanity_val_steps": 0, "use_distributed_sampler": False}
# All others: why a run cannot have them, and what to use.
_BY_RUN, _ALL_IMAGES = (
    "is set by each run itself",
    "would score a part of the images without a trace in the table",
)
REFUSED = {
    **dict.fromkeys(("max_steps", "max_epochs", "min_steps", "min_epochs"), f"{_BY_RUN}; use steps"),
    **dict.fromkeys(("val_check_interval", "check_val_every_n_epoch"), f"{_BY_RUN}; use validate_every"),
    "num_sanity_val_steps": "would save and log a run that has not begun; use validate_every",
    "logger": f"{_BY_RUN}; use logger",
    "callbacks": f"{_BY_RUN}; use callbacks",
    "default_root_dir": f"{_BY_RUN}; use run_dir",
    "accumulate_grad_batches": "has no effect on the updates here; use accumulate",
    **dict.fromkeys(
        ("gradient_clip_val", "gradient_clip_algorithm"),
        "has no effect on the updates here; use gradient_clip",
    ),
    **dict.fromkeys(
        ("limit_train_batches", "overfit_batches"),
        "would train on the same batches again and count their samples wrongly; use a data set with fewer "
        "training pairs, such as data.train=N of data=synthetic, or a split file",
    ),
    **dict.fromkeys(
        ("limit_val_batches", "limit_test_batches", "limit_predict_batches"),
        f"{_ALL_IMAGES}; use a smaller part (data.val, data.test), a larger validate_every, or test=false",
    ),
    "fast_dev_run": "would leave out checkpoints and curves; use steps=1",
    "barebones": "would leave out checkpoints and curves; use logger=none and ~callbacks.last",
    "enable_checkpointing": "would leave auto_resume without a file; use ~callbacks.best, ~callbacks.last",
    "use_distributed_sampler": "would draw other batches on several devices than on one; leave it out",
    "reload_dataloaders_every_n_epochs": "has no effect: a training is one pass over its data; leave it out",
    "inference_mode": "would change only how scores are computed; leave it out",
    "sync_batchnorm": "is for layers that couple the samples of a batch; use GroupNorm in the backbone",
    "profiler": "would write to Lightning's own log, which is off; use a callback of your own",
    "plugins": f"{_BY_RUN}; use trainer.precision and trainer.strategy",
    "enable_autolog_hparams": "has no effect: config.yaml records the settings; leave it out",
    "model_registry": "would upload the weights elsewhere; use logger=wandb, which keeps the checkpoints",
}

# Callbacks of Lightning that may be given, beside a user's own; the others, and why a run cannot have them.
ALLOWED_CALLBACKS = (
    *("Callback", "Checkpoint", "ModelCheckpoint", "EarlyStopping", "Timer", "LambdaCallback"),
    *("ProgressBar", "TQDMProgressBar", "RichProgressBar", "ModelSummary", "RichModelSummary"),
)
_LOGS = "logs over steps that are not those of the curves; use {}"
REFUSED_CALLBACKS = {
    "GradientAccumulationScheduler": "has no effect on the updates here; use accumulate",
    **dict.fromkeys(
        ("StochasticWeightAveraging", "WeightAveraging", "EMAWeightAveraging"),
        "would average beside ema; use ema",
    ),
    "LearningRateFinder": "would train before the run begins; use a sweep, -m optimizer.lr=...",
    "BatchSizeFinder": "would train before the run begins; use loader.batch_size and accumulate",
    **dict.fromkeys(
        ("BaseFinetuning", "BackboneFinetuning"),
        "adds parameters that are neither clipped nor checked; use requires_grad in the backbone",
    ),
    "ModelPruning": "changes weights between updates; prune the network after its training",
    "LearningRateMonitor": _LOGS.format("train/learning_rate, which is in the curves already"),
    **dict.fromkeys(
        ("DeviceStatsMonitor", "ThroughputMonitor"), _LOGS.format("fit of status.json: seconds and memory")
    ),
    "OnExceptionCheckpoint": "would let a fresh run begin from the weights of another; use callbacks.last",
    "SpikeDetection": "skips batches that the run counts as trained; use skip_nonfinite",
    "BasePredictionWriter": "has no effect: a run predicts nothing; use clipfuse fuse",
}


def check_trainer(config: DictConfig) -> None:
    """Refuse what Lightning would accept and a run cannot do; silence Lightning's advertisements.

    Raises:
        UserError: names the key of `trainer`, why it is refused and what to use.
    """
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for text in _SILENT:
        warnings.filterwarnings("ignore", f".*{text}.*")
    trainer: Any = OmegaConf.to_container(config.trainer, resolve=True)
    if trainer.get("_target_") not in ("lightning.Trainer", "lightning.pytorch.Trainer"):
        raise UserError(
            f"trainer._target_ is {trainer.get('_target_')}; expected lightning.Trainer: what is to happen "
            "during a training belongs into a callback"
        )
    for key, value in trainer.items():
        if key in _FIXED and value == _FIXED[key]:
            continue
        if key in REFUSED:
            raise UserError(f"trainer.{key} {REFUSED[key]}")
    _check_values(trainer)


def _check_values(trainer: Mapping[str, Any]) -> None:
    precision = trainer.get("precision")
    if precision not in _PRECISIONS:
        raise UserError(f"trainer.precision is {precision}; expected one of {', '.join(_PRECISIONS)}")
    strategy = trainer.get("strategy") or "auto"
    if isinstance(strategy, str) and strategy != "auto":
        raise UserError(
            f"trainer.strategy is {strategy}; expected auto for one device, or trainer=ddp for several, "
            "which starts a process for each; others return no weights, or write several checkpoints"
        )
    many = next((key for key in ("devices", "num_nodes") if _several(trainer.get(key, 1))), None)
    if many and strategy == "auto":
        raise UserError(f"trainer.{many} is {trainer[many]}; for more than one take trainer=ddp")
    every = trainer.get("log_every_n_steps", 1)
    if isinstance(every, bool) or not isinstance(every, int) or every < 1:
        raise UserError(
            f"trainer.log_every_n_steps is {every}; expected 1 or more updates per row of the curves"
        )
    limit = trainer.get("max_time")
    try:
        left = None if limit is None else Timer(limit).time_remaining()
    except (MisconfigurationException, TypeError, AttributeError, ValueError):
        left = 0.0
    if left is not None and left <= 0:
        raise UserError(
            f"trainer.max_time is {limit!r}; expected null, or a time above 0 as DD:HH:MM:SS, "
            "such as 00:01:30:00"
        )


def _several(value: Any) -> bool:
    return value != 1 and not (isinstance(value, list) and len(value) == 1)


def check_callbacks(names: Sequence[str], callbacks: Sequence[L.Callback]) -> None:
    """Refuse callbacks of Lightning that change how a run counts, as classes of one's own or as they are.

    Args:
        names: their keys below `callbacks`.
        callbacks: the objects.

    Raises:
        UserError: names the callback, why it is refused and what to use.
    """
    for name, callback in zip(names, callbacks, strict=True):
        kinds = [kind for kind in type(callback).__mro__ if kind.__module__.startswith("lightning.")]
        if not kinds:
            raise UserError(f"callbacks.{name} is {type(callback).__name__}; expected a lightning.Callback")
        kind = kinds[0].__name__
        if kind not in ALLOWED_CALLBACKS:
            reason = REFUSED_CALLBACKS.get(kind, "is not known to leave the run's counts right; leave it out")
            raise UserError(f"callbacks.{name}: Lightning's {kind} {reason}")


def watch_scores(
    names: Sequence[str], callbacks: Sequence[L.Callback], known: Sequence[str], loss: str
) -> None:
    """Check what callbacks monitor, and let them pass over a validation where that is not defined.

    Args:
        names: their keys below `callbacks`.
        callbacks: the objects; those that monitor a score are changed.
        known: the scores of each validation.
        loss: its name, of which the terms are known only when it has been computed.

    Raises:
        UserError: no validation computes what one of them monitors; names the nearest one.
    """
    for name, callback in zip(names, callbacks, strict=True):
        monitor = getattr(callback, "monitor", None)
        if not isinstance(monitor, str):
            continue
        if monitor not in known and not monitor.startswith((f"val/loss/{loss}/", f"val/lower/{loss}/")):
            raise UserError(
                f"callbacks.{name} watches {monitor}, which no validation computes."
                f"{did_you_mean(monitor, known)} Known are {', '.join(known)}, and val/loss/{loss}/TERM for "
                "a term of the loss; watch one of these, or add a metric to metrics.validation"
            )
        callback.on_validation_end = _if_defined(name, monitor, callback.on_validation_end)  # type: ignore[method-assign]


def _if_defined(name: str, monitor: str, act: Callable[..., None]) -> Callable[..., None]:
    def on_validation_end(trainer: L.Trainer, module: L.LightningModule) -> None:
        if isfinite(float(trainer.callback_metrics.get(monitor, float("nan")))):
            act(trainer, module)
            return
        rank_zero_only(log.warning)(
            "%s is not defined at update %d: callbacks.%s passes over this validation",
            monitor,
            trainer.global_step,
            name,
        )

    return on_validation_end


def make_trainer(config: DictConfig, callbacks: Sequence[L.Callback], **extra: Any) -> L.Trainer:
    """Build loggers and trainer; a logger that shows images gets the callback that provides them.

    Args:
        config: the run's whole configuration.
        callbacks: of the run.
        **extra: further arguments of the trainer.

    Raises:
        UserError: a constructor refused its arguments.
    """
    loggers = build_all(config.get("logger"), "logger")
    media = [MediaRecord()] if any(isinstance(logger, MediaLogger) for logger in loggers) else []
    plugins = list(extra.pop("plugins", []))
    if SLURMEnvironment.detect() and not TorchElasticEnvironment.detect():
        # Else its signal writes a checkpoint to the current folder, from which a fresh run would begin.
        plugins.append(SLURMEnvironment(auto_requeue=False))
    trainer: L.Trainer = build(
        config.trainer,
        "trainer",
        logger=loggers,
        callbacks=[*callbacks, *media],
        plugins=plugins,
        default_root_dir=config.run_dir,
        # Without one of the run, Lightning would add its own, whose files no run writes.
        enable_checkpointing=any(isinstance(each, Checkpoint) for each in callbacks),
        **extra,
    )
    strategy = trainer.strategy
    if not isinstance(strategy, DDPStrategy | SingleDeviceStrategy) or getattr(
        strategy, "_start_method", "popen"
    ) not in (None, "popen"):
        raise UserError(
            f"trainer.strategy is {type(strategy).__name__}; expected a DDPStrategy that starts its "
            "processes by popen, as trainer=ddp"
        )
    return trainer
