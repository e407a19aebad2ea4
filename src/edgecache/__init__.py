"""edgecache: a native hybrid cache for Python."""

from edgecache._version import __version__

__all__ = ["__version__"]
