"""The engine port: from texts to embeddings, under one of several immutable sets of tensors."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt


def nothing() -> None:
    """Nobody minds."""


class Engine(Protocol):
    """Encodes texts. ``activate``, ``hold``, ``encode`` and ``drop`` are called on one thread only."""

    @property
    def dim(self) -> int:
        """Width of an embedding."""
        ...

    @property
    def tolerance(self) -> float:
        """How far embeddings may be off from those of the model in floating point, relative to their largest value."""
        ...

    def prepared(self, name: str) -> bool:
        """Whether a base is prepared: an engine may have made room for another since."""
        ...

    def prepare(self, name: str, files: dict[str, bytes], between: Callable[[], None] = nothing) -> None:
        """Build and check the set of tensors of base ``name``, on any thread, without touching the active one.

        Preparing a name twice is harmless.

        Args:
            name: of the base.
            files: of its folder.
            between: called after each piece of the work; what it raises ends the work without a trace.

        Raises:
            ArtifactError: with the check that failed.
        """
        ...

    def complete(self) -> bool:
        """Go on with what the active set, and those that are held, can do without at first; on any thread.

        Returns:
            Whether nothing of it is left. It does not wait for what takes long.
        """
        ...

    def trial(self, name: str, texts: Sequence[str]) -> npt.NDArray[np.float16]:
        """What :meth:`encode` would give under the prepared set ``name``; on any thread, the active set is not touched.

        Raises:
            KeyError: the set was not prepared, or was dropped.
        """
        ...

    def activate(self, name: str) -> None:
        """Make a prepared set the one that ``encode`` uses: a few references change, so it may be done per batch."""
        ...

    def hold(self, names: Collection[str]) -> None:
        """These sets answer: making room must not take one of them. Replaces what was held before."""
        ...

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float16]:
        """Embeddings ``[B, dim]`` of ``texts`` under the active set; ``[0, dim]`` for none."""
        ...

    def drop(self, name: str) -> None:
        """Forget a prepared set; unknown names are ignored."""
        ...
