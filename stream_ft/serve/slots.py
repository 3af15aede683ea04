"""Which version answers: one in each slot. Versions flip between two batches, on the thread that runs the forwards.

The champion answers; a challenger on trial answers, or is only compared on, a share of the requests. A request is
given its slot when it is admitted and its version when its batch is formed; a challenger that is not there leaves its
requests to the champion.

Nothing is changed in place: a :class:`Version` is immutable, the engine holds one immutable set of tensors per base,
and a flip replaces one reference. So a forward sees one version from beginning to end.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from stream_ft.errors import ArtifactError, StreamFTError
from stream_ft.model import golden
from stream_ft.model.engines import Engine

Slot = Literal["champion", "challenger"]


class ServedHead(Protocol):
    """What serving needs of a head."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels it can give."""
        ...

    @property
    def dim(self) -> int:
        """Width of the embeddings it reads."""
        ...

    def logits(self, embeddings: NDArray[Any]) -> NDArray[np.float32]:
        """``[B, dim]`` to ``[B, C]``."""
        ...

    def probabilities(self, embeddings: NDArray[Any]) -> NDArray[np.float32]:
        """``[B, dim]`` to ``[B, C]``, rows that sum to 1. Any thread."""
        ...

    def predict(self, embeddings: NDArray[Any]) -> list[tuple[str, float]]:
        """Label and its probability for each row; ``("", 0.0)``-like for a head without labels."""
        ...


@dataclass(frozen=True, kw_only=True)
class Version:
    """A version that can answer: its tensors are prepared in the engine under the name ``base``."""

    name: str
    epoch: int
    """-1 for a challenger: it never was in force under this name."""
    base: str
    start_head: str
    head: ServedHead

    @property
    def slot(self) -> Slot:
        """The slot that it is made for."""
        return "champion" if self.epoch >= 0 else "challenger"


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """One input's answer and what it was made from. ``embedding``: ``dim`` little-endian fp16 values."""

    label: str
    score: float
    embedding: bytes
    version: Version


class NotReadyError(StreamFTError):
    """No version serves yet (503)."""


class Slots:
    """The version in force, and beside it perhaps a challenger.

    Args:
        engine: its ``activate``, ``hold`` and ``encode`` are called only from :meth:`flip`, :meth:`challenge` and the
            forwards, which must run on one and the same thread.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._current: Version | None = None
        self._challenger: Version | None = None
        self._active = ""
        self._thread: int | None = None
        self._golden: dict[str, NDArray[np.float16]] = {}
        self._checked: Version | None = None

    @property
    def current(self) -> Version | None:
        """The version that answers; ``None`` before the first flip. Readable from any thread."""
        return self._current

    @property
    def challenger(self) -> Version | None:
        """The version on trial, if it can answer. Readable from any thread."""
        return self._challenger

    def answers(self, base: str) -> bool:
        """Whether a version on this base is in a slot."""
        return any(version is not None and version.base == base for version in (self._current, self._challenger))

    def forward(self, texts: list[str]) -> list[Answer]:
        """Answers of the champion, one per text.

        Raises:
            NotReadyError: no version serves yet.
        """
        self._assert_thread()
        version = self._current
        if version is None:
            raise NotReadyError("No version of the model serves yet.", "Ask /readyz, and try again in a few seconds.")
        return self._answered(version, texts)

    def forward_challenger(self, texts: list[str]) -> list[Answer]:
        """Answers of the challenger; of the champion if there is none.

        Raises:
            NotReadyError: no version serves yet.
        """
        self._assert_thread()
        version = self._challenger
        return self.forward(texts) if version is None else self._answered(version, texts)

    def _answered(self, version: Version, texts: list[str]) -> list[Answer]:
        self._activate(version.base)
        embeddings = self._engine.encode(texts)
        answers = version.head.predict(embeddings)
        little = np.ascontiguousarray(embeddings, dtype="<f2")
        return [
            Answer(label=label, score=float(score), embedding=row.tobytes(), version=version)
            for (label, score), row in zip(answers, little, strict=True)
        ]

    def check(self, version: Version, *, anew: bool = False, files: Mapping[str, bytes] | None = None) -> None:
        """Warm ``version`` and check its golden answers; on any thread, whoever answers is not touched.

        Args:
            version: its base is prepared.
            anew: its base has just been prepared: what it said before, if it was prepared before, says nothing of that.
            files: of its base, if it was prepared anew.

        Raises:
            ArtifactError: a check failed.
            KeyError: its base is not prepared.
        """
        self._checked = None
        if anew:
            self._golden.pop(version.base, None)
        if version.base not in self._golden:
            self._golden[version.base] = self._engine.trial(version.base, list(golden.TEXTS))
        try:
            check_golden(version.head, self._golden[version.base], self._engine.dim)
            golden.check(files or {}, self._golden[version.base], self._engine.tolerance)
        except ArtifactError:
            self._golden.pop(version.base, None)
            raise
        self._checked = version

    def flip(self, version: Version) -> None:
        """Make the version that was checked last the one that answers: two references change, nothing is computed.

        Raises:
            KeyError: its base is not prepared any more; the version from before goes on answering.
        """
        self._assert_thread()
        if version is not self._checked:
            raise RuntimeError(f"{version.name} was not checked")
        self._activate(version.base, always=True)
        self._current = version
        self._hold()

    def challenge(self, version: Version | None) -> None:
        """Put the version that was checked last on trial, or nobody.

        Raises:
            KeyError: its base is not prepared any more; nobody is on trial then.
        """
        self._assert_thread()
        if version is not None and version is not self._checked:
            raise RuntimeError(f"{version.name} was not checked")
        if version is not None and not self._engine.prepared(version.base):
            raise KeyError(version.base)
        self._challenger = version
        self._hold()

    def forget(self, base: str) -> None:
        """Drop the tensors of a base that is in no slot."""
        self._assert_thread()
        if self.answers(base):
            return
        self._golden.pop(base, None)
        self._engine.drop(base)

    def _activate(self, base: str, *, always: bool = False) -> None:
        """Only at a change of slot; a flip always does it, as a base may have been dropped and prepared anew."""
        if always or base != self._active:
            self._engine.activate(base)
            self._active = base

    def _hold(self) -> None:
        self._engine.hold({version.base for version in (self._current, self._challenger) if version is not None})

    def _assert_thread(self) -> None:
        me = threading.get_ident()
        if self._thread is None:
            self._thread = me
        if self._thread != me:
            raise RuntimeError("forwards and flips must run on one thread")


def check_golden(head: ServedHead, embeddings: NDArray[np.float16], dim: int) -> None:
    """Check what a version says of the golden texts.

    Raises:
        ArtifactError: step ``golden``, ``dtypes``, ``finite``, ``shapes`` or ``labels``.
    """
    if embeddings.shape != (len(golden.TEXTS), dim):
        raise ArtifactError(
            "golden", f"The encoder gives embeddings of shape {embeddings.shape}; {dim} wide are expected."
        )
    if embeddings.dtype != np.float16:  # heads read what they were fitted on and what is published: rounded to fp16
        raise ArtifactError("dtypes", f"The encoder gives embeddings of {embeddings.dtype}; float16 is expected.")
    if not np.isfinite(embeddings).all():
        raise ArtifactError("finite", "The encoder gives embeddings that are not finite.")
    if head.dim != dim:
        raise ArtifactError("shapes", f"The head reads embeddings {head.dim} wide; the encoder gives {dim}.")
    if len(set(head.labels)) != len(head.labels) or any(not label for label in head.labels):
        raise ArtifactError("labels", "The head's labels are not distinct and non-empty.")
    logits = head.logits(embeddings)
    if logits.shape != (len(golden.TEXTS), len(head.labels)):
        raise ArtifactError("shapes", f"The head gives logits of shape {logits.shape} for {len(head.labels)} labels.")
    if not np.isfinite(logits).all():
        raise ArtifactError("finite", "The head gives logits that are not finite.")
    known = set(head.labels) or {""}
    if any(label not in known for label, _ in head.predict(embeddings)):
        raise ArtifactError("labels", "The head predicts a label that it does not list.")
