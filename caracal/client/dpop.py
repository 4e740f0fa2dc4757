"""Shows servers which key one holds (RFC 9449), by what they have said of nonces and of the time.

Nothing here needs the cryptography of ``key.py``: who uses no key does not import it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from caracal import clock
from caracal.client.link import origin
from caracal.client.retry import http_date
from caracal.errors import CaracalError

if TYPE_CHECKING:
    from caracal.client.key import ClientKey

DPOP_TARGET_REQUIRED = "dpop_target_required"
USE_NONCE = "use_dpop_nonce"
SKEW_SECONDS = 10.0
"""Clocks that differ by less are taken for one."""
_INVALID_PROOF, _INVALID_ASSERTION = "invalid_dpop_proof", "access_denied"
_NONCE = re.compile(r"[!#-\[\]-~]{1,1024}")  # section 8.1, NQCHAR
_ERROR = re.compile(r'\bDPoP\b.*?\berror="([a-z_]{1,64})"', re.IGNORECASE)
_MAX_CHALLENGE = 4096
_Origin = tuple[str, str | None, int | None]
_WEB = {"ws": "http", "wss": "https"}  # a handshake is a GET


@dataclass(frozen=True, slots=True)
class Known:
    """What a proof is made by: the server's nonce, and how far its clock is ahead, in seconds."""

    nonce: str | None
    ahead: float


class Prover:
    """Makes proofs for servers by what they have said so far. Threads may share it.

    Each server has nonces of its own; of the time all of them are taken to know the same.

    Args:
        key: that tokens are bound to; None: they are bound to none.
        signs: whether the application proves itself by assertions, which are of their time too.
    """

    def __init__(self, key: ClientKey | None = None, *, signs: bool = False) -> None:
        self._key, self._signs = key, signs
        self._nonces: dict[_Origin, str] = {}
        self._ahead = 0.0

    @property
    def binds(self) -> bool:
        """Say whether tokens are bound to a key."""
        return self._key is not None

    def known(self, url: str) -> Known:
        """Return what a proof for the server of a URL would be made by."""
        return Known(self._nonces.get(_server(url)), self._ahead)

    def now(self) -> float:
        """Return the Unix seconds as the servers count them."""
        return clock.now().timestamp() + self._ahead

    def shown(
        self, method: str | None, url: str | None, token: str | None, htu: str | None = None
    ) -> dict[str, str]:
        """Return the headers by which a request shows its token, and the key that it is bound to.

        Args:
            method: of the request.
            url: where it is sent.
            token: None: the request carries none.
            htu: what the server calls itself there, if that is something else.

        Raises:
            CaracalError: ``dpop_target_required``, a proof is for one method and URL.
        """
        scheme = "Bearer" if self._key is None else "DPoP"
        headers = {} if token is None else {"Authorization": f"{scheme} {token}"}
        if self._key is None:
            return headers
        if not method or not url:
            said = "a bound token goes with a proof for one method and URL: name them"
            raise CaracalError(DPOP_TARGET_REQUIRED, said)
        proof = self._key.proof(
            method.upper(),
            _as_web(htu or url),
            now=self.now(),
            nonce=self.known(url).nonce,
            token=token,
        )
        return {**headers, "DPoP": proof}

    def learn(self, url: str, headers: Mapping[str, str]) -> None:
        """Remember the nonce of an answer, of a success too: it is for the next request."""
        if _NONCE.fullmatch(nonce := headers.get("dpop-nonce", "")):
            self._nonces[_server(url)] = nonce

    def learn_time(self, headers: Mapping[str, str]) -> None:
        """Remember by an answer's ``Date`` how far the server's clock is ahead of ours."""
        moment = http_date(headers.get("date", ""))
        if moment is None:
            return
        ahead = (moment - clock.now()).total_seconds()
        if abs(ahead - self._ahead) > SKEW_SECONDS:
            self._ahead = ahead if abs(ahead) > SKEW_SECONDS else 0.0

    def can_do_better(self, used: Known, url: str, code: str | None) -> bool:
        """Say whether a request that was refused with ``code`` may succeed with another proof.

        Args:
            used: what was known when it was made.
            url: where it was sent.
            code: the ``error`` of the refusal.
        """
        known = self.known(url)
        if code == USE_NONCE:
            return self.binds and known.nonce not in (None, used.nonce)
        of_time = (self.binds, _INVALID_PROOF), (self._signs, _INVALID_ASSERTION)
        return known.ahead != used.ahead and (True, code) in of_time


def challenge_of(headers: Mapping[str, str]) -> str | None:
    """Return the ``error`` of a DPoP challenge (RFC 9449, section 7.1)."""
    found = _ERROR.search(headers.get("www-authenticate", "")[:_MAX_CHALLENGE])
    return found[1].lower() if found else None


def _server(url: str) -> _Origin:
    return origin(_as_web(url))


def _as_web(url: str) -> str:
    scheme, colon, rest = url.partition(":")
    return f"{_WEB.get(scheme.lower(), scheme)}{colon}{rest}"
