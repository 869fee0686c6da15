"""The canonical spelling of values, and digests. Import-light: scripts that train load this module."""

from __future__ import annotations

import hashlib
import json


def canonical_json(value: object) -> bytes:
    """The canonical spelling of a JSON value, for digests; ends in a newline."""
    return (json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False) + "\n").encode()


def digest(value: object) -> str:
    """SHA-256 of a JSON value in its canonical spelling, as hex."""
    return sha256(canonical_json(value))


def sha256(data: bytes) -> str:
    """SHA-256 of bytes, as hex."""
    return hashlib.sha256(data).hexdigest()


def identity(content_sha256: str, prompt: bytes | None) -> str:
    """The digest of a content and its prompt, as hex: of the content's digest, a line feed and the prompt.

    Without a prompt it is that of the content.
    """
    return content_sha256 if prompt is None else sha256(f"{content_sha256}\n".encode() + prompt)
