"""Regular expressions over names of images, some of them of strangers."""

import re

MOST_GROUPS = 20  # expressions of one data set
LONGEST = 2**18  # characters of one, which may list the names of a group


def quick(expression: str) -> bool:
    """Whether a regular expression of a stranger's file is one, and cannot take long on a name.

    Repetitions of groups, and more than three repetitions, can take exponential or high polynomial time.
    """
    repetitions = len(re.findall(r"[*+?{]", expression))
    if len(expression) > (200 if repetitions else LONGEST) or re.search(r"\)\s*[*+?{]|\(\?|\\\d", expression):
        return False
    try:
        re.compile(expression)
    except (re.error, OverflowError, RecursionError):
        return False
    return repetitions <= 3
