"""From the bytes of a request to a value, or to one sentence that says what is wrong with them."""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request

from stream_ft.errors import StreamFTError
from stream_ft.events import MAX_TEXT
from stream_ft.ingest.texts import half_pair, text_reject

T = TypeVar("T")


class RefusedError(StreamFTError):
    """A request that cannot be answered.

    Args:
        status: of the HTTP answer.
    """

    def __init__(self, status: int, message: str, remedy: str = "") -> None:
        super().__init__(message, remedy)
        self.status = status


async def read(request: Request, *, limit: int, timeout_s: float) -> bytes:
    """The whole body.

    Raises:
        RefusedError: 413 beyond ``limit`` bytes, 408 if it does not come in time, 499 if the client left.
    """
    too_large = RefusedError(413, f"The body is larger than {limit} bytes.", "Send fewer or shorter inputs at a time.")
    declared = request.headers.get("content-length", "0")
    if declared.isascii() and declared.isdigit() and int(declared[:20]) > limit:
        raise too_large
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(timeout_s):
            async for part in request.stream():
                size += len(part)
                if size > limit:
                    raise too_large
                parts.append(part)
    except TimeoutError as error:
        raise RefusedError(408, f"The body did not come within {timeout_s:g} s.") from error
    except ClientDisconnect as error:
        raise RefusedError(499, "The client left.") from error
    return b"".join(parts)


def decode(body: bytes, type: type[T] | Any) -> T:
    """``body`` as JSON of this type, strictly.

    Raises:
        RefusedError: 400, with the place that is wrong.
    """
    try:
        value: T = msgspec.json.decode(body, type=type)
    except msgspec.ValidationError as error:
        raise RefusedError(400, f"The body does not have the expected form: {error}.") from error
    except msgspec.DecodeError as error:
        if half_pair(body):
            raise RefusedError(
                400, "A text in the body has half of a surrogate pair, which is no character.", "Escape both halves."
            ) from error
        raise RefusedError(400, f"The body is not JSON: {error}.") from error
    except UnicodeDecodeError as error:
        raise RefusedError(400, "The body is not UTF-8.") from error
    except RecursionError as error:
        raise RefusedError(400, "The body is nested too deeply.") from error
    return value


def check_texts(texts: list[str], *, most: int) -> None:
    """Check the inputs of one request, by the rule of ingest: an answer that was given is never a dead letter.

    Raises:
        RefusedError: 422 for none or too many, for one without a visible character or longer than 20,000 characters.
    """
    if not texts:
        raise RefusedError(422, "There are no inputs.", 'Send {"inputs": ["some text"]}.')
    if len(texts) > most:
        raise RefusedError(
            422, f"There are {len(texts)} inputs; one request may have {most}.", "Send several requests."
        )
    for place, text in enumerate(texts):
        if (reject := text_reject(text)) is None:
            continue
        if reject.reason == "empty_text":
            raise RefusedError(422, f"Input {place} is empty: it has no visible character.")
        if reject.reason == "too_long":
            raise RefusedError(422, f"Input {place} has {len(text)} characters; at most {MAX_TEXT} are accepted.")
        raise RefusedError(422, f"Input {place} cannot be used: {reject.detail}")
