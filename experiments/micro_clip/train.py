"""Make the bundled CLIP: render, train, and write `src/clipfuse/clip/micro`.

    python -m experiments.micro_clip.train [key=value ...]

reads `config.yaml`; an override names a dotted key, such as `data.share.msrs=0 out=runs/no_msrs`.
Interrupted, it goes on from its last checkpoint. The same machine and number of threads give the same
weights.
"""

import os
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from experiments.micro_clip.captions import VALUES, vocabulary
from experiments.micro_clip.scenes import REAL, Batches, Scene, real_scenes, synthetic_scenes
from omegaconf import OmegaConf
from open_clip import CLIP
from open_clip.transformer import text_global_pool
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from clipfuse.clip.micro_files import build_micro, load_micro, save_micro
from clipfuse.ops.seeding import derived_seed

FOLDER = Path(__file__).parent
HARD = {"kind": 3, "band": 2}  # weights of attributes, in the classifiers; of all others 1


class SeenTokens:
    """The tokens that captions use, and their places in a table of these alone."""

    def __init__(self) -> None:
        import open_clip

        tokens = open_clip.get_tokenizer("ViT-B-32")(vocabulary())
        self.ids: list[int] = tokens.unique().tolist()  # sorted, so that the end of text stays the greatest
        self._place = torch.full((49408,), -1)
        self._place[self.ids] = torch.arange(len(self.ids))

    def place(self, tokens: Tensor) -> Tensor:
        """Return the rows of tokens; a ValueError names what is not in the table."""
        places = self._place[tokens]
        if (places < 0).any():
            raise ValueError(f"tokens {tokens[places < 0].tolist()} are in no vocabulary()")
        return places


def encode_text(model: CLIP, tokens: Tensor, noise: float = 0) -> Tensor:
    """Return open_clip's `encode_text` of tokens that are cut after the longest text."""
    length = tokens.shape[1]
    x = model.token_embedding(tokens)
    x = x + noise * torch.randn_like(x) + model.positional_embedding[:length]
    x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask[:length, :length]))
    return cast(Tensor, text_global_pool(x, tokens, model.text_pool_type) @ model.text_projection)


def encode_texts(model: CLIP, tokens: Tensor, noise: float) -> Tensor:
    """Encode texts in four groups of about one length, which is faster."""
    order = tokens.argmax(1).argsort(stable=True)
    parts = [
        encode_text(model, group[:, : int(group.argmax(1).max()) + 1], noise)
        for group in tokens[order].chunk(4)
    ]
    return torch.cat(parts)[order.argsort()]


def targets(truth: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows that have a true entry, and the targets that share 1 among the true entries of each."""
    true = (truth == 1).float()
    rows = true.sum(1) > 0
    return rows, true[rows] / true[rows].sum(1, keepdim=True)


def contrastive(logits: Tensor, truth: Tensor) -> Tensor:
    """CLIP's loss where a row can have several positives; undecided entries (-1) take no part."""
    logits = logits.masked_fill(truth == -1, -1e4)
    losses = []
    for scores, facts in ((logits, truth), (logits.T, truth.T)):
        rows, wanted = targets(facts)
        losses.append(F.cross_entropy(scores[rows], wanted))
    return torch.stack(losses).mean()


def direction(image: Tensor, text: Tensor, truth: Tensor, variants: int) -> Tensor:
    """Mean of 1 - cos(E_i - E_j, T_a - T_b) over the pairs i, j of images of one scene.

    a is a random caption that is true of i and false of j, b the reverse. What separates two images of a
    scene shall be what separates their captions: this is the difference that direction losses descend.
    """
    place = torch.arange(len(image)).view(-1, variants)
    first, second = torch.combinations(torch.arange(variants)).T
    i, j = place[:, first].flatten(), place[:, second].flatten()
    ours, theirs = ((truth[p] == 1) & (truth[q] == 0) for p, q in ((i, j), (j, i)))
    told = ours.any(1) & theirs.any(1)
    if not told.any():
        return image.sum() * 0
    a, b = (torch.multinomial(chosen[told].float(), 1)[:, 0] for chosen in (ours, theirs))
    return 1 - F.cosine_similarity(image[i[told]] - image[j[told]], text[a] - text[b], eps=0.1).mean()


class Heads(nn.Module):
    """Classifiers of the attributes on the image vectors: they teach the image tower, and are thrown away.

    A text tower learns slowly what its words mean; free vectors for the same values learn at once.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.rows = nn.ModuleList(nn.Linear(width, len(values)) for values in VALUES.values())

    def forward(self, image: Tensor, labels: Tensor) -> Tensor:
        """Return the mean cross entropy over the attributes that are known of any image."""
        total, weights = image.new_zeros(()), 0
        for name, row, column in zip(VALUES, self.rows, labels.T, strict=True):
            if (column >= 0).any():
                weight = HARD.get(name, 1)
                total = total + weight * F.cross_entropy(row(16 * image), column, ignore_index=-1)
                weights += weight
        return total / max(weights, 1)


def parameter_groups(model: nn.Module, decay: float) -> list[dict[str, Any]]:
    """Decay matrices and kernels only."""
    named = [(name, value) for name, value in model.named_parameters() if value.requires_grad]
    decayed = [value for name, value in named if value.ndim > 1 and "embedding" not in name]
    plain = [value for name, value in named if not (value.ndim > 1 and "embedding" not in name)]
    return [{"params": decayed, "weight_decay": decay}, {"params": plain, "weight_decay": 0.0}]


def build_schedule(
    optimizer: torch.optim.Optimizer, settings: Mapping[str, Any]
) -> torch.optim.lr_scheduler.LRScheduler:
    """Warm up, then fall to 0 as a cosine."""
    warmup, steps = settings["warmup"], settings["steps"]
    parts: list[torch.optim.lr_scheduler.LRScheduler] = [
        torch.optim.lr_scheduler.LinearLR(optimizer, 0.01, total_iters=warmup),
        torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps - warmup),
    ]
    return torch.optim.lr_scheduler.SequentialLR(optimizer, parts, [warmup])


def read_domains(data: Mapping[str, Any]) -> dict[str, list[Scene]]:
    """Return the training scenes of each domain that has a share."""
    found = {}
    if data["share"]["synthetic"]:
        found["synthetic"] = synthetic_scenes(
            "train", data["scenes"], data["scene_size"], cache=data["cache"]
        )
        if not data["references"]:
            found["synthetic"] = [replace(scene, reference=None) for scene in found["synthetic"]]
    return found | {name: real_scenes(name, data["real_parts"]) for name in REAL if data["share"][name]}


def starting_weights(model: nn.Module, start: str | None) -> None:
    """Give a model the weights of another one of its shape; words that one has not seen stay random."""
    if start is not None:
        model.load_state_dict(load_micro(Path(start))[0].state_dict())


def train(config: Mapping[str, Any]) -> None:
    settings, data, pre = config["train"], config["data"], config["preprocess"]
    torch.set_num_threads(settings["threads"])
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(config["seed"])
    model = cast(CLIP, build_micro(config))
    starting_weights(model, config["start"])
    seen, table = SeenTokens(), model.token_embedding
    model.token_embedding = nn.Embedding.from_pretrained(table.weight[seen.ids].clone(), freeze=False)
    model.visual.to(memory_format=torch.channels_last)
    model.train()
    heads = Heads(config["open_clip"]["embed_dim"])
    groups = parameter_groups(nn.ModuleList([model, heads]), settings["weight_decay"])
    optimizer = torch.optim.AdamW(groups, settings["learning_rate"], (0.9, 0.98))
    schedule = build_schedule(optimizer, settings)
    out = Path(config["out"])
    checkpoint = Path(data["cache"]) / f"{out.name}.pt"
    start, parts = 0, {"model": model, "heads": heads, "optimizer": optimizer, "schedule": schedule}
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        if state["config"] != config:
            raise SystemExit(f"{checkpoint} is of another config; remove it")
        start = state["step"]
        for name, part in parts.items():
            part.load_state_dict(state[name])
    batches = Batches(read_domains(data), config, start)
    mean, std = (torch.tensor(pre[name]).view(3, 1, 1) for name in ("mean", "std"))
    begin = time.time()
    loader = DataLoader(batches, batch_size=None, num_workers=1, prefetch_factor=8)
    for step, (pictures, tokens, truth, labels) in enumerate(loader, start + 1):
        torch.manual_seed(derived_seed(config["seed"], "step", step))
        images = (pictures.expand(-1, 3, -1, -1) / 255 - mean) / std
        with torch.autocast("cpu", torch.bfloat16):
            image = model.encode_image(images.contiguous(memory_format=torch.channels_last))
            text = encode_texts(model, seen.place(tokens), settings["embedding_noise"])
        image, text = F.normalize(image.float(), dim=-1), F.normalize(text.float(), dim=-1)
        loss = contrastive(model.logit_scale.exp() * image @ text.T, truth)
        turn, extra = direction(image, text, truth, settings["variants"]), heads(image, labels)
        optimizer.zero_grad()
        (loss + settings["direction"] * turn + settings["heads"] * extra).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=4)
        if step % 50 == 0 or step == settings["steps"]:
            scale, rate = model.logit_scale.exp().item(), (step - start) / (time.time() - begin)
            print(
                f"step {step} loss {loss:.3f} direction {turn:.3f} heads {extra:.3f} "
                f"scale {scale:.1f} steps/s {rate:.2f}",
                flush=True,
            )
        if step % settings["checkpoint_every"] == 0 or step == settings["steps"]:
            state = {name: part.state_dict() for name, part in parts.items()}
            torch.save({**state, "config": config, "step": step}, checkpoint.with_suffix(".draft"))
            checkpoint.with_suffix(".draft").replace(checkpoint)
    with torch.no_grad():
        table.weight[seen.ids] = model.token_embedding.weight
    model.token_embedding = table
    kept = {name: config[name] for name in ("open_clip", "preprocess", "version", "seed")}
    save_micro(model, seen.ids, kept, out)


def read_config(overrides: list[str]) -> dict[str, Any]:
    """Return `config.yaml` with overrides such as "train.steps=400"."""
    config = OmegaConf.load(FOLDER / "config.yaml")
    OmegaConf.set_struct(config, True)
    return cast(
        dict[str, Any], OmegaConf.to_container(OmegaConf.merge(config, OmegaConf.from_cli(overrides)))
    )


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    train(read_config(sys.argv[1:]))
