"""The description served: ``GET /openapi.json`` for programs, ``GET /docs`` for people.

The page is one file of plain HTML: no script, and nothing from elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from html import escape
from importlib.resources import files
from itertools import groupby
from string import Template
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from stream_ft.serve.openapi import describe


def routes() -> list[Route]:
    """What to mount."""
    document = describe()
    as_json = json.dumps(document, ensure_ascii=False).encode()
    as_page = page(document).encode()

    async def description(request: Request) -> Response:
        return Response(as_json, media_type="application/json")

    async def manual(request: Request) -> Response:
        return Response(as_page, media_type="text/html")

    return [Route("/openapi.json", description, methods=["GET"]), Route("/docs", manual, methods=["GET"])]


def page(document: dict[str, Any]) -> str:
    """The HTML page of an OpenAPI document."""
    operations = list(_operations(document))
    groups = []
    for group, members in groupby(operations, key=lambda item: item[2]["tags"][0]):
        groups.append(f"<h2>{escape(group)}</h2>")
        groups += [_operation(*item, document) for item in members]
    info = document["info"]
    return Template(files("stream_ft.serve").joinpath("manual.html").read_text(encoding="utf-8")).substitute(
        title=escape(f"{info['title']} {info['version']}"),
        lead=escape(info["description"]),
        index="\n".join(
            f'<li><a href="#{operation["operationId"]}"><code>{method} {escape(path)}</code></a></li>'
            for method, path, operation in operations
        ),
        operations="\n".join(groups),
        types="\n".join(_named(name, schema) for name, schema in document["components"]["schemas"].items()),
    )


def _operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Method, path and description, in the order of the groups."""
    order = [tag["name"] for tag in document["tags"]]
    found = [
        (method.upper(), path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    yield from sorted(found, key=lambda item: order.index(item[2]["tags"][0]))


def _operation(method: str, path: str, operation: dict[str, Any], document: dict[str, Any]) -> str:
    parts = [
        f'<section id="{operation["operationId"]}">',
        f'<h3><span class="method {method.lower()}">{method}</span> <code>{escape(path)}</code></h3>',
        f"<p>{escape(operation['summary'])}</p>",
    ]
    if known := operation.get("parameters"):
        rows = [(_code(p["name"]), _type(p["schema"]), escape(p["description"])) for p in known]
        parts.append(_table(f"Parameters of {path}", ("Parameter", "Type", ""), rows))
    if body := operation.get("requestBody"):
        content = body["content"]["application/json"]
        example = json.dumps(content["example"], indent=2, ensure_ascii=False)
        parts += [f"<p>Body: {_type(content['schema'])}, for example</p>", f"<pre>{escape(example)}</pre>"]
    rows = []
    for status, answer in operation["responses"].items():
        if "$ref" in answer:
            answer = document["components"]["responses"][answer["$ref"].rpartition("/")[2]]
        ((media, content),) = answer["content"].items()
        kind = _type(content["schema"]) if media == "application/json" else _code(media)
        rows.append((_code(status), kind, escape(answer["description"])))
    parts += [_table(f"Answers of {path}", ("Status", "Type", ""), rows), "</section>"]
    return "\n".join(parts)


def _named(name: str, schema: dict[str, Any]) -> str:
    required = schema.get("required", ())
    rows = [
        (
            _code(field),
            _type(known) + ("" if field in required else ' <span class="soft">optional</span>'),
            escape(_said(known)),
        )
        for field, known in schema["properties"].items()
    ]
    return "\n".join(
        (
            f'<section id="type_{name}">',
            f"<h3><code>{escape(name)}</code></h3>",
            f"<p>{escape(schema.get('description', ''))}</p>",
            _table(f"Fields of {name}", ("Field", "Type", ""), rows),
            "</section>",
        )
    )


def _said(schema: dict[str, Any]) -> str:
    """What is said of a field; of one that may be null, it stands a level deeper."""
    said: str = schema.get("description", "")
    return said or next((s["description"] for s in schema.get("anyOf", ()) if "description" in s), "")


def _type(schema: dict[str, Any]) -> str:
    """A schema in a few words, as HTML."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f'<a href="#type_{name}"><code>{name}</code></a>'
    if "anyOf" in schema:
        # "X or list of X": the other way round it could be read as a list of either.
        return " or ".join(_type(inner) for inner in sorted(schema["anyOf"], key=lambda s: s.get("type") == "array"))
    if "enum" in schema:
        return " or ".join(_code(json.dumps(value)) for value in schema["enum"])
    kind = schema.get("type")
    if kind == "array":
        return f"list of {_type(schema['items'])}" if "items" in schema else "list"
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"object of {_type(schema['additionalProperties'])}"
    return "anything" if kind is None else escape(kind)


def _code(text: str) -> str:
    return f"<code>{escape(text)}</code>"


def _table(label: str, heads: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """A table; on a narrow screen it scrolls, also by keyboard."""
    top = "".join(f'<th scope="col">{head}</th>' if head else "<td></td>" for head in heads)
    body = "\n".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(label)}">'
        f"<table><thead><tr>{top}</tr></thead><tbody>\n{body}\n</tbody></table></div>"
    )
