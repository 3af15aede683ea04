"""``served.py STATE ADAPTER PORT``: our serving process, with peft's adapter promoted on its control log."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import msgspec

from stream_ft import control
from stream_ft.config import Settings, load
from stream_ft.connectors.registry import open_log
from stream_ft.model.base import BaseFolder, base_files, resolve
from stream_ft.model.heads import Head
from stream_ft.ports import EventLog, Outgoing
from stream_ft.release.manifest import manifest_file
from stream_ft.release.registry import Registry
from stream_ft.topics import topic
from stream_ft.wiring import genesis, serve


def release(registry: Registry, base: BaseFolder, files: dict[str, bytes], head: Head) -> tuple[str, str]:
    """Put a base with its manifest and a head into the registry; their names."""
    files = {name: data for name, data in files.items() if name != "base.json"}
    files |= manifest_file(
        files, parent="", base_model=base.name, base_model_sha256=base.sha256, method="lora", examples_upto=0,
        offsets={}, verdict={}, seed=0, created=0.0,
    )  # fmt: skip
    return registry.put(files), registry.put_head(head.to_bytes())


def promote(log: EventLog, model: str, *, base: str, head: str, parent: str, epoch: int) -> None:
    """An operator's promotion, appended to the control log."""
    message = control.new(
        control.Promote, by="operator/bench", now=time.time(), base=base, start_head=head, parent=parent,
        expected_epoch=epoch,
    )  # fmt: skip
    log.append([Outgoing(topic=topic(model, "control"), value=msgspec.json.encode(message))])


def prepare(settings: Settings, adapter: Path, head: Head) -> None:
    """A state folder whose control log has promoted the adapter."""
    state = settings.state_path()
    state.mkdir(parents=True, exist_ok=True)
    base = resolve(settings.model.base)
    registry = Registry(state / "registry")
    log = open_log(settings.broker, folder=state, writes=[])
    try:
        genesis.ensure(log, registry, base, model=settings.model.name, dim=head.dim, now=time.time())
        files = {file.name: file.read_bytes() for file in adapter.iterdir() if file.suffix in {".json", ".safetensors"}}
        first = registry.put(base_files(base))
        name, head_name = release(registry, base, files, head)
        promote(log, settings.model.name, base=name, head=head_name, parent=first, epoch=0)
    finally:
        log.close()


def main() -> None:
    """Prepare the state folder, then serve."""
    from serving import head_of

    settings = load(None, {"state_dir": sys.argv[1], "serve.port": int(sys.argv[3])})
    prepare(settings, Path(sys.argv[2]), head_of(384))
    sys.exit(serve.run(settings))


if __name__ == "__main__":
    main()
