"""The disk tier of `layout: files`: one directory per object, for people who want to see them.

Normative for the bytes: docs/format-files.md.
"""

from edgecache.files.root_file import LayoutRoot, refuse_files_root
from edgecache.files.tier import FileTier
from edgecache.files.writer import ObjectWriter

__all__ = ["FileTier", "LayoutRoot", "ObjectWriter", "refuse_files_root"]
