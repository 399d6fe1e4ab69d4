"""Seeds for random draws that depend on neither ranks, workers, resume nor the global random state."""

import hashlib


def derived_seed(*parts: int | str) -> int:
    """Return a 32-bit seed for what `parts` name, such as (seed, step, sample id).

    A hash, since torch's CPU generator looks at the low 32 bits of a seed only: seeds built by
    shifting one number above another would all draw the same.
    """
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:4], "big")
