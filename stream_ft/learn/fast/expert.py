"""What the tier asks of a learner, and what it is shown."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from stream_ft.errors import ConfigError
from stream_ft.model.heads import Floats, Projection, lift
from stream_ft.model.mixture import Part

Arrays = dict[str, npt.NDArray[Any]]
"""A learner's state by name, of any shapes and types that safetensors knows."""


class Seen:
    """One embedding ``[dim]`` as it was served, with its features, which are made once for all learners."""

    def __init__(self, embedding: npt.NDArray[np.floating], batch: Batch | None = None, place: int = 0) -> None:
        self._row = embedding[None]
        self._lifted: dict[Projection | None, Floats] = {}
        self._batch, self._place = batch, place
        self.kept: dict[object, Floats] = {}
        """What a learner computed to answer, under itself, until it learns: it is asked right before."""

    def features(self, projection: Projection | None) -> Floats:
        """``phi``, ``[M]``: as :func:`stream_ft.model.heads.lift` serves them."""
        found = self._lifted.get(projection)
        if found is None:
            if self._batch is not None:
                found = self._batch.features(projection)[self._place]
            else:
                found = lift(self._row, projection)[0]
            self._lifted[projection] = found
        return found

    def coming(self, projection: Projection | None, count: int) -> Sequence[Floats]:
        """:meth:`features` of this one and of up to ``count - 1`` that are known to be learned next."""
        if self._batch is None:
            return [self.features(projection)]
        return self._batch.features(projection)[self._place : self._place + count]


class Batch:
    """Embeddings ``[B, dim]`` that are learned in this order: what can be computed for all at once costs less."""

    def __init__(self, embeddings: npt.NDArray[np.floating]) -> None:
        self._embeddings = embeddings
        self._lifted: dict[Projection | None, list[Floats]] = {}

    def __iter__(self) -> Iterator[Seen]:
        return (Seen(embedding, self, place) for place, embedding in enumerate(self._embeddings))

    def features(self, projection: Projection | None) -> list[Floats]:
        """``phi`` of each, ``[M]``."""
        if projection not in self._lifted:
            self._lifted[projection] = list(lift(self._embeddings, projection))
        return self._lifted[projection]


class Expert(Protocol):
    """A learner. Labels are numbers in the order of their arrival; ``C`` is how many there are."""

    @property
    def prior(self) -> float:
        """What it is worth in a mixture before it has said anything, relative to others; 1 for a plain one."""
        ...

    def grow(self) -> None:
        """There is one more label, its number the count so far. An example of it is learned next."""
        ...

    def probabilities(self, seen: Seen) -> Floats:
        """``[C]``, summing to 1. Called once there is a label."""
        ...

    def learn(self, seen: Seen, label: int, weight: float) -> None:
        """Learn from one example; ``weight`` in (0, 1] says how much it is trusted."""
        ...

    def part(self) -> Part:
        """What serving needs to give the same probabilities, with the share 1. Arrays are not shared."""
        ...

    def arrays(self) -> Arrays:
        """The whole state: after :meth:`restore` of these, a learner goes on bit by bit as this one would."""
        ...

    def restore(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Undo of :meth:`arrays`, in a learner that was built alike.

        Raises:
            KeyError, ValueError: the arrays are not its own.
        """
        ...


def load_expert(name: str, *, dim: int, seed: int) -> Expert:
    """The learner in the file ``name``.

    Raises:
        ConfigError: there is none.
    """
    module = None
    if name.isidentifier():
        with contextlib.suppress(ModuleNotFoundError):
            module = importlib.import_module(f"stream_ft.learn.fast.{name}")
    make = getattr(module, "build", None)
    if module is None or make is None or make.__module__ != module.__name__:
        raise ConfigError(f"There is no fast learner {name!r}.", "Name files of stream_ft/learn/fast that build one.")
    built: Expert = make(dim=dim, seed=seed)
    return built


def softmax(logits: Floats) -> Floats:
    """``[C]`` to probabilities ``[C]``."""
    e = np.exp(logits - logits.max())
    result: Floats = e / e.sum()
    return result


def longer(array: npt.NDArray[Any], *, columns: bool = False, fill: float = 0.0) -> npt.NDArray[Any]:
    """A copy with one more row, and one more column where asked, filled with ``fill``."""
    widths = [(0, 1)] + [(0, int(columns))] * (array.ndim - 1)
    return np.pad(array, widths, constant_values=fill)


def taken(arrays: Mapping[str, npt.NDArray[Any]], name: str, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """A copy of one array of a state, if it has this shape; -1 stands for any length.

    Raises:
        KeyError, ValueError: it is not there, or has another shape.
    """
    found = arrays[name]
    if len(found.shape) != len(shape) or any(a not in (-1, b) for a, b in zip(shape, found.shape, strict=True)):
        raise ValueError(f"{name} has the shape {found.shape}; expected {shape}")
    return np.array(found)
