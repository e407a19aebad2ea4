"""Binding: the XXH3 functions of the installed xxhash wheel, called without the GIL.

    cdef const XxhashApi* api = xxhash_api()        # once, outside the loop
    hash = api.bits128(key, key_len, seed)

The table is filled when `edgecache._xxhash` is imported and is valid, and never changes, for the
life of the process. It comes from the first of these that gives the right answers:

1. the wheel's extension module, opened with dlopen ("native");
2. the system's libxxhash.so.0 ("native");
3. the Python functions of the wheel ("python"). These take the GIL, so with this backend
   **no function of the table may be called under a native lock**: another thread may wait for that
   lock with the GIL. `xxhash_is_native()` says which it is.
"""

# The types stand below this module, so that kernels can take a table without seeing a binding.
from edgecache._hash cimport Hash128, XxhashApi

cdef const XxhashApi* xxhash_api() noexcept nogil
cdef bint xxhash_is_native() noexcept nogil
# The Python backend, whatever is in use: lets tests compare the two.
cdef const XxhashApi* xxhash_python_api() except NULL
