"""From the learner's wish for a round to a job: which examples it trains on and is judged by, and its orders."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from stream_ft.config import Settings
from stream_ft.events import Example
from stream_ft.learn import evaluate, schedule
from stream_ft.learn.job import Job
from stream_ft.learn.learner import Memory
from stream_ft.model.base import BaseFolder
from stream_ft.release.fold import State
from stream_ft.release.registry import Registry
from stream_ft.replay.neardup import NearDuplicates, normalise
from stream_ft.replay.store import Store

ROOM = 7
"""Where there are so many times the least number of examples to judge by, a round of the encoder is judged by twice as
many: it costs far more than a round of the head, and what it gained says whether the next one is worth it."""
LEAST_STEPS = 16
"""However few the examples are."""
GAINING = 4
"""While rounds of the encoder gain, one may take so many times ``round.steps``: the encoder does not know the domain
yet, so steps pay. Any other only has to show whether they do."""
EMBED = 256
"""Texts embedded in one go before a round of the head."""


@dataclass(frozen=True, kw_only=True)
class Champion:
    """The version that a round is to beat, and what was offered to earlier rounds.

    Attributes:
        state: in which it is active.
        examples_upto: of its dossier.
        memory: what the learner knows of earlier rounds.
    """

    state: State
    examples_upto: int
    memory: Memory


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A round that can start."""

    job: Job
    split: evaluate.Split


def plan(
    kind: schedule.Kind,
    champion: Champion,
    *,
    settings: Settings,
    store: Store,
    registry: Registry,
    base: BaseFolder,
    embed_missing: Callable[[int], int],
    deterministic: bool,
) -> Planned | evaluate.TooFew:
    """The job of a round of ``kind`` with its examples, or why there are too few.

    Args:
        embed_missing: embeds up to so many retained examples that lack an embedding of the active base, and says how
            many it did; a round of the head reads embeddings, not texts.
        deterministic: the round is bounded by steps alone.
    """
    state, chosen = champion.state, settings.round
    adapting = kind == "adapt" and chosen.method != "head"
    training, holdout, minimum = store.training(), store.holdout(), settings.schedule.min_evaluation
    unseen = sum(example.seq > champion.examples_upto for example in training)
    if adapting and len(holdout) + unseen >= ROOM * minimum:
        minimum *= 2
    split = evaluate.split(training, holdout, minimum=minimum, champion_upto=champion.examples_upto)
    if isinstance(split, evaluate.TooFew):
        return split
    split = apart(split, champion.examples_upto)
    if not adapting:
        while embed_missing(EMBED):
            pass
        if any(example.embedding_base != state.base for example in (*split.train, *split.evaluate)):
            split = evaluate.Split(
                train=[_refreshed(store, example) for example in split.train],
                evaluate=[_refreshed(store, example) for example in split.evaluate],
                examples_upto=split.examples_upto,
            )
    most = chosen.steps * (GAINING if champion.memory.adapts_in_vain < 0 else 1)
    job = Job(
        kind=chosen.method if adapting else "head",
        base_model=str(base.path),
        champion_base=state.base,
        champion_dir=str(registry.path(state.base)),
        champion_head=str(registry.head_path(state.start_head)),
        task=settings.model.task,
        seed=settings.seed,
        steps=min(most, max(LEAST_STEPS, math.ceil(chosen.passes * len(split.train) / chosen.batch))),
        batch=chosen.batch,
        fresh_share=chosen.fresh_share,
        fresh_after_seq=champion.memory.adapt_upto,
        learning_rate=chosen.learning_rate,
        rank=chosen.rank,
        last_layers=chosen.last_layers,
        seconds=None if deterministic else chosen.seconds,
        threads=chosen.threads,
        projection=chosen.projection,
        experts=settings.fast.names() if settings.fast.enabled else [],
        max_tokens=settings.model.max_tokens,
        device=settings.model.device,
        engine=settings.model.engine,
        quantize=settings.model.quantize,
        cache=str(settings.cache_path()),
        examples_upto=split.examples_upto,
        epoch=state.epoch,
    )
    return Planned(job=job, split=split)


def policy(settings: Settings) -> schedule.Policy:
    """When rounds start. A head that the fast tier has moved on from need not be fitted as often."""
    asked = schedule.Policy(**settings.schedule.model_dump())
    return replace(asked, head_every=settings.fast.head_every) if settings.fast.enabled else asked


def apart(split: evaluate.Split, champion_upto: int) -> evaluate.Split:
    """Without the training examples that are nearly the same as one that is withheld: they wait for the next round.

    Only what is new can be: what the champion was trained on was on its side before the withheld ones came, and the
    store keeps the holdout apart.
    """
    withheld = NearDuplicates()
    for example in split.evaluate:
        if not example.holdout:
            withheld.add(example.id, normalise(example.input))
    train = [
        example
        for example in split.train
        if example.seq <= champion_upto or not withheld.near(normalise(example.input))
    ]
    if not train:
        return split
    return evaluate.Split(train=train, evaluate=split.evaluate, examples_upto=split.examples_upto)


def _refreshed(store: Store, example: Example) -> Example:
    fresh = store.example(example.id)
    return fresh if fresh is not None else example
