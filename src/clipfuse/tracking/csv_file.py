"""The curves of a run: one CSV file in the run folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from clipfuse.errors import UserError
from clipfuse.files import csv_text, read_csv, write_atomically
from clipfuse.types import SAMPLES_SEEN


class CsvLogger(Logger):
    """Writes `metrics.csv`: a row per logged step, a column per key, blank where a key was not logged.

    Lightning's own CSV logger deletes the file of an earlier part of the run; this one keeps the rows
    up to the place from which a resumed run goes on.

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
        """Do nothing: `config.yaml` is in the run folder."""

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
        remedy = "move it away; the run goes on with new curves"
        table = read_csv(self.path, ["step", SAMPLES_SEEN], default=[], remedy=remedy)
        rows = [{key: value for key, value in row.items() if value} for row in table]
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
            file.write(csv_text(["step", SAMPLES_SEEN, *keys], self.rows))
        self.unwritten = 0

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write the remaining rows; after a failed run only if that works."""
        try:
            self.save()
        except UserError:
            if status == "success":
                raise
