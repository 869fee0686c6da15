"""The store: bytes, JSON and tables on a disk or on S3, with atomic and conditional writes.

A key is a path below the store's root. Readers see a write whole or not at all, on a local disk (written aside, then renamed)
and on S3 (one PUT). `create` and `replace` are conditional: of two writers one succeeds, and the other gets False.

Errors of file systems become one of two errors that name the place and the next step: `StoreError` if a person must act, and
`StoreUnavailable` if the error may pass; callers retry that one. botocore retries requests; this module handles truncated
bodies, and conditional writes that succeed without an answer.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import json
import os
import shutil
import tempfile
import uuid
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import file_digest
from pathlib import Path, PurePosixPath
from typing import Any, cast

import fsspec
import polars as pl
from botocore.exceptions import FlexibleChecksumError
from fsspec.implementations.local import LocalFileSystem

from provenance.core.canonical import canonical_json as canonical_json  # noqa: PLC0414 - others import it from here
from provenance.core.canonical import digest as digest  # noqa: PLC0414
from provenance.core.canonical import sha256 as sha256  # noqa: PLC0414
from provenance.core.errors import StoreError, StoreUnavailable
from provenance.core.text import ESCAPED, FORMULA

# Full jitter, 15 seconds in all on average: long enough for a server to restart.
RETRIES = {"retries": {"mode": "standard", "max_attempts": 6}}
# Attempts to read an object whose body does not match its size or checksum.
READS = 4
# Larger files are copied piece by piece, and never held in memory whole.
LARGE, PIECE = 2**28, 2**24
# Packages whose errors about S3 are no OSErrors.
CLIENTS = {"botocore", "aiobotocore", "aiohttp"}

RENEW = "Renew the credentials of [store] where the workers find them, then clear the task."
CHECK = "Check the URL of [store] in the settings, the credentials and what they may do there."
ROOM = "Make room where [store] in the settings lies, then clear the task."
SHORTEN = "Shorten the name or the path to it: this file system takes no longer ones."
CLOCK = "Set this machine's clock (NTP), then clear the task."
# Next steps for a person, by code of an S3 error, name of an exception, or number of a local error.
NEXT_STEPS: dict[str | int | None, str] = {
    **dict.fromkeys(("ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "InvalidToken"), RENEW),
    **dict.fromkeys(("NoSuchBucket", "InvalidBucketName", "PermanentRedirect", "301"), CHECK),
    **dict.fromkeys(("NoCredentialsError", "PartialCredentialsError"), CHECK),
    **dict.fromkeys(("QuotaExceeded", "XMinioStorageFull", "507", errno.ENOSPC, errno.EDQUOT), ROOM),
    **dict.fromkeys((errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EISDIR), CHECK),
    **dict.fromkeys(("KeyTooLongError", errno.ENAMETOOLONG), SHORTEN),
    "RequestTimeTooSkewed": CLOCK,
}


def next_step(error: BaseException) -> str:
    """The step that a person must take after an error of a file system; empty if the error may pass."""
    step = NEXT_STEPS.get(_code(error)) or NEXT_STEPS.get(getattr(error, "errno", None))
    return step or (CHECK if isinstance(error, PermissionError) else "")


def _code(error: BaseException) -> str:
    """The S3 code behind an error of s3fs, else the name of the error."""
    response = getattr(error.__cause__, "response", None) or {}
    return str(response.get("Error", {}).get("Code") or type(error).__name__)


def to_parquet(frame: pl.DataFrame) -> bytes:
    """A frame as Parquet bytes; equal frames give equal bytes."""
    buffer = io.BytesIO()
    frame.rechunk().write_parquet(buffer, compression="zstd", statistics=True, row_group_size=65_536)
    return buffer.getvalue()


def parquet_of(parts: Iterable[pl.DataFrame]) -> bytes:
    """A table as Parquet bytes, of which one part at a time is in memory; equal parts give equal bytes."""
    with tempfile.TemporaryDirectory() as folder:
        for number, part in enumerate(parts):
            part.rechunk().write_parquet(f"{folder}/{number:06d}.parquet", compression="lz4")
        buffer = io.BytesIO()
        table = pl.scan_parquet(sorted(Path(folder).iterdir()), hive_partitioning=False, glob=False)
        table.sink_parquet(buffer, compression="zstd", statistics=True, row_group_size=65_536, maintain_order=True)
    return buffer.getvalue()


def from_parquet(data: bytes, where: str, *, columns: Sequence[str] | None = None) -> pl.DataFrame:
    """The inverse of `to_parquet`; `where` names the file in an error."""
    with _explained_parquet(where):
        return pl.read_parquet(io.BytesIO(data), columns=list(columns) if columns else None)


@contextmanager
def _explained_parquet(where: str) -> Iterator[None]:
    """Turn errors of Polars into StoreError, which names the file."""
    try:
        yield
    except pl.exceptions.PolarsError as error:
        raise StoreError(where, expected="a Parquet file", found=str(error)) from error
    except pl.exceptions.PanicException as error:  # such as a zone of times that is an offset, +05:30
        hint = "Write times in UTC, or with the name of a zone; see whether Polars reads the file."
        raise StoreError(where, expected="a Parquet file that Polars can read", found=str(error), hint=hint) from None


def to_csv(frame: pl.DataFrame) -> bytes:
    """A frame as CSV, one line a row, without formulas for spreadsheets.

    An apostrophe comes before text that a spreadsheet would take for a formula (OWASP, CSV injection); `from_csv` removes it.
    Controls become blanks. Numbers stay numbers.
    """

    def escaped(name: str) -> pl.Expr:
        text = pl.col(name).str.replace_all(r"[\p{Cc}\p{Zl}\p{Zp}]", " ")
        return pl.when(text.str.contains(FORMULA)).then(pl.concat_str(pl.lit("'"), text)).otherwise(text).alias(name)

    return frame.with_columns(map(escaped, _texts(frame))).write_csv().encode()


def from_csv(data: bytes, schema: pl.Schema) -> pl.DataFrame:
    """The inverse of `to_csv`."""
    frame = pl.read_csv(data, schema_overrides=schema, empty_string_is_null=False)

    def as_written(name: str) -> pl.Expr:
        text = pl.col(name)
        return pl.when(text.str.contains(ESCAPED)).then(text.str.slice(1)).otherwise(text).alias(name)

    return frame.with_columns(map(as_written, _texts(frame)))


def _texts(frame: pl.DataFrame) -> list[str]:
    return [name for name, kind in frame.schema.items() if kind == pl.String]


@dataclass(frozen=True)
class Stored:
    """An object of a store: key, size, and time of the last write."""

    key: str
    bytes: int
    modified: datetime


@dataclass(frozen=True)
class Store:
    """Bytes, JSON and tables below one URL, `file://` or `s3://`.

    Attributes:
        url: the root, as people write it.
        options: storage options of fsspec, such as `endpoint_url` for S3; never secrets, which belong in the environment.
    """

    url: str
    options: Mapping[str, Any] = field(hash=False)

    @property
    def fs(self) -> fsspec.AbstractFileSystem:
        """The file system of the URL; fsspec keeps one instance for each process and set of options."""
        extra = {"use_listings_cache": False, "config_kwargs": RETRIES} if self.url.startswith("s3://") else {}
        return fsspec.filesystem(self.url.split("://", 1)[0], **extra, **self.options)

    def path(self, key: str) -> str:
        """The path of a key, as the file system spells it."""
        return f"{self.fs._strip_protocol(self.url).rstrip('/')}/{key}"

    def locate(self, key: str) -> str:
        """The URL of a key, as people write it."""
        return f"{self.url.rstrip('/')}/{key}"

    def check_writable(self) -> None:
        """Raise StoreError unless small writes below the root succeed, and the store honours their conditions.

        Without conditions two writers would both believe that they were the first: an export could be published twice.
        """
        probe = f".write-check-{uuid.uuid4().hex}"
        self.create(probe, b"1")
        try:
            if self.create(probe, b"2") or self.read(probe) != b"1":
                raise self._unconditional("If-None-Match")
            with self._explained(probe, "a writable store"):
                stale = not self._is_local and self._write_if(self.path(probe), b"3", before="", IfMatch=f'"{"0" * 32}"')
            if stale or not self.replace(probe, b"4", previous=b"1") or self.replace(probe, b"5", previous=b"1"):
                raise self._unconditional("If-Match")
        finally:
            self.remove(probe)

    def _unconditional(self, condition: str) -> StoreError:
        hint = "Use a server that does: Amazon S3, SeaweedFS, MinIO and others do. Some gateways in front of a store drop it."
        return StoreError(
            self.locate(""),
            expected="a store that honours conditional writes",
            found=f"one that ignores {condition}",
            hint=hint,
        )

    def exists(self, key: str) -> bool:
        """Whether an object lies at `key`."""
        with self._explained(key, "a readable store"):
            return bool(self.fs.exists(self.path(key)))

    def list(self, prefix: str, *, hidden: bool = False) -> list[str]:
        """Keys of all objects below a folder, sorted; none if it does not exist.

        Args:
            hidden: list names that begin with a dot, too, such as files of interrupted writes.
        """
        root = self.path("")
        with self._explained(prefix, "a readable store"):
            try:
                files = self.fs.find(self.path(prefix), detail=True)
            except FileNotFoundError:
                return []
        # Some S3 servers list an empty folder as an object.
        keys = (str(path).removeprefix(root) for path, facts in files.items() if facts["type"] != "directory")
        return sorted(key for key in keys if hidden or not key.rsplit("/", 1)[-1].startswith("."))

    def signed_link(self, key: str, *, days: int, content_type: str) -> str:
        """An address at which anybody who has it can read one object, for some days (at most 7).

        Raises:
            StoreError: the store is on a disk, or the object does not exist.
        """
        if self._is_local:
            hint = "Send the file itself."
            raise StoreError(
                self.locate(key), expected="a store on S3, which can sign a link", found="one on a disk", hint=hint
            )
        if not self.exists(key):
            raise StoreError(self.locate(key), expected="an object", found="none")
        with self._explained(key, "a readable store"):
            # Without being told, botocore signs links by version 2, which newer regions of S3 refuse.
            signing = fsspec.filesystem("s3", config_kwargs={"signature_version": "s3v4"}, **self.options)
            return str(signing.sign(self.path(key), expiration=days * 86_400, ResponseContentType=content_type))

    def describe(self) -> Iterator[Stored]:
        """Yield all objects, with files of interrupted writes, which `list` leaves out; none if there is no store."""
        root = self.path("")
        with self._explained("", "a readable store"):
            try:
                files = self.fs.find(root, detail=True)
            except FileNotFoundError:
                return
        for path, facts in sorted(files.items()):
            if facts["type"] == "directory":  # some S3 servers list an empty folder
                continue
            modified = facts["LastModified"] if "LastModified" in facts else datetime.fromtimestamp(facts["mtime"], UTC)
            yield Stored(str(path).removeprefix(root), int(facts["size"]), modified)

    def size(self, key: str) -> int:
        """The bytes of the object at `key`."""
        with self._explained(key, "a readable object"):
            return int(self.fs.info(self.path(key))["size"])

    def read(self, key: str) -> bytes:
        """Read the object at `key`."""
        path = self.path(key)
        with self._explained(key, "a readable object"):
            try:
                return bytes(self.fs.cat_file(path)) if self._is_local else self._read_s3(path)
            except FileNotFoundError as error:
                if _code(error) == "NoSuchBucket":
                    raise
                raise StoreError(self.locate(key), expected="an object", found="nothing") from error

    def write(self, key: str, data: bytes) -> None:
        """Write an object; replaces an earlier one atomically."""
        path = self.path(key)
        with self._explained(key, "a writable store"):
            if self._is_local:
                os.replace(self._write_aside(path, data), path)
            else:
                self.fs.pipe_file(path, data)

    def write_file(self, key: str, path: Path) -> None:
        """Write a file of this machine as an object; replaces an earlier one atomically."""
        if path.stat().st_size < LARGE:
            self.write(key, path.read_bytes())
            return
        with self._explained(key, "a writable store"):
            if self._is_local:
                os.replace(self._write_aside(self.path(key), path), self.path(key))
            else:
                self.fs.put_file(str(path), self.path(key))

    def create(self, key: str, data: bytes) -> bool:
        """Write an object only if there is none; False if there is one. Exclusive between processes, too."""
        path = self.path(key)
        with self._explained(key, "a writable store"):
            if not self._is_local:
                return self._write_if(path, data, before="", mode="create")
            aside = self._write_aside(path, data)
            try:
                os.link(aside, path)  # atomic; fails if the name exists
            except FileExistsError:
                return False
            finally:
                os.unlink(aside)
            return True

    def replace(self, key: str, data: bytes, *, previous: bytes) -> bool:
        """Write an object only if it still equals `previous`; False if another writer changed it."""
        path = self.path(key)
        with self._explained(key, "a writable store"):
            if not self._is_local:
                tag, _ = self._state(path)
                return self.read(key) == previous and self._write_if(path, data, before=tag, IfMatch=tag)
            folder, name = os.path.split(path)
            with open(f"{folder}/.{name}.lock", "wb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)  # until the file is closed or the process ends
                if self.read(key) != previous:
                    return False
                self.write(key, data)
            return True

    def remove(self, key: str) -> None:
        """Remove an object."""
        with self._explained(key, "a writable store"):
            self.fs.rm_file(self.path(key))

    def remove_folder(self, folder: str) -> None:
        """Remove all objects below a folder; none is no error."""
        keys = self.list(folder, hidden=True)
        for start in range(0, len(keys), 1000):
            self.remove_all(keys[start : start + 1000])
        if self._is_local:
            shutil.rmtree(self.path(folder), ignore_errors=True)

    def remove_all(self, keys: Sequence[str]) -> None:
        """Remove up to 1,000 objects, on S3 in one request; missing ones are no error."""
        paths = [self.path(key) for key in keys]
        with self._explained(keys[0], "a writable store"):
            if self._is_local:
                for path in paths:
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(path)
                return
            names = [self.fs.split_path(path)[:2] for path in paths]
            request = {"Objects": [{"Key": name} for _, name in names], "Quiet": True}
            answer = self.fs.call_s3("delete_objects", Bucket=names[0][0], Delete=request)
        for refused in answer.get("Errors", []):
            message = f"{refused.get('Code')}: {refused.get('Message')}"
            raise StoreError(self.locate(refused["Key"]), expected="an object that may be removed", found=message)

    def read_json(self, key: str) -> dict[str, Any]:
        """Read the JSON object at `key`."""
        try:
            return cast("dict[str, Any]", json.loads(self.read(key)))
        except ValueError as error:
            raise StoreError(self.locate(key), expected="JSON", found=str(error)) from error

    def read_table(self, key: str, *, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """Read the Parquet table at `key`, or some of its columns."""
        return from_parquet(self.read(key), self.locate(key), columns=columns)

    def count_rows(self, key: str) -> int:
        """The number of rows of the Parquet table at `key`."""
        with self.scan(key) as table:
            return int(table.select(pl.len()).collect().item())

    def read_rows(self, key: str, first: int, rows: int) -> pl.DataFrame:
        """Some rows of the Parquet table at `key`; the rest is not held in memory."""
        with self.scan(key) as table:
            return table.slice(first, rows).collect()

    @contextmanager
    def scan(self, key: str) -> Iterator[pl.LazyFrame]:
        """The Parquet table at `key`, of which no more is held in memory than is asked for."""
        if not self.exists(key):
            raise StoreError(self.locate(key), expected="an object", found="nothing")
        path = self.path(key)
        with self._explained(key, "a readable object"), _explained_parquet(self.locate(key)):
            copy = None if self._is_local else _copied(self, key, self._state(path)[0])  # held until all is read
            yield pl.scan_parquet(copy.path if copy else Path(path), hive_partitioning=False, glob=False)

    def write_table(self, key: str, frame: pl.DataFrame) -> str:
        """Write a table as Parquet; returns the file's SHA-256."""
        data = to_parquet(frame)
        self.write(key, data)
        return sha256(data)

    def fetch(self, prefix: str, files: Mapping[str, str], folder: Path) -> Path:
        """Copy objects below `prefix` to a local folder, unless it exists; check their SHA-256.

        `files` maps names to digests. The folder appears complete or not at all.
        """
        if folder.is_dir():
            return folder
        aside = folder.with_name(f".{folder.name}-{uuid.uuid4().hex}")
        try:
            for name, expected in files.items():
                if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
                    raise StoreError(self.locate(prefix), expected="names of files below it", found=repr(name))
                target = aside / name
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("xb+") as file:
                    file.writelines(self._pieces(f"{prefix}/{name}"))
                    file.seek(0)
                    found = file_digest(file, "sha256").hexdigest()
                if found != expected:
                    raise StoreError(self.locate(f"{prefix}/{name}"), expected=f"SHA-256 {expected}", found=found)
            try:
                aside.rename(folder)
            except OSError:  # another process has copied the same bytes first
                if not folder.is_dir():
                    raise
        except OSError as error:
            if not next_step(error):
                raise
            raise _refused(str(folder), "room for a copy", error) from error
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        return folder

    @property
    def _is_local(self) -> bool:
        return isinstance(self.fs, LocalFileSystem)

    def _pieces(self, key: str) -> Iterator[bytes]:
        """The bytes of an object; those of a large one piece by piece."""
        path = self.path(key)
        with self._explained(key, "a readable object"):
            try:
                large = self.fs.info(path)["size"] >= LARGE
            except FileNotFoundError:
                large = False
            if not large:
                yield self.read(key)  # which names what is missing
                return
            with self.fs.open(path, "rb", block_size=PIECE) as file:
                while piece := file.read(PIECE):
                    yield piece

    def _write_aside(self, path: str, data: bytes | Path) -> str:
        folder, name = os.path.split(path)
        try:
            os.makedirs(folder, exist_ok=True)
        except FileExistsError as error:
            raise NotADirectoryError(errno.ENOTDIR, "a file is where a folder should be", folder) from error
        aside = f"{folder}/.{name}.{uuid.uuid4().hex}"
        try:
            with open(aside, "xb") as file:
                if isinstance(data, Path):
                    with data.open("rb") as source:
                        shutil.copyfileobj(source, file, PIECE)
                else:
                    file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            if os.path.exists(aside):
                os.unlink(aside)
            raise
        return aside

    def _read_s3(self, path: str) -> bytes:
        """Read an object and check its size and, where the server keeps one, its checksum."""
        for attempt in range(1, READS + 1):
            size = self.fs.info(path)["size"]
            in_parts = None if size > self.fs.default_block_size else 1  # else s3fs requests the size again
            try:
                data = bytes(self.fs.cat_file(path, max_concurrency=in_parts))
            except FlexibleChecksumError:
                if attempt == READS:
                    raise
                continue
            if len(data) == size:
                return data
        raise OSError(errno.EIO, f"{len(data)} of {size} bytes")

    def _write_if(self, path: str, data: bytes, *, before: str, **condition: str) -> bool:
        """Write to S3 under a condition; returns whether the object is from this write.

        botocore retries a write whose answer is lost, and its own success then refuses the retry. So each write has a mark;
        contents could not distinguish two writers of the same bytes.

        Args:
            before: the tag of the earlier object, empty for none.
        """
        mark = uuid.uuid4().hex
        try:
            self.fs.pipe_file(path, data, Metadata={"write": mark}, **condition)
        except OSError as error:  # s3fs has several errors for a failed condition
            if next_step(error):
                raise
            tag, written_mark = self._state(path)
            if written_mark != mark and tag == before:
                raise
            return written_mark == mark
        return True

    def _state(self, path: str) -> tuple[str, str]:
        """The tag of an object on S3 and the mark of its conditional write; empty if there is none."""
        bucket, key, _ = self.fs.split_path(path)
        try:
            head = self.fs.call_s3("head_object", Bucket=bucket, Key=key)
        except FileNotFoundError:
            return "", ""
        return str(head["ETag"]), str(head["Metadata"].get("write", ""))

    @contextmanager
    def _explained(self, key: str, expected: str) -> Iterator[None]:
        """Turn errors of the block into StoreError, or into StoreUnavailable if they may pass."""
        try:
            yield
        except Exception as error:
            if not isinstance(error, OSError) and type(error).__module__.split(".")[0] not in CLIENTS:
                raise
            cause = self._cause(key, error)
            if next_step(cause):
                type(self.fs).clear_instance_cache()  # the next caller reads renewed credentials
                raise _refused(self.locate(key), expected, cause) from error
            if_it_lasts = "If it lasts, see that the server is up and that its disk has room, then clear the task."
            raise StoreUnavailable(f"{self.locate(key)}: the store fails: {_message(cause)}. {if_it_lasts}") from error

    def _cause(self, key: str, error: Exception) -> Exception:
        """The error itself, or that of a GET: an answer to HEAD has no body with the reason."""
        if _code(error) in {"400", "403"}:
            try:
                self.fs.cat_file(self.path(key), start=0, end=1)
            except Exception as detailed:  # noqa: BLE001, any error has more details
                return detailed
        return error


class _Copy:
    """A copy of an object in a file of this machine, for as long as somebody holds it."""

    def __init__(self, store: Store, key: str) -> None:
        folder = tempfile.mkdtemp(prefix="provenance-")
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)  # at the latest when the process ends
        self.path = Path(folder) / "copy"
        with self.path.open("xb") as file:
            file.writelines(store._pieces(key))


@lru_cache(maxsize=2)
def _copied(store: Store, key: str, tag: str) -> _Copy:  # noqa: ARG001 (a new tag is a new object)
    return _Copy(store, key)


def _refused(where: str, expected: str, error: Exception) -> StoreError:
    return StoreError(where, expected=expected, found=_message(error), hint=next_step(error))


def _message(error: Exception) -> str:
    name = type(error).__name__
    return f"{name}: {error}" if _code(error) == name else f"{_code(error)}: {error}"
