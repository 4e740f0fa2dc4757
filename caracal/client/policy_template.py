"""``client.policy_templates``."""

from __future__ import annotations

from typing import TypedDict

from caracal.client.call import Call, Listing, api, listing, page
from caracal.client.method import D, Namespace, many, one


class PolicyTemplate(TypedDict):
    """A policy to begin with."""

    id: str
    name: str
    description: str
    content: str


class PolicyTemplates(Namespace[D]):
    """Policy templates of the product.

    >>> client.policy_templates.get("role-based")["content"]
    """

    @many
    def list(
        self, *, limit: int | None = None, cursor: str | None = None
    ) -> Listing[PolicyTemplate]:
        """List the templates."""
        return listing(api("GET", "policy-templates", query=page(limit, cursor)), limit)

    list_page, iter = list.by_page(), list.each()

    @one
    def get(self, id: str) -> Call[PolicyTemplate]:
        """Show a template."""
        return api("GET", "policy-templates", id)
