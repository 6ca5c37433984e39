"""The way to MLflow: a client that fails quickly, and MLflow's errors in our words."""

from __future__ import annotations

import http.client
import logging
import os
import re
import sqlite3
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from maskfer.config import Settings
from maskfer.errors import ModelNotFound, RegistryError, RegistryUnavailable

if TYPE_CHECKING:
    from mlflow import MlflowClient

_HEALTH_TIMEOUT_S: Final = 3.0
_SQLITE: Final = "sqlite:///"
_ENVIRONMENT: Final = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # MLflow's own defaults keep a caller waiting for minutes where the server is gone.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}


def connect(settings: Settings, *, create: bool) -> MlflowClient:
    """Return a client of the registry that `settings` names; `create` makes a laptop's where there is none.

    Raises `RegistryUnavailable` within seconds where it does not answer or does not exist.
    """
    uri = settings.registry_uri
    _check_reachable(uri, create=create)
    for key, value in _ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    for noisy in ("mlflow.store.db.utils", "alembic", "mlflow.tracking"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    with warnings.catch_warnings():
        # MLflow's models use a loader that SQLAlchemy deprecates; nothing here can change that.
        warnings.filterwarnings("ignore", module=r"(mlflow|sqlalchemy)(\.|$)")
        from mlflow import MlflowClient

        with speaking(uri):
            return MlflowClient(tracking_uri=uri, registry_uri=uri)


@contextmanager
def speaking(uri: str) -> Iterator[None]:
    """Turn whatever MLflow, its database or the network raises inside the block into a `RegistryError`."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    uri = without_password(uri)
    try:
        yield
    except MlflowException as error:
        text = _line(error)
        if error.error_code == "RESOURCE_DOES_NOT_EXIST" or ("alias" in text and "not found" in text):
            raise ModelNotFound(f"registry {uri}: {text}; see `maskfer models list`") from error
        if "Max retries" in text or "Connection" in text:
            raise RegistryUnavailable(_unreachable(uri, text)) from error
        raise RegistryError(f"registry {uri}: {text}") from error
    except (SQLAlchemyError, sqlite3.Error, OSError) as error:  # requests' errors are OSErrors
        raise RegistryUnavailable(_unreachable(uri, _line(error))) from error


def without_password(uri: str) -> str:
    """Return an address as it may be shown: without the user and password in it."""
    return re.sub(r"//[^/@]*@", "//", uri)


def artifact_location(settings: Settings) -> str | None:
    """Return where a laptop keeps run files; None where the server decides."""
    return None if settings.tracking_uri else (settings.home.resolve() / "artifacts").as_uri()


def _check_reachable(uri: str, *, create: bool) -> None:
    if uri.startswith(_SQLITE):
        file = Path(uri.removeprefix(_SQLITE))
        if create:
            file.parent.mkdir(parents=True, exist_ok=True)
        elif not file.is_file():
            raise RegistryUnavailable(
                f"no registry at {file}; `maskfer retrain` makes one, "
                "or set MASKFER_HOME or MASKFER_TRACKING_URI"
            )
    elif uri.startswith(("http://", "https://")):
        uri = without_password(uri)
        try:
            with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=_HEALTH_TIMEOUT_S):  # noqa: S310
                return
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise RegistryUnavailable(_unreachable(uri, _line(error))) from error


def _unreachable(uri: str, reason: str) -> str:
    return f"registry {uri} does not answer ({reason}); start it or set MASKFER_TRACKING_URI"


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
