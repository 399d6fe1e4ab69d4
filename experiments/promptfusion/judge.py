"""An independent judge: another small CLIP, which the guided networks never met.

    python -m experiments.promptfusion.judge

Another architecture (a ViT where the bundled one is a ResNet), another start, other real scenes (the
validation and test parts of RoadScene), and none of the renderer's ideal fusions among its images. Writes
`runs/promptfusion/judge`, a folder that `clip=micro clip.pretrained=FOLDER` takes. The judge of the study was
made by the recipe of `clip=micro_1`; today's is that of the second edition.
"""

from experiments.micro_clip.train import read_config, train

TOWER = {"image_size": 112, "patch_size": 14, "layers": 5, "width": 192, "head_width": 32}
SETTINGS = [
    "seed=11",
    "out=runs/promptfusion/judge",
    "open_clip.text_cfg.layers=2",
    "data.real_parts=[val,test]",
    "data.references=false",
    "train.steps=1500",
    "start=null",
    *("data.share.synthetic=0.4", "data.share.roadscene=0.6", "data.share.msrs=0"),
]


def main() -> None:
    """Train it, some 12 minutes on one thread."""
    config = read_config(SETTINGS)
    config["open_clip"]["vision_cfg"] = TOWER
    train(config)


if __name__ == "__main__":
    main()
