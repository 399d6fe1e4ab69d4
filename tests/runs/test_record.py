import shutil
import subprocess
from pathlib import Path

import pytest

from clipfuse.runs import record
from clipfuse.runs.record import git_commit


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


def test_without_git_there_is_none(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(elsewhere))
    assert git_commit() is None
