"""The image every component runs in on a cluster, built by `components/Dockerfile`."""

from typing import Final

IMAGE: Final = "maskfer-python:0.1.0"
"""Default; `MASKFER_PIPELINE_IMAGE` and `maskfer pipeline compile --image` name another.

The SDK's local runner, which uses no image, warns unless "python" is in the name.
"""
