"""Facts, decisions, refusals: one file an aggregate, no I/O. A new aggregate is a line here."""

from caracal.events.admin_token import AdminToken
from caracal.events.agent import Agent
from caracal.events.agent_service import AgentService
from caracal.events.application import Application
from caracal.events.audit_retention import AuditRetention
from caracal.events.base import Aggregate
from caracal.events.challenge import Challenge
from caracal.events.delegation import Delegation
from caracal.events.grant import Grant
from caracal.events.invocation import Invocation
from caracal.events.policy import Policy
from caracal.events.policy_set import PolicySet
from caracal.events.provider import Provider
from caracal.events.resource import Resource
from caracal.events.session import Session
from caracal.events.signing_key import SigningKey
from caracal.events.trusted_issuer import TrustedIssuer
from caracal.events.zone import Zone

AGGREGATES: tuple[type[Aggregate], ...] = (
    Zone,
    SigningKey,
    AdminToken,
    Application,
    Provider,
    TrustedIssuer,
    Resource,
    Policy,
    PolicySet,
    Grant,
    Session,
    Challenge,
    Agent,
    AgentService,
    Invocation,
    Delegation,
    AuditRetention,
)
