"""Statistics of a session, per minute: sums and counts of what its faces showed, never a picture or a name.

A session is a random UUID that the page makes; whoever knows it may read and delete what is kept of it.
Sums and counts are kept rather than means, so that several servers may add to one minute and every mean
over any stretch of minutes is exact.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, NamedTuple, Protocol, Self

import sqlalchemy as sql
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.schema import CreateIndex, CreateTable

from maskfer.errors import ServiceUnavailable
from services.scoring import metrics
from services.scoring.statistics_database import open_engine

_log: Final = logging.getLogger("maskfer.statistics")

FLUSH_S: Final = 1.0
"""Longest time that a sum waits in memory while the database answers."""
_SWEEP_S: Final = 3600.0
"""Time between two searches for minutes that are too old."""
_MAX_WAITING: Final = 50_000
"""Sums kept in memory while the database is away; a session adds about 13 per minute."""
_TURN_S: Final = 2.0
"""Longest wait for another thread that asks the database; what hangs holds up one request and not all."""
_CLOSE_S: Final = 10.0
"""Longest wait at the end for the thread that writes."""
_SWEEP_STATEMENT_MS: Final = 600_000
"""PostgreSQL gives up deleting what is too old after this; it may be much."""

_metadata: Final = sql.MetaData()
_sums: Final = sql.Table(
    "session_minutes",
    _metadata,
    sql.Column("session", sql.Text, primary_key=True),
    sql.Column("minute", sql.BigInteger, primary_key=True, autoincrement=False),
    sql.Column("measure", sql.Text, primary_key=True),
    sql.Column("label", sql.Text, primary_key=True),
    sql.Column("count", sql.BigInteger, nullable=False),
    sql.Column("total", sql.Double, nullable=False),
    sql.Index("session_minutes_by_minute", "minute"),
)
_deletions: Final = sql.Table(
    "session_deletions",
    _metadata,
    sql.Column("session", sql.Text, primary_key=True),
    sql.Column("at", sql.Double, nullable=False),
)


class JudgedFace(Protocol):
    """What the statistics read of a face."""

    @property
    def probabilities(self) -> Mapping[str, float]:
        """Per class; sums to 1."""

    @property
    def expression(self) -> str:
        """The class that was shown."""

    @property
    def masked(self) -> bool:
        """Whether it was shown as masked."""

    @property
    def orientation(self) -> str:
        """Where it looks, a name of `ORIENTATIONS`."""


@dataclass(slots=True)
class Minute:
    """What a session's faces showed in one minute; a face counts once in every frame it was judged in."""

    start: datetime
    frames: int = 0
    faces: int = 0
    masked: int = 0
    expressions: dict[str, int] = field(default_factory=dict)
    orientations: dict[str, int] = field(default_factory=dict)
    probabilities: dict[str, tuple[int, float]] = field(default_factory=dict)
    """Per class: the faces that were judged by it, and the sum of their probabilities."""

    def add(self, measure: str, label: str, count: int, total: float) -> None:
        """Add one row of the database."""
        match measure:
            case "frames":
                self.frames += count
            case "faces":
                self.faces += count
            case "masked":
                self.masked += count
            case "expression":
                self.expressions[label] = self.expressions.get(label, 0) + count
            case "orientation":
                self.orientations[label] = self.orientations.get(label, 0) + count
            case "probability":
                before = self.probabilities.get(label, (0, 0.0))
                self.probabilities[label] = before[0] + count, before[1] + total


class _Key(NamedTuple):
    session: str
    minute: int
    """Whole minutes since 1970, UTC."""
    measure: str
    label: str


_Waiting = dict[_Key, tuple[int, float]]


class Statistics:
    """Adds up the faces of sessions and keeps the sums in the database at `url`; safe among threads.

    `record` only adds in memory: a thread of its own writes every `FLUSH_S`, and `close` writes the rest.
    While the database is away sums wait in memory, up to a limit; `failures` counts the attempts in vain and
    `lost` the sums over the limit. Minutes older than `days` are deleted. Raises `ParamsError` where `url`
    names neither SQLite nor PostgreSQL; a database that does not answer raises nothing here.
    """

    def __init__(self, url: str, *, days: int) -> None:
        self.days = days
        self.failures = 0
        self.lost = 0
        self._engine = open_engine(url)
        self._ready = False
        """Whether the tables are known to be there."""
        self._traces = False
        """Whether deleted rows may still be readable in SQLite's write-ahead log."""
        self._away = False
        self._waiting: _Waiting = {}
        self._since: dict[str, float] = {}
        """When the first waiting sum of each session was added; an older deletion does not concern it."""
        self._adding = threading.Lock()
        self._asking = threading.Lock()
        """One thread asks the database at a time, besides the sweep."""
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="statistics", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def record(self, session: str, faces: Sequence[JudgedFace], at: datetime) -> None:
        """Add the faces of one frame to the minute of `at` (with time zone); never waits for the database."""
        minute = _minute(at)
        with self._adding:
            if session in self._since or len(self._waiting) < _MAX_WAITING:
                self._since.setdefault(session, time.time())
            self._add(_Key(session, minute, "frames", ""))
            for face in faces:
                self._add(_Key(session, minute, "faces", ""))
                if face.masked:
                    self._add(_Key(session, minute, "masked", ""))
                self._add(_Key(session, minute, "expression", str(face.expression)))
                self._add(_Key(session, minute, "orientation", str(face.orientation)))
                for label, probability in face.probabilities.items():
                    self._add(_Key(session, minute, "probability", label), probability)

    def flush(self) -> None:
        """Write what waits; where the database does not answer, `ServiceUnavailable`, and it waits on."""
        with self._turn():
            with self._adding:
                waiting, since = self._waiting, self._since
                self._waiting, self._since = {}, {}
            if not (waiting or since):
                return
            try:
                with self._database():
                    self._write(waiting, since)
            except ServiceUnavailable:
                self._put_back(waiting, since)
                raise

    def read(self, session: str, *, since: datetime | None = None) -> list[Minute]:
        """Return what is kept of a session, oldest minute first, from the minute of `since` on.

        Raises `ServiceUnavailable` where the database does not answer.
        """
        self.flush()
        columns = _sums.c.minute, _sums.c.measure, _sums.c.label, _sums.c.count, _sums.c.total
        query = sql.select(*columns).where(_sums.c.session == session).order_by(_sums.c.minute)
        if since is not None:
            query = query.where(_sums.c.minute >= _minute(since))
        with self._turn(), self._database(), self._engine.connect() as connection:
            rows = connection.execute(query).all()
        minutes: dict[int, Minute] = {}
        for number, measure, label, count, total in rows:
            minute = minutes.setdefault(number, Minute(datetime.fromtimestamp(60 * number, UTC)))
            minute.add(measure, label, count, total)
        return list(minutes.values())

    def delete(self, session: str) -> int:
        """Delete what is kept of a session and return how many minutes that were.

        Raises `ServiceUnavailable` where the database does not answer.
        """
        kept = sql.select(sql.func.count(_sums.c.minute.distinct())).where(_sums.c.session == session)
        with self._turn():
            with self._adding:
                for key in [key for key in self._waiting if key.session == session]:
                    del self._waiting[key]
                self._since.pop(session, None)
            with self._database():
                # Committed before the rows go: another server that holds sums of this session either sees it
                # once it has written them, or has written them before the next statement.
                with self._engine.begin() as connection:
                    deletion = {"session": session, "at": time.time()}
                    connection.execute(self._upsert(_deletions, "at"), [deletion])
                with self._engine.begin() as connection:
                    minutes = connection.execute(kept).scalar_one()
                    connection.execute(sql.delete(_sums).where(_sums.c.session == session))
                self._traces = True
        self._forget()
        return minutes

    def sweep(self) -> None:
        """Delete what is older than `days`; `ServiceUnavailable` where the database does not answer."""
        oldest = datetime.now(UTC) - timedelta(days=self.days)
        with self._database(), self._engine.begin() as connection:
            if self._engine.dialect.name == "postgresql":
                connection.exec_driver_sql(f"SET LOCAL statement_timeout = {_SWEEP_STATEMENT_MS}")
            connection.execute(sql.delete(_sums).where(_sums.c.minute < _minute(oldest)))
            connection.execute(sql.delete(_deletions).where(_deletions.c.at < oldest.timestamp()))
            self._traces = True
        self._forget()

    def close(self) -> None:
        """Write what waits and let the database go; the second call does nothing.

        Of a database that does not answer it is not waited for without end; what it did not take is lost.
        """
        if self._closed.is_set():
            return
        self._closed.set()
        self._thread.join(_CLOSE_S)
        try:
            self.flush()
        except ServiceUnavailable:
            _log.error("statistics: what %r did not take until the end is lost", self._engine.url)
        with suppress(ServiceUnavailable):
            self._forget()
        self._engine.dispose()

    def _add(self, key: _Key, amount: float = 0.0) -> None:
        count, total = self._waiting.get(key, (0, 0.0))
        if count == 0 and len(self._waiting) >= _MAX_WAITING:
            self.lost += 1
            metrics.statistics_lost()
            return
        self._waiting[key] = count + 1, total + amount

    def _put_back(self, waiting: _Waiting, since: dict[str, float]) -> None:
        with self._adding:
            for key, (count, total) in self._waiting.items():
                before = waiting.get(key, (0, 0.0))
                waiting[key] = count + before[0], total + before[1]
            self._waiting = waiting
            self._since |= since

    def _run(self) -> None:
        swept_at = -math.inf
        while not self._closed.wait(FLUSH_S):
            with suppress(ServiceUnavailable):
                self.flush()
                if self._may_hold_minutes() and time.monotonic() - swept_at >= _SWEEP_S:
                    self.sweep()
                    swept_at = time.monotonic()
                self._forget()

    def _may_hold_minutes(self) -> bool:
        """Whether there is something to sweep, of this process or of one before it; makes no file to know."""
        if self._ready or self._engine.dialect.name != "sqlite":
            return True
        file = self._engine.url.database
        return bool(file) and Path(str(file)).exists()

    def _write(self, waiting: _Waiting, since: dict[str, float]) -> None:
        # In one order everywhere: two servers that add to the same rows must not wait for each other.
        rows = [
            key._asdict() | {"count": count, "total": total}
            for key, (count, total) in sorted(waiting.items())
        ]
        if rows:
            with self._engine.begin() as connection:
                connection.execute(self._upsert(_sums, "count", "total", add=True), rows)
            waiting.clear()  # what follows may fail, and these are kept already
        with self._engine.begin() as connection:
            asked = sql.select(_deletions).where(_deletions.c.session.in_(list(since)))
            for session, at in connection.execute(asked).all():
                if at >= since[session]:
                    connection.execute(sql.delete(_sums).where(_sums.c.session == session))
                    self._traces = True

    def _forget(self) -> None:
        """Empty SQLite's write-ahead log once something was deleted; while it is read, try again later."""
        if not self._traces or self._engine.dialect.name != "sqlite":
            return
        self._traces, busy = False, True
        try:
            with self._database(), self._engine.connect() as connection:
                connection.execution_options(isolation_level="AUTOCOMMIT")
                busy, *_ = connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()
        finally:
            if busy:
                self._traces = True

    def _upsert(self, table: sql.Table, *columns: str, add: bool = False) -> sql.Insert:
        is_sqlite = self._engine.dialect.name == "sqlite"
        insert = sqlite.insert(table) if is_sqlite else postgresql.insert(table)
        new = {
            name: table.c[name] + insert.excluded[name] if add else insert.excluded[name] for name in columns
        }
        return insert.on_conflict_do_update(index_elements=list(table.primary_key), set_=new)

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Ask the database alone for the length of a block; `ServiceUnavailable` while another hangs."""
        if not self._asking.acquire(timeout=_TURN_S):
            raise self._unavailable(f"a request before this one has waited for over {_TURN_S:g} s")
        try:
            yield
        finally:
            self._asking.release()

    @contextmanager
    def _database(self) -> Iterator[None]:
        """Make the tables at the first use; count and log what the database refuses, and say it our way."""
        try:
            if not self._ready:
                self._create_tables()
                self._ready = True
            yield
        except (SQLAlchemyError, OSError) as error:
            reason = " ".join(str(getattr(error, "orig", None) or error).split())[:200]
            raise self._unavailable(reason) from error
        if self._away:
            _log.warning("statistics: %r answers again", self._engine.url)
        self._away = False

    def _unavailable(self, reason: str) -> ServiceUnavailable:
        """Count an attempt in vain, log the first of several, and return what the client is told."""
        self.failures += 1
        metrics.statistics_failed()
        if not self._away:
            _log.error("statistics: %r does not answer: %s; scoring goes on", self._engine.url, reason)
        self._away = True
        # Neither the address nor the reason is the client's business.
        return ServiceUnavailable("statistics: the database does not answer; try again later")

    def _create_tables(self) -> None:
        file = self._engine.url.database
        if self._engine.dialect.name == "sqlite" and file:
            Path(file).parent.mkdir(parents=True, exist_ok=True)
        for table in _metadata.sorted_tables:
            try:
                self._create(table)
            except SQLAlchemyError:
                # Of two servers that make it at once PostgreSQL refuses one; now it is there.
                self._create(table)

    def _create(self, table: sql.Table) -> None:
        with self._engine.begin() as connection:
            connection.execute(CreateTable(table, if_not_exists=True))
            for index in table.indexes:
                connection.execute(CreateIndex(index, if_not_exists=True))


def _minute(at: datetime) -> int:
    return int(at.timestamp() // 60)
