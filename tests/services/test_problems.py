from __future__ import annotations

from http import HTTPStatus

import pytest

from maskfer import errors
from services.scoring.problems import EmptyRequest, UnsupportedMedia, problem


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.ImageError("x"), 400),
        (EmptyRequest("x"), 400),
        (errors.ModelNotFound("x"), 404),
        (errors.RequestTooLarge("x"), 413),
        (UnsupportedMedia("x"), 415),
        (errors.InputError("x"), 422),
        (errors.LabelError("x"), 422),
        (errors.RegistryUnavailable("x"), 503),
        (errors.ReleaseCorrupted("x"), 503),
        (errors.ServiceUnavailable("x"), 503),
    ],
)
def test_each_error_has_its_status_and_says_its_name(error: errors.MaskferError, status: int) -> None:
    assert problem(error) == (HTTPStatus(status), {"error": type(error).__name__, "message": "x"})


def test_a_fault_of_ours_says_nothing_of_its_inside() -> None:
    status, body = problem(RuntimeError("secret path /home/x"))
    assert status == HTTPStatus.INTERNAL_SERVER_ERROR
    assert "secret" not in str(body)
