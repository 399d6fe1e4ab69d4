"""What becomes of memory that is freed."""

import ctypes
from contextlib import suppress

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
