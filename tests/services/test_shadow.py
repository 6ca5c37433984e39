"""The shadow compares what it can, drops the rest, counts both, and keeps nothing but sums."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from maskfer.errors import ServiceUnavailable
from maskfer.inference import Analyzer
from maskfer.release import Release
from services.scoring import metrics
from services.scoring.shadow import Challenger, Shadow, compared
from services.scoring.shadow_records import Agreement, Named, Pair, Report, ShadowRecords, Tally, Work
from tests.known import KnownFaces
from tests.services.conftest import judge, scorer_of, served


def crops_of(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 2, 2), np.uint8).repeat(48, 1).repeat(48, 2)


@pytest.fixture(scope="module")
def champion(known_faces: KnownFaces) -> Release:
    return known_faces.release("shadow-champion")


@pytest.fixture(scope="module")
def other(known_faces: KnownFaces) -> Release:
    return known_faces.release("shadow-other", shift=40, blind_to_up=True)


def challenger(release: Release, version: int = 2) -> Challenger:
    return Challenger(served(release, version), Analyzer(release))


def reports_when(records: ShadowRecords, ready: Callable[[Report], bool]) -> Report:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        found = records.reports()
        if found and ready(found[0]):
            return found[0]
        time.sleep(0.02)
    pytest.fail(f"never ready: {records.reports()}")


def _faces(outcome: str) -> float:
    """What Prometheus would be told."""
    value = metrics._metrics().registry.get_sample_value("maskfer_shadow_faces_total", {"outcome": outcome})
    assert value is not None
    return value


def test_agreement_is_counted_by_slice(champion: Release, other: Release) -> None:
    crops = crops_of(200, seed=1)
    one, two = Analyzer(champion).predict(crops), Analyzer(other).predict(crops)
    slices = compared(one, two)
    assert sum(each.faces for each in slices.values()) == 200
    for name, of in (("masked", one.masked >= 0.5), ("unmasked", one.masked < 0.5)):
        found = slices[name]
        assert found.faces == of.sum() > 0
        same = one.expression[of].argmax(axis=1) == two.expression[of].argmax(axis=1)
        assert found.same_expression == same.sum() < found.faces
        assert found.same_masked == found.faces
        assert found.masked_difference == pytest.approx(0, abs=1e-5)
        assert found.expression_difference == pytest.approx(
            np.abs(one.expression[of] - two.expression[of]).mean(axis=1).sum(), rel=1e-5
        )


def test_what_the_scorer_answers_is_compared_beside_it(
    champion: Release, other: Release, tmp_path: Path
) -> None:
    records = ShadowRecords(tmp_path)
    shadow = Shadow(records)
    scorer, crops = scorer_of(served(champion), shadow=shadow), crops_of(20, seed=2)
    before = judge(scorer, crops)
    shadow.challenger = challenger(other)
    shadow.start()
    after = [judge(scorer, crops) for _ in range(10)][-1]
    np.testing.assert_array_equal(after.expression, before.expression)
    report = reports_when(records, lambda report: report.tally.whole.faces == 200)
    assert report.pair == Pair(Named("maskfer", "1", champion.sha256), Named("maskfer", "2", other.sha256))
    expected = compared(before, Analyzer(other).predict(crops))
    shown = report.to_json()["slices"]
    for name, once in expected.items():
        assert shown[name]["faces"] == 10 * once.faces
        for part in ("expression", "masked", "orientation"):
            for what in ("agreement", "difference"):
                assert shown[name][part][what] == pytest.approx(once.to_json()[part][what], abs=1e-6)
    work = report.tally.work
    assert (work.dropped, work.failed) == (0, 0)
    assert 0 < work.timed_faces < 200, "of so many runs only one"
    assert work.champion_s > 0
    assert work.challenger_s > 0


def test_the_same_graph_agrees_wholly(known_faces: KnownFaces, champion: Release, tmp_path: Path) -> None:
    twin = known_faces.release("shadow-twin")
    assert twin.sha256 != champion.sha256
    records, crops = ShadowRecords(tmp_path), crops_of(30, seed=3)
    shadow = Shadow(records)
    shadow.challenger = challenger(twin)
    shadow.start()
    judge(scorer_of(served(champion), shadow=shadow), crops)
    report = reports_when(records, lambda report: report.tally.whole.faces == 30)
    for part in ("expression", "masked", "orientation"):
        assert report.to_json()["slices"]["all"][part] == {"agreement": 1.0, "difference": 0.0}


def test_nothing_is_compared_with_itself_or_without_a_face(champion: Release, tmp_path: Path) -> None:
    records = ShadowRecords(tmp_path)
    shadow = Shadow(records)
    shadow.start()
    scorer = scorer_of(served(champion), shadow=shadow)
    for one in (None, challenger(champion)):
        shadow.challenger = one
        judge(scorer, crops_of(3, seed=4))
        judge(scorer, np.zeros((0, 96, 96), np.uint8))
    time.sleep(0.2)
    assert records.reports() == []


def test_what_does_not_fit_the_queue_is_counted_and_the_offer_returns_at_once(
    champion: Release, other: Release, tmp_path: Path
) -> None:
    records = ShadowRecords(tmp_path)
    shadow = Shadow(records, max_waiting_faces=10)
    shadow.challenger = challenger(other)
    analyzer = Analyzer(champion)

    def offer(count: int) -> None:
        crops = crops_of(count, seed=count)
        shadow.offer(served(champion), analyzer, crops, analyzer.predict(crops))

    dropped = _faces("dropped")
    for count in (6, 4, 3, 20):  # nobody takes anything out yet
        offer(count)
    shadow.start()
    report = reports_when(records, lambda report: report.tally.whole.faces == 10)
    assert report.tally.work.dropped == _faces("dropped") - dropped == 23
    offer(20)  # larger than the queue, but nothing waits
    reports_when(records, lambda report: report.tally.whole.faces == 30)


def test_a_challenger_that_fails_is_counted_and_told_once(
    champion: Release, other: Release, tmp_path: Path, log: Callable[[], list[str]]
) -> None:
    records = ShadowRecords(tmp_path)
    shadow = Shadow(records)
    failing = challenger(other)
    metadata = other.metadata.model_copy(update={"crop_size": 64})
    failing.analyzer.release = replace(other, metadata=metadata)  # it refuses every crop
    shadow.challenger = failing
    shadow.start()
    scorer = scorer_of(served(champion), shadow=shadow)
    failed = _faces("failed")
    for seed in range(3):
        assert len(judge(scorer, crops_of(2, seed=seed))) == 2
    report = reports_when(records, lambda report: report.tally.work.failed == 6)
    assert report.tally.whole.faces == 0
    assert _faces("failed") - failed == 6
    assert report.to_json()["slices"]["all"]["expression"] == {"agreement": None, "difference": None}
    (line,) = log()
    assert "maskfer v2 fails on faces" in line


def _add(home: Path, times: int) -> None:
    """In a process of its own."""
    pair = Pair(Named("maskfer", "1", "a" * 64), Named("maskfer", "2", "b" * 64))
    for _ in range(times):
        tally = Tally(work=Work(dropped=1, timed_faces=2, champion_s=0.5, challenger_s=0.25))
        tally.agreement["masked"] = Agreement(faces=3, same_expression=2, expression_difference=0.5)
        ShadowRecords(home).add({pair: tally})


def test_several_processes_add_to_one_record(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_add, args=(tmp_path, 20)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    (report,) = ShadowRecords(tmp_path).reports()
    assert report.tally.agreement["masked"].faces == 120
    assert report.tally.agreement["masked"].same_expression == 80
    assert report.tally.whole.expression_difference == 20.0
    assert report.to_json()["ms_per_face"] == {"champion": 250.0, "challenger": 125.0, "faces": 80}
    assert report.tally.work.dropped == 40
    assert report.since <= report.until


def test_each_pair_has_its_own_record_and_all_can_be_forgotten(tmp_path: Path) -> None:
    records = ShadowRecords(tmp_path / "new")
    assert (records.reports(), records.clear()) == ([], 0)
    models = [Named("maskfer", str(number), str(number) * 64) for number in (1, 2, 3)]
    for champion_of, challenger_of in ((0, 1), (0, 2), (2, 1)):
        tally = Tally()
        tally.agreement["unmasked"].faces = 1
        records.add({Pair(models[champion_of], models[challenger_of]): tally})
    pairs = [(report.pair.champion.version, report.pair.challenger.version) for report in records.reports()]
    assert pairs == [("3", "2"), ("1", "3"), ("1", "2")]
    assert records.clear() == 3
    assert records.reports() == []


def test_a_file_without_tables_yet_has_no_records(tmp_path: Path) -> None:
    (tmp_path / "shadow.db").touch()  # what opening it for the first record does first
    assert ShadowRecords(tmp_path).reports() == []
    assert ShadowRecords(tmp_path).clear() == 0


def test_a_file_that_is_no_database_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "shadow.db").write_bytes(b"no database" * 100)
    with pytest.raises(ServiceUnavailable, match=r"shadow\.db: file is not a database"):
        ShadowRecords(tmp_path).reports()
