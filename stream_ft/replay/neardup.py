"""When are two texts the same, or nearly: normalisation, character n-grams, MinHash bands.

Character n-grams need no words, so Chinese text works as English does. Source: Broder, "On the resemblance and
containment of documents", 1997; banding as in Leskovec, Rajaraman, Ullman, "Mining of Massive Datasets", ch. 3.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable, Sequence

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
_A = _RNG.integers(0, 2**32, BANDS * ROWS, dtype=np.uint32) | np.uint32(1)
_B = _RNG.integers(0, 2**32, BANDS * ROWS, dtype=np.uint32)
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


class _Letters(dict[int, int | None]):
    """For ``str.translate``: leaves out what is no letter, mark or number."""

    def __missing__(self, code: int) -> int | None:
        kept = self[code] = None if unicodedata.category(chr(code))[0] in "PSZC" else code
        return kept


_LETTERS = _Letters()
TOGETHER = 32
"""Texts of which signatures are made at once: bounds the memory of one product."""


def grams(normalised: str) -> npt.NDArray[np.uint64]:
    """Hashes of the character n-grams, ``[N]``, sorted, each once. Punctuation and white space do not count."""
    return np.unique(_hashed(_letters(normalised)))


def _letters(normalised: str) -> str:
    """What is compared of a text, at least one n-gram long."""
    cut = normalised[:LONGEST]
    return (cut.translate(_LETTERS) or cut).ljust(GRAM, "\0")


def _hashed(letters: str) -> npt.NDArray[np.uint64]:
    """Hash of the n-gram that begins at each place."""
    codes = np.frombuffer(letters.encode("utf-32-le", "surrogatepass"), dtype="<u4").astype(np.uint64)
    count = len(codes) - GRAM + 1
    hashed = np.zeros(count, np.uint64)
    for place in range(GRAM):
        hashed += codes[place : place + count] * _PLACES[place]
    hashed ^= hashed >> np.uint64(31)
    hashed *= np.uint64(0xBF58476D1CE4E5B9)
    hashed ^= hashed >> np.uint64(29)
    return hashed


def signature(hashed: npt.NDArray[np.uint64]) -> Signature:
    """MinHash signature ``[BANDS * ROWS]`` of a set of n-grams."""
    sketch: Signature = _products(hashed).min(axis=0)
    return sketch


def signatures(texts: Sequence[str]) -> npt.NDArray[np.uint32]:
    """Signatures ``[N, BANDS * ROWS]`` of normalised texts, as :func:`signature` makes them of their n-grams."""
    sketches = np.empty((len(texts), BANDS * ROWS), np.uint32)
    for start in range(0, len(texts), TOGETHER):
        letters = [_letters(text) for text in texts[start : start + TOGETHER]]
        ends = np.cumsum([len(each) for each in letters])
        hashed = _hashed("".join(letters))
        inside = np.ones(len(hashed) + GRAM - 1, np.bool_)
        for back in range(1, GRAM):
            inside[ends - back] = False  # an n-gram that begins there would reach into the next text
        begins = np.concatenate(([0], ends[:-1] - (GRAM - 1) * np.arange(1, len(letters))))
        products = _products(hashed[inside[: len(hashed)]])
        np.minimum.reduceat(products, begins, axis=0, out=sketches[start : start + TOGETHER])
    return sketches


def _products(hashed: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint32]:
    low: npt.NDArray[np.uint32] = hashed.astype(np.uint32)
    products: npt.NDArray[np.uint32] = low[:, None] * _A + _B
    return products


def similarity(left: npt.NDArray[np.uint64], right: npt.NDArray[np.uint64]) -> float:
    """Jaccard similarity of two sets of n-grams, exact."""
    both = len(np.intersect1d(left, right, assume_unique=True))
    return both / (len(left) + len(right) - both)


def _bands(sketches: npt.NDArray[np.uint32]) -> list[list[int]]:
    """The buckets in which each signature of ``[N, BANDS * ROWS]`` lies."""
    rows = sketches.reshape(-1, BANDS, ROWS).astype(np.uint64)
    keys: list[list[int]] = ((rows * _MIX).sum(axis=2, dtype=np.uint64) ^ _SALT).tolist()
    return keys


class NearDuplicates:
    """Finds the retained texts that are nearly the same as a given one."""

    def __init__(self) -> None:
        self._texts: dict[int, str] = {}
        self._sketches: dict[int, Signature] = {}
        self._bands: dict[int, list[int]] = {}
        self._buckets: dict[int, list[int]] = {}
        self._prepared: dict[str, tuple[Signature, list[int]]] = {}

    def __len__(self) -> int:
        return len(self._texts)

    def prepare(self, normalised: Iterable[str]) -> None:
        """Make ready for these texts, which will be asked for or added: all at once costs a fraction."""
        texts = list(dict.fromkeys(normalised))
        sketches = signatures(texts)
        self._prepared = dict(zip(texts, zip(sketches, _bands(sketches), strict=True), strict=True))

    def add(self, id: int, normalised: str) -> None:
        """Retain a text under a new id."""
        sketch, bands = self._sketch(normalised)
        self._texts[id] = normalised
        self._sketches[id] = sketch.copy()  # not a view that keeps all that were prepared with it
        self._bands[id] = bands
        for key in bands:
            self._buckets.setdefault(key, []).append(id)

    def remove(self, id: int) -> None:
        """Forget an id; unknown ones are ignored."""
        if self._texts.pop(id, None) is None:
            return
        del self._sketches[id]
        for key in self._bands.pop(id):
            bucket = self._buckets[key]
            bucket.remove(id)
            if not bucket:
                del self._buckets[key]

    def near(self, normalised: str, threshold: float = NEAR) -> list[tuple[int, float]]:
        """``(id, similarity)`` of retained texts at or above ``threshold``, most similar first, then oldest id."""
        sketch, bands = self._sketch(normalised)
        candidates: set[int] = set()
        for key in bands:
            if (bucket := self._buckets.get(key)) is not None:
                candidates.update(bucket[-BUCKET:])
        if not candidates:
            return []
        ids = sorted(candidates)
        shared = np.mean(np.stack([self._sketches[i] for i in ids]) == sketch, axis=1)
        found = []
        own = None
        for id, estimate in zip(ids, shared.tolist(), strict=True):
            # Three standard errors below the threshold: what is nearer is compared exactly.
            if estimate >= threshold - 0.18:
                own = grams(normalised) if own is None else own
                exact = similarity(own, grams(self._texts[id]))
                if exact >= threshold:
                    found.append((id, exact))
        return sorted(found, key=lambda pair: (-pair[1], pair[0]))

    def _sketch(self, normalised: str) -> tuple[Signature, list[int]]:
        """Signature and buckets; made together for what was prepared."""
        if normalised not in self._prepared:
            self.prepare([normalised])
        return self._prepared[normalised]
