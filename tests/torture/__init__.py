"""The reliability campaign: `python -m torture` from the directory of the tests (`make torture`)."""
