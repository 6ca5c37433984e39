"""What a started service says of itself: metrics, drift, log, and the dashboard that reads them."""

from __future__ import annotations

import json
import re
import struct
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
import yaml
from websockets.sync.client import ClientConnection, connect

from maskfer.release import Release
from tests.faces_of_light import crops_of_light
from tests.integration.watched import Served, npy, served, until

_MONITORING = Path(__file__).resolve().parents[2] / "k8s" / "monitoring"


@pytest.fixture(scope="module")
def client(watched: Served) -> Iterator[httpx.Client]:
    # A connection for each request: whichever process accepts it answers.
    with watched.client(limits=httpx.Limits(max_keepalive_connections=0)) as client:
        yield client


def _predict(client: httpx.Client, crops: np.ndarray) -> list[dict[str, Any]]:
    answer = client.post("/predict", content=npy(crops))
    assert answer.status_code == 200, answer.text
    predictions: list[dict[str, Any]] = answer.json()["predictions"]
    return predictions


def _until_both_answer(watched: Served, client: httpx.Client) -> None:
    """Ask until each of the two processes has answered; the service is ready as soon as one of them is."""
    [folder] = watched.log.parent.glob("bentoml/*/prometheus_multiproc_dir")

    def counting() -> int:  # a process counts in a file of its own from its first request on
        return len(list(folder.glob("counter_*.db")))

    with ThreadPoolExecutor(8) as pool:

        def press() -> None:  # many at once: one after the other, the same process might take them all
            list(pool.map(lambda seed: _predict(client, crops_of_light(16, seed=seed)), range(8)))
            time.sleep(0.1)

        assert until(lambda: counting() == 2, press, tries=200)


def test_faces_expressions_masks_and_confidence_are_counted_over_all_processes(
    watched: Served, client: httpx.Client
) -> None:
    names = ("maskfer_faces_total", "maskfer_confidence_count", "maskfer_model_seconds_count")
    before = {name: watched.total(name) for name in names}
    masked = watched.total("maskfer_faces_total", masked="yes")
    expressions = {
        name: watched.total("maskfer_faces_total", expression=name)
        for name in ("positive", "neutral", "negative")
    }
    verdicts = [verdict for seed in range(8) for verdict in _predict(client, crops_of_light(5, seed=seed))]
    after = {name: watched.total(name) - before[name] for name in names}
    assert after == {names[0]: 40, names[1]: 40, names[2]: 8}
    said_masked = sum(verdict["masked"] for verdict in verdicts)
    assert watched.total("maskfer_faces_total", masked="yes") - masked == said_masked
    for name, count in expressions.items():
        said = sum(verdict["expression"] == name for verdict in verdicts)
        assert watched.total("maskfer_faces_total", expression=name) - count == said


def test_both_processes_answer_and_one_scrape_has_both_and_bentomls_own(
    watched: Served, client: httpx.Client
) -> None:
    _until_both_answer(watched, client)
    families = watched.metrics()
    assert {"maskfer_requests", "bentoml_service_request"} <= families.keys()


@contextmanager
def _live(watched: Served, session: str) -> Iterator[ClientConnection]:
    with connect(f"ws://127.0.0.1:{watched.port}/live", open_timeout=60) as connection:
        connection.send(json.dumps({"type": "hello", "protocol": 1, "session": session, "consent": True}))
        assert json.loads(connection.recv(timeout=60))["type"] == "ready"
        yield connection


def _processes(connections: list[ClientConnection]) -> set[int | None]:
    """Which server processes hold the other ends."""
    ours = {connection.socket.getsockname()[1] for connection in connections}
    return {
        end.pid
        for end in psutil.net_connections("tcp")
        if end.raddr and end.raddr.port in ours and end.status == psutil.CONN_ESTABLISHED
    }


def test_what_both_processes_see_of_one_live_session_adds_up(watched: Served, client: httpx.Client) -> None:
    _until_both_answer(watched, client)
    session, picture = str(uuid.uuid4()), client.get("/openapi/face.png").content
    frames = watched.total("maskfer_live_frames_total")
    with ExitStack() as stack:
        clients: list[ClientConnection] = []
        while len(clients) < 2 or len(_processes(clients)) < 2:
            assert len(clients) < 60, "one process takes all connections"
            clients.append(stack.enter_context(_live(watched, session)))
            time.sleep(0.05)
        assert watched.total("maskfer_live_clients") == len(clients)
        for number in range(3):
            for live in clients:
                live.send(struct.pack("<BBHI", 1, 0, 0, number) + picture)
            assert {json.loads(live.recv(timeout=60))["type"] for live in clients} == {"reading"}
    sent = 3 * len(clients)
    assert watched.total("maskfer_live_frames_total") - frames == sent

    def kept() -> int:
        minutes = client.get(f"/statistics/{session}").json()["minutes"]
        return sum(minute["faces"] for minute in minutes)

    # The process that is not asked writes what it holds within a second.
    assert until(lambda: kept() == sent, lambda: time.sleep(0.1), tries=300), kept()
    assert client.delete(f"/statistics/{session}").json()["deleted_minutes"] in (1, 2)
    assert [kept() for _ in range(6)] == [0] * 6
    assert until(lambda: watched.total("maskfer_live_clients") == 0, lambda: time.sleep(0.1), tries=300)


def test_requests_are_counted_by_route_method_and_status(watched: Served, client: httpx.Client) -> None:
    labels = {"route": "/analyze", "method": "POST", "status": "415"}
    before = watched.total("maskfer_requests_total", **labels)
    seconds = watched.total("maskfer_request_seconds_count", route="/analyze")
    for _ in range(3):
        assert client.post("/analyze", content=b"no picture").status_code == 415
    assert watched.total("maskfer_requests_total", **labels) - before == 3
    assert watched.total("maskfer_request_seconds_count", route="/analyze") - seconds == 3


def test_paths_and_methods_that_nobody_has_make_no_new_series(watched: Served, client: httpx.Client) -> None:
    client.request("MKCOL", "/coffee-0")
    client.get("/openapi/nothing-0")

    def series() -> int:
        return sum(len(family.samples) for family in watched.metrics().values())

    watched.metrics()  # the first scrape is a new series in the second
    before = series()
    # What uvicorn's parser does not know at all, it answers itself.
    odd = ("MKCOL", "LOCK", "PROPFIND", "REPORT")
    for number in range(1, 20):
        assert client.request(odd[number % 4], f"/coffee-{number}").status_code == 404
        assert client.get(f"/openapi/nothing-{number}").status_code == 404
    # Two processes: the second one may answer such a request for the first time, with BentoML's pid label.
    assert series() - before <= 4
    assert "coffee" not in client.get("/metrics").text


def test_the_model_that_answers_is_named(watched: Served, client: httpx.Client) -> None:
    version = client.get("/readyz").headers["X-Model-Version"]
    [info] = watched.metrics()["maskfer_model_info"].samples
    assert (info.labels["version"], info.labels["name"], info.value) == (version, "maskfer", 1.0)
    assert info.labels["sha256"].startswith(version)


def test_faces_like_those_of_the_training_have_not_drifted_and_darker_ones_have(
    watched: Served, client: httpx.Client
) -> None:
    seeds = iter(range(100, 1000))

    def indices() -> dict[str, float]:
        family = watched.metrics().get("maskfer_drift_psi")
        return {} if family is None else {s.labels["feature"]: s.value for s in family.samples}

    def send_like() -> None:
        for _ in range(10):
            _predict(client, crops_of_light(16, seed=next(seeds)))

    def send_darker() -> None:
        for _ in range(10):
            _predict(client, (crops_of_light(16, seed=next(seeds)) * 0.5).astype(np.uint8))

    # Each of the two processes looks at its own last faces, and other tests have sent theirs.
    settled = until(lambda: len(indices()) == 7 and indices()["brightness"] < 0.2, send_like, tries=40)
    assert settled, indices()
    assert watched.total("maskfer_drift_reference") == 1.0
    assert watched.total("maskfer_drift_window_faces") >= 200
    assert until(lambda: indices()["brightness"] > 1.0, send_darker, tries=40), indices()


def test_a_release_without_reference_says_so_and_has_no_drift(tiny_release: Release, tmp_path: Path) -> None:
    with served(tmp_path, tiny_release, MASKFER_LOG_LEVEL="warning") as bare, bare.client() as client:
        _predict(client, crops_of_light(256, seed=0))
        assert bare.total("maskfer_faces_total") == 256
        assert bare.metrics()["maskfer_drift_reference"].samples[0].value == 0.0
        assert "maskfer_drift_psi" not in bare.metrics()
        assert bare.lines() == [], "at WARNING nothing that goes well is logged"


def test_a_request_id_is_taken_over_or_made_and_is_in_every_answer(client: httpx.Client) -> None:
    for path, status in {"/readyz": 200, "/nothing": 404, "/analyze": 405, "/metrics": 200}.items():
        answer = client.get(path, headers={"X-Request-ID": "trace-1/2:3"})
        assert (answer.status_code, answer.headers["X-Request-ID"]) == (status, "trace-1/2:3")
    made = {client.get("/nothing").headers["X-Request-ID"] for _ in range(3)}
    assert len(made) == 3
    for odd in ("", "a b", "a" * 129, '"}', "<b>"):
        got = client.get("/readyz", headers={"X-Request-ID": odd}).headers["X-Request-ID"]
        assert re.fullmatch(r"[0-9a-f]{32}", got), odd


def test_each_request_has_one_line_that_says_what_it_was_and_nothing_private(
    watched: Served, client: httpx.Client
) -> None:
    crops = crops_of_light(7, seed=5)
    answer = client.post("/predict?token=secret", content=npy(crops), headers={"X-Request-ID": "log-test"})
    session = "6f9619ff-8b86-4d01-b42d-00cf4fc964ff"
    client.get(f"/statistic/{session}", headers={"X-Request-ID": "session-test"})
    [line] = watched.lines_of("log-test")
    [named] = watched.lines_of("session-test")
    assert line | {"time": 0, "ms": 0} == {
        "time": 0,
        "level": "INFO",
        "logger": "maskfer.scoring",
        "message": "answered",
        "request_id": "log-test",
        "method": "POST",
        "path": "/predict",
        "status": 200,
        "ms": 0,
        "faces": 7,
        "model": answer.headers["X-Model-Version"],
    }
    assert line["ms"] > 0
    text = watched.log.read_text()
    assert "secret" not in text
    assert session not in text
    assert named["path"] == "/statistic/{id}"


def test_a_path_cannot_write_lines_of_its_own_into_the_log(watched: Served, client: httpx.Client) -> None:
    client.get('/x%0A{"level":"INFO","message":"forged"}', headers={"X-Request-ID": "forger"})
    [line] = watched.lines_of("forger")
    assert not any(line["message"] == "forged" for line in watched.lines())
    assert line["path"] == '/x\n{"level":"INFO","message":"forged"}'


_KEYWORDS = frozenset(
    {"by", "without", "on", "ignoring", "group_left", "group_right", "and", "or", "unless", "bool", "offset"}
)


def _expressions() -> list[str]:
    dashboard = json.loads((_MONITORING / "scoring-dashboard.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    alerts = yaml.safe_load((_MONITORING / "scoring-alerts.yaml").read_text())
    return queries + [rule["expr"] for group in alerts["groups"] for rule in group["rules"]]


def _parsed(expression: str) -> tuple[dict[str, dict[str, str]], set[str]]:
    """The metrics that a query names, each with the labels it asks of it; and the labels it groups by."""
    grouped = {
        label.strip()
        for found in re.findall(r"\b(?:by|without|on|ignoring|group_left)\s*\(([^)]*)\)", expression)
        for label in found.split(",")
        if label.strip()
    }
    rest = re.sub(r"\b(by|without|on|ignoring|group_left)\s*\([^)]*\)", " ", expression)
    rest = re.sub(r"\[[^\]]*\]", "", rest)
    metrics: dict[str, dict[str, str]] = {}
    for name, braces in re.findall(r"\b([a-zA-Z_:][\w:]*)\b(?!\s*\()\s*(\{[^}]*\})?", _unquoted(rest)):
        if name not in _KEYWORDS:
            labels = metrics.setdefault(name, {})
            labels |= dict(re.findall(r"(\w+)\s*(=~|!=|!~|=)", braces))
    return metrics, grouped


def _unquoted(query: str) -> str:
    return re.sub(r'"[^"]*"', '""', query)


def test_the_parser_of_queries_sees_what_is_there() -> None:
    query = (
        'sum by (le, route) (rate(a_bucket{route=~"x|y",status!="503"}[5m])) / on (le) group_left () b > 0.5'
    )
    metrics, grouped = _parsed(query)
    assert metrics == {"a_bucket": {"route": "=~", "status": "!="}, "b": {}}
    assert grouped == {"le", "route"}


def test_every_metric_and_label_of_dashboard_and_alerts_exists(watched: Served, client: httpx.Client) -> None:
    for seed in range(60):  # enough for a process to compare its faces with the reference
        _predict(client, crops_of_light(16, seed=seed))
    assert until(
        lambda: "maskfer_drift_psi" in watched.metrics(),
        lambda: _predict(client, crops_of_light(16, seed=0)),
        tries=200,
    )
    there: dict[str, set[str]] = {}
    for family in watched.metrics().values():
        for sample in family.samples:
            there.setdefault(sample.name, set()).update(sample.labels)
    expressions = _expressions()
    assert len(expressions) > 30
    used = set()
    for expression in expressions:
        metrics, grouped = _parsed(expression)
        assert metrics, expression
        for name, labels in metrics.items():
            assert name in there, f"{name} in {expression}"
            assert labels.keys() <= there[name], expression
            used.add(name)
        assert grouped <= set().union(*(there[name] for name in metrics)), expression
    ours = {
        re.sub(r"_(sum|count|bucket|created)$", "", name) for name in there if name.startswith("maskfer_")
    }
    shown = {re.sub(r"_(sum|count|bucket)$", "", name) for name in used}
    assert ours <= shown, f"no panel and no alert shows {ours - shown}"
