"""Benchmarks of edgecache: `python -m bench.run --list`. Nothing in the package imports this."""
