"""The command line. Nothing here imports torch, Lightning or Hydra before a command needs them."""

import os
import sys


def own_place() -> str:
    """Return the folder that holds this package."""
    return os.path.realpath(os.path.join(os.path.dirname(__file__), os.pardir, os.pardir))


def leave_current_folder() -> None:
    """Take the current folder off the import path, in this process and in those that it starts.

    `python -m` and `PYTHONPATH=.` put it before the standard library and the installed packages. It stays, as
    the last place, where this package itself is imported from it.
    """
    try:
        here = os.path.realpath(os.getcwd())
    except OSError:  # somebody has removed it
        return
    left = [place for place in sys.path if os.path.realpath(place or os.curdir) != here]
    if here == own_place():
        left.append(here)
    sys.path[:] = left
    os.environ["PYTHONSAFEPATH"] = "1"


# Before anything else is imported, which a random.py or re.py in the current folder could be instead:
if {("-m", "clipfuse"), ("-m", "clipfuse.cli")} & set(zip(sys.orig_argv, sys.orig_argv[1:], strict=False)):
    leave_current_folder()
