"""The OpenAPI description: whole, true of the types that are decoded, and shown on a page."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from jsonschema import Draft202012Validator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012
from serving_parts import Serving

from stream_ft import __version__
from stream_ft.events import Feedback, LabelledEvent
from stream_ft.serve import manual
from stream_ft.serve.batcher import Batcher
from stream_ft.serve.openapi import ERRORS, OPERATIONS, FeedbackBody, LabelBody, describe
from stream_ft.serve.slots import Answer

DOCUMENT = describe()
SERVING_PAGE = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")
WHOLE: Resource[Any] = Resource.from_contents(DOCUMENT, default_specification=DRAFT202012)
INFER = "/v2/models/{model}/infer"


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Serving]:
    with Serving(tmp_path, max_body_bytes=10_000) as made:
        made.genesis("yes", "no")
        yield made


def follow(value: dict[str, Any]) -> dict[str, Any]:
    """What a reference stands for."""
    if "$ref" not in value:
        return value
    found: Any = DOCUMENT
    for part in value["$ref"].removeprefix("#/").split("/"):
        found = found[part]
    return found  # type: ignore[no-any-return]


def check(response: httpx.Response, method: str, path: str) -> None:
    """The description has this status, this media type, this form and these headers for it."""
    answers = DOCUMENT["paths"][path][method.lower()]["responses"]
    assert str(response.status_code) in answers
    answer = follow(answers[str(response.status_code)])
    media = response.headers["content-type"].partition(";")[0]
    schema = answer["content"][media]["schema"]
    if media == "application/json":
        registry: Registry[Any] = Registry().with_resource("urn:whole", WHOLE)
        pointed = json.loads(json.dumps(schema).replace("#/", "urn:whole#/"))
        Draft202012Validator(pointed, registry=registry).validate(response.json())
    assert set(answer.get("headers", ())) <= set(response.headers)


def test_every_route_that_is_mounted_is_described_and_nothing_else(serving: Serving) -> None:
    mounted = {(method, route.path) for route in serving.app.routes for method in (route.methods or set()) - {"HEAD"}}
    described = {(method.upper(), path) for path, methods in DOCUMENT["paths"].items() for method in methods}
    assert described == mounted == set(OPERATIONS)


def test_what_is_served_is_the_description(serving: Serving) -> None:
    assert serving.get("/openapi.json").json() == json.loads(json.dumps(DOCUMENT))
    assert (DOCUMENT["openapi"], DOCUMENT["info"]["version"]) == ("3.1.0", __version__)


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for inner in value.values():
            yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def test_references_resolve_and_every_schema_is_one() -> None:
    for reference in references(DOCUMENT):
        assert follow({"$ref": reference})
    for schema in DOCUMENT["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)
    operations = [o["operationId"] for methods in DOCUMENT["paths"].values() for o in methods.values()]
    assert len(set(operations)) == len(operations)


def test_only_the_probes_and_the_console_are_without_the_token() -> None:
    for path, methods in DOCUMENT["paths"].items():
        for method, operation in methods.items():
            public = path in ("/livez", "/readyz", "/console") or path.startswith("/v2/health/")
            assert (operation.get("security") == []) == public
            assert ("401" in operation["responses"]) == (not public)
            assert ("403" in operation["responses"]) == (method == "post")


# --- true of what is sent ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("route", OPERATIONS, ids=" ".join)
def test_each_example_is_accepted_and_answered_as_described(serving: Serving, route: tuple[str, str]) -> None:
    method, path = route
    body = OPERATIONS[route].example
    if route == ("POST", "/feedback"):
        issued = serving.post("/predict", OPERATIONS["POST", "/predict"].example).json()["predictions"][0]["id"]
        body = body | {"prediction_id": issued}
    response = serving.request(method, path.format(model="shop", version="v0.0.0", name="v0.0.0"), json=body)
    assert response.status_code == OPERATIONS[route].success
    check(response, method, path)


@pytest.mark.parametrize("path", ["/predict", "/feedback", "/labels", INFER])
def test_errors_that_a_body_brings_are_as_described(serving: Serving, path: str) -> None:
    where = path.format(model="shop")
    seen = {}
    for content, headers in (
        (b"{", {}),
        (b"{}", {}),
        (b'{"inputs": []}', {}),
        (b'{"prediction_id": "p-1", "label": "x"}', {}),
        (b'{"inputs": [], "input": "", "label": "x", "prediction_id": ""}', {}),
        (b"a" * 10_001, {}),
        (b"{}", {"origin": "http://evil.example"}),
        (b"{}", {"inference-header-content-length": "2"}),
    ):
        response = serving.post(where, content=content, headers=headers)
        seen[response.status_code] = response
        check(response, "post", path)
    expected = {"/predict": {400, 403, 413, 422}, "/feedback": {400, 403, 404, 413, 422}}
    assert set(seen) == expected.get(path, {400, 403, 413, 415} if path == INFER else {400, 403, 413, 422})


def test_errors_of_a_server_that_cannot_answer_are_as_described(tmp_path: Path) -> None:
    release = threading.Event()

    def forward(texts: list[str]) -> list[Answer]:
        release.wait(10)
        raise ZeroDivisionError

    batcher: Batcher[Answer] = Batcher(forward, queue=1, deadline_s=0.05)
    batcher.start()
    try:
        with Serving(tmp_path, batcher=batcher, token="sesame") as serving:
            headers = {"authorization": "Bearer sesame"}
            for path in ("/predict", INFER):
                asked = [
                    serving.post(path.format(model="shop"), OPERATIONS["POST", path].example, headers=headers)
                    for _ in range(3)
                ]
                assert {response.status_code for response in asked} <= {429, 504}
                for response in asked:
                    check(response, "post", path)
                check(serving.post(path.format(model="shop"), {}), "post", path)
            assert asked[-1].status_code == 429
            serving.log.full = True
            labels = serving.post("/labels", OPERATIONS["POST", "/labels"].example, headers=headers)
            assert labels.status_code == 503
            check(labels, "post", "/labels")
    finally:
        release.set()
        batcher.close()


def test_a_server_without_a_version_answers_as_described(tmp_path: Path) -> None:
    with Serving(tmp_path) as serving:
        for method, path in OPERATIONS:
            where = path.format(model="shop", version="v0.0.0", name="v0.0.0")
            check(serving.request(method, where, json=OPERATIONS[method, path].example), method, path)
        assert serving.get("/readyz").status_code == serving.post("/predict", {"inputs": "a"}).status_code == 503
        serving.alive = False
        check(serving.get("/livez"), "get", "/livez")


@pytest.mark.parametrize(("body", "event"), [(FeedbackBody, Feedback), (LabelBody, LabelledEvent)])
def test_bodies_have_the_fields_of_the_events(body: Any, event: Any) -> None:
    """Ingest decodes the event; the body is what may be written for it, shorthand included."""
    fields = {field.encode_name for field in msgspec.structs.fields(event)}
    assert {field.encode_name for field in msgspec.structs.fields(body)} == fields | {"label", "type"}


def test_the_page_on_serving_has_every_status_and_every_path() -> None:
    listed = {int(status) for status in re.findall(r"^\| (\d{3}) \|", SERVING_PAGE, re.MULTILINE)}
    assert listed == set(ERRORS)
    for _, path in OPERATIONS:
        assert f"{path.replace('/versions/{version}', '').removesuffix('/') or '/'}`" in SERVING_PAGE, path


# --- the page ---------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """Collects ids, links and the balance of the elements."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: set[str] = set()
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag not in ("meta", "link"):
            self.open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("href", "src"):
                self.links.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_is_one_file_with_everything_on_it(serving: Serving) -> None:
    response = serving.get("/docs")
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    page = Page()
    page.feed(response.text)
    assert page.open == []
    assert not page.tags & {"script", "img", "iframe", "form"}
    assert "url(" not in response.text
    assert "@import" not in response.text
    assert len(set(page.ids)) == len(page.ids)
    for link in page.links:
        assert link in ("openapi.json", "data:,") or link.removeprefix("#") in page.ids
    for method, path in OPERATIONS:
        assert f"{method} {path}" in page.text
    assert {f"type_{name}" for name in DOCUMENT["components"]["schemas"]} <= set(page.ids)


def test_what_is_described_cannot_become_markup() -> None:
    document = json.loads(json.dumps(DOCUMENT).replace("Name of the model.", "<script>alert(1)</script> & more"))
    page = manual.page(document)
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; more" in page
