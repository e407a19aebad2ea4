"""The rules of HTTP caching as pure functions: RFC 9111 and the RFCs around it.

Nothing here does I/O or reads a clock: the time is an argument, decisions are values. Bytes from
the network never make it raise; what is invalid is absent, or counts as the stricter case. Each
module holds the rules of one subject and names the section they come from; docs/http.md lists them
all.

    syntax dates structured etags fields     grammars
    hop cache_control targeted tags rules    what fields say, what the operator says
    key search vary                          which stored response
    freshness storing stored                 may it be stored, for how long, in what form
    request reuse                            may it answer this request
    validation preconditions ranges partial  304, 206, 412, 416
    invalidation cache_status                what else changes, and what to tell
"""
