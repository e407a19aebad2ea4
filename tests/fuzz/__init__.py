"""Fuzzing of all that reads bytes from outside: `python -m fuzz.guided` in the tests' directory."""
