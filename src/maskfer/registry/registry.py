"""The registry's operations. One promoter acts at a time, and every change of champion leaves an event."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from filelock import FileLock, Timeout

from maskfer import atomic
from maskfer import release as releases
from maskfer.config import Settings
from maskfer.errors import ModelNotFound, PromotionRefused, RegistryError, ReleaseError
from maskfer.registry import downloads, recording
from maskfer.registry.connection import artifact_location, connect, speaking
from maskfer.registry.history import Event, History
from maskfer.registry.versions import (
    ALLOWED,
    CHALLENGER,
    CHAMPION,
    DECISION,
    DECISION_JSON,
    DECISION_REASON,
    PROMOTED,
    RELEASE_SHA256,
    ModelVersion,
    Reference,
)
from maskfer.release import Lineage, Release

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion as MlflowVersion

_LOCK_WAIT_S: Final = 20.0


@dataclass(frozen=True)
class Registry:
    """The registered models that `settings` leads to; connects at the first use.

    Every method raises `RegistryUnavailable` where the registry does not answer and `ModelNotFound` where it
    has no such model, version or alias.
    """

    settings: Settings

    def resolve(self, reference: str) -> ModelVersion:
        """Return the version that `NAME@champion`, `NAME@v3`, `champion` or `v3` means now."""
        wanted = Reference.parse(reference, default_name=self.settings.model_name)
        if wanted.alias is not None:
            return self._by_alias(wanted.name, wanted.alias)
        with self._speaking():
            return self._version(self._client.get_model_version(wanted.name, str(wanted.version)))

    def champion(self, name: str | None = None) -> ModelVersion | None:
        """Return the champion; None where there is no model, no champion or (on a laptop) no registry yet."""
        if self._laptop_file is not None and not self._laptop_file.is_file():
            return None
        try:
            return self.resolve(f"{name or self.settings.model_name}@{CHAMPION}")
        except ModelNotFound:
            return None

    def opponent(self, name: str | None = None) -> ModelVersion | None:
        """Return the version that a candidate is judged against (`History.opponent`)."""
        name = name or self.settings.model_name
        number = self.history(name).opponent
        return None if number is None else self.resolve(f"{name}@v{number}")

    def versions(self, name: str | None = None) -> list[ModelVersion]:
        """Return every version of a model, newest first; empty where there is no such model."""
        name = name or self.settings.model_name
        with self._speaking():
            found = self._client.search_model_versions(f"name = '{name}'")
            try:
                aliases = self._client.get_registered_model(name).aliases if found else {}
            except ModelNotFound:
                aliases = {}
        versions = [self._version(version, aliases=aliases) for version in found]
        return sorted(versions, key=lambda version: version.version, reverse=True)

    def find(self, release: Release, name: str | None = None) -> ModelVersion | None:
        """Return the version that holds exactly this release, if there is one."""
        return next((v for v in self.versions(name) if v.release_sha256 == release.sha256), None)

    def metrics(self, version: ModelVersion) -> dict[str, float]:
        """Return the figures logged with a version."""
        if version.run_id is None:
            return {}
        with self._speaking():
            return dict(self._client.get_run(version.run_id).data.metrics)

    def all_metrics(self, versions: Sequence[ModelVersion]) -> dict[int, dict[str, float]]:
        """Return the figures logged with each of a model's versions by number, asked for together."""
        if not versions:
            return {}
        with self._speaking():
            logged = recording.run_metrics(self._client, versions[0].name)
        return {
            # A version that somebody registered without maskfer has its run elsewhere, or none.
            one.version: logged[one.run_id] if one.run_id in logged else self.metrics(one)
            for one in versions
        }

    def download(self, version: ModelVersion) -> Release:
        """Return a version's release from the cache under `Settings.home`, fetched where it is not there.

        Every sha256 is checked against `model.json` and against what the version itself states. Raises
        `ReleaseCorrupted` where one differs; nothing is kept of such a download.
        """
        folder = downloads.cache_folder(version, home=self.settings.home)
        # Worker processes follow the same alias: one of them fetches, the others find it there.
        with downloads.only_downloader(folder):
            if folder.is_dir():
                try:
                    return downloads.verified(folder, version)
                except ReleaseError:
                    shutil.rmtree(folder)  # a damaged cache is not the registry's fault: fetch anew
            from mlflow.artifacts import download_artifacts

            with atomic.new_folder(folder, holds=()) as work:
                with self._speaking():
                    uri = self._client.get_model_version_download_uri(version.name, str(version.version))
                    fetched = download_artifacts(
                        artifact_uri=uri, dst_path=str(work), tracking_uri=self.settings.registry_uri
                    )
                downloads.lift(Path(fetched), work)
                downloads.verified(work, version)
            return releases.read(folder)

    def register(self, release: Release, *, name: str | None = None) -> ModelVersion:
        """Log a release as a run and register it as a new version; the same release keeps its version.

        A version exists only once all its files and hashes are stored.
        """
        name = name or self.settings.model_name
        self._make_store()
        if (known := self.find(release, name)) is not None:
            return known
        with self._speaking():
            client = self._client
            experiment = self._experiment(name)
            run = client.create_run(experiment, run_name=f"{name}-{release.sha256[:8]}")
            run_id = run.info.run_id
            with recording.finished(client, run_id):
                recording.fill_run(client, run_id, release)
                if not client.search_registered_models(f"name = '{name}'"):
                    client.create_registered_model(name)
                created = client.create_model_version(
                    name,
                    source=f"{run.info.artifact_uri}/{recording.RELEASE_FOLDER}",
                    run_id=run_id,
                    tags=recording.version_tags(release),
                )
            return self._version(created)

    def log_trial(
        self,
        *,
        name: str,
        key: str,
        params: Mapping[str, Any],
        figures: Mapping[str, Any],
        lineage: Lineage,
    ) -> None:
        """Log a trial of the accuracy table in the experiment `<model>-accuracy`, once for each key."""
        self._make_store()
        with self._speaking():
            client = self._client
            experiment = self._experiment(recording.trials_name(self.settings.model_name))
            wanted = f"tags.trial = '{key}' and attributes.status = 'FINISHED'"
            if client.search_runs([experiment], filter_string=wanted, max_results=1):
                return
            run_id = client.create_run(experiment, run_name=name, tags={"trial": key}).info.run_id
            with recording.finished(client, run_id):
                recording.fill_figures(client, run_id, params=params, figures=figures, lineage=lineage)

    def record_decision(
        self, version: ModelVersion, decision: Mapping[str, Any], *, files: Sequence[Path] = ()
    ) -> ModelVersion:
        """Write what was decided about a version, with its numbers, on the version; `files` go to its run.

        `decision` has at least `promote` (bool), `reason` (str) and `champion` (the version it was judged
        against, or None). A version that it allows to be promoted is `allowed` until it was champion, then
        `promoted`.
        """
        tags = {
            DECISION: ALLOWED if decision["promote"] else "refused",
            DECISION_REASON: str(decision["reason"]),
            DECISION_JSON: json.dumps(decision, separators=(",", ":")),
        }
        with self._speaking():
            for key, value in tags.items():
                self._client.set_model_version_tag(version.name, str(version.version), key, value)
            for file in files if version.run_id else ():
                self._client.log_artifact(str(version.run_id), str(file), artifact_path="decision")
        return self.resolve(str(version))

    def promote(
        self,
        version: ModelVersion,
        *,
        reason: str,
        decision: Mapping[str, Any] | None = None,
        forced: bool = False,
    ) -> Event:
        """Make a version the champion and record why.

        Unless `forced`, `decision` (by default the one on the version) has to allow it against
        `History.opponent`: `PromotionRefused` where there is none, it says no, or it met another. A champion
        without an event, of a promotion that was killed, gets its event.
        """
        decision = decision or version.decision
        with self._only_promoter(version.name):
            history = self.history(version.name)
            before, recorded = history.champion, history.recorded_champion
            if before == recorded == version.version:
                raise PromotionRefused(f"{version} is the champion already; nothing changed")
            if not forced:
                _check_allowed(version, decision, history)
            previous = recorded if before == version.version else before
            return self._move(
                version, kind="promoted", previous=previous, reason=reason, decision=decision, forced=forced
            )

    def rollback(self, *, reason: str, name: str | None = None) -> Event:
        """Make the latest earlier champion that still exists the champion again, and record why."""
        name = name or self.settings.model_name
        self.require_model(name)
        with self._only_promoter(name):
            history = self.history(name)
            target = history.earlier_champion
            if target is None:
                raise PromotionRefused(
                    f"{name}: no earlier champion exists to go back to; see `maskfer models history`"
                )
            version = self.resolve(f"{name}@v{target}")
            return self._move(
                version,
                kind="rolled_back",
                previous=history.recorded_champion if target == history.champion else history.champion,
                reason=reason,
                decision=None,
                forced=False,
            )

    def challenge(self, version: ModelVersion) -> None:
        """Make a version the challenger: a service that shadows asks it too and compares."""
        with self._speaking():
            self._client.set_registered_model_alias(version.name, CHALLENGER, str(version.version))

    def end_challenge(self, name: str | None = None) -> None:
        """Leave nobody challenger; raises `ModelNotFound` where nobody is."""
        name = name or self.settings.model_name
        self._by_alias(name, CHALLENGER)
        with self._speaking():
            self._client.delete_registered_model_alias(name, CHALLENGER)

    def history(self, name: str | None = None) -> History:
        """Return who was champion when, and why; deleted versions and deleted runs stay in it."""
        name = name or self.settings.model_name
        self.require_model(name)
        with self._speaking():
            events = recording.events(self._client, name)
        existing = self.versions(name)
        champion = next((version.version for version in existing if version.is_champion), None)
        return History(
            name,
            tuple(events),
            champion,
            frozenset(version.version for version in existing),
        )

    def require_model(self, name: str) -> None:
        """Raise `ModelNotFound` where no model has this name."""
        with self._speaking():
            self._client.get_registered_model(name)

    # -- inside ---------------------------------------------------------------------------------------

    def _by_alias(self, name: str, alias: str) -> ModelVersion:
        try:
            with self._speaking():
                return self._version(self._client.get_model_version_by_alias(name, alias))
        except ModelNotFound as error:
            # Only now: a service asks every two seconds, and this is the more expensive question.
            self.require_model(name)
            remedy = "see `maskfer models list`"
            if alias == CHAMPION:
                remedy = (
                    "no version was promoted yet, or the champion was deleted; `maskfer models list` shows "
                    "what was decided, `maskfer models promote VERSION --force --reason WHY` overrules it"
                )
            raise ModelNotFound(f"{name} has no version with alias {alias!r}: {remedy}") from error

    @cached_property
    def _client(self) -> MlflowClient:
        return connect(self.settings, create=False)

    def _make_store(self) -> None:
        if self._laptop_file is not None and not self._laptop_file.is_file():
            connect(self.settings, create=True)

    @property
    def _laptop_file(self) -> Path | None:
        uri = self.settings.registry_uri
        return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None

    @contextmanager
    def _speaking(self) -> Iterator[None]:
        _ = self._client  # a registry that is not there says so before MLflow is asked anything
        with speaking(self.settings.registry_uri):
            yield

    def _experiment(self, name: str) -> str:
        return recording.experiment_id(self._client, name, artifact_location=artifact_location(self.settings))

    @contextmanager
    def _only_promoter(self, name: str) -> Iterator[None]:
        # MLflow has no compare-and-swap for aliases: a lock for this machine, a check after for the others.
        locks = self.settings.home / "locks"
        locks.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(locks / f"{name}.lock", timeout=_LOCK_WAIT_S):
                yield
        except Timeout as error:
            raise RegistryError(
                f"{name}: another promotion has held {locks / f'{name}.lock'} for {_LOCK_WAIT_S:.0f} s; "
                "wait for it to end and try again"
            ) from error

    def _move(
        self,
        version: ModelVersion,
        *,
        kind: Literal["promoted", "rolled_back"],
        previous: int | None,
        reason: str,
        decision: Mapping[str, Any] | None,
        forced: bool,
    ) -> Event:
        with self._speaking():
            client = self._client
            tags = {
                "kind": kind,
                "version": str(version.version),
                "previous": "" if previous is None else str(previous),
                "actor": recording.actor(),
                "reason": reason,
                "forced": str(forced).lower(),
                RELEASE_SHA256: version.release_sha256 or "",
            }
            run = client.create_run(
                self._experiment(recording.events_name(version.name)),
                tags=tags,
                run_name=f"v{version.version} {kind}",
            )
            # The event exists before the alias moves and counts once it has.
            with recording.finished(client, run.info.run_id):
                if decision is not None:
                    client.log_dict(run.info.run_id, dict(decision), "decision.json")
                client.set_registered_model_alias(version.name, CHAMPION, str(version.version))
                if kind == "promoted" and decision is not None and decision["promote"]:
                    client.set_model_version_tag(version.name, str(version.version), DECISION, PROMOTED)
            seen = client.get_model_version_by_alias(version.name, CHAMPION)
            if int(seen.version) != version.version:
                raise RegistryError(
                    f"{version}: set as champion, but the registry answers v{seen.version}: somebody else "
                    "promoted at the same time; see `maskfer models history`"
                )
            return recording.event_of(client.get_run(run.info.run_id))

    def _version(self, version: MlflowVersion, *, aliases: Mapping[str, Any] | None = None) -> ModelVersion:
        own = version.aliases
        if aliases is not None:
            # A search does not fill in the aliases of what it finds.
            own = [alias for alias, number in aliases.items() if int(number) == int(version.version)]
        return ModelVersion(
            name=version.name,
            version=int(version.version),
            created_at=recording.time_of(version.creation_timestamp),
            aliases=tuple(sorted(own)),
            run_id=version.run_id,
            source=version.source or "",
            tags=dict(version.tags),
        )


def open_release(reference: str, *, settings: Settings) -> Release:
    """Return the verified release of `NAME@ALIAS`, `NAME@VERSION` or a folder."""
    if releases.is_folder(reference):
        return releases.read(Path(reference))
    registry = Registry(settings)
    return registry.download(registry.resolve(reference))


def _check_allowed(version: ModelVersion, decision: Mapping[str, Any] | None, history: History) -> None:
    remedy = "; a person may overrule that with `maskfer models promote --force --reason WHY`"
    if decision is None:
        raise PromotionRefused(f"{version}: no decision is recorded on it, so nobody judged it{remedy}")
    if not decision["promote"]:
        raise PromotionRefused(f"{version}: refused by the policy: {decision['reason']}{remedy}")
    # The alias is here without an event: this version was judged against the champion before.
    unrecorded = history.champion == version.version
    opponent = history.recorded_champion if unrecorded else history.opponent
    if opponent is None and history.events:
        raise PromotionRefused(f"{version}: no champion exists any more to be judged against{remedy}")
    if decision["champion"] != opponent:
        whose = "the champion is" if history.champion else "nobody is champion, the latest that exists is"
        whose = "the last recorded champion is" if unrecorded else whose
        raise PromotionRefused(
            f"{version}: judged against {_v(decision['champion'])}, but {whose} {_v(opponent)}{remedy}"
        )


def _v(version: int | None) -> str:
    return "nobody" if version is None else f"v{version}"
