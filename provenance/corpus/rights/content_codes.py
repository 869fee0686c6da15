"""ISCC codes of contents (ISO 24138), so that an opt-out of a work finds its re-encoded copies.

    frozen/codes/<version>/<SHA-256 of a shard>.parquet     `content_sha256, unit, code`: the codes of its contents

A code is an ISCC content unit of 256 bits: of pixels for images, of letters for text and code. Other contents have the data
unit, of their bytes. Of two contents of one unit, fewer different bits mean more alike; unrelated ones differ in about half.
An image that was scaled, or saved again as JPEG, WebP or GIF, differs in up to 16 of 256 bits, letters of one typeface in 30 or
more (`tests/corpus/test_content_codes.py`); a text in another encoding, with other blanks or letter case, differs in none.

Codes are made once there is an opt-out to ask for: until then nothing would read them, and they cost more than anything else
that an ingest does with a text. The stage that clears works keeps them (`keep_codes`); who only reads makes what is missing.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable, Sequence

import numpy as np
import polars as pl

from provenance.core.store import Store
from provenance.core.where import Where, batched
from provenance.corpus.shards import FrozenCorpus, Part, read_part

FOLDER = "frozen/codes/1"
BITS = 256
# Contents of one unit with at most so many different bits are copies.
ALIKE = 16
IMAGE, TEXT, DATA = "image", "text", "data"
# Pixels on a side of the thumbnail of which an Image-Code is made (ISO 24138, 5.3).
SIDE = 32
# Texts with fewer letters are everybody's; contents with fewer bytes, too.
LETTERS, BYTES = 40, 256
SCHEMA = pl.Schema([("content_sha256", pl.String()), ("unit", pl.String()), ("code", pl.Binary())])
# Shards read by one task.
TASK = 16
# Codes compared at a time, to limit memory.
AT_ONCE = 200_000


def codes_key(part: Part) -> str:
    """The key of a shard's codes."""
    return f"{FOLDER}/{part.sha256}.parquet"


def keep_codes(where: Where, corpora: Iterable[FrozenCorpus]) -> None:
    """Make the codes of the shards that have none, on the workers, and keep them."""
    _, missing = _sorted_out(where.store, corpora)
    for _ in where.workers.map(_keep, where.store, list(batched(missing, TASK)), what="codes of contents"):
        pass


def read_codes(where: Where, corpora: Iterable[FrozenCorpus]) -> pl.DataFrame:
    """The codes of the contents of corpora: `content_sha256, unit, code`; those that are not kept are made on the workers."""
    kept, missing = _sorted_out(where.store, corpora)
    tables = [pl.DataFrame(schema=SCHEMA), *(where.store.read_table(codes_key(part)) for part in kept)]
    if missing:
        tables += where.workers.map(_make, where.store, missing, what="codes of contents")
    return pl.concat(tables).unique("content_sha256", keep="first")


def _sorted_out(store: Store, corpora: Iterable[FrozenCorpus]) -> tuple[list[Part], list[Part]]:
    """The shards of corpora whose codes are kept, and those without."""
    present = set(store.list(FOLDER))
    shards = {part.sha256: part for corpus in corpora for part in corpus.shards}.values()
    return [p for p in shards if codes_key(p) in present], [p for p in shards if codes_key(p) not in present]


def _keep(store: Store, parts: Sequence[Part]) -> None:
    for part in parts:
        store.write_table(codes_key(part), _make(store, part))


def _make(store: Store, part: Part) -> pl.DataFrame:
    """The codes of a shard's contents."""
    contents = read_part(store, part.sha256, "content", "modality", "content_sha256")
    return codes_of(contents.unique("content_sha256", keep="first", maintain_order=True))


def codes_of(contents: pl.DataFrame) -> pl.DataFrame:
    """The codes of some contents, `content, modality, content_sha256`, as far as they have one."""
    coded = ((sha, code_of(content, modality)) for content, modality, sha in contents.iter_rows())
    return pl.DataFrame([(sha, *code) for sha, code in coded if code is not None], schema=SCHEMA, orient="row")


def code_of(content: bytes, modality: str) -> tuple[str, bytes] | None:
    """The unit and the code of a content; None if it has none: too short, blank, or no whole image."""
    import iscc_lib

    if modality == "image":
        pixels = _thumbnail(content)
        return None if pixels is None else (IMAGE, _digest(iscc_lib.gen_image_code_v0(pixels, bits=BITS)["iscc"]))
    if modality in {"text", "code"}:
        letters = iscc_lib.text_collapse(_text(content))
        return None if len(letters) < LETTERS else (TEXT, _digest(iscc_lib.gen_text_code_v0(letters, bits=BITS)["iscc"]))
    return None if len(content) < BYTES else (DATA, _digest(iscc_lib.gen_data_code_v0(content, bits=BITS)["iscc"]))


def iscc_of(unit: str, code: bytes) -> str:
    """The ISCC of a code, as catalogues write it."""
    import iscc_lib

    kinds = {IMAGE: (iscc_lib.MT.CONTENT, iscc_lib.ST.IMAGE), TEXT: (iscc_lib.MT.CONTENT, iscc_lib.ST.TEXT)}
    main, sub = kinds.get(unit, (iscc_lib.MT.DATA, iscc_lib.ST.NONE))
    component: str = iscc_lib.encode_component(main, sub, iscc_lib.VS.V0, BITS, code)
    return f"ISCC:{component}".replace("ISCC:ISCC:", "ISCC:")


def same_contents(codes: pl.DataFrame, originals: pl.DataFrame) -> dict[str, str]:
    """For each content that is a re-encoded copy, the most alike of some original contents, by digests.

    Args:
        codes, originals: `content_sha256, unit, code`.
    """
    found: dict[str, str] = {}
    for unit, group in originals.group_by("unit"):
        ordered = group.sort("content_sha256")
        against, names = _words(ordered["code"]), ordered["content_sha256"].to_list()
        candidates = codes.filter(pl.col("unit") == unit[0]).join(originals, on="content_sha256", how="anti")
        step = max(1, AT_ONCE // len(names))
        for start in range(0, candidates.height, step):
            chunk = candidates[start : start + step]
            distance = np.bitwise_count(_words(chunk["code"])[:, None] ^ against[None]).sum(axis=2, dtype=np.int64)
            nearest = distance.argmin(axis=1)
            near = distance[np.arange(len(nearest)), nearest] <= ALIKE
            found |= {
                content: names[at]
                for content, at, alike in zip(chunk["content_sha256"], nearest.tolist(), near.tolist(), strict=True)
                if alike
            }
    return found


def _words(codes: pl.Series) -> np.ndarray:
    """Codes as `(len(codes), BITS // 64)` uint64."""
    return np.frombuffer(b"".join(codes.to_list()), dtype=np.uint64).reshape(len(codes), BITS // 64)


def _digest(iscc: str) -> bytes:
    import iscc_lib

    return bytes(iscc_lib.iscc_decode(iscc)[-1])


def _text(content: bytes) -> str:
    """The text of a content, in UTF-8, in UTF-16 with a mark, or in Latin-1, which reads all bytes."""
    encoding = "utf-16" if content.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        return content.decode(encoding)
    except UnicodeDecodeError:
        return content.decode("latin-1")


def _thumbnail(content: bytes) -> bytes | None:
    """The pixels of which an Image-Code is made: 32 x 32 shades of grey, over white; None if this is no whole image."""
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(content)) as stored:
            image = ImageOps.exif_transpose(stored)
            if image.has_transparency_data:
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
            grey = image.convert("L").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    low, high = grey.getextrema()
    return None if low == high else grey.tobytes()  # one shade alone is nobody's
