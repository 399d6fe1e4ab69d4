"""Where curves go: one CSV file in the run folder, and W&B, which may never stop a training."""

import csv
import inspect
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.loggers.logger import Logger, rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_only

from clipfuse.engine.folder import write_atomically
from clipfuse.engine.module import SAMPLES_SEEN
from clipfuse.errors import UserError, did_you_mean

log = logging.getLogger(__name__)

# How long a W&B that does not answer may hold up a run, in seconds.
START_S, FINISH_S = 20, 120


class CsvLogger(Logger):
    """Writes `metrics.csv`: a row per logged step, a column per key, blank where a key was not logged.

    Lightning's own CSV logger deletes the file of an earlier part of the run; this one keeps the rows
    up to where a resumed run goes on.

    Args:
        save_dir: the run folder.
        flush_every: rows between two writes of the file, 1 or more.
    """

    def __init__(self, save_dir: str, flush_every: int = 50) -> None:
        super().__init__()
        self.path = Path(save_dir) / "metrics.csv"
        self.flush_every = flush_every
        self.rows: list[dict[str, Any]] | None = None
        self.unwritten = 0

    name = "csv"
    version = None

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the run folder holds `config.yaml`."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add a row; values of one step logged apart share it."""
        if self.rows is None:
            self.rows = self._rows_before(metrics.get(SAMPLES_SEEN))
        values = {key: value for key, value in metrics.items() if key != "epoch"}
        if self.rows and str(self.rows[-1]["step"]) == str(step):
            self.rows[-1].update(values)
        else:
            self.rows.append({"step": step, **values})
            self.unwritten += 1
        if self.unwritten >= self.flush_every:
            self.save()

    def _rows_before(self, samples_seen: float | None) -> list[dict[str, Any]]:
        if not self.path.is_file():
            return []
        with self.path.open(newline="") as file:
            rows = [{key: value for key, value in row.items() if value} for row in csv.DictReader(file)]
        if samples_seen is None:
            return rows
        try:
            return [row for row in rows if float(row.get(SAMPLES_SEEN, 0)) < samples_seen]
        except ValueError as error:
            raise UserError(f"{self.path} holds no curves of this run; move it away ({error})") from error

    @rank_zero_only
    def save(self) -> None:
        """Write the file whole, under a temporary name first."""
        if not self.rows:
            return
        keys = sorted({key for row in self.rows for key in row} - {"step", SAMPLES_SEEN})
        with write_atomically(self.path) as file:
            writer = csv.DictWriter(file, ["step", SAMPLES_SEEN, *keys])
            writer.writeheader()
            writer.writerows(self.rows)
        self.unwritten = 0

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write what is left; after a failure, where that works."""
        try:
            self.save()
        except UserError:
            if status == "success":
                raise


Mode = Literal["online", "offline", "disabled"]


class RunWandbLogger(WandbLogger):
    """Lightning's W&B logger with our x-axis, and with failures turned into one warning.

    Args:
        project: W&B project.
        name: run name.
        save_dir: run folder; W&B writes below `wandb/`.
        mode: "auto" is online where a login is found (or as WANDB_MODE says), else offline.
        kwargs: further arguments of `wandb.init`, such as group, tags or entity.

    Raises:
        ValueError: an argument that `wandb.init` does not have.
    """

    def __init__(
        self, project: str, name: str, save_dir: str, mode: Literal["auto"] | Mode = "auto", **kwargs: Any
    ) -> None:
        import wandb

        known = inspect.signature(wandb.init).parameters
        for key in kwargs.keys() - known.keys():
            raise ValueError(f"wandb.init has no argument '{key}'.{did_you_mean(key, known)}")
        super().__init__(name=name, project=project, save_dir=save_dir, log_model=False, **kwargs)
        self._wandb_init.pop("anonymous", None)  # wandb only warns of it
        self.mode = mode

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The W&B run; a disabled one that swallows everything if W&B cannot start."""
        if self._experiment is None:
            self._experiment = self._start()
        return self._experiment

    def _start(self) -> Any:
        import wandb

        # wandb prefers the git root and complains of a folder that is not there.
        Path(self._wandb_init["dir"]).mkdir(parents=True, exist_ok=True)
        settings = wandb.Settings(silent=True, init_timeout=START_S, finish_timeout=FINISH_S)
        mode = login_mode() if self.mode == "auto" else self.mode
        attempts: list[Mode] = [mode, "offline"] if mode == "online" else [mode]
        for attempt in attempts:
            try:
                run = wandb.init(**self._wandb_init, mode=attempt, settings=settings)
                run.define_metric(SAMPLES_SEEN)
                run.define_metric("*", step_metric=SAMPLES_SEEN)
                return run
            except Exception as error:
                log.warning("wandb could not start in mode '%s' and training goes on: %s", attempt, error)
        return wandb.init(mode="disabled", settings=settings)

    def _guarded(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:
            import wandb

            log.warning("wandb failed and is switched off; training goes on: %s", error)
            self._experiment = wandb.init(mode="disabled", reinit="create_new")

    @rank_zero_only
    def log_hyperparams(self, params: Any) -> None:
        """Record the configuration."""
        self._guarded(lambda: WandbLogger.log_hyperparams(self, params))

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Record values; the x-axis is among them."""
        self._guarded(lambda: self.experiment.log(dict(metrics)))

    @rank_zero_only
    def log_pictures(self, key: str, paths: Mapping[str, Path]) -> None:
        """Record picture files by caption."""
        names = list(paths)
        self._guarded(lambda: self.log_image(key, [str(paths[name]) for name in names], caption=names))

    @rank_zero_only
    def finish(self, failed: bool) -> str | None:
        """Close the run, marked as failed or not.

        Returns:
            The command that uploads an offline run later, else None.
        """
        run = self._experiment
        if run is None or run.disabled:
            return None
        self._guarded(lambda: run.finish(exit_code=int(failed)))
        return f"wandb sync {Path(run.settings.sync_dir)}" if run.settings.mode == "offline" else None


def login_mode() -> Mode:
    """Return what "auto" means here: WANDB_MODE if it is set, else online where a login is found."""
    import wandb

    asked = os.environ.get("WANDB_MODE")
    if asked is not None:
        return "online" if asked == "online" else "disabled" if asked == "disabled" else "offline"
    try:
        return "online" if wandb.login(prompt=False) else "offline"
    except Exception:
        return "offline"
