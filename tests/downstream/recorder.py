"""A logger that keeps what it gets; apart from `tiny`, which processes import without Lightning."""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch.loggers.logger import Logger


class Recorder(Logger):
    """Keeps what a run logs, as loggers with images get it."""

    name, version = "recorder", None

    def __init__(self) -> None:
        super().__init__()
        self.logged: dict[str, Any] = {}
        RECORDERS.append(self)

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None: ...

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.logged |= metrics

    def log_images(self, key: str, images: Any, samples_seen: int) -> None: ...

    def log_rows(self, key: str, columns: Any, rows: Any, samples_seen: int) -> None:
        self.logged[key] = (columns, rows)

    def log_best(self, scores: Any, checkpoints: Any, samples_seen: int) -> None: ...

    def log_summary(self, values: Mapping[str, Any]) -> None:
        self.logged |= values

    def finish(self, failed: bool) -> str | None: ...


RECORDERS: list[Recorder] = []
