from __future__ import annotations

import re

import pytest

from caracal import secret_hash


def test_a_random_secret_is_kept_as_sha256() -> None:
    stored = secret_hash.of_random("cs_abc")
    digest = "0" * 64
    assert re.fullmatch(r"sha256\$[0-9a-f]{64}", stored)
    assert not secret_hash.is_slow(stored)
    assert secret_hash.verify(stored, "cs_abc")
    assert not secret_hash.verify(stored, "cs_abd")
    assert not secret_hash.verify(f"sha256${digest}", "cs_abc")


def test_a_chosen_secret_is_kept_as_argon2id_with_a_salt_of_its_own() -> None:
    one, other = secret_hash.of_chosen("käse"), secret_hash.of_chosen("käse")
    assert one != other
    assert re.fullmatch(r"argon2id\$[A-Za-z0-9+/]{22}\$[A-Za-z0-9+/]{43}", one)
    assert secret_hash.is_slow(one)
    assert secret_hash.verify(one, "käse")
    assert not secret_hash.verify(one, "kase")


def test_the_parameters_of_argon2id() -> None:
    """As ``argon2`` makes it with t=3, m=64 MiB, p=2 and the salt of sixteen letters ``s``."""
    stored = "argon2id$c3Nzc3Nzc3Nzc3Nzc3Nzcw$gV7OG9f6Rh4LYy4MwYJaxmVP8qj3vclaVBxMwclZb8c"
    assert secret_hash.verify(stored, "password")


@pytest.mark.parametrize(
    "stored", ["", "sha256$", "sha256$ABC", "argon2id$a$b", "$argon2id$v=19$m=65536,t=3,p=2$x$y"]
)
def test_a_form_that_cannot_be_read_is_never_right(stored: str) -> None:
    assert secret_hash.is_slow(stored)
    assert not secret_hash.verify(stored, "")
