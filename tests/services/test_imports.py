from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "module", ["services.scoring.service", "services.labeling.worker", "services.labeling.client"]
)
def test_what_serves_needs_neither_torch_nor_mlflow_to_start(module: str) -> None:
    code = f"import sys, {module}; print([name for name in ('torch', 'mlflow') if name in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_the_live_application_needs_no_server_and_no_runtime_for_networks() -> None:
    unwanted = ("bentoml", "starlette", "onnxruntime", "torch")
    code = (
        "import sys, services.scoring.application.start; "
        f"print([name for name in {unwanted} if name in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
