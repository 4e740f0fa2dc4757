"""What ``caracal up`` makes of options and environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from caracal.cli.stack_settings import settings_of_stack, stack_json
from caracal.cli.up import default_port
from caracal.settings import SERVICES, Service, Settings

PORTS: dict[Service, int] = {
    "api": 11,
    "sts": 12,
    "coordinator": 13,
    "gateway": 14,
    "worker": 15,
}
SERVERS = {"DATABASE_URL": "postgresql://x@/y?host=/z", "REDIS_URL": "unix:///z/valkey.sock"}


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for field in Settings.model_fields:
        monkeypatch.delenv(field.upper(), raising=False)
        monkeypatch.delenv(f"{field.upper()}_FILE", raising=False)


def stack(tmp_path: Path) -> dict[Service, Settings]:
    return settings_of_stack(tmp_path / "keys", PORTS, SERVERS)


def test_defaults(tmp_path: Path) -> None:
    made = stack(tmp_path)
    for name, settings in made.items():
        assert settings.service == name
        assert settings.port == PORTS[name]
        assert settings.host == "127.0.0.1"
        assert settings.caracal_mode == "dev"
        assert settings.issuer_url == settings.sts_url == "http://127.0.0.1:12"
        assert settings.allow_private_upstreams == "loopback"
        assert settings.facts_hmac_key == made["api"].facts_hmac_key
        assert settings.database_url == SERVERS["DATABASE_URL"]
    assert made["api"].api_url == "http://127.0.0.1:11"
    assert made["gateway"].gateway_sts_hmac_key == made["sts"].gateway_sts_hmac_key
    assert len(made["api"].zone_kek) == 1


def test_environment_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ISSUER_URL", "https://issuer.example")
    monkeypatch.setenv("ALLOW_PRIVATE_UPSTREAMS", "false")
    monkeypatch.setenv("STREAMS_HMAC_KEY", f"{'ab' * 32},{'cd' * 32}")
    monkeypatch.setenv("CARACAL_ADMIN_TOKEN", "mine")
    (tmp_path / "kek").write_text("ef" * 32)
    monkeypatch.setenv("ZONE_KEK_FILE", str(tmp_path / "kek"))
    made = stack(tmp_path)
    assert made["gateway"].allow_private_upstreams == "false"
    assert made["api"].zone_kek == (b"\xef" * 32,)
    described = stack_json(made, tmp_path)
    assert described["issuer_url"] == "https://issuer.example"
    assert described["sts_url"] == "http://127.0.0.1:12"
    assert described["streams_hmac_key"] == f"{'ab' * 32},{'cd' * 32}"
    assert described["admin_token"] == "mine"
    assert described["zone_kek_file"] == str(tmp_path / "kek")


def test_port_base() -> None:
    assert [default_port(name, None) for name in SERVICES] == [3000, 8080, 4000, 8081, 9090]
    assert [default_port(name, 7000) for name in SERVICES] == [7000, 7001, 7002, 7003, 7004]
    assert [default_port(name, 0) for name in SERVICES] == [0] * 5
