"""The form of ``POST /oauth/2/token`` (RFC 8693, section 2.1; contract, section 3)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote_plus, unquote_to_bytes

import orjson

from caracal.errors import UnsupportedMedia
from caracal.services.sts.refusals import bad_request

GRANT_TYPE = "urn:ietf:params:oauth:grant-type:token-exchange"
ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"  # noqa: S105  a type, no secret
ID_TOKEN = "urn:ietf:params:oauth:token-type:id_token"  # noqa: S105
MAX_BODY = 64 * 1024
MAX_RESOURCES = 256
MAX_SCOPES = 256
MAX_CALL_CONTEXT = 8 * 1024
_MAX_DEPTH = 32  # of the call context: far below what the engine and the ledger can write

TOKEN_TYPES = ("", ACCESS_TOKEN, "urn:ietf:params:oauth:token-type:jwt")
"""Of actors; subjects may also be users with an :data:`ID_TOKEN`."""
SUBJECT_TYPES = (*TOKEN_TYPES, ID_TOKEN)
_ENCODED = {quote_plus(name): name for name in (GRANT_TYPE, *SUBJECT_TYPES)}  # sent in each form
_SECONDS = re.compile(r"[0-9]{1,999}")
_REPEATABLE = "resource"


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """What the caller asks for; an empty text is a field that was not sent."""

    zone_id: str
    application_id: str
    client_secret: str
    client_assertion: str
    client_assertion_type: str
    resources: tuple[str, ...]
    scopes: tuple[str, ...]
    subject_token: str
    subject_token_type: str
    actor_token: str
    session_id: str
    agent_session_id: str
    delegation_edge_id: str
    challenge_id: str
    challenge_response: str
    call_context: str
    dpop_jkt: str
    ttl_seconds: int

    @property
    def is_login(self) -> bool:
        """Say whether the subject token is an id_token."""
        return self.subject_token_type == ID_TOKEN


def read(body: bytes, content_type: bytes) -> TokenRequest:
    """Read the form of the token endpoint.

    Raises:
        UnsupportedMedia: 415, not ``application/x-www-form-urlencoded``.
        BadInput: 400 ``invalid_token``, row 0b of the validation order.
    """
    fields, repeated = read_form(body, content_type)
    _check_types(fields)
    return request_of(fields, repeated)


def read_form(body: bytes, content_type: bytes) -> tuple[Mapping[str, str], Iterable[str]]:
    """Return the single fields of a form, and the values of the one that may be repeated.

    Raises:
        UnsupportedMedia: 415, not ``application/x-www-form-urlencoded``.
        BadInput: 400 ``invalid_token``, unreadable, or a field is there more than once.
    """
    if content_type.partition(b";")[0].strip().lower() != b"application/x-www-form-urlencoded":
        raise UnsupportedMedia("unsupported_media_type", "the body must be a form")
    pairs = _pairs(body)
    return _single(pairs), (value for name, value in pairs if name == _REPEATABLE)


def request_of(fields: Mapping[str, str], repeated: Iterable[str] = ()) -> TokenRequest:
    """Return the request that a form makes.

    Raises:
        BadInput: 400 ``invalid_token``, too many resources or scopes, no number of seconds.
    """
    resources = dict.fromkeys(value for value in repeated if value)
    if len(resources) > MAX_RESOURCES:
        raise bad_request(f"at most {MAX_RESOURCES} resources")
    scopes = dict.fromkeys(fields.get("scope", "").split())
    if len(scopes) > MAX_SCOPES:
        raise bad_request(f"at most {MAX_SCOPES} scopes")
    return TokenRequest(
        zone_id=fields.get("zone_id", "").strip(),
        application_id=fields.get("application_id", "").strip(),
        client_secret=fields.get("client_secret", ""),
        client_assertion=fields.get("client_assertion", ""),
        client_assertion_type=fields.get("client_assertion_type", ""),
        resources=tuple(resources),
        scopes=tuple(scopes),
        subject_token=fields.get("subject_token", ""),
        subject_token_type=fields.get("subject_token_type", ""),
        actor_token=fields.get("actor_token", ""),
        session_id=fields.get("session_id", ""),
        agent_session_id=fields.get("agent_session_id", ""),
        delegation_edge_id=fields.get("delegation_edge_id", ""),
        challenge_id=fields.get("challenge_id", ""),
        challenge_response=fields.get("challenge_response", ""),
        call_context=fields.get("call_context", ""),
        dpop_jkt=fields.get("dpop_jkt", ""),
        ttl_seconds=_seconds(fields.get("ttl_seconds", "")),
    )


def read_call_context(text: str) -> dict[str, Any] | None:
    """Return those of ``http`` and ``mcp`` that a signed Gateway call tells; None: nothing.

    Raises:
        BadInput: 400 ``invalid_token``, too long or of another form.
    """
    if len(text) > MAX_CALL_CONTEXT:
        raise bad_request("call_context too large")
    try:
        given = orjson.loads(text) if text else {}
    except orjson.JSONDecodeError:
        raise bad_request("call_context is not JSON") from None
    found = {name: given.get(name) for name in ("http", "mcp")} if isinstance(given, dict) else None
    if found is None or not all(isinstance(item, dict | None) for item in found.values()):
        raise bad_request("call_context is not an object of objects")
    if not is_flat(found, _MAX_DEPTH):
        raise bad_request("call_context nests too deep")
    return {name: item for name, item in found.items() if item is not None} or None


def is_flat(value: Any, levels: int) -> bool:
    """Say whether ``value`` nests at most ``levels`` deep."""
    if not isinstance(value, dict | list):
        return True
    inner = value.values() if isinstance(value, dict) else value
    return levels > 0 and all(is_flat(item, levels - 1) for item in inner)


def _pairs(body: bytes) -> list[tuple[str, str]]:
    if not body:
        return []
    try:
        return [_pair(part) for part in body.decode("ascii").split("&")]
    except ValueError:
        raise bad_request("the form cannot be read") from None


def _pair(part: str) -> tuple[str, str]:
    """Read one field (URL standard, section 5.1); a part without ``=`` is none."""
    name, equals, value = part.partition("=")
    if not equals:
        raise ValueError("no name=value")
    return _plain(name), _plain(value)


def _plain(text: str) -> str:
    """Decode; what is ASCII needs no search for what is not, as ``unquote_plus`` does it."""
    if "%" not in text and "+" not in text:
        return text
    return _ENCODED.get(text) or unquote_to_bytes(text.replace("+", " ")).decode()


def _single(pairs: Iterable[tuple[str, str]]) -> Mapping[str, str]:
    """RFC 6749, section 3.2: parameters must not be included more than once."""
    fields: dict[str, str] = {}
    for name, value in pairs:
        if name == _REPEATABLE:
            continue
        if name in fields:
            raise bad_request("a field is there more than once")
        fields[name] = value
    return fields


def _check_types(fields: Mapping[str, str]) -> None:
    if fields.get("grant_type", "") not in ("", GRANT_TYPE):
        raise bad_request("unsupported grant_type")
    for name, types in (("subject_token_type", SUBJECT_TYPES), ("actor_token_type", TOKEN_TYPES)):
        if fields.get(name, "") not in types:
            raise bad_request(f"unsupported {name}")
    if fields.get("subject_token_type") == ID_TOKEN and not fields.get("subject_token"):
        raise bad_request("subject_token is needed")


def _seconds(text: str) -> int:
    if not text:
        return 0
    if not _SECONDS.fullmatch(text):
        raise bad_request("invalid ttl_seconds")
    return int(text)
