"""HTTP/1.1: the data plane, and the doors on it."""
