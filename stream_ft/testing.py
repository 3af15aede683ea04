"""In-memory fakes of the ports and a clock that is set by hand. Deterministic, thread-safe, without torch or files."""

from __future__ import annotations

import functools
import hashlib
import threading
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from stream_ft.clock import SystemClock
from stream_ft.errors import ArtifactError, LogTruncatedError, StoreFullError
from stream_ft.ports import Clock, Outgoing, Record


class ManualClock:
    """A clock that moves only when told.

    Args:
        start: seconds since the epoch at which it starts; ``monotonic`` starts there too.
    """

    def __init__(self, start: float = 0.0) -> None:
        self._now = start
        self._monotonic = start

    def now(self) -> float:
        """Seconds since the epoch."""
        return self._now

    def monotonic(self) -> float:
        """Seconds; unmoved by :meth:`set`."""
        return self._monotonic

    def advance(self, seconds: float) -> float:
        """Let ``seconds`` >= 0 pass on both clocks; the new ``now``."""
        if seconds < 0:
            raise ValueError("time passes forwards; use set() for a wall clock that is put back")
        self._now += seconds
        self._monotonic += seconds
        return self._now

    def set(self, now: float) -> None:
        """Put the wall clock to ``now``, back too, as an administrator or NTP does."""
        self._now = now


class MemoryLog:
    """An :class:`stream_ft.ports.EventLog` in memory.

    A message with a key goes to partition ``crc32(key) % n``; those without one take the partitions in turn.

    Args:
        clock: gives the append times; the system's if not given.
        partitions: number of partitions by topic; others have one.
        log_id: identity of the log behind every topic.
    """

    def __init__(
        self, *, clock: Clock | None = None, partitions: Mapping[str, int] | None = None, log_id: str = "memory"
    ) -> None:
        self._clock = clock or SystemClock()
        self._partitions = dict(partitions or {})
        self._log_id = log_id
        self._records: dict[tuple[str, int], list[Record]] = {}
        self._first: dict[tuple[str, int], int] = {}
        self._turn: dict[str, int] = {}
        self._lock = threading.Lock()
        self._changed = True
        self._closed = False
        self.full = False
        """While true, every append raises :class:`StoreFullError`, as on a full disk."""

    def append(self, messages: Sequence[Outgoing], *, now: float | None = None) -> list[int]:
        """See the port. ``now`` is the append time of these messages, in place of the clock's."""
        with self._lock:
            self._check_open()
            if self.full:
                raise StoreFullError("The log cannot be written: the disk is full.", "Free some space.")
            appended_at = self._clock.now() if now is None else now
            return [self._append(message, appended_at) for message in messages]

    def read(self, topic: str, partition: int, offset: int, limit: int) -> list[Record]:
        """See the port."""
        with self._lock:
            self._check_open()
            first, after = self._bounds(topic, partition)
            if not first <= offset <= after:
                raise LogTruncatedError(
                    f"Offset {offset} of {topic}[{partition}] is not on the log, which holds {first} to {after}."
                )
            start = offset - first
            return self._records.get((topic, partition), [])[start : start + max(limit, 0)]

    def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """See the port."""
        with self._lock:
            self._check_open()
            return self._bounds(topic, partition)

    def partitions(self, topic: str) -> list[int]:
        """See the port."""
        return list(range(self._partitions.get(topic, 1)))

    def log_id(self, topic: str) -> str:
        """See the port."""
        return self._log_id

    def changed(self) -> bool:
        """See the port."""
        with self._lock:
            self._check_open()
            changed, self._changed = self._changed, False
            return changed

    def trim(self, topic: str, partition: int, before: int) -> None:
        """See the port."""
        with self._lock:
            self._check_open()
            first, after = self._bounds(topic, partition)
            cut = min(max(before, first), after)
            if cut > first:
                del self._records[topic, partition][: cut - first]
                self._first[topic, partition] = cut

    def close(self) -> None:
        """See the port."""
        self._closed = True

    def _append(self, message: Outgoing, appended_at: float) -> int:
        count = self._partitions.get(message.topic, 1)
        if message.key is None:
            turn = self._turn.get(message.topic, 0)
            self._turn[message.topic] = turn + 1
            partition = turn % count
        else:
            partition = zlib.crc32(message.key) % count
        _, offset = self._bounds(message.topic, partition)
        self._records.setdefault((message.topic, partition), []).append(
            Record(
                topic=message.topic,
                partition=partition,
                offset=offset,
                key=message.key,
                value=message.value,
                headers=message.headers,
                appended_at=appended_at,
            )
        )
        self._changed = True
        return offset

    def _bounds(self, topic: str, partition: int) -> tuple[int, int]:
        first = self._first.get((topic, partition), 0)
        return first, first + len(self._records.get((topic, partition), ()))

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError("the log is closed")


class FakeEngine:
    """An :class:`stream_ft.model.engines.Engine` of hashed character n-grams.

    An embedding is the normalised sum of one pseudo-random vector for each word and each character 1- to 3-gram of the
    case-folded text, so that similar texts are close. The bytes of the active base salt the hash: another base gives
    other embeddings.

    Args:
        dim: width of an embedding.
        refuse: ``{name of a base: step}``; ``prepare`` raises :class:`ArtifactError` with that step for it.
    """

    def __init__(self, dim: int = 16, *, refuse: Mapping[str, str] | None = None) -> None:
        self._dim = dim
        self.tolerance = 0.02
        self._salts: dict[str, bytes] = {}
        self._active: str | None = None
        self._salt = b""
        self.refuse = dict(refuse or {})
        self.calls: list[tuple[str, str]] = []
        """``(method, name of the base)`` of every ``prepare``, ``activate`` and ``drop``, in order."""
        self.held: frozenset[str] = frozenset()
        self.encoded = 0
        """Texts encoded so far."""

    @property
    def dim(self) -> int:
        """Width of an embedding."""
        return self._dim

    @property
    def active(self) -> str | None:
        """Name of the active base; ``None`` before the first ``activate``."""
        return self._active

    @property
    def bases(self) -> list[str]:
        """Names of the bases that are prepared, oldest first."""
        return list(self._salts)

    def prepared(self, name: str) -> bool:
        """See the port."""
        return name in self._salts

    def prepare(self, name: str, files: dict[str, bytes], between: Callable[[], None] = lambda: None) -> None:
        """See the port."""
        self.calls.append(("prepare", name))
        between()
        if name in self.refuse:
            raise ArtifactError(self.refuse[name], f"The base {name} was made to fail.")
        self._salts[name] = folder_digest(files)

    def activate(self, name: str) -> None:
        """See the port.

        Raises:
            KeyError: the base was not prepared, or was dropped.
        """
        self.calls.append(("activate", name))
        self._salt = self._salts[name]
        self._active = name

    def hold(self, names: Collection[str]) -> None:
        """See the port."""
        self.held = frozenset(names)

    def complete(self) -> bool:
        """A prepared set is complete."""
        return True

    def trial(self, name: str, texts: Sequence[str]) -> npt.NDArray[np.float16]:
        """See the port."""
        return self._encoded(self._salts[name], texts)

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float16]:
        """See the port."""
        return self._encoded(self._salt, texts)

    def _encoded(self, salt: bytes, texts: Sequence[str]) -> npt.NDArray[np.float16]:
        self.encoded += len(texts)
        rows = np.zeros((len(texts), self._dim), dtype=np.float32)
        for row, text in zip(rows, texts, strict=True):
            folded = text.casefold()
            for gram in [*folded.split(), *(folded[i : i + n] for n in (1, 2, 3) for i in range(len(folded) - n + 1))]:
                row += _gram_vector(salt, gram, self._dim)
            row /= max(float(np.linalg.norm(row)), 1e-6)
        return rows.astype(np.float16)

    def drop(self, name: str) -> None:
        """See the port. The active base goes on encoding until another is activated."""
        self.calls.append(("drop", name))
        self._salts.pop(name, None)


class MemoryAdapterStore:
    """An :class:`stream_ft.ports.AdapterStore` in memory."""

    def __init__(self) -> None:
        self._folders: dict[str, dict[str, bytes]] = {}
        self._lock = threading.Lock()

    def put(self, files: dict[str, bytes]) -> str:
        """See the port."""
        name = folder_digest(files).hex()
        with self._lock:
            self._folders.setdefault(name, dict(files))
        return name

    def get(self, sha256: str) -> dict[str, bytes]:
        """See the port."""
        with self._lock:
            if sha256 not in self._folders:
                raise ArtifactError("missing", f"There is no folder {sha256} in the store.")
            files = dict(self._folders[sha256])
        if folder_digest(files).hex() != sha256:
            raise ArtifactError("hash", f"The files of {sha256} are not those that were put there.")
        return files

    def list(self) -> list[str]:
        """See the port."""
        with self._lock:
            return sorted(self._folders)

    def delete(self, sha256: str) -> None:
        """See the port."""
        with self._lock:
            self._folders.pop(sha256, None)

    def damage(self, sha256: str, name: str, data: bytes) -> None:
        """Replace a stored file behind the store's back, as a failing disk does."""
        with self._lock:
            self._folders[sha256][name] = data


def folder_digest(files: Mapping[str, bytes]) -> bytes:
    """SHA-256 over the sorted names and the SHA-256 of each file."""
    lines = (f"{name} {hashlib.sha256(files[name]).hexdigest()}\n" for name in sorted(files))
    return hashlib.sha256("".join(lines).encode()).digest()


@functools.lru_cache(maxsize=65_536)
def _gram_vector(salt: bytes, gram: str, dim: int) -> npt.NDArray[np.float32]:
    digest = hashlib.shake_256(salt + b"\0" + gram.encode("utf-8", "surrogatepass")).digest(dim)
    return np.frombuffer(digest, dtype=np.int8).astype(np.float32)
