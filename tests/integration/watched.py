"""A started service that carries reference statistics, and ways to read its metrics and its log."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from maskfer import release as releases
from maskfer.drift import Reference
from maskfer.inference import Analyzer
from maskfer.release import Description, Release
from tests.faces_of_light import crops_of_light
from tests.integration.conftest import MASKFER, environment, free_port, serving


@dataclass(frozen=True, slots=True)
class Served:
    """A service that is running."""

    url: str
    port: int
    log: Path

    def client(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=30, **options)

    def lines(self) -> list[dict[str, Any]]:
        """The JSON lines of its log; BentoML's supervisor writes others."""
        return [json.loads(line) for line in self.log.read_text("utf-8").splitlines() if line.startswith("{")]

    def lines_of(self, request: str, *, count: int = 1) -> list[dict[str, Any]]:
        """The lines of a request, once there are `count`: the last follows the answer."""

        def those() -> list[dict[str, Any]]:
            return [line for line in self.lines() if line.get("request_id") == request]

        assert until(lambda: len(those()) >= count, lambda: time.sleep(0.1), tries=300), those()
        return those()

    def metrics(self) -> dict[str, Metric]:
        answer = httpx.get(f"{self.url}/metrics", timeout=30)
        assert answer.status_code == 200
        return {family.name: family for family in text_string_to_metric_families(answer.text)}

    def total(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels."""
        return sum(
            sample.value
            for family in self.metrics().values()
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )


@contextmanager
def served(home: Path, release: Release, *, workers: int = 1, **settings: str) -> Iterator[Served]:
    """Run `maskfer serve` on a release until the block ends."""
    port = free_port()
    command = [MASKFER, "serve", "--model", str(release.path), "--port", str(port)]
    log = home / "log"
    with serving([*command, "--workers", str(workers)], port, log=log, env=environment(home, **settings)):
        yield Served(f"http://127.0.0.1:{port}", port, log)


def with_reference(release: Release, out: Path) -> Release:
    """The same release, as if it had been trained on `crops_of_light`."""
    crops = crops_of_light(1000, seed=0)
    described = release.metadata.model_dump(exclude={"files", "format_version"})
    return releases.write(
        out,
        description=Description.model_validate(described),
        weights=release.weights,
        onnx=release.onnx,
        reference=Reference.of(crops, Analyzer(release).predict(crops)).to_bytes(),
    )


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def until(condition: Callable[[], bool], step: Callable[[], object], *, tries: int) -> bool:
    """Whether the condition holds after at most so many steps."""
    for _ in range(tries):
        if condition():
            return True
        step()
    return condition()
