"""The store: immutable parts under digests, and the small writes that make them real.

A key is a path below the store's root. A write is whole or absent to every reader, on a local disk (written aside, then
renamed) and on S3 (one PUT). `create` and `replace` are conditional: of two writers one wins and the other learns it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import io
import json
import os
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, cast

import fsspec
import polars as pl
from fsspec.implementations.local import LocalFileSystem

from provenance.core.errors import StoreError
from provenance.core.text import ESCAPED, FORMULA

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

# What only a person can mend. Anything else that a file system raises may pass, and is left to the caller's retries.
REFUSALS = (PermissionError, FileNotFoundError, NotADirectoryError, IsADirectoryError)


def canonical_json(value: object) -> bytes:
    """The one spelling of a JSON value whose digest is taken, ended by a newline."""
    return (json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False) + "\n").encode()


def digest(value: object) -> str:
    """SHA-256 of a JSON value in its canonical spelling, as hex."""
    return sha256(canonical_json(value))


def sha256(data: bytes) -> str:
    """SHA-256 of bytes, as hex."""
    return hashlib.sha256(data).hexdigest()


def to_parquet(frame: pl.DataFrame) -> bytes:
    """A frame as Parquet bytes; equal frames give equal bytes."""
    buffer = io.BytesIO()
    frame.rechunk().write_parquet(buffer, compression="zstd", statistics=True, row_group_size=65_536)
    return buffer.getvalue()


def from_parquet(data: bytes, where: str, *, columns: Sequence[str] | None = None) -> pl.DataFrame:
    """The inverse of `to_parquet`; `where` names the file in an error."""
    try:
        return pl.read_parquet(io.BytesIO(data), columns=list(columns) if columns else None)
    except pl.exceptions.PolarsError as error:
        raise StoreError(where, expected="a Parquet file", found=str(error)) from error


def to_csv(frame: pl.DataFrame) -> bytes:
    """A frame as CSV, a line for each row; no cell of text is a formula to whoever opens it in a spreadsheet.

    Text that would be one has an apostrophe before it (OWASP, CSV injection), and controls are blanks; `from_csv` takes it
    back. Numbers stay numbers.
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
    """An object of a store: how large it is, and when it was last written."""

    key: str
    bytes: int
    modified: datetime


@dataclass(frozen=True)
class Store:
    """Bytes, JSON and tables below one URL, `file://` or `s3://`.

    Attributes:
        url: the root, as a person would write it.
        options: storage options of fsspec, such as `endpoint_url` for S3; never secrets that belong in the environment.
    """

    url: str
    options: Mapping[str, Any]

    @property
    def fs(self) -> fsspec.AbstractFileSystem:
        """The file system behind the URL; fsspec keeps one instance per set of options and process."""
        extra = {"use_listings_cache": False} if self.url.startswith("s3://") else {}
        return fsspec.filesystem(self.url.split("://", 1)[0], **extra, **self.options)

    def path(self, key: str) -> str:
        """Where a key lies, as the file system spells it."""
        return f"{self.fs._strip_protocol(self.url).rstrip('/')}/{key}"

    def locate(self, key: str) -> str:
        """Where a key lies, as a person would write it."""
        return f"{self.url.rstrip('/')}/{key}"

    def check_writable(self) -> None:
        """Raise StoreError if a small write below the root is refused."""
        probe = f".write-check-{uuid.uuid4().hex}"
        try:
            self.write(probe, b"")
            self.remove(probe)
        except Exception as error:
            # A slow or absent server may be back at the next try, so only what a person must mend is bad input.
            lasting = isinstance(error, OSError) and error.errno in {errno.EROFS, errno.ENOSPC, errno.EDQUOT}
            if lasting or type(error).__name__ in {"NoCredentialsError", "PartialCredentialsError"}:
                raise self._refused("", "a writable store", error) from error
            raise

    def exists(self, key: str) -> bool:
        """Whether an object lies at `key`."""
        try:
            return bool(self.fs.exists(self.path(key)))
        except REFUSALS as error:
            raise self._refused(key, "a readable store", error) from error

    def list(self, prefix: str) -> list[str]:
        """Keys of all objects below a folder, sorted; none if it does not exist."""
        root = self.path("")
        try:
            keys = (str(found).removeprefix(root) for found in self.fs.find(self.path(prefix)))
            return sorted(key for key in keys if not key.rsplit("/", 1)[-1].startswith("."))  # not what a kill left aside
        except FileNotFoundError:
            return []
        except REFUSALS as error:
            raise self._refused(prefix, "a readable store", error) from error

    def describe(self) -> Iterator[Stored]:
        """All objects, also those that a kill left half-written, which `list` does not show."""
        root = self.path("")
        try:
            found = self.fs.find(root, detail=True)
        except REFUSALS as error:
            raise self._refused("", "a readable store", error) from error
        for path, facts in sorted(found.items()):
            modified = facts["LastModified"] if "LastModified" in facts else datetime.fromtimestamp(facts["mtime"], UTC)
            yield Stored(str(path).removeprefix(root), int(facts["size"]), modified)

    def read(self, key: str) -> bytes:
        """The object at `key`."""
        try:
            return bytes(self.fs.cat_file(self.path(key)))
        except FileNotFoundError as error:
            raise StoreError(self.locate(key), expected="an object", found="nothing") from error
        except REFUSALS as error:
            raise self._refused(key, "a readable object", error) from error

    def write(self, key: str, data: bytes) -> None:
        """Write an object, replacing what was there in one step."""
        path = self.path(key)
        try:
            if isinstance(self.fs, LocalFileSystem):
                aside = self._write_aside(path, data)
                os.replace(aside, path)
            else:
                self.fs.pipe_file(path, data)
        except REFUSALS as error:
            raise self._refused(key, "a writable store", error) from error

    def create(self, key: str, data: bytes) -> bool:
        """Write an object only if there is none; False if there was one. Exclusive also between processes."""
        path = self.path(key)
        try:
            if isinstance(self.fs, LocalFileSystem):
                aside = self._write_aside(path, data)
                try:
                    os.link(aside, path)  # fails where the name is taken, and never shows half a file
                finally:
                    os.unlink(aside)
            else:
                self.fs.pipe_file(path, data, mode="create")
        except FileExistsError:
            return False
        except REFUSALS as error:
            raise self._refused(key, "a writable store", error) from error
        except OSError:
            # A lost race is FileExistsError on AWS and a bare OSError elsewhere, so look who holds the name.
            if self.exists(key):
                return False
            raise
        return True

    def replace(self, key: str, data: bytes, *, previous: bytes) -> bool:
        """Write an object only if it is still what it was; False if somebody else has written since."""
        path = self.path(key)
        try:
            if isinstance(self.fs, LocalFileSystem):
                folder, name = os.path.split(path)
                with open(f"{folder}/.{name}.lock", "wb") as lock:
                    fcntl.flock(lock, fcntl.LOCK_EX)  # until it is closed, or its process is gone
                    if self.read(key) != previous:
                        return False
                    self.write(key, data)
                return True
            tag = self.fs.info(path)["ETag"]
            if self.read(key) != previous:
                return False
            self.fs.pipe_file(path, data, IfMatch=tag)
        except REFUSALS as error:
            raise self._refused(key, "a writable store", error) from error
        except OSError:
            if self.read(key) == previous:  # not because it has changed
                raise
            return False
        return True

    def remove(self, key: str) -> None:
        """Remove an object."""
        self.fs.rm_file(self.path(key))

    def remove_all(self, keys: Sequence[str]) -> None:
        """Remove up to 1,000 objects at once, one after the other on a disk; those that are gone already are none."""
        paths = [self.path(key) for key in keys]
        try:
            if isinstance(self.fs, LocalFileSystem):
                for path in paths:
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(path)
                return
            names = [self.fs.split_path(path)[:2] for path in paths]
            asked = {"Objects": [{"Key": name} for _, name in names], "Quiet": True}
            answer = self.fs.call_s3("delete_objects", Bucket=names[0][0], Delete=asked)
        except REFUSALS as error:
            raise self._refused(keys[0], "a writable store", error) from error
        for refused in answer.get("Errors", []):
            said = f"{refused.get('Code')}: {refused.get('Message')}"
            raise StoreError(self.locate(refused["Key"]), expected="an object that may be removed", found=said)

    def read_json(self, key: str) -> dict[str, Any]:
        """The JSON object at `key`."""
        try:
            return cast("dict[str, Any]", json.loads(self.read(key)))
        except ValueError as error:
            raise StoreError(self.locate(key), expected="JSON", found=str(error)) from error

    def read_table(self, key: str, *, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """The Parquet table at `key`, or some of its columns."""
        return from_parquet(self.read(key), self.locate(key), columns=columns)

    def write_table(self, key: str, frame: pl.DataFrame) -> str:
        """Write a table as Parquet; returns the file's SHA-256."""
        data = to_parquet(frame)
        self.write(key, data)
        return sha256(data)

    def fetch(self, prefix: str, files: Mapping[str, str], folder: Path) -> Path:
        """Copy objects below `prefix` to a local folder, checked against their SHA-256, once.

        `files` maps names to digests. The folder appears whole or not at all.
        """
        if folder.is_dir():
            return folder
        aside = folder.with_name(f".{folder.name}-{uuid.uuid4().hex}")
        for name, expected in files.items():
            if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
                raise StoreError(self.locate(prefix), expected="names of files below it", found=repr(name))
            data = self.read(f"{prefix}/{name}")
            if sha256(data) != expected:
                raise StoreError(self.locate(f"{prefix}/{name}"), expected=f"SHA-256 {expected}", found=sha256(data))
            target = aside / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        try:
            aside.rename(folder)
        except OSError:  # another process was first, with the same bytes
            if not folder.is_dir():
                raise
        return folder

    def _write_aside(self, path: str, data: bytes) -> str:
        folder, name = os.path.split(path)
        try:
            os.makedirs(folder, exist_ok=True)
        except FileExistsError as error:
            raise NotADirectoryError(error.errno, "a file is where a folder should be", folder) from error
        aside = f"{folder}/.{name}.{uuid.uuid4().hex}"
        try:
            with open(aside, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            if os.path.exists(aside):
                os.unlink(aside)
            raise
        return aside

    def _refused(self, key: str, expected: str, error: Exception) -> StoreError:
        return StoreError(
            self.locate(key),
            expected=expected,
            found=f"{type(error).__name__}: {error}",
            hint="Check the URL, the credentials and the free space of [store] in the settings.",
        )
