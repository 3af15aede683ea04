"""May the fast tier go on publishing? What it answered, against what its last checkpoint would have: a sign test. Pure.

Both are asked about events that neither had learned from, and whose labels came whether or not the answer was right.
Of ``n`` events that only one of them got right, ``worse`` went to the checkpoint and ``better`` to the tier: were they
equally good, ``(worse - better) / sqrt(n)`` would be about standard normal (Dixon and Mood 1946). Asked every second,
so the limit is far out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

LIMIT = 4.0
"""Standard deviations: one in 30,000 if nothing is wrong."""
LEAST = 20
"""Events that only one of them got right, before anything is concluded."""
WINDOW = 500
"""Events that count, the latest."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether the head may be published, with the numbers."""

    accepted: bool
    reason: str
    better: int
    worse: int


def judge(pairs: Sequence[tuple[bool, bool]]) -> Verdict:
    """Judge by ``(the tier was right, the checkpoint was right)``, of one event each, the latest last."""
    recent = pairs[-WINDOW:]
    better = sum(tier and not old for tier, old in recent)
    worse = sum(old and not tier for tier, old in recent)
    differ = better + worse
    z = (worse - better) / math.sqrt(differ) if differ else 0.0
    if differ >= LEAST and z > LIMIT:
        reason = f"Of the last {len(recent)} events the fast tier got {worse} wrong that its checkpoint gets right,"
        return Verdict(accepted=False, reason=f"{reason} and {better} the other way.", better=better, worse=worse)
    return Verdict(accepted=True, reason="", better=better, worse=worse)
