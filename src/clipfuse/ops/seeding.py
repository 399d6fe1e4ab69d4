"""Seeds for random draws that depend on neither ranks, workers, resume nor the global random state."""

import hashlib


def derived_seed(*parts: int | str) -> int:
    """Return a 32-bit seed that depends on `parts`, such as (seed, step, sample id).

    A hash, since torch's CPU generator uses the low 32 bits of a seed only: seeds built by
    shifting one number above another would all give the same draws.
    """
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:4], "big")
