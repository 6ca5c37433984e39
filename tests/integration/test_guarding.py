"""A started service with tokens, one foreign origin, and limits that are soon reached."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from threading import Barrier

import httpx
import numpy as np
import pytest

from maskfer.release import Release
from tests.faces_of_light import crops_of_light
from tests.integration.watched import Served, npy, served, until
from tests.integration.wire import Wire, head

_TOKENS = ("first-token", "second-token")
_ORIGIN = "https://front.example"
_CONNECTIONS = 24
_BEARER = {"Authorization": f"Bearer {_TOKENS[0]}"}
_PROBES = ("/livez", "/readyz", "/healthz")
_SESSION = "6f9619ff-8b86-4d01-b42d-00cf4fc964ff"
_CLOSED = (
    ("GET", "/metrics"),
    ("POST", "/analyze"),
    ("POST", "/predict"),
    ("GET", f"/statistics/{_SESSION}"),
    ("GET", f"/statistics/{_SESSION}.csv"),
    ("DELETE", f"/statistics/{_SESSION}"),
)
_CROPS = npy(crops_of_light(64, seed=0))


@pytest.fixture(scope="module")
def guarded(tiny_release: Release, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(
        tmp_path_factory.mktemp("guarded"),
        tiny_release,
        MASKFER_API_TOKENS=", ".join(_TOKENS),
        MASKFER_CORS_ORIGINS=_ORIGIN,
        MASKFER_MAX_REQUESTS="2",
        MASKFER_MAX_CONNECTIONS=str(_CONNECTIONS),
        # No limit that is tested here: a busy machine may need long for two requests of 64 crops.
        MASKFER_REQUEST_TIMEOUT_S="15",
    ) as running:
        yield running


@pytest.fixture(scope="module")
def impatient(tiny_release: Release, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A service that soon gives up who is slow."""
    settings = {"MASKFER_REQUEST_TIMEOUT_S": "3"}
    with served(tmp_path_factory.mktemp("impatient"), tiny_release, **settings) as running:
        yield running


@pytest.fixture(scope="module")
def client(guarded: Served) -> Iterator[httpx.Client]:
    with guarded.client(headers=_BEARER) as client:
        yield client


def test_without_a_token_nothing_is_answered_but_the_open_paths(guarded: Served) -> None:
    with guarded.client() as client:
        for path in (*_PROBES, "/", "/page/main.js", "/openapi.json", "/openapi/face.png"):
            assert client.get(path).status_code == 200, path
        for method, path in _CLOSED:
            answer = client.request(method, path)
            assert answer.status_code == 401, path
            assert answer.headers["WWW-Authenticate"] == 'Bearer realm="maskfer"'
            assert answer.json()["error"] == "NotAllowed"


@pytest.mark.parametrize("token", _TOKENS)
@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
def test_each_token_opens(guarded: Served, token: str, scheme: str) -> None:
    headers = {"Authorization": f"{scheme} {token}"}
    with guarded.client(headers=headers) as client:
        assert client.get("/metrics").status_code == 200
        assert client.post("/predict", content=npy(crops_of_light(1, seed=0))).status_code == 200
        for method, path in _CLOSED[3:]:
            assert client.request(method, path).status_code == 200, path


@pytest.mark.parametrize(
    "given",
    ["Bearer", "Bearer first", "Bearer first-token,", "Basic first-token", "first-token", "Bearer \xff"],
)
def test_nothing_else_opens(guarded: Served, given: str) -> None:
    with guarded.client() as client:
        answer = client.get("/metrics", headers=[(b"Authorization", given.encode("latin-1"))])
        assert answer.status_code == 401


def test_a_token_is_in_neither_log_nor_answer(guarded: Served, client: httpx.Client) -> None:
    assert client.get("/metrics").status_code == 200
    assert not any(token in guarded.log.read_text() for token in _TOKENS)


def test_only_pages_of_named_origins_may_read_answers(client: httpx.Client) -> None:
    preflight = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    opened = client.options("/analyze", headers={"Origin": _ORIGIN, **preflight})
    assert opened.status_code == 200
    assert opened.headers["Access-Control-Allow-Origin"] == _ORIGIN
    assert "authorization" in opened.headers["Access-Control-Allow-Headers"].lower()
    answer = client.post("/analyze", content=b"x", headers={"Origin": _ORIGIN})
    assert answer.headers["Access-Control-Allow-Origin"] == _ORIGIN
    assert "x-request-id" in answer.headers["Access-Control-Expose-Headers"].lower()
    for origin in ("https://other.example", "https://front.example.evil", "http://front.example", "null"):
        assert (
            "Access-Control-Allow-Origin"
            not in client.options("/analyze", headers={"Origin": origin, **preflight}).headers
        )
        assert "Access-Control-Allow-Origin" not in client.get("/livez", headers={"Origin": origin}).headers


def test_by_default_no_origin_is_named(watched: Served) -> None:
    with watched.client() as client:
        answer = client.get("/livez", headers={"Origin": _ORIGIN})
        assert not any(name.startswith("access-control") for name in answer.headers)
        preflight = {"Origin": _ORIGIN, "Access-Control-Request-Method": "POST"}
        assert client.options("/analyze", headers=preflight).status_code == 405


def test_every_answer_has_the_headers_of_a_careful_service(guarded: Served, client: httpx.Client) -> None:
    answers = [
        client.get("/livez"),
        client.get("/metrics"),
        client.get("/nothing"),
        client.get("/analyze"),
        client.post("/analyze", content=b"x"),
        client.post("/analyze", content=b"x" * 30_000_000),
        httpx.get(f"{guarded.url}/metrics", timeout=30),
    ]
    assert [answer.status_code for answer in answers] == [200, 200, 404, 405, 415, 413, 401]
    for answer in answers:
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["X-Frame-Options"] == "DENY"
        assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert answer.headers["Permissions-Policy"].startswith("camera=(self)")
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["X-Request-ID"]
        assert answer.headers["X-Model-Version"]
        assert "Server" not in answer.headers
        assert not any("bentoml" in name.lower() for name in answer.headers)


def test_bentomls_own_pages_are_not_reachable(guarded: Served, client: httpx.Client) -> None:
    for path in ("/docs.json", "/schema.json", "/static_content/swagger-ui.css", "//readyz"):
        # Whole: of a relative `//readyz` httpx would make `/`.
        assert client.get(guarded.url + path).status_code == 404, path


def test_overload_refuses_at_once_and_answers_all_that_it_accepted(client: httpx.Client) -> None:
    expected = client.post("/predict", content=_CROPS).json()
    clients, start = 12, Barrier(12)

    def ask(_: int) -> httpx.Response:
        start.wait()
        return client.post("/predict", content=_CROPS)

    with ThreadPoolExecutor(clients) as pool:
        answers = [answer for _ in range(4) for answer in pool.map(ask, range(clients))]
    accepted = [answer for answer in answers if answer.status_code == 200]
    refused = [answer for answer in answers if answer.status_code != 200]
    assert len(accepted) >= 8
    assert refused
    for answer in accepted:
        got, want = (
            [p["masked_probability"] for p in body["predictions"]] for body in (answer.json(), expected)
        )
        assert got == pytest.approx(want, abs=1e-5)
    for answer in refused:
        assert answer.status_code == 503
        assert answer.headers["Retry-After"] == "1"
        assert answer.json()["error"] == "ServiceUnavailable"
    assert client.get("/metrics").text.count('maskfer_refusals_total{reason="overload"} 0.0') == 0
    assert client.post("/predict", content=_CROPS).status_code == 200, "and goes on"


def test_a_body_that_drips_is_answered_504_and_its_connection_closed(impatient: Served) -> None:
    with socket.create_connection(("127.0.0.1", impatient.port), 60) as slow:
        slow.sendall(head("POST", "/analyze", length=1000) + b"abc")
        answer = _all_that_comes(slow)
    assert answer.startswith(b"HTTP/1.1 504 ")
    assert json.loads(answer.rpartition(b"\r\n\r\n")[2])["error"] == "Timeout"


def test_a_head_that_never_ends_is_closed(impatient: Served) -> None:
    with socket.create_connection(("127.0.0.1", impatient.port), 60) as slow:
        slow.sendall(b"POST /analyze HTTP/1.1\r\nHost: x\r\n")
        assert _all_that_comes(slow) == b""


def test_a_client_that_drips_after_its_answer_is_closed(impatient: Served) -> None:
    with socket.create_connection(("127.0.0.1", impatient.port), 60) as slow:
        slow.sendall(head("GET", "/livez"))
        assert slow.recv(65_536).startswith(b"HTTP/1.1 200 ")
        slow.settimeout(0.5)

        def closed() -> bool:
            try:
                slow.sendall(b"\r\n")  # may precede a head, so it is no fault to answer, and begins none
                assert slow.recv(65_536) == b"", "a second answer"
            except TimeoutError:
                return False
            except ConnectionError:
                pass
            return True

        assert until(closed, lambda: None, tries=60)


def test_more_connections_than_allowed_are_told_so(guarded: Served) -> None:
    held = [socket.create_connection(("127.0.0.1", guarded.port), 60) for _ in range(_CONNECTIONS + 2)]
    try:
        answer = _all_that_comes(held[-1])
    finally:
        for connection in held:
            connection.close()
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"Retry-After: 1" in answer

    def serves() -> bool:
        with suppress(httpx.TransportError):
            return httpx.get(f"{guarded.url}/livez", timeout=30).status_code == 200
        return False

    assert until(serves, lambda: time.sleep(0.1), tries=100), "and serves again once they are gone"


@pytest.mark.parametrize(
    ("lines", "body", "status"),
    [
        (("Content-Length: 5", "Transfer-Encoding: chunked"), b"5\r\nhello\r\n0\r\n\r\n", 400),
        (("Content-Length: 5", "Content-Length: 6"), b"hello!", 400),
        (("Content-Length: -5",), b"hello", 400),
        (("Content-Length: 1e3",), b"hello", 400),
        (("Transfer-Encoding: gzip",), b"hello", 501),
        (("Transfer-Encoding: chunked",), b"zz\r\nhello\r\n0\r\n\r\n", 400),
        (("Content-Length: 99999999999",), b"", 413),
        (("Content-Encoding: gzip", "Content-Length: 5"), b"hello", 415),
        (("Expect: 100-continue", "Content-Length: 5"), b"hello", 415),
    ],
)
def test_heads_that_contradict_themselves_are_refused(
    guarded: Served, lines: tuple[str, ...], body: bytes, status: int
) -> None:
    wire = Wire(guarded.port)
    answer = wire.ask(head("POST", "/analyze", f"Authorization: Bearer {_TOKENS[0]}", *lines) + body)
    wire.close()
    assert answer is not None
    assert answer.status in {status, 400}
    assert b"Traceback" not in answer.body


def test_a_method_in_a_header_is_no_method(client: httpx.Client) -> None:
    for name in ("X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"):
        assert client.get("/analyze", headers={name: "POST"}).status_code == 405
    assert client.post("/analyze?_method=DELETE", content=b"x").status_code == 415


def test_a_fault_of_ours_says_its_id_and_nothing_of_its_inside(guarded: Served, client: httpx.Client) -> None:
    [folder] = guarded.log.parent.glob("bentoml/*/prometheus_multiproc_dir")
    aside = folder.with_name("aside")
    folder.rename(aside)  # the metrics of its processes are gone while it runs
    try:
        answer = client.get("/metrics", headers={"X-Request-ID": "fault"})
    finally:
        aside.rename(folder)
    assert answer.status_code == 500
    assert answer.json() == {
        "error": "InternalError",
        "message": "the service failed on this request; its log says why",
    }
    assert (answer.headers["X-Request-ID"], answer.headers["X-Frame-Options"]) == ("fault", "DENY")
    [failed, line] = guarded.lines_of("fault", count=2)
    assert "Traceback" in failed["exception"]
    assert (line["status"], line["path"]) == (500, "/metrics")
    assert client.get("/metrics").status_code == 200


def _all_that_comes(connection: socket.socket) -> bytes:
    received = b""
    while chunk := connection.recv(65_536):
        received += chunk
    return received


def test_a_bomb_takes_no_memory_that_its_header_asks_for(client: httpx.Client) -> None:
    bomb = client.get("/openapi/too-large.png").content
    assert client.post("/analyze", content=bomb).status_code == 413
    assert client.post("/predict", files=[("a", ("a.png", bomb))]).status_code == 422
    wide = np.zeros((1, 30_000, 3), np.uint8)
    assert client.post("/analyze", content=npy(wide)).status_code == 415
