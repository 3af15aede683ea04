"""A Faust agent that only publishes again what it reads: what the ingest workers are compared with.

python benchmarks/bare_agent.py HOST:PORT SOURCE TARGET
"""

from __future__ import annotations

import asyncio
import sys
import uuid
from typing import Any

import faust
from faust.contrib.asgi import bind_to_running_loop


async def main(address: str, source: str, target: str) -> None:
    """Run until killed."""
    app = faust.App(
        f"bare-{uuid.uuid4().hex[:8]}",
        broker=f"kafka://{address}",
        store="memory://",
        web_enabled=False,
        autodiscover=False,
        topic_disable_leader=True,
        consumer_auto_offset_reset="earliest",
        producer_linger=0.005,
    )
    raw = {"key_type": bytes, "value_type": bytes, "key_serializer": "raw", "value_serializer": "raw"}
    read, written = app.topic(source, **raw), app.topic(target, **raw)

    async def again(stream: Any) -> None:
        async for event in stream.events():
            await written.send(key=event.key, value=event.value)

    app.agent(read)(again)
    bind_to_running_loop(app)
    app.finalize()
    await app.maybe_start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:4]))
