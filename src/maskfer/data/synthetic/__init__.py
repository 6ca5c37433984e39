"""Synthetic faces, drawn by code: material that is ours, for demos and tests."""

from maskfer.data.synthetic.dataset import SyntheticFace, clip_frames, write_clip, write_synthetic_dataset
from maskfer.data.synthetic.head import draw_face
from maskfer.data.synthetic.person import Person, Pose, Scene

__all__ = [
    "Person",
    "Pose",
    "Scene",
    "SyntheticFace",
    "clip_frames",
    "draw_face",
    "write_clip",
    "write_synthetic_dataset",
]
