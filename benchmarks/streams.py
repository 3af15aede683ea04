"""The streams on which learners are compared: Banking77, changed over time in ways that production knows.

Each is made from labelled rows and a seed, and the same rows and seed give the same stream. Learners see the labels
that are fed; scores use the true ones. What a learner may not know is in no event: where a change is, which labels it
concerns, what the stream is called.
"""

from __future__ import annotations

import csv
import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from stream_ft.connectors.files import Row
from stream_ft.wiring.feeding import fed_labels

Labelled = tuple[str, str]
"""A text and its label."""

CHANGE_AT = 0.6
"""Where an abrupt change comes, as a share of the stream."""
RENAMED = 20
"""Labels that are permuted among themselves."""
NOISE = 0.1
DELAY = 200
PHASES = 5
OUT_OF_PHASE = 0.1
"""Share of a class's examples that come outside its phase: phases have blurry borders."""
GRADUAL = (0.4, 0.8)
"""The share of new names among the renamed grows from 0 to 1 between these shares of the stream."""
RECURRING = (0.4, 0.6, 0.8)
"""Old names, new ones, old ones again, and again the new ones."""
JARGON = 400
"""Content words that are replaced by invented ones, the commonest first."""


@dataclass(frozen=True, kw_only=True)
class Event:
    """A text, the label that is right when it arrives, and the one that is fed for it."""

    text: str
    truth: str
    fed: str
    phase: str = ""


@dataclass(frozen=True, kw_only=True)
class Stream:
    """Events in order, and how a learner is scored on them.

    Attributes:
        test: texts that are not in the stream, with the labels that are right at its end.
        changes: events at which something abrupt happens or a slow change begins; ascending, maybe none.
        delay: events between a text and its label.
        noise: share of the labels fed that are wrong.
    """

    name: str
    seed: int
    events: tuple[Event, ...]
    test: tuple[Labelled, ...]
    changes: tuple[int, ...] = ()
    delay: int = 0
    noise: float = 0.0

    @property
    def first_phase(self) -> tuple[int, frozenset[str]] | None:
        """Where the first phase ends, and its classes; ``None`` without phases."""
        if not self.events or not self.events[0].phase:
            return None
        first = self.events[0].phase
        inside = [event for event in self.events if event.phase == first]
        counts = Counter(event.truth for event in self.events)
        mostly = Counter(event.truth for event in inside)
        return len(inside), frozenset(label for label, count in mostly.items() if count > counts[label] / 2)

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Write ``stream.csv`` and ``test.csv`` with the true labels, for `stream-ft simulate` in file order.

        ``--noise``, ``--seed`` and ``--label-delay`` then feed what :attr:`events` feed.
        """
        folder.mkdir(parents=True, exist_ok=True)
        stream, test = folder / "stream.csv", folder / "test.csv"
        rows = [(event.text, event.truth, event.phase) for event in self.events]
        for path, lines in ((stream, rows), (test, [(text, label, "") for text, label in self.test])):
            with path.open("w", encoding="utf-8", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(("text", "category", "phase"))
                writer.writerows(lines)
        return stream, test


Maker = Callable[[str, Sequence[Labelled], Sequence[Labelled], int], Stream]


def make(name: str, train: Sequence[Labelled], test: Sequence[Labelled], *, seed: int, limit: int = 0) -> Stream:
    """A stream by its name.

    Args:
        name: one of :data:`STREAMS`.
        train: rows of which the stream is made, each once.
        test: rows that it is scored on at its end.
        seed: of the order and of whatever is drawn.
        limit: take only so many rows; 0 takes all.
    """
    rows = list(train)
    random.Random(seed).shuffle(rows)
    return STREAMS[name](name, rows[:limit] if limit else rows, test, seed)


def _plain(rows: Sequence[Labelled]) -> tuple[Event, ...]:
    return tuple(Event(text=text, truth=label, fed=label) for text, label in rows)


def _stationary(name: str, rows: Sequence[Labelled], test: Sequence[Labelled], seed: int) -> Stream:
    return Stream(name=name, seed=seed, events=_plain(rows), test=tuple(test))


def _renaming(rows: Sequence[Labelled], seed: int) -> dict[str, str]:
    """New names of some labels, drawn: a permutation among them that leaves none as it was."""
    draw = random.Random(f"renaming {seed}")
    labels = sorted({label for _, label in rows})
    chosen = draw.sample(labels, min(RENAMED, len(labels)))
    return dict(zip(chosen, chosen[1:] + chosen[:1], strict=True))


def _rename(name: str, rows: Sequence[Labelled], test: Sequence[Labelled], seed: int) -> Stream:
    new = _renaming(rows, seed)
    change = int(CHANGE_AT * len(rows))
    named = [(text, label if at < change else new.get(label, label)) for at, (text, label) in enumerate(rows)]
    renamed = tuple((text, new.get(label, label)) for text, label in test)
    return Stream(name=name, seed=seed, events=_plain(named), test=renamed, changes=(change,))


def _rename_noise(name: str, rows: Sequence[Labelled], test: Sequence[Labelled], seed: int) -> Stream:
    clean = _rename(name, rows, test, seed)
    # Drawn by the product's own function, so that a simulation of the same rows feeds the same labels.
    fed = fed_labels([Row(text=e.text, label=e.truth) for e in clean.events], noise=NOISE, seed=seed)
    events = tuple(replace(event, fed=label) for event, label in zip(clean.events, fed, strict=True))
    return replace(clean, events=events, noise=NOISE)


def _rename_delayed(name: str, rows: Sequence[Labelled], test: Sequence[Labelled], seed: int) -> Stream:
    return replace(_rename(name, rows, test, seed), delay=DELAY)


def _phased(name: str, rows: Sequence[Labelled], test: Sequence[Labelled], seed: int) -> Stream:
    draw = random.Random(f"phases {seed}")
    labels = sorted({label for _, label in rows})
    draw.shuffle(labels)
    home = {label: at * PHASES // len(labels) for at, label in enumerate(labels)}
    phases: list[list[Event]] = [[] for _ in range(PHASES)]
    for text, label in rows:
        phase = draw.randrange(PHASES) if draw.random() < OUT_OF_PHASE else home[label]
        phases[phase].append(Event(text=text, truth=label, fed=label, phase=f"phase {phase + 1}"))
    starts = [sum(len(phase) for phase in phases[:at]) for at in range(1, PHASES)]
    events = tuple(event for phase in phases for event in phase)
    return Stream(name=name, seed=seed, events=events, test=tuple(test), changes=tuple(starts))


def _gradual(name: str, rows: Sequence[Labelled], test: Sequence[Labelled], seed: int) -> Stream:
    new = _renaming(rows, seed)
    draw = random.Random(f"gradual {seed}")
    start, end = (share * len(rows) for share in GRADUAL)
    named = []
    for at, (text, label) in enumerate(rows):
        share = (at - start) / (end - start)
        named.append((text, new.get(label, label) if draw.random() < share else label))
    renamed = tuple((text, new.get(label, label)) for text, label in test)
    return Stream(name=name, seed=seed, events=_plain(named), test=renamed, changes=(int(start),))


def _recurring(name: str, rows: Sequence[Labelled], test: Sequence[Labelled], seed: int) -> Stream:
    new = _renaming(rows, seed)
    changes = tuple(int(share * len(rows)) for share in RECURRING)
    named = []
    for at, (text, label) in enumerate(rows):
        renamed_now = sum(at >= change for change in changes) % 2 == 1
        named.append((text, new.get(label, label) if renamed_now else label))
    last = len(changes) % 2 == 1
    tests = tuple((text, new.get(label, label) if last else label) for text, label in test)
    return Stream(name=name, seed=seed, events=_plain(named), test=tests, changes=changes)


WORD = re.compile(r"[a-z]+(?:'[a-z]+)?", re.IGNORECASE)
GRAMMAR = """
    a about above after again against all also am an and any are aren't as at be because been before being below
    between both but by can can't cannot could couldn't did didn't do does doesn't doing don't down during each either
    else ever few for from further get gets getting go goes going got had hadn't has hasn't have haven't having he her
    here hers herself hi him himself his how i i'd i'll i'm i've if in into is isn't it it's its itself just keep let
    like made make makes many may me might mine more most much must my myself need neither no nor not now of off on
    once one only or other our ours ourselves out over own per please put quite rather really said same say see seem
    seems shall she should shouldn't so some still such take than thank thanks that that's the their theirs them
    themselves then there there's these they they're this those though through thus to too two under until up upon us
    use used using very want was wasn't way we we're were weren't what what's when where which while who whom whose why
    will with within without won't would wouldn't yes yet you you're your yours yourself yourselves"""
FUNCTION_WORDS = frozenset(GRAMMAR.split())
"""Words that carry the grammar; jargon replaces the others."""


def jargon_words(texts: Sequence[str], *, count: int, seed: int) -> dict[str, str]:
    """An invented word for each of the ``count`` commonest content words, in lower case: pronounceable, and none that
    the texts use."""
    found = Counter(word for text in texts for word in (match.lower() for match in WORD.findall(text)))
    content = [word for word, _ in sorted(found.items(), key=lambda item: (-item[1], item[0]))]
    content = [word for word in content if word not in FUNCTION_WORDS and len(word) > 1][:count]
    draw = random.Random(f"jargon {seed}")
    invented: dict[str, str] = {}
    taken = set(found)
    for word in content:
        made = ""
        while not made or made in taken:
            made = "".join(draw.choice("bdfgklmnprstvz") + draw.choice("aeiou") for _ in range(draw.choice((2, 3))))
            made += draw.choice(("", "k", "n", "r", "sh", "x"))
        taken.add(made)
        invented[word] = made
    return invented


def _jargon(name: str, rows: Sequence[Labelled], test: Sequence[Labelled], seed: int) -> Stream:
    words = jargon_words([text for text, _ in rows], count=JARGON, seed=seed)

    def replaced(text: str) -> str:
        return WORD.sub(lambda match: words.get(match.group().lower(), match.group()), text)

    return Stream(
        name=name,
        seed=seed,
        events=_plain([(replaced(text), label) for text, label in rows]),
        test=tuple((replaced(text), label) for text, label in test),
    )


STREAMS: dict[str, Maker] = {
    "stationary": _stationary,
    "rename": _rename,
    "rename_noise10": _rename_noise,
    "phased": _phased,
    "gradual": _gradual,
    "recurring": _recurring,
    "delayed200": _rename_delayed,
    "jargon": _jargon,
}
"""Every stream by its name."""
