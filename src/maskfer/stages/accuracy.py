"""The accuracy table: every system trained and judged under one protocol, seed by seed.

A system is a network and what of it is switched off. Each runs the stages that `maskfer retrain` runs, on
the same faces, with the same augmentation and the same budget; what comes before the expression is trained
once per seed and shared. What is trained is kept under the hash of all that could change it, and what was
found out about it under the hash of all that could change that: new code that judges trains nothing. A killed
run goes on from its last epoch, and what other parameters have made stays beside it.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from filelock import FileLock

from maskfer import atomic, provenance, release
from maskfer.config import Params, Settings
from maskfer.data.table import FacesTable, require_trainable, table_sha256
from maskfer.errors import MaskferError
from maskfer.evaluation import accuracy_table
from maskfer.evaluation.plots import write_accuracy
from maskfer.evaluation.predictions import columns_needed
from maskfer.inference import Analyzer
from maskfer.labels import ORIENTATIONS
from maskfer.learning import architecture, cost, export, start
from maskfer.learning.checkpoint import path_of
from maskfer.learning.faces import load
from maskfer.learning.systems import System
from maskfer.learning.training import full_memory_is_an_error, judged
from maskfer.registry import Registry
from maskfer.release import Lineage, Release
from maskfer.stages import (
    compute_heatmaps,
    evaluate,
    kept,
    train_expression,
    train_inpainter,
    train_landmarks,
    train_mask_classifier,
)

RESULT: Final = "result.json"
_EVALUATION: Final = "evaluation"
_TIMED_FACES: Final = 256


@dataclass(frozen=True, slots=True)
class Trial:
    """One system trained with one seed."""

    system: System
    seed: int
    params: Params
    release: Path | None
    """None where the system cannot be released."""
    judged: Path
    """Folder with `result.json`, and for a release the figures and plots of its evaluation."""
    result: dict[str, Any]
    """`accuracy` and `macro_f1` of `masked` and `unmasked` test faces, what the network costs, and more."""
    key: str
    """Hash of all that could change the result."""
    lineage: Lineage
    trained: bool
    """False where its networks were there before; False as well where only the judging was new."""


def run(
    faces: Path,
    work: Path,
    *,
    params: Params,
    systems: Sequence[System],
    seeds: Sequence[int],
    real_masks: Path | None = None,
    train: bool = True,
    on_failure: Callable[[System, int, MaskferError], None] | None = None,
) -> Iterator[Trial]:
    """Train and judge every system with every seed, seed by seed, yielding each when it is done.

    Several processes may run the same on one `work`: each trial is made by one of them, and yielded by all.
    With `train` off, what is not trained yet is left out. With `on_failure`, which gets the system, the seed
    and the error, so is a trial whose training or judging fails, and the others go on; else it ends the run.

    `real_masks` is a faces table of photographs of real masks, on which the mask classifiers are judged.
    Before anything is trained it raises `DatasetError` where one of the tables is none or has faces that are
    cut otherwise, or the first lacks a class, or people to choose or judge by, and `ParamsError` where a
    system does not go with `params`.
    """
    require_trainable(faces, data=params.data, classes=params.classes)
    if real_masks is not None:
        FacesTable.read(real_masks, columns=["split"]).require_crop(
            size=params.data.crop_size, context=params.data.crop_context, wanted_by="params.yaml"
        )
    wanted = [(seed, system, system.params(params, seed=seed)) for seed in seeds for system in systems]
    # Now: a run takes hours, and what is committed meanwhile is not what runs.
    lineage, code = provenance.lineage(faces), provenance.code_sha256(__name__)
    # Of several processes each takes what nobody works on, and in the end reads back what the others did.
    busy: list[tuple[int, System, Params]] = []
    for patient, trials in ((False, wanted), (True, busy)):
        for seed, system, made_with in trials:
            shared = _Shared(faces, work / f"seed-{seed}", lineage, train)
            try:
                taken = (
                    kept.taken(shared.folder / system.name, patient=patient) if train else nullcontext(True)
                )
                with taken as mine, full_memory_is_an_error(f"{system.name}, seed {seed}"):
                    if not mine:
                        busy.append((seed, system, made_with))
                        continue
                    trial = _trial(
                        system, seed, made_with, shared=shared, real_masks=real_masks, train=train, code=code
                    )
            except MaskferError as error:
                if on_failure is None:
                    raise
                on_failure(system, seed, error)
                continue
            if trial is not None:
                yield trial


def _trial(
    system: System,
    seed: int,
    params: Params,
    *,
    shared: _Shared,
    real_masks: Path | None,
    train: bool,
    code: str,
) -> Trial | None:
    made = _made(shared.folder / system.name, shared, params, train=train)
    if made is None:
        return None
    how = params.evaluation.model_dump(mode="json")
    real_sha256 = None if real_masks is None else table_sha256(real_masks)
    key = shared.key(system.name, made.key, how, real_sha256, code=code)
    verdict = kept.keyed(shared.folder / system.name, "judged", key)
    try:
        kept.once(
            verdict, key, partial(_judge, made=made, shared=shared, params=params, real_masks=real_masks)
        )
    except _NotTrained:
        return None
    found = json.loads((verdict / RESULT).read_text(encoding="utf-8"))
    return Trial(
        system,
        seed,
        params,
        made.out if made.is_release else None,
        verdict,
        found | {"ms_a_face": _ms_a_face(shared, params) if made.is_release else None},
        key,
        # Of what trained it, which may have been other code than judges it now.
        release.read(made.out).metadata.lineage if made.is_release else shared.lineage,
        made.fresh,
    )


@dataclass(frozen=True)
class _Made:
    """What training a system with a seed left."""

    out: Path
    """A release folder; for a system that cannot be released, one with its figures on the test people."""
    is_release: bool
    key: str
    """Hash of all that could change it."""
    fresh: bool
    """Whether it was trained now."""


class _NotTrained(Exception):
    """A network before the expression is not there, and nothing is to be trained."""


@dataclass(frozen=True)
class _Shared:
    """What the systems of one seed train on, and the networks before the expression that they share."""

    faces: Path
    folder: Path
    lineage: Lineage
    train: bool = True
    """Whether what is not there is made; else it raises `_NotTrained`."""

    def key(self, *parts: Any, code: str) -> str:
        """Return the hash of the faces, the hash of the code and `parts`."""
        provenance.require_dataset(self.faces, sha256=self.lineage.dataset_sha256)
        content = [self.lineage.dataset_sha256, code, *parts]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def heatmaps(self, params: Params) -> Path:
        """Return the folder of stage compute_heatmaps."""
        sections = ("mask_classifier", "heatmap")
        masks = self._stage("masks", params, sections, partial(train_mask_classifier.run, self.faces))
        return self._stage("heatmaps", params, sections, partial(compute_heatmaps.run, self.faces, masks))

    def inpainter(self, params: Params) -> Path | None:
        """Return the folder of stage train_inpainter; None where nothing is inpainted."""
        if not params.expression.inpaints:
            return None
        sections = ("mask_classifier", "heatmap", "inpainting")
        painting = partial(train_inpainter.run, self.faces, self.heatmaps(params))
        return self._stage("inpainter", params, sections, painting)

    def landmarks(self, params: Params) -> Path | None:
        """Return the folder of stage train_landmarks; None where the network reads no landmarks."""
        if not params.expression.reads_landmarks:
            return None
        heatmaps, inpainter = self.heatmaps(params), self.inpainter(params)
        sections = ("mask_classifier", "heatmap", "inpainting")
        name = "landmarks" if inpainter is None else "landmarks-inpainted"
        regression = partial(train_landmarks.run, self.faces, heatmaps, inpainter=inpainter)
        return self._stage(name, params, (*sections, "landmarks"), regression)

    def _stage(self, name: str, params: Params, sections: tuple[str, ...], stage: Callable[..., Any]) -> Path:
        read = {"seed", "classes", "data", *sections}
        content = params.model_dump(mode="json", include=read)
        key = self.key(name, content, code=provenance.training_code_sha256())
        out = kept.keyed(self.folder / "shared", name, key)
        if not self.train and not kept.is_made(out, key):
            raise _NotTrained(name)
        kept.once(out, key, partial(stage, params=params))
        return out


def _made(folder: Path, shared: _Shared, params: Params, *, train: bool) -> _Made | None:
    # The parameters of what this system has no part of change nothing.
    unread = {"evaluation"}
    unread |= set() if params.expression.reads_landmarks else {"landmarks"}
    unread |= set() if params.expression.inpaints else {"inpainting"}
    content = params.model_dump(mode="json", exclude=unread)
    started = start.weights_sha256(params.expression)
    key = shared.key(content, started, code=provenance.training_code_sha256())
    releasable = params.expression.attention != "region"
    out = kept.keyed(folder, "release" if releasable else "unreleased", key)
    if not train and not kept.is_made(out, key):
        return None
    # The checkpoint lies beside the folder that appears whole, so that a killed trial goes on from it.
    make = partial(_release if releasable else _figures, shared=shared, params=params, checkpoints=folder)
    return _Made(out, releasable, key, kept.once(out, key, make))


def _release(out: Path, *, shared: _Shared, params: Params, checkpoints: Path) -> None:
    train_expression.run(
        shared.faces,
        shared.heatmaps(params),
        out,
        params=params,
        lineage=shared.lineage,
        landmarks=shared.landmarks(params),
        checkpoints=checkpoints,
    )


def _figures(out: Path, *, shared: _Shared, params: Params, checkpoints: Path) -> None:
    # What reads the true region is judged by its task, on the test people: serving could not run it.
    trained = train_expression.train(
        shared.faces,
        shared.heatmaps(params),
        params=params,
        checkpoint=path_of(out, folder=checkpoints),
    )
    test = load(shared.faces, split="test", classes=params.classes, data=params.data)
    figures = judged(trained.task, test)
    with atomic.new_folder(out, holds=(RESULT,)) as work:
        (work / RESULT).write_text(evaluate.to_text(figures), encoding="utf-8")
    trained.checkpoint.remove()


def _judge(out: Path, *, made: _Made, shared: _Shared, params: Params, real_masks: Path | None) -> None:
    with atomic.new_folder(out, holds=(RESULT, _EVALUATION)) as work:
        if made.is_release:
            found = evaluate.run(made.out, shared.faces, work / _EVALUATION, params=params).metrics
            shipped = release.read(made.out)
            result = _answers(found) | {
                "real_mask_accuracy": None if real_masks is None else _mask_accuracy(shipped, real_masks),
                **_networks_before(shared, params),
            }
        else:
            figures = json.loads((made.out / RESULT).read_text(encoding="utf-8"))
            result = {
                kind: {name: figures.get(f"{kind}_{name}") for name in ("accuracy", "macro_f1")}
                for kind in ("masked", "unmasked")
            }
        result |= {"trained_on": kept.made_on(made.out), **_cost(params)}
        (work / RESULT).write_text(evaluate.to_text(result), encoding="utf-8")


def _answers(metrics: Mapping[str, Any]) -> dict[str, Any]:
    slices = metrics["slices"]
    return {
        "masked": slices["masked"],
        "unmasked": slices["unmasked"],
        "orientation": slices["orientation"],
        "heatmap_iou": metrics["heatmap_iou"],
        "mask_accuracy": metrics["mask_accuracy"],
        "orientation_agreement": metrics["orientation_agreement"],
    }


def _networks_before(shared: _Shared, params: Params) -> dict[str, Any]:
    """Return what the inpainter and the landmark network, where there are such, do on the test people."""
    found: dict[str, Any] = {}
    landmarks = shared.landmarks(params)
    if landmarks is None:
        return found
    heatmaps, inpainter = shared.heatmaps(params), shared.inpainter(params)
    if inpainter is not None:
        found["inpainting"] = train_inpainter.judge(
            shared.faces, heatmaps, inpainter, params=params, split="test"
        )
    found["landmarks"] = train_landmarks.judge(
        shared.faces, heatmaps, landmarks, inpainter=inpainter, params=params, split="test"
    )
    return found


def _cost(params: Params) -> dict[str, int]:
    network = architecture.whole(params).expression
    return {
        "parameters": cost.parameters(network),
        "multiply_adds": cost.multiply_adds(network, crop_size=params.data.crop_size),
    }


def _mask_accuracy(shipped: Release, faces: Path) -> float:
    table = FacesTable.read(faces, columns=columns_needed(shipped.classes))
    # Drawn twins say nothing of real masks.
    real = table.where(np.array([origin != "drawn" for origin in table.column("mask_origin")], np.bool_))
    is_masked = np.array(real.column("is_masked"), np.bool_)
    return float(((Analyzer(shipped).predict(real.images()).masked >= 0.5) == is_masked).mean())


def _ms_a_face(shared: _Shared, params: Params) -> float:
    """Median time of a face in a batch, the whole released graph on one thread of ONNX Runtime.

    Weights do not change it: a release of untrained ones is timed, once for all seeds on a processor.
    """
    sections = {"data", "mask_classifier", "heatmap", "inpainting", "landmarks", "expression"}
    content = params.model_dump(mode="json", include={"classes", *sections})
    key = shared.key(content, cost.processor(), code=provenance.code_sha256(__name__))
    out = kept.keyed(shared.folder.parent / "timed", params.expression.model, key)
    kept.once(out, key, partial(_time, faces=shared.faces, params=params, lineage=shared.lineage))
    return float(json.loads((out / RESULT).read_text(encoding="utf-8"))["ms_a_face"])


def _time(out: Path, *, faces: Path, params: Params, lineage: Lineage) -> None:
    with atomic.new_folder(out, holds=(RESULT,)) as work, tempfile.TemporaryDirectory() as folder:
        untrained = export.write_release(
            Path(folder) / "untrained", model=architecture.whole(params), params=params, lineage=lineage
        )
        images = FacesTable.read(faces, split="test", columns=["image"]).images()[:_TIMED_FACES]
        found = {"ms_a_face": cost.ms_a_face(Analyzer(untrained, threads=1), images)}
        (work / RESULT).write_text(evaluate.to_text(found), encoding="utf-8")


def log(trial: Trial, *, settings: Settings) -> None:
    """Log a trial to MLflow, in an experiment of its own; one that was logged before is not logged again."""
    # Not by two processes at a time: each would find that the other has not.
    with FileLock(trial.judged.with_name(f"{trial.judged.name}.lock")):
        Registry(settings).log_trial(
            name=f"{trial.system.name}-seed-{trial.seed}",
            key=trial.key,
            params=trial.params.model_dump(mode="json"),
            figures=trial.result,
            lineage=trial.lineage,
        )


def write_table(
    trials: Sequence[Trial],
    out: Path,
    *,
    params: Params,
    systems: Sequence[System],
    page: Path | None = None,
) -> None:
    """Write the table of these trials to `out`, its picture beside it, and the table into `page` if given.

    Its rows are in the order of `systems`; those of which there is no trial are left out.
    """
    results: dict[str, dict[int, dict[str, Any]]] = {}
    for trial in sorted(trials, key=lambda trial: trial.seed):
        results.setdefault(trial.system.name, {})[trial.seed] = trial.result
    rows = [
        accuracy_table.Row(system.title, results[system.name]) for system in systems if system.name in results
    ]
    machines = {trial.result["trained_on"] for trial in trials}
    text = (
        f"{_budget(trials, params)}, trained on {' and '.join(sorted(machines))}; mean and standard "
        "deviation over the seeds, on the test people.\n\n"
        + accuracy_table.markdown(rows, orientations=ORIENTATIONS, classes=params.classes)
    )
    atomic.write_text(out, text)
    write_accuracy(rows, out.with_suffix(".png"))
    if page is not None:
        accuracy_table.replace_section(page, text)


def _budget(trials: Sequence[Trial], params: Params) -> str:
    text = f"{params.expression.epochs} epochs of {params.expression.batch_size} faces a step"
    before = [f"mask classifier {params.mask_classifier.epochs}"]
    if any(trial.params.expression.inpaints for trial in trials):
        before.append(f"inpainter {params.inpainting.epochs}")
    if any(trial.params.expression.reads_landmarks for trial in trials):
        before.append(f"landmarks {params.landmarks.epochs}")
    return f"{text} ({', '.join(before)})"
