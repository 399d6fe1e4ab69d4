"""Make small wrong changes to the source, one at a time, and see that the tests notice each: `make mutants`.

The changes are listed in `tests/mutants.md`. Each is made in a copy of the repository; a change is killed if
the tests named with it fail, and has survived if they pass. Ends with exit code 1 where a change
has survived or could not be judged.

    python tests/mutants.py                      all, two at a time
    python tests/mutants.py --only holm-count    one (the option may be repeated)
    python tests/mutants.py --list               what there is
"""

import argparse
import os
import queue
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

ROOT = Path(__file__).resolve().parents[1]
LIST = ROOT / "tests/mutants.md"
COPIED = ("src", "conf", "tests", "experiments", "pyproject.toml", "README.md", "CHANGELOG.md")
SECONDS = 900  # per change; a change may make a test endless

_ENTRY = re.compile(
    r"^### (?P<name>[\w-]+)\n+`(?P<file>[^`\n]+)` +<- +(?P<tests>`[^\n]+`)\n+```diff\n(?P<diff>.+?)\n```$",
    re.MULTILINE | re.DOTALL,
)
_HEADING = re.compile(r"^### ", re.MULTILINE)


@dataclass(frozen=True)
class Mutant:
    """One wrong change.

    Attributes:
        name: unique.
        file: the file that is changed, relative to the repository.
        old: text that stands there exactly once.
        new: what takes its place.
        tests: what pytest is given: files, or FILE::TEST.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    def problem(self, root: Path) -> str:
        """Return why the change cannot be made in a copy of the repository; empty if it can."""
        path = root / self.file
        if not path.is_file():
            return f"there is no {self.file}"
        if (count := path.read_text().count(self.old)) != 1:
            return f"{self.old!r} stands {count} times in {self.file}; expected once"
        for test in self.tests:
            place, _, name = test.partition("::")
            if not (root / place).is_file():
                return f"there is no {place}"
            if name and f"def {name.split('::')[-1]}(" not in (root / place).read_text():
                return f"there is no {name} in {place}"
        return ""


def read_list(text: str) -> list[Mutant]:
    """Read the entries of `mutants.md`.

    Raises:
        ValueError: an entry has another form, or two have one name.
    """
    found = []
    for match in _ENTRY.finditer(text):
        lines = match["diff"].splitlines()
        old, new = ("\n".join(line[1:] for line in lines if line[0] == sign) for sign in "-+")
        if not old or old == new or any(line[0] not in "-+" for line in lines):
            raise ValueError(f"{match['name']}: expected lines that begin with - and with +, and differ")
        tests = tuple(re.findall(r"`([^`]+)`", match["tests"]))
        found.append(Mutant(match["name"], match["file"], old, new, tests))
    names = [mutant.name for mutant in found]
    if len(found) != len(_HEADING.findall(text)) or len(set(names)) != len(names):
        raise ValueError(
            f"{len(_HEADING.findall(text))} headings, {len(set(names))} entries of the known form"
        )
    return found


def run_tests(copy: Path, tests: Sequence[str]) -> tuple[int, str]:
    """Run pytest in a copy of the repository; return its exit code and what it printed."""
    paths = [str(copy / "src"), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    try:
        done = subprocess.run(
            words, cwd=copy, env=environment, text=True, capture_output=True, timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return 1, f"no end after {SECONDS} s"
    return done.returncode, done.stdout + done.stderr


def judge(mutant: Mutant, copy: Path) -> str:
    """Make the change in a copy, run its tests and take it back; return what has become of it."""
    if problem := mutant.problem(copy):
        return f"does not apply: {problem}"
    path = copy / mutant.file
    whole = path.read_text()
    path.write_text(whole.replace(mutant.old, mutant.new))
    try:
        code, _ = run_tests(copy, mutant.tests)
    finally:
        path.write_text(whole)
    return {0: "SURVIVED", 1: "killed"}.get(code, f"not judged: pytest ended with exit code {code}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Judge the changes; return 1 if one is not killed."""
    parser = argparse.ArgumentParser(prog="python tests/mutants.py", description=__doc__.split("\n")[0])
    parser.add_argument("--only", action="append", metavar="NAME", help="judge this one; may be repeated")
    parser.add_argument("--jobs", type=int, default=2, help="changes at a time, each in its own copy")
    parser.add_argument("--list", action="store_true", help="print the names and the tests")
    parser.add_argument("--trust", action="store_true", help="do not run the tests without any change first")
    options = parser.parse_args(arguments)
    mutants = read_list(LIST.read_text())
    if unknown := set(options.only or ()) - {mutant.name for mutant in mutants}:
        parser.error(f"there is no {', '.join(sorted(unknown))} in {LIST.name}")
    mutants = [mutant for mutant in mutants if not options.only or mutant.name in options.only]
    if options.list:
        for mutant in mutants:
            print(f"{mutant.name:24} {mutant.file}  {' '.join(mutant.tests)}")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        copies: queue.Queue[Path] = queue.Queue()
        for number in range(max(1, options.jobs)):
            copies.put(copy_repository(Path(folder) / str(number)))
        if not options.trust:
            # A test that fails without any change would kill everything.
            code, output = run_tests(
                Path(folder) / "0", sorted({t for mutant in mutants for t in mutant.tests})
            )
            if code:
                print(f"{output}\nthe tests fail without any change; mend them first")
                return 1

        def work(mutant: Mutant) -> str:
            copy, begun = copies.get(), monotonic()
            try:
                outcome = judge(mutant, copy)
            finally:
                copies.put(copy)
            print(f"{mutant.name:24} {outcome} ({monotonic() - begun:.0f} s)", flush=True)
            return outcome

        with ThreadPoolExecutor(max(1, options.jobs)) as pool:
            outcomes = list(pool.map(work, mutants))
    print(f"{outcomes.count('killed')} of {len(outcomes)} killed")
    return int(set(outcomes) != {"killed"})


def copy_repository(target: Path) -> Path:
    """Copy what the tests need."""
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target / name)
    return target


if __name__ == "__main__":
    sys.exit(main())
