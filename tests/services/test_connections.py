"""What is written to a connection in one turn of the loop leaves as one."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from services.scoring.connections import Together


class _Transport:
    """Keeps what reaches it."""

    def __init__(self) -> None:
        self.calls: list[bytes | str] = []

    def write(self, data: bytes) -> None:
        self.calls.append(data)

    def close(self) -> None:
        self.calls.append("closed")

    def is_closing(self) -> bool:
        return "closed" in self.calls


def _after(*steps: list[bytes], close: bool = False) -> list[bytes | str]:
    below = _Transport()

    async def write() -> None:
        transport: Any = Together(cast(asyncio.Transport, below), asyncio.get_running_loop())
        for step in steps:
            for data in step:
                transport.write(data)
            if close:
                transport.close()
                assert transport.is_closing()
            await asyncio.sleep(0)

    asyncio.run(write())
    return below.calls


def test_head_and_body_leave_as_one_and_the_next_answer_after_them() -> None:
    assert _after([b"head", b"body"], [b"next"]) == [b"headbody", b"next"]


def test_what_is_held_leaves_before_the_connection_closes() -> None:
    assert _after([b"head", b"body"], close=True) == [b"headbody", "closed"]
