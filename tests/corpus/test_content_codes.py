"""Codes of contents: a re-encoded copy has nearly the code of its original, other works have not; opt-outs find copies."""

import io
from datetime import UTC, datetime

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont
from samples import corpus_frames
from stages import run

from provenance.core.tables import OPTOUTS
from provenance.corpus import records
from provenance.corpus.rights.clearance import copies_withheld
from provenance.corpus.rights.content_codes import (
    ALIKE,
    FOLDER,
    code_of,
    codes_key,
    iscc_of,
    read_codes,
    same_contents,
)
from provenance.corpus.rights.optouts import in_force
from provenance.corpus.shards import corpus_in_force

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghjkmnopqrstuvwxyz0123456789"
PROSE = (
    "On a quiet morning in the north, seven lanterns hung above the river, and a stone of amber lay where the orchids grow; "
    "nobody had asked whose it was."
)


def drawing(seed, size=160):
    chance = np.random.default_rng(seed)
    image = Image.new("RGB", (size, size), tuple(chance.integers(0, 255, 3).tolist()))
    pen = ImageDraw.Draw(image)
    for x, y, w, h in chance.integers(0, size, (12, 4)).tolist():
        pen.ellipse([x, y, x + w // 2, y + h // 2], fill=tuple(chance.integers(0, 255, 3).tolist()))
    return image


def letter(sign):
    image = Image.new("L", (28, 28), 0)
    ImageDraw.Draw(image).text((4, 0), sign, fill=255, font=ImageFont.load_default(24))
    return image


def saved(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def bits(first, second):
    assert first[0] == second[0]
    return (int.from_bytes(first[1]) ^ int.from_bytes(second[1])).bit_count()


@pytest.mark.parametrize("change", [
    lambda image: saved(image, "JPEG", quality=90), lambda image: saved(image, "JPEG", quality=40),
    lambda image: saved(image, "WEBP", quality=60), lambda image: saved(image.convert("P"), "GIF"),
    lambda image: saved(image.resize((80, 80))), lambda image: saved(image.resize((320, 320)), "JPEG"),
    lambda image: saved(image.convert("RGBA")), lambda image: saved(image.convert("L"), "TIFF"),
])  # fmt: skip
def test_an_image_that_was_saved_again_is_a_copy(change):
    for seed in range(12):
        image = drawing(seed)
        assert bits(code_of(saved(image), "image"), code_of(change(image), "image")) <= ALIKE


def test_other_images_are_none():
    drawings = [code_of(saved(drawing(seed)), "image") for seed in range(25)]
    letters = [code_of(saved(letter(sign)), "image") for sign in LETTERS]
    for codes in (drawings, letters):
        assert min(bits(a, b) for at, a in enumerate(codes) for b in codes[:at]) > ALIKE


@pytest.mark.parametrize("content", [
    PROSE.encode(), PROSE.encode("utf-16"), b"\xef\xbb\xbf" + PROSE.encode(), PROSE.upper().encode(),
    PROSE.replace(" ", "\r\n").encode(), PROSE.replace(" ", "\u00a0").encode(), PROSE.replace(",", "").encode(),
])  # fmt: skip
def test_a_text_in_another_encoding_is_a_copy(content):
    assert bits(code_of(PROSE.encode(), "text"), code_of(content, "text")) == 0


def test_other_texts_are_none_and_what_is_everybody_s_has_no_code():
    texts = [f"{PROSE[: n * 20]} {' '.join(str(k * n) for k in range(40))}" for n in range(1, 7)]
    codes = [code_of(text.encode(), "text") for text in texts]
    assert min(bits(a, b) for at, a in enumerate(codes) for b in codes[:at]) > ALIKE
    for content, modality in ((b"a b c", "text"), (b"", "text"), (b"\x01" * 9, "music"), (b"no image", "image")):
        assert code_of(content, modality) is None
    assert code_of(saved(Image.new("RGB", (64, 64), "white")), "image") is None


def test_a_code_is_written_as_the_standard_writes_it():
    import iscc_lib

    unit, code = code_of(PROSE.encode(), "text")
    assert iscc_of(unit, code) == iscc_lib.gen_text_code_v0(iscc_lib.text_collapse(PROSE), bits=256)["iscc"]
    data = bytes(range(256)) * 4
    assert iscc_of(*code_of(data, "music")) == iscc_lib.gen_data_code_v0(data, bits=256)["iscc"]


@settings(max_examples=50)
@given(st.binary(max_size=400), st.sampled_from(["image", "text", "code", "music", "scent"]))
def test_no_content_raises(content, modality):
    code = code_of(content, modality)
    assert code is None or len(code[1]) == 32


@given(st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=6, unique=True), st.data())
def test_the_nearest_original_within_the_bound_is_found_and_no_other(originals, data):
    flips = data.draw(st.lists(st.sets(st.integers(0, 255), max_size=2 * ALIKE), max_size=6))
    names = [f"o{n}" for n in range(len(originals))]
    rows = []
    for n, flipped in enumerate(flips):
        word = int.from_bytes(data.draw(st.sampled_from(originals)))
        for bit in flipped:
            word ^= 1 << bit
        rows.append((f"c{n}", "image", word.to_bytes(32)))
    schema = {"content_sha256": pl.String, "unit": pl.String, "code": pl.Binary}
    theirs = pl.DataFrame([(n, "image", code) for n, code in zip(names, originals, strict=True)], schema=schema, orient="row")
    found = same_contents(pl.DataFrame(rows, schema=schema, orient="row"), theirs)
    for name, _, code in rows:
        distances = {n: (int.from_bytes(code) ^ int.from_bytes(o)).bit_count() for n, o in zip(names, originals, strict=True)}
        least = min(distances.values())
        assert (name in found) == (least <= ALIKE)
        assert name not in found or distances[found[name]] == least


def test_an_opt_out_of_a_work_finds_its_re_encoded_copies(store, ingested, doors, shown):
    frames = corpus_frames()
    contents = {
        "work-0-0": [saved(drawing(n)) for n in range(3)],
        "work-1-0": [saved(drawing(n), "JPEG", quality=60) for n in range(3)],  # all of it, saved again
        "work-2-0": [saved(drawing(0), "JPEG", quality=60), saved(drawing(8)), saved(drawing(9))],  # a part of it
    }
    examples = pl.concat(
        frames["examples"].filter(pl.col("work_id") == work).with_columns(content=pl.Series(files), modality=pl.lit("image"))
        for work, files in contents.items()
    )
    rest = frames["examples"].filter(~pl.col("work_id").is_in(list(contents))).with_columns(modality=pl.lit("text"))
    both = pl.concat([examples, rest]).with_columns(licence_spdx=pl.lit("MIT"))
    ingested(frames | {"examples": both})
    assert not store.list(FOLDER), "nothing asks for codes before the first opt-out"
    now = datetime.now(UTC)
    row = {
        "recorded_at": now, "action": "optout", "work_id": "work-0-0", "owner_id": "owner-0", "choice": "paid",
        "effective_on": now.date(), "recorded_by": "ann", "evidence": "a letter",
    }  # fmt: skip
    records.append(store, OPTOUTS, pl.DataFrame([row]), now=now)
    choices = in_force(records.read(store, OPTOUTS), now.date())
    corpus, copies = corpus_in_force(store), [("work-1-0", "work-0-0")]
    assert copies_withheld(doors(), corpus, choices).rows() == copies
    assert not store.list(FOLDER), "who only reads may have no right to write"
    assert shown("rights", "manifest", "--json")["left_out"]["works"] == 2
    run("rights.manifest")
    assert store.list(FOLDER) == sorted(codes_key(part) for part in corpus.shards)
    kept = read_codes(doors(), [corpus])
    assert kept["unit"].unique().sort().to_list() == ["image", "text"]
    assert copies_withheld(doors(), corpus, choices).rows() == copies
    for key in store.list(FOLDER)[1:]:  # of some shards there are codes, of others not
        store.remove(key)
    assert read_codes(doors(), [corpus]).sort("content_sha256").equals(kept.sort("content_sha256"))
    report = shown("rights", "explain", "work-1-0", "--json")
    assert "opt-out: a copy of work-0-0" in report["against_training"]
    assert [row["iscc"][:5] for row in report["source"]["codes"]] == ["ISCC:"] * 3
    # A work that is no longer delivered has its copies all the same, by the corpus that had it.
    ingested(frames | {"examples": both.filter(pl.col("work_id") != "work-0-0")})
    assert copies_withheld(doors(), corpus_in_force(store), choices).rows() == copies
