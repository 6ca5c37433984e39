"""maskfer: facial expression recognition on faces that wear masks."""

from importlib.metadata import version

__version__ = version("maskfer")
