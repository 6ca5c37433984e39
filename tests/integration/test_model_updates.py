"""A started service changes its model with the registry: no request fails, no unsound model answers."""

from __future__ import annotations

import io
import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import pytest

from maskfer.config import Settings
from maskfer.inference import Analyzer
from maskfer.registry import ModelVersion, Registry
from maskfer.release import Release
from services.scoring.shadow import compared
from services.scoring.shadow_records import ShadowRecords
from tests.integration.conftest import MASKFER, environment, free_port, serving
from tests.integration.watched import Served
from tests.known import KnownFaces

_WORKERS = 2
_SEEN_WITHIN_S = 5.0
"""What the service promises with its default of a look every two seconds."""
_TRIES = 4
"""A machine that is busy with other work may miss the promise once, or twice."""


@dataclass(frozen=True)
class Service:
    """A service of two workers, its registry, and the releases behind the versions."""

    client: httpx.Client
    watched: Served
    home: Path
    registry: Registry
    releases: dict[str, Release] = field(default_factory=dict)

    @property
    def log(self) -> str:
        return (self.home / "log").read_text()

    def register(self, release: Release) -> ModelVersion:
        version = self.registry.register(release)
        self.releases[str(version.version)] = release
        return version

    def promote(self, release: Release) -> ModelVersion:
        version = self.register(release)
        self.registry.promote(version, reason="a test", forced=True)
        return version

    def ask(self, crops: np.ndarray) -> httpx.Response:
        answer = self.client.post("/predict", content=_npy(crops))
        assert answer.status_code == 200, answer.text
        return answer

    def versions(self, crops: np.ndarray, *, times: int = 20) -> set[str]:
        """The versions that answer; each request is a new connection, which any of the workers may take."""
        return {self.ask(crops).headers["X-Model-Version"] for _ in range(times)}

    @contextmanager
    def followed(self, version: str) -> Iterator[None]:
        """Move the champion to this version in the block; ends once every worker has changed over.

        Any number of answers may all be of the worker that was first.
        """
        line = f"@champion is now maskfer@{version} "
        before = self.log.count(line)
        yield
        _wait(lambda: self.log.count(line) == before + _WORKERS)

    def events(self, event: str, *, role: str = "champion") -> float:
        """How often all workers together met it."""
        return self.watched.total("maskfer_model_events_total", role=role, event=event)

    def maskfer(self, *arguments: str) -> str:
        done = subprocess.run(
            [MASKFER, *arguments],
            env=environment(self.home, COLUMNS="140"),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def service(known_faces: KnownFaces, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    home, port = tmp_path_factory.mktemp("updates"), free_port()
    url, never_kept = f"http://127.0.0.1:{port}", httpx.Limits(max_keepalive_connections=0)
    client = httpx.Client(base_url=url, timeout=30, limits=never_kept)
    service = Service(client, Served(url, port, home / "log"), home, Registry(Settings(home=home)))
    service.promote(known_faces.release("updates-1"))
    env = environment(home, MASKFER_SHADOW_MODEL="maskfer@challenger")
    command = [MASKFER, "serve", "--port", str(port), "--workers", str(_WORKERS)]
    with client, serving(command, port, log=home / "log", env=env):
        # Ready is who answers first. The other one might load what a test has promoted by then, and never
        # change over. It begins a file of counters with its first look at the registry, once it has loaded.
        counters = "bentoml/*/prometheus_multiproc_dir/counter_*.db"
        _wait(lambda: len(list(home.glob(counters))) == _WORKERS)
        yield service


@pytest.fixture(scope="module")
def crops() -> np.ndarray:
    quadrants = np.random.default_rng(11).integers(0, 256, (24, 2, 2), np.uint8)
    return quadrants.repeat(48, 1).repeat(48, 2)


def _npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def _wait(true: Callable[[], bool], *, within_s: float = 60.0) -> None:
    deadline = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _assert_answer_of(answer: httpx.Response, release: Release, crops: np.ndarray) -> None:
    body = answer.json()
    assert body["model"]["sha256"] == release.sha256
    assert body["model"]["version"] == answer.headers["X-Model-Version"]
    expected = Analyzer(release).predict(crops).expression
    got = [list(one["probabilities"].values()) for one in body["predictions"]]
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_a_promotion_is_seen_by_every_worker_and_no_request_of_a_stream_fails(
    service: Service, known_faces: KnownFaces, crops: np.ndarray
) -> None:
    answers: list[httpx.Response] = []
    done = threading.Event()

    def stream() -> None:
        with httpx.Client(base_url=service.client.base_url, timeout=30) as client:
            while not done.is_set():
                answers.append(client.post("/predict", content=_npy(crops)))

    threads = [threading.Thread(target=stream) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        second = service.promote(known_faces.release("updates-2", shift=40))
        _wait(lambda: service.versions(crops) == {str(second.version)})
        answered = len(answers)
        _wait(lambda: len(answers) > answered + 20)
    finally:
        done.set()
        for thread in threads:
            thread.join(60)
    assert {answer.status_code for answer in answers} == {200}
    by_version = {answer.headers["X-Model-Version"]: answer for answer in answers}
    assert set(by_version) == {"1", "2"}
    for version, answer in by_version.items():
        _assert_answer_of(answer, service.releases[version], crops)
    assert all(a.headers["X-Model-Version"] == a.json()["model"]["version"] for a in answers)
    _wait(lambda: service.events("switched") == 2)
    assert service.log.count("is now maskfer@v2 (before: v1)") == 2


def test_a_rollback_is_seen_by_the_answers_within_five_seconds(service: Service, crops: np.ndarray) -> None:
    assert service.versions(crops) == {"2"}
    for _ in range(_TRIES):
        with service.followed("v1"):
            service.maskfer("models", "rollback", "--reason", "a test")
            time.sleep(_SEEN_WITHIN_S)
            answers = [service.ask(crops) for _ in range(20)]
        if {answer.headers["X-Model-Version"] for answer in answers} == {"1"}:
            break
        with service.followed("v2"):
            service.registry.promote(service.registry.resolve("v2"), reason="once more", forced=True)
    else:
        pytest.fail(f"not within {_SEEN_WITHIN_S:.0f} s, {_TRIES} times")
    for answer in answers[:2]:
        _assert_answer_of(answer, service.releases["1"], crops)


def test_an_unsound_champion_is_refused_and_the_old_one_answers_on(
    service: Service, known_faces: KnownFaces, crops: np.ndarray
) -> None:
    damaged = service.register(known_faces.release("updates-damaged", shift=10))
    stored = Path(damaged.source.removeprefix("file://")) / "model.onnx"
    content = bytearray(stored.read_bytes())
    content[len(content) // 2] ^= 0xFF
    stored.write_bytes(content)
    first = service.releases["1"]
    swapped = service.register(known_faces.release("updates-swapped", shift=60, golden_of=first))
    classes = ("happiness", "neutral", "anger")
    foreign = service.register(known_faces.release("updates-foreign", classes=classes))
    unsound = ((damaged, "sha256"), (swapped, "golden faces"), (foreign, "clients were told"))
    for version, says in unsound:
        service.registry.promote(version, reason="a test", forced=True)
        _wait(lambda version=version: service.log.count(f"{version} is refused, v1 stays") == 2)
        line = next(line for line in service.log.splitlines() if f"{version} is refused" in line)
        assert says in line
        assert service.versions(crops) == {"1"}
    # Each worker has tried each version; the last one is tried again, and again.
    _wait(lambda: service.events("refused") >= 2 * len(unsound) + 3)
    for version, _ in unsound:  # once a worker, not at every look
        assert service.log.count(f"{version} is refused") == 2
    for _ in unsound:
        service.registry.rollback(reason="a test")
    assert service.versions(crops) == {"1"}


def test_without_its_registry_the_service_answers_and_follows_again_later(
    service: Service, crops: np.ndarray
) -> None:
    file = service.home / "mlflow.db"
    away = file.rename(service.home / "mlflow.away")
    try:
        _wait(lambda: service.log.count("cannot be followed, v1 stays") == 2)
        assert service.client.get("/readyz").status_code == 200
        assert service.versions(crops) == {"1"}
        _wait(lambda: service.events("unreachable") >= 6)
        assert service.log.count("cannot be followed, v1 stays") == 2
    finally:
        away.rename(file)
    version = service.registry.resolve("v2")
    with service.followed("v2"):
        service.registry.promote(version, reason="a test", forced=True)
    assert service.versions(crops) == {"2"}
    with service.followed("v1"):
        service.registry.rollback(reason="a test")
    assert service.versions(crops) == {"1"}


def test_a_challenger_is_compared_beside_the_answers(
    service: Service, known_faces: KnownFaces, crops: np.ndarray
) -> None:
    records = ShadowRecords(service.home)
    assert "no challenger was compared yet" in service.maskfer("models", "shadow")
    plain = service.ask(crops).json()
    other, twin = (
        known_faces.release("updates-other", shift=40, blind_to_up=True),
        known_faces.release("twin"),
    )
    served = Analyzer(service.releases["1"]).predict(crops)
    for release in (other, twin):
        version = service.register(release)
        service.registry.challenge(version)
        _wait(lambda version=version: service.log.count(f"challenger is now {version}") == 2)
        answers = [service.ask(crops) for _ in range(10)]
        assert all(answer.json() == plain for answer in answers)
        _wait(lambda: bool(records.reports()) and records.reports()[0].tally.whole.faces == 240)
    nothing_there = service.log.count("challenger: nothing there")
    service.maskfer("models", "challenge", "--end")
    _wait(lambda: service.log.count("challenger: nothing there") == nothing_there + 2)
    service.ask(crops)

    reports = json.loads(service.maskfer("models", "shadow", "--json"))
    assert [report["challenger"]["sha256"] for report in reports] == [twin.sha256, other.sha256]
    for report, release in zip(reports, (twin, other), strict=True):
        assert report["champion"]["version"] == "1"
        assert (report["dropped"], report["failed"]) == (0, 0)
        assert report["ms_per_face"]["champion"] > 0
        assert report["ms_per_face"]["challenger"] > 0
        for name, once in compared(served, Analyzer(release).predict(crops)).items():
            found, expected = report["slices"][name], once.to_json()
            assert found["faces"] == 10 * once.faces > 0
            for part in ("expression", "masked", "orientation"):
                assert found[part] == pytest.approx(expected[part], abs=1e-6)
        agreement = report["slices"]["all"]["expression"]["agreement"]
        assert agreement == 1.0 if release is twin else agreement < 1.0
    assert "beside maskfer v1" in service.maskfer("models", "shadow")
    assert service.watched.total("maskfer_shadow_faces_total", outcome="compared") == 480
    assert service.watched.total("maskfer_shadow_faces_total") == 480
    assert service.events("switched", role="challenger") == 4
    assert not [path for path in service.home.rglob("*") if path.suffix in {".png", ".jpg", ".webp"}]


def test_a_release_folder_is_not_followed(plain: Served, reads_light: Release) -> None:
    with plain.client() as client:
        assert client.get("/readyz").headers["X-Model-Version"] == reads_light.sha256[:12]
    assert plain.total("maskfer_model_events_total") == 0  # a follower looks before the service is ready
    assert "cannot be followed" not in plain.log.read_text()


def test_a_release_that_fails_its_golden_faces_does_not_start(
    known_faces: KnownFaces, tmp_path: Path
) -> None:
    wrong = known_faces.release("updates-start", shift=60, golden_of=known_faces.release("updates-folder-2"))
    done = subprocess.run(
        [MASKFER, "serve", "--model", str(wrong.path), "--port", str(free_port())],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "golden faces" in line
