"""A second result in a folder that holds the trivial fusions already."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def score(clipfuse: Run, tmp_path: Path) -> Callable[..., tuple[int, str, str]]:
    """Score three pairs as a method of a name, into the folder `results`."""
    generator = np.random.default_rng(0)
    for name in ("a", "b", "c"):
        for folder in ("ir", "vi", "fused"):
            (tmp_path / "road" / folder).mkdir(parents=True, exist_ok=True)
            image = generator.integers(0, 256, (24, 30)).astype(np.uint8)
            Image.fromarray(image).save(tmp_path / "road" / folder / f"{name}.png")
    sources = [f"--infrared={tmp_path / 'road/ir'}", f"--visible={tmp_path / 'road/vi'}"]

    def run(method: str, *more: str, metrics: str = "EN,CC") -> tuple[int, str, str]:
        fused = f"--fused={method}={tmp_path / 'road/fused'}"
        json_folder = f"--json={tmp_path / 'results'}/"
        return clipfuse("score", fused, *sources, json_folder, "--metrics", metrics, "--workers=1", *more)

    return run


def test_equal_trivial_fusions_stay_as_they_are(score: Run, tmp_path: Path) -> None:
    results = tmp_path / "results"
    assert score("one")[0] == 0
    before = {path.name: path.read_bytes() for path in results.iterdir()}
    code, text, errors = score("two", "--scenes=.", metrics="EN")
    assert code == 0, errors
    assert text.count("written: ") == 1
    after = {path.name: path.read_bytes() for path in results.iterdir()}
    assert after.pop("two@road.json")
    assert after == before


def test_other_trivial_fusions_are_refused_before_the_work(
    score: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def error(*words: str, metrics: str = "EN,CC") -> str:
        code, _, message = score("two", *words, metrics=metrics)
        assert code == 2
        assert not (tmp_path / "results/two@road.json").exists()
        return message

    assert score("one")[0] == 0
    path = tmp_path / "results/trivial-average@road.json"
    content = json.loads(path.read_text())
    with monkeypatch.context() as inside:
        inside.setattr("clipfuse.cli.scored.score_images", None)
        assert "is there already and holds no SD; add --no-trivial" in error(metrics="EN,SD")
        path.write_text(json.dumps({**content, "set": "street"}))
        assert f"{path} is there already and holds other results; add --no-trivial" in error()
        for pair in content["pairs"].values():
            pair["pair"] = "0" * 16
        path.write_text(json.dumps(content))
        assert "holds scores of other images or masks; add --no-trivial to leave out the trivial" in error()
    assert score("two", "--no-trivial")[0] == 0
    assert score("one", "--overwrite")[0] == 0
    content = json.loads(path.read_text())
    content["scores"]["trivial:average"]["EN"][0] += 1
    path.write_text(json.dumps({**content, "methods": {}}))
    (tmp_path / "results/two@road.json").unlink()
    assert "holds other scores of the same images" in error()
    assert "one@road.json is there already; choose another file or add --overwrite" in score("one")[2]
