"""The cache of downloaded releases: where a version lies, and that it is what was registered."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from maskfer import release as releases
from maskfer.errors import RegistryError, ReleaseCorrupted, ReleaseError
from maskfer.registry.versions import ModelVersion
from maskfer.release import Release

_LOCK_WAIT_S: Final = 300.0


def cache_folder(version: ModelVersion, *, home: Path) -> Path:
    """Return where a version's release lies once it is downloaded."""
    digest = (version.release_sha256 or "unstated")[:12]
    return home / "cache" / "releases" / f"{version.name}-v{version.version}-{digest}"


@contextmanager
def only_downloader(folder: Path) -> Iterator[None]:
    """Let one process of this machine at a time fill or replace a folder of the cache."""
    locks = folder.parents[2] / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    lock = locks / f"{folder.name}.lock"
    try:
        with FileLock(lock, timeout=_LOCK_WAIT_S):
            yield
    except Timeout as error:
        raise RegistryError(
            f"{folder}: another process has been downloading it for {_LOCK_WAIT_S:.0f} s ({lock}); "
            "end it or wait, and try again"
        ) from error


def verified(folder: Path, version: ModelVersion) -> Release:
    """Return the release in `folder` after checking it against what the version states."""
    try:
        release = releases.read(folder)
        if version.files:
            releases.verify(release, expected=version.files)
    except ReleaseCorrupted as error:
        text = str(error).replace(f"{folder}/", "")
        raise ReleaseCorrupted(
            f"{version}: {text} (its files lie at {version.source}; `maskfer models rollback` goes back "
            "to an earlier champion)"
        ) from error
    except ReleaseError as error:
        raise ReleaseError(f"{version}: {error}") from error
    return release


def lift(fetched: Path, work: Path) -> None:
    """Move what MLflow put into a folder of its own up into the folder it was given."""
    if fetched.resolve() == work.resolve():
        return
    for entry in list(fetched.iterdir()):
        entry.replace(work / entry.name)
    fetched.rmdir()
