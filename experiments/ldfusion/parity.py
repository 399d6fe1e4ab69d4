"""How far the terms are from the published functions' values, which the tests hold: prints a markdown table.

python -m experiments.ldfusion.parity
"""

from pathlib import Path

import numpy as np
import torch

from clipfuse.clip.perceptual import maximum_feature_loss
from clipfuse.losses.ldfusion import language_loss, similarity_loss
from clipfuse.ops.entropy import entropy

GOLDEN = Path(__file__).parents[2] / "tests/golden/ldfusion.npz"
LAYERS = ("conv2_1", "conv3_1", "conv4_2")


def main() -> None:
    with np.load(GOLDEN) as file:
        golden = {key.replace("/ld_", "/"): torch.from_numpy(file[key]) for key in file.files}
    patch_images = golden["in/patches"]
    golden = {key: value.double() for key, value in golden.items()}
    texts = golden["in/prompt"][0], golden["in/vi_text"][0], golden["in/ir_text"][0]
    fused, visible, infrared = (golden[f"in/{name}"] for name in ("fu", "vi", "ir"))
    patches = golden["in/fu_patch"].requires_grad_()
    losses = language_loss(patches, visible.repeat(32, 1), infrared.repeat(32, 1), *texts)
    selected = (losses * golden["in/select"]).mean()
    (gradient,) = torch.autograd.grad(selected, patches, retain_graph=True)
    goal = golden["out/clip_prompt_loss_patch_select_dfu_f64"]
    pairs = [
        (golden[f"in/vgg_fu_{layer}"], torch.cat([golden[f"in/vgg_{band}_{layer}"] for band in ("vi", "ir")]))
        for layer in LAYERS
    ]
    found = {
        "clip_prompt_loss_global_f64": language_loss(fused, visible, infrared, *texts).mean(),
        "clip_prompt_loss_patch_noselect_f64": losses.mean(),
        "clip_prompt_loss_patch_select_f64": selected,
        "clip_prompt_loss_patch_select_dfu_f64": gradient[: len(goal)],
        "clip_sim_loss_f64": similarity_loss(fused, visible, infrared).mean(),
        "vgg_loss_rule_f64": maximum_feature_loss(pairs, (1, 1, 1)),
        "entropy_norm_false": entropy(patch_images).double(),
    }
    print("| quantity | published, greatest | greatest difference |\n|---|---|---|")
    for name, value in found.items():
        expected = golden[f"out/{name}"]
        difference = (value.detach() - expected).abs().max()
        print(f"| `ld_{name}` | {expected.abs().max():.6g} | {difference:.1e} |")


if __name__ == "__main__":
    main()
