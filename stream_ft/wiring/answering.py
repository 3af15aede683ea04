"""Labelled events are answered by the active version before anything is learned from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from stream_ft.events import Event, LabelledEvent, Prediction, Reject
from stream_ft.model.mixture import AnyHead
from stream_ft.ports import Record
from stream_ft.replay.store import Item

Embed = Callable[[Sequence[str]], npt.NDArray[np.float16]]
"""Embeddings ``[B, dim]`` of texts under the active base."""


def answered(
    records: Sequence[Record],
    events: Sequence[Event | Reject],
    *,
    embed: Embed,
    head: AnyHead,
    version: str,
    base: str,
    dim: int,
) -> list[Item]:
    """What goes into the store: each record with its event, and with an answer if the event brings its own input.

    Args:
        records, events: of equal length.
        embed: called once, with all inputs, if there are any.
        head, version, base: of the active version.
        dim: width of an embedding. One of another width, that a prediction brings, is left out: its text is encoded.
    """
    texts = [event.input for event in events if isinstance(event, LabelledEvent)]
    embeddings = embed(texts) if texts else None
    outputs = iter(() if embeddings is None else zip(head.predict(embeddings), embeddings, strict=True))
    items = []
    for record, event in zip(records, events, strict=True):
        if isinstance(event, LabelledEvent):
            (label, _), embedding = next(outputs)
            items.append(
                Item(
                    record=record,
                    event=event,
                    output=label,
                    version=version,
                    embedding=embedding.tobytes(),
                    embedding_base=base,
                )
            )
        elif isinstance(event, Prediction) and event.embedding is not None and len(event.embedding) != 2 * dim:
            items.append(Item(record=record, event=msgspec.structs.replace(event, embedding=None)))
        else:
            items.append(Item(record=record, event=event))
    return items
