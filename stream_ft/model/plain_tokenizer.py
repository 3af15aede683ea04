"""A tokenizer from its file alone, without transformers (which imports torch), where both were seen to agree."""

from __future__ import annotations

import os
from pathlib import Path

from msgspec import Struct

FILE = "tokenizer.json"
CHARACTERS_PER_TOKEN = 16
"""A tokenizer's time grows with the whole text, not with what is kept: so texts are cut by characters first."""

PROBES = (
    "",
    " ",
    "hello",
    "Where is my order? It should have been here on Monday.",
    "ÀÉÎÕÜ ñandú Straße naïve",
    "我想退货,请问怎么操作?",
    "مرحبا بالعالم",
    "0 1 2 3 4 5 6 7 8 9 !?#",
    "e-mail: a.b@c.d (24/7) — 50%…",
    "\x00\x07 a\u200bb\u00a0c",
    "[CLS] [SEP] [MASK] <s> </s> <pad>",
    "🙂👩‍👩‍👧‍👦 ok",
    "supercalifragilisticexpialidocious " * 40,
    "x" * 3_000,
    "iPhone's don't CAN'T",
)
"""What the two are compared on."""


class TokenizerFacts(Struct, frozen=True, kw_only=True):
    """What a tokenizer's own file does not say."""

    longest: int
    """Most tokens that the model takes."""
    pad_id: int


class PlainTokenizer:
    """Texts to token ids, unpadded, as :class:`stream_ft.model.base.Tokenizer` gives them.

    Args:
        path: the model's folder.
        facts: about its tokenizer.
        max_tokens: longest sequence; never more than the model takes.
    """

    def __init__(self, path: Path, facts: TokenizerFacts, max_tokens: int) -> None:
        # Forks of a process whose tokenizer has used its thread pool warn or dead-lock; one thread is fast enough.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        from tokenizers import Tokenizer

        self.max_tokens = min(max_tokens, facts.longest)
        self.pad_id = facts.pad_id
        self._inner = Tokenizer.from_file(str(path / FILE))
        self._inner.no_padding()
        self._inner.enable_truncation(self.max_tokens)
        self._max_characters = CHARACTERS_PER_TOKEN * self.max_tokens

    def __call__(self, texts: list[str]) -> list[list[int]]:
        """Token ids of each text, with the model's special tokens."""
        cut = [text.strip()[: self._max_characters] for text in texts]
        return [encoding.ids for encoding in self._inner.encode_batch(cut)]
