"""`maskfer demo` empties only a folder that is a demo's own; few faces are enough for its policy."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from maskfer.cli.demo import _Demo, _policy, _report
from maskfer.promotion import PromotionPolicy
from tests.cli.conftest import Maskfer


@pytest.mark.parametrize(
    ("work", "said"),
    [
        # What somebody's own `data build raw --out dataset` leaves has the names of a demo's.
        ("mine", "mine: holds dataset and no .maskfer-demo"),
        ("demo", "demo: holds notes.txt"),
        ("demo/notes.txt", "demo/notes.txt is a file"),
    ],
)
def test_a_folder_that_holds_something_else_is_not_emptied(
    work: str, said: str, maskfer: Maskfer, tmp_path: Path
) -> None:
    for name in ("mine/raw/a.png", "mine/dataset/faces.parquet", "demo/.maskfer-demo", "demo/notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    before = sorted(tmp_path.rglob("*"))
    assert said in maskfer("demo", "--work", tmp_path / work, code=2)
    assert sorted(tmp_path.rglob("*")) == before


def test_the_folder_of_a_demo_is_shown_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    work = tmp_path / "[bold] :cat:"
    (work / "scores").mkdir(parents=True)
    pq.write_table(pa.table({"frame": [1, 2]}), work / "scores" / "clip.parquet")
    metrics = {"slices/unmasked/accuracy": 0.9, "slices/masked/accuracy": 0.8}
    run = _Demo(work, [("score the clip", 1.0, f"maskfer score {work}/clip.mp4 --out {work}")])
    champion = {"name": "maskfer", "version": 1, "metrics": metrics}
    _report(run, champion=champion, answer={"faces": []}, version="1", scores=work / "scores")
    assert f"look next  MASKFER_HOME={work / 'home'} maskfer models history\n" in capsys.readouterr().out


def test_the_demos_policy_is_the_default_but_for_how_few_faces_are_enough(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(_policy(), encoding="utf-8")
    default = PromotionPolicy()
    overall = default.overall.model_copy(update={"minimum_faces": 1})
    assert PromotionPolicy.load(path) == default.model_copy(update={"overall": overall})
