"""What a machine sees on the fused images of a run, judged at the end of its training."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
from omegaconf import DictConfig

from clipfuse.downstream.base import Task
from clipfuse.downstream.evaluation import Evaluation, check_seeds
from clipfuse.downstream.material import Material, labels_of
from clipfuse.downstream.protocols import RETRAINED, check_files
from clipfuse.downstream.results import Result, read_results
from clipfuse.downstream.sources import ALWAYS, Source, plain_source, run_source
from clipfuse.downstream.table import mean_scores, result_table
from clipfuse.errors import UserError
from clipfuse.runs.build import build
from clipfuse.runs.downstream_log import curves, overlays
from clipfuse.runs.owner import owned
from clipfuse.tracking.base import SummaryLogger, media_loggers, samples_seen
from clipfuse.tracking.progress import amount_bar
from clipfuse.training.checkpoints import LastCheckpoint
from clipfuse.types import SAMPLES_SEEN

OTHERS = "downstream-sources"  # folder beside the runs, for results of what is no run


@dataclass(frozen=True)
class Judging:
    """The task of `train ... downstream=X`, checked before the training; done by retrained-1 after it.

    Attributes:
        material: the task and the labels of the data.
        seeds: of the task networks.
        trust: package of the backbone's class, which the checkpoint names.
    """

    material: Material
    seeds: list[int]
    trust: tuple[str, ...]

    def run(self, folder: Path, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Judge the run and the sources beside it, print the table and log the scores.

        Results of the other sources are kept beside the run folder, and shared by all runs there that have
        the same labels and pairs; a run with others is judged without those sources.

        Args:
            folder: the run folder, which this process owns.
            trainer: of the run.
            module: that was trained.

        Raises:
            UserError: a task network cannot be trained, or results cannot be written.
        """
        if not trainer.is_global_zero:
            return
        device = "cuda" if trainer.strategy.root_device.type == "cuda" else "cpu"
        out = folder.resolve().parent / OTHERS
        own = run_source(folder, "fused", device, True, self.trust)
        plain = [plain_source(name, out) for name in ALWAYS]
        if not all(_is_of(self.material, each) for each in plain):
            print(
                f"{out} holds results for other data, so that {', '.join(ALWAYS)} are left out; sweep one "
                "data set per folder, or judge this run by clipfuse downstream with out=DIR"
            )
            plain = []
        sources = [*plain, own]
        evaluation = Evaluation(self.material, RETRAINED, self.seeds, _owned, device, note=print)
        shown = evaluation.trainings(evaluation.missing(sources)) * self.material.task.updates
        with amount_bar("judging", " updates", shown) as evaluation.progress:
            results = evaluation.run(sources)
        print(result_table(results))
        print(evaluation.summary())
        self._log(trainer, module, sources, results)

    def _log(
        self,
        trainer: L.Trainer,
        module: L.LightningModule,
        sources: list[Source],
        results: dict[str, list[Result]],
    ) -> None:
        seen, prefix = samples_seen(module), f"downstream/{self.material.task.name}"
        means = {name: mean_scores(found) for name, found in results.items()}
        scores = {f"{prefix}/{name}": value for name, value in means["fused"].items()}
        others = {
            f"{prefix}/{name}/{source}": value
            for source, each in means.items()
            for name, value in each.items()
            if source != "fused" and "/" not in name
        }
        for logger in trainer.loggers:
            logger.log_metrics({**scores, SAMPLES_SEEN: seen}, trainer.global_step)
            if isinstance(logger, SummaryLogger):
                logger.log_summary(others)
        if loggers := media_loggers(trainer):
            tables = {"overlays": overlays(self.material, sources, results), "curves": curves(results)}
            for media in loggers:
                for name, (columns, rows) in tables.items():
                    if rows:
                        media.log_rows(f"{prefix}/{name}", columns, rows, seen)


def build_task(config: DictConfig) -> Task:
    """Return the task that `config.downstream` describes.

    Raises:
        UserError: its arguments are refused, or it is none.
    """
    task = build(config.downstream, "downstream")
    if not isinstance(task, Task):
        raise UserError(f"downstream._target_ is {config.downstream._target_}; expected a subclass of Task")
    return task


def planned_judging(config: DictConfig, source: Any, data: Any, callbacks: list[Any]) -> Judging | None:
    """Return what `downstream=X` of a training is to do at its end; None where nothing was chosen.

    Everything that can be wrong is looked at now, hours before it is used: the labels of all pairs are read.

    Args:
        config: of the training.
        source: its data set.
        data: its `FusionDataModule`.
        callbacks: its callbacks.

    Raises:
        UserError: the data has no labels that the task can use, the task network cannot be built, task seeds
            are missing or alike, or the training would leave no checkpoint.
    """
    if config.get("downstream") is None:
        return None
    task = build_task(config)
    labels = labels_of(source, task.needs)
    check_files(task, labels, RETRAINED)
    if not any(isinstance(callback, LastCheckpoint) for callback in callbacks):
        raise UserError(
            "downstream needs the checkpoint that callbacks.last writes, by which the training images are "
            "fused; leave it in, or choose downstream=null"
        )
    seeds = [int(seed) for seed in config.downstream_seeds]
    check_seeds(seeds, "downstream_seeds")
    task.build(labels, 3, seeds[0])
    scenes: dict[str, str] = getattr(source, "scenes", dict)()
    material = Material(task, labels, data.whole, source.parts(), scenes, source.fingerprint())
    trust = (str(config.backbone._target_).partition(".")[0],)
    return Judging(material, seeds, tuple(each for each in trust if each != "clipfuse"))


def _is_of(material: Material, source: Source) -> bool:
    """Whether the results of a source, if there are any, are for these labels and pairs."""
    found = read_results(source.folder, material.task.name)
    if found is None:
        return True
    labels, results = found
    same = [each for each in results if each.settings.get("input") == material.channels]
    return labels == material.labels and all(each.origin == material.origin(source) for each in same)


def forget_judging(folder: Path) -> None:
    """Remove the results of a run that goes on: they are those of other weights."""
    for path in (folder / "downstream").glob("*/metrics.json"):
        path.unlink(missing_ok=True)
    for path in (folder / "downstream").glob("*/predicted/*/*.png"):
        path.unlink(missing_ok=True)


def _owned(source: Source) -> AbstractContextManager[None]:
    """Own the folder of a source that runs share, when no other process has it; the run's own is owned."""
    return nullcontext() if source.of_run else owned(source.folder, kind="source", wait=True)
