"""What is secret stays so: laws of splitting and merging a provider's configuration."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caracal.provider_config import Config, hidden_secret, is_secret, public_only, split

EXEMPT = (
    *("token_url", "token_uri", "token_endpoint", "token_endpoint_auth_method"),
    *("token_type", "allowed_token_hosts"),
)
SECRET = (
    *("secret", "client_secret", "SECRET", "password", "db_Password", "token", "refresh_token"),
    *("api_key", "apikey", "api-key", "X-API-Key", "private_key", "privateKey", "private-key"),
    *("credential", "credentials", "passphrase", "tokens", "Token_URL", "token_url2", "token_uris"),
)
PUBLIC = ("issuer", "scope", "api__key", "key", "pass", "header_name", "", *EXEMPT)

NAMES = st.one_of(
    st.sampled_from((*SECRET, *PUBLIC)),
    st.text(max_size=12),
    st.builds("{}{}{}".format, st.text(max_size=3), st.sampled_from(SECRET), st.text(max_size=3)),
)
VALUES = st.one_of(st.integers(), st.text(max_size=5), st.booleans(), st.lists(st.integers()))
GIVEN = st.dictionaries(NAMES, st.none() | VALUES, max_size=8)
CALLS = st.lists(st.tuples(GIVEN, GIVEN), max_size=5)

# The contract's own words, read a second time.
LOOKS_SECRET = re.compile(
    "(?i)secret|password|token|api[_-]?key|private[_-]?key|credential|passphrase"
)


def applied(before: Config, config_json: dict[str, Any], secret_config: dict[str, Any]) -> Config:
    """What a PATCH makes of a configuration; a POST is one of nothing."""
    return before.changed(split(config_json, secret_config, before.secret.keys()))


def after(calls: list[tuple[dict[str, Any], dict[str, Any]]]) -> Config:
    config = Config({}, {})
    for config_json, secret_config in calls:
        config = applied(config, config_json, secret_config)
    return config


@pytest.mark.parametrize("name", SECRET)
def test_names_of_secrets(name: str) -> None:
    assert is_secret(name)


@pytest.mark.parametrize("name", PUBLIC)
def test_names_of_what_is_public(name: str) -> None:
    assert not is_secret(name)


def test_the_parts() -> None:
    config_json = {"client_secret": 1, "token_url": 2, "issuer": 3, "scope": 4}
    parts = split(config_json, {"client_secret": 5, "scope": 6, "token_type": 7})
    assert parts == Config(
        {"token_url": 2, "issuer": 3}, {"client_secret": 5, "scope": 6, "token_type": 7}
    )


def test_what_is_sealed_stays_sealed_until_it_is_removed() -> None:
    sealed = after([({"issuer": 1}, {"issuer": "hush"}), ({"issuer": "still hush"}, {})])
    assert sealed == Config({}, {"issuer": "still hush"})
    assert after([({}, {"issuer": 1}), ({}, {"issuer": None}), ({"issuer": 2}, {})]) == Config(
        {"issuer": 2}, {}
    )
    assert after([({"a": 1}, {}), ({}, {"a": 2})]) == Config({}, {"a": 2})


@given(CALLS)
def test_nothing_secret_is_ever_public(calls: list[tuple[Any, Any]]) -> None:
    config = after(calls)
    for name in config.public:
        assert name in EXEMPT or not LOOKS_SECRET.search(name)
        assert name not in config.secret
    assert public_only(config.public) == config.public


@given(CALLS, GIVEN, GIVEN)
def test_all_of_secret_config_is_secret(calls: Any, config_json: Any, secret_config: Any) -> None:
    config = applied(after(calls), config_json, secret_config)
    for name, value in secret_config.items():
        assert config.secret.get(name) == value
    for name in config_json.keys() - secret_config.keys():
        where = config.secret if name in config.secret or is_secret(name) else config.public
        assert where.get(name) == config_json[name]


@given(CALLS, GIVEN, GIVEN)
def test_a_change_again_changes_nothing(calls: Any, config_json: Any, secret_config: Any) -> None:
    # A null in secret_config unseals the name, so the second time it may be given as public.
    names = {name for name, value in secret_config.items() if value is not None}
    secret_config = {name: secret_config[name] for name in names}
    once = applied(after(calls), config_json, secret_config)
    again = applied(once, config_json, secret_config)
    if None not in config_json.values():
        assert again == once


@given(CALLS)
def test_what_a_change_does_not_name_stays(calls: Any) -> None:
    before = after(calls)
    assert applied(before, {}, {}) == before
    config = applied(before, {"a name of its own": 1}, {})
    assert config == Config({**before.public, "a name of its own": 1}, before.secret)


@given(GIVEN, GIVEN, GIVEN)
def test_changes_merge_key_by_key(before: Any, first: Any, second: Any) -> None:
    for part in ("public", "secret"):

        def of(change: dict[str, Any], part: str = part) -> Config:
            return Config(**{"public": {}, "secret": {}, part: change})

        start = of({}).changed(of(before))
        assert None not in getattr(start, part).values()
        assert start.changed(of(first)).changed(of(second)) == start.changed(
            of({**first, **second})
        )


@given(st.recursive(VALUES, lambda v: st.lists(v) | st.dictionaries(NAMES, v), max_leaves=12))
def test_secrets_below_the_first_level_are_found(value: Any) -> None:
    path = hidden_secret({"a": value, "client_secret": {"token": 1}})
    assert (path is not None) == any(map(is_secret, names_in(value)))
    if path is not None:
        assert path[0] == "a"
        assert is_secret(path[-1])
        for step in path[1:]:
            value = value[int(step)] if isinstance(value, list) else value[step]


def names_in(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [*value, *(name for part in value.values() for name in names_in(part))]
    return [n for part in value for n in names_in(part)] if isinstance(value, list) else []
