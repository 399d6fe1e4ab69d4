"""The tree of the directional filter bank: which frequencies a node splits, and where it samples.

A tree of depth l has 2**l leaves. Node n of depth d has children 2n and 2n + 1; child 0 keeps what
fan filter 0 passes, child 1 the rest. By the noble identities a filter behind a decimation by the
matrix M equals its M-upsampled version before it, whose response is H(M^T w). Every filter can then
be read at the frequencies w = (w_row, w_column) of the undecimated image, as a fan of two integer
combinations (u, v) of them, and every band as the filtered image sampled at offset + step * n.

Depth 1 separates w_column > w_row (first half, "wide" bands) from the rest ("tall" bands); depth 2 the
signs of w_row * w_column (the quincunx matrix (1 1; 1 -1)); together they sample by 2 in rows and columns.
From depth 3 on, in the first half with r = 2**(d-2) w_row, c = 2 w_column (the node's own torus), the
wedge r/c in (j, j + 1) is split at j + 1/2 by the fan of u = r - j c, v = -r + (1 + j) c: the matrix is
unimodular, its alias (pi, pi) is (pi, 0) on that torus, so that the children drop every second row.
The second half is the first with rows and columns exchanged. Own derivation from Bamberger and Smith,
IEEE T-ASSP 40(4), 1992, and Do and Vetterli, IEEE TIP 14(12), 2005, section III-B.

Filters being symmetric about a sample, child 1 must be sampled on the other coset of the parent's
lattice (`stagger`). The choice of coset point up to depth 3 is the published tools'.
"""

Pair = tuple[int, int]


def combination(depth: int, parent: int) -> tuple[Pair, Pair]:
    """Coefficients on (w_row, w_column) of u and v for the fan that splits a `parent` of depth - 1."""
    if depth == 1:
        return (1, 0), (0, 1)
    if depth == 2:
        return (1, 1), (1, -1)
    second, cell = divmod(parent, 2 ** (depth - 2))
    j = cell - 2 ** (depth - 3)
    step = 2 ** (depth - 2)
    u, v = (step, -2 * j), (-step, 2 * (1 + j))
    return ((u[1], u[0]), (v[1], v[0])) if second else (u, v)


def lattice(depth: int, node: int) -> Pair:
    """Steps in pixels of a node's own array; depth 1, a quincunx lattice, is computed on all pixels."""
    if depth < 2:
        return 1, 1
    steps = 2 ** (depth - 1), 2
    return steps if node < 2 ** (depth - 1) else (steps[1], steps[0])


def own_combination(depth: int, parent: int) -> tuple[Pair, Pair]:
    """`combination` in the frequencies of the parent's own array."""
    row, column = lattice(depth - 1, parent)
    u, v = combination(depth, parent)
    return (u[0] // row, u[1] // column), (v[0] // row, v[1] // column)


def stagger(depth: int, parent: int) -> Pair:
    """How much further than child 0, in pixels, child 1 of a `parent` of depth - 1 is sampled."""
    if depth <= 2:
        return ((1, 0), (1, 1))[depth - 1]
    if parent < 2 ** (depth - 2):
        return 2 ** (depth - 2), 0
    if depth == 3:  # (0, 2) and one row of the band on, as in the published tools
        return 2, (2 if parent == 2 else -2)
    return 0, 2 ** (depth - 2)


def offset(depth: int, node: int) -> Pair:
    """The pixel at which the first sample of `node` lies (modulo the torus)."""
    row = column = 0
    while depth:
        if node % 2:
            down, right = stagger(depth, node // 2)
            row, column = row + down, column + right
        depth, node = depth - 1, node // 2
    return row, column


def band_order(depth: int) -> list[int]:
    """Leaves of a tree as bands are listed: the first half, then the second half backwards."""
    half = 2 ** (depth - 1)
    return [*range(half), *reversed(range(half, 2 * half))]


def band_size(depth: int, band: int, size: Pair) -> Pair:
    """(rows, columns) of a band of an image of `size`.

    At depth 1 the lattice is quincunx and no rectangle: the wide band keeps sample (2 i + (j mod 2), j) at
    (i, j), like bricks, the tall band (i, 2 j + (i mod 2)), from its own offset.
    """
    rows, columns = size
    fine, coarse = (1, 2) if depth == 1 else (2, 2 ** (depth - 1))
    wide = band < 2 ** (depth - 1)
    return (rows // coarse, columns // fine) if wide else (rows // fine, columns // coarse)


def multiple(levels: tuple[int, ...]) -> int:
    """What must divide both sides of an image for a transform of `levels` (coarse to fine)."""
    steps = (2**place * 2 ** max(depth - 1, 1) for place, depth in enumerate(reversed(levels)))
    return max(steps)
