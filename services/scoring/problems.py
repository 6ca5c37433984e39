"""The one table from the library's errors to HTTP."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from starlette.responses import JSONResponse

from maskfer.errors import (
    ImageError,
    InputError,
    MaskferError,
    ModelNotFound,
    RegistryUnavailable,
    ReleaseError,
    RequestTooLarge,
    ServiceUnavailable,
)


class UnsupportedMedia(ImageError):
    """A body in a format that this service does not read."""


class EmptyRequest(InputError):
    """A body without content, or without the fields that are needed."""


class BadRequest(InputError):
    """A request whose head contradicts itself."""


class NotFound(InputError):
    """A path that this service does not have."""


class NotAllowed(MaskferError):
    """A request without a token that the settings name, or from a page that they do not."""


STATUS: Final[dict[type[MaskferError], HTTPStatus]] = {
    EmptyRequest: HTTPStatus.BAD_REQUEST,
    BadRequest: HTTPStatus.BAD_REQUEST,
    NotAllowed: HTTPStatus.UNAUTHORIZED,
    NotFound: HTTPStatus.NOT_FOUND,
    ImageError: HTTPStatus.BAD_REQUEST,
    UnsupportedMedia: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    RequestTooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    InputError: HTTPStatus.UNPROCESSABLE_ENTITY,
    ModelNotFound: HTTPStatus.NOT_FOUND,
    RegistryUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    ReleaseError: HTTPStatus.SERVICE_UNAVAILABLE,
    ServiceUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
}
"""The nearest ancestor counts; what is not here is 500."""

RETRY_AFTER_S: Final = 1
_INTERNAL: Final = "the service failed on this request; its log says why"


def problem(error: Exception) -> tuple[HTTPStatus, dict[str, str]]:
    """Return status and JSON body of an error; what is not the library's own says nothing of its inside."""
    for kind in type(error).__mro__:
        status = STATUS.get(kind)
        if status is not None:
            return status, {"error": type(error).__name__, "message": str(error)}
    return HTTPStatus.INTERNAL_SERVER_ERROR, {"error": "InternalError", "message": _INTERNAL}


def answer(error: Exception) -> JSONResponse:
    """Return the answer to a request that ended with `error`."""
    status, body = problem(error)
    headers = {}
    match error:
        case ServiceUnavailable():
            headers["Retry-After"] = str(RETRY_AFTER_S)
        case NotAllowed():
            headers["WWW-Authenticate"] = 'Bearer realm="maskfer"'
    return JSONResponse(body, status_code=status, headers=headers)
