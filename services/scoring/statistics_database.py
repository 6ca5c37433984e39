"""How the database of the statistics is reached: which ones there are, and how long silence is borne."""

from __future__ import annotations

import sqlite3
from typing import Final

import sqlalchemy as sql
from sqlalchemy.exc import ArgumentError

from maskfer.errors import ParamsError

_SQLITE_S: Final = 5.0
"""Longest wait for another process that writes to SQLite's file."""
_SILENCE_S: Final = 3
"""PostgreSQL is given up when it does not take a connection, or its machine says nothing, for this long."""
_STATEMENT_MS: Final = 5_000
"""PostgreSQL gives a statement up after this."""
_EXPECTED: Final = "expected sqlite:///FILE or postgresql://USER:PASSWORD@HOST/DATABASE"


def open_engine(url: str) -> sql.Engine:
    """Return an engine that waits for nothing without end, and that has not connected yet.

    Raises `ParamsError` for any other database, and for an address that cannot be one.
    """
    try:
        return _engine(sql.make_url(url))
    except (ArgumentError, ValueError) as error:  # the second where a port or an option does not parse
        raise ParamsError(f"MASKFER_STATISTICS_URL: is no database address; {_EXPECTED}") from error


def _engine(address: sql.URL) -> sql.Engine:
    if address.drivername in ("sqlite", "sqlite+pysqlite"):
        engine = sql.create_engine(address, connect_args={"timeout": _SQLITE_S})
        sql.event.listen(engine, "connect", _set_up_sqlite)
        return engine
    if address.get_backend_name() in ("postgresql", "postgres"):
        address = address.set(drivername="postgresql+psycopg")
        return sql.create_engine(address, pool_pre_ping=True, connect_args=_limits(address))
    raise ParamsError(f"MASKFER_STATISTICS_URL: got {address.drivername}; {_EXPECTED}")


def _limits(address: sql.URL) -> dict[str, str | int]:
    """Of PostgreSQL's connections, by libpq's names: without them silence would be waited for for ever.

    What the address says of them itself counts.
    """
    limits: dict[str, str | int] = {
        "connect_timeout": _SILENCE_S,
        "tcp_user_timeout": 1000 * _SILENCE_S,  # what was sent is not acknowledged
        "keepalives_idle": _SILENCE_S,  # it was, and no answer comes
        "keepalives_interval": 1,
        "keepalives_count": 2,
        "options": f"-c statement_timeout={_STATEMENT_MS}",
    }
    return {name: value for name, value in limits.items() if name not in address.query}


def _set_up_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    # Several server processes write to the file; what is deleted is overwritten.
    for pragma in ("journal_mode = WAL", "synchronous = NORMAL", "secure_delete = ON"):
        connection.execute(f"PRAGMA {pragma}").close()
