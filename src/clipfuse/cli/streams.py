"""Standard output and error that never end a command: what cannot be written is left out."""

import io
import os
import sys
import time
from contextlib import suppress
from typing import Any


class _Lasting(io.FileIO):
    """An open file of the system; bytes that it refuses are dropped."""

    def write(self, data: Any) -> int:
        """Write, and count what a closed pipe or a full disk refuses as written."""
        try:
            while (count := super().write(data)) is None:  # a terminal that does not block
                time.sleep(0.01)
        except OSError:
            return memoryview(data).nbytes
        return count


def keep_streams() -> None:
    """Let print, progress bars and logs of this process work whatever has become of its streams.

    A reader that has gone (`| head -1`), a full disk (`2>/dev/full`) and a closed stream (`>&-`) lose what
    they cannot take; characters that the terminal's encoding lacks are written as escapes. Streams that a
    program has put in the place of its own, such as those of a notebook, stay.
    """
    # Else the next file that is opened would become standard output or error.
    while (spare := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(spare, True)
    os.close(spare)
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is not getattr(sys, f"__{name}__"):
            continue
        options: dict[str, Any] = {"encoding": "utf-8", "line_buffering": True}
        if stream is not None:
            with suppress(OSError):
                stream.flush()
            options = {key: getattr(stream, key) for key in ("encoding", "line_buffering", "write_through")}
        file: Any = _Lasting(number, "w", closefd=False)
        if not options.get("write_through"):
            file = io.BufferedWriter(file)
        setattr(sys, name, io.TextIOWrapper(file, errors="backslashreplace", **options))
