"""Prompts that learn: the words around a fixed text, as vectors (CoOp, Zhou et al., arXiv 2109.01134)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from clipfuse.clip.encoder import FrozenClip
from clipfuse.ops.seeding import derived_seed

POSITIONS = ("end", "middle", "front")
_MOST_KNOWN = 4  # sets of values whose features are kept


class LearnablePrompts(nn.Module):
    """Text features of `[start][context ...][words].[end]` with the context as trainable vectors.

    Start, words and end keep the model's own embeddings; CLIP-LIT makes all 77 slots trainable instead, most
    of which have no effect. Before training, a prompt whose context comes from a description has exactly the
    features of description and words as one text. The module's parameters and state are its contexts
    alone, without CLIP.

    Args:
        clip: a CLIP whose text tower takes token embeddings.
        words: the fixed words of each prompt by name, such as `{"positive": "", "negative": ""}`; may be
            empty. The order is that of the rows of `forward`.
        descriptions: initial texts of the contexts: one for all, or one by name. The context of a prompt
            without one starts from N(0, 0.02^2).
        length: number of context vectors. None: as many as the description has tokens, 16 without one. Where
            the description is shorter, the rest starts from N(0, 0.02^2).
        position: where the words stand: `end` (after the context), `middle` (in it) or `front`.
        shared: one context for all prompts; then `descriptions` is one text or None.
        seed: seed of the random numbers.
        truncate: cut a description that is longer than `length`, or a prompt longer than the model takes,
            instead of refusing it; only the context is cut.

    Raises:
        ValueError: a text tower that takes no embeddings; a prompt or description that is too long; an
            unknown name, position or length.
    """

    def __init__(
        self,
        clip: FrozenClip,
        words: Mapping[str, str],
        descriptions: str | Mapping[str, str] | None = None,
        length: int | None = None,
        position: str = "end",
        shared: bool = False,
        seed: int = 0,
        truncate: bool = False,
    ) -> None:
        super().__init__()
        described = _check(words, descriptions, length, position, shared)
        self.clip, self.names, self.shared = clip, tuple(words), shared
        table = clip.token_table
        fixed = {name: clip.tokens.split(text) for name, text in words.items()}
        rooms = {name: clip.tokens.limit - sum(map(len, parts)) for name, parts in fixed.items()}
        contexts = []
        for name in self.names[:1] if shared else self.names:
            ids = clip.tokens.split(described[name])[1] if name in described else []
            wanted = length or len(ids) or 16
            room = min(rooms.values()) if shared else rooms[name]
            if wanted > room and truncate:
                wanted = max(room, 0)
            if wanted > room or wanted == 0:
                raise ValueError(
                    f"the prompt '{name}' has {wanted} context vectors; beside its words and marks the model "
                    f"takes {max(room, 0)}. Shorten it"
                )
            if len(ids) > wanted and not truncate:
                raise ValueError(
                    f"the description of '{name}' has {len(ids)} tokens, more than length={wanted}; make "
                    "length larger, or shorten it"
                )
            generator = torch.Generator("cpu").manual_seed(derived_seed(seed, "prompt", name))
            start = torch.randn(wanted, table.shape[1], generator=generator) * 0.02
            start[: len(ids)] = table[ids[:wanted]].detach().float().cpu()
            contexts.append(nn.Parameter(start))
        self.contexts = nn.ParameterList(contexts)
        self._lay_out(fixed, position)
        self._known: dict[tuple[tuple[int, int], ...], tuple[Sequence[Tensor], Tensor]] = {}
        self._last: tuple[list[tuple[Tensor, int]], Tensor] | None = None

    def _lay_out(self, fixed: Mapping[str, tuple[list[int], list[int], list[int]]], position: str) -> None:
        """Keep the ids of all fixed tokens, and the place of each context vector among them."""
        rows, places = [], []
        for index, (start, words, end) in enumerate(fixed.values()):
            count = len(self.contexts[0 if self.shared else index])
            before = {"end": count, "middle": count // 2, "front": 0}[position]
            hole = -1  # a context vector
            row = [*start, *[hole] * before, *words, *[hole] * (count - before), *end]
            rows.append(row)
            places.append([place for place, token in enumerate(row) if token == hole])
        # In a causal tower nothing behind the end is read, so the rows stop with the longest.
        limit = self.clip.tokens.limit
        width = limit if self.clip.reads_padding else max(map(len, rows))
        pad = self.clip.tokens.pad
        ids = torch.tensor([[max(token, 0) for token in row] + [pad] * (width - len(row)) for row in rows])
        self.register_buffer("ids", ids, persistent=False)
        self.register_buffer("ends", torch.tensor([len(row) - 1 for row in rows]), persistent=False)
        for index, place in enumerate(places):
            self.register_buffer(f"place{index}", torch.tensor(place), persistent=False)

    def forward(self) -> Tensor:
        """Return (P, D), not normalised: one row per prompt, with gradients to the contexts."""
        return self.features(tuple(self.contexts))

    def features(self, contexts: Sequence[Tensor]) -> Tensor:
        """Return (P, D) at given contexts: a pure function, so that a solver can try other values.

        Args:
            contexts: tensors of the shapes of `contexts`, (M, W) each; one if `shared`, else one per prompt.

        Raises:
            ValueError: wrong number or shape.
        """
        shapes, wanted = [tuple(c.shape) for c in contexts], [tuple(c.shape) for c in self.contexts]
        if shapes != wanted:
            raise ValueError(f"contexts have shapes {shapes}; expected {wanted}")
        ids, ends = self.get_buffer("ids"), self.get_buffer("ends")
        if contexts[0].device != self.clip.device:
            self.clip.to(contexts[0].device)
        embeddings = self.clip.token_table[ids.to(self.clip.device)]
        rows = []
        for index, row in enumerate(embeddings):
            context = contexts[0 if self.shared else index].to(row.dtype)
            rows.append(row.index_copy(0, self.get_buffer(f"place{index}").to(row.device), context))
        return self.clip.encode_embeddings(torch.stack(rows), ends)

    def shared_features(self, contexts: Sequence[Tensor]) -> Tensor:
        """Return `features` with gradient, from one pass for two losses whose sum is differentiated.

        The same tensor is returned again until a gradient has come through it, upon which its graph may be
        gone, or the values change by an operation that autograd sees (not through `data`).
        """
        now = [(value, value._version) for value in contexts]
        if self._last is not None and self._last[1].dtype == self.clip.dtype and torch.is_grad_enabled():
            then, kept = self._last
            pairs = zip(then, now, strict=False)
            if len(then) == len(now) and all(old[0] is new[0] and old[1] == new[1] for old, new in pairs):
                return kept
        found = self.features(contexts)
        if found.requires_grad:
            self._last = now, found
            found.register_hook(self._forget)
        return found

    def _forget(self, gradient: Tensor) -> None:
        self._last = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave the graph out of copies and pickles."""
        return {**super().__getstate__(), "_last": None}

    def kept_features(self, contexts: Sequence[Tensor]) -> Tensor:
        """Return `features` without gradient; those of unchanged values are not computed again."""
        # A solver changes its values in place, which raises their version.
        key = tuple((value.data_ptr(), value._version) for value in contexts)
        if key not in self._known:
            others = [old for old in self._known if old[0][0] != key[0][0]]
            # A solver has two sets of values that it moves; of others, such as points between them, few stay.
            self._known = {old: self._known[old] for old in others[-_MOST_KNOWN + 1 :]}
            # The values are kept, too: their memory cannot become that of other values with the same key.
            self._known[key] = [value.detach() for value in contexts], self.features(contexts).detach()
        return self._known[key][1]

    @torch.no_grad()
    def nearest_tokens(
        self, k: int = 1, among: Sequence[int] | None = None
    ) -> dict[str, list[list[tuple[str, float]]]]:
        """Return the tokens nearest to each context vector, by Euclidean distance as in CoOp, for a log.

        Args:
            k: tokens per vector, from the nearest on.
            among: ids to search; None: those of the model's training texts (all, for most models).

        Returns:
            For each prompt (one name, `shared`, if the context is), for each vector, k (token, distance).
        """
        among = self.clip.seen_tokens if among is None else among
        table = self.clip.token_table
        ids = torch.arange(len(table)) if among is None else torch.tensor(sorted(among))
        rows = table[ids.to(table.device)].float()
        found = {}
        for name, context in zip(("shared",) if self.shared else self.names, self.contexts, strict=True):
            distances = torch.cdist(context.float().to(rows.device), rows)
            nearest, which = distances.topk(min(k, len(ids)), largest=False)
            found[name] = [
                [(self.clip.tokens.word(int(ids[i])), float(d)) for i, d in zip(indices, values, strict=True)]
                for indices, values in zip(which.cpu(), nearest.cpu(), strict=True)
            ]
        return found


def read_pairs(
    pairs: Mapping[str, Mapping[str, str | Sequence[str]]], known: Sequence[str]
) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Return the texts by prompt, positive and negative in turn, and the kinds of bad images by pair.

    Args:
        pairs: pairs of prompts by name, each with `positive` and `negative`, texts, and `against`, kinds.
        known: the kinds that there are.

    Raises:
        ValueError: there is no pair, or one has other keys, an empty text or an unknown kind; names it.
    """
    texts: dict[str, str] = {}
    against: dict[str, list[str]] = {}
    if not pairs:
        raise ValueError("pairs is empty; expected one or more")
    for name, pair in pairs.items():
        where = f"pairs.{name}"
        if set(pair) != {"positive", "negative", "against"}:
            raise ValueError(f"{where} has {', '.join(pair)}; expected positive, negative and against")
        for side in ("positive", "negative"):
            text = pair[side]
            if not isinstance(text, str) or not text.strip():
                raise ValueError(f"{where}.{side} is {text!r}; expected words")
            texts[f"{name} {side}"] = text
        kinds = pair["against"]
        kinds = [kinds] if isinstance(kinds, str) else list(kinds)
        if not kinds or (unknown := [kind for kind in kinds if kind not in known]):
            found = unknown[0] if kinds else "nothing"
            raise ValueError(f"{where}.against has {found}; expected some of {', '.join(known)}")
        against[name] = kinds
    return texts, against


def _check(
    words: Mapping[str, str],
    descriptions: str | Mapping[str, str] | None,
    length: int | None,
    position: str,
    shared: bool,
) -> dict[str, str]:
    """Return the descriptions by name."""
    if not words:
        raise ValueError(
            "words names no prompt; expected one or more, such as {'positive': '', 'negative': ''}"
        )
    if position not in POSITIONS:
        raise ValueError(f"position is {position!r}; expected one of {', '.join(POSITIONS)}")
    if length is not None and length < 1:
        raise ValueError(f"length is {length}; expected 1 or more")
    if descriptions is None:
        return {}
    if isinstance(descriptions, str):
        return dict.fromkeys(words, descriptions)
    if shared:
        raise ValueError("a shared context starts from one description, not from one per prompt")
    if unknown := [name for name in descriptions if name not in words]:
        raise ValueError(f"descriptions names the prompt '{unknown[0]}', which words does not")
    return dict(descriptions)
