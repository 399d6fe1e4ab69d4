"""The device that a command computes on."""

from typing import TYPE_CHECKING

from clipfuse.errors import UserError

if TYPE_CHECKING:
    import torch


def chosen_device(given: str | None, option: str) -> "torch.device":
    """Return the device of this name, by default a GPU if there is one, else the CPU.

    Args:
        given: such as cuda:1, or None.
        option: how the user gives it, such as "--device ".

    Raises:
        UserError: it cannot be used here; names the option.
    """
    import torch  # here: --help must not wait for it

    name = given or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"{option}{name} cannot be used here: {str(error).splitlines()[0]}") from error
    return device
