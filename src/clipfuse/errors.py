"""The one exception a user's mistake raises: shown as one line, exit code 2, no traceback."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """Something the user gave is wrong; the message names it, what was expected and what to do."""

    def __init__(self, message: str) -> None:
        # From a data loader's process the message comes back at the end of a printed traceback.
        super().__init__(message.rpartition(f"{__name__}.UserError: ")[2].strip())


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `` Did you mean 'x'?`` for the known word nearest to `word`, else an empty string."""
    nearest = get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" Did you mean '{nearest[0]}'?" if nearest else ""
