"""Settings: every rule of the contract, by what a person would see."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from caracal.errors import StartError
from caracal.settings import PORTS, SERVICES, Service, Settings, load_settings

KEY_A, KEY_B = "aa" * 32, "bb" * 32
BASE = {
    "DATABASE_URL": "postgresql://caracal:pass-of-db@/caracal?host=%2Ftmp%2Fx",
    "REDIS_URL": "unix://:pass-of-redis@/tmp/x/valkey.sock?db=3",
    "ISSUER_URL": "http://127.0.0.1:8080",
    "STS_URL": "http://127.0.0.1:8080/",
    "ZONE_KEK": KEY_A,
    "SIEM_SINK_URL": "https://siem.example/in?key=secret-of-sink",
}
DEV = BASE | {"CARACAL_MODE": "dev"}
KEYS = {
    "FACTS_HMAC_KEY": KEY_A,
    "STREAMS_HMAC_KEY": KEY_B,
    "AUDIT_HMAC_KEY": KEY_A,
    "GATEWAY_STS_HMAC_KEY": KEY_A,
}
RUNTIME = BASE | KEYS


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for field in Settings.model_fields:
        monkeypatch.delenv(field.upper(), raising=False)
        monkeypatch.delenv(f"{field.upper()}_FILE", raising=False)
    monkeypatch.delenv("CARACAL_ENV", raising=False)


@pytest.fixture
def tls(tmp_path: Path) -> dict[str, str]:
    for name in ("cert", "key"):
        (tmp_path / name).write_text("pem")
    return {"TLS_CERT_FILE": str(tmp_path / "cert"), "TLS_KEY_FILE": str(tmp_path / "key")}


def refusal(service: Service, given: dict[str, str]) -> str:
    with pytest.raises(StartError) as caught:
        load_settings(service, given)
    return caught.value.description


@pytest.mark.parametrize(
    ("service", "port", "grace", "statement"),
    [
        ("api", 3000, 15000, 15000),
        ("sts", 8080, 10000, 15000),
        ("coordinator", 4000, 15000, 10000),
        ("gateway", 8081, 25000, 15000),
        ("worker", 9090, 15000, 15000),
        ("siem", 9091, 15000, 15000),
    ],
)
def test_each_service_has_its_defaults(
    service: Service, port: int, grace: int, statement: int
) -> None:
    settings = load_settings(service, DEV)
    assert settings.service == service
    assert settings.port == port
    assert settings.shutdown_grace_ms == grace
    assert settings.db_statement_timeout_ms == statement
    assert settings.host == "127.0.0.1"
    assert settings.facts_hmac_key == ()


def test_runtime_mode_is_the_default_and_listens_everywhere(tls: dict[str, str]) -> None:
    for service in SERVICES:
        settings = load_settings(service, RUNTIME | tls)
        assert settings.is_runtime
        assert settings.host == "0.0.0.0"


@pytest.mark.parametrize("word", ["production", "rc", "stable", "runtime"])
def test_names_of_runtime_mode(word: str) -> None:
    assert load_settings("api", RUNTIME | {"CARACAL_MODE": word}).caracal_mode == "runtime"


def test_caracal_env_is_an_alias(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CARACAL_ENV", "dev")
    assert load_settings("api", BASE).caracal_mode == "dev"
    monkeypatch.setenv("CARACAL_MODE", "runtime")
    assert load_settings("api", RUNTIME).caracal_mode == "runtime"


@pytest.mark.parametrize(
    ("service", "name"),
    [(service, name) for service in SERVICES for name in ("DATABASE_URL", "REDIS_URL")]
    + [("api", "ZONE_KEK"), ("sts", "ZONE_KEK"), ("sts", "ISSUER_URL")]
    + [("coordinator", "ISSUER_URL"), ("coordinator", "STS_URL"), ("gateway", "STS_URL")]
    + [("siem", "REDIS_URL"), ("siem", "SIEM_SINK_URL")],
)
def test_missing_always_refused(service: Service, name: str) -> None:
    assert refusal(service, DEV | {name: ""}) == f"{name} is required"


@pytest.mark.parametrize(
    ("service", "name"),
    [(service, "FACTS_HMAC_KEY") for service in SERVICES]
    + [("worker", "STREAMS_HMAC_KEY"), ("worker", "AUDIT_HMAC_KEY")]
    + [("api", "AUDIT_HMAC_KEY"), ("sts", "AUDIT_HMAC_KEY"), ("sts", "GATEWAY_STS_HMAC_KEY")]
    + [("gateway", "AUDIT_HMAC_KEY"), ("gateway", "GATEWAY_STS_HMAC_KEY")]
    + [("siem", "AUDIT_HMAC_KEY"), ("siem", "FACTS_HMAC_KEY")],
)
def test_missing_refused_in_runtime_mode_only(
    service: Service, name: str, tls: dict[str, str]
) -> None:
    assert refusal(service, RUNTIME | tls | {name: ""}) == f"{name} is required"
    load_settings(service, DEV | {name: ""})


def test_all_that_is_missing_is_said_at_once() -> None:
    missing = {"REDIS_URL": "", "ZONE_KEK": "", "AUDIT_HMAC_KEY": ""}
    line = "REDIS_URL is required; ZONE_KEK is required; AUDIT_HMAC_KEY is required"
    assert refusal("api", RUNTIME | missing) == line


def test_gateway_needs_tls_in_runtime_mode(tls: dict[str, str]) -> None:
    missing = "TLS_CERT_FILE is required; TLS_KEY_FILE is required"
    assert refusal("gateway", RUNTIME) == missing
    del tls["TLS_KEY_FILE"]
    assert refusal("gateway", DEV | tls) == "TLS_CERT_FILE and TLS_KEY_FILE go together"


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("FACTS_HMAC_KEY", "abc", "must be hex"),
        ("FACTS_HMAC_KEY", "xx" * 32, "must be hex"),
        ("FACTS_HMAC_KEY", f"{KEY_A},", "needs at least 64 hex digits"),
        ("FACTS_HMAC_KEY", "ab" * 31, "needs at least 64 hex digits"),
        ("ZONE_KEK", "ab" * 33, "needs 64 hex digits"),
        ("ZONE_KEK", "00" * 32, "must not be all zero"),
        ("MAX_STALENESS", "15", "must be a duration"),
        ("MAX_STALENESS", "0s", "greater than 0"),
        ("PORT", "70000", "less than or equal to 65535"),
        ("DB_POOL_MAX", "0", "greater than or equal to 1"),
        ("DB_POOL_MAX", "many", "valid integer"),
        ("TRUST_PROXY", "perhaps", "valid boolean"),
        ("DATABASE_URL", "mysql://x/y", "postgresql://"),
        ("REDIS_URL", "http://x", "rediss://"),
        ("STS_URL", "sts:8080", "must be a URL"),
        ("AUDIT_DURABILITY", "maybe", "'ack' or 'fsync'"),
        ("ZONE_KEK_PROVIDER", "vault", "'local'"),
        ("CARACAL_MODE", "test", "'dev' or 'runtime'"),
        ("ALLOW_PRIVATE_UPSTREAMS", "some", "'loopback'"),
        ("MAX_GRANT_TTL_SECONDS", "-1", "greater than or equal to 1"),
        ("TLS_CERT_FILE", "/nowhere/cert.pem", "does not point to a file"),
    ],
)
def test_bad_value_is_named_without_the_value(name: str, value: str, rule: str) -> None:
    line = refusal("gateway", DEV | {name: value})
    assert name in line
    assert rule in line
    assert "\n" not in line
    assert len(value) < 5 or value not in line


def test_all_bad_values_stand_on_one_line() -> None:
    line = refusal("api", DEV | {"PORT": "x", "DB_POOL_MAX": "y"})
    assert "PORT" in line
    assert "DB_POOL_MAX" in line
    assert "\n" not in line


@pytest.mark.parametrize(
    "name", ["CARACAL_LOCAL_BOOTSTRAP_ENABLED", "INSECURE_HTTP", "INSECURE_STS", "JTI_FAIL_OPEN"]
)
def test_lax_switches_are_for_dev(name: str) -> None:
    assert refusal("api", RUNTIME | {name: "true"}) == f"{name} is for CARACAL_MODE=dev only"
    load_settings("api", DEV | {name: "true"})


@pytest.mark.parametrize(
    ("url", "fine"),
    [("", True), ("https://api.example/", True), ("http://api.example", False)],
    ids=["none", "https", "http"],
)
def test_no_code_comes_back_over_a_plain_wire(url: str, fine: bool) -> None:
    given = RUNTIME | ({"API_URL": url} if url else {})
    if fine:
        assert load_settings("api", given).api_url == url.rstrip("/")
        assert load_settings("api", DEV | {"API_URL": "http://localhost:3000"}).api_url
    else:
        assert refusal("api", given) == "API_URL must be https: browsers bring codes there"
        assert load_settings("sts", given)


def test_rings_keep_their_order_and_share_no_key() -> None:
    settings = load_settings("worker", DEV | {"FACTS_HMAC_KEY": f"{KEY_B},{KEY_A}"})
    assert settings.facts_hmac_key == (b"\xbb" * 32, b"\xaa" * 32)
    both = {"FACTS_HMAC_KEY": f"{KEY_A},{KEY_B}", "STREAMS_HMAC_KEY": KEY_B}
    assert "must not share a key" in refusal("worker", DEV | both)


@pytest.mark.parametrize(
    ("url", "good"),
    [
        ("http://127.0.0.1:8080", True),
        ("http://[::1]:8080", True),
        ("http://sts:8080", True),
        ("https://sts.example.com", True),
        ("http://sts.example.com", False),
        ("http://10.0.0.1:8080", False),
        ("http://[fd00::1]:8080", False),
    ],
)
def test_gateway_sends_no_secret_over_a_plain_wire(
    url: str, good: bool, tls: dict[str, str]
) -> None:
    given = RUNTIME | tls | {"STS_URL": url}
    if good:
        assert load_settings("gateway", given).sts_url == url
    else:
        assert refusal("gateway", given).startswith("STS_URL must be https")


@pytest.mark.parametrize(
    ("hop", "leave"),
    [
        ({"HOST": "0.0.0.0"}, "INSECURE_HTTP"),
        ({"HOST": "10.0.0.1"}, "INSECURE_HTTP"),
        ({"HOST": "::"}, "INSECURE_HTTP"),
        ({"HOST": "gateway"}, "INSECURE_HTTP"),
        ({"STS_URL": "http://sts.example.com"}, "INSECURE_STS"),
        ({"STS_URL": "http://10.0.0.1:8080"}, "INSECURE_STS"),
    ],
    ids=["all", "private", "all of IPv6", "name", "sts", "private sts"],
)
def test_a_plain_wire_takes_leave_and_only_in_dev(
    hop: dict[str, str], leave: str, tls: dict[str, str]
) -> None:
    (name,) = hop
    assert refusal("gateway", DEV | hop).startswith(f"{name} must be")
    assert load_settings("gateway", DEV | hop | {leave: "true"})
    other = {"INSECURE_HTTP": "INSECURE_STS", "INSECURE_STS": "INSECURE_HTTP"}[leave]
    assert refusal("gateway", DEV | hop | {other: "true"}).startswith(f"{name} must be")
    only_dev = f"{leave} is for CARACAL_MODE=dev only"
    assert refusal("gateway", RUNTIME | tls | hop | {leave: "true"}) == only_dev


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.8.0.1"])
def test_on_this_machine_it_takes_none(host: str, tls: dict[str, str]) -> None:
    assert load_settings("gateway", DEV | {"HOST": host}).host == host
    assert load_settings("gateway", DEV | {"HOST": "0.0.0.0"} | tls).tls_cert_file


def test_gateway_rules(tls: dict[str, str]) -> None:
    short = {"READ_TIMEOUT": "35s"}
    assert refusal("gateway", DEV | short).startswith("READ_TIMEOUT must exceed")
    private = {"ALLOW_PRIVATE_UPSTREAMS": "true"}
    assert "UPSTREAM_HOST_ALLOWLIST" in refusal("gateway", RUNTIME | tls | private)
    hosts = load_settings("gateway", DEV | {"UPSTREAM_HOST_ALLOWLIST": "A.example, b.example,"})
    assert hosts.upstream_host_allowlist == {"a.example", "b.example"}


@pytest.mark.parametrize(("text", "seconds"), [("500ms", 0.5), ("5s", 5.0), ("1m", 60.0)])
def test_durations(text: str, seconds: float) -> None:
    assert load_settings("api", DEV | {"MAX_STALENESS": text}).max_staleness == seconds


def test_secret_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "kek"
    file.write_text(f"{KEY_B}\n")
    given = {name: value for name, value in DEV.items() if name != "ZONE_KEK"}
    assert load_settings("api", given | {"ZONE_KEK_FILE": str(file)}).zone_kek == (b"\xbb" * 32,)
    missing = refusal("api", given | {"ZONE_KEK_FILE": "/nowhere/kek"})
    assert missing.startswith("ZONE_KEK_FILE cannot be read")


def test_only_secrets_come_from_files(tmp_path: Path) -> None:
    (tmp_path / "host").write_text("evil")
    given = DEV | {"HOST_FILE": str(tmp_path / "host")}
    assert load_settings("api", given).host == "127.0.0.1"


def test_command_line_before_environment_before_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "bearer"
    file.write_text("from-file")
    monkeypatch.setenv("METRICS_BEARER_FILE", str(file))
    assert load_settings("api", DEV).metrics_bearer == "from-file"
    monkeypatch.setenv("METRICS_BEARER", "from-environment")
    assert load_settings("api", DEV).metrics_bearer == "from-environment"
    given = DEV | {"METRICS_BEARER": "from-command-line"}
    assert load_settings("api", given).metrics_bearer == "from-command-line"


def test_frozen_and_silent_about_secrets() -> None:
    settings = load_settings("worker", DEV | KEYS | {"AUDIT_ADMIN_TOKEN": "token-of-audit"})
    with pytest.raises(ValueError, match="frozen"):
        settings.port = 1
    shown = f"{settings!r} {settings}"
    for secret in ("pass-of-db", "pass-of-redis", "token-of-audit", repr(b"\xaa" * 32)[2:-1]):
        assert secret not in shown


def test_the_trail_goes_to_no_bucket_in_the_clear() -> None:
    given = RUNTIME | {"AUDIT_EXPORT_S3_BUCKET": "audit"}
    told = refusal("worker", given | {"AUDIT_EXPORT_S3_ENDPOINT": "http://s3.example"})
    assert told.startswith("AUDIT_EXPORT_S3_ENDPOINT must be https")
    for url in ("https://s3.example", "http://minio:9000", "http://127.0.0.1:9000"):
        load_settings("worker", given | {"AUDIT_EXPORT_S3_ENDPOINT": url})


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("https://siem.example/in", None),
        ("http://collector:8088/x", None),
        ("http://siem.example/in", "SIEM_SINK_URL must be https, unless its host"),
        ("syslog+tls://siem.example:6514", None),
        ("syslog+tls://siem.example/path", "SIEM_SINK_URL: must be https://"),
        ("syslog+tls:///", "SIEM_SINK_URL: must be https://"),
        ("file:///var/log/caracal.jsonl", None),
        ("file://host/var/log", "SIEM_SINK_URL: must be https://"),
        ("stdout:", None),
        ("stdout", "SIEM_SINK_URL: must be https://"),
        ("ftp://siem.example", "SIEM_SINK_URL: must be https://"),
        ("https:///in", "SIEM_SINK_URL: must be https://"),
        ("https://siem.example/\u00fc", "SIEM_SINK_URL: must be a URL of printable"),
        ("https://siem.example:99999/in", "SIEM_SINK_URL: Port out of range"),
    ],
)
def test_where_siem_may_send_to(url: str, told: str | None) -> None:
    given = RUNTIME | {"SIEM_SINK_URL": url}
    if told is None:
        settings = load_settings("siem", given | {"DATABASE_URL": ""})
        assert settings.siem_sink_url == url
    else:
        assert refusal("siem", given).startswith(told)


def test_siem_settings_that_go_together() -> None:
    half = DEV | {"SIEM_SINK_CERT_FILE": __file__}
    assert "go together" in refusal("siem", half)
    assert "SIEM_SINK_TOKEN must" in refusal("siem", DEV | {"SIEM_SINK_TOKEN": "two\nlines"})
    both = DEV | {"AUDIT_EXPORT_DIR": "/x", "AUDIT_EXPORT_S3_BUCKET": "x"}
    assert "only one of them" in refusal("worker", both)
    assert "secret-of-sink" not in repr(load_settings("siem", DEV))


GUIDE = Path(__file__).parents[1] / "docs/settings.md"
OWN = {"HOST", "PORT"}  # their defaults are the service's or the mode's


def test_the_guide_names_every_setting_and_its_default() -> None:
    rows = re.findall(r"^\| `([A-Z0-9_]+)` \| (?:`([^`]*)` )?\|", GUIDE.read_text(), re.MULTILINE)
    fields = {name.upper(): field for name, field in Settings.model_fields.items()}
    del fields["SERVICE"]
    assert sorted(name for name, _ in rows) == sorted(fields)
    told = {name: said for name, said in rows if name not in OWN}
    assert told == {name: _said(fields[name].default) for name in told}


def _said(default: object) -> str:
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, float):
        return f"{default:g}s"
    return str(default) if isinstance(default, int | str) else ""


@pytest.mark.parametrize("service", PORTS)
def test_a_service_starts_with_what_the_guide_gives_it(service: Service) -> None:
    """The table of docs/production.md is enough, and nothing of it may be left out."""
    given = RUNTIME | {"TLS_CERT_FILE": __file__, "TLS_KEY_FILE": __file__}
    needed = _given_to(service)
    assert load_settings(service, {name: given[name] for name in needed}).is_runtime
    for name in needed:
        less = {other: given[other] for other in needed if other != name}
        assert refusal(service, less) == f"{name} is required"


def _given_to(service: Service) -> list[str]:
    lines = (GUIDE.parent / "production.md").read_text().splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if "|" in line]
    (head,) = [row for row in rows if row[0] == "Variable"]
    at = head.index(service)
    marked = [row for row in rows if row[at:] and row[at] == "x"]
    return [name for row in marked for name in re.findall("`([A-Z_]{5,})`", row[0])]
