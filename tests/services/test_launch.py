"""A port that is being let go is waited for."""

from __future__ import annotations

import socket
import threading

from services.scoring.launch import check_port


def test_a_port_that_is_let_go_soon_is_waited_for() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = int(taken.getsockname()[1])
        release = threading.Timer(0.5, taken.close)
        release.start()
        check_port("127.0.0.1", port)
        assert taken.fileno() == -1, "it did not wait"
        release.join()
