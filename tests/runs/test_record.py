import shutil
import subprocess
from pathlib import Path

import pytest

from clipfuse.files import file_sha256
from clipfuse.runs import record
from clipfuse.runs.record import git_commit, loss_files


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The code in a folder outside of any git tree, and another one as the current folder."""
    (tmp_path / "code").mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.setattr(record, "__file__", str(tmp_path / "code/record.py"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
@pytest.mark.parametrize("place", ["code", "work"])
def test_the_commit_and_whether_files_were_changed(elsewhere: Path, place: str) -> None:
    def git(*words: str) -> str:
        author = ["-c", "user.name=clipfuse", "-c", "user.email=clipfuse@localhost"]
        return subprocess.check_output(
            ["git", *author, "-C", str(elsewhere / place), *words], text=True
        ).strip()

    assert git_commit() is None
    git("init", "--quiet")
    (elsewhere / place / "loss.py").write_text("weight = 1\n")
    git("add", ".")
    git("commit", "--quiet", "--message=first")
    git("tag", "v1")
    assert git_commit() == git("rev-parse", "HEAD")
    (elsewhere / place / "loss.py").write_text("weight = 2\n")
    assert git_commit() == f"{git('rev-parse', 'HEAD')}-dirty"


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
@pytest.mark.parametrize("setting", ["core.fsmonitor", "filter.theirs.clean", "included"])
def test_a_downloaded_tree_runs_no_program(elsewhere: Path, setting: str) -> None:
    """Its own `.git/config` names a program that git runs to find out whether a file was changed."""
    work = elsewhere / "work"

    def git(*words: str) -> None:
        author = ["-c", "user.name=clipfuse", "-c", "user.email=clipfuse@localhost"]
        subprocess.check_output(["git", *author, "-C", str(work), *words])

    (work / "loss.py").write_text("weight = 1\n")
    (work / ".gitattributes").write_text("*.py filter=theirs\n")
    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "--message=first")
    program = f"touch {elsewhere / 'ran'}; cat"
    if setting == "included":
        (work / ".git/more").write_text(f'[filter "theirs"]\n\tclean = "{program}"\n')
        git("config", "include.path", "more")
    else:
        git("config", setting, program)
    (work / "loss.py").write_text("weight = 2\n")
    assert str(git_commit()).removesuffix("-dirty").isalnum()
    assert not (elsewhere / "ran").exists()


def test_without_git_there_is_none(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(elsewhere))
    assert git_commit() is None


def test_files_of_weights_are_known_by_their_content(tmp_path: Path) -> None:
    file = tmp_path / "a.pt"
    file.write_bytes(b"weights")
    node = {
        "weights": str(file),
        "weight": 2.0,
        "parts": {"one": {"vgg_weights": str(file), "clip": {"weights": str(file)}}},
        "features_weights": str(tmp_path / "gone.pt"),
    }
    digest = file_sha256(file)
    assert loss_files(node) == {"weights": digest, "parts.one.vgg_weights": digest}
    assert loss_files(None) == {}
