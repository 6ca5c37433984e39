"""Versions, champions and the audit trail, on a real laptop registry (SQLite and a folder)."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from maskfer.config import Settings
from maskfer.errors import (
    ModelNotFound,
    PromotionRefused,
    RegistryError,
    RegistryUnavailable,
    ReleaseCorrupted,
    ReleaseError,
)
from maskfer.registry import ModelVersion, Reference, Registry, open_release
from maskfer.registry.connection import connect
from maskfer.release import Release
from tests.known import KnownFaces

YES = {"promote": True, "reason": "not worse", "champion": None, "comparisons": [], "notes": []}


@pytest.fixture
def registry(settings: Settings) -> Registry:
    return Registry(settings)


@pytest.fixture
def release(known_faces: KnownFaces, settings: Settings) -> Release:
    return known_faces.release(f"{settings.model_name}-1")


@pytest.fixture
def three(registry: Registry, known_faces: KnownFaces, settings: Settings) -> list[ModelVersion]:
    """Three versions, champion one after the other."""
    versions = []
    for number in (1, 2, 3):
        version = registry.register(known_faces.release(f"{settings.model_name}-{number}"))
        registry.promote(version, reason=f"reason {number}", forced=True)
        versions.append(version)
    return versions


def stored(version: ModelVersion) -> Path:
    return Path(version.source.removeprefix("file://"))


def test_a_version_says_what_it_is_and_where_it_comes_from(registry: Registry, release: Release) -> None:
    version = registry.resolve(str(registry.register(release)))
    assert version.version == 1
    assert version.release_sha256 == release.sha256
    assert version.files == release.files
    assert version.tags["git_revision"] == "f" * 40
    assert version.tags["dataset_sha256"] == "0" * 64
    assert not version.is_champion
    assert {path.name for path in stored(version).iterdir()} == {
        "MODEL_CARD.md",
        "golden",
        "model.json",
        "model.onnx",
        "model.safetensors",
    }


def test_the_run_holds_parameters_figures_and_the_dataset(
    registry: Registry, release: Release, settings: Settings
) -> None:
    version = registry.register(release)
    run = connect(settings, create=False).get_run(str(version.run_id))
    assert run.data.params == {"seed": "7", "name": f"{settings.model_name}-1"}
    (dataset,) = run.inputs.dataset_inputs
    assert dataset.dataset.digest == "0" * 36
    assert "f" * 40 in dataset.dataset.source
    assert run.info.status == "FINISHED"


def test_the_same_release_keeps_its_version(registry: Registry, release: Release) -> None:
    assert registry.register(release) == registry.register(release)
    assert len(registry.versions()) == 1


@pytest.mark.parametrize("reference", ["champion", "v2", "2", "{name}@champion", "{name}@v2", "{name}@2"])
def test_a_version_is_found_by_number_and_by_alias(
    registry: Registry, known_faces: KnownFaces, settings: Settings, reference: str
) -> None:
    for number in (1, 2):
        version = registry.register(known_faces.release(f"{settings.model_name}-{number}"))
    registry.promote(version, reason="trial", forced=True)
    found = registry.resolve(reference.format(name=settings.model_name))
    assert found.version == 2
    assert found.is_champion
    assert [(one.version, one.is_champion) for one in registry.versions()] == [(2, True), (1, False)]


@pytest.mark.parametrize(
    "reference", ["v9", "nobody", "other@champion", "other@v1", "a/b@v1", "v0", "@v1", ""]
)
def test_what_is_not_there_is_one_line_with_a_remedy(
    registry: Registry, release: Release, reference: str
) -> None:
    registry.register(release)
    with pytest.raises(ModelNotFound, match=r"maskfer models|write NAME@champion") as caught:
        registry.resolve(reference)
    assert "\n" not in str(caught.value)


def test_a_reference_reads_back_as_it_is_written() -> None:
    for text in ("maskfer@champion", "maskfer@v3"):
        assert str(Reference.parse(text, default_name="other")) == text


def test_a_download_is_verified_and_kept(registry: Registry, release: Release) -> None:
    version = registry.register(release)
    first = registry.download(version)
    assert first.sha256 == release.sha256
    assert first.path.is_relative_to(registry.settings.home)
    changed = first.path / "model.onnx"
    before = changed.stat().st_mtime_ns
    assert registry.download(version) == first
    assert changed.stat().st_mtime_ns == before


def test_a_damaged_cache_is_fetched_anew(registry: Registry, release: Release) -> None:
    version = registry.register(release)
    cached = registry.download(version)
    (cached.path / "model.onnx").write_bytes(b"damaged")
    assert registry.download(version).sha256 == release.sha256


def test_a_file_damaged_in_the_registry_names_version_and_file_and_keeps_nothing(
    registry: Registry, release: Release
) -> None:
    version = registry.register(release)
    (stored(version) / "model.onnx").write_bytes(b"damaged")
    with pytest.raises(ReleaseCorrupted, match=rf"{version}: model\.onnx: sha256 .*rollback"):
        registry.download(version)
    cache = registry.settings.home / "cache" / "releases"
    assert not [path for path in cache.iterdir() if registry.settings.model_name in path.name]


def test_a_release_exchanged_whole_is_found_by_the_versions_own_hashes(
    registry: Registry, release: Release, known_faces: KnownFaces, settings: Settings
) -> None:
    version = registry.register(release)
    other = known_faces.release(f"{settings.model_name}-other", blind_when_masked=True)
    for file in other.files:
        (stored(version) / file).write_bytes((other.path / file).read_bytes())
    with pytest.raises(ReleaseCorrupted, match=str(version)):
        registry.download(version)


def test_of_several_processes_that_need_a_version_each_gets_it(registry: Registry, release: Release) -> None:
    version = registry.register(release)
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(lambda _: Registry(registry.settings).download(version).sha256, range(4)))
    assert got == [release.sha256] * 4


def test_a_challenger_stands_beside_the_champion(registry: Registry, release: Release) -> None:
    version = registry.register(release)
    registry.promote(version, reason="the first", forced=True)
    registry.challenge(version)
    assert registry.resolve("challenger").aliases == ("challenger", "champion")
    assert registry.history().discrepancy is None
    registry.end_challenge()
    with pytest.raises(ModelNotFound):
        registry.end_challenge()
    assert registry.resolve("champion").version == version.version


def test_files_that_are_gone_are_an_error(registry: Registry, release: Release) -> None:
    version = registry.register(release)
    for path in [path for path in stored(version).rglob("*") if path.is_file()]:
        path.unlink()
    with pytest.raises((ReleaseError, RegistryUnavailable)):
        registry.download(version)


def test_a_reference_or_a_folder_opens_a_release(
    registry: Registry, release: Release, settings: Settings
) -> None:
    registry.register(release)
    assert open_release(str(release.path), settings=settings) == release
    assert open_release(f"{settings.model_name}@v1", settings=settings).sha256 == release.sha256


def test_history_says_who_was_champion_when_and_why(registry: Registry, three: list[ModelVersion]) -> None:
    history = registry.history()
    assert [(event.version, event.previous, event.reason) for event in history.events] == [
        (1, None, "reason 1"),
        (2, 1, "reason 2"),
        (3, 2, "reason 3"),
    ]
    reigns = history.reigns
    assert [reign.until for reign in reigns] == [reigns[1].since, reigns[2].since, None]
    assert all("@" in event.actor and event.forced for event in history.events)
    assert history.events[2].release_sha256 == three[2].release_sha256
    assert history.champion == 3
    assert history.discrepancy is None


def test_rollback_moves_the_alias_back_and_a_second_one_further(
    registry: Registry, three: list[ModelVersion]
) -> None:
    assert [version.version for version in three] == [1, 2, 3]
    event = registry.rollback(reason="v3 misses side faces")
    assert (event.kind, event.version, event.previous) == ("rolled_back", 2, 3)
    assert registry.resolve("champion").version == 2
    assert registry.rollback(reason="v2 too").version == 1
    with pytest.raises(PromotionRefused, match="no earlier champion"):
        registry.rollback(reason="further")
    assert registry.resolve("champion").version == 1
    assert [event.reason for event in registry.history().events][-2:] == ["v3 misses side faces", "v2 too"]


def test_history_knows_what_was_rolled_back_from_until_it_is_champion_again(
    registry: Registry, three: list[ModelVersion]
) -> None:
    def given_up(version: ModelVersion) -> str | None:
        event = registry.history().rolled_back_from(version.version, release_sha256=version.release_sha256)
        return event.reason if event else None

    assert [given_up(version) for version in three] == [None, None, None]
    registry.rollback(reason="v3 misses side faces")
    registry.rollback(reason="v2 too")
    assert [given_up(version) for version in three] == [None, "v2 too", "v3 misses side faces"]
    registry.promote(three[1], reason="it was the light", forced=True)
    assert [given_up(version) for version in three] == [None, None, "v3 misses side faces"]


def test_rollback_skips_a_version_that_was_deleted(
    registry: Registry, three: list[ModelVersion], settings: Settings
) -> None:
    connect(settings, create=False).delete_model_version(settings.model_name, "2")
    assert registry.rollback(reason="back").version == 1
    history = registry.history()
    assert [event.version for event in history.events] == [1, 2, 3, 1]
    assert history.existing == {1, 3}
    assert len(three) == 3


def test_a_deleted_champion_is_seen_and_rolled_back_from(
    registry: Registry, three: list[ModelVersion], settings: Settings
) -> None:
    connect(settings, create=False).delete_model_version(settings.model_name, "3")
    assert registry.champion() is None
    assert "champion v3 was deleted" in str(registry.history().discrepancy)
    assert registry.rollback(reason="deleted").version == 2
    assert registry.history().discrepancy is None
    assert len(three) == 3


def test_an_alias_moved_without_maskfer_is_seen(
    registry: Registry, three: list[ModelVersion], settings: Settings
) -> None:
    connect(settings, create=False).set_registered_model_alias(settings.model_name, "champion", "1")
    assert "the alias is at v1" in str(registry.history().discrepancy)
    event = registry.promote(three[1], reason="settled", forced=True)
    assert event.previous == 1
    assert registry.history().discrepancy is None


def test_a_promotion_that_was_killed_before_its_event_is_settled_by_promoting_again(
    registry: Registry, known_faces: KnownFaces, settings: Settings
) -> None:
    first, second = (
        registry.register(known_faces.release(f"{settings.model_name}-{number}")) for number in (1, 2)
    )
    registry.promote(first, reason="the first", forced=True)
    judged = registry.record_decision(second, {**YES, "champion": 1})
    # All that a promotion killed after the alias moved leaves behind.
    connect(settings, create=False).set_registered_model_alias(settings.model_name, "champion", "2")
    assert "the alias is at v2" in str(registry.history().discrepancy)
    event = registry.promote(judged, reason="settled")
    assert (event.version, event.previous, event.forced) == (2, 1, False)
    assert registry.history().discrepancy is None
    assert registry.resolve("champion").tags["decision"] == "promoted"
    with pytest.raises(PromotionRefused, match="champion already"):
        registry.promote(registry.resolve("v2"), reason="again", forced=True)


def test_a_rollback_that_was_killed_before_its_event_is_settled_by_rolling_back_again(
    registry: Registry, three: list[ModelVersion], settings: Settings
) -> None:
    connect(settings, create=False).set_registered_model_alias(settings.model_name, "champion", "2")
    event = registry.rollback(reason="v3 misses side faces")
    assert (event.version, event.previous) == (2, 3)
    assert registry.history().discrepancy is None
    assert registry.rollback(reason="v2 too").version == 1
    assert len(three) == 3


def test_a_deleted_event_stays_in_the_history(
    registry: Registry, three: list[ModelVersion], settings: Settings
) -> None:
    client = connect(settings, create=False)
    client.delete_run(registry.history().events[0].event_id)
    client.delete_experiment(client.get_experiment_by_name(f"{settings.model_name}-promotions").experiment_id)
    assert [event.version for event in registry.history().events] == [1, 2, 3]
    registry.rollback(reason="still recorded")
    assert [event.version for event in registry.history().events] == [1, 2, 3, 2]
    assert len(three) == 3


def test_a_decision_is_recorded_with_its_numbers_and_files(
    registry: Registry, release: Release, settings: Settings, tmp_path: Path
) -> None:
    (tmp_path / "decision.md").write_text("# Why")
    version = registry.register(release)
    decided = registry.record_decision(version, YES, files=[tmp_path / "decision.md"])
    assert decided.decision == YES
    assert decided.to_json()["decision"] == "allowed"
    client = connect(settings, create=False)
    (file,) = client.list_artifacts(str(version.run_id), "decision")
    assert file.path == "decision/decision.md"


def test_without_force_only_a_decision_against_the_present_champion_promotes(
    registry: Registry, known_faces: KnownFaces, settings: Settings
) -> None:
    first, second, third = (
        registry.register(known_faces.release(f"{settings.model_name}-{number}")) for number in (1, 2, 3)
    )
    with pytest.raises(PromotionRefused, match="nobody judged it"):
        registry.promote(first, reason="hope")
    registry.record_decision(second, {**YES, "promote": False, "reason": "worse in the dark"})
    with pytest.raises(PromotionRefused, match="worse in the dark"):
        registry.promote(registry.resolve("v2"), reason="hope")
    assert registry.champion() is None
    assert not registry.promote(registry.record_decision(first, YES), reason="first").forced
    with pytest.raises(PromotionRefused, match="judged against nobody, but the champion is v1"):
        registry.promote(registry.record_decision(third, YES), reason="hope")
    # What never was champion is not called promoted.
    decided = {version.version: version.tags.get("decision") for version in registry.versions()}
    assert decided == {1: "promoted", 2: "refused", 3: "allowed"}
    with pytest.raises(PromotionRefused, match="champion already"):
        registry.promote(registry.resolve("v1"), reason="again")
    assert [event.version for event in registry.history().events] == [1]


def test_a_decision_without_an_opponent_does_not_promote_where_the_champion_is_gone(
    registry: Registry, known_faces: KnownFaces, settings: Settings
) -> None:
    client = connect(settings, create=False)
    first, second = (
        registry.register(known_faces.release(f"{settings.model_name}-{number}")) for number in (1, 2)
    )
    judged = registry.record_decision(second, YES)
    registry.promote(first, reason="the first", forced=True)
    client.delete_registered_model_alias(settings.model_name, "champion")
    with pytest.raises(PromotionRefused, match="nobody is champion, the latest that exists is v1"):
        registry.promote(judged, reason="hope")
    client.delete_model_version(settings.model_name, "1")
    with pytest.raises(PromotionRefused, match="no champion exists any more"):
        registry.promote(judged, reason="hope")
    assert registry.champion() is None
    assert registry.promote(judged, reason="the only one", forced=True).version == 2


def test_of_promoters_at_the_same_time_each_sees_the_one_before(
    registry: Registry, known_faces: KnownFaces, settings: Settings
) -> None:
    versions = [
        registry.register(known_faces.release(f"{settings.model_name}-{number}")) for number in range(4)
    ]
    start = threading.Barrier(4)

    def promote(version: ModelVersion) -> int:
        start.wait()
        return Registry(settings).promote(version, reason="race", forced=True).version

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(promote, versions)) == [1, 2, 3, 4]
    history = registry.history()
    champions = [event.version for event in history.events]
    assert [event.previous for event in history.events] == [None, *champions[:-1]]
    assert history.champion == champions[-1]
    assert history.discrepancy is None


def test_a_laptop_without_a_registry_says_how_to_get_one(tmp_path: Path) -> None:
    registry = Registry(Settings(home=tmp_path / "home"))
    with pytest.raises(RegistryUnavailable, match="maskfer retrain"):
        registry.versions()
    assert registry.champion() is None
    assert not (tmp_path / "home").exists()


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that takes connections and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


@pytest.mark.parametrize(
    "uri", ["http://127.0.0.1:9", "http://no-such-host.invalid:5000", "ftp://x", "http://["]
)
def test_a_server_that_is_not_there_is_one_line(uri: str, tmp_path: Path) -> None:
    registry = Registry(Settings(home=tmp_path, tracking_uri=uri))
    for ask in (registry.versions, registry.champion, registry.history):
        with pytest.raises(RegistryError) as caught:
            ask()
        assert "\n" not in str(caught.value)
        assert uri in str(caught.value)


def test_a_password_in_the_address_is_not_shown(tmp_path: Path) -> None:
    registry = Registry(Settings(home=tmp_path, tracking_uri="http://me:secret@127.0.0.1:9"))
    with pytest.raises(RegistryUnavailable, match=r"http://127\.0\.0\.1:9") as caught:
        registry.versions()
    assert "secret" not in str(caught.value)


@pytest.mark.timeout(60)
def test_a_server_that_never_answers_does_not_hold_the_caller(silent_port: int, tmp_path: Path) -> None:
    registry = Registry(Settings(home=tmp_path, tracking_uri=f"http://127.0.0.1:{silent_port}"))
    with pytest.raises(RegistryUnavailable, match="does not answer"):
        registry.resolve("champion")


def test_a_file_that_is_no_registry_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("not a database at all, but long enough to be read as one " * 50)
    with pytest.raises(RegistryUnavailable, match=r"mlflow\.db"):
        Registry(Settings(home=tmp_path)).versions()
