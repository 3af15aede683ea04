"""May the fast tier go on publishing? What it answered, against what its last checkpoint would have: a sign test. Pure.

Both are asked about events that neither had learned from, and whose labels came whether or not the answer was right.
Of ``n`` events that only one of them got right, ``worse`` went to the checkpoint and ``better`` to the tier: were they
equally good, ``(worse - better) / sqrt(n)`` would be about standard normal (Dixon and Mood 1946). Asked every second,
so the limit is far out.

Each source of labels is asked by itself. An import of wrong labels agrees with the tier that has learned them, and
would outvote the few events of the others; where the meaning of a label has changed, all say the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

LIMIT = 4.0
"""Standard deviations: one in 30,000 if nothing is wrong."""
LEAST = 20
"""Events that only one of them got right, before anything is concluded."""
WINDOW = 500
"""Events of a source that count, the latest."""
SOURCES = 64
"""Sources that are told apart; of those heard longest ago, what they said is forgotten."""
PER_HEAD = 15
"""Events of a source that count for one head. A thousand may come before there is another, and if they say that
something has changed, the next one has learned it: worse is a tier whose heads go on being wrong."""
SPEAKING = 10
"""Events against the tier since a checkpoint, before they say whether that has the fault, too."""
AS_GOOD = 2
"""A newer checkpoint that gets so few more of the events wrong than the best one is as good, and has learned more."""
CONFIRMED, CONFIRMED_S = 100, 60.0
"""Events and seconds after a checkpoint, with nothing against the tier, from which on it is the one to compare with."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether the head may be published, with the numbers."""

    accepted: bool
    reason: str
    better: int
    worse: int
    source: str = ""
    """Whose events speak against it."""


def judge(pairs: Sequence[tuple[bool, bool]]) -> Verdict:
    """Judge by ``(the tier was right, the checkpoint was right)``, of one event each, the latest last."""
    recent = pairs[-WINDOW:]
    better = sum(tier and not old for tier, old in recent)
    worse = sum(old and not tier for tier, old in recent)
    differ = better + worse
    z = (worse - better) / math.sqrt(differ) if differ else 0.0
    if differ >= LEAST and z > LIMIT:
        reason = (
            f"Of the last {len(recent)} events of a source the fast tier got {worse} wrong that its checkpoint gets"
            f" right, and {better} the other way."
        )
        return Verdict(accepted=False, reason=reason, better=better, worse=worse)
    return Verdict(accepted=True, reason="", better=better, worse=worse)


def judge_each(pairs: Mapping[str, Iterable[tuple[bool, bool]]]) -> Verdict:
    """Judge by the events of each source: one that surely does worse is enough."""
    verdicts = [replace(judge(list(each)), source=source) for source, each in pairs.items()]
    refused = [verdict for verdict in verdicts if not verdict.accepted]
    if refused:
        return max(refused, key=lambda verdict: verdict.worse)
    return Verdict(
        accepted=True,
        reason="",
        better=sum(verdict.better for verdict in verdicts),
        worse=sum(verdict.worse for verdict in verdicts),
    )


def best(right: Sequence[int]) -> int:
    """Which of some checkpoints to go back to, by how many of the same events each gets right: the first that will do.

    Args:
        right: of each, the newest first; not empty.
    """
    return next(at for at, count in enumerate(right) if count >= max(right) - AS_GOOD)
