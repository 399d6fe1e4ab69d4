from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from omegaconf import OmegaConf

from clipfuse.errors import UserError
from clipfuse.runs.folder import read_status
from clipfuse.runs.session import recorded

RECORD = {"seed": 3, "pairs": "", "scenes": {"warning": "the test images look like video"}}


class Logger:
    """Keeps what it is told; has the methods of a `MediaLogger`."""

    log_images = log_rows = log_best = lambda *_: None

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def log_hyperparams(self, record: Any) -> None:
        self.calls.append(record)

    def finalize(self, status: str) -> None:
        self.calls.append(status)

    def finish(self, failed: bool) -> str:
        self.calls.append(failed)
        return "upload it"


def test_a_run_is_recorded_and_its_loggers_are_closed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    logger, folder = Logger(), tmp_path / "run"
    trainer: Any = SimpleNamespace(loggers=[logger], world_size=1)
    with recorded(folder, RECORD, trainer, overwrite=False) as status:
        assert OmegaConf.load(folder / "config.yaml").seed == 3
        status["objective"] = 0.5
    assert logger.calls == [RECORD, "success", False]
    assert read_status(folder) == {"status": "finished", "reason": None, "objective": 0.5}
    printed = capsys.readouterr().out.splitlines()
    assert printed == [f"run folder: {folder}", "upload this run later with: upload it"]
    assert "the test images look like video" in caplog.text


def test_a_failed_run_closes_its_loggers_as_failed(tmp_path: Path) -> None:
    logger = Logger()
    trainer: Any = SimpleNamespace(loggers=[logger], world_size=1)
    run = recorded(tmp_path / "run", RECORD, trainer, overwrite=False)
    with pytest.raises(UserError, match=r"^out of memory"), run:
        raise MemoryError
    assert logger.calls == [RECORD, "failed", True]
    assert read_status(tmp_path / "run")["reason"].startswith("out of memory")


def test_a_folder_that_cannot_be_used_starts_no_logger(tmp_path: Path) -> None:
    logger = Logger()
    trainer: Any = SimpleNamespace(loggers=[logger], world_size=1)
    (tmp_path / "thesis.tex").touch()
    run = recorded(tmp_path, RECORD, trainer, overwrite=True)
    with pytest.raises(UserError, match="holds files that are not a run"), run:
        raise AssertionError("must not begin")
    assert logger.calls == []
