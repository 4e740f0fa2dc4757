"""The settings of one process: read once at start, frozen, checked.

A variable ``NAME`` is the attribute ``name``. The command line goes before the environment, and
``NAME`` before the content of the file ``NAME_FILE``, which every secret may use. A variable
without a unit in its name is a duration, written ``500ms``, ``5s`` or ``1m``, kept in seconds.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, FilePath, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from caracal.errors import StartError

Service = Literal["api", "sts", "coordinator", "gateway", "worker", "siem"]
SERVICES: tuple[Service, ...] = tuple(name for name in get_args(Service) if name != "siem")
"""Those of every stack; ``siem`` is there when it has somewhere to send to."""

PORTS: Mapping[Service, int] = {
    "api": 3000,
    "sts": 8080,
    "coordinator": 4000,
    "gateway": 8081,
    "worker": 9090,
    "siem": 9091,
}
KEY_BYTES = 32  # least length of an HMAC key
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0}
_MODES = {"production": "runtime", "rc": "runtime", "stable": "runtime"}


def _duration(text: str | float) -> float:
    if not isinstance(text, str):
        return text
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m)", text.strip())
    if match is None:
        raise ValueError("must be a duration like 500ms, 5s or 1m")
    return float(match[1]) * _UNITS[match[2]]


def _key_ring(text: str | tuple[bytes, ...], *, exactly: bool = False) -> tuple[bytes, ...]:
    if not isinstance(text, str):
        return text
    try:
        keys = tuple(bytes.fromhex(part) for part in text.split(","))
    except ValueError:
        raise ValueError("must be hex, several keys with commas between") from None
    if any(len(key) < KEY_BYTES or (exactly and len(key) > KEY_BYTES) for key in keys):
        raise ValueError(f"needs {'' if exactly else 'at least '}{KEY_BYTES * 2} hex digits a key")
    if not all(map(any, keys)):
        raise ValueError("must not be all zero")
    return keys


def _url(*schemes: str) -> BeforeValidator:
    def check(text: str) -> str:
        parts = urlsplit(text)
        if parts.scheme not in schemes or not (parts.netloc or parts.path):
            raise ValueError(f"must be a URL with {' or '.join(f'{name}://' for name in schemes)}")
        return text.rstrip("/") if "http" in schemes else text

    return BeforeValidator(check)


def _sink(text: str) -> str:
    if not _is_word(text):
        raise ValueError("must be a URL of printable ASCII characters")
    parts = urlsplit(text)
    _ = parts.port  # out of range: a ValueError, too
    if parts.scheme in ("https", "http") and parts.hostname:
        return text
    if parts.scheme == "syslog+tls" and parts.hostname and not parts.path.strip("/"):
        return text
    if parts.scheme == "file" and not parts.netloc and parts.path.startswith("/"):
        return text
    if text == "stdout:":
        return text
    raise ValueError("must be https://…, syslog+tls://host:port, file:///path or stdout:")


def _is_word(text: str) -> bool:
    return text.isascii() and text.isprintable() and " " not in text


def _hosts(text: str | frozenset[str]) -> frozenset[str]:
    if not isinstance(text, str):
        return text
    return frozenset(part.strip().lower() for part in text.split(",") if part.strip())


def _lower(text: Any) -> Any:
    return text.lower() if isinstance(text, str) else text


Duration = Annotated[float, BeforeValidator(_duration), Field(gt=0)]
KeyRing = Annotated[tuple[bytes, ...], NoDecode, BeforeValidator(_key_ring)]
VaultKeys = Annotated[
    tuple[bytes, ...], NoDecode, BeforeValidator(partial(_key_ring, exactly=True))
]
HttpUrl = Annotated[str, _url("http", "https")]
Count = Annotated[int, Field(ge=1)]
Limit = Annotated[int, Field(ge=0)]  # 0 = off


def _secret(default: Any = "") -> Any:
    return Field(default, repr=False)


class Settings(BaseSettings):
    """What one process of the product is told. Empty text or ring: not set."""

    model_config = SettingsConfigDict(
        frozen=True, extra="ignore", validate_default=False, hide_input_in_errors=True
    )

    service: Service

    # all services
    caracal_mode: Annotated[
        Literal["dev", "runtime"], BeforeValidator(lambda text: _MODES.get(text, text))
    ] = "runtime"
    database_url: Annotated[str, _url("postgresql", "postgres")] = _secret()
    redis_url: Annotated[str, _url("redis", "rediss", "unix")] = _secret()
    facts_hmac_key: KeyRing = _secret(())
    streams_hmac_key: KeyRing = _secret(())
    audit_hmac_key: KeyRing = _secret(())
    host: str = ""
    port: Annotated[int, Field(ge=0, le=65535)] = 0
    log_level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(_lower)] = (
        "info"
    )
    shutdown_grace_ms: Count = 15000
    request_timeout_ms: Count = 30000
    ready_rate_limit_per_min: Limit = 120
    metrics_bearer: str = _secret()
    trust_proxy: bool = False
    db_pool_max: Count = 20
    db_statement_timeout_ms: Count = 15000
    db_idle_in_tx_timeout_ms: Count = 30000
    db_connection_timeout_ms: Count = 5000
    db_idle_timeout_ms: Count = 30000
    max_staleness: Annotated[Duration, Field(le=3600)] = 15.0
    otel_exporter_otlp_endpoint: HttpUrl = ""

    # more than one service
    issuer_url: HttpUrl = ""
    sts_url: HttpUrl = ""
    zone_kek: VaultKeys = _secret(())
    zone_kek_provider: Literal["local"] = "local"
    gateway_sts_hmac_key: KeyRing = _secret(())
    audit_durability: Literal["ack", "fsync"] = "ack"
    audit_backlog_max: Count = 1_000_000
    zone_view_max_bytes: Count = 268_435_456

    # API
    api_url: HttpUrl = ""
    caracal_admin_token: str = _secret()
    caracal_local_bootstrap_enabled: bool = False
    api_body_limit_bytes: Count = 1_048_576
    api_v1_rate_limit_per_min: Limit = 600
    admin_auth_fail_limit_per_min: Limit = 60
    api_max_resources_per_zone: Count = 100_000

    # STS
    max_grant_ttl_seconds: Count = 3600
    jwks_default_zone_id: str = ""
    argon2_parallel: Count = 2
    argon2_queue_max: Count = 64
    client_auth_fail_limit_per_min: Limit = 60
    step_up_rate_limit_per_min: Limit = 600
    policy_eval_timeout_ms: Count = 500
    policy_engine_max_bytes: Count = 268_435_456
    sts_admin_token: str = _secret()
    dpop_nonce: bool = False
    access_token_typ: Literal["JWT", "at+jwt"] = "JWT"  # noqa: S105  a media type

    # Coordinator
    coordinator_url: HttpUrl = ""
    caracal_coordinator_token: str = _secret()
    agent_coordinator_scope: str = "agent:lifecycle"
    max_depth: Count = 10
    max_children: Count = 10
    max_per_zone: Count = 50
    max_per_app: Count = 200
    service_agent_lease_seconds: Count = 120
    jwks_cache_max: Count = 256
    coordinator_rate_limit_per_min: Limit = 600
    v1_rate_limit_per_min: Limit = 300
    verify_rate_limit_per_min: Limit = 60
    invocation_rate_limit_per_min: Limit = 120

    # Gateway
    gateway_url: HttpUrl = ""
    tls_cert_file: FilePath | None = None
    tls_key_file: FilePath | None = None
    insecure_http: bool = False
    insecure_sts: bool = False
    allow_private_upstreams: Annotated[
        Literal["true", "false", "loopback"], BeforeValidator(_lower)
    ] = "false"
    upstream_host_allowlist: Annotated[frozenset[str], NoDecode, BeforeValidator(_hosts)] = (
        frozenset()
    )
    max_request_bytes: Count = 10_485_760
    sts_timeout: Duration = 5.0
    upstream_timeout: Duration = 30.0
    read_header_timeout: Duration = 5.0
    read_timeout: Duration = 60.0
    write_timeout: Duration = 60.0
    idle_timeout: Duration = 120.0
    jti_fail_open: bool = False
    gateway_admin_token: str = _secret()

    # Worker
    streams_maxlen: Count = 100_000
    relay_poll_ms: Count = 250
    ttl_sweep_interval_ms: Count = 60_000
    service_lease_sweep_interval_ms: Count = 30_000
    deadline_sweep_interval_ms: Count = 5000
    sweeper_batch_size: Count = 500
    session_sweep_interval_ms: Count = 300_000
    dcr_sweep_interval_ms: Count = 60_000
    authorization_sweep_interval_ms: Count = 60_000
    retention_cleanup_interval_ms: Count = 900_000
    retention_cleanup_batch_size: Count = 500
    delegation_retention_days: Count = 90
    ready_dead_letters_max: Limit = 0
    audit_retention_days: Count = 365
    audit_claim_idle_secs: Count = 30
    audit_tamper_rolling_hours: Count = 4
    audit_ready_dlq_max: Limit = 0
    audit_ready_lag_max: Limit = 0
    audit_ready_pel_oldest_secs_max: Limit = 0
    audit_admin_token: str = _secret()
    siem_backlog_max: Count = 500_000
    audit_export_dir: Path | None = None
    audit_export_s3_bucket: str = ""
    audit_export_s3_endpoint: HttpUrl = ""
    audit_export_s3_region: str = "us-east-1"

    # SIEM
    siem_sink_url: Annotated[str, BeforeValidator(_sink)] = _secret()
    siem_sink_token: str = _secret()
    siem_sink_format: Annotated[Literal["jsonl", "hec"], BeforeValidator(_lower)] = "jsonl"
    siem_sink_ca_file: FilePath | None = None
    siem_sink_cert_file: FilePath | None = None
    siem_sink_key_file: FilePath | None = None
    siem_sink_timeout: Duration = 10.0
    siem_topics: Annotated[Literal["audit", "all"], BeforeValidator(_lower)] = "audit"
    siem_batch_max: Annotated[int, Field(ge=1, le=5000)] = 500
    siem_batch_bytes: Count = 1_048_576
    siem_claim_idle_secs: Count = 30
    siem_ready_lag_max: Limit = 0

    @property
    def is_runtime(self) -> bool:
        """Whether this is no development set-up: nothing may be missing or lax."""
        return self.caracal_mode == "runtime"

    @property
    def exports(self) -> bool:
        """Whether the ledger is exported."""
        return self.audit_export_dir is not None or bool(self.audit_export_s3_bucket)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what the caller gives, then the environment with its ``_FILE`` names."""
        return init_settings, _Variables(settings_cls, os.environ)

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_service(cls, given: dict[str, Any]) -> dict[str, Any]:
        mode = given.get("caracal_mode")
        host = "127.0.0.1" if mode == "dev" else "0.0.0.0"  # noqa: S104  a container's door
        service = given["service"]
        return {"host": host, "port": PORTS[service], **_DEFAULTS.get(service, {}), **given}

    @model_validator(mode="after")
    def _rules(self) -> Self:
        for rule in (_required, _key_rings, _lax, _api, _gateway, _export, _siem):
            rule(self)
        return self


class _Variables(PydanticBaseSettingsSource):
    """Values by their variable's name; a secret may be named by ``NAME_FILE`` instead."""

    def __init__(self, settings_cls: type[BaseSettings], variables: Mapping[str, str]) -> None:
        super().__init__(settings_cls)
        self._variables = variables

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        name = field_name.upper()
        value = self._variables.get(name)
        if not value and name == "CARACAL_MODE":
            value = self._variables.get("CARACAL_ENV")
        if not value and not field.repr and (file := self._variables.get(f"{name}_FILE")):
            value = _read(name, Path(file))
        return value or None, field_name, False

    def __call__(self) -> dict[str, Any]:
        fields = self.settings_cls.model_fields.items()
        found = {name: self.get_field_value(field, name)[0] for name, field in fields}
        found.pop("service")
        return {name: value for name, value in found.items() if value is not None}


def _read(name: str, file: Path) -> str:
    try:
        return file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise StartError(f"{name}_FILE cannot be read: {error}") from error


_DEFAULTS: Mapping[Service, dict[str, int]] = {
    "sts": {"shutdown_grace_ms": 10000},
    "coordinator": {"db_statement_timeout_ms": 10000},
    "gateway": {"shutdown_grace_ms": 25000},
}
_REQUIRED: Mapping[Service, tuple[str, ...]] = {
    "api": ("zone_kek",),
    "sts": ("issuer_url", "zone_kek"),
    "coordinator": ("issuer_url", "sts_url"),
    "gateway": ("sts_url",),
    "worker": (),
    "siem": ("siem_sink_url",),
}
_REQUIRED_IN_RUNTIME: Mapping[Service, tuple[str, ...]] = {
    "api": ("audit_hmac_key",),
    "sts": ("audit_hmac_key", "gateway_sts_hmac_key"),
    "coordinator": ("audit_hmac_key",),
    "gateway": ("audit_hmac_key", "gateway_sts_hmac_key", "tls_cert_file", "tls_key_file"),
    "worker": ("streams_hmac_key", "audit_hmac_key"),
    "siem": ("audit_hmac_key",),
}
_LAX = ("caracal_local_bootstrap_enabled", "insecure_http", "insecure_sts", "jti_fail_open")


def _required(settings: Settings) -> None:
    always = ("database_url", "redis_url", "facts_hmac_key") + _REQUIRED[settings.service]
    if settings.service == "siem":
        always = always[1:]  # it has no business in the database
    names = [name for name in always if settings.is_runtime or name != "facts_hmac_key"]
    if settings.is_runtime:
        names += _REQUIRED_IN_RUNTIME[settings.service]
    missing = [name.upper() for name in names if not getattr(settings, name)]
    if missing:
        raise ValueError("; ".join(f"{name} is required" for name in missing))


def _key_rings(settings: Settings) -> None:
    if set(settings.facts_hmac_key) & set(settings.streams_hmac_key):
        raise ValueError("FACTS_HMAC_KEY and STREAMS_HMAC_KEY must not share a key")


def _lax(settings: Settings) -> None:
    for name in _LAX:
        if settings.is_runtime and getattr(settings, name):
            raise ValueError(f"{name.upper()} is for CARACAL_MODE=dev only")


def _api(settings: Settings) -> None:
    secure = settings.api_url.startswith("https://") or not settings.api_url
    if settings.service == "api" and settings.is_runtime and not secure:
        raise ValueError("API_URL must be https: browsers bring codes there")


def _gateway(settings: Settings) -> None:
    if settings.service != "gateway":
        return
    if (settings.tls_cert_file is None) != (settings.tls_key_file is None):
        raise ValueError("TLS_CERT_FILE and TLS_KEY_FILE go together")
    if settings.read_timeout <= settings.sts_timeout + settings.upstream_timeout:
        raise ValueError("READ_TIMEOUT must exceed STS_TIMEOUT + UPSTREAM_TIMEOUT")
    if settings.tls_cert_file is None and not (
        settings.insecure_http or _is_loopback(settings.host)
    ):
        raise ValueError("HOST must be loopback without TLS_CERT_FILE, or INSECURE_HTTP true")
    if not (settings.insecure_sts or _is_safe_hop(settings.sts_url)):
        raise ValueError("STS_URL must be https, unless its host is loopback or has no dot")
    private = settings.allow_private_upstreams == "true" and not settings.upstream_host_allowlist
    if settings.is_runtime and private:
        raise ValueError("ALLOW_PRIVATE_UPSTREAMS=true needs UPSTREAM_HOST_ALLOWLIST")


def _export(settings: Settings) -> None:
    if settings.audit_export_dir is not None and settings.audit_export_s3_bucket:
        raise ValueError("AUDIT_EXPORT_DIR and AUDIT_EXPORT_S3_BUCKET: only one of them")
    endpoint = settings.audit_export_s3_endpoint
    if settings.is_runtime and endpoint and not _is_safe_hop(endpoint):
        said = "must be https, unless its host is loopback or has no dot"
        raise ValueError(f"AUDIT_EXPORT_S3_ENDPOINT {said}")


def _siem(settings: Settings) -> None:
    if settings.service != "siem":
        return
    if (settings.siem_sink_cert_file is None) != (settings.siem_sink_key_file is None):
        raise ValueError("SIEM_SINK_CERT_FILE and SIEM_SINK_KEY_FILE go together")
    if not _is_word(settings.siem_sink_token):
        raise ValueError("SIEM_SINK_TOKEN must be of printable ASCII characters")
    plain = settings.siem_sink_url.startswith("http:")
    if settings.is_runtime and plain and not _is_safe_hop(settings.siem_sink_url):
        raise ValueError("SIEM_SINK_URL must be https, unless its host is loopback or has no dot")


def _is_safe_hop(url: str) -> bool:
    """Say whether plain HTTP to ``url`` stays on this machine or in the cluster's own network."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    return parts.scheme == "https" or not set(".:") & set(host) or _is_loopback(host)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def load_settings(service: Service, overrides: Mapping[str, str] | None = None) -> Settings:
    """Read the settings of ``service``.

    Args:
        overrides: what the command line says, by variable name; ``_FILE`` names too.

    Raises:
        StartError: names every variable that is missing or wrong, never a value.
    """
    given = _Variables(Settings, overrides or {})()
    try:
        return Settings(service=service, **given)
    except ValidationError as error:
        raise StartError("; ".join(map(_complaint, error.errors(include_input=False)))) from None


def _complaint(error: ErrorDetails) -> str:
    rule = error["msg"].removeprefix("Value error, ")
    return f"{str(error['loc'][0]).upper()}: {rule}" if error["loc"] else rule
