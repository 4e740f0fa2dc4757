"""Credential directives: the table of the contract, and everything that must not be forwarded."""

from __future__ import annotations

from typing import Any

import pytest

from caracal.services.gateway.credential import credential_headers
from caracal.services.gateway.refusals import Undeliverable

HOST = "api.example.com"


@pytest.mark.parametrize(
    ("directive", "headers"),
    [
        ({"auth_mode": "caracal_jwt"}, {"authorization": "Bearer M"}),
        (
            {"auth_mode": "caracal_jwt", "auth_header": "", "auth_scheme": ""},
            {"authorization": "Bearer M"},
        ),
        (
            {"auth_mode": "caracal_jwt", "auth_header": "X-Token", "auth_scheme": "Caracal"},
            {"x-token": "Caracal M"},
        ),
        (
            {"auth_mode": "caracal_jwt", "provider_token": "P"},
            {"authorization": "Bearer M"},
        ),
        (
            {"auth_mode": "provider_oauth", "provider_token": "P"},
            {"authorization": "Bearer P", "x-caracal-identity": "M"},
        ),
        (
            {"auth_mode": "provider_oauth", "provider_token": "P", "auth_scheme": "token"},
            {"authorization": "token P", "x-caracal-identity": "M"},
        ),
        (
            {
                "auth_mode": "provider_apikey",
                "provider_token": "P",
                "auth_header": "X-Api-Key",
                "auth_scheme": "",
            },
            {"x-api-key": "P", "x-caracal-identity": "M"},
        ),
        (
            {"auth_mode": "caracal_jwt", "allowed_hosts": ["x", "API.example.com"]},
            {"authorization": "Bearer M"},
        ),
    ],
)
def test_table(directive: dict[str, Any], headers: dict[str, str]) -> None:
    made = credential_headers(directive, "M", HOST)
    assert {name.decode(): value.decode() for name, value in made} == headers
    assert len(made) == len(headers)


@pytest.mark.parametrize(
    "directive",
    [
        {},
        {"auth_mode": None},
        {"auth_mode": "none"},
        {"auth_mode": ["caracal_jwt"]},
        {"auth_mode": "CARACAL_JWT"},
        {"auth_mode": "provider_oauth"},
        {"auth_mode": "provider_oauth", "provider_token": ""},
        {"auth_mode": "provider_apikey", "provider_token": None},
        {"auth_mode": "provider_apikey", "provider_token": 7},
        {"auth_mode": "provider_oauth", "provider_token": "P\r\nx: y"},
        {"auth_mode": "provider_oauth", "provider_token": "P\n"},
        {"auth_mode": "provider_oauth", "provider_token": "P\0"},
        {"auth_mode": "provider_oauth", "provider_token": "P", "auth_scheme": "a\nb"},
        {"auth_mode": "provider_oauth", "provider_token": "P", "auth_scheme": 7},
        {
            "auth_mode": "provider_oauth",
            "provider_token": "P",
            "auth_header": "X-Caracal-Identity",
        },
        {"auth_mode": "caracal_jwt", "auth_header": "a b"},
        {"auth_mode": "caracal_jwt", "auth_header": "a:b"},
        {"auth_mode": "caracal_jwt", "auth_header": "a\r\nb"},
        {"auth_mode": "caracal_jwt", "auth_header": "é"},
        {"auth_mode": "caracal_jwt", "auth_header": 7},
        {"auth_mode": "caracal_jwt", "auth_header": "Host"},
        {"auth_mode": "caracal_jwt", "auth_header": "Content-Length"},
        {"auth_mode": "caracal_jwt", "auth_header": "transfer-encoding"},
        {"auth_mode": "caracal_jwt", "allowed_hosts": []},
        {"auth_mode": "caracal_jwt", "allowed_hosts": ["example.com"]},
        {"auth_mode": "caracal_jwt", "allowed_hosts": "api.example.com"},
    ],
)
def test_nothing_is_forwarded(directive: dict[str, Any]) -> None:
    with pytest.raises(Undeliverable) as refused:
        credential_headers(directive, "M", HOST)
    assert (refused.value.status, refused.value.code) == (502, "internal_error")
    assert refused.value.reason
    assert "P" not in refused.value.description
