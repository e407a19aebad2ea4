"""The cache API: entries and sparse objects over HTTP."""
