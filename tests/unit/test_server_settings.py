"""Settings of the server: a refusal names place and remedy; the page names every key."""

from __future__ import annotations

import dataclasses
import json
import re
import textwrap
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Any

import pytest

from edgecache.config import Config
from edgecache.errors import ConfigError
from edgecache.server import ServerSettings, load_settings
from edgecache.server.loading import SERVER_VARIABLES
from edgecache.server.plane import LIVE_SECTIONS, split_changes
from edgecache.server.settings import Address

PAGE = Path(__file__).parents[2] / "docs" / "serve.md"

# What stands in the file (as JSON), the key that is blamed, and a word of the message or the hint.
BAD: tuple[tuple[dict[str, Any], str, str], ...] = (
    ({"lissten": []}, "lissten", "did you mean 'listen'"),
    ({"zzz": 1}, "zzz", "docs/serve.md"),
    ({"cache": {"memroy": 1}}, "cache.memroy", "did you mean 'memory'"),
    ({"cache": {"memory": "1QB"}}, "cache.memory", "1QB"),
    ({"cache": []}, "cache", "table of keys"),
    ({"listen": []}, "listen", "at least one"),
    ({"listen": 8080}, "listen.0", "not text"),
    ({"listen": {"a": 1}}, "listen", "not a list"),
    ({"listen": "127.0.0.1"}, "listen", "127.0.0.1:8080"),
    ({"listen": ["127.0.0.1:99999"]}, "listen", "no address"),
    ({"listen": ["a:1", "a:1"]}, "listen", "twice"),
    ({"workers": 4}, "workers", "use workers: 1"),
    ({"workers": "many"}, "workers", "a whole number"),
    ({"workers": True}, "workers", "a whole number"),
    ({"drain_s": -1}, "drain_s", ""),
    ({"drain_s": "2h"}, "drain_s", "1 h"),
    ({"drain_s": []}, "drain_s", ""),
    ({"admin": 5}, "admin", "table of keys"),
    ({"admin": {"listen": "0.0.0.0:14000"}}, "admin.listen", "set admin.token"),
    ({"admin": {"listen": "[::]:14000"}}, "admin.listen", "set admin.token"),
    ({"admin": {"listen": "systemd"}}, "admin.listen", "only `listen`"),
    ({"admin": {"token": "short"}}, "admin.token", "8 to 512"),
    ({"admin": {"token": "long enough", "x": 1}}, "admin.x", "unknown key"),
    ({"admin": {"token": "longenough", "token_file": "/x"}}, "admin.token_file", "one of them"),
    ({"metrics": {"listen": "nowhere"}}, "metrics.listen", "no address"),
    ({"tls": {}}, "tls", "'cert' is missing"),
    ({"tls": {"cert": 5}}, "tls.cert", "not text"),
    ({"tls": {"cert": "a", "watch_s": -1}}, "tls.watch_s", ""),
    ({"limits": {"header_count_max": 0}}, "limits.header_count_max", "from 1 on"),
    ({"limits": {"header_bytes_max": "lots"}}, "limits.header_bytes_max", ""),
    ({"limits": {"idle_timeout_s": "soon"}}, "limits.idle_timeout_s", ""),
    ({"limits": {"idle_timeouts": 1}}, "limits.idle_timeouts", "'idle_timeout_s'"),
    ({"api": {"enabled": "yes"}}, "api.enabled", "true or false"),
    ({"api": {"tokens": [{"token": "x"}]}}, "api.tokens.0", "8 to 512"),
    ({"api": {"tokens": [{"prefix": "/"}]}}, "api.tokens.0", "'token' is missing"),
    ({"api": {"tokens": [{"token": "longenough", "methods": 5}]}}, "api.tokens.0.methods.0", ""),
    ({"log": {"level": "loud"}}, "log.level", "debug"),
    ({"proxy": {"profile": "wild"}}, "proxy.profile", "safe"),
    ({"proxy": {"upstream": "ftp://x"}}, "proxy.upstream", "http://host:port"),
    ({"proxy": {"upstream": "http://x/path"}}, "proxy.upstream", "has a path"),
    ({"proxy": {"name": "no token"}}, "proxy.name", "token"),
    ({"proxy": {"variants_max": 0}}, "proxy.variants_max", "within"),
    ({"proxy": {"memo_bytes": "x"}}, "proxy.memo_bytes", ""),
    ({"proxy": {"trusted_proxies": ["10.0.0.0/99"]}}, "proxy.trusted_proxies.0", "as 10.0.0.0/8"),
    ({"proxy": {"trusted_proxies": [7]}}, "proxy.trusted_proxies.0", "as 10.0.0.0/8"),
    ({"proxy": {"routes": [{}]}}, "proxy.routes.0", "'upstream' is missing"),
    (
        {"proxy": {"upstream": "http://a", "routes": [{"upstream": "default"}, {"upstream": "b"}]}},
        "proxy.routes",
        "no upstream 'b'",
    ),
    (
        {"proxy": {"routes": [{"upstream": "demo"}, {"upstream": "demo", "path": "x"}]}},
        "proxy.routes.1.path",
        "begin with /",
    ),
    (
        {"proxy": {"routes": [{"upstream": "demo", "rules": {"cookie": "all"}}]}},
        "proxy.routes.0.rules.cookie",
        "",
    ),
    ({"proxy": {"upstreams": {"a": {}}}}, "proxy.upstreams.a", "'servers' is missing"),
    (
        {"proxy": {"upstreams": {"a": {"servers": ["http://x"], "balance": "luck"}}}},
        "proxy.upstreams.a.balance",
        "round_robin",
    ),
    (
        {"proxy": {"upstreams": {"a": {"servers": ["x"], "timeouts": {"connect_s": 0}}}}},
        "proxy.upstreams.a.timeouts.connect_s",
        "within",
    ),
    (
        {"proxy": {"upstreams": {"a": {"servers": ["x"], "health": {"path": "no"}}}}},
        "proxy.upstreams.a.health.path",
        "no path",
    ),
    ({"proxy": {"upstreams": {"demo": {"servers": ["x"]}}}}, "proxy.upstreams", "is taken"),
    ({"proxy": {"purge": {"token": "short"}}}, "proxy.purge.token", "16"),
    ({"proxy": {"collapsing": {"wait_s": -1}}}, "proxy.collapsing.wait_s", ""),
)


def as_json(data: Any) -> str:
    return json.dumps(data, indent=1)


def as_yaml(data: Any) -> str:
    import yaml

    return str(yaml.safe_dump(data, sort_keys=False))


def as_toml(data: Any) -> str:
    """Write tables with headers; what they hold in one line."""
    lines: list[str] = []

    def value(item: Any) -> str:
        if isinstance(item, dict):
            return "{" + ", ".join(f"{k} = {value(v)}" for k, v in item.items()) + "}"
        if isinstance(item, list):
            return "[" + ", ".join(map(value, item)) + "]"
        return json.dumps(item)

    def table(path: str, items: Mapping[str, Any]) -> None:
        plain = {k: v for k, v in items.items() if not is_table(v) and not is_tables(v)}
        lines.extend(f"{name} = {value(item)}" for name, item in plain.items())
        for name, item in items.items():
            inner = f"{path}.{name}" if path else name
            if is_table(item):
                lines.append(f"[{inner}]")
                table(inner, item)
            elif is_tables(item):
                for each in item:
                    lines.append(f"[[{inner}]]")
                    table(inner, each)

    def is_table(item: Any) -> bool:
        return isinstance(item, dict)

    def is_tables(item: Any) -> bool:
        return isinstance(item, list) and bool(item) and all(map(is_table, item))

    table("", data)
    return "\n".join(lines) + "\n"


FORMATS = {".json": as_json, ".yaml": as_yaml, ".toml": as_toml}


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize(
    ("data", "key", "word"), BAD, ids=[f"{n}-{b[1]}" for n, b in enumerate(BAD)]
)
def test_a_bad_setting_is_refused_with_file_line_key_and_remedy(
    tmp_path: Path, data: dict[str, Any], key: str, word: str, suffix: str
) -> None:
    path = tmp_path / f"edgecache{suffix}"
    path.write_text(FORMATS[suffix](data))
    with pytest.raises(ConfigError) as caught:
        load_settings(str(path), {}, {})
    error = caught.value
    assert error.key == key
    assert error.path == str(path)
    assert error.hint
    assert word in f"{error.message} {error.hint}"
    assert "\n" not in str(error)
    line = error.line
    assert line is not None, str(error)
    # The line holds the last name of the key that stands in the file as a word.
    names = [name for name in key.split(".") if not name.isdecimal()]
    text = path.read_text().splitlines()[line - 1]
    held = [name for name in names if name in text]
    assert held or key.split(".")[-1].isdecimal(), (line, text)


def test_the_line_is_the_one_of_the_key_itself(tmp_path: Path) -> None:
    data = {
        "proxy": {
            "upstreams": {"a": {"servers": ["x"]}, "b": {"servers": ["x"], "retries": "one"}},
            "routes": [{"upstream": "a"}, {"upstream": "b", "path": "x"}],
        }
    }
    del data["proxy"]["routes"]
    for suffix, render in FORMATS.items():
        path = tmp_path / f"edgecache{suffix}"
        path.write_text(render(data))
        with pytest.raises(ConfigError) as caught:
            load_settings(str(path), {}, {})
        assert caught.value.line is not None
        assert "retries" in path.read_text().splitlines()[caught.value.line - 1]


def test_an_item_of_a_list_is_found_in_every_format(tmp_path: Path) -> None:
    routes = [{"upstream": "demo"}, {"upstream": "demo", "path": "x"}]
    for suffix, render in FORMATS.items():
        path = tmp_path / f"edgecache{suffix}"
        path.write_text(render({"proxy": {"name": "a", "routes": routes}}))
        with pytest.raises(ConfigError) as caught:
            load_settings(str(path), {}, {})
        assert caught.value.line is not None
        assert "path" in path.read_text().splitlines()[caught.value.line - 1]


def test_all_sections_may_be_left_empty(tmp_path: Path) -> None:
    path = tmp_path / "edgecache.yaml"
    path.write_text("cache:\nadmin:\nmetrics:\nlimits:\nproxy:\napi:\nlog:\n")
    assert load_settings(str(path), {}, {}) == load_settings(None, {}, {})


def test_the_defaults_are_the_documented_addresses() -> None:
    settings = load_settings(None, {}, {})
    assert settings.listen == ("127.0.0.1:8080",)
    assert settings.admin.listen == "127.0.0.1:14000"
    assert settings.metrics.listen == "127.0.0.1:6192"
    assert settings.is_demo
    assert settings.serves_api


def test_the_command_line_wins_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "edgecache.yaml"
    path.write_text(
        "cache: {memory: 64MiB, disk: 1GiB}\nlisten: ['127.0.0.1:1']\n"
        "proxy: {upstream: 'http://file', profile: rfc}\nlog: {level: error}\n"
    )
    environ = {
        "EDGECACHE_MEMORY": "32MiB",
        "EDGECACHE_DISK": "2GiB",
        "EDGECACHE_LISTEN": "127.0.0.1:2, 127.0.0.1:3",
        "EDGECACHE_UPSTREAM": "http://environment",
        "EDGECACHE_LOG_LEVEL": "debug",
        "EDGECACHE_METRICS_LISTEN": "none",
    }
    settings = load_settings(str(path), {"memory": "16MiB", "upstream": ["http://option"]}, environ)
    assert settings.cache.memory == 16 << 20
    assert settings.cache.disk == 2 << 30
    assert settings.listen == ("127.0.0.1:2", "127.0.0.1:3")
    assert settings.proxy.upstream == ("http://option",)
    assert settings.proxy.profile == "rfc"
    assert settings.log.level == "debug"
    assert settings.metrics.listen is None
    assert not settings.is_demo


@pytest.mark.parametrize(
    ("environ", "options", "key"),
    [
        ({"EDGECACHE_LISTEN": "x"}, {}, "EDGECACHE_LISTEN"),
        ({"EDGECACHE_UPSTREAM": "ftp://x"}, {}, "EDGECACHE_UPSTREAM"),
        ({"EDGECACHE_ADMIN_LISTEN": "0.0.0.0:1"}, {}, "EDGECACHE_ADMIN_LISTEN"),
        ({"EDGECACHE_LOG_LEVEL": "loud"}, {}, "EDGECACHE_LOG_LEVEL"),
        ({"EDGECACHE_DRAIN": "soon"}, {}, "EDGECACHE_DRAIN"),
        ({"EDGECACHE_LISTEN": "x"}, {"listen": ["y"]}, "--listen"),
        ({}, {"upstream": ["http://a b"]}, "--upstream"),
        ({}, {"profile": "wild"}, "--profile"),
        ({}, {"workers": 2}, "--workers"),
        ({}, {"memory": "x"}, "memory"),
    ],
)
def test_what_is_not_in_the_file_is_called_by_its_own_name(
    environ: dict[str, str], options: dict[str, Any], key: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings(None, options, environ)
    assert caught.value.key == key
    assert caught.value.path is None


def test_secrets_are_not_shown() -> None:
    data = {
        "admin": {"token": "secret-of-admin"},
        "api": {"tokens": [{"token": "secret-of-api", "prefix": "/cache/a/"}]},
        "proxy": {"purge": {"token": "secret-of-the-purges"}},
    }
    import tempfile

    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(data, file)
        file.flush()
        shown = json.dumps(load_settings(file.name, {}, {}).redacted())
    assert "secret" not in shown
    assert shown.count("***") == 3


def test_strangers_cannot_write_to_an_api_without_tokens() -> None:
    options = {"listen": ["0.0.0.0:8080"]}
    assert not load_settings(None, options, {}).serves_api
    assert load_settings(None, {"listen": ["[::1]:8080", "unix:/x"]}, {}).serves_api


@pytest.mark.parametrize(
    ("text", "is_loopback"),
    [
        ("127.0.0.1:0", True),
        ("127.9.9.9:1", True),
        ("localhost:1", True),
        ("[::1]:1", True),
        ("unix:/x", True),
        ("0.0.0.0:1", False),
        ("[::]:1", False),
        ("10.0.0.1:1", False),
        ("example.org:1", False),
    ],
)
def test_only_addresses_of_this_machine_are_loopback(text: str, is_loopback: bool) -> None:
    address = Address.parse(text, "listen")
    assert address.is_loopback is is_loopback
    assert str(address) == text


def test_a_listener_does_not_begin_to_speak_tls_live() -> None:
    old = ServerSettings(cache=Config())
    data = {"tls": {"cert": "a.pem"}, "drain_s": 3}
    fresh = dataclasses.replace(old, drain_s=3.0, tls=_tls(data["tls"]))
    assert split_changes(old, fresh) == (frozenset({"drain_s"}), ["tls"])
    moved = dataclasses.replace(fresh, tls=_tls({"cert": "b.pem"}))
    assert split_changes(fresh, moved) == (frozenset({"tls"}), [])


def _tls(data: Any) -> Any:
    from edgecache.server.settings import TlsSettings

    return TlsSettings(**data)


# The page


def keys_of(section: Any, path: str = "") -> Iterator[str]:
    """Every key that a section reads, in dots; what a mapping or a list holds below a star."""
    hints = typing.get_type_hints(section)
    for each in dataclasses.fields(section):
        name = f"{path}{each.name}"
        if name == "cache":  # docs/configuration.md has its keys
            continue
        yield name
        yield from below(hints[each.name], name)


def below(hint: Any, name: str) -> Iterator[str]:
    arguments = [each for each in typing.get_args(hint) if each not in (NoneType, ...)]
    kind = typing.get_origin(hint)
    if dataclasses.is_dataclass(hint):
        yield from keys_of(hint, f"{name}.")
    elif kind in (typing.Union, UnionType):
        yield from (key for each in arguments for key in below(each, name))
    elif kind is not None and arguments and dataclasses.is_dataclass(arguments[-1]):
        yield from keys_of(arguments[-1], f"{name}.*.")


def documented(page: str) -> dict[str, str]:
    """Keys and defaults: the first two columns of every table of keys."""
    found = re.findall(r"^\| `([a-z_.*]+)` \| ([^|]*) \|", page, re.MULTILINE)
    keys = {name: default.strip().strip("`") for name, default in found}
    assert len(keys) == len(found), "a key stands twice"
    return {name: text for name, text in keys.items() if not name.startswith("edge_cache_")}


def test_the_page_names_every_key_and_no_other() -> None:
    assert sorted(documented(PAGE.read_text())) == sorted(set(keys_of(ServerSettings)))


def test_the_page_tells_the_defaults() -> None:
    shown = documented(PAGE.read_text())
    given = load_settings(None, {}, {}).redacted()
    for name, text in shown.items():
        if "*" in name:
            continue
        *sections, last = name.split(".")
        value: Any = given
        for section in sections:
            value = value[section] if value else None
        if value is None:  # a section that is absent by default
            continue
        value = value[last]
        if isinstance(value, dict) and last != "upstreams":
            assert text == "", name
        elif isinstance(value, list):
            assert text == "[" + ", ".join(map(str, value)) + "]", name
        else:
            assert text == (str(value) if isinstance(value, str) else json.dumps(value)), name


def test_the_page_names_the_variables_and_what_changes_live() -> None:
    page = PAGE.read_text()
    missing = [name for name in SERVER_VARIABLES if f"`{name}`" not in page]
    assert not missing
    [live] = re.findall(r"SIGHUP changes at once: (.*?)\.\n", page)
    assert set(re.findall(r"`([a-z_]+)`", live)) == LIVE_SECTIONS


def test_the_example_on_the_page_is_usable(tmp_path: Path) -> None:
    [example] = re.findall(r"^    cache: .*\n(?:    .*\n)+", PAGE.read_text(), re.MULTILINE)
    path = tmp_path / "edgecache.yaml"
    path.write_text(textwrap.dedent(example))
    settings = load_settings(str(path), {}, {})
    assert [route.upstream for route in settings.proxy.routes] == ["files", "pages", "pages"]
    rules = settings.proxy.routes[0].rules
    assert rules is not None
    assert rules.heuristic_max_s == 3600
    assert settings.proxy.upstreams["pages"].health is not None
    assert settings.serves_api
    assert settings.tls is not None
