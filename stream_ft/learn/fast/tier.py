"""The fast tier of one base: learners by their names, mixed, with what it takes to publish and to go on later."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from stream_ft.errors import ArtifactError, ConfigError
from stream_ft.events import Example, LabelCorrection
from stream_ft.learn.fast.expert import Arrays, Batch, Seen, load_expert
from stream_ft.learn.fast.mixing import Mixing
from stream_ft.model.heads import Floats, Head
from stream_ft.model.mixture import Mixture, Part

EXPERTS = ("softmax", "means", "concepts")
"""The default mixture."""
FORMAT = 2
AT_ONCE = 256
"""Examples whose features are made together."""


def weight_of(trust: int) -> float:
    """How much an example counts: a user's word that no back office confirmed, half."""
    return 1.0 if trust > 1 else 0.5


def learnable(example: Example) -> bool:
    """Whether it has a label: a text or a span in its place is none."""
    return isinstance(example.correction, LabelCorrection)


def taught(
    embeddings: npt.NDArray[np.floating], examples: Sequence[Example], *, experts: Sequence[str], seed: int
) -> FastTier:
    """A tier that has learned from these examples, in this order, and nothing else.

    Args:
        embeddings: ``[N, dim]``, all of one base.
        examples: ``N`` of them.
    """
    tier = FastTier(dim=embeddings.shape[1], experts=experts, seed=seed)
    for start in range(0, len(examples), AT_ONCE):
        some = examples[start : start + AT_ONCE]
        rows = embeddings[start : start + AT_ONCE]
        for seen, row, example in zip(Batch(rows), rows, some, strict=True):
            tier.learn(row, example.label, weight_of(example.trust), seen=seen)
    return tier


class FastTier:
    """Learns from each event as it comes.

    Embeddings are those of one base: for another, make another tier and learn again.

    Args:
        dim: size of the embedding.
        experts: names of files in this folder.
        seed: of their random features.

    Raises:
        ConfigError: none is named, one twice, or there is none of a name.
    """

    def __init__(self, *, dim: int, experts: Sequence[str] = EXPERTS, seed: int = 0) -> None:
        if not experts or len(set(experts)) != len(experts):
            raise ConfigError("The fast tier has no learners, or one twice.", "Name each learner once.")
        self.dim = dim
        self.names = tuple(experts)
        self.seed = seed
        self.learned = 0
        """Examples so far."""
        self.labels: list[str] = []
        self._index: dict[str, int] = {}
        self._experts = [load_expert(name, dim=dim, seed=seed) for name in experts]
        self._mixing = Mixing([expert.prior for expert in self._experts])

    def shares(self) -> dict[str, float]:
        """How much each learner is believed."""
        return dict(zip(self.names, self._mixing.shares().tolist(), strict=True))

    def probabilities(self, embedding: npt.NDArray[np.floating]) -> Floats:
        """Of an embedding ``[dim]``, ``[C]`` in the order of :attr:`labels`; empty before any was learned."""
        if not self.labels:
            return np.zeros(0, np.float32)
        seen = Seen(embedding)
        result = np.zeros(len(self.labels), np.float32)
        for share, expert in zip(self._mixing.shares(), self._experts, strict=True):
            if share:
                result += np.float32(share) * expert.probabilities(seen)
        return result

    def predict(self, embedding: npt.NDArray[np.floating]) -> tuple[str, float]:
        """The most probable label of an embedding ``[dim]`` and its probability; ``("", 0.0)`` before any."""
        p = self.probabilities(embedding)
        if not len(p):
            return "", 0.0
        best = int(p.argmax())
        return self.labels[best], float(p[best])

    def learn(
        self, embedding: npt.NDArray[np.floating], label: str, weight: float = 1.0, *, seen: Seen | None = None
    ) -> bool:
        """Learn from one example.

        Args:
            embedding: ``[dim]``, as served.
            label: the right one; not empty. One that is new is usable from now on.
            weight: in (0, 1]: how much the example is trusted.
            seen: the same embedding in a batch.

        Returns:
            False for an embedding that is not finite or a weight of 0: nothing was learned.

        Raises:
            ValueError: the embedding has another size, the label is empty, or the weight out of range.
        """
        if embedding.shape != (self.dim,) or not label or not 0 <= weight <= 1:
            raise ValueError(f"an embedding {embedding.shape}, label {label!r} and weight {weight} cannot be learned")
        if weight == 0 or not np.isfinite(embedding).all():
            return False
        seen = seen or Seen(embedding)
        number = self._index.get(label)
        if number is None:
            number = self._index[label] = len(self.labels)
            self.labels.append(label)
            for expert in self._experts:
                expert.grow()
        else:
            self._mixing.learn([expert.probabilities(seen) for expert in self._experts], number, weight)
        for expert in self._experts:
            expert.learn(seen, number, weight)
        self.learned += 1
        return True

    def head(self) -> Head | Mixture:
        """What serving needs to answer as this tier does now. It shares nothing with the tier."""
        if not self.labels:
            return Head.empty(self.dim)
        shares = self._mixing.shares()
        parts = tuple(
            _shared(expert.part(), float(share))
            for share, expert in zip(shares, self._experts, strict=True)
            if share > 0
        )
        return Mixture(labels=tuple(self.labels), parts=parts, dim=self.dim)

    def to_bytes(self) -> bytes:
        """A checkpoint: one safetensors file."""
        tensors: Arrays = {f"mixing.{name}": value for name, value in self._mixing.arrays().items()}
        for name, expert in zip(self.names, self._experts, strict=True):
            tensors |= {f"{name}.{key}": np.ascontiguousarray(value) for key, value in expert.arrays().items()}
        said = {
            "format": FORMAT,
            "experts": list(self.names),
            "dim": self.dim,
            "seed": self.seed,
            "learned": self.learned,
            "labels": self.labels,
        }
        return save_tensors(tensors, {"stream_ft.fast": json.dumps(said, ensure_ascii=False)})

    @classmethod
    def from_bytes(cls, data: bytes) -> FastTier:
        """A tier that goes on exactly as the one that wrote the checkpoint.

        Raises:
            ArtifactError: step ``manifest``: it cannot be read, is of another format, or lacks something.
        """
        try:
            tensors = load_tensors(data)
            length = int.from_bytes(data[:8], "little")
            said = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["stream_ft.fast"])
            if said["format"] != FORMAT:
                raise ArtifactError("manifest", f"The checkpoint has the format {said['format']}; this is {FORMAT}.")
            tier = cls(dim=said["dim"], experts=said["experts"], seed=said["seed"])
            tier.labels = [str(label) for label in said["labels"]]
            tier._index = {label: number for number, label in enumerate(tier.labels)}
            tier.learned = int(said["learned"])
            tier._mixing.restore(_under("mixing", tensors))
            for name, expert in zip(tier.names, tier._experts, strict=True):
                expert.restore(_under(name, tensors))
                if tier.labels and len(expert.probabilities(Seen(np.zeros(tier.dim, np.float16)))) != len(tier.labels):
                    raise ValueError(f"{name} is not about {len(tier.labels)} labels")
        except (SafetensorError, ValueError, KeyError, TypeError, ConfigError) as error:
            raise ArtifactError("manifest", f"The checkpoint of the fast tier cannot be read: {error}.") from error
        return tier


def _shared(part: Part, share: float) -> Part:
    return Part(
        name=part.name,
        weight=part.weight,
        bias=part.bias,
        share=share,
        projection=part.projection,
        temperature=part.temperature,
        names=part.names,
    )


def _under(name: str, tensors: Arrays) -> Arrays:
    return {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}
