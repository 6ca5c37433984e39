"""Who may use the service, where the settings name tokens."""

from __future__ import annotations

import hmac

from maskfer.config import Settings


def allowed(token: str | None, settings: Settings) -> bool:
    """Whether `token` is one of the settings' tokens; everybody is allowed where there are none."""
    if not settings.api_tokens:
        return True
    given = _bytes(token or "")
    # Every token is compared, each in constant time: how long it takes says nothing about them.
    matches = [hmac.compare_digest(given, _bytes(known.get_secret_value())) for known in settings.api_tokens]
    return any(matches)


def _bytes(token: str) -> bytes:
    # JSON may carry half a character, which UTF-8 alone refuses to encode.
    return token.encode("utf-8", "surrogatepass")
