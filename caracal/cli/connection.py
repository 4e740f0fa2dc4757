"""The stack a command talks to, found through flags, environment, or ``caracal up``."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from caracal.cli.outcome import UNREACHABLE, USAGE, Failure
from caracal.cli.running import running_stack
from caracal.cli.show import Output

if TYPE_CHECKING:
    from caracal.client import AdminClient

_MAX_TOKEN_FILE = 8192
_NAMED = 10  # zones in a message


@dataclass(frozen=True)
class Flags:
    """What the command line and the environment say."""

    api_url: str | None = None
    token: str | None = None
    token_file: Path | None = None
    coordinator_url: str | None = None
    coordinator_token: str | None = None
    data_dir: Path = Path()
    zone: str | None = None
    json: bool = False


class Cli:
    """One command's connection, and where it prints."""

    def __init__(self, flags: Flags) -> None:
        self._flags = flags
        self.out = Output(flags.json)

    @property
    def as_json(self) -> bool:
        """Whether the output is JSON."""
        return self.out.as_json

    @cached_property
    def stack(self) -> Mapping[str, Any]:
        """What ``caracal up`` wrote; empty when nothing runs in the data directory."""
        return running_stack(self._flags.data_dir) or {}

    @cached_property
    def api_url(self) -> str:
        """Where the control plane is.

        Raises:
            Failure: nothing says where.
        """
        url = self.url_of("api", self._flags.api_url)
        if url is None:
            raise self.no_stack()
        return url

    def no_stack(self) -> Failure:
        """Return what to say when nothing tells where the services are."""
        return Failure(
            "no_stack",
            f"no stack runs in {self._flags.data_dir}",
            "start one with `caracal up`, or set CARACAL_API_URL",
            exit_code=UNREACHABLE,
        )

    @property
    def coordinator_url(self) -> str | None:
        """Where the Coordinator is, if anything says so."""
        return self.url_of("coordinator", self._flags.coordinator_url)

    def url_of(self, service: str, given: str | None = None) -> str | None:
        """Return where a service is: as given, or as the running stack says.

        Raises:
            Failure: the address is none.
        """
        url = given or self.stack.get(f"{service}_url")
        return url and _checked(str(url), f"--{service}-url")

    @cached_property
    def client(self) -> AdminClient:
        """A client of the control plane and the Coordinator.

        Only what changes nothing is tried again: a command does its work once.
        """
        from caracal.client import AdminClient

        try:
            return AdminClient(
                api_url=self.api_url,
                admin_token=self._admin_token(),
                coordinator_url=self.coordinator_url,
                coordinator_token=self._coordinator_token(self.coordinator_url),
                retry_methods=("GET",),
            )
        except ValueError as error:  # says what is wrong, and never repeats a token
            raise Failure("invalid_option", str(error), exit_code=USAGE) from None

    @contextmanager
    def open(self) -> Iterator[Cli]:
        """Close the client, if one was made."""
        try:
            yield self
        finally:
            if "client" in self.__dict__:
                self.client.close()

    def space(self, namespace: str) -> Any:
        """Return a namespace of the client."""
        return getattr(self.client, namespace)

    @property
    def is_zone_named(self) -> bool:
        """Whether flag or variable says which zone is meant."""
        return bool(self._flags.zone)

    @cached_property
    def zone_id(self) -> str:
        """The id of the zone that is meant; see :meth:`zone_of`."""
        return self.zone_of(self._flags.zone)

    def zone_of(self, wanted: str | None) -> str:
        """Return the id of a zone named by id, slug or name; without, of the only one there is.

        Raises:
            Failure: no such zone, or more than one.
        """
        if wanted and _is_uuid(wanted):
            return wanted
        zones = self._zones()
        if zones is None and wanted:
            return wanted
        if zones is None:
            raise _unclear("this token is for one zone", "name its id with --zone or CARACAL_ZONE")
        return self._chosen(zones, wanted)

    def _zones(self) -> list[dict[str, Any]] | None:
        """Return all zones; None when the token may not list them."""
        from caracal.client import AdminApiError

        try:
            return [dict(zone) for zone in self.client.zones.list()]
        except AdminApiError as error:
            if error.code != "admin_token_zone_mismatch":
                raise
            return None

    def _chosen(self, zones: list[dict[str, Any]], wanted: str | None) -> str:
        for member in ("id", "slug", "name") if wanted else ():
            named = [zone for zone in zones if zone[member] == wanted]
            if len(named) == 1:
                return str(named[0]["id"])
            if named:
                raise _unclear(f"{len(named)} zones are called {wanted!r}", "name one by its id")
        if wanted:
            raise Failure("zone_not_found", f"there is no zone {wanted!r}")
        if not zones:
            raise Failure(
                "no_zone", "there is no zone yet", "make one: `caracal zone create --name NAME`"
            )
        if len(zones) > 1:
            slugs = ", ".join(zone["slug"] for zone in zones[:_NAMED])
            more = ", …" if len(zones) > _NAMED else ""
            raise _unclear(
                f"there are {len(zones)} zones: {slugs}{more}",
                "say which with --zone or CARACAL_ZONE",
            )
        return str(zones[0]["id"])

    def _admin_token(self) -> str:
        token = self._given_token() or self._stacks("admin_token", self.api_url, "api_url")
        if not token:
            from caracal.client import discover_admin_token

            token = discover_admin_token()
        if not token:
            raise Failure("no_token", "there is no admin token", "set CARACAL_ADMIN_TOKEN, or name"
                          " a --token-file", exit_code=USAGE)  # fmt: skip
        return token

    def _given_token(self) -> str | None:
        if self._flags.token_file is not None:
            return _token_in(self._flags.token_file)
        return self._flags.token

    def _coordinator_token(self, url: str | None) -> str | None:
        given = self._flags.coordinator_token
        if given or url is None:
            return given or None
        file = os.environ.get("CARACAL_COORDINATOR_TOKEN_FILE")
        if file:
            return _token_in(Path(file))
        return self._stacks("coordinator_token", url, "coordinator_url")

    def _stacks(self, token: str, url: str, name: str) -> str | None:
        """Return the running stack's own token, for the running stack's own address only."""
        return self.stack.get(token) if self.stack.get(name) == url else None


def _token_in(file: Path) -> str:
    try:
        with file.open(encoding="utf-8") as stream:
            return stream.read(_MAX_TOKEN_FILE).strip()
    except (OSError, ValueError) as error:
        raise Failure(
            "no_token", f"{file} cannot be read ({type(error).__name__})", exit_code=USAGE
        ) from None


def _checked(url: str, option: str) -> str:
    """Return an address that is one; what is wrong with it is not repeated: it may hold a secret.

    Raises:
        Failure: it is none.
    """
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        good = False
    if not good or parts.username is not None or parts.query or parts.fragment:
        raise Failure(
            "invalid_url",
            f"{option} must be an address such as http://localhost:3000",
            exit_code=USAGE,
        )
    return url.rstrip("/")


def _unclear(description: str, hint: str) -> Failure:
    return Failure("which_zone", description, hint, exit_code=USAGE)


def _is_uuid(text: str) -> bool:
    parts = text.split("-")
    return [len(part) for part in parts] == [8, 4, 4, 4, 12] and all(
        set(part) <= set("0123456789abcdef") for part in parts
    )
