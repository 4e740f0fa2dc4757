"""One HTTP request of the token endpoint, as far as it was read."""

from __future__ import annotations

from dataclasses import dataclass, replace

from caracal import clock
from caracal.errors import Unauthenticated
from caracal.services import gateway_signature
from caracal.services.http import Scope
from caracal.services.sts.refusals import bad_gateway_signature
from caracal.services.sts.token_request import TokenRequest
from caracal.services.windows import caller_of


@dataclass(frozen=True, slots=True)
class Call:
    """A request with its form; ``nonce`` once the Gateway's signature was verified."""

    scope: Scope
    body: bytes
    request: TokenRequest
    nonce: str | None = None

    @property
    def request_id(self) -> str:
        """Return the id of the request."""
        return str(self.scope["state"]["request_id"])

    @property
    def address(self) -> str:
        """Return what the client's address counts as where failures are limited."""
        return caller_of(self.scope)

    @property
    def proofs(self) -> list[bytes]:
        """Return the values of its ``DPoP`` headers."""
        return [value for name, value in self.scope["headers"] if name == b"dpop"]

    @property
    def by_gateway(self) -> bool:
        """Say whether the Gateway signed it."""
        return self.nonce is not None

    def verified(self, keys: tuple[bytes, ...]) -> Call:
        """Return the call with the nonce that the Gateway signed, if it did (section 6).

        Row 0c of the validation order, but for the use of the nonce: that is settled with the
        evidence. Of ``keys`` the first signs, all verify.

        Raises:
            Refused: 401 ``access_denied``, a signature is there and does not fit.
        """
        for key in keys[:-1]:
            try:
                return self._verified(key)
            except Unauthenticated:
                continue
        try:
            return self._verified(keys[-1] if keys else None)
        except Unauthenticated as error:
            raise bad_gateway_signature(error) from None

    def _verified(self, key: bytes | None) -> Call:
        nonce = gateway_signature.verify(
            key,
            self.scope["headers"],
            request_id=self.request_id,
            method=self.scope["method"],
            path=self.scope["raw_path"].decode("latin-1"),
            body=self.body,
            now=clock.now().timestamp(),
        )
        return self if nonce is None else replace(self, nonce=nonce)
