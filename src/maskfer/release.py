"""A model release: a folder that says what it is and proves that it is whole.

model.safetensors   weights, for training on
model.onnx          what answers and what is measured
model.json          what it is: classes, crop, parameters, lineage, figures, sha256 of every other file
MODEL_CARD.md       the same for a reader
plots/*.png         the pictures of the card
golden/*.npy        drawn faces and the graph's answers to them, asked again before it is served (`golden`)
reference.json      how its training faces and its answers were distributed (`drift`), where they were at hand
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version as package_version
from pathlib import Path, PurePosixPath
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from maskfer import atomic
from maskfer.errors import ReleaseCorrupted, ReleaseError
from maskfer.labels import ORIENTATIONS

FORMAT_VERSION: Final = 1
WEIGHTS: Final = "model.safetensors"
ONNX: Final = "model.onnx"
METADATA: Final = "model.json"
CARD: Final = "MODEL_CARD.md"
PLOTS: Final = "plots/"
GOLDEN: Final = "golden/"
REFERENCE: Final = "reference.json"
_REQUIRED: Final = (WEIGHTS, ONNX, CARD)
_HOLDS: Final = (*_REQUIRED, METADATA, PLOTS.rstrip("/"), GOLDEN.rstrip("/"), REFERENCE)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Lineage(_Strict):
    """Where a release comes from."""

    git_revision: str | None = None
    """Commit of the code; ends in `-dirty` where the working tree differed."""
    dvc_revision: str | None = None
    """md5 that DVC gives the dataset; None outside a DVC repository."""
    dataset_sha256: str
    """Content hash of the faces table (`data.table.table_sha256`)."""
    package_version: str = Field(default_factory=lambda: package_version("maskfer"))


class Description(_Strict):
    """What a release is; everything in `model.json` but the sha256 of its files."""

    name: str
    created_at: datetime = Field(default_factory=lambda: datetime.now(UTC).replace(microsecond=0))
    classes: tuple[str, ...] = Field(min_length=2)
    """Order of the `expression` output."""
    orientations: tuple[str, ...] = ORIENTATIONS
    """Order of the `orientation` output."""
    crop_size: int
    """Side of the model's input, pixels."""
    crop_context: float
    """Side of the crop in units of the detector box's longer side."""
    params: dict[str, Any]
    """Full dump of the `Params` it was made with."""
    lineage: Lineage
    metrics: dict[str, Any] = {}
    """The evaluation (`evaluation.Evaluation.to_json`); empty before a release is judged."""


class Metadata(Description):
    """What `model.json` holds."""

    format_version: Literal[1] = FORMAT_VERSION
    files: dict[str, str]
    """sha256 of every other file, by its path inside the folder."""

    @field_validator("files")
    @classmethod
    def _inside(cls, files: dict[str, str]) -> dict[str, str]:
        for name in files:
            # A release may come over the network: its list must not point out of its folder.
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or "\\" in name or name == METADATA:
                raise ValueError(f"file name {name!r} is not a path inside the release")
        return files


@dataclass(frozen=True, slots=True)
class Release:
    """A verified release on disk."""

    path: Path
    metadata: Metadata
    sha256: str
    """sha256 of `model.json`, which names every other file's: the identity of the whole."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names in the order of the `expression` output."""
        return self.metadata.classes

    @property
    def orientations(self) -> tuple[str, ...]:
        """Names in the order of the `orientation` output."""
        return self.metadata.orientations

    @property
    def crop_size(self) -> int:
        """Side of the model's input, pixels."""
        return self.metadata.crop_size

    @property
    def crop_context(self) -> float:
        """Side of the crop in units of the detector box's longer side."""
        return self.metadata.crop_context

    @property
    def onnx(self) -> Path:
        """The graph that answers."""
        return self.path / ONNX

    @property
    def weights(self) -> Path:
        """The weights for training on."""
        return self.path / WEIGHTS

    @property
    def files(self) -> dict[str, str]:
        """sha256 of every file, `model.json` included."""
        return {**self.metadata.files, METADATA: self.sha256}


def is_folder(reference: str) -> bool:
    """Whether a reference means a release folder: it has no `@`, or a `/`, which no registered name has."""
    return "@" not in reference or "/" in reference


def read(path: Path) -> Release:
    """Return the release in `path` after checking that it is complete and every file is unchanged.

    Raises `ReleaseError` where it is no release of this format, `ReleaseCorrupted` where a sha256 differs.
    """
    try:
        raw = (path / METADATA).read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ReleaseError(
            f"{path}: no {METADATA} in it, so it is no release; give a release folder"
        ) from error
    try:
        metadata = Metadata.model_validate_json(raw)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"]) or "document"
        raise ReleaseError(
            f"{path / METADATA}: {where}: {problem['msg']}; this version reads format {FORMAT_VERSION}, "
            "train or download the release again"
        ) from error
    missing = [name for name in _REQUIRED if name not in metadata.files]
    if missing:
        raise ReleaseError(f"{path / METADATA}: lists no sha256 for {', '.join(missing)}; train it again")
    release = Release(path, metadata, hashlib.sha256(raw).hexdigest())
    verify(release)
    return release


def verify(release: Release, *, expected: Mapping[str, str] | None = None) -> None:
    """Check the sha256 of every file against `model.json`, or against `expected` from another source.

    Raises `ReleaseCorrupted` naming the file and both hashes.
    """
    for name, stated in (expected or release.metadata.files).items():
        file = release.path / name
        if not file.is_file():
            raise ReleaseCorrupted(f"{file}: missing; the release is incomplete, download or train it again")
        got = file_sha256(file)
        if got != stated:
            raise ReleaseCorrupted(
                f"{file}: sha256 is {got[:12]}…, the release states {stated[:12]}…; "
                "the file was changed or damaged, download or train it again"
            )


def write(
    out: Path,
    *,
    description: Description,
    weights: bytes | Path,
    onnx: bytes | Path,
    card: str | None = None,
    plots: Mapping[str, Path] | None = None,
    golden: Mapping[str, bytes | Path] | None = None,
    reference: bytes | Path | None = None,
) -> Release:
    """Write a release folder at `out`, whole or not at all, and return it verified.

    `plots` are copied to `plots/<name>`, `golden` to `golden/<name>`; a release without `card` gets one that
    says it is not judged yet.
    """
    with atomic.new_folder(out, holds=_HOLDS) as work:
        _put(work / WEIGHTS, weights)
        _put(work / ONNX, onnx)
        _put(work / CARD, (card or _unjudged_card(description.name)).encode("utf-8"))
        for plot, source in (plots or {}).items():
            _put(work / PLOTS / plot, source)
        for name, content in (golden or {}).items():
            _put(work / GOLDEN / name, content)
        if reference is not None:
            _put(work / REFERENCE, reference)
        files = {
            file.relative_to(work).as_posix(): file_sha256(file)
            for file in sorted(work.rglob("*"))
            if file.is_file()
        }
        metadata = Metadata(**dict(description), files=files)
        (work / METADATA).write_text(metadata.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return read(out)


def judged(
    release: Release, out: Path, *, metrics: Mapping[str, Any], card: str, plots: Mapping[str, Path]
) -> Release:
    """Write a copy of `release` at `out` with figures, a model card, and `plots` beside those it has."""
    described = release.metadata.model_dump(exclude={"files", "format_version"})
    return write(
        out,
        description=Description.model_validate(described | {"metrics": dict(metrics)}),
        weights=release.weights,
        onnx=release.onnx,
        card=card,
        plots={**_files_under(release, PLOTS), **plots},
        golden=_files_under(release, GOLDEN),
        reference=release.path / REFERENCE if REFERENCE in release.files else None,
    )


def file_sha256(path: Path) -> str:
    """Return the hex sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _files_under(release: Release, folder: str) -> dict[str, Path]:
    return {
        name.removeprefix(folder): release.path / name for name in release.files if name.startswith(folder)
    }


def _put(target: Path, content: bytes | Path) -> None:
    target.parent.mkdir(exist_ok=True)
    if isinstance(content, bytes):
        target.write_bytes(content)
    else:
        shutil.copyfile(content, target)


def _unjudged_card(name: str) -> str:
    return (
        f"# {name}\n\nThis release has not been judged: run `maskfer evaluate --model FOLDER --data DIR`, "
        "or register it, and the card carries its figures.\n"
    )
