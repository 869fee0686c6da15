"""The key that signs what is published."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from provenance.core.errors import InputError
from provenance.core.store import sha256
from provenance.settlement.exports.proofs import public_pem, read_key
from tasks.settings import SettlementSettings

log = logging.getLogger("provenance.keys")


def signing_key(settings: SettlementSettings) -> Ed25519PrivateKey:
    """The key of the settings; made, for its owner's eyes alone, where there is none."""
    path = settings.key
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        mine = path.with_name(f".{path.name}.{os.getpid()}")
        with os.fdopen(os.open(mine, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(pem)
        try:
            os.link(mine, path)  # whole or not at all, and the first of two
            log.warning("made a new signing key, %s: what is published from now on is signed with it", path)
        except FileExistsError:
            pass
        finally:
            mine.unlink()
    return read_key(path.read_bytes(), str(path))


def trusted_keys(settings: SettlementSettings) -> list[bytes]:
    """The public keys of which one must have signed: the settings' own, where that is at hand, and those that it followed."""
    path = settings.key
    own = [public_pem(read_key(path.read_bytes(), str(path)))] if path.exists() else []
    return own + [retired.read_bytes() for retired in sorted(settings.retired.glob("*.pem"))] if own else []


def replace_key(settings: SettlementSettings) -> Path:
    """Have a new key sign from now on; what the old one signed stays good. Returns the old one's public key."""
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
