"""The OpenAPI document is valid, complete, and true of a started service."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate
from starlette.routing import BaseRoute, Mount

from services.scoring.edge import BENTOML_ROUTES
from services.scoring.http import create_app
from services.scoring.openapi import document
from tests.integration.watched import Served

_METHODS = ("get", "post", "delete")
_WEBSOCKETS = {"/live"}


@dataclass(frozen=True, slots=True)
class _Exchange:
    """An example of a request, and the answer that the document promises."""

    method: str
    path: str
    media_type: str | None
    example: dict[str, Any]
    status: int

    def __str__(self) -> str:
        return f"{self.method} {self.path} {self.status}"


def _resolved(node: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in node:
        target: Any = document()
        for part in node["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        node = target
    return node


def _served(path: str) -> bool:
    return path in BENTOML_ROUTES or any(_covers(route, path) for route in create_app().routes)


def _covers(route: BaseRoute, path: str) -> bool:
    known: str = getattr(route, "path", "")
    return path.startswith(known + "/") if isinstance(route, Mount) else path == known


def _operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in document()["paths"].items():
        for method in _METHODS:
            if method in item:
                yield path, method, {"parameters": item.get("parameters", []), **item[method]}


def _exchanges() -> Iterator[_Exchange]:
    for path, method, operation in _operations():
        if not _served(path) or path in _WEBSOCKETS:
            continue
        named = _named_requests(operation)
        for status, response in operation["responses"].items():
            for content in _resolved(response).get("content", {}).values():
                for name in content.get("examples", {}):
                    if name in named:
                        media_type, example = named[name]
                        yield _Exchange(
                            method, _filled(path, operation, name), media_type, example, int(status)
                        )
        if "{" not in path and "requestBody" not in operation:
            yield _Exchange(method, path, None, {}, 200)


def _named_requests(operation: dict[str, Any]) -> dict[str, tuple[str | None, dict[str, Any]]]:
    named: dict[str, tuple[str | None, dict[str, Any]]] = {}
    for parameter in map(_resolved, operation["parameters"]):
        named |= {name: (None, {}) for name in parameter.get("examples", {})}
    for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
        named |= {name: (media_type, example) for name, example in content.get("examples", {}).items()}
    return named


def _filled(path: str, operation: dict[str, Any], name: str) -> str:
    for parameter in map(_resolved, operation["parameters"]):
        if parameter["in"] == "path":
            path = path.replace(f"{{{parameter['name']}}}", parameter["examples"][name]["value"])
    return path


def test_the_document_is_valid_openapi() -> None:
    validate(document())


def test_every_route_of_the_service_is_in_it() -> None:
    documented = set(document()["paths"])
    for route in create_app().routes:
        if isinstance(route, Mount):
            assert any(path.startswith(f"{route.path}/") for path in documented), route.path
            continue
        path = route.path  # type: ignore[attr-defined]
        assert path in documented, path
        for method in (getattr(route, "methods", None) or {"GET"}) - {"HEAD"}:
            assert method.lower() in document()["paths"][path], f"{method} {path}"
    assert documented >= BENTOML_ROUTES


def test_every_answer_that_is_shown_keeps_to_its_own_schema() -> None:
    shown = 0
    for _, _, operation in _operations():
        for response in map(_resolved, operation["responses"].values()):
            for content in response.get("content", {}).values():
                for example in content.get("examples", {}).values():
                    _schema(content["schema"]).validate(example["value"])
                    shown += 1
    assert shown >= 10


@pytest.fixture(scope="module")
def client(watched: Served) -> Iterator[httpx.Client]:
    with watched.client() as client:
        yield client


def test_the_service_gives_the_document(client: httpx.Client) -> None:
    answer = client.get("/openapi.json")
    assert answer.status_code == 200
    assert answer.json() == document()


@pytest.mark.parametrize("exchange", list(_exchanges()), ids=str)
def test_every_example_is_answered_as_the_document_says(client: httpx.Client, exchange: _Exchange) -> None:
    headers = {} if exchange.media_type is None else {"Content-Type": exchange.media_type}
    body = exchange.example.get("value", "").encode()
    if "externalValue" in exchange.example:
        fetched = client.get("/" + exchange.example["externalValue"])
        assert fetched.status_code == 200
        body = fetched.content
    answer = client.request(exchange.method, exchange.path, content=body or None, headers=headers)
    assert answer.status_code == exchange.status, answer.text
    response = _response(exchange)
    for name in response.get("headers", {}):
        assert name in answer.headers
    content = response.get("content", {}).get("application/json")
    if content is not None:
        assert answer.headers["Content-Type"] == "application/json"
        _schema(content["schema"]).validate(answer.json())
        if exchange.status >= 400:  # an error does not depend on the model: it is the example's to the letter
            assert answer.json() in [example["value"] for example in content["examples"].values()]


def test_there_are_examples_of_success_and_of_every_kind_of_bad_request() -> None:
    sent = {(exchange.path, exchange.status) for exchange in _exchanges()}
    assert {("/analyze", status) for status in (200, 400, 413, 415)} <= sent
    assert {("/predict", status) for status in (200, 400, 415, 422)} <= sent


def _response(exchange: _Exchange) -> dict[str, Any]:
    for path, method, operation in _operations():
        pattern = path.split("{")[0] if "{" in path else path
        fits = exchange.path.startswith(pattern) if "{" in path else exchange.path == path
        csv = path.endswith(".csv") == exchange.path.endswith(".csv")
        if method == exchange.method and fits and csv:
            return _resolved(operation["responses"][str(exchange.status)])
    raise AssertionError(exchange)


def _schema(schema: dict[str, Any]) -> Draft202012Validator:
    return Draft202012Validator({**schema, "components": document()["components"]})
