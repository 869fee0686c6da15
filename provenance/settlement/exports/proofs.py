"""What makes a published file provable: a signature on its manifest, and a tree of hashes over its lines.

The tree is that of Certificate Transparency (RFC 6962, section 2.1), with SHA-256: its root stands in the manifest, and a proof
of some forty hashes shows that a line is among millions without showing any other.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key, load_pem_public_key

from provenance.core.errors import InputError

# One side of a step of a proof, and the hash that stands there.
Step = tuple[str, str]
LEFT, RIGHT = "left", "right"


def root(lines: Sequence[bytes]) -> str:
    """The root of the tree over lines, in hex."""
    return _root([_leaf(line) for line in lines]).hex()


def prove(lines: Sequence[bytes], index: int) -> list[Step]:
    """What it takes to get from one line to the root, from below."""
    return [(side, node.hex()) for side, node in _path([_leaf(line) for line in lines], index)]


def proven(line: bytes, steps: Sequence[Step]) -> str:
    """The root that a line and its proof lead to."""
    node = _leaf(line)
    for side, other in steps:
        node = _node(bytes.fromhex(other), node) if side == LEFT else _node(node, bytes.fromhex(other))
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
    """A private key from its PEM; raises InputError where it is none, or of another kind."""
    try:
        key = load_pem_private_key(pem, None)
    except (ValueError, TypeError) as error:
        raise InputError(where, expected="an Ed25519 private key as PEM, without a password", found=str(error)) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise InputError(where, expected="an Ed25519 private key", found=type(key).__name__)
    return key


def public_pem(key: Ed25519PrivateKey) -> bytes:
    """The public key, as accountants and owners get it."""
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def sign(key: Ed25519PrivateKey, data: bytes) -> bytes:
    """A signature in base64; the same for the same data."""
    return base64.b64encode(key.sign(data)) + b"\n"


def is_signed(pem: bytes, data: bytes, signature: bytes) -> bool:
    """Whether a signature is that of a public key on data."""
    key = load_pem_public_key(pem)
    if not isinstance(key, Ed25519PublicKey):
        return False
    try:
        key.verify(base64.b64decode(signature, validate=False), data)
    except (InvalidSignature, ValueError):
        return False
    return True
