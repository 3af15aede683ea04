"""Writes an accepted candidate into the registry, and forgets what no rollback can reach any more."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

import msgspec
from safetensors.numpy import load as load_tensors

from stream_ft.learn import gate
from stream_ft.learn.learner import Release as Candidate
from stream_ft.model.base import BaseFolder
from stream_ft.release import dossier
from stream_ft.release.fold import Release, State
from stream_ft.release.manifest import manifest_file
from stream_ft.release.registry import Registry

KEEP_RELEASES = 50
"""Releases whose files are kept: what a rollback can go back to. So are as many bases, each with its newest head."""


def write_candidate(
    registry: Registry, folder: Path, release: Candidate, *, base: BaseFolder, offsets: dict[str, int], now: float
) -> tuple[str, str]:
    """Write the candidate that a round left in ``folder``; sha256 of its base and of its head.

    Args:
        release: what the gate let pass.
        base: the pretrained model.
        offsets: per topic, the offset before which every event is covered.
    """
    job, result = release.job, release.result
    verdict = numbers_of(release.verdict)
    head = dossier.stamp(
        (folder / "head.safetensors").read_bytes(),
        dossier.Dossier(
            kind=job.kind,
            examples_upto=job.examples_upto,
            offsets=offsets,
            train_examples=result.train_examples,
            verdict=verdict,
            created=now,
            seed=job.seed,
        ),
    )
    head_sha = registry.put_head(head)
    if job.kind == "head":
        return job.champion_base, head_sha
    files = {path.name: path.read_bytes() for path in sorted((folder / "candidate").iterdir())}
    files["head.safetensors"] = head
    files |= manifest_file(
        files,
        parent=job.champion_base,
        base_model=base.name,
        base_model_sha256=base.sha256,
        method=job.kind,
        examples_upto=job.examples_upto,
        offsets=offsets,
        verdict=verdict,
        seed=job.seed,
        created=now,
    )
    return registry.put(files), head_sha


def candidate_embeddings(path: Path) -> list[tuple[int, bytes]]:
    """Id and embedding of every example that a round embedded with its candidate."""
    tensors = load_tensors(path.read_bytes())
    return [(int(i), row.tobytes()) for i, row in zip(tensors["ids"].tolist(), tensors["embeddings"], strict=True)]


def forget_old(registry: Registry, state: State, *, also: Collection[str] = ()) -> None:
    """Delete the files of releases that nobody can want back: all but :func:`kept`, and the heads in ``also``."""
    releases = kept(state)
    heads = {release.start_head for release in releases} | set(also)
    bases = {release.base for release in releases}
    for sha in registry.list_heads():
        if sha not in heads:
            registry.delete_head(sha)
    for sha in registry.list():
        if sha not in bases:
            registry.delete(sha)


def forget_heads(registry: Registry, state: State, some: Collection[str]) -> None:
    """Delete these heads, but for those of releases that somebody may want back."""
    if some:
        wanted = {release.start_head for release in kept(state)}
        for sha in set(some) - wanted:
            registry.delete_head(sha)


def kept(state: State) -> set[Release]:
    """Releases that must be there: the last ones, and what is left should bases be denied, one after the other.

    A denied base gives way to the newest release of another that is not denied, however long ago that was: many heads
    may have been promoted on one base since. A release counts once, however often it came into force. One that is on
    trial is wanted by every replica that starts.
    """
    newest: dict[Release, None] = {}
    of_base: dict[str, Release] = {}
    for _, release in reversed(state.history):
        if len(newest) < KEEP_RELEASES:
            newest[release] = None
        if release.base not in state.denied and len(of_base) < KEEP_RELEASES:
            of_base.setdefault(release.base, release)
    genesis = [release for _, release in state.history[:1]]
    trial = [state.trial.release] if state.trial is not None else []
    return {state.release, *newest, *of_base.values(), *genesis, *trial}


def numbers_of(verdict: gate.Verdict) -> dict[str, Any]:
    """The verdict as plain JSON values."""
    plain: dict[str, Any] = msgspec.to_builtins(verdict)
    return plain


def file_sha256(path: Path) -> str:
    """Of a file's bytes; empty if there is none."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""
