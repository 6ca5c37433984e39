"""Faces whose truth is known and releases of known faults, so that a verdict can be checked."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from jaxtyping import UInt8

from maskfer import golden
from maskfer import release as releases
from maskfer.config import Settings
from maskfer.data.table import encode_image, encode_region, write_faces
from maskfer.inference import Analyzer
from maskfer.labels import EXPRESSIONS, ORIENTATIONS
from maskfer.release import Description, Lineage, Release


@dataclass(frozen=True)
class KnownFaces:
    """Faces whose truth is written in their four quadrants, and releases that read it, well or badly.

    Brightness of the upper left: the class; lower left: masked or not; lower right: the orientation.
    """

    folder: Path
    classes: tuple[str, ...] = EXPRESSIONS

    def table(self, *, people: int = 60, seed: int = 0, labels: bool = True, split: str = "test") -> Path:
        """Write a faces.parquet with an unmasked face and its drawn twin for every person and orientation."""
        rng = np.random.default_rng(seed)
        rows = []
        for person in range(people):
            for turn, orientation in enumerate(ORIENTATIONS):
                label = int(rng.integers(len(self.classes)))
                for masked in (False, True):
                    face = _quadrants(label, len(self.classes), turn, masked=masked, rng=rng)
                    row = _row(face, person=person, turn=turn, masked=masked) | {"split": split}
                    row |= {"expression": self.classes[label] if labels else None}
                    rows.append(row | {"orientation": str(orientation)})
        out = self.folder / f"faces-{people}-{seed}-{labels}-{split}" / "faces.parquet"
        write_faces(out, rows, metadata={"crop_size": 96, "crop_context": 1.0, "seed": seed})
        return out

    def release(
        self,
        name: str,
        *,
        shift: float = 0.0,
        blind_when_masked: bool = False,
        blind_to_up: bool = False,
        classes: tuple[str, ...] | None = None,
        crop_context: float = 1.0,
        dataset_sha256: str = "0" * 64,
        golden_of: Release | None = None,
    ) -> Release:
        """Write a release that reads the code; where it is blind it answers the first class.

        `shift` moves its borders between the classes, in grey levels: other answers, about as good.
        `golden_of` gives it another release's answers to the golden faces; its own graph answers otherwise.
        """
        classes = classes or self.classes
        description = Description(
            name="known",
            created_at=datetime(2026, 1, 1, tzinfo=UTC),
            classes=classes,
            crop_size=96,
            crop_context=crop_context,
            params={"seed": 7, "name": name},
            lineage=Lineage(dataset_sha256=dataset_sha256, git_revision="f" * 40, package_version="0"),
        )
        graph = _quadrant_graph(
            len(classes), shift=shift, blind_when_masked=blind_when_masked, blind_to_up=blind_to_up
        )
        out, weights = self.folder / "releases" / name, name.encode()
        release = releases.write(out, description=description, weights=weights, onnx=graph)
        golden_files = golden.record(
            Analyzer(golden_of or release).predict, size=release.crop_size, context=release.crop_context
        )
        return releases.write(out, description=description, weights=weights, onnx=graph, golden=golden_files)


def _quadrants(
    label: int, classes: int, turn: int, *, masked: bool, rng: np.random.Generator
) -> UInt8[np.ndarray, "96 96"]:
    face = rng.normal(0, 6, (96, 96))
    face[:48, :48] += _level(label, classes) + rng.normal(0, 30)
    face[48:, :48] += 220 if masked else 30
    face[48:, 48:] += _level(turn, len(ORIENTATIONS))
    return np.clip(face, 0, 255).astype(np.uint8)


def _row(face: UInt8[np.ndarray, "96 96"], *, person: int, turn: int, masked: bool) -> dict[str, object]:
    lower_half = np.zeros((96, 96), np.bool_)
    lower_half[48:] = True
    face_id = f"{person:08d}{turn:08d}"
    return {
        "face_id": face_id + ("-m" if masked else ""),
        "source": f"person-{person}/{turn}.png",
        "source_sha256": "0" * 64,
        "person": f"person-{person}",
        "is_masked": masked,
        "mask_origin": "drawn" if masked else "none",
        "twin_id": face_id if masked else None,
        "confidence": 0.9,
        "box": [0.0, 0.0, 96.0, 96.0],
        "image": encode_image(np.repeat(face[:, :, None], 3, axis=2), quality=95),
        "mask_region": encode_region(lower_half) if masked else None,
    }


@pytest.fixture(scope="session")
def known_faces(tmp_path_factory: pytest.TempPathFactory) -> KnownFaces:
    """Faces whose truth is known, and releases of known faults."""
    pytest.importorskip("onnx", reason="the learning extra is not installed")
    return KnownFaces(tmp_path_factory.mktemp("known"))


def _level(index: int, count: int) -> float:
    return 40 + 175 * index / (count - 1)


def _quadrant_graph(classes: int, *, shift: float, blind_when_masked: bool, blind_to_up: bool) -> bytes:
    """Return a graph that answers the nearest level of a quadrant: a linear function of its mean."""
    from onnx import TensorProto, helper, numpy_helper

    def nearest(quadrant: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        levels = np.array([_level(index, count) for index in range(count)]) + shift
        weights = np.zeros((4, count), np.float32)
        weights[quadrant] = 2 * levels / 400
        return weights, -(levels**2).astype(np.float32) / 400

    expression, orientation = nearest(0, classes), nearest(3, len(ORIENTATIONS))
    faults = np.zeros((4, 2), np.float32)
    faults[2, 0], faults[3, 1] = 1, -4
    first_class = np.zeros((2, classes), np.float32)
    first_class[:, 0] = blind_when_masked, blind_to_up
    constants = {
        "e_weights": expression[0],
        "e_bias": expression[1],
        "o_weights": orientation[0],
        "o_bias": orientation[1],
        "m_weights": np.array([[0], [0], [0.1], [0]], np.float32),
        "m_bias": np.array([-12.5], np.float32),
        "f_weights": faults,
        "f_bias": np.array([-125, 4 * 62], np.float32),
        "first_class": first_class,
        "flat": np.array([-1], np.int64),
        "square": np.array([-1, 1, 1], np.int64),
        # In the lower half of a masked face the heatmap says "mask".
        "lower": np.array([[[-1, -1], [1, 1]]], np.float32),
    }
    make = helper.make_node
    nodes = [
        make("AveragePool", ["faces"], ["pooled"], kernel_shape=[48, 48], strides=[48, 48]),
        make("Flatten", ["pooled"], ["means"]),
        make("Gemm", ["means", "f_weights", "f_bias"], ["f"]),
        make("Relu", ["f"], ["fault"]),
        make("MatMul", ["fault", "first_class"], ["blindness"]),
        make("Gemm", ["means", "e_weights", "e_bias"], ["e"]),
        make("Add", ["e", "blindness"], ["e_blind"]),
        make("Softmax", ["e_blind"], ["expression"], axis=1),
        make("Gemm", ["means", "o_weights", "o_bias"], ["o"]),
        make("Softmax", ["o"], ["orientation"], axis=1),
        make("Gemm", ["means", "m_weights", "m_bias"], ["m"]),
        make("Reshape", ["m", "flat"], ["m_flat"]),
        make("Sigmoid", ["m_flat"], ["masked"]),
        make("Reshape", ["m", "square"], ["m_square"]),
        make("Mul", ["m_square", "lower"], ["h"]),
        make("Sigmoid", ["h"], ["heatmap"]),
    ]
    shapes: dict[str, list[str | int]] = {
        "expression": ["n", classes],
        "masked": ["n"],
        "orientation": ["n", len(ORIENTATIONS)],
        "heatmap": ["n", 2, 2],
    }
    graph = helper.make_graph(
        nodes,
        "quadrants",
        [helper.make_tensor_value_info("faces", TensorProto.FLOAT, ["n", 1, 96, 96])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(model.SerializeToString())


@pytest.fixture(scope="session")
def known_table(known_faces: KnownFaces) -> Path:
    """600 test faces of 60 people, half of them masked, 120 of each orientation."""
    return known_faces.table()


@pytest.fixture(scope="session")
def registry_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a laptop's registry in it; making one takes seconds, so all tests share it."""
    pytest.importorskip("mlflow", reason="the registry extra is not installed")
    return tmp_path_factory.mktemp("registry")


@pytest.fixture
def settings(registry_home: Path, request: pytest.FixtureRequest) -> Settings:
    """Settings whose model nobody else uses."""
    name = hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:12]
    return Settings(home=registry_home, model_name=f"model-{name}")
