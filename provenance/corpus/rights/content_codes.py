"""ISCC codes of contents (ISO 24138), so that an opt-out of a work finds its re-encoded copies.

    frozen/codes/<version>/<SHA-256 of a shard>.parquet     `content_sha256, unit, code`: the codes of its contents
    frozen/read/<version>/<SHA-256 of a shard>.json         its files were read for signals, by this version of the reader

A code is an ISCC content unit of 256 bits: of pixels for images, of letters for text and code. Other contents have the data
unit, of their bytes. Of two contents of one unit, fewer different bits mean more alike; unrelated ones differ in about half.
An image that was scaled, or saved again as JPEG, WebP or GIF, differs in up to 16 of 256 bits, letters of one typeface in 30 or
more (`tests/corpus/test_content_codes.py`); a text in another encoding, with other blanks or letter case, differs in none.

Ingesting a corpus makes the codes of new shards, and records the signals in their files (`signals.embedded`).
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from datetime import datetime

import numpy as np
import polars as pl

from provenance.core.store import Store
from provenance.core.tables import SIGNALS
from provenance.core.where import Where, batched
from provenance.corpus import records
from provenance.corpus.rights.signals import embedded
from provenance.corpus.shards import FrozenCorpus, Part, read_part

FOLDER = "frozen/codes/1"
# Raised with what `signals.embedded` reads, so that an ingest reads the files of known shards again.
READ = "frozen/read/2"
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


def read_key(part: Part) -> str:
    """The key of the mark that a shard's files were read for signals."""
    return f"{READ}/{part.sha256}.json"


def code_missing(where: Where, corpus: FrozenCorpus, now: datetime) -> int:
    """Make the codes of the shards that have none, on the workers, and record the signals in files that were not read yet.

    Args:
        now: recorded time of the signals.

    Returns:
        The number of signals recorded.
    """
    present = {*where.store.list(FOLDER), *where.store.list(READ)}
    missing = [part for part in corpus.shards if not {codes_key(part), read_key(part)} <= present]
    batches = list(batched(missing, TASK))
    return sum(where.workers.map(_read_shards, (where.store, now), batches, what="codes of contents")) if missing else 0


def read_codes(store: Store, corpus: FrozenCorpus) -> pl.DataFrame:
    """The codes of a corpus's contents: `content_sha256, unit, code`; of shards of before there are none."""
    present = set(store.list(FOLDER))
    keys = [codes_key(part) for part in corpus.shards if codes_key(part) in present]
    return pl.concat([pl.DataFrame(schema=SCHEMA), *map(store.read_table, keys)]).unique("content_sha256")


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


def _read_shards(shared: tuple[Store, datetime], parts: Sequence[Part]) -> int:
    return sum(_read_shard(shared, part) for part in parts)


def _read_shard(shared: tuple[Store, datetime], part: Part) -> int:
    store, now = shared
    frame = read_part(store, part.sha256, "content", "modality", "content_sha256").unique("content_sha256", maintain_order=True)
    if not store.exists(codes_key(part)):
        coded = ((sha, code_of(content, modality)) for content, modality, sha in frame.iter_rows())
        codes = [(sha, *code) for sha, code in coded if code is not None]
        store.write_table(codes_key(part), pl.DataFrame(codes, schema=SCHEMA, orient="row"))
    if store.exists(read_key(part)):
        return 0
    signals = [fields for content, _, sha in frame.iter_rows() for fields in embedded.parse(content, sha, now=now)]
    if signals:
        records.append(store, SIGNALS, pl.DataFrame(signals, schema=SIGNALS.schema), now=now)
    # Last, so that a shard is read again if its signals were not recorded.
    store.write(read_key(part), b"{}\n")
    return len(signals)


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
