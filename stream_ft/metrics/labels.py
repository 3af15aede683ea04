"""What a label of a metric may say: small fixed sets, the last bases, and short names."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from prometheus_client import Counter, Gauge

BASES = 8
"""Of so many bases there are series at a time."""
WORST = 10
"""And of so many classes."""
TIERS = ("slow", "fast")
ROUTES = ("predict", "infer", "feedback", "labels", "control", "status", "console", "metrics", "probe", "other")
CODES = ("200", "202", "400", "401", "404", "413", "422", "429", "499", "500", "503", "504")
"""Those that are watched one by one; every other is ``other``."""
PAGES = ("status", "console", "metrics", "probe", "other")
PAGE_CODES = ("200", "404", "500", "503")
"""And of these routes, which take no work, only those."""
SWAP_STEPS = (
    "", "missing", "hash", "manifest", "keys", "shapes", "dtypes", "base", "labels", "finite", "golden",
    "prepare", "flip",
)  # fmt: skip
SLOTS = ("champion", "challenger")
SHADOWED = ("agreed", "disagreed", "failed", "shed")
EVENT_KINDS = ("prediction", "feedback", "labelled", "duplicate", "orphan")
DEAD_LETTERS = (
    "invalid_json", "invalid_utf8", "not_an_object", "unknown_type", "unknown_schema_version", "missing_field",
    "wrong_type", "invalid_field", "too_long", "empty_text", "not_allowed_here", "bad_embedding", "bad_time", "too_old",
    "conflict", "identity_conflict", "orphan", "new_label", "invalid_event", "cloudevents", "invalid_original",
)  # fmt: skip
ROUND_KINDS = ("head", "lora", "partial", "full", "scratch")
VERDICTS = ("accepted", "refused", "failed")
LIMITS = ("time", "memory")
TOPICS = ("predictions", "feedback", "labels", "events")
ORIGINS = ("label_topic", "user")
AGES = ("fresh", "replayed")


def slug(value: str, known: Iterable[str]) -> str:
    """``value`` if it is one of ``known``, else ``other``."""
    return value if value in known else "other"


def base_and_tier(version: str) -> tuple[str, str]:
    """``v3.7.0`` is of base ``v3``, tier ``slow``; ``v3.7.12`` of tier ``fast``. What is no version is ``other``."""
    parts = version.split(".")
    if len(parts) != 3 or not parts[0].startswith("v") or not all(p.isdigit() for p in (parts[0][1:], *parts[1:])):
        return "other", "slow"
    return parts[0], "slow" if int(parts[2]) == 0 else "fast"


class LastBases:
    """Keeps the series of the last :data:`BASES` bases: those of the one left longest alone are removed.

    Args:
        families: each with a label ``base``.
    """

    def __init__(self, *families: Counter | Gauge) -> None:
        self._families = families
        self._bases: OrderedDict[str, None] = OrderedDict()

    def touch(self, base: str) -> None:
        """Something is said of this base now."""
        self._bases[base] = None
        self._bases.move_to_end(base)
        while len(self._bases) > BASES:
            left, _ = self._bases.popitem(last=False)
            for family in self._families:
                family.remove_by_labels({"base": left})


def short(name: str) -> str:
    """A class's name as a label: one line of at most 64 characters."""
    return " ".join(name.split())[:64] or "unnamed"
