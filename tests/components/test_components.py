"""Each component is its stage's signature and a call; that they run together is shown by tests/pipelines."""

from __future__ import annotations

import ast
import inspect
from importlib import import_module
from pathlib import Path

import pytest
from kfp.dsl import Artifact, Dataset, Model

from components.read_claim import read_claim
from components.register import register
from maskfer import provenance
from maskfer.config import Params, Settings
from maskfer.data.table import table_sha256
from maskfer.errors import DatasetError, StageFailed
from maskfer.promotion import PromotionPolicy
from maskfer.registry import Registry
from maskfer.stages import evaluate
from pipelines.retrain import STEPS
from tests.known import KnownFaces

_COMPONENTS = Path(__file__).resolve().parents[2] / "components"


@pytest.mark.parametrize("step", STEPS)
def test_a_component_passes_its_stage_exactly_what_it_asks_for(step: str) -> None:
    stage = inspect.signature(import_module(f"maskfer.stages.{step}").run)
    call = _call_of_the_stage(step)
    # Raises TypeError where an argument is missing, unknown or given twice.
    bound = stage.bind(
        *call.args, **{keyword.arg: keyword.value for keyword in call.keywords if keyword.arg is not None}
    )
    assert bound.arguments.keys() >= {
        name for name, one in stage.parameters.items() if one.default is inspect.Parameter.empty
    }


@pytest.mark.parametrize("step", STEPS)
def test_a_component_brings_nothing_but_itself(step: str) -> None:
    component = getattr(import_module(f"components.{step}"), step)
    spec = component.component_spec.implementation.container
    assert "pip" not in " ".join(spec.command)
    assert "python" in spec.image


@pytest.mark.parametrize("step", [step for step in STEPS if step != "register"])
def test_what_may_be_cached_is_keyed_by_the_content_of_data_and_code(step: str) -> None:
    component = getattr(import_module(f"components.{step}"), step)
    assert component.component_spec.inputs.keys() >= {"params", "dataset_sha256", "code_sha256"}


@pytest.mark.parametrize("step", [step for step in STEPS if step != "register"])
def test_what_may_be_cached_is_not_made_of_other_code_or_data_than_its_key_says(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = "c" * 64
    monkeypatch.setattr(provenance, "graph_code_sha256", lambda: own)
    function = getattr(import_module(f"components.{step}"), step).python_func
    table = tmp_path / "faces.parquet"
    table.write_bytes(b"replaced meanwhile")
    given = dict.fromkeys(inspect.signature(function).parameters) | {"faces": Dataset(uri=str(table))}
    with pytest.raises(StageFailed, match="rebuild the image"):
        function(**given | {"code_sha256": "0" * 64, "dataset_sha256": table_sha256(table)})
    with pytest.raises(StageFailed, match="the faces table was replaced"):
        function(**given | {"code_sha256": own, "dataset_sha256": "0" * 64})


def test_a_table_on_a_claim_is_handed_on_as_it_is_and_what_is_none_is_named(
    known_faces: KnownFaces, tmp_path: Path
) -> None:
    faces, out = known_faces.table(people=3), tmp_path / "faces"
    read_claim.python_func(path=str(faces), faces=Dataset(uri=str(out)), dataset_sha256="")
    assert table_sha256(out) == table_sha256(faces)
    with pytest.raises(DatasetError, match=r"absent\.parquet"):
        read_claim.python_func(
            path=str(tmp_path / "absent.parquet"), faces=Dataset(uri=str(out)), dataset_sha256=""
        )


def test_register_uses_the_model_name_that_the_run_was_given(
    known_faces: KnownFaces, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASKFER_HOME", str(settings.home))
    monkeypatch.setenv("MASKFER_MODEL_NAME", "production")
    params = Params.model_validate({"evaluation": {"bootstrap_samples": 100}})
    release, faces, evaluation = known_faces.release("good"), known_faces.table(people=3), tmp_path / "out"
    evaluate.run(release.path, faces, evaluation, params=params)
    register.python_func(
        release=Model(uri=str(release.path)),
        evaluation=Artifact(uri=str(evaluation)),
        faces=Dataset(uri=str(faces)),
        decision=Artifact(uri=str(tmp_path / "decision")),
        params=params.model_dump_json(),
        policy=PromotionPolicy().model_dump_json(),
        model_name=settings.model_name,
    )
    assert len(Registry(settings).versions()) == 1
    assert not Registry(settings).versions("production")


def _call_of_the_stage(step: str) -> ast.Call:
    tree = ast.parse((_COMPONENTS / f"{step}.py").read_text(encoding="utf-8"))
    (function,) = (node for node in tree.body if isinstance(node, ast.FunctionDef))
    last = function.body[-1]
    assert isinstance(last, ast.Expr)
    assert isinstance(last.value, ast.Call)
    assert ast.unparse(last.value.func) == "stage.run"
    return last.value
