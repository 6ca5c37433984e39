"""What the shadow found, kept: sums for each pair of a champion and a challenger, in one SQLite file.

Sums of counts and differences only; no picture and no single answer is kept. Every worker process of a
service adds to the same file. Reading it needs neither BentoML nor a model: `maskfer models shadow` does.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Self

from maskfer.errors import ServiceUnavailable

ALL: Final = "all"
SLICES: Final = ("unmasked", "masked")
"""By the champion's reading of the face."""
_LOCK_WAIT_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Named:
    """A model by its name, the registry's number (or a folder's digits), and its sha256."""

    name: str
    version: str
    sha256: str

    def __str__(self) -> str:
        return f"{self.name} v{self.version}" if self.version.isdecimal() else f"{self.name} {self.version}"


@dataclass(frozen=True, slots=True)
class Pair:
    """Who answered and who was compared."""

    champion: Named
    challenger: Named


class _Sums:
    """Numbers that add up, field by field."""

    def add(self, other: Self) -> None:
        """Add another's numbers to these."""
        for each in fields(self):  # type: ignore[arg-type]
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))


@dataclass(slots=True)
class Agreement(_Sums):
    """How far two models agree on some faces; sums over them."""

    faces: int = 0
    same_expression: int = 0
    same_masked: int = 0
    same_orientation: int = 0
    expression_difference: float = 0.0
    """Sum over faces of the mean absolute difference of the class probabilities."""
    masked_difference: float = 0.0
    orientation_difference: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Return shares and means; None where there is no face."""
        return {"faces": self.faces} | {
            part: {
                "agreement": self._mean(getattr(self, f"same_{part}")),
                "difference": self._mean(getattr(self, f"{part}_difference")),
            }
            for part in ("expression", "masked", "orientation")
        }

    def _mean(self, total: float) -> float | None:
        return total / self.faces if self.faces else None


@dataclass(slots=True)
class Work(_Sums):
    """What comparing took, and what it left out; in faces and seconds."""

    dropped: int = 0
    """Faces that were not compared because the shadow was behind."""
    failed: int = 0
    """Faces on which the challenger failed."""
    timed_faces: int = 0
    """Faces that both were asked about one after the other, for the times below."""
    champion_s: float = 0.0
    challenger_s: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Return counts, and milliseconds a face; None where nothing was timed."""
        ms = {
            who: 1000 * getattr(self, f"{who}_s") / self.timed_faces if self.timed_faces else None
            for who in ("champion", "challenger")
        }
        return {
            "dropped": self.dropped,
            "failed": self.failed,
            "ms_per_face": {**ms, "faces": self.timed_faces},
        }


@dataclass(slots=True)
class Tally:
    """What is known of one pair."""

    agreement: dict[str, Agreement] = field(default_factory=lambda: {name: Agreement() for name in SLICES})
    work: Work = field(default_factory=Work)

    def add(self, other: Tally) -> None:
        """Add another's numbers to these."""
        self.work.add(other.work)
        for name, agreement in other.agreement.items():
            self.agreement[name].add(agreement)

    @property
    def whole(self) -> Agreement:
        """Both slices together."""
        total = Agreement()
        for each in self.agreement.values():
            total.add(each)
        return total


@dataclass(frozen=True, slots=True)
class Report:
    """A pair's record."""

    pair: Pair
    tally: Tally
    since: datetime
    until: datetime

    def to_json(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        slices = {ALL: self.tally.whole, **self.tally.agreement}
        return {
            "champion": _named_json(self.pair.champion),
            "challenger": _named_json(self.pair.challenger),
            "since": self.since.isoformat(),
            "until": self.until.isoformat(),
            **self.tally.work.to_json(),
            "slices": {name: agreement.to_json() for name, agreement in slices.items()},
        }


class ShadowRecords:
    """The records in `home`; made at the first `add`. Raises `ServiceUnavailable` where SQLite refuses."""

    def __init__(self, home: Path) -> None:
        self.path = home / "shadow.db"

    def add(self, tallies: Mapping[Pair, Tally]) -> None:
        """Add to what is recorded, all or nothing."""
        now = datetime.now(UTC).isoformat()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._open() as database:
            for pair, tally in tallies.items():
                _upsert(database, "pair", _names(pair), _values(tally.work), moment=now)
                for name, agreement in tally.agreement.items():
                    key = {
                        "champion_sha256": pair.champion.sha256,
                        "challenger_sha256": pair.challenger.sha256,
                        "slice": name,
                    }
                    _upsert(database, "agreement", key, _values(agreement))

    def reports(self) -> list[Report]:
        """Return what is recorded, the pair that was compared last first."""
        if not self.path.is_file():
            return []
        with self._open() as database:
            return [
                _report(row, database.execute(_AGREEMENT, (row["champion_sha256"], row["challenger_sha256"])))
                for row in database.execute("SELECT * FROM pair ORDER BY until DESC").fetchall()
            ]

    def clear(self) -> int:
        """Forget everything; returns how many pairs that were."""
        if not self.path.is_file():
            return 0
        with self._open() as database:
            database.execute("DELETE FROM agreement")
            return database.execute("DELETE FROM pair").rowcount

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        database = None
        try:
            database = sqlite3.connect(self.path, timeout=_LOCK_WAIT_S, isolation_level=None)
            database.row_factory = sqlite3.Row
            database.execute("BEGIN IMMEDIATE")
            for statement in _SCHEMA:  # also to read: the file is there a moment before its first tables
                database.execute(statement)
            yield database
            database.execute("COMMIT")
        except sqlite3.Error as error:
            raise ServiceUnavailable(
                f"{self.path}: {error}; give MASKFER_HOME a folder that can be written, or delete the file"
            ) from error
        finally:
            if database is not None:
                database.close()  # what was not committed is undone


_SCHEMA: Final = (
    """CREATE TABLE IF NOT EXISTS pair (
        champion_name TEXT NOT NULL, champion_version TEXT NOT NULL, champion_sha256 TEXT NOT NULL,
        challenger_name TEXT NOT NULL, challenger_version TEXT NOT NULL, challenger_sha256 TEXT NOT NULL,
        since TEXT NOT NULL, until TEXT NOT NULL,
        dropped INTEGER NOT NULL, failed INTEGER NOT NULL,
        timed_faces INTEGER NOT NULL, champion_s REAL NOT NULL, challenger_s REAL NOT NULL,
        PRIMARY KEY (champion_sha256, challenger_sha256))""",
    """CREATE TABLE IF NOT EXISTS agreement (
        champion_sha256 TEXT NOT NULL, challenger_sha256 TEXT NOT NULL, slice TEXT NOT NULL,
        faces INTEGER NOT NULL,
        same_expression INTEGER NOT NULL, same_masked INTEGER NOT NULL, same_orientation INTEGER NOT NULL,
        expression_difference REAL NOT NULL, masked_difference REAL NOT NULL,
        orientation_difference REAL NOT NULL,
        PRIMARY KEY (champion_sha256, challenger_sha256, slice))""",
)
_AGREEMENT: Final = "SELECT * FROM agreement WHERE champion_sha256 = ? AND challenger_sha256 = ?"


def _upsert(
    database: sqlite3.Connection,
    table: str,
    key: Mapping[str, str],
    sums: Mapping[str, float],
    *,
    moment: str | None = None,
) -> None:
    """Add sums to a row, which is made where it is not there; table and columns are this module's own."""
    times = {} if moment is None else {"since": moment, "until": moment}
    row = {**key, **times, **sums}
    changes = [f"{column} = {column} + excluded.{column}" for column in sums]
    changes += ["until = excluded.until"] if times else []
    identity = [column for column in key if column.endswith("sha256") or column == "slice"]
    database.execute(
        f"INSERT INTO {table} ({', '.join(row)}) VALUES ({', '.join('?' * len(row))}) "  # noqa: S608
        f"ON CONFLICT ({', '.join(identity)}) DO UPDATE SET {', '.join(changes)}",
        tuple(row.values()),
    )


def _report(row: sqlite3.Row, agreements: sqlite3.Cursor) -> Report:
    pair = Pair(
        *(
            Named(*(row[f"{who}_{what}"] for what in ("name", "version", "sha256")))
            for who in ("champion", "challenger")
        )
    )
    tally = Tally(work=Work(*(row[each.name] for each in fields(Work))))
    for found in agreements:
        tally.agreement[found["slice"]] = Agreement(*(found[each.name] for each in fields(Agreement)))
    return Report(pair, tally, *(datetime.fromisoformat(row[when]) for when in ("since", "until")))


def _names(pair: Pair) -> dict[str, str]:
    return {
        f"{who}_{what}": getattr(getattr(pair, who), what)
        for who in ("champion", "challenger")
        for what in ("name", "version", "sha256")
    }


def _values(sums: Agreement | Work) -> dict[str, float]:
    return {each.name: getattr(sums, each.name) for each in fields(sums)}


def _named_json(model: Named) -> dict[str, str]:
    return {"name": model.name, "version": model.version, "sha256": model.sha256}
