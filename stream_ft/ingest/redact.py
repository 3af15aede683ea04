"""Replaces personal data in texts by what kind it was, in as many characters, so that spans keep their place. Pure.

Patterns find candidates; what has a check is checked: telephone numbers by libphonenumber's rules (phonenumbers), IBANs
and card numbers by their check digits, American social security numbers by the ranges that were given out
(python-stdnum), addresses of the internet by the standard library. No model, no download. Names and street addresses
have no pattern, and are not found.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Collection, Iterator
from typing import Any

import msgspec
import phonenumbers
from stdnum import iban, luhn
from stdnum.us import ssn

from stream_ft.events import Event, Feedback, LabelledEvent, Prediction, TextCorrection

KINDS = ("email", "iban", "card", "us_ssn", "ip", "phone")
"""In the order in which they are looked for: what one has taken, the next does not see."""
Span = tuple[int, int]
PHONE_DIGITS = 7
"""Fewest digits of a telephone number; shorter ones are extensions and emergency calls."""
PHONE_TRIES = 100
"""Candidates in one text that turn out to be no number before the search for numbers ends: bounds what it costs."""
CHECKS = 2_000
"""Most candidates of one kind whose check digits are computed in one text, for the same reason."""

_EMAIL = re.compile(r"[\w.!#$%&'*+/=?^`{|}~-]{1,64}@(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,8}[^\W\d_]{2,63}")
# These two are tried at every place where one may begin: a greedy search would lose one that follows another number.
_IBAN = re.compile(r"(?<![A-Za-z0-9])(?=([A-Za-z]{2}[0-9]{2}(?:[ -]?[A-Za-z0-9]){11,30}))")
_CARD = re.compile(r"(?<![0-9])(?=([2-6](?:[ -]?[0-9]){12,18}))")
_SSN = re.compile(r"(?<![0-9-])[0-9]{3}-[0-9]{2}-[0-9]{4}(?![0-9-])")
_IPV4 = re.compile(r"(?<![0-9.])[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?![0-9]|\.[0-9])")
_IPV6 = re.compile(
    r"(?<![0-9A-Za-z:.])(?=[0-9A-Fa-f:]*:[0-9A-Fa-f:]*:)(?=[A-Fa-f:]*[0-9])[0-9A-Fa-f:]{3,39}(?![0-9A-Za-z:])"
)


class Redactor:
    """Finds and replaces personal data.

    Args:
        kinds: of :data:`KINDS`.
        region: two letters; telephone numbers as they are written there are found, beside those that begin with ``+``.

    Raises:
        ValueError: a kind or the region is not known.
    """

    def __init__(self, kinds: Collection[str] = KINDS, *, region: str = "") -> None:
        if unknown := sorted(set(kinds) - set(KINDS)):
            raise ValueError(f"no kind of personal data is named {', '.join(unknown)}; there are {', '.join(KINDS)}")
        if region and region not in phonenumbers.SUPPORTED_REGIONS:
            raise ValueError(f"{region!r} is no region of telephone numbers; write two letters, like US")
        self._region = region or None
        finders: dict[str, Callable[[str], Iterator[Span]]] = {
            "email": _emails,
            "iban": _ibans,
            "card": _cards,
            "us_ssn": _ssns,
            "phone": self._phones,
            "ip": _addresses,
        }
        self._finders = [(kind, finders[kind]) for kind in KINDS if kind in kinds]

    def text(self, text: str) -> str:
        """The text with every find replaced by its kind: ``[EMAIL*****]``, of the length of what was there."""
        before = ""
        while text != before and _may_hold(text):  # what stood against something may be found once that is masked
            before = text
            for kind, find in self._finders:
                for start, end in reversed(list(find(text))):
                    text = text[:start] + mask(kind, end - start) + text[end:]
        return text

    def event(self, event: Event) -> Event:
        """The event with its input and the text of a correction redacted.

        Labels are names of classes and stay. An embedding of a text that was changed is dropped: it was made of what
        must not be kept, and the learner makes another one.
        """
        changed: dict[str, Any] = {}
        if isinstance(event, Prediction | LabelledEvent) and (text := self.text(event.input)) != event.input:
            changed["input"] = text
            if isinstance(event, Prediction):
                changed["embedding"] = None
        if isinstance(event, Feedback | LabelledEvent) and isinstance(event.correction, TextCorrection):
            text = self.text(event.correction.text)
            if text != event.correction.text:
                changed["correction"] = TextCorrection(text=text)
        return msgspec.structs.replace(event, **changed) if changed else event

    def _phones(self, text: str) -> Iterator[Span]:
        if sum(map(str.isdigit, text)) < PHONE_DIGITS or (self._region is None and not _plus(text)):
            return
        for match in phonenumbers.PhoneNumberMatcher(text, self._region, max_tries=PHONE_TRIES):
            yield match.start, match.end


def mask(kind: str, length: int) -> str:
    """``[KIND***]``, cut or filled to ``length`` >= 2 characters. No pattern finds anything in it."""
    return "[" + kind.upper()[: length - 2].ljust(length - 2, "*") + "]"


def _may_hold(text: str) -> bool:
    """Whether anything can be found at all: most texts have neither an at sign, nor colons, nor four digits."""
    return "@" in text or ":" in text or sum(map(str.isdigit, text)) >= 4


def _plus(text: str) -> bool:
    return "+" in text or "＋" in text


def _emails(text: str) -> Iterator[Span]:
    if "@" in text:
        yield from (match.span() for match in _EMAIL.finditer(text))


def _ibans(text: str) -> Iterator[Span]:
    return _checked(text, _IBAN, 15, iban.is_valid)


def _cards(text: str) -> Iterator[Span]:
    return _checked(text, _CARD, 13, lambda found: luhn.is_valid(re.sub("[ -]", "", found)))


def _checked(text: str, pattern: re.Pattern[str], shortest: int, check: Callable[[str], bool]) -> Iterator[Span]:
    """From each place where ``pattern`` begins, the longest whole words that stand the check; without overlaps."""
    after = checks = 0
    for match in pattern.finditer(text):
        start, last = match.span(1)
        if start < after:
            continue
        for end in range(last, start + shortest - 1, -1):
            whole = text[end - 1].isalnum() and not text[end : end + 1].isalnum()
            checks += whole
            if checks > CHECKS:
                return
            if whole and check(text[start:end]):
                yield start, end
                after = end
                break


def _ssns(text: str) -> Iterator[Span]:
    yield from (match.span() for match in _SSN.finditer(text) if ssn.is_valid(match[0]))


def _addresses(text: str) -> Iterator[Span]:
    spans = [match.span() for pattern in (_IPV4, _IPV6) for match in pattern.finditer(text) if _is_address(match[0])]
    yield from sorted(spans)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
