"""What becomes of memory that is freed."""

import ctypes
import os
from contextlib import suppress

_KERNELS = 64  # more than two networks have layers, and less than a few sizes of images need
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt(3)


def keep_freed_memory(most: int) -> None:
    """Let this process keep freed memory for its next tensors, where the C library is GNU's.

    By default it gives large blocks back to the system and takes them anew, and the kernel fills them with
    zeros each time: that can cost more than the arithmetic on them.

    Args:
        most: size of the largest block that is kept, and how much of them, in bytes.
    """
    with suppress(OSError, AttributeError, TypeError):  # another C library
        library = ctypes.CDLL(None)
        for parameter in (_TRIM_THRESHOLD, _MMAP_THRESHOLD):
            library.mallopt(parameter, most)


def keep_few_kernels() -> None:
    """Let oneDNN, by which torch computes on a CPU, keep the code for few sizes of images; call it early.

    It compiles code for each layer and size, and keeps 1,024 of them: over a folder of images of many sizes
    a process of half a gigabyte doubles. A capacity that the user has set stays.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(_KERNELS))
