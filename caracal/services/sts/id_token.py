"""What must be true of an id_token (OpenID Connect Core 1.0, section 3.1.3.7), and what it tells.

Pure. The signature is somebody else's matter; here nothing is fetched and nothing remembered.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any

import orjson

from caracal.events.trusted_issuer import MAX_AGE_SECONDS
from caracal.foreign_jwt import ForeignJwt, taken_apart
from caracal.mandate import Claims, decode_base64url, numeric_date
from caracal.projections.memory import Row
from caracal.services.sts.token_request import is_flat

LEEWAY = 60
"""Seconds between the issuer's clock and ours."""
MAX_BYTES = 16 * 1024
MAX_MAPPED_BYTES = 2048
_MAPPED_LEVELS = 4
_MAX_SUBJECT = 255
_TYPES = (None, "jwt")  # never an access token or a logout token that says that it is one


class Unacceptable(Exception):
    """The token is not taken. The text is for the audit trail, and has nothing of the token."""


@dataclass(frozen=True, slots=True)
class Told:
    """What an acceptable id_token tells.

    Attributes:
        subject: what the issuer calls the user.
        authenticated_at: when the user signed in, Unix seconds.
        usable_until: when it is too old for another session whatever the rules become, Unix
            seconds.
        mapped: claims that policies see.
    """

    subject: str
    authenticated_at: int
    usable_until: int
    mapped: Mapping[str, Any]


def read(token: str) -> ForeignJwt:
    """Return the parts of an id_token; nothing in them is proven.

    Raises:
        Unacceptable: malformed, too large, of another type, or of an algorithm that we do not take.
    """
    parts = taken_apart(token, _TYPES, MAX_BYTES)
    if parts is None:
        raise Unacceptable("form, type or algorithm")
    header, _, payload = parts.signed.partition(b".")
    if not (_is_unique(header) and _is_unique(payload)):
        raise Unacceptable("a member is there twice")
    return parts


def issuer_of(token: ForeignJwt) -> str:
    """Return who the token says has made it; empty without."""
    issuer = token.claims.get("iss")
    return issuer if isinstance(issuer, str) else ""


def key_id_of(token: ForeignJwt) -> str:
    """Return the id of the key that has signed it; keys that it brings along are not looked at.

    Raises:
        Unacceptable: it names none.
    """
    kid = token.header.get("kid")
    if not isinstance(kid, str) or not kid:
        raise Unacceptable("no kid")
    return kid


def told(token: ForeignJwt, rules: Row, now: float) -> Told:
    """Return what the token tells, if the trusted issuer's ``rules`` let it; ``now``: Unix seconds.

    Raises:
        Unacceptable: one of its claims.
    """
    claims = token.claims
    _check(issuer_of(token) == rules["issuer"], "iss")
    _check_audience(claims, rules["audiences"])
    _check("events" not in claims, "events: a logout token")
    until = _usable_until(claims, rules["max_age_seconds"], now)
    for name, value in rules["required_claims"].items():
        _check(name in claims and _equal(claims[name], value), f"required claim {name}")
    subject = _subject(claims, rules["subject_claim"])
    return Told(subject, _authenticated_at(claims, now), until, _mapped(claims, rules))


def _check(holds: bool, reason: str) -> None:
    if not holds:
        raise Unacceptable(reason)


def _check_audience(claims: Claims, accepted: list[str]) -> None:
    """Items 3 to 5: for us, for nobody whom we do not trust, and asked for by one of us."""
    given, party = claims.get("aud"), claims.get("azp")
    named = given if isinstance(given, list) else [given]
    known = all(isinstance(one, str) and one in accepted for one in named)
    _check(bool(named) and known, "aud")
    _check(party is not None or len(named) == 1, "azp: missing, with several audiences")
    _check(party is None or (isinstance(party, str) and party in accepted), "azp")


def _usable_until(claims: Claims, max_age: int, now: float) -> int:
    """Items 9 and 10; return when the token is too old by any rules, Unix seconds."""
    expires, issued = numeric_date(claims, "exp"), numeric_date(claims, "iat")
    if expires is None or not now < expires + LEEWAY:
        raise Unacceptable("exp")
    if issued is None or not issued <= now + LEEWAY:
        raise Unacceptable("iat")
    begins = numeric_date(claims, "nbf") if "nbf" in claims else 0
    _check(begins is not None and begins <= now + LEEWAY, "nbf")
    _check(now < issued + max_age + LEEWAY, "iat: too old")
    return ceil(min(expires, issued + MAX_AGE_SECONDS)) + LEEWAY


def _authenticated_at(claims: Claims, now: float) -> int:
    """When the user signed in; where the issuer does not tell, when it made the token."""
    name = "auth_time" if "auth_time" in claims else "iat"
    moment = numeric_date(claims, name)
    if moment is None or not 0 <= moment <= now + LEEWAY:
        raise Unacceptable(name)
    return int(min(moment, now))


def _subject(claims: Claims, name: str) -> str:
    """Section 2: a ``sub`` is needed, whatever names the user."""
    subject, own = claims.get(name), claims.get("sub")
    _check(isinstance(own, str) and bool(own), "sub")
    if not isinstance(subject, str) or not 0 < len(subject) <= _MAX_SUBJECT:
        raise Unacceptable(f"subject claim {name}")
    _check(subject.isprintable(), f"subject claim {name}")
    # Section 5.7: an address is no name of a user, and one that is not verified is anybody's.
    _check(name != "email" or claims.get("email_verified") is True, "email_verified")
    return subject


def _mapped(claims: Claims, rules: Row) -> dict[str, Any]:
    mapped = {name: claims[name] for name in rules["mapped_claims"] if name in claims}
    fits = is_flat(mapped, _MAPPED_LEVELS) and len(orjson.dumps(mapped)) <= MAX_MAPPED_BYTES
    _check(fits, f"mapped claims: over {MAX_MAPPED_BYTES} bytes, or nested too deep")
    return mapped


def _equal(given: Any, wanted: Any) -> bool:
    """To Python, true is 1; to who has written the rule it is not."""
    return type(given) is type(wanted) and bool(given == wanted)


def _is_unique(segment: bytes) -> bool:
    """Say whether no member stands twice: two readers could read two tokens (RFC 7519, section 4).

    The segment was read before: it is JSON, of a bounded length.
    """

    def pairs(members: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(members)
        if len(found) != len(members):
            raise ValueError("a member is there twice")
        return found

    try:
        json.loads(decode_base64url(segment), object_pairs_hook=pairs)
    except (ValueError, RecursionError):
        return False
    return True
