"""When are two texts the same, or nearly: normalisation, character n-grams, MinHash bands.

Character n-grams need no words, so Chinese text works as English does. Source: Broder, "On the resemblance and
containment of documents", 1997; banding as in Leskovec, Rajaraman, Ullman, "Mining of Massive Datasets", ch. 3.
"""

from __future__ import annotations

import hashlib
import unicodedata
from functools import lru_cache

import numpy as np
import numpy.typing as npt

GRAM = 3
"""Characters in an n-gram."""
NEAR = 0.8
"""Jaccard similarity of the sets of n-grams from which two texts are near-duplicates: they share a side."""
SAME = 0.9
"""Similarity from which another label is a contradiction. Stricter than :data:`NEAR`: one word of a long text may
rightly decide its label."""
BANDS, ROWS = 16, 4
"""A pair of similarity 0.8 shares a band with probability 0.9998, one of 0.3 with 0.12."""
LONGEST = 2_000
"""Characters compared: bounds the cost of one event."""
BUCKET = 64
"""Members of a bucket looked at, the newest first: bounds the cost when thousands are alike."""

Signature = npt.NDArray[np.uint32]
_RNG = np.random.Generator(np.random.PCG64(20_170_101))  # fixed: a restart must find the same bands
_A = _RNG.integers(0, 2**64, BANDS * ROWS, dtype=np.uint64) | np.uint64(1)
_B = _RNG.integers(0, 2**64, BANDS * ROWS, dtype=np.uint64)
_MIX = _RNG.integers(0, 2**64, (BANDS, ROWS), dtype=np.uint64) | np.uint64(1)
_SALT = _RNG.integers(0, 2**64, BANDS, dtype=np.uint64)
_PLACES = _RNG.integers(0, 2**64, GRAM, dtype=np.uint64) | np.uint64(1)


def normalise(text: str) -> str:
    """NFKC, case-folded, white space collapsed. Idempotent."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(folded.split())


def digest(normalised: str) -> bytes:
    """16 bytes that name a normalised text."""
    return hashlib.blake2b(normalised.encode("utf-8", "surrogatepass"), digest_size=16).digest()


@lru_cache(maxsize=8_192)
def _kept(character: str) -> bool:
    return unicodedata.category(character)[0] not in "PSZC"


def grams(normalised: str) -> npt.NDArray[np.uint64]:
    """Hashes of the character n-grams, ``[N]``, sorted, each once. Punctuation and white space do not count."""
    letters = "".join(filter(_kept, normalised[:LONGEST])) or normalised[:LONGEST]
    codes = np.frombuffer(letters.encode("utf-32-le", "surrogatepass"), dtype="<u4").astype(np.uint64)
    if len(codes) < GRAM:
        codes = np.pad(codes, (0, GRAM - len(codes)))
    count = len(codes) - GRAM + 1
    hashed = np.zeros(count, np.uint64)
    for place in range(GRAM):
        hashed += codes[place : place + count] * _PLACES[place]
    hashed ^= hashed >> np.uint64(31)
    hashed *= np.uint64(0xBF58476D1CE4E5B9)
    hashed ^= hashed >> np.uint64(29)
    return np.unique(hashed)


def signature(hashed: npt.NDArray[np.uint64]) -> Signature:
    """MinHash signature ``[BANDS * ROWS]`` of a set of n-grams."""
    sketch: Signature = ((hashed[:, None] * _A + _B) >> np.uint64(32)).min(axis=0).astype(np.uint32)
    return sketch


def similarity(left: npt.NDArray[np.uint64], right: npt.NDArray[np.uint64]) -> float:
    """Jaccard similarity of two sets of n-grams, exact."""
    both = len(np.intersect1d(left, right, assume_unique=True))
    return both / (len(left) + len(right) - both)


def _bands(sketch: Signature) -> list[int]:
    rows = sketch.reshape(BANDS, ROWS).astype(np.uint64)
    keys: list[int] = ((rows * _MIX).sum(axis=1, dtype=np.uint64) ^ _SALT).tolist()
    return keys


class NearDuplicates:
    """Finds the retained texts that are nearly the same as a given one."""

    def __init__(self) -> None:
        self._texts: dict[int, str] = {}
        self._sketches: dict[int, Signature] = {}
        self._buckets: dict[int, list[int]] = {}
        self._latest = ("", grams(""), signature(grams("")))

    def __len__(self) -> int:
        return len(self._texts)

    def add(self, id: int, normalised: str) -> None:
        """Retain a text under a new id."""
        _, sketch = self._sketch(normalised)
        self._texts[id] = normalised
        self._sketches[id] = sketch
        for key in _bands(sketch):
            self._buckets.setdefault(key, []).append(id)

    def remove(self, id: int) -> None:
        """Forget an id; unknown ones are ignored."""
        if self._texts.pop(id, None) is None:
            return
        for key in _bands(self._sketches.pop(id)):
            bucket = self._buckets[key]
            bucket.remove(id)
            if not bucket:
                del self._buckets[key]

    def near(self, normalised: str, threshold: float = NEAR) -> list[tuple[int, float]]:
        """``(id, similarity)`` of retained texts at or above ``threshold``, most similar first, then oldest id."""
        own, sketch = self._sketch(normalised)
        candidates: set[int] = set()
        for key in _bands(sketch):
            candidates.update(self._buckets.get(key, ())[-BUCKET:])
        if not candidates:
            return []
        ids = sorted(candidates)
        shared = np.mean(np.stack([self._sketches[i] for i in ids]) == sketch, axis=1)
        found = []
        for id, estimate in zip(ids, shared.tolist(), strict=True):
            # Three standard errors below the threshold: what is nearer is compared exactly.
            if estimate >= threshold - 0.18:
                exact = similarity(own, grams(self._texts[id]))
                if exact >= threshold:
                    found.append((id, exact))
        return sorted(found, key=lambda pair: (-pair[1], pair[0]))

    def _sketch(self, normalised: str) -> tuple[npt.NDArray[np.uint64], Signature]:
        """N-grams and signature; those of the latest text are kept, since what is looked up is then added."""
        if self._latest[0] != normalised:
            own = grams(normalised)
            self._latest = (normalised, own, signature(own))
        return self._latest[1:]
