"""Where exported files go: a directory, or a bucket that speaks S3. Blocking: use a thread."""

from __future__ import annotations

import errno
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from caracal.errors import StartError
from caracal.settings import Settings

_MODE = 0o640
_PART = ".part"
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)  # of the file system
_THERE = ("PreconditionFailed", "412")


class Unstored(OSError):
    """The store cannot be used now."""


class Store(Protocol):
    """Keeps files by their keys; what is there is not changed any more."""

    def has(self, key: str) -> bool:
        """Say whether something is there.

        Raises:
            OSError: the store cannot be used now.
        """

    def place(self, key: str) -> Path:
        """Return where to write what will be put under a key; nobody takes it for the file."""

    def put(self, key: str, part: Path) -> bool:
        """Put what was written, whole or not at all; False: something was there already.

        Raises:
            OSError: the store cannot be used now.
        """


class Directory:
    """A directory; files appear by a link, which is there whole or not."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def has(self, key: str) -> bool:
        """Say whether the file is there."""
        return (self._root / key).exists()

    def place(self, key: str) -> Path:
        """Return a hidden name beside the file; what a killed process left there goes."""
        file = self._root / key
        file.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        for left in file.parent.glob(f".*{_PART}"):
            left.unlink(missing_ok=True)
        return file.with_name(f".{file.name}.{os.getpid()}{_PART}")

    def put(self, key: str, part: Path) -> bool:
        """Give the file its name, after it is on the disk."""
        file = self._root / key
        part.chmod(_MODE)
        _sync(part)
        try:
            os.link(part, file)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            if file.exists():  # none but the leader writes here
                return False
            part.rename(file)
        finally:
            part.unlink(missing_ok=True)
        _sync(file.parent)
        return True


class Bucket:
    """A bucket; ``If-None-Match: *`` (RFC 9110, section 13.1.2) keeps what is there.

    Credentials come from where the AWS tools take them: environment, profile, or the machine's
    role.
    """

    def __init__(self, bucket: str, *, endpoint: str, region: str) -> None:
        """``endpoint``: of a store that is not Amazon's; empty otherwise.

        Raises:
            StartError: the library is not installed.
        """
        try:
            import botocore.session
            from botocore.config import Config
        except ModuleNotFoundError as error:
            raise StartError('S3 needs more: pip install "caracal[export]"') from error
        self._bucket = bucket
        self._client: Any = botocore.session.get_session().create_client(
            "s3",
            region_name=region,
            endpoint_url=endpoint or None,
            config=Config(
                connect_timeout=10,
                read_timeout=60,
                retries={"total_max_attempts": 1},  # the job tries again
                s3={"addressing_style": "path" if endpoint else "auto"},
                request_checksum_calculation="when_required",
            ),
        )

    def has(self, key: str) -> bool:
        """Return False: the put says it, and needs no right to read."""
        return False

    def place(self, key: str) -> Path:
        """Return a private file on this machine."""
        handle, name = tempfile.mkstemp(prefix="caracal-export-", suffix=_PART)
        os.close(handle)
        return Path(name)

    def put(self, key: str, part: Path) -> bool:
        """Upload in one request: an object is there whole, or not."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            with part.open("rb") as body:
                self._client.put_object(
                    Bucket=self._bucket,
                    Key=key,
                    Body=body,
                    IfNoneMatch="*",
                    ContentType="application/vnd.apache.parquet",
                )
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            if code in _THERE:
                return False
            raise Unstored(f"the bucket refuses: {code}") from error
        except BotoCoreError as error:
            raise Unstored(type(error).__name__) from error
        finally:
            with suppress(OSError):
                part.unlink()
        return True


def store_of(settings: Settings) -> Store | None:
    """Return where exports go; None when nothing is exported.

    Raises:
        StartError: a library is not installed.
    """
    if settings.audit_export_dir is not None:
        return Directory(settings.audit_export_dir)
    if settings.audit_export_s3_bucket:
        return Bucket(
            settings.audit_export_s3_bucket,
            endpoint=settings.audit_export_s3_endpoint,
            region=settings.audit_export_s3_region,
        )
    return None


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
