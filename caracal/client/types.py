"""What methods take and answer: plain dicts, with their members named for type checkers.

Answers may have members beyond these, from a newer server; they are kept.
"""

from __future__ import annotations

from caracal.client.acting import (
    CreatedDelegationEdge,
    DelegationConstraints,
    EffectiveDelegation,
)
from caracal.client.admin_audit import AdminAuditEvent, AdminAuditQuery
from caracal.client.admin_token import AdminToken, AdminTokenInput, Capability
from caracal.client.agent import AgentKind, AgentSession, EffectiveAuthority, Resumed, Suspended
from caracal.client.ambient import IssuedToken
from caracal.client.application import (
    Application,
    ApplicationInput,
    ApplicationPatch,
    CredentialType,
    DCRInput,
    RegistrationMethod,
)
from caracal.client.audit import (
    AuditDenial,
    AuditDetail,
    AuditEvent,
    AuditExplanation,
    AuditQuery,
    AuditReplay,
    AuditRetention,
    NotReplayed,
    ReplayedDecision,
    ReplayResult,
)
from caracal.client.client import LocalBootstrapResult
from caracal.client.delegation import (
    ActiveDelegationEdge,
    DelegationEdge,
    DelegationImpact,
    RevokedDelegation,
    TraverseNode,
)
from caracal.client.grant import Grant, GrantInput, GrantQuery, GrantStatus
from caracal.client.policy import (
    Policy,
    PolicyInput,
    PolicyValidation,
    PolicyVersion,
    PolicyWithVersion,
    PolicyWithVersions,
)
from caracal.client.policy_set import (
    Activation,
    ActivationStatus,
    Explanation,
    ManifestItem,
    Obstacle,
    PolicySet,
    PolicySetVersion,
    SimulatedPolicy,
    Simulation,
    StsReplica,
    TopicState,
)
from caracal.client.policy_template import PolicyTemplate
from caracal.client.provider import Provider, ProviderInput, ProviderKind, ProviderPatch
from caracal.client.provider_grant import (
    ProviderAuthorization,
    ProviderGrant,
    ProviderGrantInput,
    RevokedProviderGrant,
)
from caracal.client.resource import RateLimit, Resource, ResourceInput, ResourcePatch
from caracal.client.session import Session, SessionQuery, SessionStatus
from caracal.client.step_up_challenge import SatisfiedChallenge, StepUpChallenge
from caracal.client.trusted_issuer import (
    TrustedIssuer,
    TrustedIssuerInput,
    TrustedIssuerPatch,
    UserId,
)
from caracal.client.zone import DcrStatus, RotatedSigningKey, Zone, ZoneInput, ZonePatch

__all__ = [
    "Activation",
    "ActivationStatus",
    "ActiveDelegationEdge",
    "AdminAuditEvent",
    "AdminAuditQuery",
    "AdminToken",
    "AdminTokenInput",
    "AgentKind",
    "AgentSession",
    "Application",
    "ApplicationInput",
    "ApplicationPatch",
    "AuditDenial",
    "AuditDetail",
    "AuditEvent",
    "AuditExplanation",
    "AuditQuery",
    "AuditReplay",
    "AuditRetention",
    "Capability",
    "CreatedDelegationEdge",
    "CredentialType",
    "DCRInput",
    "DcrStatus",
    "DelegationConstraints",
    "DelegationEdge",
    "DelegationImpact",
    "EffectiveAuthority",
    "EffectiveDelegation",
    "Explanation",
    "Grant",
    "GrantInput",
    "GrantQuery",
    "GrantStatus",
    "IssuedToken",
    "LocalBootstrapResult",
    "ManifestItem",
    "NotReplayed",
    "Obstacle",
    "Policy",
    "PolicyInput",
    "PolicySet",
    "PolicySetVersion",
    "PolicyTemplate",
    "PolicyValidation",
    "PolicyVersion",
    "PolicyWithVersion",
    "PolicyWithVersions",
    "Provider",
    "ProviderAuthorization",
    "ProviderGrant",
    "ProviderGrantInput",
    "ProviderInput",
    "ProviderKind",
    "ProviderPatch",
    "RateLimit",
    "RegistrationMethod",
    "ReplayResult",
    "ReplayedDecision",
    "Resource",
    "ResourceInput",
    "ResourcePatch",
    "Resumed",
    "RevokedDelegation",
    "RevokedProviderGrant",
    "RotatedSigningKey",
    "SatisfiedChallenge",
    "Session",
    "SessionQuery",
    "SessionStatus",
    "SimulatedPolicy",
    "Simulation",
    "StepUpChallenge",
    "StsReplica",
    "Suspended",
    "TopicState",
    "TraverseNode",
    "TrustedIssuer",
    "TrustedIssuerInput",
    "TrustedIssuerPatch",
    "UserId",
    "Zone",
    "ZoneInput",
    "ZonePatch",
]
