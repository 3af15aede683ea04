"""A served head made of several: what the fast tier publishes, evaluated in numpy wherever one head is.

``p(label | e) = sum_k share_k * softmax((phi_k(e) @ weight_k.T + bias_k) / temperature_k) @ names_k``: each part has
features of its own (:mod:`stream_ft.model.heads`), and may speak of concepts, whose labels ``names_k`` gives.

A file of a mixture is one safetensors file like that of a single head; :func:`read_head` tells them apart, and a reader
that knows single heads only refuses a mixture by its keys.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from stream_ft.errors import ArtifactError
from stream_ft.model.heads import Floats, Head, Projection, lift

SURE = 1e-30
"""Least probability whose logarithm is taken."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """One of the heads that are mixed.

    Attributes:
        name: for people.
        weight: ``[K, M]`` float32. bias: ``[K]`` float32. temperature: divides the logits.
        projection: ``None`` where ``M`` is the size of the embedding.
        share: of the mixture, > 0; shares of all parts sum to 1.
        names: ``[K, C]`` float32, rows that sum to 1: the labels that each of ``K`` concepts goes by; ``None`` where
            the rows are the labels themselves.
    """

    name: str
    weight: Floats
    bias: Floats
    share: float
    projection: Projection | None = None
    temperature: float = 1.0
    names: Floats | None = None

    def probabilities(self, features: Floats) -> Floats:
        """Features ``[B, M]`` of this part to ``[B, C]``."""
        z: Floats = features @ self.weight.T
        z += self.bias
        z /= np.float32(self.temperature)
        z -= z.max(axis=1, keepdims=True)
        np.exp(z, out=z)
        z /= z.sum(axis=1, keepdims=True)
        if self.names is None:
            return z
        named: Floats = z @ self.names
        return named


@dataclass(frozen=True, kw_only=True, eq=False)
class Mixture:
    """Parts and the labels they are about.

    Attributes:
        labels: ``C`` of them, at least one.
        parts: at least one.
        dim: size of the embedding.
    """

    labels: tuple[str, ...]
    parts: tuple[Part, ...]
    dim: int

    def probabilities(self, embeddings: npt.NDArray[np.floating]) -> Floats:
        """``[B, dim]`` to ``[B, C]``, rows that sum to 1. Parts with the same features share them."""
        lifted: dict[Projection | None, Floats] = {}
        result = np.zeros((len(embeddings), len(self.labels)), np.float32)
        for part in self.parts:
            if part.projection not in lifted:
                lifted[part.projection] = lift(embeddings, part.projection)
            result += np.float32(part.share) * part.probabilities(lifted[part.projection])
        result /= result.sum(axis=1, keepdims=True)
        return result

    def logits(self, embeddings: npt.NDArray[np.floating]) -> Floats:
        """``[B, dim]`` to ``[B, C]``: the logarithms of the probabilities, at least ``log 1e-30``."""
        result: Floats = np.log(np.maximum(self.probabilities(embeddings), np.float32(SURE)))
        return result

    def predict(self, embeddings: npt.NDArray[np.floating]) -> list[tuple[str, float]]:
        """The most probable label of each row and its probability."""
        p = self.probabilities(embeddings)
        return [(self.labels[i], float(p[row, i])) for row, i in enumerate(p.argmax(axis=1))]

    def to_bytes(self) -> bytes:
        """One safetensors file; weights in fp16, which is what is served after :meth:`from_bytes`."""
        tensors: dict[str, npt.NDArray[np.floating]] = {}
        said = []
        for at, part in enumerate(self.parts):
            with np.errstate(over="ignore"):
                tensors[f"{at}.weight"] = part.weight.astype(np.float16)
            tensors[f"{at}.bias"] = part.bias.astype(np.float32)
            if part.names is not None:
                tensors[f"{at}.names"] = part.names.astype(np.float16)
            said.append(
                {
                    "name": part.name,
                    "share": float(part.share),
                    "temperature": float(part.temperature),
                    "projection": None if part.projection is None else part.projection.to_json(),
                }
            )
        meta = {
            "labels": json.dumps(list(self.labels), ensure_ascii=False),
            "dim": str(self.dim),
            "parts": json.dumps(said, ensure_ascii=False),
        }
        return save_tensors(tensors, {"stream_ft.head": json.dumps(meta, sort_keys=True)})

    @classmethod
    def from_bytes(cls, data: bytes) -> Mixture:
        """Read and check a mixture.

        Raises:
            ArtifactError: step ``manifest``, ``keys``, ``shapes``, ``dtypes``, ``labels`` or ``finite``.
        """
        try:
            tensors = load_tensors(data)
            meta = _meta(data)
            labels, dim = tuple(json.loads(meta["labels"])), int(meta["dim"])
            said = json.loads(meta["parts"])
            parts = [_part(at, each, tensors) for at, each in enumerate(said)]
            asked = {f"{at}.{kind}" for at in range(len(said)) for kind in ("weight", "bias")}
        except KeyError as error:
            raise ArtifactError("keys", f"The mixture lacks {error}.") from error
        except (SafetensorError, ValueError, TypeError, AttributeError) as error:
            raise ArtifactError("manifest", f"The mixture cannot be read: {error}.") from error
        extra = {name for name in tensors if name not in asked and not name.endswith(".names")}
        if extra or not parts or len(tensors) != sum(2 + (part.names is not None) for part in parts):
            raise ArtifactError("keys", f"The mixture has other tensors than its parts: {sorted(tensors)}.")
        if not labels or len(set(labels)) != len(labels) or not all(isinstance(x, str) and x for x in labels):
            raise ArtifactError("labels", "The mixture's label map has none, empty or repeated labels.")
        if dim < 1:
            raise ArtifactError("shapes", f"The mixture says that an embedding has {dim} values.")
        for at, part in enumerate(parts):
            _check(part, at, len(labels), dim)
        if not np.isclose(sum(part.share for part in parts), 1.0, atol=1e-3):
            raise ArtifactError("finite", "The shares of the mixture's parts do not sum to 1.")
        return cls(labels=labels, parts=tuple(parts), dim=dim)


AnyHead = Head | Mixture
"""What a head's file may hold."""


def read_head(data: bytes) -> AnyHead:
    """A head's file, whichever kind it is.

    Raises:
        ArtifactError: it is neither; its step says what is wrong.
    """
    try:
        mixed = "parts" in _meta(data)
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError("manifest", f"The head cannot be read: {error}.") from error
    return Mixture.from_bytes(data) if mixed else Head.from_bytes(data)


def _meta(data: bytes) -> dict[str, str]:
    length = int.from_bytes(data[:8], "little")
    meta: dict[str, str] = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["stream_ft.head"])
    return meta


def _part(at: int, said: dict[str, object], tensors: dict[str, npt.NDArray[np.generic]]) -> Part:
    weight, bias, names = tensors[f"{at}.weight"], tensors[f"{at}.bias"], tensors.get(f"{at}.names")
    if weight.dtype != np.float16 or bias.dtype != np.float32 or (names is not None and names.dtype != np.float16):
        raise ArtifactError("dtypes", f"Part {at} is {weight.dtype}, {bias.dtype}; weights are fp16, biases fp32.")
    share, temperature, lifted = said["share"], said["temperature"], said["projection"]
    if not isinstance(share, int | float) or not isinstance(temperature, int | float):
        raise TypeError(f"part {at} has no share or temperature")
    if lifted is not None and not isinstance(lifted, dict):
        raise TypeError(f"part {at} has no projection")
    return Part(
        name=str(said["name"]),
        weight=weight.astype(np.float32),
        bias=bias.astype(np.float32),
        share=float(share),
        temperature=float(temperature),
        projection=None if lifted is None else Projection.from_json(lifted),
        names=None if names is None else _rows(names.astype(np.float32)),
    )


def _rows(names: Floats) -> Floats:
    """Rows that sum to 1 again after their rounding to fp16."""
    if names.ndim != 2 or not np.isfinite(names).all():
        return names
    result: Floats = names / np.maximum(names.sum(axis=1, keepdims=True), np.float32(SURE))
    return result


def _check(part: Part, at: int, classes: int, dim: int) -> None:
    width = dim if part.projection is None else part.projection.width(dim)
    rows = classes if part.names is None else len(part.names)
    if part.weight.shape != (rows, width) or part.bias.shape != (rows,) or rows < 1:
        raise ArtifactError("shapes", f"Part {at} has the shape {part.weight.shape}; expected {(rows, width)}.")
    if part.names is not None and part.names.shape != (rows, classes):
        raise ArtifactError("labels", f"Part {at} names {part.names.shape[1:]} labels of {classes}.")
    finite = all(np.isfinite(x).all() for x in (part.weight, part.bias) if x.size)
    sums = np.ones(1, np.float32) if part.names is None else part.names.sum(axis=1)
    named = bool(np.isclose(sums, 1, atol=1e-3).all()) and (part.names is None or bool((part.names >= 0).all()))
    if not (finite and named and np.isfinite(part.share) and part.share > 0):
        raise ArtifactError("finite", f"Part {at} holds values that are not finite, or has no share.")
    if not (np.isfinite(part.temperature) and part.temperature > 0):
        raise ArtifactError("finite", f"Part {at} has the temperature {part.temperature}.")
