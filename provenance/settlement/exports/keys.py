"""Makes, reads and replaces the key that signs exports."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

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
