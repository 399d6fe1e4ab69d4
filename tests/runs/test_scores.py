import csv
import hashlib
import json
from math import nan
from pathlib import Path

import pytest

from clipfuse.errors import UserError
from clipfuse.metrics import PROTOCOLS
from clipfuse.runs.scores import write_scores

ROWS = [{"name": "a", "scene": "street", "SSIM": 1.5}, {"name": "b", "scene": "b", "SSIM": nan}]


def test_scores_digest_and_what_is_not_defined(tmp_path: Path) -> None:
    protocol = PROTOCOLS["strict"]
    write_scores(tmp_path, ROWS, protocol, {"SSIM": 1.5, "VIF": nan}, {"SSIM": 1, "VIF": 2})
    content = (tmp_path / "per_image.csv").read_bytes()
    rows = list(csv.DictReader(content.decode().splitlines()))
    assert [(row["name"], row["scene"], row["SSIM"], row["VIF"]) for row in rows] == [
        ("a", "street", "1.5", ""),
        ("b", "b", "nan", ""),
    ]
    assert {row["protocol"] for row in rows} == {str(protocol)}
    found = json.loads((tmp_path / "metrics.json").read_text())
    assert found["per_image_sha256"] == hashlib.sha256(content).hexdigest()
    assert (found["images"], found["mean"]) == (2, {"SSIM": 1.5, "VIF": None})
    assert found["undefined"] == {"SSIM": 1, "VIF": 2}


def test_new_scores_never_stand_beside_an_older_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_scores(tmp_path, ROWS, PROTOCOLS["strict"], {"SSIM": 1.5}, {})

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(UserError, match=r"per_image\.csv: cannot be written"):
        write_scores(tmp_path, ROWS[:1], PROTOCOLS["strict"], {"SSIM": 1.5}, {})
    assert not (tmp_path / "metrics.json").exists()
