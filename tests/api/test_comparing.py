from collections.abc import Callable
from pathlib import Path

import pytest

from clipfuse import compare
from clipfuse.errors import UserError

Factory = Callable[..., Path]


@pytest.fixture
def root(sweep: Factory) -> Path:
    for seed in (0, 1):
        sweep(seed=seed)
        folder = sweep("ldfusion", seed=seed, level=1.0)
    return folder


def test_it_gives_what_the_command_writes(
    root: Path, tmp_path: Path, clipfuse: Callable[..., tuple[int, str, str]]
) -> None:
    files = {suffix: tmp_path / f"command{suffix}" for suffix in (".md", ".csv", ".tex")}
    options = [f"--markdown={files['.md']}", f"--csv={files['.csv']}", f"--latex={files['.tex']}"]
    code, printed, _ = clipfuse("compare", str(root), *options)
    assert code == 0
    found = compare(root)
    for suffix, file in files.items():
        found.save(tmp_path / f"python{suffix}")
        assert (tmp_path / f"python{suffix}").read_text() == file.read_text()
    assert found.verdict in printed
    assert str(found) in printed


def test_the_table_is_records_of_plain_values(root: Path) -> None:
    found = compare(str(root), metrics="SSIM,MSE", trivial=False)
    record = next(each for each in found.table if each["method"] == "ldfusion" and each["metric"] == "SSIM")
    assert {each["metric"] for each in found.table} == {"SSIM", "MSE"}
    assert record["seeds"] == 2
    assert record["against"] == "pixel"
    assert record["higher_is_better"] is True
    assert isinstance(record["mean"], float)
    assert next(each for each in found.table if each["method"] == "pixel")["difference"] is None


def test_the_page_names_the_call_that_made_it(root: Path, tmp_path: Path) -> None:
    found = compare(root)
    found.save(tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert page.startswith("<!")
    assert "clipfuse.compare(" in page
    with pytest.raises(UserError, match="is there already"):
        found.save(tmp_path / "report.html")
    found.save(tmp_path / "report.html", overwrite=True)
    with pytest.raises(UserError, match=r"expected a name that ends in \.html, \.md, \.csv, \.tex"):
        found.save(tmp_path / "report.pdf")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"baseline": "pixle"}, "baseline pixle: no such loss. Did you mean 'pixel'?"),
        ({"metrics": ["SSMI"]}, "Did you mean 'SSIM'?"),
        ({"verdict": "best"}, "verdict best: expected one of balanced, balanced+machine, classic"),
        ({"mix": ["seeds"]}, "mix seeds: expected some of"),
        ({"own": ["nothing.here"]}, "own metric 'nothing.here' cannot be imported"),
    ],
)
def test_mistakes_are_explained(root: Path, options: dict[str, str], message: str) -> None:
    with pytest.raises(UserError) as error:
        compare(root, **options)  # type: ignore[arg-type]
    assert message in str(error.value)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        compare(tmp_path / "missing")
