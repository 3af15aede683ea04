"""The engine that a process encodes with, from its settings."""

from __future__ import annotations

from stream_ft.config import Settings
from stream_ft.model.base import BaseFolder
from stream_ft.model.engines import Engine
from stream_ft.model.engines.choose import open_engine as chosen_engine


def open_engine(settings: Settings, base: BaseFolder, *, threads: int | None = None, serving: bool = False) -> Engine:
    """As ``model.engine``, ``model.threads`` and ``model.device`` say.

    Args:
        settings: of the process.
        base: the pretrained model.
        threads: take so many, and measure nothing: the same everywhere, as a simulation must be.
        serving: versions are prepared beside forwards that must not feel it.

    Raises:
        ConfigError: what the settings ask for cannot be had.
    """
    return chosen_engine(
        base,
        kind=settings.model.engine,
        max_tokens=settings.model.max_tokens,
        threads=settings.model.threads if threads is None else threads,
        device=settings.model.device,
        cache=settings.cache_path(),
        measured=threads is None,
        shared_pool=serving,
    )
