"""Bearer tokens: who may do what to which keys (RFC 6750)."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable

from edgecache.errors import ArgumentError
from edgecache.http.request import Request
from edgecache.http.response import Response, text_response

__all__ = ["TokenRule", "TokenRules"]


class TokenRule:
    """What one token permits.

    Args:
        token: The secret; only its hash is kept.
        prefix: Of the decoded resource, for instance b"/cache/tenant1/" or b"/stats".
        methods: Methods it permits; None: all.
    """

    __slots__ = ("digest", "methods", "prefix")

    def __init__(
        self, token: str, prefix: bytes = b"/", methods: Iterable[str] | None = None
    ) -> None:
        if not token:
            raise ArgumentError("an empty token would permit everybody")
        self.digest = _digest(token.encode())
        self.prefix = prefix
        self.methods = None if methods is None else frozenset(m.encode("ascii") for m in methods)

    def __repr__(self) -> str:
        return f"TokenRule(prefix={self.prefix!r}, methods={self.methods!r})"


class TokenRules:
    """Judges requests; without rules everything is permitted.

    The resource that is judged is the decoded one, so an escape cannot lead around a prefix.
    """

    def __init__(self, rules: Iterable[TokenRule] = ()) -> None:
        self._rules = tuple(rules)

    def __bool__(self) -> bool:
        return bool(self._rules)

    def refusal(self, request: Request, resource: bytes) -> Response | None:
        """Return the answer to a request that is not permitted, else None.

        *Cost*: every rule is compared, in constant time, so timing tells nothing about tokens.
        """
        if not self._rules:
            return None
        given = request.block.values.get(b"authorization", ())
        scheme, _, token = given[0].partition(b" ") if len(given) == 1 else (b"", b"", b"")
        digest = _digest(token.strip(b" "))
        is_known = is_permitted = False
        for rule in self._rules:
            is_same = hmac.compare_digest(rule.digest, digest)
            is_known |= is_same
            is_right = resource.startswith(rule.prefix) and (
                rule.methods is None or request.method in rule.methods
            )
            is_permitted |= is_same and is_right
        if scheme.lower() != b"bearer" or not is_known:
            challenge = (("WWW-Authenticate", 'Bearer realm="edgecache"'),)
            return text_response(401, "a token is needed", challenge)
        if not is_permitted:
            challenge = (("WWW-Authenticate", 'Bearer error="insufficient_scope"'),)
            return text_response(403, "the token does not permit this", challenge)
        return None


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()
