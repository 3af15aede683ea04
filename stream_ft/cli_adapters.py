"""``stream-ft adapters``: the versions that were in force, and how each came to be."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stream_ft.cli_options import AsJson, Config, Set, StateDir, settings
from stream_ft.errors import ArtifactError, ConfigError

if TYPE_CHECKING:
    from stream_ft.config import Settings
    from stream_ft.release.registry import Registry
    from stream_ft.wiring.operator import Folded

app = typer.Typer(name="adapters", help="Versions and what is known of each.", no_args_is_help=True)


@app.command("list")
def list_versions(
    config: Config = None, state_dir: StateDir = None, assign: Set = None, as_json: AsJson = False
) -> None:
    """Every version that was in force, newest first."""
    from stream_ft.wiring.operator import look

    chosen = settings(config, state_dir, assign)
    folded = look(chosen)
    registry = _registry(chosen)
    rows = [_row(folded, registry, epoch) for epoch in range(folded.state.epoch, -1, -1)]
    if as_json:
        for row in rows:
            print(json.dumps(row))
        return
    print(f"{'version':<14}{'state':<10}{'base':<14}{'head':<14}{'kind':<9}{'examples':>8}  difference, lower bound")
    for row in rows:
        verdict = row["verdict"]
        numbers = ""
        if "difference" in verdict and "lower_bound" in verdict:
            numbers = f"{verdict['difference']:+.3f}, {verdict['lower_bound']:+.3f}"
        print(
            f"{row['version']:<14}{row['state']:<10}{row['base'][:12]:<14}{row['start_head'][:12]:<14}"
            f"{row['kind']:<9}{row['train_examples']:>8}  {numbers}".rstrip()
        )


@app.command()
def show(
    version: Annotated[str, typer.Argument(metavar="VERSION", help="A version, an epoch, or 'active'.")] = "active",
    config: Config = None,
    state_dir: StateDir = None,
    assign: Set = None,
    as_json: AsJson = False,
) -> None:
    """What one version was trained on, and every number of the gate."""
    from stream_ft.wiring.operator import look, target

    chosen = settings(config, state_dir, assign)
    folded = look(chosen)
    epoch = folded.state.epoch if version == "active" else target(folded, version)
    if epoch > folded.state.epoch:
        raise ConfigError(
            f"There is no epoch {epoch} yet; the last is {folded.state.epoch}.", "See stream-ft adapters list."
        )
    registry = _registry(chosen)
    row = _row(folded, registry, epoch) | {"files": _files(registry, folded.state.history[epoch][1].base)}
    if as_json:
        print(json.dumps(row))
        return
    for name, value in row.items():
        if isinstance(value, dict):
            print(f"{name}:" + ("" if value else " none"))
            for key, inner in value.items():
                print(f"  {key}: {inner}")
        else:
            print(f"{name}: {value}")


def _registry(chosen: Settings) -> Registry:
    from stream_ft.release.registry import Registry

    return Registry(chosen.registry_path())


def _row(folded: Folded, registry: Registry, epoch: int) -> dict[str, Any]:
    """A version as plain JSON values; a head that is gone or damaged is said to be so, and stops nothing."""
    import msgspec

    from stream_ft.release import dossier

    state = folded.state
    release = state.history[epoch][1]
    if epoch == state.epoch:
        standing = "active"
    else:
        standing = "denied" if release.base in state.denied else "past"
    try:
        known = dossier.read(registry.get_head(release.start_head))
    except ArtifactError as error:
        known = dossier.Dossier(kind="?")
        standing = "gone" if error.step == "missing" else "damaged"
    facts: dict[str, Any] = msgspec.to_builtins(known)
    facts["created"] = datetime.fromtimestamp(known.created, UTC).isoformat(timespec="seconds") if known.created else ""
    return {
        "version": folded.name(epoch),
        "epoch": epoch,
        "state": standing,
        "base": release.base,
        "start_head": release.start_head,
        **facts,
    }


def _files(registry: Registry, base: str) -> dict[str, str]:
    try:
        return {name: f"{len(data):,} bytes" for name, data in sorted(registry.get(base).items())}
    except ArtifactError as error:
        return {"": f"{error.step}: {error}"}
