"""A release is served only where its graph answers the golden faces as the release states."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest

from maskfer import golden
from maskfer import release as releases
from maskfer.errors import ReleaseCorrupted, ReleaseError
from maskfer.inference import Analyzer
from maskfer.labels import ORIENTATIONS
from maskfer.release import Release
from tests.known import KnownFaces


def rewritten(release: Release, out: Path, **changes: bytes) -> Release:
    """A copy whose golden files are others, with right hashes."""
    kept = {
        name.removeprefix("golden/"): (release.path / name).read_bytes()
        for name in release.files
        if name.startswith("golden/")
    }
    return releases.write(
        out,
        description=releases.Description.model_validate(
            release.metadata.model_dump(exclude={"files", "format_version"})
        ),
        weights=release.weights,
        onnx=release.onnx,
        golden=kept | {f"{name}.npy": content for name, content in changes.items()},
    )


def npy(array: np.ndarray, *, allow_pickle: bool = False) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=allow_pickle)
    return stream.getvalue()


def constant_graph(expression: list[float], masked: float) -> bytes:
    """A graph that says the same of every face."""
    from onnx import TensorProto, helper

    def constant(name: str, values: list[float]) -> list[object]:
        numbers = helper.make_tensor(f"{name}_values", TensorProto.FLOAT, [len(values)], values)
        return [
            helper.make_node("Constant", [], [f"{name}_row"], value=numbers),
            helper.make_node("Add", ["zero", f"{name}_row"], [name]),
        ]

    flat = helper.make_tensor("shape", TensorProto.INT64, [1], [-1])
    square = helper.make_tensor("square_shape", TensorProto.INT64, [3], [-1, 1, 1])
    nodes = [
        helper.make_node("GlobalAveragePool", ["faces"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["level"]),
        helper.make_node("Sub", ["level", "level"], ["zero"]),
        *constant("expression", expression),
        *constant("orientation", [0.2] * len(ORIENTATIONS)),
        *constant("m", [masked]),
        helper.make_node("Reshape", ["m", "shape"], ["masked"]),
        helper.make_node("Reshape", ["m", "square_shape"], ["heatmap"]),
    ]
    shapes: dict[str, list[str | int]] = {
        "expression": ["n", len(expression)],
        "masked": ["n"],
        "orientation": ["n", len(ORIENTATIONS)],
        "heatmap": ["n", 1, 1],
    }
    graph = helper.make_graph(
        nodes,
        "constant",
        [helper.make_tensor_value_info("faces", TensorProto.FLOAT, ["n", 1, 96, 96])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()],
        [flat, square],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(model.SerializeToString())


def without_golden(release: Release, out: Path, *, onnx: bytes | Path) -> Release:
    description = releases.Description.model_validate(
        release.metadata.model_dump(exclude={"files", "format_version"})
    )
    return releases.write(out, description=description, weights=b"", onnx=onnx)


def test_the_golden_faces_are_always_the_same_and_every_second_wears_a_mask() -> None:
    faces = golden.draw(size=96, context=1.2)
    golden.draw.cache_clear()
    np.testing.assert_array_equal(golden.draw(size=96, context=1.2), faces)
    assert faces.shape == (2 * len(ORIENTATIONS), 96, 96)
    for bare, masked in zip(faces[::2], faces[1::2], strict=True):
        changed = np.abs(bare.astype(int) - masked) > 10
        assert changed[48:].mean() > 2 * changed[:40].mean()


def test_a_release_that_answers_as_it_states_is_let_in(known_faces: KnownFaces) -> None:
    assert isinstance(golden.checked_analyzer(known_faces.release("golden")), Analyzer)


def test_another_graph_under_right_hashes_is_found(known_faces: KnownFaces) -> None:
    told = known_faces.release("golden-told")
    other = known_faces.release("golden-other", shift=40, golden_of=told)
    releases.verify(other)
    with pytest.raises(ReleaseError, match=r"output '(expression|orientation)' differs by .* golden faces"):
        golden.checked_analyzer(other)


def test_a_drift_within_the_tolerance_is_none(known_faces: KnownFaces, tmp_path: Path) -> None:
    release = known_faces.release("golden-drift")
    masked = np.load(release.path / "golden/masked.npy")
    near, far = masked + golden.TOLERANCE / 2, masked + golden.TOLERANCE * 2
    golden.check(Analyzer(rewritten(release, tmp_path / "near", masked=npy(near))))
    with pytest.raises(ReleaseError, match=r"output 'masked' differs by 0\.002"):
        golden.check(Analyzer(rewritten(release, tmp_path / "far", masked=npy(far))))


@pytest.mark.parametrize(
    "content",
    [b"", b"no array", npy(np.array([object()], dtype=object), allow_pickle=True)],
    ids=["empty", "garbage", "pickle"],
)
def test_golden_faces_that_do_not_read_are_corrupt_and_nothing_is_unpickled(
    known_faces: KnownFaces, tmp_path: Path, content: bytes
) -> None:
    damaged = rewritten(known_faces.release("golden-file"), tmp_path / "damaged", faces=content)
    with pytest.raises(ReleaseCorrupted, match=r"faces\.npy"):
        golden.check(Analyzer(damaged))


def test_answers_of_another_shape_are_refused(known_faces: KnownFaces, tmp_path: Path) -> None:
    short = rewritten(
        known_faces.release("golden-short"), tmp_path / "short", masked=npy(np.zeros(1, np.float32))
    )
    with pytest.raises(ReleaseError, match="output 'masked' differs by inf"):
        golden.check(Analyzer(short))


def test_a_release_from_before_golden_faces_only_has_to_answer_probabilities(
    known_faces: KnownFaces, tmp_path: Path
) -> None:
    release = known_faces.release("golden-old")
    golden.check(Analyzer(without_golden(release, tmp_path / "old", onnx=release.onnx)))


@pytest.mark.parametrize(
    ("expression", "masked", "says"),
    [
        ([0.2, 0.2, 0.2], 0.5, "'expression' do not add up to 1"),
        ([1.5, -0.25, -0.25], 0.5, "'expression' holds values that are no probabilities"),
        ([0.2, 0.3, 0.5], float("nan"), "'masked' holds values that are no probabilities"),
        ([0.5, 0.5], 0.5, r"'expression' has shape \[10, 2\], its model.json names 3"),
    ],
)
def test_answers_that_are_no_probabilities_are_refused(
    known_faces: KnownFaces, tmp_path: Path, expression: list[float], masked: float, says: str
) -> None:
    broken = without_golden(
        known_faces.release("golden-sane"), tmp_path / "broken", onnx=constant_graph(expression, masked)
    )
    with pytest.raises(ReleaseError, match=says):
        golden.check(Analyzer(broken))
