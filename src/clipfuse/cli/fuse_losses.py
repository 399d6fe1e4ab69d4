"""`clipfuse fuse --compare-losses [NAME ...] --out page.html`: one page of what each loss makes of pairs."""

import argparse
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from clipfuse.cli.devices import chosen_device
from clipfuse.cli.value_range import given_ranges
from clipfuse.errors import UserError

if TYPE_CHECKING:
    from torch import nn

    from clipfuse.comparison.by_loss import Fused
    from clipfuse.decoding.ranges import Ranges
    from clipfuse.metrics.scoring import Scorer

PAIRS = 8  # that a page shows at most


def compare_losses(options: argparse.Namespace, arguments: Sequence[str]) -> None:
    """Fuse pairs with the small network of each loss, and write one page.

    Args:
        options: of `clipfuse fuse`.
        arguments: its words, which the page repeats.

    Raises:
        UserError: another network was named as well, --out is no page, is there or cannot be written, a loss
            has no weights, or files cannot be read.
    """
    from tqdm import tqdm

    from clipfuse.comparison.by_loss import by_loss_page
    from clipfuse.data.checks import look_at_bands
    from clipfuse.data.listed import given_pairs
    from clipfuse.files import check_output, write_atomically
    from clipfuse.images import check_ranges
    from clipfuse.metrics.scoring import Scorer
    from clipfuse.metrics.verdict import BALANCED
    from clipfuse.networks.by_loss import BY_LOSS, loss_weights, shipped
    from clipfuse.networks.load import load_network

    if options.codec:
        raise UserError("--codec is for videos, and --compare-losses takes images; leave it out")
    out = Path(options.out)
    if out.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--out {out}: --compare-losses writes one page; name a file such as losses.html")
    files = {name: loss_weights(name) for name in dict.fromkeys(options.compare_losses)} or shipped()
    if not files:
        raise UserError(
            "this package holds no weights of losses; train some: experiments/loss_weights/train.py"
        )
    check_output(out, options.overwrite)
    found = given_pairs(Path(options.infrared), Path(options.visible), options.pairs)
    pairs = {name: (pair.infrared, pair.visible) for name, pair in found.pairs.items()}
    print(found.summary())
    ranges = given_ranges(options.range)
    if warning := look_at_bands(pairs):
        print(f"warning: {warning}", file=sys.stderr)
    check_ranges(list(pairs.values()), ranges, "--range={},{}")
    names = list(pairs)
    shown = [names[index * len(names) // PAIRS] for index in range(PAIRS)] if len(names) > PAIRS else names
    device = chosen_device(options.device, "--device ")
    networks = {name: load_network(path).to(device) for name, path in files.items()}
    scorer = Scorer(
        names=[name for family, own in BALANCED.members.items() for name in own if family != "targets"]
    )
    made = {
        name: _fuse(pairs[name], ranges, networks, scorer, options.luma)
        for name in tqdm(shown, "fusing", unit="pair")
    }
    page, note = by_loss_page(
        made,
        {name: BY_LOSS[name] for name in files},
        [scorer.protocol.definition(name) for name in scorer.names],
        len(pairs),
        shlex.join(["clipfuse", "fuse", *arguments]),
    )
    with write_atomically(out, overwrite=options.overwrite) as file:
        file.write(page)
    print(f"written: {out}, {len(files)} {'loss' if len(files) == 1 else 'losses'}; {note}")


def _fuse(
    files: tuple[Path, Path],
    ranges: "Ranges",
    networks: "Mapping[str, nn.Module]",
    scorer: "Scorer",
    in_gray: bool,
) -> "Fused":
    """Return both bands, two plain fusions and what each network makes of a pair, with scores of all."""
    from PIL.Image import Resampling

    from clipfuse.comparison.album import as_image
    from clipfuse.comparison.by_loss import STEPS, Fused
    from clipfuse.images import read_registered
    from clipfuse.metrics.trivial import trivial_fusions
    from clipfuse.networks.apply import apply_in_color
    from clipfuse.ops.color import eight_bit_rgb, rgb_to_luma_chroma
    from clipfuse.ops.depth import to_unit

    thermal, color = (to_unit(each)[None] for each in read_registered(*files, ranges))
    luma, chroma = rgb_to_luma_chroma(color)
    planes = {
        name.removeprefix("trivial:"): (plane, chroma)
        for name, plane in trivial_fusions(thermal, luma).items()
    }
    for name, network in networks.items():
        planes[name] = apply_in_color(network, thermal, luma, chroma, f"{files[1]} with the loss {name}")
    images = {}
    for name, (plane, colors) in planes.items():
        plain = name == "infrared" or in_gray or color.shape[1] == 1
        images[name] = as_image(plane[0] if plain else eight_bit_rgb(plane, colors)[0])
        images[name].thumbnail((STEPS[0][0],) * 2, Resampling.LANCZOS)  # no page shows more
    scores = scorer.score_all({name: plane for name, (plane, _) in planes.items()}, thermal, luma)
    return Fused(images, scores)
