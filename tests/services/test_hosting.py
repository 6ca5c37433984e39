"""What is served follows the registry, and whatever goes wrong, what is served stays."""

from __future__ import annotations

import gc
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from starlette.datastructures import State

from maskfer import release as releases
from maskfer.config import Settings
from maskfer.registry import ModelVersion, Registry
from services.model import ServedModel, followed_alias, load_model
from services.scoring import hosting
from services.scoring.hosting import Follower, follow_challenger, follow_champion
from services.scoring.scorer import Scorer
from services.scoring.shadow import Shadow
from services.scoring.shadow_records import ShadowRecords
from tests.known import KnownFaces
from tests.services.conftest import judge, scorer_of, stored_file

Log = Callable[[], list[str]]


class Hosted:
    """A follower that looks when the test says so, and what it put in."""

    def __init__(self, settings: Settings, registry: Registry) -> None:
        self.registry = registry
        self.model = load_model(None, settings)
        self.follower = Follower(
            f"{settings.model_name}@champion",
            settings,
            prepare=scorer_of,
            put=self._put,
            serves=self.model,
        )

    def _put(self, scorer: Scorer) -> None:
        self.model = scorer.model

    def promoted(self, version: ModelVersion) -> Hosted:
        self.registry.promote(version, reason="a test", forced=True)
        return self

    @property
    def version(self) -> str:
        return self.model.version


@pytest.fixture
def hosted(quick: Settings, known_faces: KnownFaces) -> Hosted:
    registry = Registry(quick)
    registry.promote(
        registry.register(known_faces.release(f"{quick.model_name}-1")), reason="first", forced=True
    )
    return Hosted(quick, registry)


def test_only_an_alias_is_followed(settings: Settings) -> None:
    name = settings.model_name
    assert followed_alias(None, settings) == f"{name}@champion"
    assert followed_alias("other@trial", settings) == "other@trial"
    assert followed_alias("other@v3", settings) is None
    assert followed_alias("runs/release", settings) is None
    state = State({"scorer": None})
    pinned = settings.model_copy(update={"scoring_model": f"{name}@3"})
    assert follow_champion(state, pinned, make=scorer_of) is None


def test_a_promotion_and_a_rollback_are_followed(hosted: Hosted, known_faces: KnownFaces, log: Log) -> None:
    hosted.follower.look()
    assert (hosted.version, log()) == ("1", [])
    second = hosted.registry.register(known_faces.release(f"{hosted.model.name}-2", shift=30))
    hosted.promoted(second).follower.look()
    assert hosted.version == "2"
    assert hosted.model.sha256 == second.release_sha256
    (line,) = log()
    assert "v2" in line
    assert "before: v1" in line
    hosted.registry.rollback(reason="back", name=hosted.model.name)
    hosted.follower.look()
    assert hosted.version == "1"
    assert hosted.follower.counts.switched == 2


def test_a_damaged_release_is_refused_once_in_the_log_and_taken_once_repaired(
    hosted: Hosted, known_faces: KnownFaces, log: Log
) -> None:
    second = hosted.registry.register(known_faces.release(f"{hosted.model.name}-2", shift=30))
    graph = stored_file(second.source, "model.onnx")
    whole = graph.read_bytes()
    graph.write_bytes(whole[:200] + bytes(byte ^ 0xFF for byte in whole[200:210]) + whole[210:])
    hosted.promoted(second)
    for _ in range(4):
        hosted.follower.look()
        time.sleep(0.02)
    assert hosted.version == "1"
    assert hosted.follower.counts.refused >= 2
    (line,) = log()
    assert "is refused, v1 stays" in line
    assert "sha256" in line
    graph.write_bytes(whole)
    time.sleep(0.5)
    hosted.follower.look()
    assert hosted.version == "2"


def test_a_refused_version_is_not_loaded_at_every_look(
    hosted: Hosted, known_faces: KnownFaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = known_faces.release(f"{hosted.model.name}-told")
    wrong = known_faces.release(f"{hosted.model.name}-wrong", shift=60, golden_of=told)
    hosted.promoted(hosted.registry.register(wrong))
    # By this clock a look takes no time, however long it does.
    now_s = 0.0
    monkeypatch.setattr(hosting, "time", SimpleNamespace(monotonic=lambda: now_s))
    for look in range(50):
        now_s = 0.02 * look
        hosted.follower.look()
    # It waits 0.01 s, doubled each time: tries after 0, 0.02, 0.04, 0.08, ..., 0.64 s.
    assert hosted.follower.counts.refused == 7
    assert hosted.version == "1"


def test_wrong_golden_faces_and_a_graph_that_does_not_load_are_refused(
    hosted: Hosted, known_faces: KnownFaces, log: Log, tmp_path: Path
) -> None:
    told = known_faces.release(f"{hosted.model.name}-told")
    wrong = known_faces.release(f"{hosted.model.name}-wrong", shift=60, golden_of=told)
    hosted.promoted(hosted.registry.register(wrong)).follower.look()
    assert "golden faces" in log()[-1]
    description = releases.Description.model_validate(
        told.metadata.model_dump(exclude={"files", "format_version"})
    )
    broken = releases.write(tmp_path / "broken", description=description, weights=b"", onnx=b"no graph")
    hosted.promoted(hosted.registry.register(broken)).follower.look()
    assert "cannot load it" in log()[-1]
    assert hosted.version == "1"
    assert hosted.follower.counts.refused == 2


def test_other_classes_are_refused_until_a_restart(
    quick: Settings, hosted: Hosted, known_faces: KnownFaces, log: Log
) -> None:
    state = State({"scorer": scorer_of(hosted.model)})
    follower = follow_champion(state, quick, make=scorer_of)
    assert follower is not None
    other = known_faces.release(f"{hosted.model.name}-other", classes=("happiness", "neutral", "anger"))
    with stopped_after(follower):
        hosted.promoted(hosted.registry.register(other))
        wait_until(lambda: follower.counts.refused > 0)
    assert state.scorer.model.version == "1"
    (line,) = log()
    assert "classes is ('happiness', 'neutral', 'anger')" in line
    assert "restart" in line


def test_a_registry_that_is_gone_changes_nothing_and_is_told_once(
    hosted: Hosted, known_faces: KnownFaces, quick: Settings, log: Log
) -> None:
    second = hosted.registry.register(known_faces.release(f"{hosted.model.name}-2", shift=30))
    hosted.promoted(second)
    file = quick.home / "mlflow.db"
    away = file.rename(file.with_suffix(".away"))
    try:
        for _ in range(3):
            hosted.follower.look()
    finally:
        away.rename(file)
    assert hosted.version == "1"
    assert hosted.follower.counts.unreachable == 3
    (line,) = log()
    assert "v1 stays" in line
    hosted.follower.look()
    assert hosted.version == "2"
    assert "can be followed again" in log()[0]


def test_a_champion_taken_back_while_it_loads_is_never_let_in(
    quick: Settings, hosted: Hosted, known_faces: KnownFaces
) -> None:
    second = hosted.registry.register(known_faces.release(f"{hosted.model.name}-2", shift=30))
    hosted.promoted(second)
    let_in: list[str] = []

    def prepare(model: ServedModel) -> Scorer:
        hosted.registry.rollback(reason="at once", name=model.name)
        return scorer_of(model)

    def put(scorer: Scorer) -> None:
        let_in.append(scorer.model.version)

    follower = Follower(f"{hosted.model.name}@champion", quick, prepare=prepare, put=put, serves=hosted.model)
    follower.look()
    follower.look()
    assert let_in == []
    assert follower.counts.refused == 0


def test_a_replaced_scorer_is_let_go(quick: Settings, hosted: Hosted, known_faces: KnownFaces) -> None:
    gc.disable()  # the service's collector runs rarely: nothing may wait for it
    try:
        state = State({"scorer": scorer_of(hosted.model)})
        old = weakref.ref(state.scorer)
        session = weakref.ref(state.scorer._analyzer)
        follower = follow_champion(state, quick, make=scorer_of)
        assert follower is not None
        with stopped_after(follower):
            hosted.promoted(hosted.registry.register(known_faces.release(f"{hosted.model.name}-2", shift=30)))
            wait_until(lambda: state.scorer.model.version == "2")
            wait_until(lambda: old() is None and session() is None)
    finally:
        gc.enable()


def test_a_challenger_comes_and_goes_with_its_alias(
    quick: Settings, hosted: Hosted, known_faces: KnownFaces
) -> None:
    state, shadow = State({"scorer": scorer_of(hosted.model)}), Shadow(ShadowRecords(quick.home))
    follower = follow_challenger(state, quick, shadow, reference=f"{quick.model_name}@challenger")
    with stopped_after(follower):
        wait_until(lambda: follower.counts.looks > 1)
        assert shadow.challenger is None
        second = hosted.registry.register(known_faces.release(f"{hosted.model.name}-2", shift=30))
        hosted.registry.challenge(second)
        wait_until(lambda: shadow.challenger is not None)
        assert shadow.challenger is not None
        assert shadow.challenger.model.sha256 == second.release_sha256
        hosted.registry.end_challenge()
        wait_until(lambda: shadow.challenger is None)
    assert follower.counts.unreachable == 0
    assert np.isfinite(judge(scorer_of(hosted.model), np.zeros((1, 96, 96), np.uint8)).masked).all()


@contextmanager
def stopped_after(follower: Follower[Any]) -> Iterator[None]:
    """Its thread would go on looking beside the tests that follow."""
    try:
        yield
    finally:
        follower.stop()


def wait_until(true: Callable[[], bool], *, within_s: float = 30.0) -> None:
    deadline = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)
