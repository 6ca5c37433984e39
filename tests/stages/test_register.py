"""Stage `register`: what deserves it becomes champion, what does not is kept with the reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from maskfer import release as releases
from maskfer.config import Params, Settings
from maskfer.errors import DatasetError, ReleaseCorrupted
from maskfer.promotion import PromotionPolicy
from maskfer.registry import Registry
from maskfer.registry.connection import connect
from maskfer.release import Release
from maskfer.stages import evaluate, register
from maskfer.stages.register import RegisterReport
from tests.known import KnownFaces

Retrain = Callable[[Release], RegisterReport]


@pytest.fixture(scope="module")
def judged(known_table: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Release], Path]:
    """Evaluates a release once for all tests of this module."""
    folder = tmp_path_factory.mktemp("evaluations")

    def evaluation(release: Release) -> Path:
        out = folder / release.sha256
        if not out.exists():
            evaluate.run(release.path, known_table, out, params=Params())
        return out

    return evaluation


@pytest.fixture
def submit(
    judged: Callable[[Release], Path], known_table: Path, settings: Settings, tmp_path: Path
) -> Retrain:
    """Runs the stage on a release."""

    def run(release: Release) -> RegisterReport:
        return register.run(
            release.path,
            judged(release),
            known_table,
            tmp_path / "out" / release.path.name,
            params=Params(),
            settings=settings,
            policy=PromotionPolicy(),
        )

    return run


def test_the_first_good_model_becomes_champion_and_carries_its_figures(
    known_faces: KnownFaces, submit: Retrain, settings: Settings, tmp_path: Path
) -> None:
    report = submit(known_faces.release("good"))
    assert report.promoted
    assert report.version.is_champion
    out = tmp_path / "out" / "good"
    assert {path.name for path in out.iterdir()} == {"decision.json", "decision.md", "release"}
    final = releases.read(out / "release")
    assert final.metadata.metrics["accuracy"] > 0.85
    assert "## Results" in (final.path / "MODEL_CARD.md").read_text()
    assert "plots/confusion.png" in final.files
    registry = Registry(settings)
    assert registry.download(registry.resolve("champion")).sha256 == final.sha256
    assert registry.metrics(report.version)["slices/masked/accuracy"] == pytest.approx(
        final.metadata.metrics["slices"]["masked"]["accuracy"]
    )
    assert "first champion" in registry.history().events[0].reason


def test_a_first_model_that_only_guesses_is_registered_and_not_promoted(
    known_faces: KnownFaces, submit: Retrain, settings: Settings
) -> None:
    report = submit(known_faces.release("upside-down", shift=-175))
    assert not report.promoted
    assert Registry(settings).champion() is None
    assert len(Registry(settings).versions()) == 1


def test_a_candidate_worse_on_masked_faces_is_refused_with_its_numbers_on_the_version(
    known_faces: KnownFaces,
    submit: Retrain,
    settings: Settings,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    submit(known_faces.release("good"))
    report = submit(known_faces.release("blind", blind_when_masked=True))
    assert not report.promoted
    registry = Registry(settings)
    assert registry.resolve("champion").version == 1
    refused = registry.resolve("v2")
    assert refused.tags["decision"] == "refused"
    assert refused.decision is not None
    worse = {one["slice"] for one in refused.decision["comparisons"] if one["verdict"] == "worse"}
    assert {"masked", "overall"} <= worse
    assert "unmasked" not in worse
    written = json.loads((tmp_path / "out" / "blind" / "decision.json").read_text())
    assert written["comparisons"] == refused.decision["comparisons"]
    assert "masked" in capsys.readouterr().out


def test_a_candidate_worse_in_one_orientation_is_refused(known_faces: KnownFaces, submit: Retrain) -> None:
    submit(known_faces.release("good"))
    report = submit(known_faces.release("never-up", blind_to_up=True))
    assert not report.promoted
    judged = {f"{one.slice} {one.metric}": one.verdict for one in report.decision.comparisons}
    assert judged["looks up accuracy"] == "worse"
    assert judged["looks down accuracy"] == "passes"


def _with_a_blind_champion(known_faces: KnownFaces, settings: Settings) -> Registry:
    registry = Registry(settings)
    blind = known_faces.release("blind", blind_when_masked=True)
    registry.promote(registry.register(blind), reason="trial", forced=True)
    return registry


def test_a_better_candidate_replaces_the_champion(
    known_faces: KnownFaces, submit: Retrain, settings: Settings
) -> None:
    registry = _with_a_blind_champion(known_faces, settings)
    report = submit(known_faces.release("good"))
    assert report.promoted
    assert report.decision.champion == 1
    assert [event.version for event in registry.history().events] == [1, 2]
    assert not registry.history().events[1].forced


def test_the_champion_submitted_again_changes_nothing(
    known_faces: KnownFaces, submit: Retrain, settings: Settings
) -> None:
    release = known_faces.release("good")
    first = submit(release)
    again = submit(release)
    assert again.version.version == first.version.version
    assert not again.promoted
    assert "champion already" in again.decision.reason
    assert len(Registry(settings).history().events) == 1
    assert Registry(settings).resolve("champion").tags["decision"] == "promoted"


def test_what_a_person_rolled_back_from_is_not_promoted_by_the_next_unchanged_run(
    known_faces: KnownFaces, submit: Retrain, settings: Settings
) -> None:
    registry = _with_a_blind_champion(known_faces, settings)
    good = known_faces.release("good")
    assert submit(good).promoted
    registry.rollback(reason="misses side faces")
    again = submit(good)
    assert not again.promoted
    assert "misses side faces" in again.decision.reason
    assert f"maskfer models promote {again.version}" in again.decision.reason
    assert registry.resolve("champion").version == 1
    # What the policy said stays on the version, so that a person needs no force.
    assert registry.promote(registry.resolve("v2"), reason="no, it was the light").version == 2
    assert "champion already" in submit(good).decision.reason


def test_a_release_that_was_rolled_back_from_and_deleted_is_not_promoted_under_another_number(
    known_faces: KnownFaces, submit: Retrain, settings: Settings
) -> None:
    registry = _with_a_blind_champion(known_faces, settings)
    good = known_faces.release("good")
    submit(good)
    connect(settings, create=False).delete_model_version(settings.model_name, "2")
    registry.rollback(reason="misses side faces")
    again = submit(good)
    assert again.version.version == 3
    assert not again.promoted
    assert "misses side faces" in again.decision.reason
    assert registry.resolve("champion").version == 1


@pytest.mark.parametrize("gone", ["deleted", "without alias"])
def test_without_its_champion_a_model_does_not_start_anew(
    known_faces: KnownFaces, submit: Retrain, settings: Settings, gone: str
) -> None:
    registry = Registry(settings)
    submit(known_faces.release("good"))
    client = connect(settings, create=False)
    if gone == "deleted":
        submit(known_faces.release("other-data", dataset_sha256="1" * 64))
        client.delete_model_version(settings.model_name, "2")
    else:
        client.delete_registered_model_alias(settings.model_name, "champion")
    # Better than always answering one class, and far worse than the champion.
    blind = submit(known_faces.release("blind", blind_when_masked=True))
    assert not blind.promoted
    assert "worse than champion v1" in blind.decision.reason
    assert "nobody is champion" in blind.decision.notes[0]
    again = submit(known_faces.release("good"))
    assert not again.promoted
    assert "maskfer models rollback" in again.decision.reason
    as_good = submit(known_faces.release("as-good", dataset_sha256="2" * 64))
    assert as_good.promoted
    assert as_good.decision.champion == 1
    assert registry.resolve("champion") == as_good.version
    assert registry.history().events[-1].previous is None


def test_where_no_champion_exists_any_more_a_person_has_to_choose(
    known_faces: KnownFaces, submit: Retrain, settings: Settings
) -> None:
    submit(known_faces.release("good"))
    connect(settings, create=False).delete_model_version(settings.model_name, "1")
    report = submit(known_faces.release("other-data", dataset_sha256="1" * 64))
    assert not report.promoted
    assert "none of them exists any more" in report.decision.reason
    assert "maskfer models promote VERSION --force" in report.decision.reason
    registry = Registry(settings)
    assert registry.resolve("v2").tags["decision"] == "refused"
    assert registry.promote(report.version, reason="the only one", forced=True).version == 2


def test_an_alias_that_somebody_moved_is_not_moved_back_by_an_unchanged_run(
    known_faces: KnownFaces, submit: Retrain, settings: Settings
) -> None:
    registry = Registry(settings)
    registry.register(known_faces.release("blind", blind_when_masked=True))
    submit(known_faces.release("good"))
    connect(settings, create=False).set_registered_model_alias(settings.model_name, "champion", "1")
    again = submit(known_faces.release("good"))
    assert not again.promoted
    assert "moved away from" in again.decision.reason
    assert registry.resolve("champion").version == 1


def test_other_classes_are_refused_until_a_person_forces_it(
    known_faces: KnownFaces, submit: Retrain, settings: Settings
) -> None:
    submit(known_faces.release("good"))
    report = submit(known_faces.release("two-classes", classes=("positive", "negative")))
    assert not report.promoted
    assert "other classes than champion v1" in report.decision.reason
    registry = Registry(settings)
    assert registry.promote(report.version, reason="two classes now", forced=True).version == 2


def test_other_crops_are_refused_until_a_person_forces_it(
    known_faces: KnownFaces, submit: Retrain, settings: Settings
) -> None:
    other = known_faces.release("other-crop", crop_context=1.4)
    final = releases.judged(other, known_faces.folder / "judged-other-crop", metrics={}, card="", plots={})
    registry = Registry(settings)
    registry.promote(registry.register(final), reason="it came first", forced=True)

    report = submit(known_faces.release("good"))

    assert not report.promoted
    assert "of 1 times the detector's box against 96 pixels of 1.4 times" in report.decision.reason
    assert registry.promote(report.version, reason="larger crops now", forced=True).version == 2


def test_a_champion_on_other_data_is_noted(
    known_faces: KnownFaces, submit: Retrain, settings: Settings
) -> None:
    submit(known_faces.release("good"))
    report = submit(known_faces.release("other-data", dataset_sha256="1" * 64))
    assert report.promoted
    assert "another dataset" in report.decision.notes[0]
    assert Registry(settings).resolve("champion").version == 2


def test_a_corrupted_champion_is_named_and_nothing_is_promoted(
    known_faces: KnownFaces, submit: Retrain, settings: Settings, tmp_path: Path
) -> None:
    champion = submit(known_faces.release("good")).version
    (Path(champion.source.removeprefix("file://")) / "model.onnx").write_bytes(b"damaged")
    with pytest.raises(ReleaseCorrupted, match=rf"{champion}: model\.onnx"):
        submit(known_faces.release("other-data", dataset_sha256="1" * 64))
    registry = Registry(settings)
    assert registry.resolve("champion").version == 1
    assert "cannot be loaded" in registry.resolve("v2").tags["decision_reason"]
    assert not (tmp_path / "out" / "other-data").exists()


def test_an_evaluation_of_another_release_or_dataset_is_refused(
    known_faces: KnownFaces,
    known_table: Path,
    judged: Callable[[Release], Path],
    settings: Settings,
    tmp_path: Path,
) -> None:
    good, other = known_faces.release("good"), known_faces.release("other-data", dataset_sha256="1" * 64)
    faces = known_faces.table(people=3)
    for release, table, says in ((other, known_table, "release_sha256"), (good, faces, "dataset_sha256")):
        with pytest.raises(DatasetError, match=says):
            register.run(
                release.path,
                judged(good),
                table,
                tmp_path / "out",
                params=Params(),
                settings=settings,
                policy=PromotionPolicy(),
            )
    with pytest.raises(DatasetError, match="no evaluation there"):
        register.run(
            good.path,
            tmp_path,
            known_table,
            tmp_path / "out",
            params=Params(),
            settings=settings,
            policy=PromotionPolicy(),
        )
    assert not (tmp_path / "out").exists()
