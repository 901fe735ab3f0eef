"""Access control: the API key and the admin token, compared in constant time and never logged; and CORS."""

import hmac

from pydantic import SecretStr

from service.dialects import BadRequest
from service.wire import Call, Headers, Reply

METHODS = b"DELETE, GET, HEAD, POST"  # of all routes
REQUEST_HEADERS = b"authorization, content-type, traceparent, tracestate, x-api-key, x-request-timeout-ms"
# every header of an answer that scripts cannot read by default (https://fetch.spec.whatwg.org/#cors-safelisted-response-header-name)
EXPOSED = (
    b"allow, date, retry-after, retry-after-ms, www-authenticate, x-compute-characters, x-compute-time, "
    b"x-compute-tokens, x-compute-type, x-inference-time, x-queue-time, x-tokenization-time, x-total-time"
)


def check_key(call: Call, wanted: SecretStr | None) -> None:
    """Check that the call carries the key, as `Authorization: Bearer …` or `X-API-Key: …`, or none is set.

    Raises:
        BadRequest: 401, the key is missing or wrong.
    """
    if wanted is None:
        return
    found = call.header(b"x-api-key")
    if found is None:
        scheme, _, rest = (call.header(b"authorization") or b"").partition(b" ")
        found = rest.strip() if scheme.lower() == b"bearer" else b""
    if not hmac.compare_digest(found, wanted.get_secret_value().encode()):
        raise BadRequest(
            401,
            "API key missing or wrong: send it as Authorization: Bearer KEY or X-API-Key: KEY",
            "Unauthorized",
            close=True,
        )


def cors_headers(origin: bytes | None, origins: frozenset[str]) -> Headers:
    """Return the headers that let a page of an allowed origin read the answer, errors included; none for others."""
    if not origins:
        return []
    headers = [(b"vary", b"origin")]  # a cache must not give one origin's answer to another
    if _is_allowed(origin, origins):
        assert origin is not None, "it is allowed"
        headers += [(b"access-control-allow-origin", origin), (b"access-control-expose-headers", EXPOSED)]
    return headers


def preflight(call: Call, origins: frozenset[str]) -> Reply | None:
    """Return the answer to a browser's preflight request, or None when this is none or its origin is not allowed.

    A browser sends it without the key (https://fetch.spec.whatwg.org/#cors-preflight-fetch), so that it is answered
    before the key is checked. Any header may be sent: those that are unknown here have no effect.
    """
    if call.method != "OPTIONS" or call.header(b"access-control-request-method") is None:
        return None
    if not _is_allowed(call.header(b"origin"), origins):
        return None
    headers = [
        (b"access-control-allow-methods", METHODS),
        (b"access-control-allow-headers", call.header(b"access-control-request-headers") or REQUEST_HEADERS),
        (b"access-control-max-age", b"600"),
    ]
    return Reply(b"", 204, headers)


def _is_allowed(origin: bytes | None, origins: frozenset[str]) -> bool:
    return origin is not None and ("*" in origins or origin.decode("latin-1") in origins)
