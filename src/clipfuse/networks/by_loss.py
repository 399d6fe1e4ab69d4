"""The small networks in the package that were trained under one loss each, for `clipfuse fuse --loss`."""

from pathlib import Path

from clipfuse.errors import UserError, did_you_mean

FOLDER = Path(__file__).parents[1] / "backbones/by_loss"
BY_LOSS = {
    "pixel": "the brighter pixel, the stronger edge; no CLIP",
    "ldfusion": "the change from each source follows CLIP's from text to text, whole images and patches",
    "autofuse": "as ldfusion, towards good texts and away from bad ones, also of each image's defects",
    "clip_ratio": "pixel, and CLIP prefers a text of a good fusion to one of a bad fusion",
    "promptfusion": "pixel, and CLIP with learned prompts: a bi-level problem, by the value function",
    "promptfusion_fixed": "as promptfusion with the texts as they are: no lower level",
    "promptfusion_alternate": "as promptfusion, prompts and network taking steps in turn",
    "clip_lit": "as promptfusion, in turn and by margins between ranks of images (CLIP-LIT)",
    "promptfusion_views": "as promptfusion, the prompts answering to what the network makes now",
    "region_contrast": "pixel, and in each region like the source that stands out there, unlike the other",
    "text_weights": "intensity, SSIM and gradient with the weights of a text (here the general one)",
    "weighted_sum": "pixel and 0.1 ldfusion",
    "learned_loss": "a network weighs the sources, and learns it by finding both in the fused image",
    "adversarial": "pixel, and two discriminators: infrared targets, visible edges",
    "reward": "pixel, and the score of the bundled scorer of fused images",
    "balanced": "what the metrics of `balanced-1` miss: an upper mark; no CLIP",
    "task": "pixel, and a network that finds classes in the fused image; trained on MSRS alone",
}
"""What each of these networks was trained to do: name of the loss -> one line."""


def shipped() -> dict[str, Path]:
    """Return the files of the losses whose weights are in this package, in the order of `BY_LOSS`."""
    files = {name: FOLDER / f"{name}.safetensors" for name in BY_LOSS}
    return {name: path for name, path in files.items() if path.is_file()}


def loss_weights(name: str) -> Path:
    """Return the file of the small network that was trained under a loss.

    Args:
        name: of the loss, a key of `BY_LOSS`.

    Raises:
        UserError: there is no such loss, or its weights are not in this package.
    """
    there = shipped()
    if name in there:
        return there[name]
    if name in BY_LOSS:
        raise UserError(
            f"the weights of the loss {name} are not in this package ({FOLDER}); take one of "
            f"{', '.join(there) or 'none'}, or train it: experiments/loss_weights/train.py"
        )
    raise UserError(
        f"no weights of a loss '{name}'.{did_you_mean(name, BY_LOSS)} Losses with weights: {', '.join(there)}"
    )
