from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serving_parts import Serving

from stream_ft import control, metrics
from stream_ft.metrics.labels import ROUTES
from stream_ft.serve.http import route_of


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Serving]:
    with Serving(tmp_path) as made:
        made.genesis("yes", "no")
        yield made


# --- the token --------------------------------------------------------------------------------------------------

PATHS = ("/", "/predict", "/feedback", "/labels", "/versions", "/status", "/metrics", "/v2", "/nothing")


@pytest.fixture
def closed(tmp_path: Path) -> Iterator[Serving]:
    with Serving(tmp_path, token="sesame") as made:
        made.genesis("yes")
        yield made


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("header", [None, "sesame", "Bearer", "Bearer wrong", "Basic sesame", "Bearer sesamé"])
def test_without_the_token_nothing_is_told(closed: Serving, path: str, header: str | None) -> None:
    for method in ("GET", "POST"):
        headers = {} if header is None else {"authorization": header.encode()}
        response = closed.request(method, path, headers=headers)
        assert response.status_code == 401
        assert response.headers["www-authenticate"] == "Bearer"
        assert list(response.json()) == ["error"]


def test_probes_need_no_token(closed: Serving) -> None:
    for path in ("/livez", "/readyz", "/v2/health/live", "/v2/health/ready"):
        assert closed.get(path).status_code == 200


def test_with_the_token_everything_works(closed: Serving) -> None:
    headers = {"authorization": "Bearer sesame"}
    assert closed.post("/predict", {"inputs": "hello"}, headers=headers).status_code == 200
    assert closed.post("/labels", {"input": "a", "label": "b"}, headers=headers).status_code == 202
    assert closed.get("/metrics", headers=headers).status_code == 200


def test_a_page_of_another_site_cannot_teach_the_model(serving: Serving) -> None:
    event = {"input": "a", "label": "b"}
    assert serving.post("/labels", event, headers={"origin": "http://evil.example"}).status_code == 403
    assert serving.post("/labels", event, headers={"origin": "null"}).status_code == 403
    assert serving.post("/labels", event, headers={"origin": "http://[bad"}).status_code == 403
    assert serving.post("/labels", event, headers={"origin": "http://localhost"}).status_code == 202
    assert serving.post("/labels", event).status_code == 202


def test_a_name_that_points_to_this_machine_opens_nothing(serving: Serving) -> None:
    event = {"input": "a", "label": "b"}
    evil = {"host": "evil.example", "origin": "http://evil.example"}
    assert serving.post("/labels", event, headers=evil).status_code == 403
    refused = serving.get("/feedback", headers={"host": "evil.example:8080"})
    assert refused.status_code == 403
    assert "localhost" in refused.json()["error"]
    assert serving.get("/feedback", headers={"host": "[bad"}).status_code == 403
    assert serving.get("/feedback", headers={"host": "[::1]:8080"}).status_code == 200
    assert serving.get("/livez", headers={"host": "evil.example"}).status_code == 200


# --- errors -----------------------------------------------------------------------------------------------------


def test_unknown_paths_and_methods_are_json(serving: Serving) -> None:
    missing = serving.get("/nothing")
    assert (missing.status_code, list(missing.json())) == (404, ["error"])
    wrong = serving.get("/predict")
    assert (wrong.status_code, list(wrong.json())) == (405, ["error"])
    assert wrong.headers["allow"] == "POST"
    assert serving.get("/versions/../../etc/passwd").status_code == 404


def test_an_unforeseen_error_is_one_sentence_and_the_next_request_is_answered(tmp_path: Path) -> None:
    def explode() -> Any:
        raise ZeroDivisionError("a user's words")

    with Serving(tmp_path, ready=explode) as serving:
        serving.genesis("yes")
        response = serving.get("/readyz")
        assert (response.status_code, list(response.json())) == (500, ["error"])
        assert "words" not in response.text
        assert serving.post("/predict", {"inputs": "hello"}).status_code == 200
        assert requests(serving, "probe", "500") == 1


def test_a_client_that_leaves_while_sending_is_counted_as_499(serving: Serving) -> None:
    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        pass

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/predict",
        "raw_path": b"/predict",
        "query_string": b"",
        "headers": [],
        "scheme": "http",
        "server": ("shop", 80),
        "client": None,
        "root_path": "",
        "http_version": "1.1",
    }
    asyncio.run(serving.app(scope, receive, send))
    assert requests(serving, "predict", "499") == 1


def test_a_body_that_never_comes_is_408(tmp_path: Path) -> None:
    async def never() -> Any:
        await asyncio.Event().wait()
        yield b""

    with Serving(tmp_path, timeout_s=0.01) as serving:
        assert serving.request("POST", "/predict", content=never()).status_code == 408


# --- what is counted --------------------------------------------------------------------------------------------


def requests(serving: Serving, route: str, code: str) -> float:
    labels = {"route": route, "code": code}
    return serving.metrics.registry.get_sample_value("stream_ft_http_requests_total", labels) or 0.0


def test_every_answer_is_counted_once_by_route_and_code(serving: Serving) -> None:
    serving.post("/predict", {"inputs": "hello"})
    serving.post("/predict", {"inputs": ""})
    serving.post("/v2/models/shop/infer", {})
    serving.get("/nothing")
    assert requests(serving, "predict", "200") == 1
    assert requests(serving, "predict", "422") == 1
    assert requests(serving, "infer", "400") == 1
    assert requests(serving, "other", "404") == 1


def test_fault_25_the_number_of_series_does_not_grow_with_what_clients_send(serving: Serving) -> None:
    serving.post("/predict", {"inputs": "hello"})
    serving.get("/nothing/x")
    before = metrics.series(serving.metrics.registry)
    for i in range(100):
        serving.get(f"/nothing/{i}")
        serving.post("/predict", {"inputs": f"user {i}"})
    assert metrics.series(serving.metrics.registry) == before


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/predict", "predict"),
        ("/v2/models/a/infer", "infer"),
        ("/v2/health/live", "probe"),
        ("/versions/v1.1.0", "status"),
        ("/v2x", "other"),
        ("/users/7", "other"),
    ],
)
def test_routes_have_few_names(path: str, route: str) -> None:
    assert route_of(path) == route
    assert route in ROUTES


# --- probes, index ----------------------------------------------------------------------------------------------


def test_probes_tell_life_from_readiness(tmp_path: Path) -> None:
    with Serving(tmp_path) as serving:
        assert serving.get("/livez").json() == {"live": True}
        unready = serving.get("/readyz")
        assert (unready.status_code, unready.json()["ready"]) == (503, False)
        assert unready.json()["reason"]
        serving.genesis("yes")
        assert serving.get("/readyz").json() == {"ready": True}
        serving.alive = False
        assert serving.get("/livez").status_code == 500


def test_metrics_are_prometheus_text(serving: Serving) -> None:
    response = serving.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert 'stream_ft_active_base_info{base="' in response.text


def test_the_index_names_every_endpoint_that_is_there(serving: Serving) -> None:
    index = serving.get("/").json()
    assert "POST /predict" in index["endpoints"]
    for endpoint in index["endpoints"]:
        method, path = endpoint.split()
        path = path.replace("{model}", "shop").replace("{version}", "v0.0.0").replace("{name}", "v0.0.0")
        assert serving.request(method, path).status_code not in (404, 405), endpoint


# --- versions, status -------------------------------------------------------------------------------------------


def test_versions_tell_what_each_was_and_which_answers(serving: Serving) -> None:
    serving.promote("better", "yes", "no", "maybe")
    serving.follower.step()
    body = serving.get("/versions").json()
    assert (body["model"], body["active"], body["wanted"]) == ("shop", "v1.1.0", "v1.1.0")
    assert [(v["version"], v["epoch"], v["active"], v["denied"]) for v in body["versions"]] == [
        ("v0.0.0", 0, False, False),
        ("v1.1.0", 1, True, False),
    ]
    newest = body["versions"][-1]
    assert (newest["kind"], newest["examples_upto"], newest["offsets"], newest["verdict"]) == (
        "head",
        0,
        {"feedback": 0},
        {},
    )
    whole = serving.get("/versions/v1.1.0").json()
    manifest = whole.pop("manifest")
    assert (manifest["method"], list(manifest["files"])) == ("lora", ["tensors.safetensors"])
    assert whole == newest
    assert serving.get("/versions?limit=1").json()["versions"] == [newest]
    assert serving.get("/versions/v9.9.0").status_code == 404


@pytest.mark.parametrize("limit", ["0", "-1", "x", "9" * 30, "²"])
def test_a_limit_that_is_none_is_refused(serving: Serving, limit: str) -> None:
    assert serving.get("/versions", params={"limit": limit}).status_code == 400


def test_a_version_keeps_its_base_number_after_a_rollback(serving: Serving) -> None:
    serving.promote("worse", "yes")
    serving.follower.step()
    serving.say(control.Rollback, to_epoch=0, reason="worse")
    serving.follower.step()
    rows = serving.get("/versions").json()["versions"]
    assert [row["version"] for row in rows] == ["v0.0.0", "v1.1.0", "v0.2.0"]
    assert [row["denied"] for row in rows] == [False, True, False]
    assert rows[-1]["active"]


def test_a_release_whose_head_was_deleted_is_listed_all_the_same(serving: Serving) -> None:
    head = serving.follower.state.start_head
    serving.registry.delete_head(head)
    (row,) = serving.get("/versions").json()["versions"]
    assert (row["start_head"], row["kept"]) == (head, False)
    assert row["missing"]


def test_status_shows_both_processes(serving: Serving, tmp_path: Path) -> None:
    assert serving.get("/status").json() == {"model": "shop", "serve": serving.status(), "learn": None}
    (tmp_path / "learn.status.json").write_text(json.dumps({"lag": 3}))
    assert serving.get("/status").json()["learn"] == {"lag": 3}
    (tmp_path / "learn.status.json").write_bytes(b"\xff{")
    assert serving.get("/status").json()["learn"] is None
