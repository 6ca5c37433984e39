"""The header and the body of an answer name one model, the one that gave it."""

from __future__ import annotations

import cv2
import httpx
import numpy as np
import pytest
from starlette.applications import Starlette

from maskfer.config import Settings
from services.scoring.edge import surround
from services.scoring.http import create_app, open_app
from tests.known import KnownFaces
from tests.services.conftest import scorer_of, served


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.anyio
async def test_an_answer_names_the_model_that_gave_it_where_it_is_replaced_meanwhile(
    known_faces: KnownFaces,
) -> None:
    first, second = (served(known_faces.release(f"header-{number}"), number) for number in (1, 2))
    app = create_app()

    def replace() -> None:
        app.state.scorer = scorer_of(second)

    open_app(app, scorer_of(first, then=replace), Settings())
    picture = cv2.imencode(".png", np.full((96, 96, 3), 127, np.uint8))[1].tobytes()
    transport = httpx.ASGITransport(app=surround(Starlette(), app, Settings()))
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
        answers = [await client.post("/analyze", content=picture) for _ in range(2)]
        wrong = await client.post("/analyze", content=b"no picture")
    assert [answer.headers["X-Model-Version"] for answer in answers] == ["1", "2"]
    assert [answer.json()["model"]["version"] for answer in answers] == ["1", "2"]
    assert [answer.json()["model"]["sha256"] for answer in answers] == [first.sha256, second.sha256]
    assert (wrong.status_code, wrong.headers["X-Model-Version"]) == (415, "2")
