"""What can be chosen in the configuration tree."""

from pathlib import Path

import pytest

from clipfuse.cli.options import conf_dir, options, unknown_option
from clipfuse.errors import UserError
from clipfuse.files import writing


def test_the_options_of_a_group_are_its_files() -> None:
    files = sorted(path.stem for path in (conf_dir() / "loss").glob("*.yaml"))
    assert options("loss") == files
    assert "pixel" in files
    assert options("nothing") == []


def test_a_folder_on_the_search_path_adds_its_own(tmp_path: Path) -> None:
    (tmp_path / "loss").mkdir()
    (tmp_path / "loss/theirs.yaml").write_text("_target_: theirs.Loss\n")
    words = ["steps=3", f"hydra.searchpath=[file://{tmp_path}]"]
    assert set(options("loss", words)) - set(options("loss")) == {"theirs"}


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ("loss/pixle", "unknown loss 'pixle'. Did you mean 'pixel'? Available: "),
        ("lozz/pixel", "unknown configuration group 'lozz'"),
        ("hydra/launcher/slurm", "unknown hydra/launcher 'slurm'; those for clusters and searches are in"),
    ],
)
def test_the_word_that_is_not_known_is_named(choice: str, message: str) -> None:
    assert unknown_option(choice, []).startswith(message)


def test_a_tree_that_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(writing, "__file__", str(tmp_path / "src/clipfuse/files/writing.py"))
    with pytest.raises(
        UserError, match=r"the configuration tree is missing \(looked in .*install clipfuse again"
    ):
        conf_dir()
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf/train.yaml").touch()
    assert conf_dir() == tmp_path / "conf"
