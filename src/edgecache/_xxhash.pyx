"""Resolve the XXH3 functions once, at import; see `_xxhash.pxd` for the order of the sources.

The wheel's Python package is not imported for it: its directory is found, the extension in it is
opened as a plain shared object, and the interpreter would get the same mapping if it imported it
later.

Environment:
    EDGECACHE_XXHASH=python     use the Python functions although native ones are there (tests)
"""

from cpython.buffer cimport PyBUF_READ
from cpython.memoryview cimport PyMemoryView_FromMemory
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport uint64_t
from posix.dlfcn cimport RTLD_LOCAL, RTLD_NOW, dlopen, dlsym

import os
import sys
from importlib.machinery import EXTENSION_SUFFIXES, PathFinder

cdef extern from "Python.h":
    void Py_FatalError(const char* message) noexcept nogil

# The table in use, and the Python one. Written during import (the second once more, by the first
# call of xxhash_python_api), under the GIL and never again.
cdef XxhashApi active_api
cdef XxhashApi python_api
cdef bint active_is_native = False
cdef str active_library = ""

cdef object python_bits64_intdigest = None
cdef object python_bits128_intdigest = None
cdef object python_stream64_class = None
cdef object python_stream128_class = None

# Known answers for the empty input and seed 0: a library that gives others is not used.
# Source: xxHash tests/sanity_test_vectors.h, first vectors of XXH3 64 and 128.
cdef enum:
    XXHASH_VERSION_MIN = 800        # XXH3 was experimental, with other output, before 0.8.0
cdef uint64_t EMPTY_BITS64 = 0x2D06800538D394C2
cdef uint64_t EMPTY_BITS128_LOW = 0x6001C324468D497F
cdef uint64_t EMPTY_BITS128_HIGH = 0x99AA06D3014798D8


cdef const XxhashApi* xxhash_api() noexcept nogil:
    return &active_api


cdef bint xxhash_is_native() noexcept nogil:
    return active_is_native


cdef const XxhashApi* xxhash_python_api() except NULL:
    global python_bits64_intdigest, python_bits128_intdigest
    global python_stream64_class, python_stream128_class
    if python_bits64_intdigest is None:
        import xxhash
        python_bits128_intdigest = xxhash.xxh3_128_intdigest
        python_stream64_class = xxhash.xxh3_64
        python_stream128_class = xxhash.xxh3_128
        python_api.bits128 = python_bits128
        python_api.bits64 = python_bits64
        python_api.stream_create = python_stream_create
        python_api.stream_free = python_stream_free
        python_api.stream_reset64 = python_stream_reset64
        python_api.stream_update64 = python_stream_update
        python_api.stream_digest64 = python_stream_digest64
        python_api.stream_reset128 = python_stream_reset128
        python_api.stream_update128 = python_stream_update
        python_api.stream_digest128 = python_stream_digest128
        python_bits64_intdigest = xxhash.xxh3_64_intdigest
    return &python_api


# ---- Python backend. A hash that cannot be computed (no memory for an int) must not become a
# wrong one: the callers cannot be told, so the process stops with a message.

cdef object view_of(const void* data, size_t size):
    if size == 0:
        return b""          # data may be NULL
    return PyMemoryView_FromMemory(<char*>data, <Py_ssize_t>size, PyBUF_READ)


cdef Hash128 split(object number):
    cdef Hash128 hash
    hash.low = <uint64_t>(number & 0xFFFFFFFFFFFFFFFF)
    hash.high = <uint64_t>(number >> 64)
    return hash


cdef uint64_t python_bits64(const void* data, size_t size, uint64_t seed) noexcept with gil:
    try:
        return <uint64_t>python_bits64_intdigest(view_of(data, size), seed)
    except BaseException:
        Py_FatalError("edgecache: the xxhash package failed to hash")
    return 0


cdef Hash128 python_bits128(const void* data, size_t size, uint64_t seed) noexcept with gil:
    cdef Hash128 none
    try:
        return split(python_bits128_intdigest(view_of(data, size), seed))
    except BaseException:
        Py_FatalError("edgecache: the xxhash package failed to hash")
    none.low = none.high = 0
    return none


# A stream of the Python backend is a list of one element, the hasher: a reset replaces it.

cdef void* python_stream_create() noexcept with gil:
    cdef list stream
    try:
        stream = [None]
        Py_INCREF(stream)
        return <void*>stream
    except MemoryError:
        return NULL


cdef int python_stream_free(void* stream) noexcept with gil:
    if stream != NULL:
        Py_DECREF(<object>stream)
    return 0


cdef int python_stream_reset64(void* stream, uint64_t seed) noexcept with gil:
    try:
        (<list>stream)[0] = python_stream64_class(seed=seed)
        return 0
    except MemoryError:
        return 1


cdef int python_stream_reset128(void* stream, uint64_t seed) noexcept with gil:
    try:
        (<list>stream)[0] = python_stream128_class(seed=seed)
        return 0
    except MemoryError:
        return 1


cdef int python_stream_update(void* stream, const void* data, size_t size) noexcept with gil:
    try:
        (<list>stream)[0].update(view_of(data, size))
        return 0
    except MemoryError:
        return 1


cdef uint64_t python_stream_digest64(const void* stream) noexcept with gil:
    try:
        return <uint64_t>(<list>stream)[0].intdigest()
    except BaseException:
        Py_FatalError("edgecache: the xxhash package failed to finish a stream")
    return 0


cdef Hash128 python_stream_digest128(const void* stream) noexcept with gil:
    cdef Hash128 none
    try:
        return split((<list>stream)[0].intdigest())
    except BaseException:
        Py_FatalError("edgecache: the xxhash package failed to finish a stream")
    none.low = none.high = 0
    return none


# ---- Native backend.

ctypedef unsigned (*version_function)() noexcept nogil


cdef void* symbol(void* library, str name):
    """The plain function, or its twin that picks AVX2 or AVX-512 for long inputs by CPUID."""
    cdef void* address = dlsym(library, (name + "_dispatch").encode())
    if address == NULL:
        address = dlsym(library, name.encode())
    return address


cdef bint resolve(str path, XxhashApi* api):
    """Fill `api` from the library at `path`; False if it is missing, too old or answers wrongly."""
    cdef void* library = dlopen(os.fsencode(path), RTLD_NOW | RTLD_LOCAL)
    cdef void* version
    cdef Hash128 empty
    if library == NULL:
        return False
    version = dlsym(library, b"XXH_versionNumber")
    if version == NULL or (<version_function>version)() < XXHASH_VERSION_MIN:
        return False
    # The library stays open: the table points into it for the life of the process.
    (<void**>&api.bits128)[0] = symbol(library, "XXH3_128bits_withSeed")
    (<void**>&api.bits64)[0] = symbol(library, "XXH3_64bits_withSeed")
    (<void**>&api.stream_create)[0] = dlsym(library, b"XXH3_createState")
    (<void**>&api.stream_free)[0] = dlsym(library, b"XXH3_freeState")
    (<void**>&api.stream_reset64)[0] = dlsym(library, b"XXH3_64bits_reset_withSeed")
    (<void**>&api.stream_update64)[0] = symbol(library, "XXH3_64bits_update")
    (<void**>&api.stream_digest64)[0] = dlsym(library, b"XXH3_64bits_digest")
    (<void**>&api.stream_reset128)[0] = dlsym(library, b"XXH3_128bits_reset_withSeed")
    (<void**>&api.stream_update128)[0] = symbol(library, "XXH3_128bits_update")
    (<void**>&api.stream_digest128)[0] = dlsym(library, b"XXH3_128bits_digest")
    if not (api.bits128 and api.bits64 and api.stream_create and api.stream_free
            and api.stream_reset64 and api.stream_update64 and api.stream_digest64
            and api.stream_reset128 and api.stream_update128 and api.stream_digest128):
        return False
    empty = api.bits128(b"", 0, 0)
    return (empty.low == EMPTY_BITS128_LOW and empty.high == EMPTY_BITS128_HIGH
            and api.bits64(b"", 0, 0) == EMPTY_BITS64)


cdef str wheel_extension_path():
    """Path of the wheel's extension, "" if there is none; runs nothing of it."""
    loaded = sys.modules.get("xxhash._xxhash")
    if loaded is not None:
        return getattr(loaded, "__file__", None) or ""
    package = PathFinder.find_spec("xxhash")
    if package is None or not package.submodule_search_locations:
        return ""
    for directory in package.submodule_search_locations:
        for suffix in EXTENSION_SUFFIXES:
            path = os.path.join(directory, "_xxhash" + suffix)
            if os.path.exists(path):
                return path
    return ""


cdef void choose_backend() except *:
    global active_is_native, active_library, active_api
    cdef const XxhashApi* fallback
    if os.environ.get("EDGECACHE_XXHASH", "") != "python":
        for path in (wheel_extension_path(), "libxxhash.so.0"):
            if path and resolve(path, &active_api):
                active_is_native = True
                active_library = path
                return
    fallback = xxhash_python_api()
    active_api = fallback[0]


def xxhash_backend() -> str:
    """Say which backend hashes: "native", or "python" (correct, slower, takes the GIL)."""
    return "native" if active_is_native else "python"


def xxhash_library() -> str:
    """Return the shared object whose functions are called; "" for the Python backend."""
    return active_library


choose_backend()
