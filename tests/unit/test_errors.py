"""The exception hierarchy."""

from __future__ import annotations

import copy
import errno
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from edgecache import errors
from edgecache.errors import EdgeCacheError

CLASSES = [getattr(errors, name) for name in errors.__all__]

BUILTINS = {
    "KeyTypeError": TypeError,
    "KeySizeError": ValueError,
    "ArgumentError": ValueError,
    "ValueTooLargeError": ValueError,
    "InvalidTTLError": ValueError,
    "ConfigError": ValueError,
    "StoreClosedError": ValueError,
    "StoreForkedError": RuntimeError,
    "SharedModeError": RuntimeError,
    "StoreLockedError": BlockingIOError,
    "EntryNotFoundError": KeyError,
    "EntryExistsError": FileExistsError,
    "TooManyWritesError": BlockingIOError,
    "ObjectNotFoundError": errors.EntryNotFoundError,
    "ObjectExistsError": errors.EntryExistsError,
    "PartialWritesError": errors.TooManyWritesError,
    "PartialQuotaError": OSError,
    "ObjectShedError": OSError,
    "ObjectChangedError": RuntimeError,
    "StreamAbortedError": ConnectionAbortedError,
    "RangeError": ValueError,
    "RangeMissingError": LookupError,
    "IncompleteObjectError": ValueError,
    "DeadlineError": TimeoutError,
    "EngineMemoryError": MemoryError,
    "FormatVersionError": OSError,
    "CorruptionError": OSError,
    "DiskIOError": OSError,
    "NoSpaceError": OSError,
    "EngineUnavailableError": OSError,
    "UnsafePathError": PermissionError,
    "MetaFormatError": ValueError,
    "MetaTruncatedError": errors.MetaFormatError,
    "MetaVersionError": errors.MetaFormatError,
    "MetaChecksumError": errors.MetaFormatError,
    "MetaFieldError": errors.MetaFormatError,
}


def example(kind: type[EdgeCacheError]) -> EdgeCacheError:
    facts: dict[str, object] = {name: f"<{name}>" for name in kind.fact_names}
    if issubclass(kind, OSError):
        facts["errno"] = errno.ENXIO
    return kind("it failed", hint="try this", **facts)


def test_every_class_is_exported_and_has_its_builtin() -> None:
    defined = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, EdgeCacheError)
    }
    assert defined == set(errors.__all__)
    assert defined == {*BUILTINS, "EdgeCacheError"}


@pytest.mark.parametrize("name", BUILTINS)
def test_error_is_caught_by_the_root_and_by_its_builtin(name: str) -> None:
    for kind in (EdgeCacheError, BUILTINS[name]):
        with pytest.raises(kind):
            raise getattr(errors, name)("it failed")


@pytest.mark.parametrize("kind", CLASSES)
def test_facts_are_attributes_and_are_shown_with_the_hint(kind: type[EdgeCacheError]) -> None:
    error = example(kind)
    for name in kind.fact_names:
        assert getattr(error, name) == f"<{name}>"
        assert f"{name}='<{name}>'" in str(error)
    assert str(error).startswith("it failed (")
    assert str(error).endswith("[hint: try this]")
    assert error.hint == "try this"
    if isinstance(error, OSError):
        assert error.errno == errno.ENXIO
        assert f"errno={errno.ENXIO}" in str(error)


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_pickle_and_copy_keep_class_facts_hint_and_notes(
    kind: type[EdgeCacheError], protocol: int
) -> None:
    error = example(kind)
    error.add_note("seen on Monday")
    copies = [pickle.loads(pickle.dumps(error, protocol)), copy.copy(error), copy.deepcopy(error)]
    for other in copies:
        assert type(other) is kind
        assert str(other) == str(error)
        assert vars(other) == vars(error)
        assert other.__notes__ == ["seen on Monday"]
        assert getattr(other, "errno", None) == getattr(error, "errno", None)


@pytest.mark.parametrize("kind", CLASSES)
def test_error_without_arguments_says_its_name_and_its_standing_hint(
    kind: type[EdgeCacheError],
) -> None:
    error = kind()
    assert str(error).startswith(kind.__name__)
    assert error.hint == kind.default_hint
    assert kind.default_hint in str(error)
    assert [getattr(error, name) for name in kind.fact_names] == [None] * len(kind.fact_names)


@pytest.mark.parametrize("kind", CLASSES)
def test_unknown_fact_is_a_type_error(kind: type[EdgeCacheError]) -> None:
    with pytest.raises(TypeError, match="no attribute 'colour'"):
        kind("it failed", colour="red")


def test_errno_belongs_to_os_errors_only() -> None:
    with pytest.raises(TypeError):
        errors.KeySizeError("it failed", errno=5)


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (errors.NoSpaceError, errno.ENOSPC),
        (errors.DiskIOError, errno.EIO),
        (errors.DeadlineError, errno.ETIMEDOUT),
        (errors.StoreLockedError, errno.EWOULDBLOCK),
        (errors.TooManyWritesError, errno.EAGAIN),
        (errors.UnsafePathError, errno.EPERM),
        (errors.EntryExistsError, errno.EEXIST),
    ],
)
def test_os_error_has_a_fitting_errno_without_being_told(
    kind: type[errors.DiskIOError], code: int
) -> None:
    assert kind("it failed").errno == code
    assert "errno" not in str(kind("it failed"))


def test_facts_of_one_error_do_not_show_in_another() -> None:
    example(errors.ConfigError)
    assert errors.ConfigError("it failed").key is None
    assert EdgeCacheError().path is None


def test_import_brings_in_no_module_but_errno() -> None:
    source = str(Path(errors.__file__))
    code = (
        "import sys; before = set(sys.modules)\n"
        f"exec(compile(open({source!r}).read(), 'errors', 'exec'), {{'__name__': 'errors'}})\n"
        "print(sorted(set(sys.modules) - before))"
    )
    output = subprocess.run(
        [sys.executable, "-S", "-c", code], check=True, capture_output=True, text=True
    ).stdout
    assert set(output.strip("[]\n'").replace("'", "").split(", ")) <= {"", "errno", "__future__"}
