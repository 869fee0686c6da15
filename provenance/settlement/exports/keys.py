"""Makes, reads and replaces the key that signs exports."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_public_key

from provenance.core.errors import InputError
from provenance.core.settings import SettlementSettings
from provenance.core.store import sha256
from provenance.settlement.exports.proofs import public_pem, read_key

log = logging.getLogger("provenance.keys")


def signing_key(settings: SettlementSettings) -> Ed25519PrivateKey:
    """The signing key of the settings; makes it, readable by its owner alone, if there is none."""
    path = settings.key
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(pem)
        try:
            os.link(temporary, path)  # atomic: of two processes, the first makes the key
            log.warning("made a new signing key, %s: exports are signed with it from now on", path)
        except FileExistsError:
            pass
        finally:
            temporary.unlink()
    return read_key(path.read_bytes(), str(path))


def trusted_keys(settings: SettlementSettings) -> list[bytes]:
    """Public keys that may have signed: the one of the settings, and retired ones; empty where the key is not at hand."""
    path = settings.key
    own = [public_pem(read_key(path.read_bytes(), str(path)))] if path.exists() else []
    return own + [retired.read_bytes() for retired in sorted(settings.retired.glob("*.pem"))] if own else []


def public_key_of(path: Path) -> bytes:
    """A signer's public key in a file, as PEM. Raises InputError if the file has none."""
    try:
        pem = path.read_bytes()
        found = "" if isinstance(load_pem_public_key(pem), Ed25519PublicKey) else "a key of another kind"
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        found = (error.strerror or "no file") if isinstance(error, OSError) else "something else"
    if found:
        raise InputError(str(path), expected="a public key (Ed25519) as PEM, as in exports/keys", found=found)
    return pem


def replace_key(settings: SettlementSettings) -> Path:
    """Make a new signing key; signatures of the old one stay valid. Returns the file of the old public key."""
    path = settings.key
    if not path.exists():
        raise InputError(str(path), expected="a key to replace", found="none", hint="The first export makes one.")
    pem = public_pem(read_key(path.read_bytes(), str(path)))
    retired = settings.retired / f"{sha256(pem)[:16]}.pem"
    retired.parent.mkdir(parents=True, exist_ok=True)
    retired.write_bytes(pem)
    path.unlink()
    signing_key(settings)
    return retired
