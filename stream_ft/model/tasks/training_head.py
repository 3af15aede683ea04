"""The head that a round of an encoder trains through; what is served is refitted in closed form afterwards.

It grows when a label appears: a new row starts from the normalised mean of the label's first embeddings (imprinting,
Qi et al. 2018, arXiv:1712.07136), and the optimiser keeps what it knows of the old rows.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch.nn.functional import normalize

from stream_ft.errors import ArtifactError

SCALE = 16.0
"""Cosines times this are logits: embeddings of one domain lie close together, and a softmax of cosines is flat."""

MOMENTS = ("exp_avg", "exp_avg_sq")


class TrainingHead(torch.nn.Module):
    """Cosine logits ``SCALE * (e / |e|) @ weight.T``: ``[B, dim]`` to ``[B, C]``.

    Args:
        dim: width of an embedding. A new head has no label.
    """

    weight: torch.nn.Parameter

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.labels: tuple[str, ...] = ()
        self.weight = torch.nn.Parameter(torch.zeros(0, dim))

    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Logits."""
        return SCALE * normalize(embeddings, dim=1) @ self.weight.T

    def targets(self, labels: Sequence[str]) -> torch.Tensor:
        """Row of each label, int64.

        Raises:
            KeyError: a label that the head does not know.
        """
        index = {label: row for row, label in enumerate(self.labels)}
        return torch.tensor([index[label] for label in labels], dtype=torch.int64)

    def grow(self, means: Mapping[str, npt.NDArray[np.floating]], optimizer: torch.optim.Optimizer) -> None:
        """Add a row for each new label, started from its normalised mean embedding ``[dim]``.

        The optimiser's moments of the old rows stay; those of the new rows are zero.
        """
        new = {label: mean for label, mean in means.items() if label not in self.labels}
        if not new:
            return
        rows = torch.from_numpy(np.stack([mean.astype(np.float32) for mean in new.values()]))
        rows = normalize(rows, dim=1).to(self.weight)
        self._replace(
            optimizer, torch.cat([self.weight.data, rows]), lambda old: torch.cat([old, torch.zeros_like(rows)])
        )
        self.labels = (*self.labels, *new)

    def keep(self, labels: Collection[str], optimizer: torch.optim.Optimizer) -> None:
        """Forget the rows of all other labels, and the optimiser's moments of them."""
        rows = [row for row, label in enumerate(self.labels) if label in labels]
        self._replace(optimizer, self.weight.data[rows], lambda old: old[rows])
        self.labels = tuple(self.labels[row] for row in rows)

    def _replace(
        self, optimizer: torch.optim.Optimizer, weight: torch.Tensor, moment: Callable[[torch.Tensor], torch.Tensor]
    ) -> None:
        old = self.weight
        self.weight = torch.nn.Parameter(weight.clone())
        for group in optimizer.param_groups:
            group["params"] = [self.weight if parameter is old else parameter for parameter in group["params"]]
        state = optimizer.state.pop(old, {})
        if state:
            optimizer.state[self.weight] = state | {name: moment(state[name]) for name in MOMENTS}

    # --- between rounds ----------------------------------------------------------------------------------------

    def to_bytes(self, optimizer: torch.optim.Optimizer) -> bytes:
        """One safetensors file: rows and AdamW's moments of them."""
        state = optimizer.state.get(self.weight, {})
        tensors = {"weight": self.weight.data.cpu().contiguous()}
        for name in MOMENTS:
            tensors[name] = state[name].cpu().contiguous() if name in state else torch.zeros_like(tensors["weight"])
        tensors["step"] = torch.as_tensor(state.get("step", 0), dtype=torch.float32).cpu().reshape(1)
        return save(tensors, {"labels": json.dumps(self.labels, ensure_ascii=False)})

    def restore(self, path: str, optimizer: torch.optim.Optimizer) -> None:
        """Take over rows and moments that :meth:`to_bytes` wrote.

        Raises:
            ArtifactError: step ``manifest`` or ``shapes``.
        """
        try:
            with safe_open(path, "pt") as file:
                labels = tuple(json.loads((file.metadata() or {})["labels"]))
                tensors = {name: file.get_tensor(name) for name in ("weight", *MOMENTS, "step")}
        except (SafetensorError, KeyError, ValueError, TypeError) as error:
            raise ArtifactError("manifest", f"The training head cannot be read: {error}.") from error
        shape = (len(labels), self.weight.shape[1])
        if any(tensors[name].shape != shape for name in ("weight", *MOMENTS)):
            raise ArtifactError("shapes", f"The training head must have the shape {shape}.")
        self._replace(optimizer, tensors["weight"].to(self.weight), lambda old: old)
        self.labels = labels
        optimizer.state[self.weight] = {name: tensors[name].to(self.weight) for name in MOMENTS} | {
            "step": tensors["step"].reshape(())
        }
