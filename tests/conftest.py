"""Puts this directory on the path, so that tests of every kind find `support`."""
