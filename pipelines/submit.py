"""Submits the graph to a Kubeflow cluster."""

import tempfile
import warnings
from dataclasses import asdict
from http.client import HTTPException
from pathlib import Path
from typing import Final
from urllib.error import HTTPError as HTTPStatusError
from urllib.request import urlopen

import kfp
from kfp_server_api.exceptions import ApiException
from urllib3.exceptions import HTTPError

from maskfer.errors import ServiceUnavailable
from pipelines.retrain import NAME, Cluster, Recipe, Table, compile_to

_TIMEOUT_S: Final = 10.0


def submit(
    host: str,
    *,
    recipe: Recipe,
    table: Table,
    cluster: Cluster,
    experiment: str,
    namespace: str | None = None,
) -> str:
    """Compile the graph, create a run of it at `host`, and return the run's address there.

    Raises `ServiceUnavailable` where no Kubeflow Pipelines API answers or it refuses the run.
    """
    address = host if "://" in host else f"http://{host}"
    with tempfile.TemporaryDirectory(prefix="maskfer-submit-") as folder, warnings.catch_warnings():
        # kfp warns at every construction which server versions it speaks to.
        warnings.filterwarnings("ignore", category=FutureWarning, module="kfp")
        package = Path(folder) / f"{NAME}.yaml"
        compile_to(package, defaults=recipe, cluster=cluster)
        _check_answers(address)
        try:
            client = kfp.Client(host=address, namespace=namespace or "kubeflow")
            run = client.create_run_from_pipeline_package(
                str(package),
                arguments={**asdict(table), **asdict(recipe)},
                run_name=NAME,
                experiment_name=experiment,
                namespace=namespace,
            )
        except ApiException as error:
            raise ServiceUnavailable(
                f"Kubeflow at {address} refused the run: {error.status} {error.reason}; "
                "check --namespace and that the host is the Pipelines API"
            ) from error
        except (HTTPError, OSError) as error:
            raise _does_not_answer(address, error) from error
    return f"{address.rstrip('/')}/#/runs/details/{run.run_id}"


def _check_answers(address: str) -> None:
    # kfp's client asks a wrong server five times, with pauses, and logs a traceback for each.
    try:
        with urlopen(f"{address.rstrip('/')}/apis/v2beta1/healthz", timeout=_TIMEOUT_S):  # noqa: S310
            return
    except HTTPStatusError as error:
        error.close()
        if error.code not in (401, 403):  # kfp's client knows how to log in, this question does not
            raise _does_not_answer(address, error) from error
    except (OSError, ValueError, HTTPException) as error:
        raise _does_not_answer(address, error) from error


def _does_not_answer(address: str, error: Exception) -> ServiceUnavailable:
    reason = " ".join(str(getattr(error, "reason", None) or error).split())
    status = f"{error.code} " if isinstance(error, HTTPStatusError) else ""
    return ServiceUnavailable(
        f"no Kubeflow Pipelines API answers at {address}: {status}{reason}; check --submit HOST "
        "(from outside the cluster: kubectl -n kubeflow port-forward svc/ml-pipeline 8888)"
    )
