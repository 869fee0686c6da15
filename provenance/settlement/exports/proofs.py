"""Proves published files: signatures on manifests, and trees of hashes over lines.

The tree is that of Certificate Transparency (RFC 6962, section 2.1), with SHA-256. Its root is in the manifest. A proof of some
forty hashes shows that a line is among millions, and shows no other line.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key, load_pem_public_key

from provenance.core.errors import InputError

# A step of a proof: the side of the sibling, and its hash.
Step = tuple[str, str]
LEFT, RIGHT = "left", "right"


def root(lines: Sequence[bytes]) -> str:
    """The root of the tree over lines, in hex."""
    return _root([_leaf(line) for line in lines]).hex()


def prove(lines: Sequence[bytes], index: int) -> list[Step]:
    """The proof of a line: the sibling hashes on its way to the root, the lowest first."""
    return [(side, node.hex()) for side, node in _path([_leaf(line) for line in lines], index)]


def proven(line: bytes, steps: Sequence[Step]) -> str:
    """The root that a line and its proof lead to."""
    node = _leaf(line)
    for side, sibling in steps:
        node = _node(bytes.fromhex(sibling), node) if side == LEFT else _node(node, bytes.fromhex(sibling))
    return node.hex()


def _leaf(line: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + line).digest()


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def _half(count: int) -> int:
    """The largest power of two below count."""
    return 1 << ((count - 1).bit_length() - 1)


def _root(leaves: Sequence[bytes]) -> bytes:
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    half = _half(len(leaves))
    return _node(_root(leaves[:half]), _root(leaves[half:]))


def _path(leaves: Sequence[bytes], index: int) -> list[tuple[str, bytes]]:
    if len(leaves) == 1:
        return []
    half = _half(len(leaves))
    if index < half:
        return [*_path(leaves[:half], index), (RIGHT, _root(leaves[half:]))]
    return [*_path(leaves[half:], index - half), (LEFT, _root(leaves[:half]))]


def read_key(pem: bytes, where: str) -> Ed25519PrivateKey:
    """Read a private key from PEM; raises InputError if it is not an Ed25519 key."""
    try:
        key = load_pem_private_key(pem, None)
    except (ValueError, TypeError) as error:
        raise InputError(where, expected="an Ed25519 private key as PEM, without a password", found=str(error)) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise InputError(where, expected="an Ed25519 private key", found=type(key).__name__)
    return key


def public_pem(key: Ed25519PrivateKey) -> bytes:
    """The public key of a private one, as PEM."""
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def sign(key: Ed25519PrivateKey, data: bytes) -> bytes:
    """A signature in base64; the same for the same data."""
    return base64.b64encode(key.sign(data)) + b"\n"


def is_signed(pem: bytes, data: bytes, signature: bytes) -> bool:
    """Whether a public key verifies a signature on data."""
    key = load_pem_public_key(pem)
    if not isinstance(key, Ed25519PublicKey):
        return False
    try:
        key.verify(base64.b64decode(signature, validate=False), data)
    except (InvalidSignature, ValueError):
        return False
    return True
