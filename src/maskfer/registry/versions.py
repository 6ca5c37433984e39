"""What a registered version is, and how people name one."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Self

from maskfer.errors import ModelNotFound

CHAMPION: Final = "champion"
"""The alias that serving follows."""
CHALLENGER: Final = "challenger"
"""The alias of a version that is tried beside the champion."""

RELEASE_SHA256: Final = "release_sha256"
FILE_SHA256: Final = "sha256/"
DECISION: Final = "decision"
ALLOWED: Final = "allowed"
PROMOTED: Final = "promoted"
"""What the policy said of a version (or `refused`), before and after the alias moved to it."""
DECISION_REASON: Final = "decision_reason"
DECISION_JSON: Final = "decision_json"

_NAME: Final = re.compile(r"[^/:@]+")
_VERSION: Final = re.compile(r"v?([1-9]\d*)")
_ALIAS: Final = re.compile(r"[A-Za-z][\w-]*")


@dataclass(frozen=True, slots=True)
class Reference:
    """`NAME@champion`, `NAME@v3` or `NAME@3`; without a name the default model's."""

    name: str
    version: int | None = None
    """A number, or None where `alias` is given."""
    alias: str | None = None

    @classmethod
    def parse(cls, text: str, *, default_name: str) -> Self:
        """Read a reference; raises `ModelNotFound` where it is none."""
        name, at, target = text.rpartition("@")
        name = name if at else default_name
        if _NAME.fullmatch(name):
            if number := _VERSION.fullmatch(target):
                return cls(name, version=int(number[1]))
            if _ALIAS.fullmatch(target):
                return cls(name, alias=target)
        raise ModelNotFound(f"{text!r} names no model; write NAME@champion, NAME@v3, champion or v3")

    def __str__(self) -> str:
        return f"{self.name}@{self.alias or f'v{self.version}'}"


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """One registered release."""

    name: str
    version: int
    created_at: datetime
    aliases: tuple[str, ...]
    run_id: str | None
    source: str
    """Where its files are, as MLflow names it."""
    tags: Mapping[str, str]

    def __str__(self) -> str:
        return f"{self.name}@v{self.version}"

    @property
    def is_champion(self) -> bool:
        """Whether serving answers with this version."""
        return CHAMPION in self.aliases

    @property
    def release_sha256(self) -> str | None:
        """Identity of the release (`Release.sha256`); None on a version that maskfer did not register."""
        return self.tags.get(RELEASE_SHA256)

    @property
    def files(self) -> dict[str, str]:
        """sha256 of every file, as stated when the version was registered."""
        return {
            key.removeprefix(FILE_SHA256): value
            for key, value in self.tags.items()
            if key.startswith(FILE_SHA256)
        }

    @property
    def decision(self) -> dict[str, Any] | None:
        """What `register` decided about it, with all numbers."""
        text = self.tags.get(DECISION_JSON)
        return json.loads(text) if text else None

    def to_json(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        return {
            "name": self.name,
            "version": self.version,
            "champion": self.is_champion,
            "aliases": list(self.aliases),
            "created_at": self.created_at.isoformat(),
            "release_sha256": self.release_sha256,
            "git_revision": self.tags.get("git_revision"),
            "dvc_revision": self.tags.get("dvc_revision"),
            "dataset_sha256": self.tags.get("dataset_sha256"),
            "decision": self.tags.get(DECISION),
            "decision_reason": self.tags.get(DECISION_REASON),
            "files": self.files,
            "run_id": self.run_id,
            "source": self.source,
        }
