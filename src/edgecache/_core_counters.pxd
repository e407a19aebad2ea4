"""Root: every counter and gauge of the native part, gathered into one dict."""

from edgecache._core_write cimport CoreWrite

cdef dict collect_counters(CoreWrite store)
