"""Objects of any size: streams, chunks and sparse objects on top of the engine's entries."""

from edgecache.objects.backend import Backend, LogBackend
from edgecache.objects.counters import Counters
from edgecache.objects.face import ObjectFace
from edgecache.objects.file_backend import FileBackend
from edgecache.objects.hit import Hit
from edgecache.objects.manager import ObjectManager
from edgecache.objects.miss import Miss
from edgecache.objects.sharing import Sharing

__all__ = [
    "Backend",
    "Counters",
    "FileBackend",
    "Hit",
    "LogBackend",
    "Miss",
    "ObjectFace",
    "ObjectManager",
    "Sharing",
]
