"""Which images of a stopped `clipfuse fuse` are finished: a record that lies in the folder until all are."""

import json
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from clipfuse.errors import UserError
from clipfuse.files import PARTIAL, file_sha256, json_sha256, probe_folder, read_text, rename_to_free
from clipfuse.version import __version__

RECORD = ".clipfuse-fuse.jsonl"
_STOPPING = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
_LARGEST = 100_000_000  # bytes of a record that is read


class Finished:
    """The finished images of a folder.

    An image counts as finished if its file, both its sources, the network and all settings are those of the
    record, by their SHA-256. One line is added for each image once its file is whole and before it gets its
    name; a line that was cut off is ignored.

    Args:
        out: the folder.
        made_by: the network's hash and the settings that change a fused image.
    """

    def __init__(self, out: Path, made_by: Mapping[str, Any]) -> None:
        self.out = out
        self._made_by = json_sha256({**made_by, "version": __version__})
        self.staged = out / f".fused.{os.getpid()}.partial"
        self._record = out / RECORD
        self._made = not out.exists()
        self._count = 0
        self._lines: dict[str, dict[str, Any]] = {}
        with suppress(UserError):
            for text in read_text(self._record, most=_LARGEST, within=out).splitlines():
                with suppress(ValueError, RecursionError):
                    line = json.loads(text)
                    if isinstance(line, dict):
                        self._lines[str(line.get("image"))] = line

    def _line(self, name: str, sources: Sequence[Path], fused: Path) -> dict[str, Any]:
        hashes = [file_sha256(path) for path in sources]
        return {"image": f"{name}.png", "by": self._made_by, "sources": hashes, "fused": file_sha256(fused)}

    def holds(self, name: str, sources: Sequence[Path]) -> bool:
        """Return whether the image of a pair is there and is what this command would write."""
        known = self._lines.get(f"{name}.png")
        with suppress(OSError):
            if known is not None and known == self._line(name, sources, self.out / f"{name}.png"):
                self._count += 1
                return True
        return False

    def add(self, name: str, sources: Sequence[Path], overwrite: bool = False) -> None:
        """Note that the image of a pair is finished, and then give the file `staged` its name.

        Raises:
            UserError: there is a file of this name, which must not be replaced.
        """
        path = self.out / f"{name}.png"
        if os.path.lexists(path) and not overwrite:
            raise UserError(f"{path}: exists already; choose another folder or give --overwrite")
        line = json.dumps(self._line(name, sources, self.staged))
        with self._record.open("a", encoding="utf-8") as file:
            file.write(f"\n{line}" if file.tell() else line)  # after a line that was cut off, too
        (os.replace if overwrite else rename_to_free)(self.staged, path)
        self._count += 1

    @contextmanager
    def kept_until_complete(self, total: int) -> Iterator[None]:
        """Remove the record at the end of the block; where that is not reached, print how to go on.

        Raises:
            UserError: nothing can be written into the folder.
        """
        try:
            try:
                probe_folder(self.out)
            except OSError as error:
                reason = error.strerror or error
                raise UserError(
                    f"--out {self.out}: cannot be written ({reason}); make room, or choose another folder"
                ) from error
            self._remove_partial()
            yield
        except BaseException:
            if self._count:
                print(
                    f"{self._count} of {total} images are finished in {self.out}; the same command goes on "
                    "with the others",
                    file=sys.stderr,
                )
            raise
        else:
            self._record.unlink(missing_ok=True)
        finally:
            with suppress(OSError):
                self.staged.unlink(missing_ok=True)
                if self._made and not any(self.out.iterdir()):
                    self.out.rmdir()

    def _remove_partial(self) -> None:
        """Remove what a killed process has left half written."""
        for path in self.out.iterdir() if self._lines else ():
            if PARTIAL.fullmatch(path.name) and not _runs(int(path.name.split(".")[-2])):
                path.unlink(missing_ok=True)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


@contextmanager
def stop_on_signals() -> Iterator[None]:
    """Within the block, end on SIGTERM, or when the terminal is closed (SIGHUP), as on Ctrl-C.

    What is being written is finished or vanishes; the exit code is 128 and the signal's number. A signal that
    is ignored, as under nohup, stays ignored.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = {}
    try:
        for number in _STOPPING:
            if signal.getsignal(number) is not signal.SIG_IGN:
                with suppress(ValueError):  # not in the main thread
                    before[number] = signal.signal(number, stop)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
