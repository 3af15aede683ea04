"""Schemathesis reads the OpenAPI description and asks whatever it allows, and what it forbids."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from schemathesis import checks
from schemathesis.openapi import from_dict
from schemathesis.python.asgi import ASGIClient
from serving_parts import KEY, Serving

from stream_ft.serve.openapi import describe
from stream_ft.serve.predictions_id import PredictionIds

CHECKS = [
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.negative_data_rejection,
    checks.unsupported_method,
]
"""Not ``positive_data_acceptance``: no schema says that a tensor has as many elements as its shape tells."""

TOKEN = {"authorization": "Bearer sesame"}
"""Without one, no command would be read: this client does not call from the server's own machine."""


KNOWN = {"model": ["shop", "other"], "version": ["v0.0.0", "v9.9.9"], "name": ["v0.0.0", "v9.9.9"]}


def described() -> Any:
    """The description with names that exist, or nearly every request would end at the first check."""
    document = describe()
    feedback = document["components"]["schemas"]["FeedbackBody"]["properties"]
    feedback["prediction_id"] = {"enum": [PredictionIds(KEY).issue(), "p-1"]}
    for methods in document["paths"].values():
        for operation in methods.values():
            for parameter in operation.get("parameters", ()):
                if parameter["in"] == "path":
                    parameter["schema"] = {"enum": KNOWN[parameter["name"]]}
    return from_dict(document)


api = described()


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ASGIClient]:
    with Serving(tmp_path_factory.mktemp("serving"), token="sesame") as serving:
        serving.genesis("yes", "no")
        with ASGIClient(serving.app) as made:
            yield made


@api.parametrize()
@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_any_request_is_answered_as_described(case: Any, client: ASGIClient) -> None:
    response = case.call_and_validate(session=client, base_url="http://localhost", headers=TOKEN, checks=CHECKS)
    assert response.status_code not in (401, 403), "refused before it was read"
