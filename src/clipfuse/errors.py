"""The one exception a user's mistake raises: shown as one line, exit code 2, no traceback."""

import os
from collections.abc import Iterable, Mapping
from difflib import get_close_matches

_HIDDEN: dict[str, str] = {}


def hide(values: Mapping[str, str]) -> None:
    """Keep values out of all messages from now on, and show for each the text that stands for it.

    Short values, which many words contain, and names of files, which a message is about, are shown.
    """
    _HIDDEN.update(
        {value: text for value, text in values.items() if len(value) > 3 and not os.path.exists(value)}
    )


def hidden(text: str) -> str:
    """Return a text with what `hide` was given replaced."""
    for value, name in sorted(_HIDDEN.items(), key=lambda item: -len(item[0])):
        text = text.replace(value, name)
    return text


class UserError(Exception):
    """Something the user gave is wrong; the message names it, what was expected and what to do."""

    def __init__(self, message: str) -> None:
        # From a data loader's process the message comes back at the end of a printed traceback.
        super().__init__(hidden(message.rpartition(f"{__name__}.UserError: ")[2].strip()))


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `` Did you mean 'x'?`` for the known word nearest to `word`, else an empty string."""
    nearest = get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" Did you mean '{nearest[0]}'?" if nearest else ""


def reason(error: BaseException) -> str:
    """Return the message of an error on one line, or its class where it has none."""
    return " ".join(f"{error}".split()) or type(error).__name__
