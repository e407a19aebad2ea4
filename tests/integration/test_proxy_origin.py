"""The client of origins: exact bytes out, nothing uncertain in, retries by the facts."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.origin import CLOSE, RESET, SILENCE, Received, ScriptedOrigin, looped, response

from edgecache.proxy.addresses import Resolver, is_public
from edgecache.proxy.exchange import OriginAnswer, OriginRequest
from edgecache.proxy.origin import OriginGroup
from edgecache.proxy.problems import (
    NoUpstreamError,
    OriginConnectError,
    OriginError,
    OriginForbiddenError,
    OriginLimitError,
    OriginProtocolError,
    OriginTimeoutError,
    OriginTruncatedError,
)
from edgecache.proxy.settings import (
    Breaker,
    DynamicOrigins,
    HealthCheck,
    Timeouts,
    UpstreamConfig,
)

QUICK = Timeouts(connect_s=5, send_s=5, first_byte_s=0.2, between_bytes_s=0.2, total_s=20)


def get(target: bytes = b"/x", method: bytes = b"GET", **options: object) -> OriginRequest:
    fields = [(b"Host", b"example.org")]
    return OriginRequest(method, target, fields, **options)  # type: ignore[arg-type]


def group_of(*origins: ScriptedOrigin, **options: object) -> OriginGroup:
    options.setdefault("retries", 0)
    servers = tuple(origin.url for origin in origins)
    config = UpstreamConfig(servers=servers, **options)  # type: ignore[arg-type]
    return OriginGroup("test", config, Resolver())


async def read_all(answer: OriginAnswer) -> bytes:
    pieces = []
    while piece := await answer.read():
        pieces.append(piece)
    return b"".join(pieces)


@looped
async def test_a_request_goes_out_byte_by_byte_as_given() -> None:
    async with ScriptedOrigin() as origin:
        origin.answer_all(lambda _: response(200, b"ok"))
        group = group_of(origin)
        target = b"/a%2Fb//c;d?x=1&&y=%zz&\xe4"
        fields = [(b"HOST", b"Example.ORG:81"), (b"X-Thing", b"a\xff b"), (b"x-thing", b"")]
        answer = await group.fetch(OriginRequest(b"GET", target, fields))
        assert await read_all(answer) == b"ok"
        assert origin.requests[0].raw == (
            b"GET " + target + b" HTTP/1.1\r\nHOST: Example.ORG:81\r\n"
            b"X-Thing: a\xff b\r\nx-thing: \r\n\r\n"
        )
        await group.stop()


@looped
async def test_the_fields_of_an_answer_are_kept_in_order_with_duplicates_and_odd_bytes() -> None:
    async with ScriptedOrigin() as origin:
        origin.answer(
            "/x",
            b"HTTP/1.1 599 Any \xe4 Phrase\r\nSet-Cookie: a=1\r\nSET-COOKIE:b=2  \r\n"
            b"X-Bin: \xff\x80 \x09 z\r\nX-Empty:\r\nContent-Length: 0\r\n\r\n",
        )
        group = group_of(origin)
        answer = await group.fetch(get())
        assert (answer.status, answer.reason) == (599, b"Any \xe4 Phrase")
        assert answer.fields == [
            (b"set-cookie", b"a=1"),
            (b"set-cookie", b"b=2"),
            (b"x-bin", b"\xff\x80 \x09 z"),
            (b"x-empty", b""),
            (b"content-length", b"0"),
        ]
        assert await read_all(answer) == b""
        await group.stop()


@looped
async def test_connections_are_used_again_after_a_certain_end_only() -> None:
    async with ScriptedOrigin() as origin:
        origin.answer(
            "/x",
            response(200, b"one"),
            response(200, b"two", chunked=True),
            b"HTTP/1.1 204 No Content\r\n\r\n",
            response(200, b"four", Connection="close"),
            response(200, b"five"),
            response(200, b"six") + b"extra",
            response(200, b"seven"),
        )
        group = group_of(origin)
        for expected in (b"one", b"two", b"", b"four", b"five", b"six", b"seven"):
            answer = await group.fetch(get())
            assert await read_all(answer) == expected
        numbers = [received.connection_number for received in origin.requests]
        assert numbers == [1, 1, 1, 1, 2, 2, 3]
        await group.stop()


@looped
async def test_an_answer_to_head_has_no_body_whatever_its_head_says() -> None:
    async with ScriptedOrigin() as origin:
        head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"
        origin.answer("/x", head, response(200, b"after"))
        group = group_of(origin)
        answer = await group.fetch(get(method=b"HEAD"))
        assert (answer.length, await read_all(answer)) == (1000, b"")
        answer = await group.fetch(get())
        assert await read_all(answer) == b"after"
        assert origin.connection_count == 1
        await group.stop()


@looped
async def test_interim_answers_are_given_on_and_trailers_kept() -> None:
    async with ScriptedOrigin() as origin:
        origin.answer(
            "/x",
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n"
            b'3;name="v"\r\nabc\r\n0\r\nX-Sum: 7\r\n\r\n',
        )
        group = group_of(origin)
        seen: list[int] = []
        answer = await group.fetch(get(on_interim=lambda head: seen.append(head.status)))
        assert await read_all(answer) == b"abc"
        assert seen == [100, 103]
        assert answer.trailers == [(b"x-sum", b"7")]
        assert answer.is_complete
        await group.stop()


OK = b"HTTP/1.1 200 OK\r\n"
TE = b"Transfer-Encoding: "
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
REFUSED = {
    "content-length and chunked": OK + b"Content-Length: 3\r\n" + TE + b"chunked\r\n\r\n3\r\n",
    "different content-lengths": OK + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
    "list of content-lengths": OK + b"Content-Length: 3, 3\r\n\r\nabc",
    "signed content-length": OK + b"Content-Length: +3\r\n\r\nabc",
    "negative content-length": OK + b"Content-Length: -3\r\n\r\nabc",
    "hexadecimal content-length": OK + b"Content-Length: 0x3\r\n\r\nabc",
    "content-length over 63 bits": OK + b"Content-Length: 9223372036854775808\r\n\r\n",
    "empty content-length": OK + b"Content-Length:\r\n\r\nabc",
    "unknown transfer coding": OK + b"Transfer-Encoding: gzip\r\n\r\nabc",
    "coding before chunked": OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunked twice": OK + TE + b"chunked\r\n" + TE + b"chunked\r\n\r\n0\r\n\r\n",
    "chunked in HTTP/1.0": b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "folded line": OK + b"X-A: b\r\n c\r\nContent-Length: 0\r\n\r\n",
    "space before colon": OK + b"Content-Length : 0\r\n\r\n",
    "bare LF between fields": OK + b"X-A: b\nContent-Length: 0\r\n\r\n",
    "bare LF in the head's end": b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
    "bare CR in a value": OK + b"X-A: b\rc\r\nContent-Length: 0\r\n\r\n",
    "NUL in a value": OK + b"X-A: b\0c\r\nContent-Length: 0\r\n\r\n",
    "field without colon": OK + b"nonsense\r\nContent-Length: 0\r\n\r\n",
    "field without name": OK + b": value\r\nContent-Length: 0\r\n\r\n",
    "name that is no token": OK + b"X(A): b\r\nContent-Length: 0\r\n\r\n",
    "other protocol": b"SSH-2.0-OpenSSH_9\r\n",
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/0.9 answer": b"<html>hello</html>\r\n\r\n",
    "HTTP/2 status line": b"HTTP/2 200 OK\r\n\r\n",
    "status of two digits": b"HTTP/1.1 20 OK\r\nContent-Length: 0\r\n\r\n",
    "status of four digits": b"HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n",
    "status 0xx": b"HTTP/1.1 099 OK\r\nContent-Length: 0\r\n\r\n",
    "unasked upgrade": b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n",
    "chunk size that is no number": CHUNKED + b"z\r\nabc\r\n0\r\n\r\n",
    "chunk size with 0x": CHUNKED + b"0x3\r\nabc\r\n0\r\n\r\n",
    "negative chunk size": CHUNKED + b"-3\r\nabc\r\n0\r\n\r\n",
    "chunk size of 17 digits": CHUNKED + b"00000000000000003\r\nabc\r\n0\r\n\r\n",
    "chunk size over 63 bits": CHUNKED + b"ffffffffffffffff\r\nabc\r\n",
    "empty chunk size": CHUNKED + b"\r\nabc\r\n0\r\n\r\n",
    "chunk line with bare LF": CHUNKED + b"3\nabc\r\n0\r\n\r\n",
    "bytes instead of the chunk's end": CHUNKED + b"3\r\nabcXX0\r\n\r\n",
    "chunk longer than its size": CHUNKED + b"3\r\nabcd\r\n0\r\n\r\n",
    "control character in an extension": CHUNKED + b"3;a=\x01\r\nabc\r\n0\r\n\r\n",
    "broken trailer": CHUNKED + b"0\r\nX : y\r\n\r\n",
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
@looped
async def test_an_answer_of_uncertain_framing_is_refused_and_its_connection_closed(
    case: str,
) -> None:
    async with ScriptedOrigin() as origin:
        origin.answer("/x", REFUSED[case], response(200, b"next"))
        group = group_of(origin)
        with pytest.raises(OriginProtocolError) as caught:
            await read_all(await group.fetch(get()))
        assert caught.value.upstream == f"127.0.0.1:{origin.port}"
        assert await read_all(await group.fetch(get())) == b"next"
        assert origin.connection_count == 2
        await group.stop()


CUT = {
    "nothing": b"",
    "status line": b"HTTP/1.1 200 O",
    "head": OK + b"Content-Length: 3\r\n",
    "length": OK + b"Content-Length: 4\r\n\r\nabc",
    "length at once": OK + b"Content-Length: 4\r\n\r\n",
    "chunk size": CHUNKED + b"3\r\nabc\r\n2",
    "chunk": CHUNKED + b"3\r\nab",
    "chunk end": CHUNKED + b"3\r\nabc",
    "last chunk missing": CHUNKED + b"3\r\nabc\r\n",
    "end of last chunk": CHUNKED + b"3\r\nabc\r\n0\r\n",
    "trailers": CHUNKED + b"3\r\nabc\r\n0\r\nX-A: b\r\n",
}  # fmt: skip


@pytest.mark.parametrize("ending", [CLOSE, RESET], ids=["close", "reset"])
@pytest.mark.parametrize("case", CUT)
@looped
async def test_an_answer_that_is_cut_anywhere_is_never_complete(case: str, ending: object) -> None:
    async with ScriptedOrigin() as origin:
        origin.answer("/x", [CUT[case], ending])
        group = group_of(origin)
        with pytest.raises(OriginTruncatedError):
            await read_all(await group.fetch(get()))
        await group.stop()


@looped
async def test_a_body_without_length_ends_by_an_orderly_close_and_not_by_a_reset() -> None:
    async with ScriptedOrigin() as origin:
        head = b"HTTP/1.1 200 OK\r\n\r\n"
        origin.answer("/x", [head, b"abc", CLOSE])
        group = group_of(origin)
        answer = await group.fetch(get())
        assert await read_all(answer) == b"abc"
        assert answer.is_complete
        sent = asyncio.Event()
        origin.answer("/x", [head + b"abc", sent, RESET])
        answer = await group.fetch(get())
        assert await answer.read() == b"abc"
        sent.set()
        with pytest.raises(OriginTruncatedError):
            await read_all(answer)
        assert not answer.is_complete
        await group.stop()


@looped
async def test_an_unknown_transfer_coding_is_ignored_where_that_is_configured() -> None:
    async with ScriptedOrigin() as origin:
        origin.answer("/x", OK + b"Transfer-Encoding: hello\r\nContent-Length: 3\r\n\r\nabc")
        group = group_of(origin, transfer_coding="lenient")
        assert await read_all(await group.fetch(get())) == b"abc"
        assert await read_all(await group.fetch(get())) == b"abc"
        assert origin.connection_count == 2, "its framing was odd: it must not be used again"
        await group.stop()


@looped
async def test_limits_on_head_and_body_hold() -> None:
    async with ScriptedOrigin() as origin:
        group = group_of(origin, head_bytes_max=1024, body_bytes_max=10)
        for answer in (
            OK + b"X-A: " + b"a" * 2000 + b"\r\nContent-Length: 0\r\n\r\n",
            OK + b"X-A: b\r\n" * 257 + b"Content-Length: 0\r\n\r\n",
            response(200, b"a" * 11),
            response(200, b"a" * 11, chunked=True),
            CHUNKED + b"1;" + b"a" * 2000,
            b"HTTP/1.1 103 Early\r\n\r\n" * 17 + response(),
        ):
            origin.answer("/x", answer)
            with pytest.raises(OriginLimitError):
                await read_all(await group.fetch(get()))
        await group.stop()


@looped
async def test_each_phase_has_its_time_limit() -> None:
    async with ScriptedOrigin() as origin:
        group = group_of(origin, timeouts=QUICK)
        for script in ([SILENCE], [b"HTTP/1.1 200", SILENCE]):
            origin.answer("/x", script)
            with pytest.raises(OriginTimeoutError) as caught:
                await group.fetch(get())
            assert caught.value.phase == "head"
        origin.answer("/x", [OK + b"Content-Length: 9\r\n\r\nabc", SILENCE])
        answer = await group.fetch(get())
        assert await answer.read() == b"abc"
        with pytest.raises(OriginTimeoutError) as caught:
            await answer.read()
        assert caught.value.phase == "body"
        assert caught.value.status_code == 504
        await group.stop()


@looped
async def test_an_exchange_has_a_total_limit_however_steadily_it_drips() -> None:
    async with ScriptedOrigin() as origin:
        origin.answer("/x", [CHUNKED + b"1\r\na\r\n", SILENCE])
        limits = Timeouts(total_s=0.05, between_bytes_s=10)
        group = group_of(origin, timeouts=limits)
        answer = await group.fetch(get())
        assert await answer.read() == b"a"
        with pytest.raises(OriginTimeoutError):
            await answer.read()
        await group.stop()


@looped
async def test_a_kept_connection_that_has_closed_is_replaced_without_a_failure() -> None:
    async with ScriptedOrigin() as origin:
        origin.answer("/x", response(200, b"one"), [RESET], response(200, b"two"))
        group = group_of(origin)
        assert await read_all(await group.fetch(get())) == b"one"
        assert await read_all(await group.fetch(get())) == b"two"
        assert group.report()[0].failure_count == 0
        await group.stop()


@looped
async def test_a_safe_request_is_repeated_before_the_first_byte_only() -> None:
    async with ScriptedOrigin() as origin:
        group = group_of(origin, retries=2)
        origin.answer("/x", [CLOSE], [RESET], response(200, b"third"))
        assert await read_all(await group.fetch(get())) == b"third"
        origin.answer("/x", [b"HTTP/1.1 2", CLOSE], response(200, b"never"))
        with pytest.raises(OriginTruncatedError):
            await group.fetch(get())
        assert origin.count() == 4
        await group.stop()


@looped
async def test_an_unsafe_request_is_never_sent_twice() -> None:
    async with ScriptedOrigin() as origin:
        group = group_of(origin, retries=3)
        origin.answer("/x", [CLOSE], response(200, b"never"))
        with pytest.raises(OriginTruncatedError):
            await group.fetch(get(method=b"POST", body=b"once"))
        assert origin.count() == 1
        await group.stop()


@looped
async def test_another_server_is_asked_when_one_cannot_be_reached() -> None:
    async with ScriptedOrigin() as dead, ScriptedOrigin() as origin:
        await dead.stop()
        origin.answer_all(lambda _: response(200, b"ok"))
        group = group_of(dead, origin, retries=1, breaker=Breaker(failure_count=2, open_s=60))
        for _ in range(8):
            method = b"POST"  # nothing was sent to the dead one: even this may go to the other
            assert await read_all(await group.fetch(get(method=method, body=b"x"))) == b"ok"
        reports = {report.server: report for report in group.report()}
        assert reports[f"127.0.0.1:{dead.port}"].circuit == "open"
        assert reports[f"127.0.0.1:{dead.port}"].failure_count == 2
        await group.stop()


@looped
async def test_a_circuit_opens_after_failures_and_one_success_closes_it() -> None:
    async with ScriptedOrigin() as origin:
        origin.answer("/x", [CLOSE], [CLOSE], response(200, b"back"))
        group = group_of(origin, breaker=Breaker(failure_count=2, open_s=0.05))
        for _ in range(2):
            with pytest.raises(OriginTruncatedError):
                await group.fetch(get())
        with pytest.raises(NoUpstreamError):
            await group.fetch(get())
        assert origin.count() == 2
        async with asyncio.timeout(10):
            while group.report()[0].circuit == "open":
                await asyncio.sleep(0)
        assert group.report()[0].circuit == "half-open"
        assert await read_all(await group.fetch(get())) == b"back"
        assert group.report()[0].circuit == "closed"
        await group.stop()


@looped
async def test_configured_statuses_count_as_failures_and_are_retried_elsewhere() -> None:
    async with ScriptedOrigin() as sick, ScriptedOrigin() as well:
        sick.answer_all(lambda _: response(503, b"sick"))
        well.answer_all(lambda _: response(200, b"well"))
        group = group_of(sick, well, retries=1, retry_statuses=frozenset({503}))
        for _ in range(4):
            assert await read_all(await group.fetch(get())) == b"well"
        alone = group_of(sick, retries=1, retry_statuses=frozenset({503}))
        assert await read_all(await alone.fetch(get())) == b"sick"
        await group.stop()
        await alone.stop()


@looped
async def test_rendezvous_sends_a_key_to_one_server_and_moves_only_the_keys_of_a_dead_one() -> None:
    async with ScriptedOrigin() as a, ScriptedOrigin() as b, ScriptedOrigin() as c:
        origins = (a, b, c)
        for origin in origins:
            origin.answer_all(lambda _: response())
        config = {"balance": "rendezvous", "retries": 1, "breaker": Breaker(failure_count=1)}
        group = group_of(*origins, **config)

        async def homes() -> dict[bytes, int]:
            found = {}
            for number in range(60):
                key = b"/%d" % number
                before = [origin.count() for origin in origins]
                await read_all(await group.fetch(get(key, balance_key=key)))
                after = [origin.count() for origin in origins]
                found[key] = next(i for i in range(3) if after[i] > before[i])
            return found

        first = await homes()
        assert set(first.values()) == {0, 1, 2}
        assert await homes() == first
        await c.stop()
        third = await homes()
        assert all(third[key] == home for key, home in first.items() if home != 2)
        assert 2 not in third.values()
        await group.stop()


@looped
async def test_active_checks_take_a_server_out_and_bring_it_back() -> None:
    async with ScriptedOrigin() as origin:
        origin.answer("/live", response(503))
        origin.answer("/x", response(200, b"ok"))
        check = HealthCheck(path="/live", interval_s=0.01, timeout_s=5, rise=2, fall=2)
        group = group_of(origin, health=check)
        group.start()

        async def until(is_up: bool) -> None:
            async with asyncio.timeout(10):
                while group.report()[0].is_up is not is_up:
                    await asyncio.sleep(0.005)

        await until(False)
        with pytest.raises(NoUpstreamError):
            await group.fetch(get())
        origin.answer("/live", response(200))
        await until(True)
        assert await read_all(await group.fetch(get())) == b"ok"
        await group.stop()


@looped
async def test_a_body_is_streamed_by_length_or_in_chunks() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for number in range(100):
            yield b"%d" % (number % 10) * 1000

    whole = b"".join([b"%d" % (number % 10) * 1000 for number in range(100)])
    async with ScriptedOrigin() as origin:
        origin.answer_all(lambda _: response(200, b"ok"))
        group = group_of(origin)
        answer = await group.fetch(get(method=b"POST", body=pieces(), body_bytes=len(whole)))
        assert await read_all(answer) == b"ok"
        answer = await group.fetch(get(method=b"POST", body=pieces()))
        assert await read_all(answer) == b"ok"
        assert [received.body for received in origin.requests] == [whole, whole]
        assert origin.requests[0].get("content-length") == b"100000"
        assert origin.requests[1].get("transfer-encoding") == b"chunked"
        await group.stop()


@looped
async def test_an_answer_may_come_before_the_body_was_sent() -> None:
    asked = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        yield b"a"
        await asked.wait()

    async with ScriptedOrigin() as origin:
        origin.answer("/x", [SILENCE])

        async def refuse(_: Received) -> bytes:
            return response(413, b"no")

        group = group_of(origin)
        origin._answers[b"/x"].clear()
        origin.answer("/x", [b"", response(413, b"no"), SILENCE])
        origin._body = lambda *_: asyncio.sleep(0, b"")  # type: ignore[method-assign,assignment]
        answer = await group.fetch(get(method=b"POST", body=endless()))
        assert answer.status == 413
        assert await read_all(answer) == b"no"
        assert group.report()[0].idle_connections == 0, "half a request was sent on it"
        await group.stop()


@looped
async def test_connections_are_bounded_and_waiters_take_turns() -> None:
    release = asyncio.Event()
    async with ScriptedOrigin() as origin:
        origin.answer("/x", [release, response(200, b"ok")])
        group = group_of(origin, connections_max=3)

        async def one() -> bytes:
            return await read_all(await group.fetch(get()))

        tasks = [asyncio.create_task(one()) for _ in range(20)]
        await origin.wait_for(3)
        assert group.report()[0].open_connections == 3
        for task in tasks[10:15]:
            task.cancel()
        release.set()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert done.count(b"ok") == 15
        assert origin.connection_count == 3
        await group.stop()
        assert group.report()[0].open_connections == 0


PRIVATE = (
    "127.0.0.1", "10.1.2.3", "192.168.1.1", "172.16.0.1", "169.254.169.254", "100.64.0.1",
    "0.0.0.0", "224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1", "fc00::1", "ff02::1",
    "::ffff:127.0.0.1", "::ffff:169.254.169.254", "64:ff9b::7f00:1", "2002:7f00:1::", "not-one",
    "192.0.2.1", "198.18.0.1", "240.0.0.1", "2001:db8::1", "2001:0:1::1", "fe80::1%eth0",
)  # fmt: skip


@pytest.mark.parametrize("address", PRIVATE)
def test_addresses_that_are_not_of_the_public_internet_are_told(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["1.1.1.1", "93.184.216.34", "2606:4700::1111"])
def test_public_addresses_are_told(address: str) -> None:
    assert is_public(address)


@looped
async def test_a_dynamic_origin_is_connected_to_only_if_name_port_and_address_are_allowed() -> None:
    async with ScriptedOrigin() as origin:
        origin.answer_all(lambda _: response(200, b"ok"))
        config = UpstreamConfig(servers=("127.0.0.1",), retries=0)

        def asking(host: str) -> OriginRequest:
            return OriginRequest(b"GET", b"/", [(b"Host", host.encode())])

        ports = frozenset({origin.port, 80})
        strict = DynamicOrigins(hosts=("localhost", "*.example.org"), ports=ports)
        group = OriginGroup("d", config, Resolver(), strict)
        for host in (
            f"localhost:{origin.port}", "localhost:1", "other.net", "example.org", "evil/../x",
            "user@localhost", "", f"127.0.0.1:{origin.port}", "localhost:99999",
        ):  # fmt: skip
            with pytest.raises(OriginForbiddenError):
                await group.fetch(asking(host))
        assert origin.connection_count == 0
        loose = DynamicOrigins(hosts=("localhost",), ports=ports, allow_private=True)
        group = OriginGroup("d", config, Resolver(), loose)
        answer = await group.fetch(asking(f"localhost:{origin.port}"))
        assert await read_all(answer) == b"ok"
        await group.stop()


@looped
async def test_an_address_that_cannot_be_resolved_is_a_connect_error() -> None:
    config = UpstreamConfig(servers=("http://name.invalid",), retries=0)
    group = OriginGroup("x", config, Resolver())
    with pytest.raises(OriginError) as caught:
        await group.fetch(get())
    assert isinstance(caught.value, OriginConnectError)
    assert caught.value.phase == "resolve"
    await group.stop()


def certificate_for(name: str, folder: Path) -> tuple[Path, Path]:
    certificate, key = folder / "cert.pem", folder / "key.pem"
    command = [
        "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
        "-nodes", "-keyout", str(key), "-out", str(certificate), "-days", "2",
        "-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}",
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key


@looped
async def test_certificates_of_origins_are_verified() -> None:
    with tempfile.TemporaryDirectory() as folder:
        certificate, key = certificate_for("origin.test", Path(folder))
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate, key)
        async with ScriptedOrigin(tls=context) as origin:
            origin.answer("/x", response(200, b"ok"))
            for options, is_trusted in (
                ({}, False),
                ({"ca_file": str(certificate)}, False),
                ({"tls_name": "origin.test"}, False),
                ({"ca_file": str(certificate), "tls_name": "origin.test"}, True),
                ({"tls_verify": False}, True),
            ):
                group = group_of(origin, **options)
                if is_trusted:
                    assert await read_all(await group.fetch(get())) == b"ok"
                    assert await read_all(await group.fetch(get())) == b"ok"
                else:
                    with pytest.raises(OriginConnectError) as caught:
                        await group.fetch(get())
                    assert caught.value.reason == "tls"
                await group.stop()
