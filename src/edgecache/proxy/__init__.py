"""The reverse proxy door: it carries out what `rfc9111` decides, over the store."""
