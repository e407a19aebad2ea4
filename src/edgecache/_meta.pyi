from collections.abc import Iterable

__pyx_capi__: dict[str, object]
__test__: dict[str, str]

def encode_meta(
    created: int,
    updated: int,
    fresh_until: int,
    *,
    stale_while_revalidate: int = 0,
    stale_if_error: int = 0,
    watermark: int = 0,
    flags: int = 0,
    status: int = 0,
    variance: bytes = ...,
    tags: Iterable[str] = (),
    headers: bytes = b"",
) -> bytes: ...
def decode_meta(
    data: bytes | bytearray | memoryview,
) -> tuple[int, int, int, int, int, int, int, int, bytes, tuple[str, ...], bytes]: ...
def encode_projection_trailer(watermark: int, cached_at_us: int) -> bytes: ...
def decode_projection_trailer(data: bytes | bytearray | memoryview) -> tuple[int, int]: ...
