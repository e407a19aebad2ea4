"""Sending the content of an answer that is not all there, or too large for one write.

Invariants:

1. No more than the write buffer limit and one piece wait for a client.
2. Exactly the announced bytes are sent, or the connection is cut off.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, cast

from edgecache.errors import EdgeCacheError
from edgecache.http.failures import ClientGoneError
from edgecache.http.response import FileRange, Response

if TYPE_CHECKING:
    from edgecache.http.answering import Answering

__all__ = ["BodyLengthError", "send_body"]

PIECE_BYTES = 131072
SENDFILE_BYTES = 1 << 20


class BodyLengthError(EdgeCacheError, ValueError):
    """A handler's content is not as long as it announced."""

    default_hint = "the connection was cut off, so that the client cannot take it as complete"


async def send_body(connection: Answering, response: Response, is_chunked: bool) -> int:
    """Send the content behind a head that is queued; how many bytes of it.

    Raises:
        ClientGoneError: The client went away.
        BodyLengthError: The handler gave another number of bytes than it announced.
    """
    body = response.body
    if isinstance(body, FileRange):
        connection.flush()
        await connection.drain()
        await _send_file(connection, body)
        return body.size
    if hasattr(body, "__aiter__"):
        return await _send_pieces(
            connection, response, cast("AsyncIterator[bytes]", body), is_chunked
        )
    buffers = [body] if isinstance(body, bytes) else body
    size = 0
    for buffer in buffers:
        with memoryview(buffer).cast("B") as view:
            for start in range(0, len(view), PIECE_BYTES):
                # The transport keeps what it could not send: it needs bytes of its own.
                connection.write(bytes(view[start : start + PIECE_BYTES]))
                if connection.out_bytes >= PIECE_BYTES:
                    connection.flush()
                    await connection.drain()
            size += len(view)
    connection.flush()
    return size


async def _send_pieces(
    connection: Answering, response: Response, pieces: AsyncIterator[bytes], is_chunked: bool
) -> int:
    length = response.length
    size = 0
    try:
        async for piece in pieces:
            if not piece:
                continue
            size += len(piece)
            if length is not None and size > length:
                raise BodyLengthError("too much content", expected=length, found=size)
            if is_chunked:
                connection.write(b"%x\r\n" % len(piece))
                connection.write(piece)
                connection.write(b"\r\n")
            else:
                connection.write(piece)
            connection.flush()
            await connection.drain()
        if length is not None and size < length:
            raise BodyLengthError("too little content", expected=length, found=size)
    finally:
        close = getattr(pieces, "aclose", None)
        if close is not None:
            await close()
    if is_chunked:
        trailers = b"" if response.trailers is None else response.trailers()
        connection.write(b"0\r\n" + trailers + b"\r\n")
    connection.flush()
    return size


async def _send_file(connection: Answering, part: FileRange) -> None:
    """Send a range of a file: by sendfile(2) on a plain socket, else through a buffer."""
    handle = connection.transport.get_extra_info("socket")
    if handle is None or connection.scheme == "https":
        await _copy_file(connection, part)
        return
    while connection.transport.get_write_buffer_size():
        await asyncio.sleep(0.001)
    # The transport watches its own descriptor; a copy of it can be watched next to that.
    own = socket.socket(fileno=os.dup(handle.fileno()))
    try:
        own.setblocking(False)
        await _send_by_kernel(connection, own, part)
    finally:
        own.close()


async def _send_by_kernel(connection: Answering, own: socket.socket, part: FileRange) -> None:
    loop = connection.shared.loop
    offset, end = part.offset, part.offset + part.size
    while offset < end:
        if connection.transport.is_closing():
            raise ClientGoneError("the client went away before the end of its answer")
        try:
            sent = os.sendfile(
                own.fileno(), part.descriptor, offset, min(end - offset, SENDFILE_BYTES)
            )
        except BlockingIOError:
            await _wait_writable(connection, own, loop)
            continue
        if sent == 0:
            raise BodyLengthError("the file is too short", expected=end, found=offset)
        offset += sent
        connection.sent_bytes += sent
        connection.native.bytes_sent += sent
        await asyncio.sleep(0)


async def _wait_writable(
    connection: Answering, own: socket.socket, loop: asyncio.AbstractEventLoop
) -> None:
    """Wait for room in the socket; the write deadline holds meanwhile."""
    writable = connection.write_waiter = loop.create_future()
    loop.add_writer(own, connection.wake_writer)
    connection.is_write_paused = True
    connection.limit_reason = ""
    connection.arm()
    try:
        await writable
    finally:
        loop.remove_writer(own)
        connection.write_waiter = None
        connection.is_write_paused = False
        connection.arm()


async def _copy_file(connection: Answering, part: FileRange) -> None:
    loop = connection.shared.loop
    offset, end = part.offset, part.offset + part.size
    while offset < end:
        size = min(end - offset, PIECE_BYTES)
        piece = await loop.run_in_executor(None, os.pread, part.descriptor, size, offset)
        if not piece:
            raise BodyLengthError("the file is too short", expected=end, found=offset)
        offset += len(piece)
        connection.write(piece)
        connection.flush()
        await connection.drain()
