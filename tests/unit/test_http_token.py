"""Every route with and without the token."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from serving_parts import Serving

from stream_ft.serve.http import OPEN
from stream_ft.serve.openapi import OPERATIONS

NAMES = {"model": "shop", "version": "v0.0.0", "name": "v0.0.0"}
OTHERS = [route for route in OPERATIONS if route[1] not in OPEN]
PROBES = [route for route in OPERATIONS if route[1] in OPEN]


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """One that has a token."""
    with Serving(tmp_path_factory.mktemp("closed"), token="sesame") as made:
        made.genesis("yes")
        yield made


@pytest.fixture(scope="module")
def public(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """One that has none."""
    with Serving(tmp_path_factory.mktemp("public")) as made:
        made.genesis("yes")
        yield made


def ask(serving: Serving, route: tuple[str, str], token: str | None) -> httpx.Response:
    """The route's example, with or without a token."""
    method, path = route
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    return serving.request(method, path.format(**NAMES), headers=headers, json=OPERATIONS[route].example)


def mounted(serving: Serving) -> set[tuple[str, str]]:
    """Method and path of every route."""
    return {(method, route.path) for route in serving.app.routes for method in (route.methods or set()) - {"HEAD"}}


def test_the_routes_asked_here_are_all_that_there_are(closed: Serving) -> None:
    assert {*OTHERS, *PROBES} == mounted(closed)
    assert {path for _, path in PROBES} == set(OPEN)
    assert len(OTHERS) > len(PROBES) == 5, "the probes, and the console's page"


@pytest.mark.parametrize("route", OTHERS, ids=" ".join)
@pytest.mark.parametrize("token", [None, "", "wrong", "sesam", "sesame2"])
def test_a_route_tells_nothing_without_the_right_token(
    closed: Serving, route: tuple[str, str], token: str | None
) -> None:
    response = ask(closed, route, token)
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert list(response.json()) == ["error"]


@pytest.mark.parametrize("route", OTHERS, ids=" ".join)
def test_a_route_answers_with_the_right_token(closed: Serving, route: tuple[str, str]) -> None:
    # The example of feedback names no prediction that was issued.
    assert ask(closed, route, "sesame").status_code in ((404,) if route == ("POST", "/feedback") else (200, 202))


@pytest.mark.parametrize("route", PROBES, ids=" ".join)
@pytest.mark.parametrize("token", [None, "wrong", "sesame"])
def test_a_probe_needs_none(closed: Serving, route: tuple[str, str], token: str | None) -> None:
    assert ask(closed, route, token).status_code == 200


@pytest.mark.parametrize("route", OPERATIONS, ids=" ".join)
@pytest.mark.parametrize("token", [None, "any"])
def test_where_none_is_set_none_is_asked_for(public: Serving, route: tuple[str, str], token: str | None) -> None:
    assert ask(public, route, token).status_code in ((404,) if route == ("POST", "/feedback") else (200, 202))


@pytest.mark.parametrize("path", ["/livez/", "//livez", "/LIVEZ", "/v2/health/live/", "/v2/health/../models/shop"])
def test_only_the_probes_own_paths_are_open(closed: Serving, path: str) -> None:
    assert closed.get(path).status_code == 401


def test_head_needs_the_token_too(closed: Serving) -> None:
    assert closed.request("HEAD", "/status").status_code == 401
    assert closed.request("HEAD", "/livez").status_code == 200


def test_the_token_is_in_no_answer(tmp_path: Path) -> None:
    with Serving(tmp_path, token="sesame") as serving:
        serving.genesis("yes")
        assert all("sesame" not in ask(serving, route, "sesame").text for route in OPERATIONS)
