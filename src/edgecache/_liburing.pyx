"""Find and resolve liburing: the PyPI wheel's extension file, else the system's liburing-ffi.

The wheel is located, not imported: importing it costs 124 ms, and its C functions are exported as
plain dynamic symbols. Only the "ffi" build of the system library exports the inline functions.

Source: dlopen(3), dlsym(3).
"""

from libc.string cimport memset

from edgecache._debug cimport ec_assert

import importlib.util
import os

cdef extern from "dlfcn.h" nogil:
    int RTLD_LAZY
    int RTLD_LOCAL
    void* dlopen(const char* path, int mode)
    void* dlsym(void* library, const char* name)
    char* dlerror()

cdef Liburing library
cdef bint resolved = False
cdef str detail = ""

# In the order of the members of struct Liburing.
cdef list REQUIRED = [
    b"io_uring_queue_init_params", b"io_uring_queue_exit", b"io_uring_enable_rings",
    b"io_uring_get_sqe", b"io_uring_sq_ready", b"io_uring_submit", b"io_uring_submit_and_wait",
    b"io_uring_submit_and_wait_timeout", b"io_uring_peek_batch_cqe", b"io_uring_cq_advance",
    b"io_uring_prep_nop", b"io_uring_prep_read", b"io_uring_prep_write",
    b"io_uring_prep_read_fixed", b"io_uring_prep_write_fixed", b"io_uring_prep_fsync",
    b"io_uring_register_eventfd", b"io_uring_register_buffers", b"io_uring_register_files_update",
]
cdef list OPTIONAL = [b"io_uring_register_files_sparse", b"io_uring_clone_buffers"]


cdef list candidates():
    """Files to try: those of the wheel, then the system's library by its name."""
    found = []
    try:
        spec = importlib.util.find_spec("liburing")
    except (ImportError, ValueError):
        spec = None
    if spec is not None:
        for folder in spec.submodule_search_locations or ():
            try:
                names = sorted(os.listdir(folder))
            except OSError:
                continue
            found += [os.path.join(folder, name) for name in names
                      if name.startswith("liburing") and ".so" in name]
    return [*found, "liburing-ffi.so.2"]


cdef bint bind(void* handle, str path):
    """Fill `library` from an opened file; False when a required function is missing."""
    cdef void** members = <void**>&library
    cdef Py_ssize_t index
    cdef bytes name
    global detail
    ec_assert(sizeof(Liburing) == (len(REQUIRED) + len(OPTIONAL)) * sizeof(void*), b"names")
    for index in range(len(REQUIRED) + len(OPTIONAL)):
        optional = index >= len(REQUIRED)
        name = OPTIONAL[index - len(REQUIRED)] if optional else REQUIRED[index]
        members[index] = dlsym(handle, name)
        if members[index] == NULL and not optional:
            detail = f"{path} does not export {name.decode()}"
            memset(&library, 0, sizeof(library))
            return False
    detail = path
    return True


cdef Liburing* liburing_load():
    cdef void* handle
    cdef bytes encoded
    cdef char* message
    global resolved, detail
    if resolved:
        return &library
    problems = []
    for path in candidates():
        encoded = os.fsencode(path)
        # Never closed: the function pointers live as long as the process.
        handle = dlopen(encoded, RTLD_LAZY | RTLD_LOCAL)
        if handle == NULL:
            message = dlerror()
            problems.append(os.fsdecode(message) if message != NULL else path)
        elif bind(handle, path):
            resolved = True
            return &library
        else:
            problems.append(detail)
    detail = "; ".join(problems)
    return NULL


cdef str liburing_detail():
    return detail
