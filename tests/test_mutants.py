"""The list of wrong changes that `make mutants` makes: each still applies, and a change is judged rightly."""

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SPEC = importlib.util.spec_from_file_location("mutants", ROOT / "tests/mutants.py")
assert SPEC is not None
assert SPEC.loader is not None
mutants = importlib.util.module_from_spec(SPEC)
sys.modules["mutants"] = mutants
SPEC.loader.exec_module(mutants)

ENTRY = "### {name}\n\n`src/sum.py` <- `tests/test_sum.py`\n\n```diff\n-{old}\n+{new}\n```\n"


def test_each_change_applies_and_names_tests_that_exist() -> None:
    listed = mutants.read_list(mutants.LIST.read_text())
    assert len(listed) >= 50
    problems = [f"{mutant.name}: {problem}" for mutant in listed if (problem := mutant.problem(ROOT))]
    assert not problems, "tests/mutants.md: " + "; ".join(problems)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A repository of one function and its test, which looks at no negative number."""
    (tmp_path / "src").mkdir()
    (tmp_path / "tests").mkdir()
    (tmp_path / "src/sum.py").write_text("def add(a, b):\n    return a + abs(b)\n")
    test = "from sum import add\n\n\ndef test_add():\n    assert add(2, 3) == 5\n"
    (tmp_path / "tests/test_sum.py").write_text(test)
    return tmp_path


@pytest.mark.parametrize(
    ("old", "new", "code", "outcome"),
    [
        ("a + abs(b)", "a - abs(b)", 1, "killed"),
        ("a + abs(b)", "a + b", 0, "SURVIVED"),
        ("def add", "def sub", 2, "not judged: pytest ended with exit code 2"),
        ("a * b", "a / b", None, "does not apply: 'a * b' stands 0 times in src/sum.py"),
        ("b", "c", None, "does not apply: 'b' stands 3 times in src/sum.py"),
    ],
)
def test_a_change_is_judged_by_its_tests_and_taken_back(
    small: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str, code: int | None, outcome: str
) -> None:
    (mutant,) = mutants.read_list(ENTRY.format(name="x", old=old, new=new))
    before = (small / "src/sum.py").read_text()
    if outcome != "killed":  # that pytest does start is seen once; it takes a second

        def run_tests(copy: Path, tests: tuple[str, ...]) -> tuple[int, str]:
            assert (copy, tests) == (small, ("tests/test_sum.py",))
            assert (small / "src/sum.py").read_text() == before.replace(old, new)
            assert code is not None
            return code, ""

        monkeypatch.setattr(mutants, "run_tests", run_tests)
    assert mutants.judge(mutant, small).startswith(outcome)
    assert (small / "src/sum.py").read_text() == before


def test_entries_of_another_form_are_refused() -> None:
    good = ENTRY.format(name="x", old="a", new="b")
    (mutant,) = mutants.read_list(good)
    assert (mutant.old, mutant.new, mutant.tests) == ("a", "b", ("tests/test_sum.py",))
    for bad in (good + good, good + "### y\n\nnothing\n", ENTRY.format(name="x", old="a", new="a")):
        with pytest.raises(ValueError, match=r"entries of the known form|expected lines"):
            mutants.read_list(bad)


def test_what_is_not_there_is_named(small: Path) -> None:
    for file, test, problem in (
        ("src/none.py", "tests/test_sum.py", "there is no src/none.py"),
        ("src/sum.py", "tests/test_none.py", "there is no tests/test_none.py"),
        ("src/sum.py", "tests/test_sum.py::test_sub", "there is no test_sub in tests/test_sum.py"),
        ("src/sum.py", "tests/test_sum.py::test_add", ""),
    ):
        assert mutants.Mutant("x", file, "abs(b)", "b", (test,)).problem(small) == problem
