"""Configuration: one frozen `Config`, from arguments, files and the environment.

Importing this package reads no file and imports no parser.
"""

from edgecache.config.model import Config
from edgecache.config.units import format_duration, format_size

__all__ = ["Config", "format_duration", "format_size"]
