"""Files of the hub: from this machine if they are there, else from the network if there is one."""

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from threading import Thread
from typing import TypeVar
from urllib.parse import SplitResult, urlsplit
from urllib.request import getproxies, proxy_bypass

WAIT_S = 3.0
Result = TypeVar("Result")


def fetch(call: Callable[[], Result]) -> Result:
    """Return what a function of open_clip loads, without the network where this machine has the files.

    Without a network the hub's own attempts would take up to a minute and a half.

    Raises:
        ConnectionError: the files are not here, and the hub does not answer.
        Exception: as `call`.
    """
    with suppress(Exception), offline():
        return call()
    host = _hub()
    if not _answers(host.hostname or "", host.port or {"https": 443, "http": 80}.get(host.scheme, 1080)):
        raise ConnectionError(f"{host.hostname} does not answer")
    return call()


@contextmanager
def offline() -> Iterator[None]:
    """Keep the hub's library from using the network."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _hub() -> SplitResult:
    """Return the address of the hub, or that of the proxy that leads there."""
    from huggingface_hub import constants

    hub = urlsplit(constants.ENDPOINT)
    proxies = getproxies()
    proxy = proxies.get(hub.scheme) or proxies.get("all")
    if not proxy or proxy_bypass(hub.hostname or ""):
        return hub
    return urlsplit(proxy if "://" in proxy else f"http://{proxy}")


@cache
def _answers(host: str, port: int) -> bool:
    found: list[bool] = []

    def knock() -> None:
        with suppress(OSError), socket.create_connection((host, port), timeout=WAIT_S):
            found.append(True)

    thread = Thread(target=knock, daemon=True)  # looking up a name has no time limit of its own
    thread.start()
    thread.join(2 * WAIT_S)
    return bool(found)
