"""Heads: from an embedding to a label, in numpy, outside the encoder's graph.

``logits = phi(e / |e|) @ weight.T + bias`` with ``phi`` the identity, or ``relu(x @ P)`` for a fixed random
projection ``P`` (RanPAC, McDonnell et al. 2023, arXiv:2307.02251), and ``x`` itself beside it where that is asked for.
``P`` is not stored: a seed gives it again. A mixture of several such heads is in :mod:`stream_ft.model.mixture`.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from stream_ft.errors import ArtifactError

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Projection:
    """A random projection ``[dim, features]``, regenerated from its seed.

    Attributes:
        orthogonal: columns are orthogonal in blocks of ``dim`` and of length ``sqrt(dim)`` (Yu et al. 2016,
            arXiv:1610.09072: less variance for as many features); else the entries are N(0, 1).
        raw: the normalised embedding times this is appended to the features; 0 appends nothing.
    """

    seed: int
    features: int
    orthogonal: bool = False
    raw: float = 0.0

    def width(self, dim: int) -> int:
        """``M``: how many features an embedding of ``dim`` has."""
        return self.features + (dim if self.raw else 0)

    def to_json(self) -> dict[str, object]:
        """What a head's file says of it; what is not set is left out, as in files that never knew it."""
        said: dict[str, object] = {"seed": self.seed, "features": self.features}
        return said | ({"orthogonal": True} if self.orthogonal else {}) | ({"raw": self.raw} if self.raw else {})

    @classmethod
    def from_json(cls, said: dict[str, object]) -> Projection:
        """Undo of :meth:`to_json`.

        Raises:
            KeyError, TypeError, ValueError: it is something else.
        """
        seed, features, raw = said["seed"], said["features"], said.get("raw", 0.0)
        orthogonal = said.get("orthogonal", False)
        if type(seed) is not int or type(features) is not int or type(orthogonal) is not bool:
            raise TypeError("seed and features are integers and orthogonal is a truth value")
        if not isinstance(raw, int | float) or not np.isfinite(raw) or seed < 0 or features < 1:
            raise ValueError("seed, features or raw is out of range")
        return cls(seed=seed, features=features, orthogonal=orthogonal, raw=float(raw))


@functools.lru_cache(maxsize=4)
def projection_matrix(seed: int, dim: int, features: int, orthogonal: bool = False) -> Floats:
    """``P``, shape ``[dim, features]``: PCG64 is the same stream on every platform numpy supports."""
    draw = np.random.Generator(np.random.PCG64(seed))
    if not orthogonal:
        return draw.standard_normal((dim, features)).astype(np.float32)
    blocks = []
    for _ in range(0, features, dim):
        q, r = np.linalg.qr(draw.standard_normal((dim, dim)))
        # Which sign a column gets is the library's choice; this one is everybody's.
        blocks.append(q * np.sign(np.diag(r)) * np.sqrt(dim))
    return np.ascontiguousarray(np.hstack(blocks)[:, :features], dtype=np.float32)


def lift(embeddings: npt.NDArray[np.floating], projection: Projection | None) -> Floats:
    """``phi``: embeddings ``[B, dim]`` (fp16 as served) to features ``[B, M]``."""
    x: Floats = embeddings.astype(np.float32)
    norm = np.sqrt(np.einsum("bd,bd->b", x, x))[:, None]
    x = x / np.maximum(norm, np.float32(1e-12))
    if projection is None:
        return x
    matrix = projection_matrix(projection.seed, x.shape[1], projection.features, projection.orthogonal)
    if not projection.raw:
        lifted: Floats = x @ matrix
        return np.maximum(lifted, np.float32(0), out=lifted)
    both = np.empty((len(x), projection.width(x.shape[1])), np.float32)
    np.matmul(x, matrix, out=both[:, : projection.features])
    np.maximum(both[:, : projection.features], np.float32(0), out=both[:, : projection.features])
    np.multiply(x, np.float32(projection.raw), out=both[:, projection.features :])
    return both


@dataclass(frozen=True, kw_only=True, eq=False)
class Head:
    """A linear head over ``phi``.

    Attributes:
        labels: label of each row, ``C`` of them; none for the empty head, which answers ``""``.
        weight: ``[C, M]`` float32. bias: ``[C]`` float32.
        projection: ``None`` where ``M == dim``.
        dim: size of the embedding.
        temperature: logits are divided by it before they become probabilities.
    """

    labels: tuple[str, ...]
    weight: Floats
    bias: Floats
    projection: Projection | None
    dim: int
    temperature: float = 1.0

    @classmethod
    def empty(cls, dim: int) -> Head:
        """The head of a model that knows no label yet."""
        return cls(
            labels=(), weight=np.zeros((0, dim), np.float32), bias=np.zeros(0, np.float32), projection=None, dim=dim
        )

    def logits(self, embeddings: npt.NDArray[np.floating]) -> Floats:
        """``[B, dim]`` to ``[B, C]``."""
        return lift(embeddings, self.projection) @ self.weight.T + self.bias

    def probabilities(self, embeddings: npt.NDArray[np.floating]) -> Floats:
        """Softmax of the tempered logits, ``[B, C]``."""
        z = self.logits(embeddings) / np.float32(self.temperature)
        if z.shape[1] == 0:
            return z
        z -= z.max(axis=1, keepdims=True)
        np.exp(z, out=z)
        result: Floats = z / z.sum(axis=1, keepdims=True)
        return result

    def predict(self, embeddings: npt.NDArray[np.floating]) -> list[tuple[str, float]]:
        """The most probable label of each row and its probability; ``("", 0.0)`` from an empty head."""
        if not self.labels:
            return [("", 0.0)] * len(embeddings)
        p = self.probabilities(embeddings)
        best = p.argmax(axis=1)
        return [(self.labels[i], float(p[row, i])) for row, i in enumerate(best)]

    def to_bytes(self) -> bytes:
        """One safetensors file; weights in fp16, which is what is served after :meth:`from_bytes`."""
        meta = {
            "labels": json.dumps(list(self.labels), ensure_ascii=False),
            "dim": str(self.dim),
            "temperature": repr(float(self.temperature)),
        }
        if self.projection is not None:
            meta["projection"] = json.dumps(self.projection.to_json())
        with np.errstate(over="ignore"):
            tensors: dict[str, npt.NDArray[np.floating]] = {
                "weight": self.weight.astype(np.float16),
                "bias": self.bias.astype(np.float32),
            }
        return save_tensors(tensors, {"stream_ft.head": json.dumps(meta, sort_keys=True)})

    @classmethod
    def from_bytes(cls, data: bytes) -> Head:
        """Read and check a head.

        Raises:
            ArtifactError: step ``manifest``, ``keys``, ``shapes``, ``dtypes``, ``labels`` or ``finite``.
        """
        try:
            tensors = load_tensors(data)
            length = int.from_bytes(data[:8], "little")
            meta = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["stream_ft.head"])
            labels = tuple(json.loads(meta["labels"]))
            dim, temperature = int(meta["dim"]), float(meta["temperature"])
            lifted = json.loads(meta["projection"]) if "projection" in meta else None
            projection = None if lifted is None else Projection.from_json(lifted)
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            raise ArtifactError("manifest", f"The head cannot be read: {error}.") from error
        if set(tensors) != {"weight", "bias"}:
            raise ArtifactError("keys", f"A head has the tensors weight and bias; this one has {sorted(tensors)}.")
        weight, bias = tensors["weight"], tensors["bias"]
        if weight.dtype != np.float16 or bias.dtype != np.float32:
            raise ArtifactError(
                "dtypes", f"A head is fp16 with an fp32 bias; this one is {weight.dtype}, {bias.dtype}."
            )
        width = dim if projection is None else projection.width(dim)
        if len(set(labels)) != len(labels) or not all(isinstance(label, str) and label for label in labels):
            raise ArtifactError("labels", "The head's label map has empty or repeated labels.")
        if weight.shape[:1] != (len(labels),):
            raise ArtifactError("labels", f"The head has {weight.shape[0]} rows and {len(labels)} labels.")
        if weight.shape != (len(labels), width) or bias.shape != (len(labels),):
            raise ArtifactError("shapes", f"The head has the shape {weight.shape}; expected {(len(labels), width)}.")
        if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
            raise ArtifactError("finite", "The head holds values that are not finite.")
        return cls(
            labels=labels,
            weight=weight.astype(np.float32),
            bias=bias,
            projection=projection,
            dim=dim,
            temperature=temperature,
        )

    def one_hot(self, labels: Sequence[str]) -> Floats:
        """``[N, C]`` indicator of known labels; rows of unknown ones are zero."""
        index = {label: i for i, label in enumerate(self.labels)}
        result = np.zeros((len(labels), len(self.labels)), np.float32)
        for row, label in enumerate(labels):
            if label in index:
                result[row, index[label]] = 1
        return result
