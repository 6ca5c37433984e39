"""The OpenAPI document is valid, complete, and true of a started service."""

from __future__ import annotations

import json
import struct
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate
from starlette.routing import BaseRoute, Mount
from websockets.sync.client import connect

from services.scoring.edge import BENTOML_ROUTES
from services.scoring.http import create_app
from services.scoring.openapi import document
from tests.integration.watched import Served, until

_METHODS = ("get", "post", "delete")
_WEBSOCKETS = {"/live"}
_NOBODY = "00000000-0000-4000-8000-000000000000"


@dataclass(frozen=True, slots=True)
class _Exchange:
    """An example of a request, and the answer that the document promises."""

    method: str
    path: str
    media_type: str | None
    example: dict[str, Any]
    status: int
    response: dict[str, Any]

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
                own = item[method]
                parameters = [*item.get("parameters", []), *own.get("parameters", [])]
                yield path, method, {**own, "parameters": parameters}


def _exchanges() -> Iterator[_Exchange]:
    for path, method, operation in _operations():
        if not _served(path) or path in _WEBSOCKETS:
            continue
        named = _named_requests(operation)
        for status, response in operation["responses"].items():
            promised = _resolved(response)
            for content in promised.get("content", {}).values():
                for name in sorted(named.keys() & content.get("examples", {}).keys()):
                    asked = _filled(path, operation, name)
                    yield _Exchange(method, asked, *named[name], int(status), promised)
        if "{" not in path and "requestBody" not in operation:
            yield _Exchange(method, path, None, {}, 200, operation["responses"]["200"])


def _named_requests(operation: dict[str, Any]) -> dict[str, tuple[str | None, dict[str, Any]]]:
    named: dict[str, tuple[str | None, dict[str, Any]]] = {}
    for parameter in map(_resolved, operation["parameters"]):
        named |= {name: (None, {}) for name in parameter.get("examples", {})}
    for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
        named |= {name: (media_type, example) for name, example in content.get("examples", {}).items()}
    return named


def _filled(path: str, operation: dict[str, Any], name: str) -> str:
    """The path with its parameters: of the example's name, where it has none of it the first one."""
    for parameter in map(_resolved, operation["parameters"]):
        examples = parameter.get("examples", {})
        if parameter["in"] == "path":
            example = examples.get(name) or next(iter(examples.values()))
            path = path.replace(f"{{{parameter['name']}}}", example["value"])
        elif parameter["in"] == "query" and name in examples:
            path += f"?{parameter['name']}={examples[name]['value']}"
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
                    if "externalValue" not in example:
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
    for name in exchange.response.get("headers", {}):
        assert name in answer.headers
    media_types = exchange.response.get("content", {})
    if media_types:
        assert answer.headers["Content-Type"].split(";")[0] in media_types
    content = media_types.get("application/json")
    if content is not None:
        assert answer.headers["Content-Type"] == "application/json"
        _schema(content["schema"]).validate(answer.json())
        if exchange.status >= 400:  # an error does not depend on the model: it is the example's to the letter
            assert answer.json() in [example["value"] for example in content["examples"].values()]


def test_there_are_examples_of_success_and_of_every_kind_of_bad_request() -> None:
    sent = {(exchange.path, exchange.status) for exchange in _exchanges()}
    assert {("/analyze", status) for status in (200, 400, 413, 415)} <= sent
    assert {("/predict", status) for status in (200, 400, 415, 422)} <= sent
    statistics = f"/statistics/{_NOBODY}"
    for path in (statistics, f"{statistics}.csv"):
        assert {(f"{path}?minutes=60", 200), (f"{path}?minutes=all", 422), (path, 200)} <= sent
    assert {("/", 200), ("/page/main.js", 200), ("/page/nothing.js", 404)} <= sent


def test_what_was_counted_of_a_session_is_as_the_document_says(watched: Served, client: httpx.Client) -> None:
    session, picture = str(uuid.uuid4()), client.get("/openapi/face.png").content
    with connect(f"ws://127.0.0.1:{watched.port}/live", open_timeout=60) as socket:
        socket.send(json.dumps({"type": "hello", "protocol": 1, "session": session, "consent": True}))
        assert json.loads(socket.recv(timeout=60))["type"] == "ready"
        socket.send(struct.pack("<BBHI", 1, 0, 0, 7) + picture)
        assert json.loads(socket.recv(timeout=60))["type"] == "reading"

    def counted() -> dict[str, Any]:
        body: dict[str, Any] = client.get(f"/statistics/{session}").json()
        return body

    # The other process may be asked, and this one writes within a second.
    assert until(lambda: bool(counted()["minutes"]), lambda: time.sleep(0.1), tries=300)
    body = counted()
    assert len(body["minutes"]) == 1
    _schema(document()["components"]["schemas"]["Statistics"]).validate(body)
    download = document()["paths"]["/statistics/{session}.csv"]["get"]["responses"]["200"]
    shown: str = download["content"]["text/csv"]["examples"]["the last hour"]["value"]
    assert client.get(f"/statistics/{session}.csv").text.splitlines()[0] == shown.splitlines()[0]


def _schema(schema: dict[str, Any]) -> Draft202012Validator:
    return Draft202012Validator({**schema, "components": document()["components"]})
