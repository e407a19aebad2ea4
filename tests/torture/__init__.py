"""The reliability campaign: `make torture`, or `python -m torture` in the tests' directory."""
