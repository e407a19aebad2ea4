"""Cache-Status (RFC 9211), and one word for logs and `x-cache-status`."""

from __future__ import annotations

from edgecache.rfc9111.reuse import Action, Reuse
from edgecache.rfc9111.structured import is_sf_token, serialise_string

NAME = b"edgecache"


def _named(text: bytes) -> bytes:
    """Serialise as a Token if possible, else as a String (RFC 9211, section 2)."""
    return text if is_sf_token(text) else serialise_string(text)


def member(
    reuse: Reuse,
    *,
    name: bytes = NAME,
    forward_status: int | None = None,
    is_stored: bool | None = None,
    is_collapsed: bool | None = None,
    key: bytes | None = None,
    detail: bytes | None = None,
    is_served_stored: bool = False,
) -> bytes:
    """Return this cache's member of Cache-Status.

    Args:
        reuse: The decision about the request.
        name: Which cache this is.
        forward_status: Status of the origin's answer, where the request went forward.
        is_stored: Whether that answer was stored.
        is_collapsed: Whether the request waited for another's answer; False if in vain.
        key: The cache key, only for clients that may know it (section 6).
        detail: Anything else, of this implementation.
        is_served_stored: Set where forwarding failed and the stored response was served after all.
    """
    parts = [_named(name)]
    is_hit = is_served_stored or not reuse.forward
    if is_hit:
        parts += (b"hit", b"ttl=%d" % reuse.ttl_s)
    else:
        parts.append(b"fwd=" + reuse.forward)
        if forward_status is not None:
            parts.append(b"fwd-status=%d" % forward_status)
        if is_stored is not None:
            parts.append(b"stored" if is_stored else b"stored=?0")
        if is_collapsed is not None:
            parts.append(b"collapsed" if is_collapsed else b"collapsed=?0")
    if key is not None:
        parts.append(b"key=" + serialise_string(key))
    if detail is not None:
        parts.append(b"detail=" + _named(detail))
    return b"; ".join(parts)


def appended(existing: bytes | None, own: bytes) -> bytes:
    """Return the field value with this cache's member last: closest to the user (section 2)."""
    return own if not existing or not existing.strip(b" \t") else existing + b", " + own


def outcome_word(
    reuse: Reuse, *, forward_status: int | None = None, is_served_stored: bool = False
) -> str:
    """Return the word for `x-cache-status`.

    hit, stale (served since forwarding failed, or because the client takes it), stale-updating,
    revalidated, expired, miss, bypass or gateway-timeout.
    """
    action = reuse.action
    if is_served_stored:
        return "stale" if reuse.ttl_s < 0 else "hit"
    if action is Action.HIT:
        return "hit" if reuse.ttl_s >= 0 else "stale"
    if action is Action.STALE:
        return "stale-updating"
    if action is Action.VALIDATE:
        return "revalidated" if forward_status == 304 else "expired"
    return str(action.value)
