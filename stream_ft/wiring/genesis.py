"""The first entry of a control log: an unchanged base and a head that knows no label."""

from __future__ import annotations

import uuid

import msgspec

from stream_ft import control
from stream_ft.model.base import BaseFolder, base_files
from stream_ft.model.heads import Head
from stream_ft.ports import EventLog, Outgoing
from stream_ft.release import dossier
from stream_ft.release.registry import Registry
from stream_ft.topics import topic


def ensure(log: EventLog, registry: Registry, base: BaseFolder, *, model: str, dim: int, now: float) -> None:
    """Write the genesis of ``model``'s control log if nobody has.

    Two processes that start together may both write one; the fold refuses the second, and both name the same bytes.
    """
    name = topic(model, "control")
    head = dossier.stamp(Head.empty(dim).to_bytes(), dossier.Dossier())
    files = base_files(base)
    base_sha = registry.put(files)
    head_sha = registry.put_head(head)
    if log.bounds(name, 0) != (0, 0):
        return
    message = control.new(
        control.Genesis, by="operator/genesis", now=now, log_id=uuid.uuid4().hex, base=base_sha, start_head=head_sha
    )
    log.append([Outgoing(topic=name, value=msgspec.json.encode(message))])
