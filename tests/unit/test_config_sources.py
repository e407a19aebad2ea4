"""Files, mappings and the environment: styles, precedence, line numbers, hostile input."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from edgecache.config import Config
from edgecache.config.documents import FILE_BYTES_MAX, read_document
from edgecache.config.units import GIB
from edgecache.errors import ConfigError

Write = Callable[[str, str | bytes], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_file(name: str, text: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return write_file


def refused(path: Path, **arguments: Any) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        Config.from_file(path, environ={}, **arguments)
    assert caught.value.path == str(path)
    assert caught.value.hint
    return caught.value


SAME = [
    ("a.yaml", "memory: 2GiB\ndefault_ttl: 2h\ndirect: false\n"),
    ("a.yml", "other: {x: 1}\nedgecache:\n  memory: 2147483648\n  default_ttl: 7200\n  direct: no"),
    ("a.toml", 'memory = "2GiB"\ndefault_ttl = "2h"\ndirect = false\n'),
    ("a.toml", "[edgecache]\nmemory = 2147483648\ndefault_ttl = 7200.0\ndirect = false\n[x]\n"),
    ("a.json", '{"memory": "2GiB", "default_ttl": "120m", "direct": false}'),
    ("a.json", '{"x": 1, "edgecache": {"memory": "2GiB", "default_ttl": "2h", "direct": false}}'),
    ("A.JSON", '\ufeff{"memory": "2GiB", "default_ttl": "2h", "direct": false}'),
]


@pytest.mark.parametrize(("name", "text"), SAME)
def test_all_formats_and_styles_say_the_same(write: Write, name: str, text: str) -> None:
    expected = Config(memory=2 * GIB, default_ttl=7200, direct=False)
    assert Config.from_file(write(name, text), environ={}) == expected


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.yaml", ""),
        ("a.yaml", "# only a comment\n---\n"),
        ("a.yaml", "edgecache:\n#  memory: 1GiB\n"),
        ("a.toml", "[edgecache]\n"),
        ("a.json", ""),
        ("a.json", "{}"),
    ],
)
def test_an_empty_file_gives_the_defaults(write: Write, name: str, text: str) -> None:
    assert Config.from_file(write(name, text), environ={}) == Config()


@pytest.mark.parametrize(
    ("name", "text", "line", "key"),
    [
        ("a.yaml", "memory: 1GiB\nmemroy: 1\n", 2, "memroy"),
        ("a.yaml", "x: 1\nedgecache:\n\n  io: auto\n  memroy: 1\n", 5, "edgecache.memroy"),
        ("a.yaml", "edgecache: {io: auto,\n  memory: 100k}\n", 2, "edgecache.memory"),
        ("a.yaml", "b: &b\n  memory: 1\nedgecache:\n  <<: *b\n", 2, "edgecache.memory"),
        ("a.yaml", "edgecache: 7\n", 1, "edgecache"),
        ("a.yaml", "disk: 1GiB\nregion_size: 128MiB\n", 1, "disk"),
        ("a.toml", "# c\nmemroy = 1\n", 2, "memroy"),
        ("a.toml", "[x]\nmemory = 1\n[edgecache]\nmemory = 1\n", 4, "edgecache.memory"),
        ("a.toml", "edgecache.io = 'auto'\nedgecache.memory = 1\n", 2, "edgecache.memory"),
        ("a.toml", "edgecache = 7\n", 1, "edgecache"),
        ("a.json", '{\n "memroy": 1}', 2, "memroy"),
        ("a.json", '{"x": {"memory": 2},\n"edgecache": {\n"memory": 1}}', 3, "edgecache.memory"),
        ("a.json", '{"io": "auto",\n"layout": "files"}', 2, "layout"),
    ],
)
def test_an_error_names_file_line_and_key(
    write: Write, name: str, text: str, line: int, key: str
) -> None:
    error = refused(write(name, text))
    assert (error.line, error.key) == (line, key)
    assert key in str(error)


@pytest.mark.parametrize("text", ["memroy: 1", "edgecache: {memroy: 1}", "edgecache: {mem-ory: 1}"])
def test_an_unknown_key_is_answered_with_the_nearest_one(write: Write, text: str) -> None:
    assert refused(write("a.yaml", text)).hint == "did you mean 'memory'?"


def test_a_key_with_hyphens_is_answered_with_the_one_with_underscores(write: Write) -> None:
    assert "'max_object_size'" in str(refused(write("a.yaml", "max-object-size: 1")).hint)


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("a.yaml", "memory: 1GiB\ndisk: 0\nmemory: 2GiB\n", 3),
        ("a.yaml", "x:\n  - {a: 1, a: 2}\nedgecache: {}\n", 2),
        ("a.yaml", "a: [\n", 2),
        ("a.yaml", "a: 1\n---\nb: 2\n", 2),
        ("a.yaml", "a: *nowhere\n", 1),
        ("a.yaml", "a: 1\nb: \x01\n", 2),
        ("a.yaml", "\n? [a]\n: 1\n", 2),
        ("a.yaml", "\nroot: !!python/object/apply:os.getcwd []\n", 2),
        ("a.yaml", "\nroot: !custom x\n", 2),
        ("a.yaml", "a: &a {<<: 1}\n", 1),
        ("a.yaml", "a: 1\nb: 2001-99-99\n", 2),
        ("a.yaml", "a: 1\nb: !!int\n", 2),
        ("a.yaml", "a: 1\nb: !!timestamp x\n", 2),
        ("a.yaml", "a: 1\nb: !!bool x\n", 2),
        ("a.toml", "memory = 1\nmemory = 2\n", 2),
        ("a.toml", "a = 1\n= 2\n", 2),
        ("a.json", '{"memory": 1,\n"memory": 2}', 2),
        ("a.json", '{"memory": 1,\n}', 2),
        ("a.json", "[]", None),
        ("a.yaml", "- memory\n", None),
        ("a.json", '{"small_ratio": NaN}', None),
        ("a.yaml", b"a: 1\nb: \xff\n", 2),
        ("a.toml", b"a = 1\nb = '\xff'\n", 2),
        ("a.json", b"\n\xff", 2),
    ],
)
def test_a_malformed_file_is_refused_with_its_line(
    write: Write, name: str, text: str | bytes, line: int | None
) -> None:
    assert refused(write(name, text)).line == line


def test_a_file_above_the_size_limit_is_refused(write: Write) -> None:
    assert "larger" in str(refused(write("a.yaml", b"#" * (FILE_BYTES_MAX + 1))))
    assert Config.from_file(write("b.yaml", b"#" * FILE_BYTES_MAX), environ={}) == Config()


@pytest.mark.parametrize("name", ["a.ini", "a", "a.yaml.bak"])
def test_a_file_of_unknown_kind_is_refused(write: Write, name: str) -> None:
    assert ".toml" in str(refused(write(name, "")).hint)


def test_an_unreadable_file_is_refused(tmp_path: Path) -> None:
    assert "No such file" in str(refused(tmp_path / "missing.yaml"))
    (tmp_path / "directory.yaml").mkdir()
    assert "directory" in str(refused(tmp_path / "directory.yaml"))


def nested_aliases(make: Callable[[int, str], str]) -> str:
    lines = ["a0: &a0 {k: 1}"]
    lines += [f"a{i}: &a{i} " + make(i, ", ".join([f"*a{i - 1}"] * 9)) for i in range(1, 40)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    "text",
    [
        nested_aliases(lambda _, nine: f"[{nine}]"),
        nested_aliases(lambda i, nine: f"{{<<: [{nine}], k{i}: 1}}"),
    ],
    ids=["lists", "merges"],
)
def test_aliases_of_aliases_cost_no_more_than_their_text(write: Write, text: str) -> None:
    """Each level would be nine times the one below: 9**39 values if they were copied."""
    config = Config.from_file(write("a.yaml", text + "\nedgecache: {memory: 2GiB}\n"), environ={})
    assert config.memory == 2 * GIB


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.yaml", "a: &a [x]\nb: [" + "*a," * 1001 + "]", "more than 1000 aliases"),
        ("a.yaml", "[" * 100_000, "nested more than 50 deep"),
        ("a.yaml", "\n".join(" " * i + f"k{i}:" for i in range(60)), "nested more than 50 deep"),
        ("a.yaml", "&a [*a]", "contains it"),
        ("a.yaml", "edgecache: &a\n  root: *a\n", "contains it"),
        ("a.yaml", "a: &a {<<: *a}", "contains it"),
        ("a.json", "[" * 100_000, "nested too deeply"),
        ("a.toml", "a = " + "[" * 100_000, "nested too deeply"),
        ("a.yaml", "memory: " + "9" * 5000, "cannot be read"),
        ("a.json", '{"memory": ' + "9" * 5000 + "}", "not valid JSON"),
        ("a.toml", "memory = " + "9" * 5000, "not valid TOML"),
        (
            "a.yaml",
            "a: &a {" + ", ".join(f"k{i}: 1" for i in range(500)) + "}\n"
            + "\n".join(f"b{i}: {{<<: *a}}" for i in range(21)),
            "merges more than 10000 keys",
        ),
    ],
)  # fmt: skip
def test_a_hostile_file_is_refused(write: Write, name: str, text: str, message: str) -> None:
    assert message in str(refused(write(name, text)))


def test_base_sixty_numbers_of_yaml_stay_text(write: Write) -> None:
    assert "1:30" in str(refused(write("a.yaml", "default_ttl: 1:30\n")))


def test_a_merged_key_gives_way_to_an_explicit_one_and_the_first_merge_wins(write: Write) -> None:
    text = (
        "a: &a {memory: 2GiB, queue_depth: 8}\nb: &b {memory: 3GiB, io_threads: 2}\n"
        "edgecache: {queue_depth: 9, <<: [*a, *b]}\n"
    )
    config = Config.from_file(write("a.yaml", text), environ={})
    assert (config.memory, config.queue_depth, config.io_threads) == (2 * GIB, 9, 2)


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**6), 10**6) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(data=st.dictionaries(st.text(max_size=8), PLAIN, max_size=4), is_flow=st.booleans())
def test_yaml_is_read_as_safe_load_reads_it(
    data: dict[str, Any], is_flow: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    text = yaml.safe_dump(data, default_flow_style=is_flow, allow_unicode=True)
    path = tmp_path_factory.getbasetemp() / "same.yaml"
    path.write_text(text, "utf-8", newline="")
    assert read_document(str(path)).data == yaml.safe_load(text)


PINGORA = """\
version: 1
threads: 4
user: nobody
edge-cdn-cache-disk-root: /var/cache/edge
edge-cdn-cache-max-disk-bytes: 20000000000
edge-cdn-cache-max-object-bytes: 1000000
edge-cdn-cache-max-partial-writes: 7
edge-cdn-cache-max-in-mem-partial-bytes: 65536
edge-cdn-cache-atomic-publish: false
edge-cdn-cache-io-uring-enabled: false
"""


def test_a_pingora_file_sets_its_seven_keys_and_ignores_the_server_s(write: Write) -> None:
    config = Config.from_file(write("pingora.yaml", PINGORA), environ={})
    assert config == Config(
        root="/var/cache/edge",
        disk=20_000_000_000,
        max_object_size=1_000_000,
        max_partial_writes=7,
        max_in_mem_partial_bytes=65536,
        atomic_publish=False,
        io="threads",
    )


def test_pingora_s_io_uring_key_on_means_where_the_kernel_allows_it(write: Write) -> None:
    path = write("p.yaml", "edge-cdn-cache-io-uring-enabled: true\n")
    assert Config.from_file(path, environ={}).io == "auto"


@pytest.mark.parametrize(
    "line",
    [
        "disk-root: 7", "disk-root: [a]", "max-disk-bytes: lots", "max-disk-bytes: true",
        "max-disk-bytes: -1", "max-disk-bytes: 1.5", "max-object-bytes: []",
        "max-partial-writes: '7'", "max-partial-writes: -1", "max-in-mem-partial-bytes: .inf",
        "atomic-publish: 1", "atomic-publish: 'true'", "io-uring-enabled: 'on'",
        "io-uring-enabled: 1", "max-disk-size: 1", "io-uring: true",
    ],
)  # fmt: skip
def test_a_wrong_pingora_value_or_key_is_an_error_not_a_default(write: Write, line: str) -> None:
    error = refused(write("p.yaml", f"version: 1\n\nedge-cdn-cache-{line}\n"))
    assert error.line == 3
    assert error.key == "edge-cdn-cache-" + line.partition(":")[0]


def test_the_root_of_a_pingora_file_falls_back_to_variable_then_name(write: Write) -> None:
    path = write("p.yaml", "edge-cdn-cache-atomic-publish: true\n")
    with_root = write("r.yaml", "edge-cdn-cache-disk-root: mine\n")
    null_root = write("n.yaml", "edge-cdn-cache-disk-root:\n")
    store = {"EDGE_STORE_DIR": "theirs"}
    assert Config.from_file(path, environ={}).root == "edge_store_data"
    assert Config.from_file(path, environ=store).root == "theirs"
    assert Config.from_file(null_root, environ=store).root == "theirs"
    assert Config.from_file(with_root, environ=store).root == "mine"
    assert Config.from_file(with_root, environ={"EDGECACHE_ROOT": "ours"}).root == "ours"


def test_the_pingora_style_can_be_asked_for_and_refused(write: Write) -> None:
    foreign = write("p.yaml", "version: 1\nthreads: 2\n")
    assert Config.from_file(foreign, style="pingora", environ={}).root == "edge_store_data"
    assert refused(foreign).key == "version"
    assert refused(write("q.yaml", PINGORA), style="own").key == "version"
    assert "style" in str(refused(foreign, style="nginx"))


def test_a_file_in_both_styles_is_refused(write: Write) -> None:
    error = refused(write("p.yaml", PINGORA + "edgecache: {memory: 1GiB}\n"))
    assert "remove" in str(error.hint)


def test_from_dict_reads_every_style_and_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGECACHE_MEMORY", "9GiB")
    monkeypatch.setenv("EDGE_STORE_DIR", "theirs")
    assert Config.from_dict({"memory": "2GiB"}).memory == 2 * GIB
    assert Config.from_dict({"edgecache": {"memory": "2GiB"}, "x": 1}).memory == 2 * GIB
    assert Config.from_dict({"edge-cdn-cache-atomic-publish": True}).root == "edge_store_data"
    assert Config.from_dict({}).root is None
    assert Config.from_dict({"memory": "2GiB"}, environ={"EDGECACHE_MEMORY": "3GiB"}).memory == (
        3 * GIB
    )
    with pytest.raises(ConfigError, match="not text"):
        Config.from_dict({7: 1})  # type: ignore[dict-item]
    with pytest.raises(ConfigError, match="not a table"):
        Config.from_dict([("memory", 1)])  # type: ignore[arg-type]


def test_from_options_reads_no_environment_unless_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGECACHE_DISK", "9GiB")
    assert Config.from_options("c", memory="2GiB").disk == 100 * GIB
    config = Config.from_options("c", environ={"EDGECACHE_DISK": "9GiB", "EDGECACHE_ROOT": "d"})
    assert (config.root, config.disk) == ("c", 9 * GIB)


def test_from_file_and_from_env_read_the_process_environment(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGECACHE_MEMORY", "9GiB")
    assert Config.from_env().memory == 9 * GIB
    assert Config.from_file(write("a.yaml", "memory: 2GiB")).memory == 9 * GIB
    assert Config.from_file(write("a.yaml", "memory: 2GiB"), environ={}).memory == 2 * GIB


def test_argument_beats_our_variable_beats_older_variable_beats_file_beats_default(
    write: Write,
) -> None:
    path = write("a.json", json.dumps({"disk": "2GiB"}))
    older = {"EDGE_MAX_DISK_BYTES": str(3 * GIB)}
    ours = {**older, "EDGECACHE_DISK": "4GiB"}
    assert Config.from_file(write("b.json", "{}"), environ={}).disk == 100 * GIB
    assert Config.from_file(path, environ={}).disk == 2 * GIB
    assert Config.from_file(path, environ=older).disk == 3 * GIB
    assert Config.from_file(path, environ=ours).disk == 4 * GIB
    assert Config.from_file(path, environ=ours, disk="5GiB").disk == 5 * GIB


def test_every_field_has_a_variable() -> None:
    config = Config(
        root="c", memory="2GiB", disk="3GiB", io="threads", policy="lru", shards=8,
        region_size="4MiB", direct=False, io_threads=3, queue_depth=5, flush_interval=0.5,
        flush_size="128KiB", write_buffers=9, backpressure="shed", block_timeout=0.25,
        read_timeout=1, write_timeout=2,
        write_budget="1GB", max_object_size="1MB", front_size=0, checkpoint_interval=30,
        small_ratio=0.2, reinsert=False, namespace="n", default_ttl=60,
        locked_memory="1MiB", max_partial_writes=4, max_in_mem_partial_bytes=4096,
        atomic_publish=False, chunk_size="1MiB", partial_quota="1GiB", partial_ttl=60,
        first_chunk_size="64KiB", share_chunks=True,
    )  # fmt: skip
    same = {"layout", "max_key", "shared", "sqpoll", "iopoll", "keep_warm"}
    for name, value in config.to_dict().items():
        assert (value != getattr(Config(), name)) == (name not in same)
    environ = {f"EDGECACHE_{name.upper()}": str(value) for name, value in config.to_dict().items()}
    assert Config.from_env(environ) == config
    assert Config.from_env({"EDGECACHE_SQPOLL": "on", "EDGECACHE_IOPOLL": "1"}).iopoll


def test_variables_know_the_words_none_and_auto() -> None:
    environ = {
        "EDGECACHE_ROOT": "none",
        "EDGECACHE_DEFAULT_TTL": "none",
        "EDGECACHE_MAX_PARTIAL_WRITES": "none",
        "EDGECACHE_MAX_IN_MEM_PARTIAL_BYTES": "none",
        "EDGECACHE_SHARDS": "auto",
        "EDGECACHE_FRONT_SIZE": "auto",
    }
    assert Config.from_env(environ) == Config()


def test_an_empty_variable_counts_as_not_set() -> None:
    assert Config.from_env({"EDGECACHE_MEMORY": "", "EDGE_STORE_DIR": " "}) == Config()


@pytest.mark.parametrize(
    ("text", "expected"),
    [(text, True) for text in ("1", "true", "yes", "on", "TRUE", "On")]
    + [(text, False) for text in ("0", "false", "no", "off", "OFF", "No")],
)
def test_variables_write_booleans_in_four_ways(text: str, expected: bool) -> None:
    assert Config.from_env({"EDGE_ATOMIC_PUBLISH": text}).atomic_publish is expected
    assert Config.from_env({"EDGECACHE_DIRECT": text}).direct is expected
    config = Config.from_env({"EDGE_IO_URING": text, "EDGECACHE_ROOT": "c"})
    assert config.io == ("auto" if expected else "threads")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("EDGECACHE_MEMORY", "100k"), ("EDGECACHE_DIRECT", "2"), ("EDGECACHE_SHARDS", "1.0"),
        ("EDGECACHE_SHARDS", "-1"), ("EDGECACHE_SMALL_RATIO", "nan"), ("EDGECACHE_LAYOUT", "files"),
        ("EDGECACHE_SMALL_RATIO", "a"), ("EDGECACHE_IO_THREADS", "none"),
        ("EDGE_MAX_DISK_BYTES", "lots"), ("EDGE_MAX_OBJECT_BYTES", "0"),
        ("EDGE_MAX_PARTIAL_WRITES", "-1"), ("EDGE_MAX_IN_MEM_PARTIAL_BYTES", "x"),
        ("EDGE_ATOMIC_PUBLISH", "maybe"), ("EDGE_IO_URING", "maybe"),
        ("EDGE_EVICTION_LIMIT_BYTES", "-5"),
    ],
)  # fmt: skip
def test_a_wrong_variable_is_an_error_that_names_it(name: str, value: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Config.from_env({name: value})
    assert caught.value.key == name
    assert caught.value.hint


def test_the_older_variables_set_their_fields() -> None:
    config = Config.from_env(
        {
            "EDGE_STORE_DIR": "c",
            "EDGE_MAX_DISK_BYTES": "20000000000",
            "EDGE_MAX_OBJECT_BYTES": "1000000",
            "EDGE_MAX_PARTIAL_WRITES": "7",
            "EDGE_MAX_IN_MEM_PARTIAL_BYTES": "65536",
        }
    )
    assert config == Config(
        root="c",
        disk=20_000_000_000,
        max_object_size=1_000_000,
        max_partial_writes=7,
        max_in_mem_partial_bytes=65536,
    )


@pytest.mark.parametrize(
    ("disk", "eviction", "expected"),
    [(None, 536870912, 536870912), (10**9, 536870912, 536870912), (10**8, 536870912, 10**8)],
)
def test_the_smaller_of_the_two_older_limits_is_the_disk_budget(
    disk: int | None, eviction: int, expected: int
) -> None:
    environ = {"EDGE_EVICTION_LIMIT_BYTES": str(eviction)}
    if disk is not None:
        environ["EDGE_MAX_DISK_BYTES"] = str(disk)
    assert Config.from_env(environ).disk == expected


def test_a_misspelt_variable_is_warned_about_and_a_foreign_one_is_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING, "edgecache.config"):
        Config.from_env({"EDGECACHE_SERVICE_HOST": "10.0.0.1", "EDGECACHE_DEBUG": "1", "PATH": "x"})
        assert not caplog.records
        Config.from_env({"EDGECACHE_MEMROY": "1GiB"})
    assert [record.getMessage() for record in caplog.records] == [
        "environment variable EDGECACHE_MEMROY is unknown: EDGECACHE_MEMORY?"
    ]


@given(
    text=st.text(max_size=60)
    | st.lists(
        st.sampled_from(
            ["edgecache:", "\n", " ", "memory", ": ", "1GiB", "&a ", "*a", "<<: ", "[", "]", "{",
             "}", "- ", ",", "!!int ", "'", '"', "|", "? ", "1:30", "edge-cdn-cache-disk-root: x"]
        ),
        max_size=25,
    ).map("".join),
    kind=st.sampled_from(["yaml", "toml", "json"]),
)  # fmt: skip
def test_any_text_gives_a_config_or_a_config_error(
    text: str, kind: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / f"any.{kind}"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with contextlib.suppress(ConfigError):
        assert isinstance(Config.from_file(path, environ={}), Config)
