"""Debug switch, set by setup.py (`EDGECACHE_DEBUG=1`).

Wrap every structure check in `if EDGECACHE_DEBUG:`; the C compiler removes it from a release build.
"""

cdef extern from *:
    """
    #ifndef EDGECACHE_DEBUG
    #define EDGECACHE_DEBUG 0
    #endif
    #include <stdio.h>
    #include <stdlib.h>
    static inline void ec_fail(const char *what, const char *file, int line) {
        fprintf(stderr, "edgecache: invariant broken: %s (%s:%d)\\n", what, file, line);
        abort();
    }
    #define ec_assert(condition, what) \\
        do { if (!(condition)) ec_fail((what), __FILE__, __LINE__); } while (0)
    """
    const int EDGECACHE_DEBUG
    # Assertions are for our own bugs, never for input. The process stops: the state is unknown.
    void ec_assert(bint condition, const char* what) noexcept nogil
