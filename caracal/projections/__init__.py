"""Read models: one file each, table, reducers, queries. A new read model is a line here."""

from caracal.projections.admin_audit_event import admin_audit
from caracal.projections.admin_token import admin_tokens
from caracal.projections.agent import agents
from caracal.projections.agent_service import agent_services
from caracal.projections.application import applications
from caracal.projections.audit_retention import audit_retentions
from caracal.projections.challenge import challenges
from caracal.projections.delegation import delegations
from caracal.projections.grant import grants
from caracal.projections.invocation import invocations
from caracal.projections.policy import policies
from caracal.projections.policy_set import policy_sets
from caracal.projections.projection import Projection
from caracal.projections.provider import providers
from caracal.projections.provider_authorization import provider_authorizations
from caracal.projections.resource import resources
from caracal.projections.revocation import revocations
from caracal.projections.session import sessions
from caracal.projections.signing_key import signing_keys
from caracal.projections.trusted_issuer import trusted_issuers
from caracal.projections.zone import zones

PROJECTIONS: tuple[Projection, ...] = (
    zones,
    signing_keys,
    admin_tokens,
    applications,
    providers,
    trusted_issuers,
    resources,
    policies,
    policy_sets,
    grants,
    provider_authorizations,
    sessions,
    challenges,
    agents,
    agent_services,
    invocations,
    delegations,
    revocations,
    audit_retentions,
    admin_audit,
)
