import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st

from provenance.core.errors import InputError
from provenance.settlement.exports.proofs import is_signed, prove, proven, public_pem, read_key, root, sign

# The test vectors of Certificate Transparency's reference implementation.
LEAVES = [bytes.fromhex(text) for text in (
    "", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")]  # fmt: skip
ROOTS = {
    0: "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    1: "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    2: "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    3: "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    7: "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    8: "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
}


@pytest.mark.parametrize("count", ROOTS)
def test_the_root_is_that_of_certificate_transparency(count):
    assert root(LEAVES[:count]) == ROOTS[count]


@given(st.lists(st.binary(max_size=20), min_size=1, max_size=40), st.data())
def test_every_line_is_proven_and_no_other(lines, data):
    index = data.draw(st.integers(0, len(lines) - 1))
    steps = prove(lines, index)
    assert len(steps) <= (len(lines) - 1).bit_length()
    assert proven(lines[index], steps) == root(lines)
    other = data.draw(st.binary(max_size=20).filter(lambda line: line != lines[index]))
    assert proven(other, steps) != root(lines)


def test_an_inner_node_is_no_line():
    lines = [b"a", b"b", b"c", b"d"]
    inner = b"".join(hashlib.sha256(b"\x00" + line).digest() for line in lines[:2])
    assert proven(inner, prove(lines, 0)[1:]) != root(lines)


def pem(key):
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def test_a_signature_holds_for_its_key_and_data_alone():
    key, other = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    signature = sign(read_key(pem(key), "key.pem"), b"manifest")
    assert signature == sign(key, b"manifest"), "the same for the same data"
    assert is_signed(public_pem(key), b"manifest", signature)
    assert not is_signed(public_pem(key), b"manifesT", signature)
    assert not is_signed(public_pem(other), b"manifest", signature)
    assert not is_signed(public_pem(key), b"manifest", b"nonsense")


def test_another_key_is_refused():
    with pytest.raises(InputError, match=r"key.pem: expected an Ed25519 private key, found ECPrivateKey|EllipticCurve"):
        read_key(pem(generate_private_key(SECP256R1())), "key.pem")
    with pytest.raises(InputError, match=r"key.pem: expected an Ed25519 private key as PEM"):
        read_key(b"nonsense", "key.pem")
