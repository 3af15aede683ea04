"""Which examples a round trains on, and which it is judged by: pure, and the same for champion and candidate.

Judged by the holdout, which nobody ever trains on, and by the newest examples that the champion was not trained on
either. Those newest are withheld from this round alone; the next one trains on them. Withholding delays learning, so
as few as possible: what the holdout lacks of the minimum, but always about a fifth of what is new (the holdout lags
behind a change), which grows with every refused round until there is enough to be sure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from stream_ft.events import Example

FRESH_SHARE = 0.2
"""Share of the unseen examples that is withheld even where the holdout alone would do; at most ``minimum`` of them."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """Examples of one round, each part ordered by ``seq``."""

    train: list[Example]
    evaluate: list[Example]
    """Holdout and withheld."""
    examples_upto: int
    """Every retained example with ``seq`` up to this was available to the training; all that is withheld is later."""


@dataclass(frozen=True, kw_only=True)
class TooFew:
    """A round could not be judged, or would have nothing to train on."""

    reason: str


def split(train: Sequence[Example], holdout: Sequence[Example], *, minimum: int, champion_upto: int) -> Split | TooFew:
    """Divide what is retained into training and evaluation.

    Args:
        train: retained training examples, in any order.
        holdout: retained holdout.
        minimum: evaluation examples needed.
        champion_upto: ``examples_upto`` of the champion; 0 for a genesis, to which every example is unseen.

    Returns:
        ``examples_upto`` never falls below ``champion_upto``, and grows unless too little is new.
    """
    ordered = sorted(train, key=lambda example: example.seq)
    unseen = sum(example.seq > champion_upto for example in ordered)
    wanted = max(minimum - len(holdout), min(math.ceil(FRESH_SHARE * unseen), minimum), 0)
    if wanted > unseen:
        return TooFew(
            reason=f"Too few examples to judge a round by: {len(holdout) + unseen} of {minimum}"
            f" ({len(holdout)} in the holdout, {unseen} that the live version was not trained on)."
        )
    cut = len(ordered) - wanted
    if cut == 0:
        return TooFew(reason=f"All {len(ordered)} examples are needed to judge a round by; none is left to train on.")
    withheld = ordered[cut:]
    kept = sorted(holdout, key=lambda example: example.seq)
    if withheld:
        upto = withheld[0].seq - 1
    else:
        upto = max(ordered[-1].seq, kept[-1].seq if kept else 0, champion_upto)
    return Split(train=ordered[:cut], evaluate=kept + withheld, examples_upto=upto)
