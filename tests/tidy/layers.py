"""The order of the modules, as data: `test_layers.py` checks every import and cimport against it.

To add a module, add its name (or a pattern) to a row; to add a door, add it to "doors". Rows run
from the bottom to the top: a module may use the rows below its own and what EVERYWHERE lists.
Modules of one row do not see each other, but for members of one family. A package counts as one
module.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

# Name of the row, and patterns of the modules in it. The first row that matches counts, and an
# exact name goes before a pattern of another row (`_segment_format` is a format, not a part).
LAYERS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("kernels", ("_bytes", "_list", "_sync", "_debug", "_pages")),
    ("kernels on bytes", ("_hash", "_spans")),
    ("bindings", ("_xxhash", "_liburing")),
    ("shared", ("_status", "_checksum", "_read_buffers", "_jobs", "_process", "_spare_blocks")),
    ("sums of strips", ("_strips",)),
    ("formats", ("_meta", "_segment_format", "_files_format", "_evict", "_evict_*")),
    ("formats of parts", ("_part_format",)),
    ("io", ("_io", "_io_*")),
    (
        "parts",
        (
            "_arena",
            *("_index", "_index_*"),
            *("_lease", "_lease_*"),
            *("_memory", "_slab", "_slab_*"),
            *("_segment", "_log_*"),
            *("_files", "_files_index", "_files_tree"),
            "_superblock",
        ),
    ),
    ("joints", ("_shard", "_flush", "_prewrite", "_scan")),
    ("paths", ("_fetch", "_part", "_reclaim", "_checkpoint", "_recovery")),
    ("changes", ("_change", "_maintenance")),
    ("walks", ("_promote", "_walk", "_repair")),
    ("root", ("_core", "_core_*")),
    ("values", ("config", "meta", "metrics", "root", "registry", "warm")),
    ("disk tiers", ("files",)),
    ("on values", ("entry", "health", "leasing", "loop_reader", "memoize", "opening", "snapshot")),
    ("objects", ("objects",)),
    ("walks", ("walks",)),
    ("purges", ("purges",)),
    ("storage", ("storage",)),
    ("on storage", ("migrate", "migrate_entry")),
    ("async storage", ("aio",)),
    ("package", ("__init__",)),
    ("rules of HTTP", ("rfc9111",)),
    ("data plane", ("http",)),
    ("doors", ("proxy", "s3", "api", "ipc", "tiers", "contrib")),
    ("server", ("server",)),
    ("top", ("asgi", "cli")),
    ("command", ("__main__",)),
)

# Importable from everywhere, native modules included; they import nothing of ours.
EVERYWHERE = frozenset({"errors", "_version"})

# Modules of one row that may see each other: one thing in several files.
FAMILIES: tuple[tuple[str, ...], ...] = (
    ("_evict", "_evict_*"),  # the dispatcher and its policies
    ("_io", "_io_*"),  # the base class and its engines
    ("_index", "_index_*"),  # the map and its bucket kernel
    ("_lease", "_lease_*"),  # leases, and the streams whose readers sleep on their words
    (
        "_files",
        "_files_index",
        "_files_tree",
    ),  # objects of the file layout, and the calls that write them
    ("_segment", "_log_*"),  # the region log, and its file space
    ("migrate", "migrate_entry"),  # a migration, and each of its entries
    ("_memory", "_slab", "_slab_*"),  # the RAM tier and its allocator
    ("_recovery", "_checkpoint"),  # opening starts from a checkpoint
    ("_core", "_core_*"),
)

# Native modules that Python files may use, by file. Nothing else in Python touches a native module.
NATIVE_USERS: dict[str, frozenset[str]] = {
    "storage": frozenset({"_core", "_core_blob", "_io", "_io_memory"}),
    "opening": frozenset({"_io"}),
    "files": frozenset({"_files", "_files_index", "_io"}),
    "aio": frozenset({"_core", "_core_blob", "_core_read", "_io_memory"}),
    "leasing": frozenset({"_core_arena", "_core_lease"}),
    "loop_reader": frozenset({"_core_async", "_core_read"}),
    "__init__": frozenset({"_core_blob"}),
    "meta": frozenset({"_meta"}),  # one codec: the public Meta is encoded by the native one
}

# Kernels: whole functions in a header, no module of their own.
KERNELS = ("_bytes", "_hash", "_list", "_debug", "_spans", "_strips")

# `_testing_*` modules give tests access to internals: they may see anything, nothing sees them.
TESTING = "_testing*"


def layer_of(module: str) -> int | None:
    """Return the number of the module's row, bottom row 0, or None for an unknown module."""
    for number, (_, patterns) in enumerate(LAYERS):
        if module in patterns:
            return number
    for number, (_, patterns) in enumerate(LAYERS):
        if any(fnmatchcase(module, pattern) for pattern in patterns):
            return number
    return None


def are_family(left: str, right: str) -> bool:
    """Say whether two modules are files of one thing."""
    return any(
        all(any(fnmatchcase(name, pattern) for pattern in family) for name in (left, right))
        for family in FAMILIES
    )


def complaint(user: str, used: str) -> str:
    """Return what is wrong with `user` importing `used`, or ""; both are top-level names."""
    if user == used or fnmatchcase(user, TESTING):
        return ""
    if fnmatchcase(used, TESTING):
        return f"{user} uses {used}: _testing modules are for tests"
    if user in EVERYWHERE:
        return f"{user} uses {used}: it is imported from everywhere and imports nothing"
    if used in EVERYWHERE:
        return ""
    user_layer, used_layer = layer_of(user), layer_of(used)
    if user_layer is None or used_layer is None:
        unknown = user if user_layer is None else used
        return f"{unknown} is in no row of tests/tidy/layers.py: add it where it belongs"
    is_native_user = user.startswith("_") and user != "__init__"
    if used.startswith("_") and used != "__init__" and not is_native_user:
        allowed = NATIVE_USERS.get(user, frozenset())
        return "" if used in allowed else f"{user} uses {used}: not one of its native modules"
    if used_layer < user_layer or are_family(user, used):
        return ""
    if used_layer == user_layer:
        return f"{user} uses {used}: siblings in {LAYERS[user_layer][0]!r} do not see each other"
    return (
        f"{user} ({LAYERS[user_layer][0]}) uses {used} ({LAYERS[used_layer][0]}): imports run down"
    )
