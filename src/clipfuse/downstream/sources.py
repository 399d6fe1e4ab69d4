"""The sources of images that a task network sees: single bands, trivial fusions, networks, folders.

Every source gives an 8-bit image of a pair. A fused one is the colour image that `clipfuse fuse` writes:
fused luma with the chroma of the visible image, or the one that the network learned. `infrared` is gray.
`both` has four channels, red, green, blue and infrared: what a task network can do with all that the two
bands show.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from clipfuse.errors import UserError
from clipfuse.files import file_sha256, json_sha256
from clipfuse.images import read_image
from clipfuse.networks.apply import apply_in_color
from clipfuse.networks.load import load_network
from clipfuse.ops.color import eight_bit_rgb, luma_chroma_to_rgb, rgb_to_luma_chroma
from clipfuse.ops.depth import to_bytes, to_unit
from clipfuse.types import FusionBatch

BOTH = "both"
ALWAYS = ("infrared", "visible", "average", "maximum", BOTH)
"""The sources that are always judged beside the fused ones, in this order."""

TEST_IMAGES = Path("test", "color")  # of a run folder


@dataclass(frozen=True)
class Source:
    """What gives the images of one row of the table.

    Attributes:
        name: unique among the sources of a command.
        folder: holds its results: a run folder, or a folder of that name beside those of the other sources.
        origin: SHA-256 of all that decides its images, the pairs apart.
        image: of a pair, a batch of one; returns (C, H, W) uint8.
        of_run: whether the folder is a run folder.
        label: more words for the table, such as loss and seed.
    """

    name: str
    folder: Path
    origin: str
    image: Callable[[FusionBatch], Tensor]
    of_run: bool = False
    label: str = ""


def plain_source(name: str, folder: Path) -> Source:
    """Return one of `ALWAYS`, whose images need no network."""
    return Source(name, folder / name, json_sha256({"plain": name}), lambda pair: _plain(name, pair))


def _plain(name: str, pair: FusionBatch) -> Tensor:
    infrared, visible, chroma = pair.infrared[0], pair.visible[0], pair.chroma[0]
    if name == "infrared":
        return to_bytes(infrared).expand(3, -1, -1)
    if name in ("visible", BOTH):
        color = to_bytes(luma_chroma_to_rgb(visible, chroma))  # of 8 bits, it is the stored one
        return torch.cat((color, to_bytes(infrared))) if name == BOTH else color
    fused = {"average": (infrared + visible) / 2, "maximum": torch.maximum(infrared, visible)}
    return _colored(fused[name], chroma)


def _colored(luma: Tensor, chroma: Tensor) -> Tensor:
    return to_bytes(eight_bit_rgb(luma, chroma))


def network_source(name: str, folder: Path, file: Path, device: str, trust: tuple[str, ...] = ()) -> Source:
    """Return the source of a network's fused images.

    Args:
        name: of the source.
        folder: of its results.
        file: as `clipfuse.networks.load.load_network` takes it.
        device: where it fuses; an .onnx file always on the CPU.
        trust: packages beside our backbones whose classes it may name.

    Raises:
        UserError: the file is no network.
    """
    network = load_network(file, trust)
    if file.suffix != ".onnx":
        network.to(torch.device(device))
    origin = json_sha256({"network": file_sha256(file)})
    return Source(name, folder, origin, lambda pair: fused_image(network, pair, str(file)))


def fused_image(network: nn.Module, pair: FusionBatch, what: str) -> Tensor:
    """Return the colour image of a pair as `clipfuse fuse` writes it, (3, H, W) uint8.

    One pair at a time, as that command does it: in a batch the last digits may differ.
    """
    device = next((each.device for each in network.parameters()), torch.device("cpu"))
    where = f"{pair.sample_ids[0]} with {what}"
    infrared, visible, given = (each.to(device) for each in (pair.infrared, pair.visible, pair.chroma))
    fused, chroma = apply_in_color(network, infrared, visible, given, where)
    return _colored(fused[0].cpu(), chroma[0].cpu())


def run_source(
    run: Path, name: str, device: str, same_data: bool, trust: tuple[str, ...] = (), label: str = ""
) -> Source:
    """Return the source of a run's fused images.

    Images of its test are read where they are there; all others are fused anew by its last checkpoint.

    Args:
        run: the run folder.
        name: of the source.
        device: where its network fuses.
        same_data: whether its test images are those of the data set in use.
        trust: packages whose classes its checkpoint may name.
        label: more words for the table.

    Raises:
        UserError: it has no checkpoint.
    """
    file = run / "checkpoints" / "last.ckpt"
    if not file.is_file():
        raise UserError(
            f"{run}: there is no {file.relative_to(run)}, by which its training images are fused; train it "
            "again with callbacks.last, or leave it out"
        )
    anew = network_source(name, run, file, device, trust)
    written = run / TEST_IMAGES
    files = {path.stem: path for path in sorted(written.glob("*.png"))} if same_data else {}
    hashes = {name: file_sha256(path) for name, path in files.items()}
    origin = json_sha256({"network": anew.origin, "images": hashes})

    def image(pair: FusionBatch) -> Tensor:
        path = files.get(pair.sample_ids[0])
        return anew.image(pair) if path is None else image_of_file(path, pair)

    return Source(name, run, origin, image, True, label)


def files_source(name: str, folder: Path, files: Mapping[str, Path]) -> Source:
    """Return the source of another method's fused images.

    Args:
        name: of the source.
        folder: of its results.
        files: the image of each pair by sample id.
    """
    hashes = {sample: file_sha256(path) for sample, path in sorted(files.items())}
    origin = json_sha256({"images": hashes})
    return Source(
        name, folder, origin, lambda pair: image_of_file(files[pair.sample_ids[0]], pair), False, ""
    )


def image_of_file(path: Path, pair: FusionBatch) -> Tensor:
    """Read the fused image of a pair, (3, H, W) uint8; a gray one gets the chroma of the visible image.

    Raises:
        UserError: it cannot be read, or differs in size from its pair.
    """
    image = read_image(path)
    if image.shape[-2:] != pair.infrared.shape[-2:]:
        (high, wide), (other_high, other_wide) = image.shape[-2:], pair.infrared.shape[-2:]
        raise UserError(
            f"{path} is {wide} x {high} pixels, its pair {pair.sample_ids[0]} {other_wide} x {other_high}; "
            "bring it to the size of its pair"
        )
    if image.shape[0] == 1:
        return _colored(to_unit(image), pair.chroma[0])
    return to_bytes(to_unit(image))


def as_luma(image: Tensor) -> Tensor:
    """Return an image of 3 or 4 channels with its luma, rounded to 8 bits, in the place of each colour."""
    luma = to_bytes(rgb_to_luma_chroma(to_unit(image[:3]))[0])
    return torch.cat((luma.expand(3, -1, -1), image[3:]))
