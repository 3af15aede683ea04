"""What the learner is told of a transaction of the store."""

from __future__ import annotations

from collections.abc import Sequence

from stream_ft.learn.learner import Learned
from stream_ft.replay.store import Scored, Store


def learned(store: Store, scored: Sequence[Scored], max_seq: int) -> Learned:
    """The fact of one transaction.

    Args:
        scored: the answers whose rightness became known.
        max_seq: greatest sequence number of an example.
    """
    counts = store.count()
    covering = [each for each in scored if each.covers]
    return Learned(
        errors=[not each.correct for each in covering],
        versions=[each.version for each in covering],
        misjudged=sum(not each.correct for each in scored),
        max_seq=max_seq,
        train=counts.train,
        holdout=counts.holdout,
    )
