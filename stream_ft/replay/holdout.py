"""Which examples are only tested on. A pure function of the content, so that a repeated text never changes sides."""

from __future__ import annotations

from collections.abc import Collection


def drawn(digest: bytes, share: float) -> bool:
    """True if a text belongs to the holdout by its hash alone.

    Args:
        digest: of the normalised text, at least 8 bytes, uniformly distributed.
        share: expected share of texts drawn, in [0, 1].
    """
    return int.from_bytes(digest[:8], "big") < share * 2**64


def held_out(
    digest: bytes, *, share: float, trained_of_class: int, after: int, sides_of_near: Collection[bool] = ()
) -> bool:
    """Whether a new example goes to the holdout (True) or to training (False).

    A near-duplicate takes the side of what is stored; if both sides have one, it trains (and the store purges those of
    the holdout). Otherwise the hash decides, but only once the class has ``after`` training examples: the first
    examples of a new label must train.

    Args:
        digest, share: as in :func:`drawn`.
        trained_of_class: training examples retained with the same label.
        after: least number of those.
        sides_of_near: sides of the retained near-duplicates; True is the holdout.
    """
    if sides_of_near:
        return all(sides_of_near)
    return trained_of_class >= after and drawn(digest, share)
