"""Registered models: which versions exist, which one answers, who decided that and why.

The only part that speaks to MLflow. On a laptop the registry is SQLite and a folder under `Settings.home`;
elsewhere it is the server that `MASKFER_TRACKING_URI` names.
"""

from maskfer.registry.history import Event, History, Reign
from maskfer.registry.registry import Registry, open_release
from maskfer.registry.versions import CHALLENGER, CHAMPION, ModelVersion, Reference

__all__ = [
    "CHALLENGER",
    "CHAMPION",
    "Event",
    "History",
    "ModelVersion",
    "Reference",
    "Registry",
    "Reign",
    "open_release",
]
