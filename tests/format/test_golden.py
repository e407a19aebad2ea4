"""Bytes that were released never change silently.

Each golden file is read by today's decoder and produced by today's encoder. The files were written
by the reference below, which shares no code with the encoder; it is compared as well.
A changed format needs a new version number and a new file; the old file stays.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import xxhash

from edgecache import _testing_formats as hooks
from edgecache.errors import MetaVersionError
from edgecache.meta import FRESH_FOREVER, Meta, ProjectionTrailer

HERE = Path(__file__).parent
CHECKSUM_SEED = int.from_bytes(b"edgecach", "little")

METAS = {
    "meta_v1_minimal": Meta(created=0, updated=0, fresh_until=0),
    "meta_v1_forever": Meta(
        created=1_700_000_000_000_000, updated=1_700_000_000_000_001, fresh_until=FRESH_FOREVER
    ),
    "meta_v1_full": Meta(
        created=1_700_000_000_123_456,
        updated=1_700_000_600_123_456,
        fresh_until=-1,
        stale_while_revalidate=0x01020304,
        stale_if_error=0xFFFFFFFF,
        watermark=0x1122334455667788,
        flags=0xA501,
        status=206,
        variance=bytes(range(16)),
        tags=("user:42", "a", "ab", "größe", "x" * 255),
        headers=b"content-type: text/plain\r\netag: W/\"1\"\r\n\x00\xff",
    ),
}  # fmt: skip

TRAILERS = {
    "projection_v1_zero": ProjectionTrailer(0, 0),
    "projection_v1_full": ProjectionTrailer(0x0102030405060708, -2),
}


def read_hex(name: str) -> bytes:
    return bytes.fromhex((HERE / f"{name}.hex").read_text("ascii"))


def reference_meta(meta: Meta) -> bytes:
    """The layout of docs/format-meta.md, written with struct alone."""
    encoded_tags = sorted(tag.encode() for tag in meta.tags)
    tags = b"".join(struct.pack("<H", len(tag)) + tag for tag in encoded_tags)
    head = struct.pack(
        "<BBHHHqqqIIQ16sII",
        0xEC,
        1,
        meta.flags,
        meta.status,
        len(encoded_tags),
        meta.created,
        meta.updated,
        meta.fresh_until,
        meta.stale_while_revalidate,
        meta.stale_if_error,
        meta.watermark,
        meta.variance,
        len(meta.headers),
        len(tags),
    )
    tail = tags + meta.headers
    checksum = xxhash.xxh3_64_intdigest(tail, xxhash.xxh3_64_intdigest(head, CHECKSUM_SEED))
    return head + struct.pack("<Q", checksum) + tail


@pytest.mark.parametrize("name", METAS)
def test_meta_golden_is_what_the_encoder_writes_and_the_decoder_reads(name: str) -> None:
    golden = read_hex(name)
    assert METAS[name].encode() == golden
    assert Meta.decode(golden) == METAS[name]
    assert reference_meta(METAS[name]) == golden


@pytest.mark.parametrize("name", TRAILERS)
def test_projection_golden_is_what_the_encoder_writes_and_the_decoder_reads(name: str) -> None:
    golden = read_hex(name)
    trailer = TRAILERS[name]
    assert trailer.encode() == golden
    assert ProjectionTrailer.decode(golden) == trailer
    assert struct.pack("<Qq", trailer.watermark, trailer.cached_at_us) == golden


def test_meta_of_another_version_is_refused_by_name() -> None:
    golden = bytearray(read_hex("meta_v1_full"))
    golden[1] = 2
    with pytest.raises(MetaVersionError) as caught:
        Meta.decode(hooks.meta_sealed(bytes(golden)))
    assert caught.value.found == (0xEC, 2)
    assert caught.value.expected == (0xEC, 1)


KEYS = json.loads((HERE / "key_v1.json").read_text("ascii"))


@pytest.mark.parametrize("case", KEYS["keys"], ids=lambda case: case["name"])
def test_key_golden_is_what_the_encoding_and_the_hash_give(case: dict[str, str]) -> None:
    parts = [bytes.fromhex(case[part]) for part in ("namespace", "primary", "variance")]
    seed = int(case["seed"], 16)
    assert hooks.key_encode(*parts, 4096) == bytes.fromhex(case["encoded"])
    assert hooks.key_hash(*parts, seed) == int(case["hash"], 16)


@pytest.mark.parametrize("case", KEYS["checksums"])
def test_checksum_golden_is_what_the_kernel_gives(case: dict[str, str]) -> None:
    first, second = bytes.fromhex(case["first"]), bytes.fromhex(case["second"])
    assert hooks.sum_range(first) == int(case["range"], 16)
    assert hooks.sum_pair(first, second) == int(case["pair"], 16)
