"""Fuzzing of everything that reads bytes from outside: `python -m fuzz` in the tests' directory."""
