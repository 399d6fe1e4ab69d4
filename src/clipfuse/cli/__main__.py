"""`clipfuse COMMAND ...`: finds the command, and turns a user's mistake into one line and exit code 2."""

import sys
from collections.abc import Sequence
from importlib import import_module

from clipfuse.cli import leave_current_folder
from clipfuse.cli.streams import keep_streams
from clipfuse.errors import UserError, did_you_mean, reason
from clipfuse.ops.memory import keep_few_kernels, keep_freed_memory
from clipfuse.version import __version__

COMMANDS = {
    "train": "train one run, or with -m a sweep of runs, one process each",
    "evaluate": "score a checkpoint on a data set",
    "score": "score the fused images of any method, one folder each",
    "downstream": "train task networks on fused images: do they help a machine to see?",
    "compare": "compare the runs of a sweep: table, statistical tests, verdict, HTML report",
    "board": "make a leaderboard, one page, of the results of many methods",
    "fuse": "fuse folders of infrared and visible images with a checkpoint",
    "degrade": "write degraded copies of pairs: noise, stripes, blur, darkness, rain, haze, a shift",
    "export": "write the network of a checkpoint as a file of weights or as ONNX",
    "distill": "train a small network to fuse as another one does",
    "train-reward": "train the scorer of loss=reward on choices between fused images",
    "new-loss": "write a first loss of your own, with its configuration and its test",
    "doctor": "list what works on this machine and what is missing",
}


def _help() -> str:
    commands = "\n".join(f"  {name:12} {text}" for name, text in COMMANDS.items())
    return (
        f"ClipFuse {__version__}: infrared-visible image fusion where only the loss changes.\n\n"
        f"usage: clipfuse COMMAND ...\n\ncommands:\n{commands}\n\n"
        "Each command has its own --help. --debug shows the traceback of an error.\n"
        "clipfuse --conf prints the folder of the configuration files.\n"
        "First run: clipfuse train experiment=quick"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: words after `clipfuse`; those of this process by default.

    Returns:
        The exit code: 0, 2 for a user's mistake, 130 after Ctrl-C.
    """
    keep_streams()
    words = list(sys.argv[1:] if arguments is None else arguments)
    if arguments is None:
        leave_current_folder()
        if words[:1] == ["fuse"]:  # a process of its own: one image after the other
            keep_freed_memory(2**30)
            keep_few_kernels()
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    try:
        if not words or words[0] in ("-h", "--help"):
            print(_help(), flush=True)
            return 0 if words else 2
        if words[0] == "--version" or "--version" in words[1:2]:
            print(__version__)
            return 0
        if words[0] == "--conf":
            print(import_module("clipfuse.cli.options").conf_dir())
            return 0
        command = words[0]
        if command not in COMMANDS:
            near = did_you_mean(command, COMMANDS)
            raise UserError(f"unknown command '{command}'.{near} Commands: {', '.join(COMMANDS)}")
        result = import_module(f"clipfuse.cli.{command.replace('-', '_')}").main(words[1:])
        return int(result or 0)
    except UserError as error:
        if debug:
            raise
        _complain(str(error))
        return 2
    except KeyboardInterrupt:
        if debug:
            raise
        print("clipfuse: interrupted", file=sys.stderr)
        return 130
    except (OSError, MemoryError) as error:  # a full disk, a name that is too long, a folder of another user
        if debug:
            raise
        room = f": not enough memory for {' '.join(words[:1])}" if isinstance(error, MemoryError) else ""
        where = f"{error.filename}: " if isinstance(error, OSError) and error.filename else ""
        _complain(f"{where}{getattr(error, 'strerror', None) or reason(error)}{room}")
        return 2


def _complain(message: str) -> None:
    """Print one line, whatever bytes a file is named by."""
    line = "".join(c if c.isprintable() or c == " " else ascii(c)[1:-1] for c in message)
    sys.stderr.write(f"clipfuse: error: {line}\n")  # at once: processes that fail together share the screen


if __name__ == "__main__":
    sys.exit(main())
