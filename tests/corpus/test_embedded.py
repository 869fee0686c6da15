"""Reservations in the files themselves are read, whatever the file; and they keep a work out of training."""

import io
import zipfile
import zlib
from datetime import UTC, datetime, timedelta
from time import process_time

import polars as pl
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin
from samples import corpus_frames

from provenance.core.checks import conform
from provenance.core.tables import SIGNALS
from provenance.corpus import records
from provenance.corpus.rights.signals import embedded, in_files
from provenance.corpus.rights.signals.verdicts import verdicts

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
PLUS = "http://ns.useplus.org/ldf/xmp/1.0/"
VOCABULARY = "http://ns.useplus.org/ldf/vocab/"
XMP = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">
<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" xmlns:plus="{plus}"
 xmlns:tdm="http://www.w3.org/ns/tdmrep/" xmlns:xmpRights="http://ns.adobe.com/xap/1.0/rights/" {attributes}>{elements}
</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="w"?>"""


def xmp(attributes="", elements=""):
    return XMP.format(plus=PLUS, attributes=attributes, elements=elements).encode()


def mining(value):
    return xmp(f'plus:DataMining="{VOCABULARY}{value}"')


def picture(kind="JPEG", packet=None):
    image, file, options = Image.radial_gradient("L").resize((64, 64)), io.BytesIO(), {}
    if packet is not None and kind == "PNG":
        options["pnginfo"] = PngImagePlugin.PngInfo()
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", packet.decode(), zip=True)
    elif packet is not None and kind == "TIFF":
        options["tiffinfo"] = {700: packet}
    elif packet is not None:
        options["xmp"] = packet
    image.save(file, kind, **options)
    return file.getvalue()


def read(content):
    rows = embedded.parse(content, "ab", now=NOW)
    conform(SIGNALS, pl.DataFrame(rows, schema=SIGNALS.schema), "signals")
    return rows


def allowed(content):
    signals = pl.DataFrame(read(content), schema=SIGNALS.schema)
    return verdicts(signals, ["sha256:ab"])["allowed"][0]


def packed(kind, packet):
    """A file of a kind with a packet."""
    around = {
        "pdf": (b"%PDF-1.7\n1 0 obj\n<</Type/Metadata/Subtype/XML>>stream\n", b"\nendstream endobj\n%%EOF"),
        "mp4": (b"\x00\x00\x00\x18ftypisom\x00\x00\x02\x00isomiso2" + b"\x00" * 40, b"\x00" * 99),
        "mp3": (b"ID3\x04\x00\x00\x00\x00\x0f\x00PRIV\x00\x00\x00\x00\x00\x00XMP\x00", b"\xff\xfb\x90" * 20),
        "svg": (b'<svg xmlns="http://www.w3.org/2000/svg"><metadata>', b"</metadata></svg>"),
        "svg with a mark": (b'\xef\xbb\xbf<!-- x --><svg xmlns="http://www.w3.org/2000/svg"><metadata>', b"</metadata></svg>"),
        "jpeg 2000": (b"\0\0\0\x0cjP  \r\n\x87\n" + b"\0" * 40, b"\0" * 9),
        "psd": (b"8BPS\0\1" + b"\0" * 20, b""),
        "jpeg xl": (b"\0\0\0\x0cJXL \r\n\x87\n", b"\0"),
        "webm": (b"\x1aE\xdf\xa3\0", b"\0"),
        "ogg": (b"OggS\0\2\0", b"\0"),
        "aiff": (b"FORM\0\0\0\0AIFF", b""),
        "mp3 of MPEG 2": (b"\xff\xf3\x90\0", b"\0"),
        "mov": (b"\0\0\0\x08moov", b"\0"),
    }
    if kind not in around:
        return picture(kind, packet)
    before, after = around[kind]
    return before + packet + after


def segment(data):
    return b"\xff\xe1" + (len(data) + 2).to_bytes(2) + data


def extended(packet, parts):
    """A JPEG whose packet stands in extension segments, the last part first."""
    plain, size = picture("JPEG", xmp()), -(-len(packet) // parts)
    mark = b"http://ns.adobe.com/xmp/extension/\0" + b"0F" * 16 + len(packet).to_bytes(4)
    segments = [segment(mark + at.to_bytes(4) + packet[at : at + size]) for at in range(0, len(packet), size)]
    return plain[:2] + b"".join(reversed(segments)) + plain[2:]


def raw_profile(packet):
    """A PNG as ImageMagick writes it."""
    file, info = io.BytesIO(), PngImagePlugin.PngInfo()
    info.add_text("Raw profile type xmp", f"\nxmp\n{len(packet):8}\n{packet.hex()}\n")
    Image.radial_gradient("L").save(file, "PNG", pnginfo=info)
    return file.getvalue()


HIDDEN = {
    **{f"{kind} in {code}": lambda packet, kind=kind, code=code: packed(kind, packet.decode().encode(code))
       for kind in ("pdf", "JPEG", "psd") for code in ("utf-16", "utf-16-le", "utf-16-be", "utf-32")},
    "an extension of JPEG": lambda packet: extended(packet, 1), "three extensions": lambda packet: extended(packet, 3),
    "a packed stream": lambda packet: packed("pdf", b"").replace(b"stream\n", b"stream\r\n" + zlib.compress(packet)),
    "a raw profile": raw_profile, "after the picture": lambda packet: picture("JPEG", xmp()) + packet,
    "after an empty one": lambda packet: packed("pdf", xmp() + packet),
    "after one that allows": lambda packet: packed("pdf", mining("DMI-ALLOWED") + packet),
    "after many": lambda packet: packed("pdf", b"".join(xmp(f'plus:Version="{n}"') for n in range(60)) + packet),
    "after one that does not end": lambda packet: packed(
        "pdf", b"<rdf:RDF>" + packet.replace(b"rdf:", b"r:").replace(b":rdf", b":r")
    ),
    "a large one": lambda packet: packed("pdf", packet.replace(b"\n", b" " * 2**21, 1)),
}  # fmt: skip


@pytest.mark.parametrize("place", HIDDEN)
def test_a_packet_is_found_wherever_and_however_it_is_written(place):
    assert allowed(HIDDEN[place](mining("DMI-PROHIBITED"))) is False


def test_of_two_reservations_in_one_file_the_stricter_counts():
    assert allowed(packed("pdf", xmp('tdm:reservation="0"') + xmp('tdm:reservation="1"'))) is False


def test_files_that_hide_their_packets_cost_no_time():
    """20,000 open elements cost 16 seconds, and four times that for twice as many."""
    hostile = [b"<rdf:RDF " * 200_000, b"".join(b"<a%d:RDF tdm" % n for n in range(100_000)), b"/Metadata stream\n" * 100_000,
               b"<" * 10**6, b"/Metadata " * 50_000]  # fmt: skip
    start = process_time()
    for body in hostile:
        read(b"%PDF-1.7\n" + body)
    assert process_time() - start < 10


@pytest.mark.parametrize("content", [
    mining("DMI-PROHIBITED"), b"<!doctype html><html>" + mining("DMI-ALLOWED"), b"# how to\n" + mining("DMI-PROHIBITED"),
    mining("DMI-PROHIBITED").decode().encode("utf-16"),
])  # fmt: skip
def test_a_packet_in_a_text_may_be_quoted_and_is_told(content):
    assert allowed(content) is None
    assert ["may quote it" in row["problem"] for row in read(content)] == [True]


@pytest.mark.parametrize(("field", "expected"), [
    ('plus:dataMining="{}DMI-PROHIBITED"', False), ('plus:Data_Mining="{}DMI-PROHIBITED"', False),
    ('Iptc4xmpExt:DataMining="{}DMI-PROHIBITED"', False), ('plus:datamining="{}DMI-ALLOWED"', None),
    ('Iptc4xmpExt:DataMining="{}DMI-ALLOWED"', None), ('tdm:Reservation="1"', False), ('tdm:tdmReservation="1"', False),
    ('tdm:Reservation="0"', None), ('Iptc4xmpExt:tdm-reservation="1"', False),
    ('xmpRights:UsageTerms="No AI training, please"', None),
    ('plus:OtherConstraints="not for machine learning"', None),
    ('xmpRights:UsageTerms="text &amp; data mining reserved"', None),
])  # fmt: skip
def test_nearly_the_fields_of_a_standard_reserve_permit_nothing_and_are_told(field, expected):
    space = ' xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"'
    content = packed("pdf", xmp(field.format(VOCABULARY) + space))
    assert allowed(content) is expected
    assert all(row["problem"] for row in read(content))
    assert read(content)


def test_rights_in_words_that_do_not_speak_of_training_say_nothing():
    assert read(packed("pdf", xmp('xmpRights:UsageTerms="A photo of trains by Ai Weiwe. All rights reserved"'))) == []


@pytest.mark.parametrize("element", [
    "<plus:DataMining><rdf:Bag><rdf:li>{}DMI-PROHIBITED</rdf:li></rdf:Bag></plus:DataMining>",
    '<plus:DataMining><rdf:Bag><rdf:li rdf:resource="{}DMI-PROHIBITED"/></rdf:Bag></plus:DataMining>',
    '<plus:DataMining rdf:parseType="Resource"><rdf:value>{}DMI-PROHIBITED</rdf:value></plus:DataMining>',
])  # fmt: skip
def test_a_value_may_lie_deeper(element):
    assert allowed(packed("pdf", xmp(elements=element.format(VOCABULARY)))) is False


def book(meta, name="OPS/package.opf", compression=zipfile.ZIP_DEFLATED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("mimetype", "application/epub+zip", zipfile.ZIP_STORED)
        archive.writestr(
            name, f'<package xmlns="http://www.idpf.org/2007/opf" version="3.0"><metadata>{meta}</metadata></package>'
        )
    return file.getvalue()


@pytest.mark.parametrize(("meta", "expected", "told"), [
    ('<meta property="tdm:reservation">1</meta>', False, False), ('<meta name="tdm:reservation" content="1"/>', False, False),
    ('<meta property="tdm:reservation"> 0 </meta>', True, False), ('<meta property="tdm:reservation">yes</meta>', None, True),
    ('<meta name="tdm-reservation" content="1"/>', False, False), ("<meta", None, True),
    ('<meta property="tdm:reservation">0</meta><meta property="tdm:reservation">1</meta>', False, False),
    ('<meta property="dcterms:modified">1</meta>', None, False),
])  # fmt: skip
def test_the_package_of_a_book_is_read(meta, expected, told):
    content = book(meta + '<meta property="tdm:policy">https://h.org/p.json</meta>')
    assert allowed(content) is expected
    assert any(row["problem"] for row in read(content)) is told
    assert all(row["terms"] == "https://h.org/p.json" for row in read(content) if row["allowed"] is not None)
    assert all(row["problem"] for row in read(content[:-30]))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "pdf", "mp4", "mp3", "svg", "svg with a mark", "jpeg 2000",
                                  "psd", "jpeg xl", "webm", "ogg", "aiff", "mp3 of MPEG 2", "mov"])  # fmt: skip
@pytest.mark.parametrize(("value", "expected"), [
    ("DMI-UNSPECIFIED", None), ("DMI-ALLOWED", True), ("DMI-PROHIBITED-AIMLTRAINING", False),
    ("DMI-PROHIBITED-GENAIMLTRAINING", False), ("DMI-PROHIBITED-EXCEPTSEARCHENGINEINDEXING", False), ("DMI-PROHIBITED", False),
    ("DMI-PROHIBITED-SEECONSTRAINT", False), ("DMI-PROHIBITED-SEEEMBEDDEDRIGHTSEXPR", False),
    ("DMI-PROHIBITED-SEELINKEDRIGHTSEXPR", False),
])  # fmt: skip
def test_the_data_mining_field_of_plus_is_read_in_every_kind_of_file(kind, value, expected):
    content = packed(kind, mining(value))
    assert allowed(content) is expected
    assert [row["problem"] for row in read(content)] == [None]


@pytest.mark.parametrize(("packet", "expected", "told"), [
    (xmp(elements=f"<plus:DataMining>{VOCABULARY}DMI-PROHIBITED</plus:DataMining>"), False, False),
    (xmp(elements=f'<plus:DataMining rdf:resource="{VOCABULARY}DMI-PROHIBITED"/>'), False, False),
    (xmp('plus:DataMining="https://ns.useplus.org/LDF/ldf-Vocabulary/dmi-prohibited"'), False, False),
    (xmp('plus:DataMining="DMI-PROHIBITED"'), False, False), (xmp('plus:DataMining="PROHIBITED"'), None, True),
    (xmp(f'plus:DataMining="{VOCABULARY}DMI-PROHIBITED-AITRAINING"'), False, True), (xmp('plus:DataMining="no"'), None, True),
    (xmp('tdm:reservation="1"'), False, False), (xmp(elements="<tdm:reservation>1</tdm:reservation>"), False, False),
    (xmp('tdm:reservation="0"'), True, False), (xmp('tdm:reservation="yes"'), None, True),
    (xmp('plus:Version="1.2.0"'), None, False),
    (mining("DMI-PROHIBITED").replace(b"</rdf:Description>", b""), None, True),
    (b'<!DOCTYPE x [<!ENTITY e "1">]>' + xmp('tdm:reservation="1"'), False, False),
])  # fmt: skip
def test_xmp_is_read_as_it_is_written_and_what_cannot_be_understood_is_told(packet, expected, told):
    content = packed("pdf", packet)
    assert allowed(content) is expected
    assert any(row["problem"] for row in read(content)) is told


def test_the_terms_of_a_reservation_are_told():
    attributes = 'tdm:reservation="1" tdm:policy="https://h.org/p.json" xmpRights:WebStatement="https://h.org/terms"'
    (row,) = read(picture("JPEG", xmp(attributes)))
    assert (row["terms"], row["kind"], row["use"]) == ("https://h.org/p.json", "tdmrep", "tdm")
    attributes = f'plus:DataMining="{VOCABULARY}DMI-PROHIBITED-SEECONSTRAINT" plus:OtherConstraints="Ask us"'
    (row,) = read(picture("PNG", xmp(attributes)))
    assert (row["terms"], row["kind"]) == ("Ask us", "iptc")


# Content Credentials


@pytest.fixture(scope="module")
def signer():
    """Signs as somebody whom nobody trusts."""
    import c2pa

    now, keys = datetime.now(UTC), [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]

    def certificate(subject, key, issuer, by):
        is_root = subject == issuer
        names = [
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, n), x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Tests")])
            for n in (subject, issuer)
        ]
        uses = dict.fromkeys(("content_commitment", "key_encipherment", "data_encipherment", "key_agreement"), False)
        uses |= {"encipher_only": False, "decipher_only": False, "digital_signature": not is_root}
        builder = (
            x509.CertificateBuilder(names[1], names[0], key.public_key(), x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=30))
            .add_extension(x509.BasicConstraints(ca=is_root, path_length=None), critical=True)
            .add_extension(x509.KeyUsage(key_cert_sign=is_root, crl_sign=is_root, **uses), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(by.public_key()), critical=False)
        )  # fmt: skip
        if not is_root:
            builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=True)
        return builder.sign(by, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    chain = certificate("leaf", keys[1], "root", keys[0]) + certificate("root", keys[0], "root", keys[0])
    private = keys[1].private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return c2pa.Signer.from_info(c2pa.C2paSignerInfo(alg=b"es256", sign_cert=chain, private_key=private, ta_url=None))


def signed(signer, entries, kind="JPEG", label="cawg.training-mining", content=None):
    """A picture, or `content`, with an assertion on training and data mining."""
    import c2pa

    created = {"action": "c2pa.created", "digitalSourceType": "http://cv.iptc.org/newscodes/digitalsourcetype/digitalCapture"}
    assertions = [{"label": "c2pa.actions.v2", "data": {"actions": [created]}}]
    assertions += [{"label": label, "data": {"entries": entries}}] if entries is not None else []
    made = {"claim_generator_info": [{"name": "tests", "version": "1"}], "title": "t", "assertions": assertions}
    out = io.BytesIO()
    c2pa.Builder(made).sign(signer, f"image/{kind.lower()}", io.BytesIO(content or picture(kind)), out)
    return out.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize(("label", "name", "entry", "expected"), [
    ("cawg.training-mining", "cawg.ai_generative_training", {"use": "notAllowed"}, False),
    ("cawg.training-mining", "cawg.ai_training", {"use": "notAllowed"}, False),
    ("cawg.training-mining", "cawg.data_mining", {"use": "constrained", "constraint_info": "https://h.org/t"}, False),
    ("c2pa.training-mining", "c2pa.ai_generative_training", {"use": "notAllowed"}, False),
    ("c2pa.training-mining", "c2pa.data_mining", {"use": "notAllowed"}, False),
    ("cawg.training-mining", "cawg.ai_inference", {"use": "notAllowed"}, None),
])  # fmt: skip
def test_content_credentials_are_read(signer, kind, label, name, entry, expected):
    content = signed(signer, {name: entry}, kind, label)
    assert allowed(content) is expected
    (row,) = read(content)
    assert (row["kind"], row["allowed"], row["problem"]) == ("c2pa", False, None)
    assert row["terms"] == entry.get("constraint_info")


def test_a_permission_of_somebody_unknown_does_not_count_and_odd_entries_are_told(signer):
    for entries in (
        {"cawg.ai_training": {"use": "allowed"}},
        {"cawg.ai_training": {"use": "perhaps"}},
        {"x.y": {"use": "allowed"}},
    ):
        content = signed(signer, entries)
        assert allowed(content) is None
        assert all(row["problem"] for row in read(content))
    assert read(signed(signer, None)) == []


def test_a_reservation_counts_in_a_file_that_was_changed_since_and_a_broken_file_is_told(signer):
    content = bytearray(signed(signer, {"cawg.ai_training": {"use": "notAllowed"}}))
    content[-40] ^= 255
    assert allowed(bytes(content)) is False
    assert [row["allowed"] for row in read(bytes(content[:4000]))] == [None]
    assert "cannot be read" in read(bytes(content[:4000]))[0]["problem"]


@given(
    st.binary(max_size=200),
    st.sampled_from([b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"%PDF-", b"PK\x03\x04", b"RIFF0000WEBP", b"GIF8", b""]),
)
def test_no_bytes_raise(data, mark):
    read(mark + data)
    read(mark + data + b"c2pa" + mining("DMI-PROHIBITED") + data)


def test_a_reservation_in_its_file_keeps_a_work_out_of_training(store, ingested, shown):
    frames = corpus_frames()
    reserved, free = packed("pdf", mining("DMI-PROHIBITED")), packed("pdf", mining("DMI-ALLOWED"))
    content = (
        pl.when(pl.struct("work_id", "position") == pl.struct(pl.lit("work-1-0").alias("work_id"), pl.lit(1).alias("position")))
        .then(pl.lit(reserved)).when(pl.col("work_id") == "work-2-0").then(pl.lit(free)).otherwise("content")
    )  # fmt: skip
    ingested(frames | {"examples": frames["examples"].with_columns(content=content, licence_spdx=pl.lit("MIT"))})
    signals = records.read(store, SIGNALS)
    assert set(signals["kind"]) == {"iptc"}
    assert signals["about"].str.starts_with("sha256:").all()
    manifest = shown("rights", "manifest", "--json")
    assert manifest["left_out"] | {"examples": 0} == {"works": 1, "examples": 0, "because": {"signal": 1}}
    report = shown("rights", "explain", "work-1-0", "--json")
    assert any("plus:DataMining" in why for why in report["against_training"])
    assert any(row["counts"] for row in report["signals"])
    assert "sha256:" in str(shown("rights", "signals", "show", signals["about"][0], "--json"))


def test_files_of_known_shards_are_read_again_by_a_reader_that_reads_more(store, ingested, monkeypatch):
    """Their codes were there, so an ingest after an update recorded no signal of them."""
    frames = corpus_frames()
    reserved = (
        pl.when(pl.col("work_id") == "work-1-0").then(pl.lit(packed("pdf", mining("DMI-PROHIBITED")))).otherwise("content")
    )
    frames |= {"examples": frames["examples"].with_columns(content=reserved)}
    monkeypatch.setattr(embedded, "parse", lambda *_, **__: [])
    ingested(frames)
    assert records.read(store, SIGNALS).is_empty()
    monkeypatch.undo()
    ingested(frames)
    assert records.read(store, SIGNALS).is_empty()
    for key in store.list(in_files.READ):
        store.remove(key)
    ingested(frames)
    assert records.read(store, SIGNALS)["kind"].unique().to_list() == ["iptc"]
    count = records.read(store, SIGNALS).height
    ingested(frames)
    assert records.read(store, SIGNALS).height == count
