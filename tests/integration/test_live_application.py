"""`maskfer live` against a started service, whose token it needs."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from maskfer.release import Release
from tests.films import film, film_nobody
from tests.integration.conftest import MASKFER, environment, free_port, serving
from tests.integration.watched import served

_TOKEN = "s3cret"  # noqa: S105


@pytest.fixture(scope="module")
def service(tiny_release: Release, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with served(tmp_path_factory.mktemp("live"), tiny_release, MASKFER_API_TOKENS=_TOKEN) as running:
        yield f"127.0.0.1:{running.port}"


def _live(tmp_path: Path, *arguments: str | Path, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [MASKFER, "live", *map(str, arguments)],
        env=environment(tmp_path, **environ),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture(scope="module")
def short_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return film(tmp_path_factory.mktemp("film") / "clip.mp4", frames=24)


def test_a_video_into_a_pipe_is_a_line_of_json_a_frame(
    service: str, short_clip: Path, tmp_path: Path
) -> None:
    done = _live(
        tmp_path, "--video", short_clip, "--fast", "--server", f"http://{service}", MASKFER_TOKEN=_TOKEN
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["frame"] for line in lines] == list(range(24))
    assert [line["time_s"] for line in lines] == sorted({line["time_s"] for line in lines})
    assert all(line["latency_ms"] >= line["server_ms"] > 0 for line in lines)
    tracks = [face["track"] for line in lines for face in line["faces"]]
    assert len(tracks) == 24
    # One person, one track; a machine that stands still for a second between two frames begins another.
    assert tracks == sorted(tracks)
    assert max(tracks) <= 2
    assert "24 frames sent, 24 answered, 0 dropped" in done.stderr


def test_a_video_without_a_face_is_played_at_its_own_speed(service: str, tmp_path: Path) -> None:
    nobody = film_nobody(tmp_path / "nobody.mp4", frames=24)
    started_s = time.monotonic()
    done = _live(tmp_path, "--video", nobody, "--server", f"http://{service}", "--token", _TOKEN)
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - started_s > 23 / 12
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert answers
    assert all(answer["faces"] == [] for answer in answers if "faces" in answer)


def test_a_terminal_shows_bars_and_ctrl_c_ends_with_a_summary(
    service: str, tmp_path: Path, clip: Path
) -> None:
    server, client = pty.openpty()
    command = [MASKFER, "live", "--terminal", "--video", str(clip), "--server", f"http://{service}"]
    env = environment(tmp_path, MASKFER_TOKEN=_TOKEN, TERM="xterm", COLUMNS="100")
    # A background job of a shell ignores Ctrl-C, and what it starts would too.
    ours = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(command, env=env, stdin=client, stdout=client, stderr=client)
    signal.signal(signal.SIGINT, ours)
    os.close(client)
    screen, interrupted = "", False
    try:
        with contextlib.suppress(OSError):  # what a terminal reads once the last writer is gone
            while select.select([server], [], [], 60)[0]:
                screen += os.read(server, 65_536).decode(errors="replace")
                if not interrupted and all(word in screen for word in ("negative", "looks", "frames/s")):
                    process.send_signal(signal.SIGINT)
                    interrupted = True
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
        os.close(server)
    assert "█" in screen
    summary = re.search(r"live: (\d+) frames sent, \d+ answered", screen)
    assert summary is not None
    assert int(summary[1]) < 240, "it played to the end"
    assert "Traceback" not in screen


def test_it_comes_back_when_the_service_does(tiny_release: Release, clip: Path, tmp_path: Path) -> None:
    port = free_port()
    env = environment(tmp_path, MASKFER_SCORING_MODEL=str(tiny_release.path))
    serve = [MASKFER, "serve", "--port", str(port)]
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(contextlib.ExitStack())
        server = first.enter_context(serving(serve, port, log=tmp_path / "log", env=env))
        said = stack.enter_context((tmp_path / "said").open("w"))
        live = subprocess.Popen(
            [MASKFER, "live", "--video", str(clip), "--fast", "--server", f"http://127.0.0.1:{port}"],
            env=environment(tmp_path),
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
            pipesize=4096,  # so that it waits for us, and is not through before the service is killed
        )
        stack.enter_context(live)
        stack.callback(live.kill)
        assert live.stdout is not None
        lines = [live.stdout.readline() for _ in range(10)]
        # The whole group: a worker that outlived its server by a second would go on answering.
        os.killpg(server.pid, signal.SIGKILL)
        server.wait(30)
        with serving(serve, port, log=tmp_path / "again", env=env):
            rest, _ = live.communicate(timeout=120)
    assert live.returncode == 0
    answers = [json.loads(line) for line in [*lines, *rest.splitlines()]]
    assert sorted(answer["frame"] for answer in answers) == list(range(240))
    news = (tmp_path / "said").read_text()
    assert "connection lost" in news
    assert "connected again" in news
    assert "1 reconnection;" in news


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--camera", "97"), "no camera 97"),
        (("--video", "nothing.mp4"), "no such file"),
        (("--video", "CLIP", "--camera", "0"), "exclude each other"),
        (("--fast",), "--video"),
        (("--video", "CLIP", "--server", "faces"), "is no address"),
        (("--video", "CLIP", "--server", "http://127.0.0.1:9"), "nobody listens"),
        (("--video", "CLIP", "--server", "http://nowhere.invalid"), "nobody listens"),
        (("--video", "CLIP", "--server", "http://SERVICE/analyze"), "expected a maskfer scoring service"),
        (("--video", "CLIP", "--server", "http://SERVICE"), "--token"),
    ],
)
def test_what_cannot_work_is_one_line(
    service: str, short_clip: Path, tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    filled = [part.replace("CLIP", str(short_clip)).replace("SERVICE", service) for part in arguments]
    done = _live(tmp_path, *filled)
    assert done.returncode == 2
    assert done.stderr.startswith("maskfer: error: ")
    assert done.stderr.count("\n") == 1
    assert words in done.stderr
    assert done.stdout == ""


def test_help_has_examples(tmp_path: Path) -> None:
    assert "maskfer live --video clip.mp4 --fast" in _live(tmp_path, "--help", COLUMNS="200").stdout
