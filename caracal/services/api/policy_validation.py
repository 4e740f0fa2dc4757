"""Checks a policy without storing it: ``POST /v1/policies/validate``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel

from caracal.policy.check import advice_on
from caracal.policy.input_schema import INPUT_SCHEMA_VERSION, OUTPUT_CONTRACT
from caracal.services.api.codes import refuses
from caracal.services.api.policy import PolicyVersionInput
from caracal.services.api.policy_contract import check_schema_version

router = APIRouter(prefix="/v1/policies", tags=["policies"])


class Validation(BaseModel):
    valid: Literal[True] = True
    schema_version: str
    input_schema_version: str = INPUT_SCHEMA_VERSION
    output_contract: Mapping[str, Any] = OUTPUT_CONTRACT
    warnings: list[str]
    """Words for programs, some with the place after a colon; nothing here is refused."""


@router.post("/validate")
@refuses("invalid_rego", "invalid_schema_version")
async def validate(body: PolicyVersionInput) -> Validation:
    """Say whether a policy may be stored, and what about it is hardly meant. Stores nothing."""
    check_schema_version(body.schema_version)
    return Validation(schema_version=body.schema_version, warnings=await advice_on(body.content))
