"""`clipfuse.list_losses`, `list_metrics` and `list_backbones`."""

from clipfuse.errors import UserError


def list_losses() -> list[str]:
    """Return the names that `loss=` takes: ours and those of installed plugins."""
    return _options("loss")


def list_backbones() -> list[str]:
    """Return the names that `backbone=` takes: ours and those of installed plugins."""
    return _options("backbone")


def list_metrics(protocol: str = "strict") -> list[str]:
    """Return the names of the metrics that a protocol has, in the order of its tables.

    Raises:
        UserError: there is no such protocol.
    """
    from clipfuse.metrics.protocols import protocol_named

    try:
        return list(protocol_named(protocol).metrics)
    except ValueError as error:
        raise UserError(str(error)) from None


def _options(group: str) -> list[str]:
    from clipfuse.cli.in_python import hydra_apart
    from clipfuse.cli.options import options

    with hydra_apart():
        return [name for name in options(group) if name != "custom"]  # the place of a class without a file
