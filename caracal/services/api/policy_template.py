"""Policies to begin with: ``/v1/policy-templates``, open to everybody."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict

from caracal.errors import NotFound
from caracal.policy.templates import templates
from caracal.services.api.codes import refuses
from caracal.services.path import PathId

router = APIRouter(prefix="/v1/policy-templates", tags=["policy templates"])


class TemplateAnswer(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: str
    name: str
    description: str
    content: str


@router.get("")
@refuses()
async def list_() -> list[TemplateAnswer]:
    """List the policy templates; each is whole, and passes the check of an upload."""
    return [TemplateAnswer.model_validate(template) for template in templates().values()]


@router.get("/{template_id}")
@refuses("policy_template_not_found")
async def get(template_id: PathId) -> TemplateAnswer:
    """Show a policy template."""
    if (template := templates().get(template_id)) is None:
        raise NotFound("policy_template_not_found", f"there is no policy template {template_id!r}")
    return TemplateAnswer.model_validate(template)
