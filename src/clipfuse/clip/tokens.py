"""Texts as tokens: their length, the words that no training text had, and the parts of a prompt."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor


class Tokens:
    """One interface to the tokenizers of open_clip, which differ.

    Args:
        tokenizer: what `open_clip.get_tokenizer` returns.
        limit: the context length of the text tower.
        seen: ids of the tokens in the model's training texts, or None for all.
    """

    def __init__(self, tokenizer: Any, limit: int, seen: Sequence[int] | None = None) -> None:
        self.tokenizer, self.limit = tokenizer, limit
        self.seen = None if seen is None else frozenset(seen)
        self.simple = hasattr(tokenizer, "bpe_ranks")
        inner = tokenizer if self.simple else tokenizer.tokenizer
        self.end: int | None = tokenizer.eot_token_id if self.simple else inner.eos_token_id
        self.pad: int = 0 if self.simple else inner.pad_token_id

    def ids(self, texts: Sequence[str], truncate: bool = False) -> Tensor:
        """Return (T, limit) token ids.

        Raises:
            ValueError: a text is longer than the limit and `truncate` is False; names both counts.
        """
        for text in texts:
            if not truncate and (count := len(self.row(text))) > self.limit:
                shown = text if len(text) <= 60 else f"{text[:57]}..."
                raise ValueError(
                    f"the text '{shown}' has {count} tokens, with the marks of its start and end; the model "
                    f"takes {self.limit}. Shorten it"
                )
        ids: Tensor = self.tokenizer(list(texts), context_length=self.limit)
        return ids

    def row(self, text: str) -> list[int]:
        """Return the ids of a text of any length, with its marks and without padding."""
        if self.simple:
            return [self.tokenizer.sot_token_id, *self.tokenizer.encode(text), self.tokenizer.eot_token_id]
        room = 4 * self.limit + len(text)  # more than any text of this length has
        ids = self.tokenizer([text], context_length=room)[0].tolist()
        while len(ids) > 1 and ids[-1] == self.pad and ids[-2] == self.pad:
            ids.pop()
        return ids[:-1] if ids[-1] == self.pad and self.pad != self.end else ids

    def split(self, text: str) -> tuple[list[int], list[int], list[int]]:
        """Return a text's ids as what precedes every text, the text itself, and its end.

        Raises:
            ValueError: the tokenizer marks the end of a text with no token.
        """
        row, empty = self.row(text), self.row("")
        if self.end is None or not row or row[-1] != self.end or empty[-1:] != [self.end]:
            raise ValueError(
                f"the tokenizer {type(self.tokenizer).__name__} closes a text with no end token; learnable "
                "prompts need one"
            )
        start = len(empty) - 1
        return row[:start], row[start:-1], row[-1:]

    def unseen_words(self, text: str) -> list[str]:
        """Return the words of a text with a token that no training text of the model had."""
        seen = self.seen
        if seen is None:
            return []
        return [word for word in text.split() if not seen.issuperset(self.split(word)[1])]

    def word(self, token: int) -> str:
        """Return a token as text, without blanks around it."""
        if self.simple:
            decoded: str = self.tokenizer.decode([token])
            return decoded.strip()
        return str(self.tokenizer.tokenizer.decode([token])).strip()
