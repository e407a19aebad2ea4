"""What is fuzzed. A target takes any bytes; what it raises or what it returns wrong is a finding.

Whole files of a root are fuzzed through a store that is opened on them, so records, mini-indexes,
footers, checkpoints and superblocks go through the code that a recovery runs. Checksums would stop
a mutation at the door: half of the inputs get theirs made good again (`reseal`).
"""

from __future__ import annotations

import atexit
import shutil
import struct
import tempfile
from collections.abc import Callable
from functools import cache

import xxhash
from support import layout
from support.images import open_on, put_image, take_image
from support.model import KIB, MIB, make_value, options

from edgecache import Config, Storage, _testing_formats
from edgecache._io_memory import MemoryDisk
from edgecache.errors import EdgeCacheError
from edgecache.meta import Meta
from edgecache.objects.head import HEAD_FIXED, SUM_OFFSET, Head, decode_head
from edgecache.warm import forget_warm

STORE = options(region_bytes=64 * KIB, disk_bytes=MIB, buffer_bytes=32 * KIB)
KEYS = [b"key-%d" % number for number in range(24)]
DATA = b"data/00000000.edge"
ARENA_HEADER_BYTES = 4096


@cache
def image() -> tuple[dict[bytes, bytes], dict[bytes, set[bytes]]]:
    """A small root, and every value that each key ever had."""
    disk = MemoryDisk()
    core = open_on(disk, STORE)
    ever: dict[bytes, set[bytes]] = {key: set() for key in KEYS}
    for number in range(48):
        key = KEYS[number % len(KEYS)]
        value = make_value(key, number, (30, 700, 3000)[number % 3])
        ever[key].add(value)
        core.put(key, value)
        if number % 20 == 19:
            core.checkpoint()
    core.delete(KEYS[3])
    core.sync()
    core.close()
    return take_image(disk), ever


def open_image(changed: dict[bytes, bytes]) -> None:
    """A store opens on it and answers right or not at all."""
    whole, ever = image()
    core = open_on(put_image({**whole, **changed}), STORE)
    try:
        for key in KEYS:
            found = core.get(key)
            assert found is None or found in ever[key], f"{key!r} returned {found[:40]!r}"
        assert core.check() == []
        core.put(b"later", b"value")
    finally:
        core.close()


def reseal(name: bytes, data: bytes) -> bytes:
    """Make the sums of a superblock, or of the blocks and records of a data file, good again."""
    found = bytearray(data)
    if name.startswith(b"superblock"):
        if len(found) >= 56:
            found[48:56] = bytes(8)
            struct.pack_into("<Q", found, 48, layout.sum64(bytes(found), 0))
        return bytes(found)
    seed = layout.read_superblock(image()[0][b"superblock"]).seed
    for start in range(0, len(found) - layout.PAGE + 1, layout.PAGE):
        fields = layout.BLOCK.unpack_from(found, start)
        if fields[0] != 0x4B424345:
            continue
        size, index_offset, count = fields[7], fields[8], fields[9]
        index = bytes(found[start + index_offset : start + index_offset + 32 * count])
        struct.pack_into("<Q", found, start + 48, layout.sum64(index, seed))
        header_sum = layout.sum64(bytes(found[start : start + 56]), seed)
        struct.pack_into("<Q", found, start + 56, header_sum)
        if 64 <= size <= len(found) - start:
            found[start + size - 64 : start + size] = found[start : start + 64]
    return bytes(found)


def fuzz_file(name: bytes) -> Callable[[bytes], None]:
    def target(data: bytes) -> None:
        # The last byte decides whether the sums are made good.
        open_image({name: reseal(name, data) if data[-1:] > b"\x7f" else data})

    return target


def fuzz_meta(data: bytes) -> None:
    if len(data) >= 80 and data[-1] & 1:
        data = _testing_formats.meta_sealed(data)
    _testing_formats.meta_decode_status(data)
    try:
        meta = Meta.decode(data)
    except EdgeCacheError:
        return
    assert Meta.decode(meta.encode()) == meta


def fuzz_head(data: bytes) -> None:
    fixed = HEAD_FIXED.size
    if len(data) >= fixed and data[-1] & 1:
        check = xxhash.xxh3_128(data[:SUM_OFFSET])
        check.update(data[fixed:])
        data = data[:SUM_OFFSET] + check.digest() + data[fixed:]
    head = decode_head(data)
    if head is not None:
        assert decode_head(head.encode()) == head


def fuzz_config(data: bytes) -> None:
    suffix = (".yaml", ".toml", ".json")[(data[-1] if data else 0) % 3]
    with tempfile.NamedTemporaryFile(suffix=suffix) as file:
        file.write(data)
        file.flush()
        try:
            Config.from_file(file.name, environ={})
        except EdgeCacheError:
            pass


@cache
def _memory_store() -> Storage:
    return Storage(Config(memory=4 * MIB))


def fuzz_key(data: bytes) -> None:
    store = _memory_store()
    for key in (data, data.decode("utf-8", "surrogateescape")):
        try:
            store.put(key, b"value")
        except (EdgeCacheError, UnicodeEncodeError):
            continue
        assert store.get(key) in (None, b"value")
        store.delete(key)
        assert store.get(key) is None


@cache
def _warm_root() -> str:
    """A root that is only used here; what it leaves in memory goes with the process."""
    root = tempfile.mkdtemp(prefix="edgecache-fuzz-")
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    atexit.register(forget_warm, root)
    return root


def _warm_store() -> Storage:
    return Storage(
        Config(
            root=_warm_root(), memory=4 * MIB, disk=16 * MIB, region_size=MIB, shards=1,
            flush_size=64 * KIB, keep_warm=True,
        )
    )  # fmt: skip


def _left_arena() -> str:
    """Path of the arena that a store with every key has just left."""
    with _warm_store() as store:
        for key in KEYS:
            store.put(key, key * 20)
    with open(f"{_warm_root()}/warm", encoding="ascii") as file:
        return "/dev/shm/" + file.read().split()[0]


@cache
def arena_header() -> bytes:
    """The header of an arena that was left."""
    with open(_left_arena(), "rb") as file:
        return file.read(ARENA_HEADER_BYTES)


def fuzz_arena(data: bytes) -> None:
    """An arena with this header is adopted or refused; either way the cache answers right."""
    seed = arena_header()
    arena = _left_arena()
    header = bytearray(data[:ARENA_HEADER_BYTES].ljust(ARENA_HEADER_BYTES, b"\0"))
    # What changes with every life is made good, where the input left it alone.
    with open(arena, "r+b") as file:
        now = file.read(ARENA_HEADER_BYTES)
        for place in range(ARENA_HEADER_BYTES):
            if header[place] == seed[place]:
                header[place] = now[place]
        file.seek(0)
        file.write(header)
    with _warm_store() as store:
        found = store.stats()
        assert found["recovery"]["is_warm"] == (not found["engine"]["cold_reason"])
        for key in KEYS:
            assert store.get(key) == key * 20
        assert store.check() == []


def seeds() -> dict[str, list[bytes]]:
    """A few good inputs of every target."""
    whole, _ = image()
    meta = Meta(created=1, updated=2, fresh_until=3, tags=("one", "two"), headers=b"h: v")
    head = Head(
        size=300_000, generation=7, object_id=bytes(16), chunk_bytes=65536, table=bytes(range(80))
    )
    config = [b"memory: 1GiB\nio: threads\n", b'memory = "1GiB"\n', b'{"memory": "1GiB"}',
              b"edgecache:\n  disk: 2TiB\n  ttl: 2h\n", b"a: &x [1]\nb: *x\n"]  # fmt: skip
    files = {name.decode().rpartition("/")[2]: [content] for name, content in whole.items()
             if name in FILES}  # fmt: skip
    return {"meta": [meta.encode()], "head": [head.encode()], "config": config,
            "key": [b"key", b"\xff\xfe", b"k" * 8192], "arena": [arena_header()],
            **files}  # fmt: skip


FILES = (b"superblock", b"checkpoint.a", DATA)
TARGETS: dict[str, Callable[[bytes], None]] = {
    "meta": fuzz_meta,
    "head": fuzz_head,
    "config": fuzz_config,
    "key": fuzz_key,
    "arena": fuzz_arena,
    **{name.decode().rpartition("/")[2]: fuzz_file(name) for name in FILES},
}
