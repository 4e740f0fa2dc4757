"""``caracal provider``: whose credentials the Gateway brings to resources."""

from __future__ import annotations

from caracal.cli.collection import Field, Things
from caracal.cli.command import group
from caracal.cli.given import Json

PROVIDERS = Things(
    noun="provider",
    namespace="providers",
    columns=("id", "identifier", "name", "kind", "client_id", "secret_config_keys", "created_at"),
    fields=(
        Field("identifier", str, "Its short name.", needed=True),
        Field(
            "kind",
            str,
            "none, caracal_mandate, bearer_token, api_key, oauth2_client_credentials,"
            " oauth2_authorization_code; or free: oauth2, oidc, apikey, workload.",
            needed=True,
        ),
        Field("name", str, "What people call it; the identifier when absent."),
        Field("owner_type", str, "Whose it is."),
        Field("client_id", str, "Who we are to it.", null=True),
        Field("config_json", Json, "Its public settings; a change merges.", option="config"),
        Field(
            "secret_config",
            Json,
            "Its secrets, sealed and never shown; a change merges, null removes.",
        ),
    ),
    ending="its secrets are erased, and resources with it get no credential.",
)

provider = group()
PROVIDERS.add(provider, "list", "get", "create", "patch", "delete")
