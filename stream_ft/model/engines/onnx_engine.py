"""The engine on ONNX Runtime: a base is a session of the same graph with replaced weights."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from onnxruntime.capi import _pybind_state as _C

from stream_ft.errors import ArtifactError
from stream_ft.model.base import BaseFolder, Tokenizer
from stream_ft.model.engines import nothing
from stream_ft.model.engines.apart import Apart, with_helpers
from stream_ft.model.engines.batching import TOKENIZED_AT_ONCE, shared
from stream_ft.model.engines.graph import GRAPH, Weights, golden, read_map
from stream_ft.model.engines.int8_graph import TOLERANCE as INT8_TOLERANCE
from stream_ft.model.engines.int8_graph import Int8Graph
from stream_ft.model.golden import EXACT, ROUNDED
from stream_ft.model.plain_tokenizer import PlainTokenizer
from stream_ft.model.tensors import effective
from stream_ft.priority import give_way

Weighted = tuple[Sequence[str], Sequence[Any]]

log = logging.getLogger("stream_ft.model.engines")

RESIDENT = 2
"""Bases in memory: the active one, and the one before it or the challenger."""

SPIN_US = 200
"""Microseconds for which a thread waits busily: longer than what one thread does alone within a forward."""

TOLERANCE = 1e-3
"""Largest difference from torch on the golden inputs, relative to the largest value there; fp16 rounds to 5e-4."""

BATCH_TOKENS = 128
"""Most tokens in one forward: on a CPU a larger batch gains nothing, and padding costs."""
LEAST_TOKENS = 16
"""What is shared out among lanes is not cut into forwards of fewer: they would cost more than they save."""
EACH_TOKENS = 13
"""What a forward costs beside its tokens, in tokens: all weights are read once, for however many."""

SLOW_FUSIONS = frozenset({"SkipLayerNormFusion"})
"""A sum and a normalization in one: on a CPU its kernel is slower than those of the two."""


def started(graph: str, options: Any) -> Any:
    """A session whose threads run and which has read the graph, but is not initialized: the cheap part of building.

    Args:
        graph: path of the ONNX file.
        options: ``SessionOptions``.
    """
    return _C.InferenceSession(options, graph, True, False)


def initialize(session: Any) -> None:
    """The costly part: the graph is optimized and the weights are laid out."""
    session.initialize_session(["CPUExecutionProvider"], [{}], set(SLOW_FUSIONS))


@dataclass
class Session:
    """The sessions of ONNX Runtime for one base: at least one of the two."""

    one: Any = None
    """Each forward on the thread that calls it; not there where all are spread."""
    spread: Any = None
    """Each forward on several threads; where there are lanes it is built last, by :meth:`OnnxEngine.complete`."""
    apart: Callable[[], None] = nothing
    """Keeps those threads off the core of the one that calls."""
    weights: Weighted = ((), ())
    """Names and values by which it is built."""


@dataclass(frozen=True)
class Begun:
    """A session that is started, with its threads, and not yet initialized."""

    inner: Any
    apart: Apart

    def initialize(self) -> None:
        """The part that takes long, and needs no interpreter."""
        initialize(self.inner)


@dataclass(frozen=True)
class Building:
    """The spread session of a base, on its way."""

    name: str
    session: Session
    begun: Begun
    future: Future[None]


class OnnxEngine:
    """Mean-pooled embeddings of an exported encoder on the CPU, under one of two prepared bases.

    A forward that is spread over threads ends soonest; several that need not wait for one another, on a thread each,
    get more from the same cores, and less is lost when one of them is held up. So what makes only one forward is
    spread, and more run in lanes, in a session that has no other threads.

    The session of a base for lanes is built by :meth:`prepare`, the one for spread forwards by :meth:`complete`, both
    off the hot path. Their weights never change, so a flip replaces one reference.

    Args:
        base: the pretrained model, for its tokenizer and its hash.
        folder: what :mod:`stream_ft.model.export` wrote for it.
        max_tokens: inputs are cut to this many tokens.
        threads: of a forward.
        spinning: whether idle threads of a forward wait busily for its next piece: faster alone, costly in company.
        int8: the 8-bit form of the graph, to run instead of it.
        gives_way: sessions are built beside forwards that must not feel it.
        lanes: most forwards of one call of :meth:`encode` that run at once, with one thread each.

    Raises:
        ArtifactError: the graph is another model's, or gives other embeddings than torch on the golden inputs.
    """

    def __init__(
        self,
        base: BaseFolder,
        folder: Path,
        *,
        max_tokens: int = 128,
        threads: int = 1,
        spinning: bool = False,
        int8: Int8Graph | None = None,
        gives_way: bool = False,
        lanes: int = 1,
    ) -> None:
        self._int8 = int8
        self._tolerance = TOLERANCE if int8 is None else INT8_TOLERANCE
        self.tolerance = EXACT if int8 is None else ROUNDED
        self._graph = str(folder / GRAPH if int8 is None else int8.path)
        self._map = read_map(folder)
        if self._map.base_sha256 != base.sha256:
            raise ArtifactError("base", f"The exported graph in {folder} was made of another model.")
        self._weights = Weights(folder, self._map)
        self._base = base
        self.threads = threads
        self.spinning = spinning
        self.lanes = lanes
        facts = self._map.tokenizer
        self.tokenizer: Tokenizer | PlainTokenizer = (
            Tokenizer(base.path, max_tokens) if facts is None else PlainTokenizer(base.path, facts, max_tokens)
        )
        self._builder = ThreadPoolExecutor(
            1, thread_name_prefix="build", initializer=give_way if gives_way else nothing
        )
        self._beside = ThreadPoolExecutor(max(1, lanes - 1), thread_name_prefix="lane")
        self._sessions: dict[str, Session] = {}
        self._active: tuple[str, Session] = ("", self._session({}))
        self._held: frozenset[str] = frozenset()
        self._building: Building | None = None
        self._busy = threading.Lock()
        self._golden = golden(folder)
        self._prove()

    @property
    def dim(self) -> int:
        """Width of an embedding."""
        return self._map.dim

    def prepared(self, name: str) -> bool:
        """Whether ``activate`` would find this base."""
        return name in self._sessions

    def prepare(self, name: str, files: dict[str, bytes], between: Callable[[], None] = nothing) -> None:
        """Build and check the session of base ``name``; on any thread, the active one is not touched.

        Where two are resident already, one that does not answer makes room. While a challenger answers beside the
        champion, there is a third until :meth:`hold` says which two answer from now on.

        Raises:
            ArtifactError: with the check that failed.
        """
        if name in self._sessions:
            return
        changed = effective(
            files,
            shapes=self._map.shapes,
            dtypes=self._map.dtypes,
            tied=self._map.tied,
            pretrained=self._weights,
            base_sha256=self._base.sha256,
            between=between,
        )
        self._make_room(RESIDENT - 1)
        self._sessions[name] = self._session(changed)

    def complete(self) -> bool:
        """Build, one after the other, the spread sessions of the active base and of those that are held. Any thread.

        While requests wait, forwards run in lanes; so a version answers without, and there is no hurry.

        Returns:
            Whether all are built; where one cannot be, its forwards are not spread, and the log says why.
        """
        if self._building is not None:
            if not self._building.future.done():
                return False
            building, self._building = self._building, None
            self._finish(building)
        answering = dict([self._active]) | {k: v for k, v in tuple(self._sessions.items()) if k in self._held}
        for name, session in answering.items():
            if self.threads > 1 and session.spread is None:
                begun = self._begun(self.threads, *session.weights)
                self._building = Building(name, session, begun, self._builder.submit(begun.initialize))
                return False
        return True

    def trial(self, name: str, texts: Sequence[str]) -> npt.NDArray[np.float16]:
        """What :meth:`encode` would give under a prepared base; on any thread. It warms the session, too.

        Raises:
            KeyError: the base was not prepared, or was dropped.
        """
        return self._encoded(self._sessions[name], texts)

    def activate(self, name: str) -> None:
        """Encode with the session of a prepared base from now on.

        Raises:
            KeyError: the base was not prepared, or was dropped.
        """
        with self._alone():
            left = [self._active]
            self._active = (name, self._sessions[name])
        self._let_go(left)

    def hold(self, names: Collection[str]) -> None:
        """Keep the sessions of these bases; of the others, as many of the newest as there is room for."""
        self._held = frozenset(names)
        self._make_room(RESIDENT)

    def drop(self, name: str) -> None:
        """Forget a prepared session; the active one stays in force until another is activated."""
        self._let_go([self._sessions.pop(name, None)])

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float16]:
        """Embeddings ``[B, dim]`` under the active session, fp16: as the served head reads them."""
        with self._alone():
            return self._encoded(self._active[1], texts, self.lanes)

    def _make_room(self, most: int) -> None:
        for other in list(self._sessions):
            if len(self._sessions) > most and other not in self._held and other != self._active[0]:
                self._let_go([self._sessions.pop(other, None)])

    def _let_go(self, held: list[Any]) -> None:
        """Forget what the list holds, beside forwards: to end a session frees all its weights and ends its threads.

        Args:
            held: has the only references of the caller.
        """
        try:
            self._builder.submit(held.clear)
        except RuntimeError:  # the process is ending
            held.clear()

    def _encoded(self, session: Session, texts: Sequence[str], lanes: int = 1) -> npt.NDArray[np.float16]:
        result = np.zeros((len(texts), self.dim), np.float16)
        starts = range(0, len(texts), TOKENIZED_AT_ONCE)
        ids = [row for start in starts for row in self.tokenizer(list(texts[start : start + TOKENIZED_AT_ONCE]))]
        lengths = [len(row) for row in ids]
        left = deque(shared(lengths, lanes, tokens=BATCH_TOKENS, least=LEAST_TOKENS, each=EACH_TOKENS))
        # Too few for all lanes; and not a trial, which is made beside others.
        spread = session.one is None or (session.spread is not None and len(left) < lanes)
        inner = session.spread if spread else session.one

        def work() -> None:
            while True:
                try:
                    rows = left.popleft()
                except IndexError:
                    return  # nothing is left
                tokens, mask = _pad([ids[row] for row in rows], self.tokenizer.pad_id)
                if spread:
                    session.apart()
                result[rows] = self._pooled(inner, tokens, mask).clip(-65_504, 65_504)

        beside = [] if spread else [self._beside.submit(work) for _ in range(min(lanes, len(left)) - 1)]
        try:
            work()
        finally:
            wait(beside)  # nothing runs any more when the call ends, however it ends
        for lane in beside:
            lane.result()
        return result

    def _session(self, changed: dict[str, npt.NDArray[Any]]) -> Session:
        names: list[str] = []
        values: list[Any] = []
        for name, value in changed.items():
            place = self._map.places.get(name)
            if place is not None:  # else the embedding does not depend on it
                array = np.ascontiguousarray(value.T if place.transposed else value)
                given = {place.initializer: array}
                if self._int8 is not None:
                    given = self._int8.replaced(place.initializer, array)
                names += given
                values += map(ort.OrtValue.ortvalue_from_numpy, given.values())
        if self.lanes > 1 or self.threads == 1:
            one, _ = self._built(1, (names, values))
            return Session(one=one, weights=(names, values) if self.threads > 1 else ((), ()))
        spread, apart = self._built(self.threads, (names, values))
        return Session(spread=spread, apart=apart)

    def _finish(self, building: Building) -> None:
        """Put a spread session beside the other one, if it gives the same."""
        session = building.session
        spread, apart = building.begun.inner, building.begun.apart
        tokens, mask, _ = (part[-1:] for part in self._golden)
        try:
            building.future.result()
            off = self._off(self._pooled(spread, tokens, mask), self._pooled(session.one, tokens, mask))
            if not off <= TOLERANCE:
                raise ArtifactError("golden", f"It is off by {off:.1e}.")
        except Exception as error:  # whatever it is: its forwards are right as they are
            log.error("forwards of base %s are not spread over threads: %s", building.name[:12], error)
            session.spread = session.one
        else:
            session.apart, session.spread = apart, spread
        session.weights = ((), ())

    def _built(self, threads: int, weights: Weighted) -> tuple[Any, Apart]:
        begun = self._begun(threads, *weights)
        self._builder.submit(begun.initialize).result()
        return begun.inner, begun.apart

    def _begun(self, threads: int, names: Sequence[str], values: Sequence[Any]) -> Begun:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "1" if self.spinning else "0")
        # They wait busily for the next piece of a forward, but not for the next forward, and not for long: the thread
        # that has the next piece may be one that gives way.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        options.add_session_config_entry("session.intra_op.spin_duration_us", str(SPIN_US))
        if names:
            options.add_external_initializers(list(names), list(values))
        # The session's threads, which will run its forwards, inherit the niceness of the one that starts them: this
        # one. What costs most is left to one that may give way to others: it needs no interpreter, which a thread that
        # has to wait for a core could hold up for all.
        return Begun(*with_helpers(lambda: started(self._graph, options), threads - 1))

    def _pooled(self, inner: Any, tokens: npt.NDArray[np.int64], mask: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        pooled: npt.NDArray[Any] = inner.run(["pooled"], {"input_ids": tokens, "attention_mask": mask}, None)[0]
        return pooled

    def _prove(self) -> None:
        tokens, mask, expected = self._golden
        session = self._active[1]
        if session.spread is None and self.threads > 1:
            session.spread, session.apart = self._built(self.threads, session.weights)
        for inner in (each for each in (session.one, session.spread) if each is not None):
            off = self._off(self._pooled(inner, tokens, mask), expected)
            if not off <= self._tolerance:
                raise ArtifactError("golden", f"The exported graph is off by {off:.1e} from torch's golden outputs.")

    @staticmethod
    def _off(found: npt.NDArray[Any], expected: npt.NDArray[Any]) -> float:
        return float(np.abs(found - expected).max() / max(float(np.abs(expected).max()), 1e-6))

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Forwards and flips belong to one thread at a time: a second one is a fault, not something to wait for."""
        if not self._busy.acquire(blocking=False):
            raise RuntimeError("activate and encode were called on two threads at once")
        try:
            yield
        finally:
            self._busy.release()


def _pad(ids: Sequence[Sequence[int]], pad_id: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """``(input_ids, attention_mask)``, both ``[B, T]``; a text without any token stands as one padding token."""
    rows = [list(row) or [pad_id] for row in ids]
    longest = max(len(row) for row in rows)
    tokens = np.full((len(rows), longest), pad_id, np.int64)
    mask = np.zeros((len(rows), longest), np.int64)
    for line, row in enumerate(rows):
        tokens[line, : len(row)] = row
        mask[line, : len(row)] = 1
    return tokens, mask
