"""The accuracy table: every system trained and judged under one protocol, seed by seed.

A system is a network and what of it is switched off. Each runs the stages that `maskfer retrain` runs, on
the same faces, with the same augmentation and the same budget; what comes before the expression is trained
once per seed and shared. What is finished is kept under the hash of all that could change it; a killed run
goes on from its last epoch.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from maskfer import atomic, provenance
from maskfer.config import Params, Settings
from maskfer.data.table import FacesTable, read_metadata, table_sha256
from maskfer.evaluation import accuracy_table
from maskfer.evaluation.predictions import columns_needed
from maskfer.inference import Analyzer
from maskfer.labels import ORIENTATIONS
from maskfer.learning import architecture, cost
from maskfer.learning.faces import load
from maskfer.learning.training import default_device
from maskfer.registry import Registry
from maskfer.release import Release
from maskfer.stages import (
    compute_heatmaps,
    evaluate,
    train_expression,
    train_inpainter,
    train_landmarks,
    train_mask_classifier,
)

RESULT: Final = "result.json"
RELEASE: Final = "release"
_TIMED_FACES: Final = 256
_TIMED_ROUNDS: Final = 5


@dataclass(frozen=True)
class System:
    """A row of the table."""

    name: str
    title: str
    overrides: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Section of params.yaml -> its keys that differ."""

    def params(self, base: Params, *, seed: int) -> Params:
        """Return the parameters of one run of this system."""
        tree = base.model_dump(mode="json") | {"seed": seed}
        for section, changed in self.overrides.items():
            tree[section] = {**tree[section], **changed}
        return Params.model_validate(tree)


def _expression(name: str, title: str, **changed: Any) -> System:
    return System(name, title, {"expression": changed})


METHODS: Final = (
    System("two_branch", "approach 2 (the default)"),
    _expression("landmark_split", "approach 1", model="landmark_split"),
    _expression("vgg19", "VGG19", model="vgg19"),
    _expression("mobilenet", "MobileNet", model="mobilenet"),
    _expression("deep_emotion", "Deep-Emotion", model="deep_emotion"),
    _expression("pacnn", "pACNN", model="pacnn"),
    _expression("gacnn", "gACNN", model="gacnn"),
    _expression("ran", "RAN", model="ran"),
    _expression("oadn", "OADN", model="oadn"),
)
VARIANTS: Final = (
    _expression("resnet18", "approach 2 on ResNet-18", backbone="resnet18"),
    _expression("vgg19_two_branch", "approach 2 on VGG19", backbone="vgg19"),
    _expression("no_heatmap", "no heatmap, one branch", attention="none"),
    _expression("only_unmasked", "H_u only, one branch", attention="unmasked"),
    _expression("true_region", "the true region instead of the heatmap", attention="region"),
    _expression("equal_losses", "both branches weigh the same", masked_branch_weight=0.5),
    _expression("branch_transformer", "a spatial transformer in each branch", spatial_transformer=True),
    System(
        "no_transformer",
        "no spatial transformer in the mask classifier",
        {"mask_classifier": {"spatial_transformer": False}},
    ),
)
SYSTEMS: Final = {system.name: system for system in (*METHODS, *VARIANTS)}


@dataclass(frozen=True, slots=True)
class Trial:
    """One system trained with one seed."""

    system: System
    seed: int
    params: Params
    folder: Path
    """Holds `result.json` and, unless the system cannot be released, `release` and `evaluation`."""
    result: dict[str, Any]
    """`accuracy` and `macro_f1` of `masked` and `unmasked` test faces, what the network costs, and more."""
    key: str
    """Hash of all that could change the result."""
    fresh: bool
    """False where it was finished before and only read back."""


def run(
    faces: Path,
    work: Path,
    *,
    params: Params,
    systems: Sequence[System],
    seeds: Sequence[int],
    real_masks: Path | None = None,
) -> Iterator[Trial]:
    """Train and judge every system with every seed, seed by seed, yielding each when it is done.

    `real_masks` is a faces table of photographs of real masks, on which the mask classifiers are judged.
    Raises `DatasetError` where one of the tables is none, before anything is trained.
    """
    for table in (faces, *(() if real_masks is None else (real_masks,))):
        read_metadata(table)
    real_sha256 = None if real_masks is None else table_sha256(real_masks)
    for seed in seeds:
        shared = _Shared(faces, work / f"seed-{seed}")
        for system in systems:
            made_with = system.params(params, seed=seed)
            folder = shared.folder / system.name
            key = shared.key(made_with.model_dump(mode="json"), real_sha256)
            fresh = _once(
                folder, key, partial(_trial, shared=shared, params=made_with, real_masks=real_masks)
            )
            result = json.loads((folder / RESULT).read_text(encoding="utf-8"))
            yield Trial(system, seed, made_with, folder, result, key, fresh)


@dataclass(frozen=True)
class _Shared:
    """What the systems of one seed train on, and the networks before the expression that they share."""

    faces: Path
    folder: Path

    def key(self, *parts: Any) -> str:
        """Return the hash of the faces, the code and `parts`."""
        content = [table_sha256(self.faces), provenance.training_code_sha256(), *parts]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def heatmaps(self, params: Params) -> Path:
        """Return the folder of stage compute_heatmaps."""
        sections = ("mask_classifier", "heatmap")
        masks = self._stage("masks", params, sections, partial(train_mask_classifier.run, self.faces))
        return self._stage("heatmaps", params, sections, partial(compute_heatmaps.run, self.faces, masks))

    def landmarks(self, params: Params) -> Path | None:
        """Return the folder of stage train_landmarks; None where the network reads no landmarks."""
        if not params.expression.reads_landmarks:
            return None
        heatmaps, inpainter = self.heatmaps(params), None
        sections = ("mask_classifier", "heatmap", "inpainting")
        if params.expression.inpaints:
            painting = partial(train_inpainter.run, self.faces, heatmaps)
            inpainter = self._stage("inpainter", params, sections, painting)
        name = "landmarks" if inpainter is None else "landmarks-inpainted"
        regression = partial(train_landmarks.run, self.faces, heatmaps, inpainter=inpainter)
        return self._stage(name, params, (*sections, "landmarks"), regression)

    def _stage(self, name: str, params: Params, sections: tuple[str, ...], stage: Callable[..., Any]) -> Path:
        read = {"seed", "classes", "data", *sections}
        key = self.key(name, params.model_dump(mode="json", include=read))
        out = self.folder / "shared" / f"{name}-{key[:8]}"
        _once(out, key, partial(stage, params=params))
        return out


def _once(out: Path, key: str, make: Callable[[Path], Any]) -> bool:
    """Let `make` write the folder `out` unless it did so under this key; return whether it had to."""
    marker = out.with_name(f"{out.name}.key")
    if out.is_dir() and marker.is_file() and marker.read_text(encoding="utf-8") == key:
        return False
    out.parent.mkdir(parents=True, exist_ok=True)
    marker.unlink(missing_ok=True)
    make(out)
    atomic.write_text(marker, key)
    return True


def _trial(out: Path, *, shared: _Shared, params: Params, real_masks: Path | None) -> None:
    heatmaps = shared.heatmaps(params)
    # The checkpoint lies beside the folder that appears whole, so that a killed trial goes on from it.
    checkpoints = out.parent / "checkpoints" / out.name
    with atomic.new_folder(out) as work:
        if params.expression.attention == "region":
            result = _judged_unreleased(shared.faces, heatmaps, params=params, checkpoints=checkpoints)
        else:
            report = train_expression.run(
                shared.faces,
                heatmaps,
                work / RELEASE,
                params=params,
                lineage=provenance.lineage(shared.faces),
                landmarks=shared.landmarks(params),
                checkpoints=checkpoints,
            )
            judged = evaluate.run(report.release.path, shared.faces, work / "evaluation", params=params)
            result = _result(
                report.release, judged.metrics, shared.faces, params=params, real_masks=real_masks
            )
        (work / RESULT).write_text(evaluate.to_text(result), encoding="utf-8")


def _judged_unreleased(faces: Path, heatmaps: Path, *, params: Params, checkpoints: Path) -> dict[str, Any]:
    # What reads the true region is judged by its task, on the test people: serving could not run it.
    trained = train_expression.train(
        faces, heatmaps, params=params, checkpoint=checkpoints / ".true_region.checkpoint.safetensors"
    )
    test = load(faces, split="test", classes=params.classes, crop_size=params.data.crop_size)
    figures = replace(trained.task, val=test).validate(trained.task.model)
    trained.checkpoint.remove()
    return {
        kind: {name: figures[f"{kind}_{name}"] for name in ("accuracy", "macro_f1")}
        for kind in ("masked", "unmasked")
    } | _cost(params)


def _result(
    release: Release, metrics: Mapping[str, Any], faces: Path, *, params: Params, real_masks: Path | None
) -> dict[str, Any]:
    slices = metrics["slices"]
    return {
        "masked": slices["masked"],
        "unmasked": slices["unmasked"],
        "orientation": slices["orientation"],
        "heatmap_iou": metrics["heatmap_iou"],
        "mask_accuracy": metrics["mask_accuracy"],
        "orientation_agreement": metrics["orientation_agreement"],
        "real_mask_accuracy": None if real_masks is None else _mask_accuracy(release, real_masks),
        "ms_a_face": _ms_a_face(release, faces),
        **_cost(params),
    }


def _cost(params: Params) -> dict[str, int]:
    network = architecture.expression_classifier(params)
    return {
        "parameters": cost.parameters(network),
        "multiply_adds": cost.multiply_adds(network, crop_size=params.data.crop_size),
    }


def _mask_accuracy(release: Release, faces: Path) -> float:
    table = FacesTable.read(faces, columns=columns_needed(release.classes))
    # Drawn twins say nothing of real masks.
    real = table.where(np.array([origin != "drawn" for origin in table.column("mask_origin")], np.bool_))
    is_masked = np.array(real.column("is_masked"), np.bool_)
    return float(((Analyzer(release).predict(real.images()).masked >= 0.5) == is_masked).mean())


def _ms_a_face(release: Release, faces: Path) -> float:
    """Median time of a face in a batch, the whole released graph on one thread of ONNX Runtime."""
    analyzer = Analyzer(release, threads=1)
    images = FacesTable.read(faces, split="test", columns=["image"]).images()[:_TIMED_FACES]
    analyzer.predict(images[:8])
    seconds = []
    for _ in range(_TIMED_ROUNDS):
        started = time.perf_counter()
        analyzer.predict(images)
        seconds.append(time.perf_counter() - started)
    return 1000 * float(np.median(seconds)) / len(images)


def log(trial: Trial, faces: Path, *, settings: Settings) -> None:
    """Log a trial to MLflow, in an experiment of its own; one that was logged before is not logged again."""
    Registry(settings).log_trial(
        name=f"{trial.system.name}-seed-{trial.seed}",
        key=trial.key,
        params=trial.params.model_dump(mode="json"),
        figures=trial.result,
        lineage=provenance.lineage(faces),
    )


def write_table(trials: Sequence[Trial], out: Path, *, params: Params, page: Path | None = None) -> None:
    """Write the table of these trials to `out` and, if given, as the accuracy section of `page`."""
    by_system: dict[str, list[Trial]] = {}
    for trial in trials:
        by_system.setdefault(trial.system.name, []).append(trial)
    rows = [
        accuracy_table.Row(of_one[0].system.title, [trial.result for trial in of_one])
        for of_one in by_system.values()
    ]
    section = params.expression
    text = (
        f"{section.epochs} epochs, {section.batch_size} faces a step, on {default_device().type}; mean and "
        "standard deviation over the seeds, on the test people.\n\n"
        + accuracy_table.markdown(rows, orientations=ORIENTATIONS, classes=params.classes)
    )
    atomic.write_text(out, text)
    if page is not None:
        accuracy_table.replace_section(page, text)
