"""How to use the service, in the form that machines read: `/openapi.json`, and what its examples send."""

from __future__ import annotations

import io
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import yaml
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from services.scoring.problems import NotFound, answer

_DOCUMENT: Final = Path(__file__).with_name("openapi.yaml")
_SIZE_PX: Final = 320
_EXAMPLES: Final = frozenset({"face.png", "crops.npy", "other-size.npy", "too-large.png"})


def routes() -> list[Route]:
    """Return the routes of the document and of its examples."""
    return [Route("/openapi.json", _serve_document), Route("/openapi/{name}", _serve_example)]


@cache
def document() -> dict[str, Any]:
    """Return the OpenAPI document."""
    read: dict[str, Any] = yaml.safe_load(_DOCUMENT.read_text(encoding="utf-8"))
    read["info"]["version"] = version("maskfer")
    return read


@cache
def example(name: str) -> tuple[bytes, str] | None:
    """Return a file that an example sends and its media type; drawn here, no photograph of anybody."""
    match name:
        case "face.png":
            from maskfer.data.synthetic import clip_frames

            image = next(clip_frames(frames=1, fps=1.0, size=_SIZE_PX, seed=7))[0]
            return cv2.imencode(".png", image)[1].tobytes(), "image/png"
        case "crops.npy":
            file = io.BytesIO()
            np.save(file, np.random.default_rng(0).integers(0, 256, (2, 96, 96), np.uint8))
            return file.getvalue(), "application/octet-stream"
        case "other-size.npy":
            file = io.BytesIO()
            np.save(file, np.zeros((1, 48, 48), np.uint8))
            return file.getvalue(), "application/octet-stream"
        case "too-large.png":
            # 60,000 x 60,000 pixels as its header states; the pixels themselves are not there.
            head = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (60_000).to_bytes(4, "big") * 2
            return head + b"\x08\x02\0\0\0", "image/png"
        case _:
            return None


async def _serve_document(_request: Request) -> Response:
    return JSONResponse(document())


def _serve_example(request: Request) -> Response:
    name = request.path_params["name"]
    found = example(name) if name in _EXAMPLES else None  # `example` keeps what it was asked for
    if found is None:
        return answer(NotFound("path: no such example; /openapi.json lists them"))
    content, media_type = found
    return Response(content, media_type=media_type)
