"""Messages to a shop, written for this project: a stream that changes its mind half way, and a test of unseen wordings.

Templates lie in ``templates.tsv`` (``split, meaning, template``); no template is used on both sides. In a template
``(a|b)`` is a choice and ``{name}`` a slot. Phase 1 has fifteen meanings. In phase 2 a sixteenth arrives
(``click_and_collect``), and the two after-sales desks exchange their work: what went to ``aftersales_a`` goes to
``aftersales_b``. The test set is labelled as phase 2 means it.

``python -m stream_ft.demo.shop FOLDER`` writes ``shop_stream.tsv`` and ``shop_test.tsv`` as they are committed.
"""

from __future__ import annotations

import csv
import io
import random
import re
import sys
from collections.abc import Iterable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Literal

from msgspec import Struct

from stream_ft.connectors.files import Row

Split = Literal["train", "test"]
SEED = 7
STREAM_ROWS = 3_400
TEST_ROWS = 600
PHASE_1_ROWS = 1_530

LATE = "click_and_collect"
DESKS = {"return_item": ("aftersales_a", "aftersales_b"), "warranty": ("aftersales_b", "aftersales_a")}
"""Label of these meanings in phase 1 and in phase 2."""
SHARES = {"return_item": 1.9, "warranty": 1.9, LATE: 1.8}
"""How often a meaning is asked for in phase 2, against 1 for every other. In phase 1 all are asked for alike."""

_PRODUCTS = (
    "coffee machine|kettle|toaster|desk lamp|bookshelf|office chair|rug|mirror|wall clock|vase|teapot|frying pan|"
    "cutting board|picture frame|garden table|suitcase|bicycle helmet|yoga mat|tent|sleeping bag|water bottle|"
    "lunch box|blender|salad bowl|bedside table|sofa|pillow|blanket|umbrella|toy train"
)
_GARMENTS = "jacket|raincoat|sweater|shirt|dress|skirt|coat|hoodie|blouse|cardigan|pair of jeans|winter boot|sneaker"
_DEVICES = "coffee machine|blender|toaster|desk lamp|headphone|speaker|hair dryer|vacuum cleaner|kettle|camera|radio"
_CHOICES = {
    "garment": _GARMENTS.split("|"),
    "device": _DEVICES.split("|"),
    "product": [*_PRODUCTS.split("|"), "jacket", "raincoat", "sweater", "headphone", "speaker"],
    "colour": ["red", "blue", "green", "black", "white", "grey", "yellow", "brown", "navy", "beige", "pink"],
    "size": ["XS", "S", "M", "L", "XL", "36", "38", "40", "42", "44"],
    "city": [
        "Hamburg",
        "Leeds",
        "Lyon",
        "Porto",
        "Vienna",
        "Ghent",
        "Turin",
        "Malmo",
        "Krakow",
        "Cork",
        "Basel",
        "Utrecht",
    ],
    "day": ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"],
    "card": ["credit card", "debit card", "visa card", "gift card", "mastercard"],
    "code": ["SPRING10", "WELCOME", "SAVE20", "HELLO5", "VIP15", "SUMMER", "BDAY25", "NEWS10"],
    "n": ["2", "3", "4", "5", "6", "7", "8", "9", "two", "three", "four", "five"],
}
_OPENINGS: dict[Split, tuple[str, ...]] = {
    "train": (
        "hi",
        "hello",
        "hey",
        "good morning",
        "dear team",
        "hi there",
        "excuse me",
        "hello, quick question",
        "ok so",
    ),
    "test": ("good evening", "dear shop", "greetings", "hey folks", "hello everyone", "sorry to bother you"),
}
_CLOSINGS: dict[Split, tuple[str, ...]] = {
    "train": ("thanks", "thank you", "please help", "many thanks", "kind regards", "thx", "please answer soon"),
    "test": ("cheers", "best wishes", "much appreciated", "looking forward to your reply", "yours, a customer"),
}


class ShopData(Struct, frozen=True, kw_only=True):
    """The stream in its order, and the test set.

    A row's label is what its phase means by it. ``phase`` is ``1`` or ``2``; in the test set it is ``1`` for meanings
    that phase 2 left as they were and ``2`` for the others.
    """

    stream: tuple[Row, ...]
    test: tuple[Row, ...]


def templates(split: Split) -> dict[str, list[str]]:
    """Templates of one side by meaning, as committed."""
    found: dict[str, list[str]] = {}
    text = files("stream_ft.demo").joinpath("templates.tsv").read_text(encoding="utf-8")
    for side, meaning, template in csv.reader(io.StringIO(text), delimiter="\t", quoting=csv.QUOTE_NONE):
        if side == split:
            found.setdefault(meaning, []).append(template)
    return found


def label_of(meaning: str, phase: Literal[1, 2]) -> str:
    """What ``meaning`` is called in a phase."""
    return DESKS[meaning][phase - 1] if meaning in DESKS else meaning


def generate(
    seed: int = SEED, *, rows: int = STREAM_ROWS, phase_1: int = PHASE_1_ROWS, test: int = TEST_ROWS
) -> ShopData:
    """The same seed gives the same rows, on every platform."""
    random_ = random.Random(seed)
    train_templates, test_templates = templates("train"), templates("test")
    early = [meaning for meaning in train_templates if meaning != LATE]
    late = {meaning: SHARES.get(meaning, 1.0) for meaning in train_templates}
    stream = [
        *_messages(random_, train_templates, _deal(random_, dict.fromkeys(early, 1.0), phase_1), "train", 1),
        *_messages(random_, train_templates, _deal(random_, late, rows - phase_1), "train", 2),
    ]
    return ShopData(
        stream=tuple(stream),
        test=tuple(_messages(random_, test_templates, _deal(random_, late, test), "test", 2)),
    )


def _deal(random_: random.Random, shares: Mapping[str, float], count: int) -> list[str]:
    """``count`` meanings, shuffled. Shares are exact but for rounding, so that a seed cannot starve a meaning."""
    total = sum(shares.values())
    dealt = [meaning for meaning, share in shares.items() for _ in range(int(count * share / total))]
    dealt += random_.choices(list(shares), k=count - len(dealt))
    random_.shuffle(dealt)
    return dealt


def _messages(
    random_: random.Random, by_meaning: dict[str, list[str]], dealt: Iterable[str], split: Split, phase: Literal[1, 2]
) -> Iterable[Row]:
    for meaning in dealt:
        changed = meaning in DESKS or meaning == LATE
        yield Row(
            text=_dress(random_, fill(random_, random_.choice(by_meaning[meaning])), split),
            label=label_of(meaning, phase),
            phase=str(phase) if split == "train" else ("2" if changed else "1"),
        )


def fill(random_: random.Random, template: str) -> str:
    """A template with its choices made and its slots filled; a slot named twice gets two values."""
    text = re.sub(r"\(([^()]*)\)", lambda found: random_.choice(found[1].split("|")), template)
    used: set[str] = set()

    def value(found: re.Match[str]) -> str:
        name = found[1]
        if name == "order":
            return random_.choice(("#{}", "{}", "SH-{}", "no. {}")).format(random_.randint(10_000, 999_999))
        if name == "amount":
            return random_.choice(("{} euros", "€{}", "{}.90", "£{}")).format(random_.randint(4, 180))
        if name == "height":
            return random_.choice(("1.{} m", "1{} cm")).format(random_.randint(52, 98))
        left = [choice for choice in _CHOICES[name] if choice not in used]
        used.add(chosen := random_.choice(left))
        return chosen

    return re.sub(r"\{(\w+)\}", value, text)


def _dress(random_: random.Random, text: str, split: Split) -> str:
    """Greeting, thanks, letter case, punctuation and slips of the finger."""
    if random_.random() < 0.3:
        text = f"{random_.choice(_OPENINGS[split])}{random_.choice((', ', ' ', '! '))}{text}"
    end = random_.choice(("", "", ".", "?", "!", "??", "..."))
    text = text.rstrip(".!?") + end if random_.random() < 0.7 else text
    if random_.random() < 0.25:
        text = f"{text}{'' if end else ','} {random_.choice(_CLOSINGS[split])}"
    style = random_.random()
    if style < 0.4:
        text = text.lower()
    elif style < 0.43:
        text = text.upper()
    elif style < 0.8:
        text = text[0].upper() + text[1:]
    if random_.random() < 0.22:
        text = _slip(random_, text)
    if random_.random() < 0.06:
        text = _slip(random_, text)
    return text


def _slip(random_: random.Random, text: str) -> str:
    """One letter swapped with the next, dropped or doubled; never the first of the text."""
    at = random_.randrange(1, len(text) - 1)
    how = random_.randrange(3)
    if how == 0:
        return text[:at] + text[at + 1] + text[at] + text[at + 2 :]
    return text[:at] + text[at + 1 :] if how == 1 else text[:at] + text[at] + text[at:]


def to_tsv(rows: Iterable[Row]) -> str:
    """``text, label, phase`` with a header, tab-separated, unquoted: no message holds a tab or a line break."""
    return "text\tlabel\tphase\n" + "".join(f"{row.text}\t{row.label}\t{row.phase}\n" for row in rows)


def read_tsv(text: str) -> list[Row]:
    """Undo of :func:`to_tsv`."""
    lines = [line.split("\t") for line in text.splitlines()[1:]]
    return [Row(text=text, label=label, phase=phase) for text, label, phase in lines]


def committed(split: Split) -> list[Row]:
    """The rows that ship with the package."""
    name = "shop_stream.tsv" if split == "train" else "shop_test.tsv"
    return read_tsv(files("stream_ft.demo").joinpath(name).read_text(encoding="utf-8"))


def write(folder: Path, seed: int = SEED) -> None:
    """Write both files to ``folder``."""
    data = generate(seed)
    for name, rows in (("shop_stream.tsv", data.stream), ("shop_test.tsv", data.test)):
        (folder / name).write_text(to_tsv(rows), encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
