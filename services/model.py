"""The model a service or a worker answers with, from a folder or from the registry."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from maskfer import release as releases
from maskfer.config import Settings
from maskfer.release import Release

if TYPE_CHECKING:
    from maskfer.registry import ModelVersion, Registry


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A verified release and the names it goes by."""

    release: Release
    name: str
    version: str
    """The registry's number; for a release folder the first twelve digits of its sha256."""

    registered: bool
    """Whether the registry has it; else it is a folder only this machine knows."""

    @property
    def reference(self) -> str | None:
        """What names it in the registry for good, where an alias may move; None outside the registry."""
        return f"{self.name}@{self.version}" if self.registered else None

    @property
    def sha256(self) -> str:
        """Identity of the release."""
        return self.release.sha256


def load_model(reference: str | None, settings: Settings) -> ServedModel:
    """Return the model of a release folder, `NAME@ALIAS` or `NAME@VERSION`; for None, of the champion.

    Raises `ReleaseError` where the folder cannot be trusted, `RegistryError` where the registry has no such
    model or does not answer.
    """
    if reference is not None and releases.is_folder(reference):
        release = releases.read(Path(reference))
        return ServedModel(release, release.metadata.name, release.sha256[:12], registered=False)
    from maskfer.registry import CHAMPION, Registry

    registry = Registry(settings)
    return registered_model(registry, registry.resolve(reference or f"{settings.model_name}@{CHAMPION}"))


def registered_model(registry: Registry, version: ModelVersion) -> ServedModel:
    """Return a version's verified release, downloaded where it is not here; raises what `load_model` does."""
    return ServedModel(registry.download(version), version.name, str(version.version), registered=True)


def followed_alias(reference: str | None, settings: Settings) -> str | None:
    """Return the `NAME@ALIAS` behind a reference; None for a folder or a version, which never move."""
    from maskfer.registry import CHAMPION, Reference

    if reference is None:
        return f"{settings.model_name}@{CHAMPION}"
    if releases.is_folder(reference):
        return None
    wanted = Reference.parse(reference, default_name=settings.model_name)
    return str(wanted) if wanted.alias is not None else None
