"""What a refusal looks like to the client, and to the operator who counts."""

from __future__ import annotations

import logging

from caracal.errors import CaracalError
from caracal.jwk import ALGORITHMS
from caracal.services.gateway.checks import Known
from caracal.services.gateway.counters import Counters
from caracal.services.gateway.metadata import metadata_url
from caracal.services.gateway.refusals import ExchangeRefused, SenderUnproven, Undeliverable
from caracal.services.http import Header, Scope, error_headers, public_base

logger = logging.getLogger(__name__)


def count(counters: Counters, refusal: CaracalError, known: Known) -> None:
    """Count a refusal by its row (contract, section 4)."""
    if isinstance(refusal, Undeliverable):
        logger.warning("not delivered: %s", refusal.reason)
    counter = getattr(refusal, "counter", _by_code(refusal, known))
    if counter is not None:
        counters.add(counter)


def _by_code(refusal: CaracalError, known: Known) -> str | None:
    if refusal.code == "state_stale":  # row 12, wherever it is noticed
        return "denials_revoked"
    return "upstream_errors" if known.passed else None


def refusal_headers(
    scope: Scope, refusal: CaracalError, known: Known, gateway_url: str
) -> list[Header]:
    """Return what the answer of a refusal has above its body: how and when to try again."""
    if refusal.status == 401:
        url = metadata_url(public_base(scope, gateway_url), known.zone_id, known.resource)
        return [(b"www-authenticate", each) for each in _challenges(refusal, known, url)]
    if isinstance(refusal, ExchangeRefused) and refusal.status in (429, 503):
        return [(b"retry-after", b"%d" % max(1, refusal.retry_after))]
    return error_headers(refusal)


def _challenges(refusal: CaracalError, known: Known, url: str) -> list[bytes]:
    """How to authenticate (RFC 6750, section 3; RFC 9728, section 5.1; RFC 9449, section 7.1)."""
    if isinstance(refusal, SenderUnproven):
        algs = " ".join(ALGORITHMS)
        return [f'DPoP resource_metadata="{url}", error="{refusal.code}", algs="{algs}"'.encode()]
    metadata = f'Bearer resource_metadata="{url}"'
    if refusal.code != "interaction_required":
        return [metadata.encode()]
    scope = f', scope="{known.scope}"' if known.scope else ""
    return [
        f'{metadata}, error="interaction_required"'.encode(),
        f'{metadata}, error="insufficient_scope"{scope}'.encode(),
    ]
