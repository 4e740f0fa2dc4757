"""What a user is called here: a pseudonym that only the zone's own key can make.

The log, the topics and the tokens name users by it, so none of them tells who somebody is, nor lets
anybody try names until one fits. The key is in the vault and erased with the zone; then nobody can
say any more whom a pseudonym stood for.
"""

from __future__ import annotations

import hmac
from hashlib import sha256

from caracal.mandate import encode_base64url

_PURPOSE = b"caracal user id"


def user_id_of(data_key: bytes, issuer: str, subject: str, claim: str = "sub") -> str:
    """Return the id of a user: of a zone's data key, an issuer's URL and its name for the user.

    The same for the same, always, and only for it: none of them has a NUL, and where another claim
    than ``sub`` has the name, that is part of it. What a user may choose, such as an address, is
    never taken for what the issuer calls another user.
    """
    named = (subject,) if claim == "sub" else (subject, claim)
    text = b"\x00".join((_PURPOSE, issuer.encode(), *(part.encode() for part in named)))
    return f"usr_{encode_base64url(hmac.digest(data_key, text, sha256)).decode()}"
