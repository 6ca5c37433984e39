"""What a release answers, by ONNX Runtime alone."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from maskfer import release as releases
from maskfer.errors import InputError, ReleaseError
from maskfer.faces.face import Box, Detection, Image
from maskfer.inference import Analyzer
from maskfer.labels import ORIENTATIONS
from maskfer.release import Release
from tests.known import KnownFaces


class BoxesAt:
    """A detector that finds faces where the test put them."""

    def __init__(self, *boxes: Box) -> None:
        self.boxes: Sequence[Box] = boxes

    def detect(self, image: Image) -> list[Detection]:
        assert image.ndim == 3
        return [Detection(box, 0.9, np.zeros((5, 2), np.float32)) for box in self.boxes]


@pytest.fixture(scope="module")
def analyzer(tiny_release: Release) -> Analyzer:
    return Analyzer(tiny_release, threads=2)


def test_probabilities_are_probabilities(analyzer: Analyzer) -> None:
    crops = np.random.default_rng(0).integers(0, 256, (5, 96, 96), np.uint8)
    answers = analyzer.predict(crops)
    assert answers.expression.shape == (5, 3)
    np.testing.assert_allclose(answers.expression.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(answers.orientation.sum(axis=1), 1, atol=1e-5)
    assert answers.orientation.shape == (5, len(ORIENTATIONS))
    for part in (answers.masked, answers.heatmap):
        assert ((part > 0) & (part < 1)).all()
    assert answers.heatmap.shape[0] == 5
    assert answers.heatmap.ndim == 3


def test_a_face_is_answered_the_same_alone_and_in_a_large_batch(analyzer: Analyzer) -> None:
    crops = np.random.default_rng(1).integers(0, 256, (300, 96, 96), np.uint8)
    together = analyzer.predict(crops)
    assert len(together) == 300
    for index in (0, 255, 256, 299):
        alone = analyzer.predict(crops[index : index + 1])
        np.testing.assert_allclose(alone.expression[0], together.expression[index], atol=1e-5)
        np.testing.assert_allclose(alone.heatmap[0], together.heatmap[index], atol=1e-5)


def test_a_grey_picture_is_answered_the_same_in_three_channels(analyzer: Analyzer) -> None:
    grey = np.random.default_rng(2).integers(0, 256, (2, 96, 96), np.uint8)
    colour = np.repeat(grey[..., None], 3, axis=3)
    np.testing.assert_allclose(
        analyzer.predict(grey).expression, analyzer.predict(colour).expression, atol=1e-4
    )


def test_no_face_gives_no_answer(analyzer: Analyzer) -> None:
    answers = analyzer.predict(np.zeros((0, 96, 96), np.uint8))
    assert len(answers) == 0
    assert answers.expression.shape == (0, 3)
    assert answers.heatmap.ndim == 3


@pytest.mark.parametrize(
    "crops",
    [
        np.zeros((1, 64, 64), np.uint8),
        np.zeros((1, 96, 96), np.float32),
        np.zeros((96, 96), np.uint8),
        np.zeros((1, 96, 96, 4), np.uint8),
    ],
)
def test_other_crops_are_refused_with_what_was_got_and_expected(
    analyzer: Analyzer, crops: np.ndarray
) -> None:
    with pytest.raises(InputError, match=r"got .* expected uint8 \[n, 96, 96\]"):
        analyzer.predict(crops)


def test_a_picture_is_read_face_by_face(known_faces: KnownFaces) -> None:
    release = known_faces.release("reader", crop_context=1.2)
    picture = np.zeros((200, 400, 3), np.uint8)
    picture[10:58, 10:58] = 215  # the third class' level in the upper left quarter
    picture[58:106, 10:58] = 220  # masked
    picture[58:106, 58:106] = 40  # looks up
    picture[10:58, 210:258] = 40
    picture[58:106, 258:306] = 215
    detector = BoxesAt(
        *(Box(left + 8.0, 18.0, 80.0, 80.0) for left in (10, 210))
    )  # 96 px with the release's context of 1.2
    first, second = Analyzer(release, detector).analyze(picture)
    assert first.expression == "negative"
    assert first.masked
    assert first.orientation == "up"
    assert second.expression == "positive"
    assert not second.masked
    assert second.orientation == "down"
    assert first.confidence == 0.9
    assert sum(first.probabilities.values()) == pytest.approx(1, abs=1e-5)
    assert tuple(first.probabilities) == release.classes


def test_a_picture_without_a_face_gives_an_empty_list(tiny_release: Release) -> None:
    assert Analyzer(tiny_release, BoxesAt()).analyze(np.zeros((50, 50, 3), np.uint8)) == []


def test_the_projects_own_detector_is_used_where_none_is_given(analyzer: Analyzer) -> None:
    assert analyzer.analyze(np.full((120, 120, 3), 127, np.uint8)) == []


def test_a_graph_that_does_not_load_names_the_file(tiny_release: Release, tmp_path: Path) -> None:
    described = releases.Description.model_validate(
        tiny_release.metadata.model_dump(exclude={"files", "format_version"})
    )
    broken = releases.write(tmp_path / "broken", description=described, weights=b"", onnx=b"no graph")
    with pytest.raises(ReleaseError, match=r"model\.onnx: ONNX Runtime cannot load it"):
        Analyzer(broken)


def test_a_graph_with_other_outputs_is_refused(tiny_release: Release, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["faces"], ["expression"])],
        "g",
        [onnx.helper.make_tensor_value_info("faces", onnx.TensorProto.FLOAT, ["n", 1, 96, 96])],
        [onnx.helper.make_tensor_value_info("expression", onnx.TensorProto.FLOAT, ["n", 1, 96, 96])],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    described = releases.Description.model_validate(
        tiny_release.metadata.model_dump(exclude={"files", "format_version"})
    )
    other = releases.write(
        tmp_path / "other", description=described, weights=b"", onnx=model.SerializeToString()
    )
    with pytest.raises(ReleaseError, match="expected input 'faces'"):
        Analyzer(other)


def test_inference_loads_no_torch() -> None:
    probe = "import sys, maskfer.inference; print('torch' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "False"
