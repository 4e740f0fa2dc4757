"""Guards: what one aggregate cannot see, checked serially in the transaction of its events.

``append_events`` checks them one after the other under its lock, so a guard never races with
another writer, and may simply read. Each names the refusal that its caller shall see.
"""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass
from typing import Any, NamedTuple

from caracal.errors import CaracalError, Conflict


class Overtaken(Conflict):
    """A guard met what another command did meanwhile: load again and decide again.

    ``key`` names what they contend for. Who gives up answers 409 ``concurrent_update``.
    """

    def __init__(self, key: str) -> None:
        super().__init__("concurrent_update", "another command was faster; try again")
        self.key = key


@dataclass(frozen=True, slots=True)
class Guard:
    """Base of all. ``refusal`` is raised to the caller when the guard does not hold."""

    def arguments(self) -> dict[str, Any]:
        """Return the guard as ``append_events`` reads it."""
        raise TypeError(f"{type(self).__name__} has no arguments")

    @property
    def refusal(self) -> CaracalError | None:
        """Return the error of a guard that does not hold; None when it cannot fail."""
        return None


@dataclass(frozen=True, slots=True)
class Take(Guard):
    """``key`` is free until now and belongs to ``owner`` from now on."""

    key: str
    owner: str
    error: CaracalError

    def arguments(self) -> dict[str, Any]:
        return {"op": "take", "key": self.key, "owner": self.owner}

    @property
    def refusal(self) -> CaracalError:
        return self.error


@dataclass(frozen=True, slots=True)
class Free(Guard):
    """``keys`` are free again, as far as ``owner`` has them."""

    keys: tuple[str, ...]
    owner: str

    def arguments(self) -> dict[str, Any]:
        return {"op": "free", "keys": list(self.keys), "owner": self.owner}


class Ended(NamedTuple):  # a cascade makes ten thousand of them
    """A thing that ends: the key it lives by, the keys that go with it, the counters it leaves."""

    key: str
    keys: tuple[str, ...] = ()
    counts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Release(Guard):
    """``things`` of ``owner`` end. One that has ended before leaves no counter a second time."""

    things: tuple[Ended, ...]
    owner: str

    def arguments(self) -> dict[str, Any]:
        things = [{"key": t.key, "keys": t.keys, "counts": t.counts} for t in self.things]
        return {"op": "release", "things": things, "owner": self.owner}


@dataclass(frozen=True, slots=True)
class Revive(Guard):
    """``owner`` has each first key again, if it still has the second one."""

    keys: tuple[tuple[str, str], ...]
    owner: str

    def arguments(self) -> dict[str, Any]:
        return {"op": "revive", "keys": self.keys, "owner": self.owner}


@dataclass(frozen=True, slots=True)
class Need(Guard):
    """Somebody has ``key``: the thing it stands for is there."""

    key: str
    error: CaracalError

    def arguments(self) -> dict[str, Any]:
        return {"op": "need", "key": self.key}

    @property
    def refusal(self) -> CaracalError:
        return self.error


@dataclass(frozen=True, slots=True)
class Count(Guard):
    """The counter ``key`` moves by ``by`` and stays at or below ``limit``."""

    key: str
    by: int
    limit: int
    error: CaracalError

    def arguments(self) -> dict[str, Any]:
        return {"op": "count", "key": self.key, "by": self.by, "limit": self.limit}

    @property
    def refusal(self) -> CaracalError:
        return self.error


@dataclass(frozen=True, slots=True)
class Seat(Guard):
    """``owner`` has one of the ``limit`` seats of ``key`` until it leaves, or until ``until``.

    A count whose members end by themselves: whose time (RFC 3339; None: none) is over does not
    count from that moment on, without an event. The log's clock decides.
    """

    key: str
    owner: str
    until: str | None
    limit: int
    error: CaracalError

    def arguments(self) -> dict[str, Any]:
        return {
            "op": "seat",
            "key": self.key,
            "owner": self.owner,
            "until": self.until,
            "limit": self.limit,
        }

    @property
    def refusal(self) -> CaracalError:
        return self.error


@dataclass(frozen=True, slots=True)
class FreeSeats(Guard):
    """``owners`` leave their seats of ``key``."""

    key: str
    owners: tuple[str, ...]

    def arguments(self) -> dict[str, Any]:
        return {"op": "free_seats", "key": self.key, "owners": list(self.owners)}


@dataclass(frozen=True, slots=True)
class NoSeats(Guard):
    """Nobody has a seat of ``key`` now."""

    key: str
    error: CaracalError

    def arguments(self) -> dict[str, Any]:
        return {"op": "no_seats", "key": self.key}

    @property
    def refusal(self) -> CaracalError:
        return self.error


@dataclass(frozen=True, slots=True)
class Edge(Guard):
    """The edge ``owner`` from ``source`` to ``target`` closes no cycle."""

    source: str
    target: str
    owner: str
    error: CaracalError

    def arguments(self) -> dict[str, Any]:
        return {"op": "edge", "a": self.source, "b": self.target, "owner": self.owner}

    @property
    def refusal(self) -> CaracalError:
        return self.error


@dataclass(frozen=True, slots=True)
class Inbound(Guard):
    """The edges that lead to ``target`` are these ``owners`` and no others."""

    target: str
    owners: tuple[str, ...]

    def arguments(self) -> dict[str, Any]:
        return {"op": "inbound", "target": self.target, "owners": list(self.owners)}

    @property
    def refusal(self) -> CaracalError:
        """Return that another command made or ended one: decide again."""
        return Overtaken(f"inbound:{self.target}")


@dataclass(frozen=True, slots=True)
class FreeEdges(Guard):
    """The edges ``owners`` are gone."""

    owners: tuple[str, ...]

    def arguments(self) -> dict[str, Any]:
        return {"op": "free_edges", "owners": list(self.owners)}


@dataclass(frozen=True, slots=True)
class Secret(Guard):
    """``ref`` of the vault holds this sealed value from now on."""

    ref: str
    key_id: str
    nonce: bytes
    ciphertext: bytes

    def arguments(self) -> dict[str, Any]:
        return {
            "op": "secret",
            "ref": self.ref,
            "key_id": self.key_id,
            "nonce": b64encode(self.nonce).decode(),
            "ciphertext": b64encode(self.ciphertext).decode(),
        }


@dataclass(frozen=True, slots=True)
class Erase(Guard):
    """``refs`` of the vault are gone."""

    refs: tuple[str, ...]

    def arguments(self) -> dict[str, Any]:
        return {"op": "erase", "refs": list(self.refs)}


def retake(old: str, new: str, owner: str, error: CaracalError) -> list[Guard]:
    """Return the guards by which ``owner`` gives up the unique key ``old`` for ``new``."""
    return [Free((old,), owner), Take(new, owner, error)]


def live(kind: str, thing_id: str) -> str:
    """Return the key that stands for a live thing: taken at creation, freed at its end."""
    return f"live:{kind}:{thing_id}"


def active(agent_id: str) -> str:
    """Return the key that stands for an agent that may act: freed while it is suspended, too."""
    return f"active:agent:{agent_id}"
