"""Opens the store with the settings of a process."""

from __future__ import annotations

from pathlib import Path

from stream_ft.config import Settings
from stream_ft.replay.store import Store


def open_store(settings: Settings, path: Path | str) -> Store:
    """The store at ``path`` (or ``:memory:``)."""
    replay = settings.replay
    return Store(
        path,
        capacity=replay.capacity,
        sampler=replay.sampler,
        holdout_share=replay.holdout_share,
        holdout_after=replay.holdout_after,
        holdout_capacity=replay.holdout_capacity,
        orphan_limit_s=replay.orphan_limit_s,
        horizon_days=replay.horizon_days,
        contradictions=replay.contradictions,
        similarity=replay.similarity,
        seed=settings.seed,
        model=settings.model.name,
        journal=settings.fast.enabled,
    )
