"""Remembered results: injective keys, one computation at a time, stale while refreshed."""

from __future__ import annotations

import enum
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecache import Config, Storage, errors, memoize_prefix
from edgecache.memoize.key import KeyBuilder, encode

SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4)
    | st.binary(max_size=4)
)  # fmt: skip
ARGUMENTS = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.frozensets(SCALARS, max_size=3),
)


def tagged(value: Any) -> Any:
    """The value with its type spelled out, so that 1, True and 1.0 differ, as do 0.0 and -0.0."""
    if type(value) is tuple:
        return ("tuple", *map(tagged, value))
    if type(value) is frozenset:
        return ("frozenset", frozenset(map(tagged, value)))
    return (type(value).__name__, repr(value))


class FlakyError(Exception):
    pass


@pytest.fixture
def store() -> Iterator[Storage]:
    with Storage(Config(memory="8MiB")) as opened:
        yield opened


def together(count: int, work: Callable[[int], Any]) -> list[Any]:
    """Run `work` in `count` threads at once; results, or the exceptions that they raised."""
    results: list[Any] = [None] * count
    start = threading.Barrier(count)

    def run(number: int) -> None:
        start.wait(30)
        try:
            results[number] = work(number)
        except Exception as error:
            results[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive(), "a caller hangs"
    return results


# Keys


@given(ARGUMENTS, ARGUMENTS)
def test_arguments_encode_alike_only_if_they_are_the_same(left: Any, right: Any) -> None:
    assert (encode(left) == encode(right)) == (tagged(left) == tagged(right))


def test_values_that_compare_equal_have_keys_of_their_own() -> None:
    values = [1, True, 1.0, "1", b"1", 0, False, 0.0, -0.0, "", b"", None, (), (1,), ((1,),),
              frozenset(), frozenset({1}), "None", ("a", "bc"), ("ab", "c"),
              float("inf")]  # fmt: skip
    assert len({encode(value) for value in values}) == len(values)


def sample(a: int, b: int = 2, *rest: int, c: int = 3, **named: int) -> bytes:
    return b""


def plain(a: int, b: int = 2) -> bytes:
    return b""


@pytest.mark.parametrize("function", [sample, plain])
def test_equal_calls_have_one_key(function: Callable[..., bytes]) -> None:
    build = KeyBuilder(function).build
    calls: list[tuple[tuple[int, ...], dict[str, int]]] = [
        ((1,), {}), ((1, 2), {}), ((), {"a": 1}), ((1,), {"b": 2}), ((), {"b": 2, "a": 1}),
    ]  # fmt: skip
    assert len({build(args, kwargs) for args, kwargs in calls}) == 1


def test_different_calls_have_keys_of_their_own() -> None:
    build = KeyBuilder(sample).build
    calls: list[tuple[tuple[int, ...], dict[str, int]]] = [
        ((1,), {}), ((2,), {}), ((1, 3), {}), ((1, 2, 3), {}), ((1, 2, 3, 4), {}),
        ((1,), {"c": 4}), ((1,), {"d": 4}), ((1,), {"e": 4}), ((1,), {"d": 4, "e": 4}),
    ]  # fmt: skip
    assert len({build(args, kwargs) for args, kwargs in calls}) == len(calls)
    assert build((1,), {"x": 1, "y": 2}) == build((1,), {"y": 2, "x": 1})


def test_a_wrong_call_is_the_callers_type_error(store: Storage) -> None:
    remembered = store.memoize(key="f")(plain)
    with pytest.raises(TypeError, match="missing"):
        remembered()  # type: ignore[call-arg]


def test_the_name_in_front_is_a_prefix_and_functions_differ(store: Storage) -> None:
    one, other = KeyBuilder(sample), KeyBuilder(plain)
    key = one.build((1,), {})
    assert isinstance(key, bytes)
    assert key.startswith(memoize_prefix(f"{__name__}.sample"))
    assert other.build((1,), {}) != key
    long = "n" * 5000
    assert KeyBuilder(plain, long).build((1,), {}) != KeyBuilder(plain, long + "x").build((1,), {})
    assert len(KeyBuilder(plain, long).build((1,), {})) < 8192


def test_keys_are_the_same_in_every_process() -> None:
    """Restarts and string hash seeds do not matter: what is on disk is found again."""
    script = (
        "from edgecache.memoize.key import KeyBuilder\n"
        "def f(*a): pass\n"
        "print(KeyBuilder(f, 'n').build((frozenset('abc'), 1.5, 'x'), {}).decode())"
    )
    seen = {
        subprocess.run(
            [sys.executable, "-c", script], env={"PYTHONHASHSEED": seed, "PYTHONPATH": path},
            capture_output=True, text=True, check=True,
        ).stdout
        for seed in ("1", "2") for path in [":".join(sys.path)]
    }  # fmt: skip
    assert len(seen) == 1


class Colour(enum.IntEnum):
    RED = 1


@pytest.mark.parametrize("value", [[1], {"a": 1}, {1}, object(), Colour.RED, bytearray(b"a"), 1j])
def test_an_argument_without_an_encoding_needs_a_key(store: Storage, value: Any) -> None:
    def function(argument: Any) -> bytes:
        return b"value"

    with pytest.raises(errors.KeyTypeError) as caught:
        store.memoize()(function)(value)
    assert "key=" in caught.value.hint
    by_type = store.memoize(key=lambda argument: type(argument).__name__)(function)
    assert by_type(value) == b"value"
    assert store.get(type(value).__name__) == b"value"


def test_too_deep_arguments_are_refused() -> None:
    value: tuple[Any, ...] = ()
    for _ in range(100):
        value = (value,)
    with pytest.raises(errors.KeyTypeError, match="nested"):
        encode(value)


def test_functions_that_names_do_not_tell_apart_need_a_name(store: Storage) -> None:
    outer = 5

    def closing() -> bytes:
        return b"%d" % outer

    for function in (closing, lambda: b""):
        with pytest.raises(errors.KeyTypeError, match="not told apart"):
            store.memoize()(function)
        assert store.memoize(key="mine")(function) is not function


# Results


def test_a_result_is_computed_once_and_the_signature_stays(store: Storage) -> None:
    calls = []

    @store.memoize(ttl=60, key="double")
    def double(number: int, *, times: int = 2) -> bytes:
        """Say it twice."""
        calls.append(number)
        return b"%d" % (number * times)

    assert [double(4), double(4), double(4, times=2), double(5)] == [b"8", b"8", b"8", b"10"]
    assert calls == [4, 5]
    assert (double.__name__, double.__doc__) == ("double", "Say it twice.")
    assert store.delete_prefix(memoize_prefix("double")) == 2
    double(4)
    assert calls == [4, 5, 4]


def test_results_expire(store: Storage) -> None:
    calls = []

    @store.memoize(ttl=0, key="f")
    def function() -> bytes:
        calls.append(1)
        return b""

    function()
    function()
    assert len(calls) == 2


@pytest.mark.parametrize(
    "result", [None, 1, 1.5, "text", "\ud800", [1, [2]], {"a": None}, True, []]
)
def test_json_results_come_back_and_none_is_a_result(store: Storage, result: Any) -> None:
    calls = []

    @store.memoize(key="json", codec="json")
    def function() -> Any:
        calls.append(1)
        return result

    assert [function(), function()] == [result, result]
    assert len(calls) == 1


def test_every_caller_gets_an_object_of_its_own_in_one_form(store: Storage) -> None:
    @store.memoize(key="f", codec="json")
    def function() -> Any:
        return (1, 2)

    first, second = function(), function()
    assert first == second == [1, 2]  # a tuple is no JSON: the first caller sees that, too
    assert first is not second


def test_codecs_are_pairs_and_results_that_do_not_fit_are_named(store: Storage) -> None:
    @store.memoize(key="pair", codec=(lambda n: b"%d" % n, int))
    def number() -> int:
        return 7

    assert (number(), number(), store.get_many([b"pair"])) == (7, 7, [None])

    @store.memoize(key="bytes")
    def none() -> Any:
        return None

    with pytest.raises(TypeError, match="json"):
        none()
    with pytest.raises(ValueError, match="JSON"):
        store.memoize(key="nan", codec="json")(lambda: float("nan"))()
    for codec in ("yaml", 1, (1, 2), (json.dumps,)):
        with pytest.raises(errors.ArgumentError, match="codec"):
            store.memoize(codec=codec)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "options",
    [{"ttl": -1}, {"ttl": float("nan")}, {"stale": 1}, {"ttl": 1, "stale": -1},
     {"ttl": 1, "stale": float("inf")}, {"ttl": 1, "stale": 2**33}],
)  # fmt: skip
def test_durations_that_make_no_sense_are_refused(store: Storage, options: Any) -> None:
    with pytest.raises(errors.InvalidTTLError):
        store.memoize(**options)


def test_the_wrong_kind_of_function_is_refused(store: Storage) -> None:
    async def function() -> bytes:
        return b""

    with pytest.raises(TypeError, match="AsyncStorage"):
        store.memoize(key="f")(function)
    with pytest.raises(errors.ArgumentError):
        store.memoize(key="")


def test_a_method_is_remembered_with_a_key_function(store: Storage) -> None:
    class Service:
        def __init__(self, name: str) -> None:
            self.name = name

        @store.memoize(key=lambda self, number: f"service/{self.name}/{number}")
        def value(self, number: int) -> bytes:
            return f"{self.name}{number}".encode()

    assert Service("a").value(1) == b"a1"
    assert Service("b").value(1) == b"b1"
    assert store.get("service/a/1") == b"a1"


def test_a_result_that_no_tier_takes_is_returned_all_the_same() -> None:
    with Storage(Config(memory="1MiB", shards=1)) as store:
        assert store.memoize(key="big")(lambda: bytes(2 << 20))() == bytes(2 << 20)


# One computation at a time


def test_callers_that_come_together_share_one_computation(store: Storage) -> None:
    calls = []

    @store.memoize(key="f")
    def function(number: int) -> bytes:
        calls.append(number)
        return b"%d" % number

    for number in range(50):
        assert together(8, lambda _, n=number: function(n)) == [b"%d" % number] * 8
    assert calls == list(range(50))


def test_waiters_get_the_error_of_their_flight_and_the_next_caller_tries_again(
    store: Storage,
) -> None:
    entered, go = threading.Event(), threading.Event()
    calls = []

    @store.memoize(key="f")
    def function() -> bytes:
        calls.append(1)
        if len(calls) == 1:
            entered.set()
            assert go.wait(30)
            raise FlakyError
        return b"value"

    results: list[Any] = []

    def call() -> None:
        try:
            results.append(function())
        except FlakyError as error:
            results.append(error)

    leader = threading.Thread(target=call)
    leader.start()
    assert entered.wait(30)
    waiters = [threading.Thread(target=call) for _ in range(4)]
    for thread in waiters:
        thread.start()
    while len(store._flights._waiting) < 4:
        time.sleep(0)
    go.set()
    for thread in (leader, *waiters):
        thread.join(30)
    assert [type(result) for result in results] == [FlakyError] * 5
    assert len(calls) == 1
    assert function() == b"value"


def test_an_interrupted_leader_leaves_the_work_to_a_waiter(store: Storage) -> None:
    entered, go = threading.Event(), threading.Event()
    calls = []

    @store.memoize(key="f")
    def function() -> bytes:
        calls.append(1)
        if len(calls) == 1:
            entered.set()
            assert go.wait(30)
            raise SystemExit
        return b"value"

    results: list[bytes] = []

    def lead() -> None:
        with pytest.raises(SystemExit):
            function()

    leader = threading.Thread(target=lead)
    leader.start()
    assert entered.wait(30)
    waiter = threading.Thread(target=lambda: results.append(function()))
    waiter.start()
    while not store._flights._waiting:
        time.sleep(0)
    go.set()
    leader.join(30)
    waiter.join(30)
    assert (results, len(calls)) == ([b"value"], 2)


def test_recursion_computes_itself(store: Storage) -> None:
    depth = []

    @store.memoize(key="same")
    def same() -> bytes:
        depth.append(1)
        return b"end" if len(depth) == 3 else same()

    assert same() == b"end"

    @store.memoize(key="fib", codec="json")
    def fib(number: int) -> int:
        return number if number < 2 else fib(number - 1) + fib(number - 2)

    assert fib(60) == 1548008755920


def test_threads_that_need_each_others_results_do_not_hang(store: Storage) -> None:
    meet = threading.Barrier(2)
    met = threading.local()

    def wait_once() -> None:
        if not getattr(met, "done", False):
            met.done = True
            meet.wait(30)

    # Each leads its own key, then both want what the other leads.
    @store.memoize(key="x")
    def x() -> bytes:
        wait_once()
        return b"x" if getattr(met, "inside", False) else inner(y)

    @store.memoize(key="y")
    def y() -> bytes:
        wait_once()
        return b"y" if getattr(met, "inside", False) else inner(x)

    def inner(function: Callable[[], bytes]) -> bytes:
        met.inside = True
        return function()

    assert together(2, lambda number: (x, y)[number]()) in (
        [b"y", b"y"], [b"x", b"x"], [b"y", b"x"], [b"x", b"y"],
    )  # fmt: skip


# Stale


def test_a_stale_result_serves_others_while_one_refreshes(
    store: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, go = threading.Event(), threading.Event()
    versions = iter([b"1", b"2", b"3"])
    must_wait = False

    @store.memoize(ttl=0.001, stale=1000, key="f")
    def function() -> bytes:
        if must_wait:
            entered.set()
            assert go.wait(30)
        return next(versions)

    assert function() == b"1"
    while store.get_entry(_only_key(store)).is_fresh:  # type: ignore[union-attr]
        time.sleep(0)
    must_wait = True
    refreshed: list[bytes] = []
    refresher = threading.Thread(target=lambda: refreshed.append(function()))
    refresher.start()
    assert entered.wait(30)
    assert [function() for _ in range(5)] == [b"1"] * 5
    go.set()
    refresher.join(30)
    assert refreshed == [b"2"]


def _only_key(store: Storage) -> bytes:
    keys = [key for shard in range(store.shard_count) for key in store.walk_memory(shard, b"m")]
    (key,) = keys
    return key


def test_a_fresh_result_with_a_stale_window_is_a_hit(store: Storage) -> None:
    calls = []

    @store.memoize(ttl=1000, stale=1000, key="f")
    def function() -> bytes:
        calls.append(1)
        return b"value"

    assert [function() for _ in range(3)] == [b"value"] * 3
    assert len(calls) == 1
    entry = store.get_entry(_only_key(store))
    assert entry is not None
    assert entry.meta is not None
    assert entry.meta.stale_while_revalidate == 1000


def test_a_result_beyond_the_stale_window_is_computed_anew(store: Storage) -> None:
    calls = []

    @store.memoize(ttl=0, stale=0.001, key="f")
    def function() -> bytes:
        calls.append(1)
        return b""

    function()
    deadline = time.monotonic() + 0.002
    while time.monotonic() < deadline:
        pass
    function()
    assert len(calls) == 2


def test_a_failed_refresh_is_the_refreshers_error_and_the_old_result_stays(store: Storage) -> None:
    calls = []

    @store.memoize(ttl=0, stale=1000, key="f")
    def function() -> bytes:
        calls.append(1)
        if len(calls) == 2:
            raise FlakyError
        return b"%d" % len(calls)

    assert function() == b"1"
    with pytest.raises(FlakyError):
        function()
    assert store.get_entry(_only_key(store)).value == b"1"  # type: ignore[union-attr]
    assert function() == b"3"
