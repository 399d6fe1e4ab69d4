import os
import subprocess
import sys

import pytest

from clipfuse.ops.memory import keep_few_kernels

# Page faults while a block of 64 MiB is taken, written and freed ten times.
SCRIPT = """
import resource, sys
from clipfuse.ops.memory import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory(2**28)
block = bytearray(2**26); del block
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    block = bytearray(b"x") * 2**26
    del block
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mallopt is of GNU's C library")
def test_blocks_are_kept_for_the_next_ones() -> None:
    faults = {}
    for word in ("keep", "give back"):
        words = [sys.executable, "-c", SCRIPT, word]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        faults[word] = int(done.stdout)
    pages = 10 * 2**26 // 4096
    assert faults["give back"] > pages / 2 > 10 * faults["keep"]


def test_the_number_of_kernels_is_set_unless_the_user_did(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"
    monkeypatch.setenv(name, "7")
    keep_few_kernels()
    assert os.environ[name] == "7"
    monkeypatch.delenv(name)
    keep_few_kernels()
    assert os.environ[name] == "64"
