"""Submitting to a cluster: a stub server stands for Kubeflow's API, which is outside this machine."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

import pytest

from maskfer.config import Params
from maskfer.errors import ServiceUnavailable
from maskfer.promotion import PromotionPolicy
from pipelines.retrain import Cluster, Table, recipe
from pipelines.submit import submit

TABLE = Table(faces_uri="s3://bucket/faces.parquet", dataset_sha256="s3://bucket/faces.parquet")


class Kubeflow(NamedTuple):
    address: str
    requests: list[tuple[str, str, dict[str, Any]]]


@pytest.fixture
def kubeflow() -> Iterator[Kubeflow]:
    requests: list[tuple[str, str, dict[str, Any]]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            known = {"/apis/v2beta1/healthz": {"multi_user": False}, "/apis/v2beta1/experiments": {}}
            self._answer(known.get(path))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            requests.append(("POST", self.path, body))
            if self.path == "/apis/v2beta1/experiments":
                self._answer({"experiment_id": "e1", "display_name": body["display_name"]})
            elif self.path == "/apis/v2beta1/runs":
                self._answer({"run_id": "r1", "display_name": body["display_name"]})
            else:
                self._answer(None)

        def _answer(self, answer: dict[str, Any] | None) -> None:
            content = json.dumps(answer if answer is not None else {"error": "no such thing"}).encode()
            self.send_response(200 if answer is not None else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Keep quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield Kubeflow(f"http://127.0.0.1:{server.server_port}", requests)
    server.shutdown()
    thread.join()
    server.server_close()


def _submit(host: str, *, namespace: str | None = None) -> str:
    return submit(
        host,
        recipe=recipe(Params(), policy=PromotionPolicy(), model_name="trial"),
        table=TABLE,
        cluster=Cluster(),
        experiment="faces",
        namespace=namespace,
    )


def test_a_run_is_created_with_the_graph_and_its_arguments(kubeflow: Kubeflow) -> None:
    address = _submit(kubeflow.address)
    assert address == f"{kubeflow.address}/#/runs/details/r1"
    posted = {path.rsplit("/", 1)[-1]: body for _, path, body in kubeflow.requests}
    assert posted["experiments"]["display_name"] == "faces"
    run = posted["runs"]
    assert run["experiment_id"] == "e1"
    assert run["runtime_config"]["parameters"]["faces_uri"] == TABLE.faces_uri
    assert Params.model_validate_json(run["runtime_config"]["parameters"]["params"]) == Params()
    assert run["runtime_config"]["parameters"]["model_name"] == "trial"
    assert run["pipeline_spec"]["pipeline_spec"]["pipelineInfo"]["name"] == "maskfer-retrain"
    assert "nvidia.com/gpu" in json.dumps(run["pipeline_spec"]["platform_spec"])


def test_a_namespace_reaches_the_experiment(kubeflow: Kubeflow) -> None:
    _submit(kubeflow.address, namespace="team")
    experiments = [body for _, path, body in kubeflow.requests if path.endswith("/experiments")]
    assert experiments[0]["namespace"] == "team"


def test_a_server_that_is_no_kubeflow_is_named_with_its_answer(kubeflow: Kubeflow) -> None:
    with pytest.raises(ServiceUnavailable, match="404") as raised:
        _submit(f"{kubeflow.address}/elsewhere")
    assert "\n" not in str(raised.value)


def test_a_host_that_does_not_answer_is_one_clear_line() -> None:
    with pytest.raises(
        ServiceUnavailable, match=r"no Kubeflow Pipelines API answers at http://127\.0\.0\.1:1:"
    ) as raised:
        _submit("127.0.0.1:1")
    assert "\n" not in str(raised.value)
