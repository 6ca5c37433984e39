"""`maskfer retrain` and `maskfer pipeline` as a user meets them when something is wrong, or to compile."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save

from maskfer.cli.retrain import _report

MASKFER = str(Path(sys.executable).with_name("maskfer"))


def maskfer(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([MASKFER, *arguments], capture_output=True, text=True, check=False, cwd=cwd)


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--data", "absent"], "absent: no such folder"),
        (["--data", "empty"], "empty"),
        (["--data", "faces", "--params", "absent.yaml"], "absent.yaml: no such file"),
        (["--data", "faces", "--params", "wrong.yaml"], "wrong.yaml: expresion"),
        (["--data", "photos", "--params", "from.yaml"], "gone.pth: no such weights"),
        (["--data", "photos", "--params", "others.yaml"], "others.safetensors"),
        (["--data", "photos", "--params", "region.yaml"], "no release can be made"),
        (["--data", "s3://b/a.parquet", "--compile", "g.yaml", "--params", "region.yaml"], "no release can"),
        (["--data", "faces", "--policy", "absent.yaml"], "absent.yaml: no such promotion policy"),
        (["--data", "faces"], "faces.parquet"),
        (["--data", "faces", "--work", "faces"], "would take the place of the input faces"),
        (["--data", "photos", "--work", "copied"], "copied: holds release and no retrain.log"),
        (["--data", "photos", "--work", "kept"], "kept: holds notes.txt"),
        (["--data", "faces", "--submit", "127.0.0.1:1"], "cannot read this machine's files"),
        (["--data", "s3://b/faces.parquet", "--submit", "127.0.0.1:1"], "no Kubeflow Pipelines API answers"),
        (["--data", "s3://b/faces.parquet", "--compile", "graph.json"], "graph.json"),
    ],
)
def test_what_cannot_be_used_is_one_line_and_leaves_nothing(
    arguments: list[str], said: str, tmp_path: Path
) -> None:
    for folder in ("empty", "photos", "copied/release", "kept"):
        (tmp_path / folder).mkdir(parents=True)
    for file in ("kept/retrain.log", "kept/notes.txt"):
        (tmp_path / file).touch()
    (tmp_path / "faces").mkdir()
    (tmp_path / "faces" / "faces.parquet").write_bytes(b"no table")
    (tmp_path / "wrong.yaml").write_text("expresion: {epochs: 2}\n", encoding="utf-8")
    weights = "expression: {backbone: resnet18, pretrained: gone.pth}\n"
    (tmp_path / "from.yaml").write_text(weights, encoding="utf-8")
    (tmp_path / "others.safetensors").write_bytes(save({"another.network": torch.zeros(1)}))
    weights = "expression: {backbone: resnet18, pretrained: others.safetensors}\n"
    (tmp_path / "others.yaml").write_text(weights, encoding="utf-8")
    (tmp_path / "region.yaml").write_text("expression: {attention: region}\n", encoding="utf-8")
    before = files(tmp_path)
    failed = maskfer("retrain", *arguments, cwd=tmp_path)
    assert failed.returncode == 2
    assert len(failed.stderr.splitlines()) == 1, failed.stderr
    assert failed.stderr.startswith("maskfer: error: ")
    assert said in failed.stderr
    assert files(tmp_path) == before


def test_a_report_shows_a_reason_and_a_folder_as_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, reason = tmp_path / "[bold] :cat:", "a person rolled back from this release: see [/wiki/12]"
    folder.mkdir()
    (folder / "metrics.json").write_text('{"slices": {}}', encoding="utf-8")
    decision = {"version": 2, "champion": 1, "promote": False, "reason": reason}
    (folder / "decision.json").write_text(json.dumps(decision), encoding="utf-8")
    _report((), folder=folder, name="maskfer")
    shown = capsys.readouterr().out
    assert f"because    {reason}\n" in shown
    assert f"look next  {folder}: decision.md" in shown


def test_the_graph_compiles_with_the_settings_of_the_cluster(tmp_path: Path) -> None:
    out = tmp_path / "pipeline.yaml"
    done = maskfer(
        "pipeline", "compile", "--out", str(out), "--image", "r/maskfer-python:7", "--gpus", "0", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    spec, _platform = yaml.safe_load_all(out.read_text(encoding="utf-8"))
    assert spec["pipelineInfo"]["name"] == "maskfer-retrain"
    assert "r/maskfer-python:7" in out.read_text(encoding="utf-8")
    assert "nvidia" not in out.read_text(encoding="utf-8")


def test_help_has_examples(tmp_path: Path) -> None:
    for command in (["retrain"], ["pipeline", "compile"]):
        assert "Examples" in maskfer(*command, "--help", cwd=tmp_path).stdout
