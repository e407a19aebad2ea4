"""The configuration model: defaults, checks of one field, rules over several, copies."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecache.config import Config
from edgecache.config.units import GIB, KIB, MIB, TIB
from edgecache.errors import ConfigError

FIELDS = {field.name: field for field in dataclasses.fields(Config)}


def refused(**values: Any) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        Config(**values)
    assert caught.value.hint, "every refusal says what to do"
    assert caught.value.key
    return caught.value


def test_defaults_are_the_documented_ones() -> None:
    config = Config()
    assert config.root is None
    assert (config.memory, config.disk) == (GIB, 100 * GIB)
    assert (config.io, config.layout, config.policy) == ("auto", "log", "s3fifo")
    assert (config.flush_interval, config.flush_size, config.write_buffers) == (0.1, MIB, 8)
    assert (config.backpressure, config.block_timeout) == ("block", 1.0)
    assert config.max_key == 8192
    assert config.default_ttl is None
    assert config.atomic_publish


def test_config_is_frozen_slotted_hashable_and_equal_by_value() -> None:
    config = Config(memory="2GiB")
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.memory = 1  # type: ignore[misc]
    assert not hasattr(config, "__dict__")
    assert config == Config(memory=2 * GIB)
    assert hash(config) == hash(Config(memory=2 * GIB))
    assert config != Config()


def test_every_field_has_a_kind_and_a_description() -> None:
    for field in FIELDS.values():
        assert field.metadata["kind"].grammar()
        assert len(field.metadata["doc"]) > 20


def test_every_default_passes_its_own_check() -> None:
    for field in FIELDS.values():
        assert field.metadata["kind"].parse(field.default) == field.default


@pytest.mark.parametrize(
    ("name", "written", "stored"),
    [
        ("root", Path("cache"), "cache"),
        ("memory", "1.5GiB", 3 * GIB // 2),
        ("disk", 0, 0),
        ("shards", "auto", 0),
        ("shards", 8, 8),
        ("region_size", "auto", 0),
        ("region_size", "16MiB", 16 * MIB),
        ("flush_interval", "250ms", 0.25),
        ("flush_interval", 2, 2.0),
        ("front_size", "auto", None),
        ("front_size", 0, 0),
        ("front_size", "1MiB", MIB),
        ("default_ttl", "2h", 7200.0),
        ("default_ttl", None, None),
        ("small_ratio", 0.25, 0.25),
        ("locked_memory", "auto", 0),
        ("max_partial_writes", 0, 0),
        ("max_partial_writes", None, None),
        ("max_in_mem_partial_bytes", "1MB", 1_000_000),
        ("write_budget", "1TB", 10**12),
        ("namespace", "ä" * 127, "ä" * 127),
    ],
)
def test_values_are_stored_in_their_final_type(name: str, written: Any, stored: Any) -> None:
    value = getattr(Config(**{name: written}), name)
    assert value == stored
    assert type(value) is type(stored)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("root", ""), ("root", 7), ("root", b"x"), ("root", "a\0b"), ("root", "~no-such-user-x/c"),
        ("memory", MIB - 1), ("memory", None), ("memory", True), ("memory", "100k"),
        ("memory", -1), ("memory", 1 << 63), ("memory", "auto"), ("memory", 1.5),
        ("disk", 65 * TIB), ("disk", -1),
        ("io", "uring "), ("io", "URING"), ("io", None), ("io", True), ("io", ["uring"]),
        ("policy", "fifo"), ("layout", "logs"), ("backpressure", "drop"),
        ("shards", 3), ("shards", -1), ("shards", True), ("shards", 2.0), ("shards", "8"),
        ("shards", 0.0), ("shards", False), ("shards", 8192),
        ("region_size", 512 * KIB), ("region_size", MIB + 1), ("region_size", "2GiB"),
        ("direct", 1), ("direct", "yes"), ("direct", None),
        ("io_threads", 0), ("io_threads", 257), ("queue_depth", 0), ("queue_depth", 4097),
        ("flush_interval", 0), ("flush_interval", "2h"), ("flush_interval", float("nan")),
        ("flush_size", 1000), ("flush_size", "32KiB"), ("flush_size", 65537),
        ("flush_size", "2MiB"),
        ("write_buffers", 1), ("write_buffers", 65),
        ("block_timeout", -1), ("block_timeout", "forever"),
        ("max_object_size", 0), ("max_key", 4096), ("max_key", 16384),
        ("checkpoint_interval", "100ms"),
        ("small_ratio", 0), ("small_ratio", 0.51), ("small_ratio", float("nan")),
        ("small_ratio", True), ("small_ratio", "0.1"),
        ("namespace", "x" * 256), ("namespace", 1), ("namespace", "\ud800"),
        ("default_ttl", -1), ("default_ttl", float("inf")), ("default_ttl", "1 day"),
        ("max_partial_writes", -1), ("max_partial_writes", "none"), ("atomic_publish", 0),
    ],
)  # fmt: skip
def test_an_unusable_value_names_its_field(name: str, value: Any) -> None:
    assert refused(**{name: value}).key == name


@pytest.mark.parametrize(
    ("values", "key", "hint"),
    [
        ({"layout": "files"}, "layout", "layout: log"),
        ({"shared": True}, "shared", "set root and disk"),
        ({"shared": True, "root": "c", "layout": "files"}, "shared", "layout: log"),
        ({"shared": True, "io": "memory"}, "shared", "uring or threads"),
        ({"disk": 15 * MIB}, "disk", "16MiB"),
        ({"disk": "1GB", "region_size": "64MiB"}, "disk", "1GiB"),
        ({"disk": "4GiB", "region_size": "48MiB"}, "region_size", "32MiB or 64MiB"),
        ({"disk": 0, "region_size": "3MiB"}, "region_size", "2MiB or 4MiB"),
        ({"memory": "1MiB", "front_size": "2MiB"}, "front_size", "auto"),
        ({"memory": "1MiB", "shards": 8}, "shards", "at most 4 shards"),
        ({"memory": "5MiB", "shards": 32}, "shards", "at most 16 shards"),
        ({"memory": "64GiB", "shards": 1}, "shards", "at least 2 shards"),
        ({"io": "uring"}, "io", "set root"),
        ({"io": "threads"}, "io", "set root"),
        ({"root": "c", "io": "threads", "sqpoll": True}, "sqpoll", "io: uring"),
        ({"io": "memory", "iopoll": True}, "iopoll", "io: uring"),
        ({"root": "c", "iopoll": True, "direct": False}, "iopoll", "direct: true"),
    ],
)
def test_a_broken_rule_says_what_to_change(values: dict[str, Any], key: str, hint: str) -> None:
    error = refused(**values)
    assert error.key == key
    assert hint in str(error.hint)


@pytest.mark.parametrize(
    "values",
    [
        {"disk": 16 * MIB},
        {"disk": "1GiB", "region_size": "64MiB"},
        {"disk": 0, "region_size": "1GiB"},
        {"memory": "1MiB", "shards": 4},
        {"memory": "32GiB", "shards": 1},
        {"root": "c", "io": "uring", "sqpoll": True, "iopoll": True},
        {"io": "memory"},
    ],
)
def test_the_edge_of_a_rule_is_allowed(values: dict[str, Any]) -> None:
    Config(**values)


def test_a_misspelt_choice_is_answered_with_the_nearest_one() -> None:
    assert "'wtinylfu'" in str(refused(policy="wtinylfv").hint)


def test_a_misspelt_option_is_answered_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError) as caught:
        Config.from_options("c", memroy="1GiB")
    assert caught.value.key == "memroy"
    assert "'memory'" in str(caught.value.hint)


def test_replace_checks_like_a_new_config_and_leaves_the_old_one() -> None:
    config = Config(memory="2GiB")
    assert config.replace(memory="3GiB").memory == 3 * GIB
    assert config.memory == 2 * GIB
    with pytest.raises(ConfigError):
        config.replace(memory=1)
    with pytest.raises(ConfigError, match="unknown key"):
        config.replace(size=1)


def test_to_dict_and_from_dict_are_inverse() -> None:
    config = Config(root="c", memory="3MiB", front_size=0, default_ttl="1h", shards=4)
    assert Config.from_dict(config.to_dict()) == config
    assert list(config.to_dict()) == list(FIELDS)


@given(st.integers(16 * MIB, 64 * TIB))
def test_automatic_regions_leave_at_least_sixteen(disk_bytes: int) -> None:
    region = Config(disk=disk_bytes).region_size_bytes
    assert MIB <= region <= 64 * MIB
    assert region & (region - 1) == 0
    assert disk_bytes // region >= 16
    assert region == 64 * MIB or disk_bytes // (region * 2) < 16, "the largest that fits"


@given(st.integers(MIB, 64 * TIB), st.integers(1, 2048))
def test_automatic_shards_are_a_power_of_two_that_can_address_memory(
    memory_bytes: int, cpu_count: int
) -> None:
    config = Config(memory=memory_bytes)
    count = config.shard_count(cpu_count)
    assert count & (count - 1) == 0
    assert memory_bytes // count >= 256 * KIB
    assert memory_bytes <= count * 32 * GIB
    assert config.replace(shards=count).shard_count(cpu_count) == count


def test_automatic_front_table_follows_memory_up_to_its_cap() -> None:
    assert Config(memory="64MiB").front_size_bytes == 2 * MIB
    assert Config(memory="64GiB").front_size_bytes == 32 * MIB
    assert Config(memory="64GiB", front_size="1MiB").front_size_bytes == MIB
    assert Config(front_size=0).front_size_bytes == 0
    assert Config(memory="64MiB").replace(memory="32MiB").front_size_bytes == MIB


def test_there_is_a_disk_tier_only_with_budget_and_place() -> None:
    assert Config(root="c").has_disk
    assert Config(io="memory").has_disk
    assert not Config().has_disk
    assert not Config(root="c", disk=0).has_disk


def test_a_leading_tilde_is_the_home_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/somewhere")
    assert Config(root="~/cache").root == "/somewhere/cache"


def test_importing_the_package_imports_no_parser() -> None:
    script = (
        "import sys; import edgecache.config; "
        "print(sorted(sys.modules.keys() & {'yaml', 'tomllib', 'json', 'prometheus_client'}))"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", script],
        env={"PYTHONPATH": ":".join(path for path in sys.path if path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"


def test_the_guide_lists_every_field_with_its_default() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text("utf-8")
    rows = {}
    for line in guide.splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if len(cells) == 4 and cells[0].strip("`") in FIELDS:
            rows[cells[0].strip("`")] = cells
    assert list(rows) == list(FIELDS)
    for name, field in FIELDS.items():
        _, grammar, default, doc = rows[name]
        kind = field.metadata["kind"]
        assert grammar == kind.grammar()
        assert kind.parse_text(default.strip("`")) == field.default
        assert doc == field.metadata["doc"]
