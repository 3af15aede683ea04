"""stream_ft: models in production that learn from what their users tell them, safely, while they serve."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["__version__", "simulate"]

if TYPE_CHECKING:
    from stream_ft.wiring.simulate import simulate


def __getattr__(name: str) -> Any:
    """``stream_ft.simulate`` is loaded when first used: importing the package costs milliseconds."""
    if name == "simulate":
        from stream_ft.wiring.simulate import simulate

        return simulate
    raise AttributeError(f"module 'stream_ft' has no attribute {name!r}")
