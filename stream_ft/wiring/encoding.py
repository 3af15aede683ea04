"""The engine that a process encodes with, from its settings."""

from __future__ import annotations

from stream_ft.config import Settings
from stream_ft.errors import ConfigError
from stream_ft.model.base import BaseFolder
from stream_ft.model.engines import Engine
from stream_ft.model.engines.variants import adapters_only, open_variant

WHOLE = ("partial", "full", "scratch")
"""Methods of a round whose base changes whole tensors."""


def open_engine(settings: Settings, base: BaseFolder, *, threads: int | None = None, serving: bool = False) -> Engine:
    """As ``model.engine``, ``.threads``, ``.device``, ``.quantize`` and ``.compile`` say.

    Args:
        settings: of the process.
        base: the pretrained model.
        threads: take so many, and measure nothing: the same everywhere, as a simulation must be.
        serving: versions are built beside forwards that must not feel it, and many texts at once take all cores.

    Raises:
        ConfigError: what the settings ask for cannot be had.
    """
    model = settings.model
    if settings.round.method in WHOLE and adapters_only(
        kind=model.engine, quantize=model.quantize, device=model.device
    ):
        raise ConfigError(
            f"round.method {settings.round.method} changes whole tensors; a model quantised in torch takes adapters.",
            "Set round.method to lora or head, or model.quantize to none.",
        )
    return open_variant(
        base,
        kind=model.engine,
        max_tokens=model.max_tokens,
        threads=model.threads if threads is None else threads,
        device=model.device,
        cache=settings.cache_path(),
        measured=threads is None,
        gives_way=serving,
        whole=serving,
        quantize=model.quantize,
        compiled=model.compile,
    )
