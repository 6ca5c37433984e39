"""From trained networks to the files of a release: weights and one ONNX graph that says the same."""

from __future__ import annotations

import copy
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from jaxtyping import Float, UInt8
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from maskfer import drift, golden, release
from maskfer.config import Params
from maskfer.errors import ReleaseError, TrainingError
from maskfer.faces.crop import model_input
from maskfer.inference import INPUT, OUTPUTS, Crops, Predictions
from maskfer.learning import architecture
from maskfer.learning.models.backbones import fold_norms
from maskfer.learning.models.mask_aware import FaceAnswers, MaskAwareNet

PARITY_TOLERANCE = 1e-4
"""Largest difference between torch and ONNX Runtime, in probability."""
_ANSWERED = 4096
"""Faces of `val` whose answers are the reference: more would not change the shares, and would cost time."""


@dataclass(frozen=True, slots=True)
class Seen:
    """The faces that a release was made with, grey."""

    training: UInt8[np.ndarray, "n s s"]
    val: UInt8[np.ndarray, "m s s"]


def write_release(
    out: Path,
    *,
    model: MaskAwareNet,
    params: Params,
    lineage: release.Lineage,
    name: str = "maskfer",
    plots: Mapping[str, Path] | None = None,
    seen: Seen | None = None,
) -> release.Release:
    """Write `model` as a release folder at `out`, whole or not at all, with its answers to the golden faces.

    With `seen` it carries what later inputs are compared with (`drift`).
    Raises `TrainingError` where the exported graph does not answer as the model does.
    """
    crop_size = params.data.crop_size
    graph = to_onnx(model, crop_size=crop_size)
    check_parity(model, graph, crop_size=crop_size)
    description = release.Description(
        name=name,
        classes=params.classes,
        crop_size=crop_size,
        crop_context=params.data.crop_context,
        params=params.model_dump(mode="json"),
        lineage=lineage,
    )
    return release.write(
        out,
        description=description,
        weights=weights_bytes(model),
        onnx=graph,
        plots=plots,
        golden=golden_answers(graph, crop_size=crop_size, crop_context=params.data.crop_context),
        reference=None if seen is None else _reference(graph, seen),
    )


def golden_answers(graph: bytes, *, crop_size: int, crop_context: float) -> dict[str, bytes]:
    """Return the files with which a release proves later that it still answers as `graph` does now."""
    session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])

    def predict(crops: Crops) -> Predictions:
        return Predictions(*session.run(list(OUTPUTS), {INPUT: model_input(crops)}))

    return golden.record(predict, size=crop_size, context=crop_context)


def to_onnx(model: MaskAwareNet, *, crop_size: int) -> bytes:
    """Return the graph `faces -> expression, masked, orientation, heatmap` with a free batch dimension."""
    # Half the nodes to trace, and none for ONNX Runtime to fuse at every start.
    model = fold_norms(model).to("cpu").float()
    faces = torch.linspace(0, 255, 2 * crop_size**2).reshape(2, 1, crop_size, crop_size)
    with _quiet_exporter(), tempfile.TemporaryDirectory() as folder:
        program = torch.onnx.export(
            model,
            (faces,),
            input_names=["faces"],
            output_names=list(FaceAnswers._fields),
            dynamic_shapes={"faces": {0: torch.export.Dim("n")}},
            dynamo=True,
            verbose=False,
        )
        if program is None:
            raise TrainingError("torch.onnx.export gave no graph; the installed torch is not the pinned one")
        path = Path(folder) / "model.onnx"
        program.save(path)
        return path.read_bytes()


def check_parity(model: MaskAwareNet, graph: bytes, *, crop_size: int) -> float:
    """Return the largest difference between `model` and `graph` over batches of one and of seven.

    Raises `TrainingError` naming the output where it exceeds `PARITY_TOLERANCE`.
    """
    model = copy.deepcopy(model).to("cpu").float().eval()
    session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    worst = 0.0
    for count in (1, 7):
        faces = rng.uniform(0, 255, (count, 1, crop_size, crop_size)).astype(np.float32)
        with torch.inference_mode():
            expected = model(torch.from_numpy(faces))
        answers = session.run(None, {"faces": faces})
        for name, want, got in zip(FaceAnswers._fields, expected, answers, strict=True):
            difference = _largest_difference(want.numpy(), got)
            if not difference <= PARITY_TOLERANCE:
                raise TrainingError(
                    f"the exported graph's output {name!r} differs from the model by {difference:.2g} on "
                    f"{count} faces, allowed is {PARITY_TOLERANCE:g}; check the versions of torch and onnx"
                )
            worst = max(worst, difference)
    return worst


def weights_bytes(model: nn.Module) -> bytes:
    """Return a network's weights as the bytes of a safetensors file."""
    return tensor_bytes(model.state_dict())


def tensor_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """Return tensors as the bytes of a safetensors file."""
    # safetensors keeps no memory format and refuses views.
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    data: bytes = save_tensors(plain)
    return data


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file, on the processor."""
    tensors: dict[str, Tensor] = load_tensors(path.read_bytes())
    return tensors


def load_weights(model: nn.Module, path: Path) -> None:
    """Fill `model` from a safetensors file; raises `TrainingError` where they do not belong together."""
    try:
        model.load_state_dict(read_tensors(path))
    except FileNotFoundError as error:
        raise TrainingError(f"{path}: no such weights; run the stage that makes them") from error
    except SafetensorError as error:
        raise TrainingError(f"{path}: the file is damaged ({error}); run the stage that makes it") from error
    except RuntimeError as error:
        problem = " ".join(str(error).split())[:200]
        raise TrainingError(
            f"{path}: weights of another architecture ({problem}); train again with the present params"
        ) from error


def params_of(shipped: release.Release) -> Params:
    """Return the parameters a release was made with; raises `ReleaseError` where this version has others."""
    try:
        return Params.model_validate(shipped.metadata.params)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise ReleaseError(
            f"{shipped.path / release.METADATA}: params.{where}: {problem['msg']}; it was made by maskfer "
            f"{shipped.metadata.lineage.package_version}: train it again with this version"
        ) from error


def restore(shipped: release.Release) -> MaskAwareNet:
    """Return the torch network whose graph a release ships, from its parameters and weights alone.

    Raises `ReleaseError` or `TrainingError` where they are not of this version.
    """
    model = architecture.whole(params_of(shipped))
    load_weights(model, shipped.weights)
    return model.eval()


def _reference(graph: bytes, seen: Seen) -> bytes:
    step = -(-len(seen.val) // _ANSWERED)
    faces = seen.val[::step]
    session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
    # The graph is asked and not the network: what ships is what later answers are compared with.
    answers = Predictions.concatenate(
        [
            Predictions(*session.run(list(OUTPUTS), {INPUT: model_input(faces[start : start + 256])}))
            for start in range(0, len(faces), 256)
        ]
    )
    return drift.Reference.of(seen.training, answers).to_bytes()


def _largest_difference(want: Float[np.ndarray, "*shape"], got: Float[np.ndarray, "*shape"]) -> float:
    if want.shape != got.shape:
        return np.inf
    return float(np.abs(want - got).max(initial=0.0))


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    # The exporter warns about its own parts (no torchvision, pytree deprecations): nothing to act on here.
    exporter_log = logging.getLogger("torch.onnx._internal.exporter")
    level = exporter_log.level
    exporter_log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        exporter_log.setLevel(level)
