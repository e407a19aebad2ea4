from collections.abc import Callable

# (status, reason, fields, minor version, Content-Length or -1, whether framing needs a closer
# look); or a number: 1 the status line is malformed, 2 a field is, 3 there are too many.
def split_head(
    data: bytes, start: int, end: int, count_max: int
) -> tuple[int, bytes, list[tuple[bytes, bytes]], int, int, bool] | int: ...

# None: a name or a value cannot be sent.
def render_fields(
    pairs: tuple[tuple[bytes, bytes], ...],
    unwanted: frozenset[bytes],
    spellings: dict[bytes, bytes],
    spell: Callable[[bytes], bytes],
) -> bytes | None: ...
