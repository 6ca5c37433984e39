"""Submits the graph to a Kubeflow cluster."""

import tempfile
import warnings
from dataclasses import asdict
from pathlib import Path

import kfp
from kfp_server_api.exceptions import ApiException
from urllib3.exceptions import HTTPError

from maskfer.errors import ServiceUnavailable
from pipelines.retrain import NAME, Cluster, Recipe, Table, compile_to


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
        except (HTTPError, OSError, ValueError) as error:
            reason = " ".join(str(getattr(error, "reason", None) or error).split())
            raise ServiceUnavailable(
                f"no Kubeflow Pipelines API answers at {address}: {reason}; "
                "check --submit HOST (port-forward: kubectl -n kubeflow port-forward svc/ml-pipeline 8888)"
            ) from error
    return f"{address.rstrip('/')}/#/runs/details/{run.run_id}"
