"""Does everything work on this GPU, is it right, and how fast is it? One command, less than 8 minutes.

    python -m experiments.gpu.check [--part NAME ...] [--again] [--limit SECONDS]
    python -m experiments.gpu.check --device cpu --tiny      # tries the check itself, where there is no GPU

Each row goes to `results/<gpu>.json` as soon as it is measured, and the tables to the `.md` beside it. The
same command does what is missing: rows that failed or for which there was no time. The exit code is 1 where a
row failed or a verdict is `not ok`, and 2 where the check cannot run at all.
"""

import gc
import json
import os
import platform
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from experiments.common import format_table, make_parser
from experiments.gpu import agreement, computing, seeing, training
from experiments.gpu.case import MEASURED, NOT_OK, Case, Machine, Part

from clipfuse.errors import UserError
from clipfuse.files import write_atomically, write_json
from clipfuse.runs.record import git_commit
from clipfuse.version import __version__

# What may take longest, or hang, comes last.
PARTS: dict[str, Part] = {
    name: (computing.PARTS | agreement.PARTS | seeing.PARTS | training.PARTS)[name]
    for name in (
        "contourlet",
        "fuse",
        "losses",
        "seeing",
        "updates",
        "resume",
        "export",
        "training",
        "compile",
    )
}
LIMIT = 440  # seconds of all parts; starting and a row that was begun in time come to it
GRACE = 20  # seconds for which a row may go on after the time of its part
NO_TIME, FAILED = "not run: out of time", "failed: "
Results = dict[str, Any]


def machine_record(device: torch.device) -> dict[str, Any]:
    """Return what the figures depend on beside the settings."""
    cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if cuda else platform.processor() or platform.machine(),
        "driver": driver() if cuda else None,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if cuda else None,
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "lightning", "open_clip_torch")},
        "clipfuse": __version__,
        "cpu_cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "float32_matmul": torch.get_float32_matmul_precision(),
        "cudnn_tf32": torch.backends.cudnn.allow_tf32,
        "git_commit": git_commit(),
    }


def driver() -> str | None:
    """Return the version of NVIDIA's driver, if its tool tells."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return found.split("\n")[0].strip() or None


def last_line(error: BaseException) -> str:
    """Return an error in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    return f"{type(error).__name__}: {lines[-1]}"[:300]


class OutOfTime(BaseException):
    """A row took too long. No `Exception`: compilers catch those, and go on."""


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raise `OutOfTime` in what takes longer, where Python gets a turn at all; again if that is caught."""

    def ring(*_: Any) -> None:
        raise OutOfTime(f"stopped after {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.01), 5)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def clean(device: torch.device) -> Iterator[None]:
    """Start a row with free memory; take back that a training asks for deterministic operations."""
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    if device.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def measured(case: Case, device: torch.device, seconds: float) -> dict[str, Any]:
    """Return a case's row; one that raises says so."""
    start = time.perf_counter()
    try:
        with at_most(seconds), clean(device):
            found = {"result": MEASURED, **case.measure()}
    except (Exception, OutOfTime) as error:  # whatever goes wrong on a machine that nobody has seen
        found = {"result": f"{FAILED}{last_line(error)}"}
    return {**case.about, **found, "seconds": round(time.perf_counter() - start, 2)}


def is_done(row: Mapping[str, Any]) -> bool:
    """Return whether a row has its figures, whatever they say."""
    return not str(row["result"]).startswith((NO_TIME, FAILED))


def may_continue(known: Mapping[str, Any], settings: Mapping[str, Any]) -> bool:
    """Return whether rows measured before may stand beside new ones: same code, settings and versions."""
    return json.loads(json.dumps(known.get("settings"))) == json.loads(json.dumps(settings))


def run_part(name: str, machine: Machine, results: Results, file: Path, deadline: float) -> None:
    """Measure the rows of a part that are missing; every one is written when it is known."""
    part, record = PARTS[name], machine_record(machine.device)
    settings = {**part.settings(machine), "tiny": machine.tiny, **record}
    settings["git_commit"] = str(settings["git_commit"]).removesuffix("-dirty")  # results dirty the tree
    known = results["parts"].get(name, {})
    kept = known.get("rows", []) if may_continue(known, settings) else []
    entry: dict[str, Any] = {"status": "unfinished", "settings": settings, "git_commit": record["git_commit"]}
    entry |= {"measured": datetime.now(UTC).isoformat(timespec="seconds"), "rows": []}
    results["parts"][name] = entry
    end = deadline if machine.tiny else min(deadline, time.perf_counter() + part.seconds)
    cases = part.cases(machine)
    for number, case in enumerate(cases, 1):
        about = dict(case.about)
        row = next((row for row in kept if about.items() <= row.items() and is_done(row)), None)
        if row is None:
            left = end - time.perf_counter()
            timely = left > 0
            row = measured(case, machine.device, left + GRACE) if timely else {**about, "result": NO_TIME}
            print(f"[{number}/{len(cases)}] {name}: {in_words(row)}", flush=True)
        entry["rows"].append(row)
        if failed := str(row["result"]).startswith(FAILED):
            entry |= {"status": "failed", "error": row["result"].removeprefix(FAILED)}
        write_json(file, results)
        if failed and context_is_lost(machine.device):
            raise LostContext(name)
    if entry["status"] != "failed" and all(map(is_done, entry["rows"])):
        entry["status"] = "finished"
    write_json(file, results)


class LostContext(Exception):
    """After some errors CUDA refuses everything else to this process."""


def context_is_lost(device: torch.device) -> bool:
    """Return whether the GPU does no work for this process any more."""
    if device.type != "cuda":
        return False
    try:
        torch.ones(1, device=device).add_(1).item()
    except RuntimeError:
        return True
    return False


def in_words(row: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {text(value)}" for key, value in row.items() if value is not None)


def text(value: Any) -> str:
    """Return a figure as it stands in a table."""
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e4 else f"{value:.0f}"
    return "-" if value is None else str(value).replace("|", "/")


def tables(results: Results) -> str:
    """Return everything measured as Markdown."""
    lines = [f"# {results['device']}", "", "What the columns mean is in the README of `experiments/gpu`."]
    for name, entry in results["parts"].items():
        rows = entry["rows"]
        columns = list(dict.fromkeys(key for row in rows for key in row if key not in ("result", "seconds")))
        columns += ["seconds", "result"]
        known = PARTS.get(name)
        lines += ["", f"## {name}: {known.question if known else ''}", ""]
        if error := entry.get("error"):
            lines += [f"Failed: {text(error)}", ""]
        lines += format_table(columns, [[text(row.get(column)) for column in columns] for row in rows])
        facts = ", ".join(f"{key} {text(value)}" for key, value in entry["settings"].items())
        lines += ["", f"{entry['status']}, {entry['measured']}; {facts}"]
    return "\n".join(lines) + "\n"


def read_results(file: Path, device: str) -> Results:
    """Return what was measured before.

    Raises:
        UserError: the file is no such record.
    """
    if not file.is_file():
        return {"device": device, "parts": {}}
    try:
        results: Results = json.loads(file.read_text())
        _ = [
            entry["status"] + entry["rows"][0]["result"]
            for entry in results["parts"].values()
            if entry["rows"]
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{file} holds no results of this check; move it away, or choose another --out"
        ) from error
    return results


def check(
    device: torch.device, tiny: bool, names: Sequence[str], out: Path, again: bool, limit: float
) -> bool:
    """Run what is missing of the parts; return whether all of them are finished and nothing is wrong."""
    deadline = time.perf_counter() + limit
    title = machine_record(device)["device"] if device.type == "cuda" else "cpu"
    slug = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") + ("-tiny" if tiny else "")
    file = out / f"{slug}.json"
    results = read_results(file, title)
    gc.freeze()  # what is imported stays; else each row would look through all of it
    with TemporaryDirectory() as folder:
        machine = Machine(device, tiny, Path(folder))
        for name in names:
            if again:
                results["parts"].pop(name, None)
            known = results["parts"].get(name, {})
            if known.get("status") == "finished":
                print(f"{name}: finished {known['measured']}; --again measures it anew", flush=True)
                continue
            try:
                run_part(name, machine, results, file, deadline)
            except LostContext:
                raise
            except Exception as error:  # a part that cannot even say what it measures
                entry = {"status": "failed", "error": last_line(error), "settings": {}, "rows": []}
                results["parts"][name] = {
                    **entry,
                    "measured": datetime.now(UTC).isoformat(timespec="seconds"),
                }
                print(f"{name}: {FAILED}{last_line(error)}", flush=True)
                write_json(file, results)
            finally:
                with write_atomically(file.with_suffix(".md")) as page:
                    page.write(tables(results))
    gc.unfreeze()
    print(f"\n{tables(results)}\nresults: {file} and {file.with_suffix('.md').name}")
    entries = [results["parts"][name] for name in names]
    wrong = any(row["result"] == NOT_OK for entry in entries for row in entry["rows"])
    return not wrong and all(entry["status"] == "finished" for entry in entries)


def main() -> int:
    """Run the command; the exit code is explained above."""
    parser = make_parser(__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small sizes: tries the check, measures nothing")
    parser.add_argument("--part", nargs="+", choices=PARTS, metavar="NAME", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--again", action="store_true", help="measure anew what is finished")
    parser.add_argument("--limit", type=float, default=LIMIT, help=f"seconds of all parts, {LIMIT}")
    options = parser.parse_args()
    started = time.perf_counter()
    if options.device == "cuda" and not torch.cuda.is_available():
        print("no CUDA GPU here; --device cpu --tiny tries the check itself", file=sys.stderr)
        return 2
    # As Lightning sets it for a training; later than the first product of matrices would be too late.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    names = [name for name in PARTS if name in (options.part or PARTS)]
    device = torch.device("cuda:0" if options.device == "cuda" else "cpu")
    try:
        good = check(device, options.tiny, names, options.out, options.again, options.limit)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except LostContext as error:
        # Only a new process gets a GPU that works; the part that lost it waits for the next start by hand.
        later = names[names.index(str(error)) + 1 :]
        left = options.limit - (time.perf_counter() - started)
        print(f"{error}: CUDA works no more in this process", flush=True)
        if later and left > 1:
            rest = ["--device", options.device, "--out", str(options.out), "--limit", str(round(left))]
            rest += [flag for flag in ("--tiny", "--again") if getattr(options, flag.strip("-"))]
            subprocess.call([sys.executable, "-m", "experiments.gpu.check", *rest, "--part", *later])
        return 1
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
