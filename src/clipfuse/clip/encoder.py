"""The frozen CLIP that embeds images and texts: any open_clip model, or the bundled `micro`."""

import threading
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from os.path import expanduser
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from clipfuse.clip.loading import MICRO, Source, load_source, make_tokenizer
from clipfuse.clip.preprocess import Preprocess
from clipfuse.clip.support import announce, stamp, usable_device
from clipfuse.clip.tokens import Tokens
from clipfuse.clip.towers import feature_layers, image_pass, reads_padding, text_pass, text_tower
from clipfuse.errors import UserError
from clipfuse.ops.plain import plain_tensors

_loaded: "WeakValueDictionary[tuple[Any, ...], FrozenClip]" = WeakValueDictionary()
_lock = threading.Lock()


class FrozenClip:
    """CLIP (Radford et al., arXiv 2103.00020) as a fixed function of images and texts.

    It is no `nn.Module`: a module that keeps it in an attribute has nothing of it in its parameters,
    `state_dict`, copies, summaries or broadcasts. A deep copy is the same object, and a pickle loads the
    model again. The weights are frozen and in eval mode; gradients reach the images alone.

    The weights are moved to the device of the images, and are float32 unless `to` changes it. Under
    `torch.autocast` the image tower and `encode_embeddings` use the lower precision; preprocessing and
    `encode_text` never do. Results have the type of the weights.

    Args:
        source: a loaded model, which is frozen here. Usually made by `FrozenClip.load`.
        resize: `shortest` or `squash` in place of the model's own way.
    """

    def __init__(self, source: Source, resize: str | None = None) -> None:
        self.model = source.model.eval().requires_grad_(False)
        preprocess = Preprocess.of(source.preprocess)
        self.preprocess = preprocess if resize is None else replace(preprocess, resize=resize)
        self.seen_tokens = source.seen
        self._source = source
        self._arguments: dict[str, Any] | None = None
        self._texts: dict[tuple[str, bool], Tensor] = {}
        with torch.no_grad():
            self.logit_scale = float(source.model.logit_scale.exp())
        """The factor of cosines before a softmax; 100 for most models."""

    @classmethod
    def load(
        cls,
        model: str,
        pretrained: str | None = None,
        quick_gelu: bool = False,
        mean: tuple[float, float, float] | None = None,
        std: tuple[float, float, float] | None = None,
        resize: str | None = None,
        device: str | None = None,
    ) -> "FrozenClip":
        """Load a model, or return the one that was loaded with the same arguments and is still in use.

        One that `to` has given another type than float32 stays with those who have it: a training in float64
        must not change the next one of this process.

        Args:
            model: `micro`; a name of an open_clip model, such as `ViT-B-32-quickgelu`; `local-dir:/path`, a
                folder with `open_clip_config.json` and weights; or `hf-hub:organisation/repository`.
            pretrained: one of the model's tags, such as `openai`, which is downloaded at its first use; or a
                weights file (a state dict of torch or safetensors, or OpenAI's own). For `micro`, a folder,
                or an earlier edition: `micro_1`.
            quick_gelu: use QuickGELU although the model's name lacks `-quickgelu`. A weights file does not
                record its activation: OpenAI's weights need QuickGELU, and without it the features are wrong,
                without an error.
            mean: means of red, green and blue that images are normalised by. A weights file does not hold its
                preprocessing, so the architecture's default is used, which is wrong for some models, without
                an error (open_clip#1068).
            std: standard deviations of red, green and blue.
            resize: `shortest` or `squash` instead of the model's own resizing.
            device: device of the weights; None: the CPU, until the first images.

        Raises:
            UserError: unknown model, tag or file; weights of another architecture or activation; a broken
                file; weights that are not on this machine and cannot be downloaded. Names what to do.
            ValueError: a wrong mean, std, resize or device.
        """
        pretrained = None if pretrained is None else expanduser(pretrained)
        arguments = {
            "model": model,
            "pretrained": pretrained,
            "quick_gelu": quick_gelu,
            "mean": None if mean is None else tuple(mean),
            "std": None if std is None else tuple(std),
            "resize": resize,
            "device": device,
        }
        key = (*arguments.values(), stamp(model, pretrained))
        with _lock, plain_tensors():
            clip = _loaded.get(key)
            if clip is None or clip.dtype != torch.float32:
                with torch.random.fork_rng(devices=[]):  # first weights, drawn only where none are kept
                    source = load_source(model, pretrained, quick_gelu)
                given = {name: value for name, value in (("mean", mean), ("std", std)) if value is not None}
                clip = cls(replace(source, preprocess={**source.preprocess, **given}), resize)
                clip._arguments = arguments
                if device is not None:
                    clip.to(usable_device(device))
                _loaded[key] = clip
        if model == MICRO:
            announce()
        return clip

    @property
    def identity(self) -> dict[str, Any]:
        """What a run records, in plain values.

        `model`; `pretrained`: tag, file name or None; `quick_gelu`; `weights_sha256`, of the state dict's
        names, types, shapes and bytes, so the same for one model in two file formats; `preprocess`; and
        the `version` of `micro`.
        """
        preprocess = {
            "size": list(self.preprocess.size),
            "mean": list(self.preprocess.mean),
            "std": list(self.preprocess.std),
            "interpolation": self.preprocess.interpolation,
            "resize": self.preprocess.resize,
        }
        return {**self._source.identity, "preprocess": preprocess}

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return torch.device(self.model.logit_scale.device)

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights."""
        dtype: torch.dtype = self.model.logit_scale.dtype
        return dtype

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "FrozenClip":
        """Move the weights, for all users of this object. Images on another device move them, too."""
        # Validation may run in inference mode; weights made there could not serve in training.
        with plain_tensors():
            self.model.to(device=device, dtype=dtype)
            if dtype is not None:
                self._texts.clear()
            self._texts = {key: value.to(self.device) for key, value in self._texts.items()}
        return self

    def encode_image(self, images: Tensor, resize: str | None = None) -> Tensor:
        """Embed images; a graph is built only if `images` require a gradient.

        Args:
            images: (N, 1 or 3, H, W) float in [0, 1], any size; gray is repeated. Neither range nor
                finiteness is checked, which would make a GPU wait.
            resize: `shortest` or `squash` for this call.

        Returns:
            (N, D), not normalised.

        Raises:
            ValueError: wrong shape or type of `images`, unknown `resize`.
        """
        return self.encode_with_features(images, (), resize)[0]

    @property
    def feature_layers(self) -> tuple[str, ...]:
        """The names `image_features` takes, from the first layer to the last; empty for other towers.

        A ViT has `block1` ... `blockN` (the patch tokens after a block, without normalisation), a CLIP ResNet
        `stem` and `layer1` ... `layer4`.
        """
        return feature_layers(self.model)

    def image_features(
        self, images: Tensor, layers: Sequence[str], resize: str | None = None
    ) -> dict[str, Tensor]:
        """Return features of the image tower; no layer after the last one named is computed.

        Args:
            images: as for `encode_image`.
            layers: one or more of `feature_layers`.
            resize: as for `encode_image`.

        Returns:
            (N, C, h, w) by name, in the order of `layers`.

        Raises:
            ValueError: as `encode_image`; no or an unknown layer; a tower that gives no features.
        """
        if not layers:
            raise ValueError(f"no layers were named; expected some of {', '.join(self.feature_layers)}")
        features = image_pass(self.model, self._prepare(images, resize), layers, embed=False)[1]
        return {name: value.to(self.dtype) for name, value in features.items()}

    def encode_with_features(
        self, images: Tensor, layers: Sequence[str], resize: str | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return `encode_image` and `image_features`, for no layer empty ones, from one pass of the tower."""
        embedding, features = image_pass(self.model, self._prepare(images, resize), layers, embed=True)
        assert embedding is not None
        return embedding.to(self.dtype), {name: value.to(self.dtype) for name, value in features.items()}

    def encode_text(self, texts: Sequence[str], truncate: bool = False) -> Tensor:
        """Embed texts, without gradient and in full precision; each text is computed once.

        Args:
            texts: T texts, one or more.
            truncate: cut texts that are too long instead of refusing them.

        Returns:
            (T, D) where the weights are, not normalised.

        Raises:
            ValueError: `texts` is a single string or empty, or a text is longer than the context.
            UserError: the tokenizer cannot be had here.
        """
        if isinstance(texts, str) or not texts:
            raise ValueError("texts must be a list of one or more strings")
        new = [text for text in dict.fromkeys(texts) if (text, truncate) not in self._texts]
        if new:
            ids = self.tokens.ids(new, truncate)
            with plain_tensors(), torch.autocast(self.device.type, enabled=False):
                features = self.model.encode_text(ids.to(self.device), normalize=False).to(self.dtype)
            for text, feature in zip(new, features, strict=True):
                self._warn_of_unseen(text)
                self._texts[text, truncate] = feature
        return torch.stack([self._texts[text, truncate] for text in texts])

    def encode_embeddings(self, embeddings: Tensor, ends: Tensor) -> Tensor:
        """Embed texts given as token embeddings, with gradients to these through the frozen text tower.

        Args:
            embeddings: (P, L, W), rows of `token_table` or vectors in their place, from start to end of text;
                without positions. L is at most the context length; it must be the whole context, padded
                as in training, where `reads_padding`.
            ends: (P,) int64, the index of the end-of-text token.

        Returns:
            (P, D), not normalised.

        Raises:
            ValueError: this text tower takes no embeddings (one of Hugging Face), or L does not fit.
        """
        if embeddings.device != self.device:
            self.to(embeddings.device)
        ends = ends.to(self.device)
        return text_pass(self.model, embeddings.to(self.dtype), ends).to(self.dtype)

    @property
    def token_table(self) -> Tensor:
        """(V, W), the embedding of each token; raises ValueError where `encode_embeddings` does."""
        table: Tensor = text_tower(self.model).token_embedding.weight
        return table

    @property
    def reads_padding(self) -> bool:
        """Whether tokens after the end of a text change its embedding."""
        return reads_padding(self.model)

    @cached_property
    def tokens(self) -> Tokens:
        """The tokenizer; made when it is first used, since some must be downloaded."""
        limit = getattr(getattr(self.model, "text", self.model), "context_length", None)
        tokenizer = make_tokenizer(self._source)
        return Tokens(tokenizer, limit or tokenizer.context_length, self.seen_tokens)

    def _prepare(self, images: Tensor, resize: str | None) -> Tensor:
        if images.device != self.device:
            self.to(images.device)
        return self.preprocess(images, self.dtype, resize)

    def _warn_of_unseen(self, text: str) -> None:
        if words := self.tokens.unseen_words(text):
            warnings.warn(
                f"this CLIP has never seen {', '.join(words)} (in the text '{text}'): their "
                "embeddings are random",
                stacklevel=3,
            )

    def __copy__(self) -> "FrozenClip":
        return self

    def __deepcopy__(self, memo: Mapping[int, Any]) -> "FrozenClip":
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        if self._arguments is None:
            raise TypeError(
                "this FrozenClip was made from a model in memory; only a loaded one can be pickled"
            )
        return _load_again, (self._arguments, self._source.identity["weights_sha256"])

    def __repr__(self) -> str:
        name, weights = self._source.identity["model"], self._source.identity["pretrained"]
        return f"FrozenClip({name}{f', {weights}' if weights else ''})"


def _load_again(arguments: Mapping[str, Any], weights_sha256: str) -> FrozenClip:
    """Undo a pickle."""
    clip = FrozenClip.load(**arguments)
    if clip.identity["weights_sha256"] != weights_sha256:
        raise UserError(f"the weights of {clip} are others than those that were pickled; load them by hand")
    return clip


load_clip = FrozenClip.load
