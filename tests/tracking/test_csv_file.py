import csv
from pathlib import Path

from clipfuse.tracking.csv_file import CsvLogger
from clipfuse.types import SAMPLES_SEEN


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_values_of_one_step_share_a_row_and_new_columns_join(tmp_path: Path) -> None:
    logger = CsvLogger(str(tmp_path))
    logger.log_metrics({SAMPLES_SEEN: 8, "train/loss/total": 0.5}, step=1)
    logger.log_metrics({SAMPLES_SEEN: 8, "val/loss/total": 0.7}, step=1)
    logger.log_metrics({SAMPLES_SEEN: 16, "train/loss/total": 0.25, "epoch": 0}, step=2)
    logger.finalize("success")
    assert rows(tmp_path) == [
        {"step": "1", SAMPLES_SEEN: "8", "train/loss/total": "0.5", "val/loss/total": "0.7"},
        {"step": "2", SAMPLES_SEEN: "16", "train/loss/total": "0.25", "val/loss/total": ""},
    ]


def test_a_resumed_run_keeps_earlier_rows_and_drops_those_it_repeats(tmp_path: Path) -> None:
    first = CsvLogger(str(tmp_path), flush_every=1)
    for step in (1, 2, 3):
        first.log_metrics({SAMPLES_SEEN: 8 * step, "a": step}, step=step)
    second = CsvLogger(str(tmp_path))
    second.log_metrics({SAMPLES_SEEN: 24, "a": 30}, step=3)
    second.save()
    assert [row["a"] for row in rows(tmp_path)] == ["1", "2", "30"]
