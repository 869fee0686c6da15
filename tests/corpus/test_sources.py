"""Sources: all spellings of a name are one name, distinct works stay apart, order and repetition have no effect."""

import random
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from provenance.core.tables import REGISTRY, SOURCES
from provenance.corpus.rights.sources import canonical as module
from provenance.corpus.rights.sources.canonical import MANY, PAGE, canonical, identify
from provenance.corpus.rights.sources.registry import MOST_LISTINGS, registry, source_ids

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
# One line for each work: its one spelling, then others that are seen.
SPELLINGS = {
    "youtube:dQw4w9WgXcQ": """https://www.youtube.com/watch?v=dQw4w9WgXcQ http://youtube.com/watch?v=dQw4w9WgXcQ&t=42s
        https://m.youtube.com/watch?app=desktop&v=dQw4w9WgXcQ https://youtu.be/dQw4w9WgXcQ?si=abc
        https://www.youtube.com/shorts/dQw4w9WgXcQ
        https://www.youtube.com/embed/dQw4w9WgXcQ?rel=0 https://www.youtube-nocookie.com/embed/dQw4w9WgXcQ
        https://music.youtube.com/watch?v=dQw4w9WgXcQ&list=RD https://www.youtube.com/live/dQw4w9WgXcQ?feature=share
        https://www.youtube.com/watch?v=dQw4w9WgXcQ&list=PLFgquLnL59alCl_2TQvOiD5Vgm1hCaGSI&index=2""",
    "arxiv:1706.03762": """arXiv:1706.03762 https://arxiv.org/abs/1706.03762 http://arxiv.org/pdf/1706.03762
        https://arxiv.org/pdf/1706.03762.pdf
        https://export.arxiv.org/abs/1706.03762 https://doi.org/10.48550/arXiv.1706.03762 doi:10.48550/ARXIV.1706.03762
        https://ar5iv.labs.arxiv.org/html/1706.03762 https://arxiv.org/html/1706.03762""",
    "arxiv:1706.03762v5": "arXiv:1706.03762v5 https://arxiv.org/abs/1706.03762v5 https://arxiv.org/pdf/1706.03762v5.pdf",
    "arxiv:math/0309136": "arXiv:math.GT/0309136 https://arxiv.org/abs/math/0309136 https://arxiv.org/pdf/math.GT/0309136",
    "doi:10.1038/nature14539": """10.1038/nature14539 doi:10.1038/nature14539 DOI:10.1038/NATURE14539
        https://doi.org/10.1038/nature14539
        http://dx.doi.org/10.1038/nature14539 https://www.doi.org/10.1038%2Fnature14539 info:doi/10.1038/nature14539
        urn:doi:10.1038/nature14539 https://doi.org/10.1038/nature14539?utm_source=mail""",
    "isbn:9780471117094": """isbn:9780471117094 ISBN:0-471-11709-9 urn:isbn:0471117099 978-0-471-11709-4 9780471117094
        isbn:978-0-471-11709-4""",
    "isrc:USSKG1912345": "isrc:US-SKG-19-12345 ISRC:usskg1912345 urn:isrc:USSKG1912345",
    "iswc:T0345246801": "iswc:T-034.524.680-1 ISWC:T0345246801",
    "pkg:pypi/zope-interface@5rc1": """pkg:pypi/zope.interface@5.0rc1 pkg:pypi/zope.interface@5.0.0rc1
        pkg:pypi/Zope_Interface@5.0-RC1
        https://pypi.org/project/zope.interface/5.0rc1/ https://pypi.org/pypi/zope-interface/5.0rc1/json""",
    "pkg:npm/%40angular/core@17.0.0": """pkg:npm/@angular/core@17.0.0 pkg:NPM/@angular/core@17.0.0
        pkg:npm/%40Angular/core@17.0.0
        pkg:npm/@Angular/Core@17.0.0 PKG:npm/%40angular%2Fcore@17.0.0 pkg://npm/@angular/core@17.0.0
        https://www.npmjs.com/package/@angular%2fcore/v/17.0.0 https://www.npmjs.com/package/@angular/core/v/17.0.0
        https://registry.npmjs.org/@angular/core/17.0.0 https://registry.npmjs.org/@angular/core/-/core-17.0.0.tgz""",
    "pkg:github/pallets/flask@main#src/flask/app.py": """https://github.com/pallets/flask/blob/main/src/flask/app.py#L10-L20
        https://raw.githubusercontent.com/pallets/flask/main/src/flask/app.py
        https://github.com/Pallets/Flask/raw/main/src/flask/app.py
        https://raw.githubusercontent.com/pallets/flask/refs/heads/main/src/flask/app.py
        pkg:github/Pallets/flask@main#src/flask/app.py pkg:GitHub/pallets/flask@refs/heads/main#src/flask/app.py
        pkg:github/pallets/flask@refs%2Fheads%2Fmain#/src//flask/app.py
        https://cdn.jsdelivr.net/gh/pallets/flask@main/src/flask/app.py""",
    "pkg:github/o/r@v1.2#a.py": """https://raw.githubusercontent.com/o/r/refs/tags/v1.2/a.py
        https://github.com/o/r/blob/v1.2/a.py
        https://github.com/O/R/blob/refs/tags/v1.2/a.py https://github.com/o/r/raw/refs/tags/v1.2/a.py?download=1
        https://raw.githubusercontent.com/o/r/v1.2/a.py pkg:github/o/r@refs/tags/v1.2#a.py""",
    "pkg:github/o/r@0123456789abcdef0123456789abcdef01234567#a.py": """
        https://github.com/o/r/blob/0123456789ABCDEF0123456789abcdef01234567/a.py
        https://raw.githubusercontent.com/O/r/0123456789abcdef0123456789abcdef01234567/a.py""",
    "pkg:github/o/r@v1.2": """https://github.com/o/r/tree/v1.2 https://github.com/o/r/tree/refs/tags/v1.2
        https://github.com/o/r/releases/tag/v1.2
        https://github.com/O/R/archive/refs/tags/v1.2.tar.gz https://github.com/o/r/archive/v1.2.zip
        pkg:github/o/R@refs/tags/v1.2 git+https://github.com/o/r.git@v1.2 git+ssh://git@github.com/o/r.git@v1.2#egg=r
        git+https://github.com/o/r@refs/tags/v1.2#subdirectory=a&egg=r git@github.com:O/r.git@v1.2 git://github.com/o/r.git#v1.2
        git+https://github.com/o/r.git#v1.2 github:o/r#v1.2 https://github.com/o/r.git@v1.2 pkg:github/o/r.git@v1.2
        https://codeload.github.com/o/r/tar.gz/v1.2 https://codeload.github.com/o/r/legacy.zip/refs/tags/v1.2
        https://github.com/o/r/tarball/v1.2 https://github.com/o/r/zipball/refs/tags/v1.2 scm:git:https://github.com/o/r.git@v1.2
        https://api.github.com/repos/o/r/tarball/v1.2 https://api.github.com/repos/O/r/zipball/refs/tags/v1.2""",
    "pkg:github/o/r@feature/x": """https://github.com/o/r/archive/refs/heads/feature/x.zip git+https://github.com/o/r.git@feature/x
        https://github.com/o/r/archive/feature/x.tar.gz https://codeload.github.com/o/r/zip/refs/heads/feature/x
        pkg:github/o/r@feature%2Fx https://github.com/o/r/tarball/feature/x""",
    "pkg:npm/%40scope/name@1.0": "pkg:NPM/@scope/name@1.0 pkg:npm/@Scope/name@1.0 pkg:npm/%40Scope/name@1.0",
    "pkg:github/o/r@v1#a.py": "https://raw.githubusercontent.com/o/r/refs/tags/v1/a.py https://github.com/o/r/blob/v1/a.py",
    "pkg:docker/nginx@1.27": "pkg:docker/library/nginx@1.27 pkg:Docker/Library/Nginx@1.27",
    "pkg:github/o/r@v2#a/b.py": """https://api.github.com/repos/o/r/contents/a/b.py?ref=v2
        https://github.com/o/r/blob/v2/a/b.py""",
    "pkg:gitlab/g/r": """https://gitlab.com/g/r https://gitlab.com/G/R/ https://gitlab.com/g/r.git git@gitlab.com:g/r.git
        gitlab:g/r git+https://gitlab.com/g/r.git pkg:gitlab/g/r.git""",
    "pkg:gitlab/g/s/r@v1": """https://gitlab.com/g/s/r/-/tree/v1 https://gitlab.com/g/s/r/-/tags/v1 https://gitlab.com/g/s/r/-/releases/v1
        https://gitlab.com/g/s/r/-/archive/v1/r-v1.tar.gz git+ssh://git@gitlab.com/g/s/r.git@v1 pkg:gitlab/g%2Fs/r@refs/tags/v1
        https://gitlab.com/g/s/r/-/tree/refs/tags/v1 gitlab:g/s/r#v1""",
    "pkg:bitbucket/o/r@v1": """https://bitbucket.org/o/r/src/v1 https://bitbucket.org/o/r/get/v1.zip
        git+https://bitbucket.org/o/r.git@v1 pkg:bitbucket/O/r.git@v1 bitbucket:o/r#v1""",
    "pkg:pypi/x@1": "pkg:pypi/x@1.0 pkg:pypi/X@1.0.0 pkg:pypi/x@v1.0 https://pypi.org/project/x/1.0.0/ pkg:pypi/x@1.0.0.0 https://pypi.python.org/pypi/x/1.0",
    "pkg:pypi/x@1.10": "pkg:pypi/x@1.10.0 https://pypi.org/pypi/x/1.10/json",
    "pkg:docker/a/b@sha256:00ffab": "pkg:docker/A/b@sha256:00FFab pkg:docker/a/b@SHA256%3A00FFAB",
    "pkg:gitlab/o/sub/r@v1#a.py": """https://gitlab.com/o/sub/r/-/blob/v1/a.py
        https://gitlab.com/o/sub/r/-/raw/v1/a.py?inline=false
        https://gitlab.com/O/Sub/R/-/blob/refs/tags/v1/a.py https://gitlab.com/o/sub/r/blob/v1/a.py
        pkg:gitlab/o/sub/R@v1#a.py""",
    "pkg:bitbucket/o/r@v1#a.py": """https://bitbucket.org/o/r/src/v1/a.py
        https://bitbucket.org/O/r/raw/v1/a.py pkg:bitbucket/O/R@v1#a.py""",
    "pkg:npm/JSONStream@1.3.5": """pkg:NPM/JSONStream@1.3.5
        pkg:npm/JSON%53tream@1.3.5 https://www.npmjs.com/package/JSONStream/v/1.3.5""",
    "pkg:nuget/newtonsoft.json@13.0.1-beta1": "pkg:NuGet/Newtonsoft.Json@13.0.1-Beta1 pkg:nuget/NEWTONSOFT.JSON@13.0.1-beta1",
    "pkg:cargo/rand-core@0.6.4": "pkg:cargo/rand_core@0.6.4 pkg:Cargo/Rand_Core@0.6.4 https://crates.io/crates/rand_core/0.6.4",
    "pkg:composer/laravel/laravel@5.5.0": "pkg:composer/Laravel/Laravel@5.5.0 pkg:Composer/laravel%2Flaravel@5.5.0",
    "pkg:golang/github.com/masterminds/semver@v3.2.1": """pkg:golang/github.com/Masterminds/semver@v3.2.1
        pkg:Golang/GitHub.com/masterminds/Semver@v3.2.1""",
    "pkg:npm/foo@1.0%2Bbuild?a=1&b=2": "pkg:npm/foo@1.0+build?b=2&a=1 pkg:npm/foo@1.0%2bbuild?A=1&B=2&c=",
    "pkg:github/pallets/flask": """https://github.com/pallets/flask https://github.com/Pallets/Flask/
        git@github.com:pallets/flask.git
        git://github.com/pallets/flask.git ssh://github.com/pallets/flask.git scm:git:git@github.com:pallets/flask.git
        scm:git:https://github.com/pallets/flask.git SCM:git:git://github.com/pallets/flask.git
        ssh://git@github.com:22/Pallets/flask.git git+ssh://git@github.com/pallets/flask.git
        git+https://github.com/pallets/flask.git https://github.com/pallets/flask.git ssh://git@github.com/pallets/flask.git""",
    "wikipedia:en:Alan_Turing": """https://en.wikipedia.org/wiki/Alan_Turing http://en.m.wikipedia.org/wiki/alan_Turing#Life
        https://en.wikipedia.org/wiki/Alan%20Turing https://en.wikipedia.org/w/index.php?title=Alan+Turing""",
    "wikipedia-version:en:1180000000": "https://en.wikipedia.org/w/index.php?title=Alan_Turing&oldid=1180000000",
    "commons:Foo_bar.jpg": """https://commons.wikimedia.org/wiki/File:Foo_bar.jpg
        https://upload.wikimedia.org/wikipedia/commons/a/ab/Foo_bar.jpg
        https://upload.wikimedia.org/wikipedia/commons/thumb/a/ab/Foo_bar.jpg/640px-Foo_bar.jpg""",
    "vimeo:76979871": """https://vimeo.com/76979871 https://player.vimeo.com/video/76979871?h=8272103f6e
        https://vimeo.com/76979871/8272103f6e
        https://vimeo.com/channels/staffpicks/76979871""",
    "soundcloud:forss/flickermood": """https://soundcloud.com/forss/flickermood
        https://m.soundcloud.com/forss/flickermood?in=a/sets/b
        https://soundcloud.com/forss/flickermood?utm_source=clipboard&si=1""",
    "spotify:track:11dFghVXANMlKmJXsNCbNl": """https://open.spotify.com/track/11dFghVXANMlKmJXsNCbNl?si=1
        https://open.spotify.com/intl-de/track/11dFghVXANMlKmJXsNCbNl""",
    "flickr:5332012345": """https://www.flickr.com/photos/some_one/5332012345/
        https://flickr.com/photos/12@N00/5332012345/in/photostream/
        https://live.staticflickr.com/65535/5332012345_0a1b2c3d4e_b.jpg""",
    "pmcid:PMC3531190": """https://www.ncbi.nlm.nih.gov/pmc/articles/PMC3531190/
        https://pmc.ncbi.nlm.nih.gov/articles/PMC3531190""",
    "gutenberg:1342": """https://www.gutenberg.org/ebooks/1342 https://www.gutenberg.org/files/1342/1342-0.txt
        https://www.gutenberg.org/cache/epub/1342/pg1342.txt https://www.gutenberg.org/ebooks/1342.txt.utf-8""",
    "stackoverflow:11227902": """https://stackoverflow.com/a/11227902 https://stackoverflow.com/a/11227902/87234
        https://stackoverflow.com/questions/11227809/why-is-processing/11227902#11227902""",
    "tweet:20": """https://twitter.com/jack/status/20
        https://x.com/jack/status/20?s=20 https://mobile.twitter.com/jack/status/20""",
    "https://example.org/a/b?id=1&lang=en": """https://example.org/a/b?id=1&lang=en http://example.org/a/b?lang=en&id=1
        HTTPS://EXAMPLE.ORG:443/a/b?id=1&lang=en#part https://example.org/a/./c/../b?id=1&lang=en&utm_campaign=x&fbclid=y
        http://example.org:80/%61/b?id=1&lang=en https://user:secret@example.org/a/b?id=1&lang=en""",
    "https://xn--mnchen-3ya.example/stra%C3%9Fe": """https://münchen.example/straße https://MÜNCHEN.example/stra%c3%9fe
        http://xn--mnchen-3ya.example/stra%C3%9Fe""",
}  # fmt: skip
APART = (
    ("https://www.youtube.com/watch?v=dQw4w9WgXcQ", "https://www.youtube.com/watch?v=dQw4w9WgXcq"),  # ids have a case
    ("https://www.youtube.com/embed/videoseries?list=PL1", "https://www.youtube.com/embed/videoseries?list=PL2"),
    ("https://arxiv.org/abs/1706.03762", "https://arxiv.org/abs/1706.03762v1"),
    ("https://arxiv.org/abs/1706.03762v1", "https://arxiv.org/abs/1706.03762v2"),
    ("doi:10.1000/1", "doi:10.1000/12"),
    ("https://doi.org/10.1000/1#a", "https://doi.org/10.1000/1#b"),  # a name that somebody forgot to encode
    ("isbn:9780471117094", "isbn:9780471117100"),
    ("pkg:pypi/flask@3.0.0", "pkg:pypi/flask@3.0.1"), ("pkg:pypi/x@1.1", "pkg:pypi/x@1.10"), ("pkg:pypi/x@1", "pkg:pypi/x@10"),
    ("pkg:docker/library/a@1?repository_url=ghcr.io", "pkg:docker/a@1?repository_url=ghcr.io"), ("scm:svn:https://h.org/r", "scm:git:https://h.org/r"),
    ("pkg:docker/a@Latest", "pkg:docker/a@latest"), ("pkg:npm/x@1.0", "pkg:npm/x@1.0.0"),
    ("git+https://github.com/o/r.git@v1", "git+https://github.com/o/r.git@v2"), ("https://gitlab.com/g/r", "https://gitlab.com/g/s/r"),
    ("https://gitlab.com/g/r/-/issues/4", "https://gitlab.com/g/r/-/issues/5"), ("https://gitlab.com/g/r/issues/4", "https://gitlab.com/g/r"),
    ("https://gitlab.com/users/sign_in", "pkg:gitlab/users/sign_in"),
    ("https://github.com/o/r/tree/v1/src", "pkg:github/o/r@v1"),
    ("pkg:npm/JSONStream@1.3.5", "pkg:npm/jsonstream@1.3.5"),  # two packages
    ("pkg:pypi/x@1#a/../b.py", "pkg:pypi/x@1#a/b.py"),
    ("pkg:maven/org.A/b@1", "pkg:maven/org.a/b@1"),
    ("pkg:golang/example.org/A/b@v1", "pkg:golang/example.org/a/b@v1"),
    ("pkg:npm/foo@1.0#A.js", "pkg:npm/foo@1.0#a.js"),
    ("pkg:npm/foo@1.0-RC1", "pkg:npm/foo@1.0-rc1"),
    ("pkg:github/o/r@V1#a.py", "pkg:github/o/r@v1#a.py"),
    ("https://raw.githubusercontent.com/o/r/refs/tags/v1/a.py", "https://raw.githubusercontent.com/o/r/refs/tags/v2/a.py"),
    ("https://github.com/o/r/blob/main/a.py", "https://github.com/o/r/blob/dev/a.py"),
    ("https://github.com/o/r/blob/main/a.py", "https://github.com/o/r/blob/main/A.py"),
    ("https://en.wikipedia.org/wiki/Mercury", "https://de.wikipedia.org/wiki/Mercury"),
    ("https://en.wikipedia.org/wiki/C", "https://en.wikipedia.org/wiki/C%2B%2B"),
    ("https://en.wikipedia.org/wiki/AIDS", "https://en.wikipedia.org/wiki/Aids"),
    ("https://soundcloud.com/a/sets/b", "https://soundcloud.com/a/sets/c"),
    ("https://stackoverflow.com/q/11227809", "https://stackoverflow.com/a/11227902"),
    ("https://www.gutenberg.org/files/1342/1342-h/images/a.jpg", "https://www.gutenberg.org/ebooks/1342"),
    ("https://example.org/a", "https://example.org/a/"),
    ("https://example.org/a", "https://www.example.org/a"),
    ("https://example.org/a", "https://example.org/A"),
    ("https://example.org/a%2Fb", "https://example.org/a/b"),
    ("https://example.org/a%2541", "https://example.org/aA"),
    ("https://example.org/?id=1", "https://example.org/?id=2"),
    ("https://example.org/?ref=1", "https://example.org/"),
    ("https://example.org:8080/a", "https://example.org/a"),
    ("http://example.org:443/a", "http://example.org/a"),
    ("https://example.org/#/one", "https://example.org/#/two"),
    ("https://faß.example/", "https://fass.example/"),
    ("ftp://example.org/a", "https://example.org/a"),
    ("s3://bucket/Key", "s3://bucket/key"),
)  # fmt: skip


@pytest.mark.parametrize("name", SPELLINGS)
def test_every_spelling_of_a_name_is_one(name):
    texts = [name, *SPELLINGS[name].split()]
    assert {text: canonical(text) for text in texts} == dict.fromkeys(texts, name)
    assert len({identify(text).kind for text in texts}) == 1


@pytest.mark.parametrize(("first", "second"), APART)
def test_near_misses_stay_apart(first, second):
    assert canonical(first) != canonical(second)


@pytest.mark.parametrize("text", [
    "https://example.org/", "http://www.example.org", "https://www.youtube.com/@veritasium",
    "https://www.youtube.com/playlist?list=PL1",
    "https://soundcloud.com/forss", "https://open.spotify.com/album/1ATL5GLyefJaxhQzSPVrLX",
    "https://www.flickr.com/photos/some_one/albums/7",
    "https://en.wikipedia.org/wiki/Category:Mathematicians", "https://github.com/pallets/flask",
    "https://pypi.org/project/flask/",
    "pkg:npm/express", "isni:0000 0001 2281 955X", "issn:0028-0836",
    "https://orcid.org/0000-0002-1825-0097", "isbn:9780471117095",
    "isrc:12", "unknown", "n/a",
])  # fmt: skip
def test_names_of_many_works_and_what_cannot_be_read_say_nothing(text):
    assert identify(text).kind == MANY


@given(st.text(max_size=60) | st.from_regex(r"https?://[A-Za-z0-9.-]{1,12}(:\d{1,4})?/[ -~]{0,30}", fullmatch=True))
def test_a_canonical_name_is_read_as_itself(text):
    identifier = identify(text)
    assert identify(identifier.name) == identifier


TYPES = [
    "npm", "pypi", "cargo", "nuget", "maven", "github", "gitlab", "bitbucket", "golang", "gem", "composer", "deb", "docker",
    "hex", "huggingface", "oci", "generic", "cran", "hackage", "cpan", "swift", "conda", "mlflow", "luarocks", "pub", "alpm",
]  # fmt: skip
PART = st.text("aB9._-~ +@:\u00e9\u00df\u0130%/", min_size=1, max_size=8)
PURLS = st.builds(
    lambda kind, namespace, name, version, qualifiers, path: (kind, namespace, name, version, qualifiers, path),
    st.sampled_from(TYPES), st.none() | PART, PART, st.none() | PART | st.sampled_from(["refs/tags/v1",
    "refs/heads/refs/heads/x"]),
    st.dictionaries(st.sampled_from("ab"), PART, max_size=2), st.none() | PART,
)  # fmt: skip


def encoded(text, chance: random.Random, safe=""):
    """A text in one of its spellings: some letters percent-encoded that need not be."""
    return "".join(
        f"%{ord(c):02{chance.choice('xX')}}" if c.isascii() and c.isalnum() and chance.random() < 0.3 else quote(c, safe=safe)
        for c in text
    )


@given(PURLS, st.randoms(use_true_random=False))
def test_the_canonical_form_of_a_package_url_is_itself_and_its_spellings_meet(parts, chance: random.Random):
    kind, namespace, name, version, qualifiers, path = parts

    def spelling(plain: bool):
        def part(text, safe=""):
            return quote(text, safe=safe) if plain else encoded(text, chance, safe)

        kind_spelt = kind if plain else "".join(chance.choice([c.lower(), c.upper()]) for c in kind)
        pairs = [f"{key if plain else key.upper()}={part(value)}" for key, value in qualifiers.items()]
        if not plain:
            chance.shuffle(pairs)
        slashes = "" if plain else chance.choice(["", "/", "//"])
        before = f"{part(namespace)}/" if namespace else ""
        at = f"@{part(version)}" if version else ""
        query = f"?{'&'.join(pairs)}" if pairs else ""
        return f"pkg:{slashes}{kind_spelt}/{before}{part(name)}{at}{query}" + (f"#{part(path, '/')}" if path else "")

    identifier = identify(spelling(plain=True))
    assert identify(identifier.name) == identifier
    odd = [
        part
        for part in (namespace, name, version, path)
        if part and (part != part.strip(" /@%+:.") or "/" in part or "%" in part)
    ]
    if not odd and not any(value != value.strip(" ") or "%" in value for value in qualifiers.values()):
        assert identify(spelling(plain=False)) == identifier


@given(st.from_regex(
    r"https?://[a-zA-Z]{1,4}\.(org|COM)(/[a-z.~-]{0,3}){0,3}"
    r"(\?[ab]=[0-9a]{0,2}(&(utm_source|[ab])=[0-9]{0,2}){0,2})?(#[a-z]{0,3})?",
    fullmatch=True
))  # fmt: skip
def test_plain_addresses_are_spelt_as_the_library_spells_them(text):
    assert module._plain_url(text) in {None, module._url(text)}


def test_long_names_are_cut_and_stay_apart():
    first, second = ("https://example.org/" + "x" * 5000 + end for end in "ab")
    assert canonical(first) != canonical(second)
    assert len(canonical(first).encode()) <= 1000
    assert canonical(canonical(first)) == canonical(first)


def record(uri, *names, at=NOON, collector="c", evidence="e", sha=None, title=None):
    values = (uri, at, collector, evidence, list(names), sha, title)
    return dict(zip(SOURCES.schema.names(), values, strict=True))


def table(*rows):
    return pl.DataFrame(list(rows), schema=SOURCES.schema)


def together(sources):
    return {frozenset(names) for names in sources["identifiers"].to_list()}


def test_a_registry_of_nothing_is_empty():
    assert registry(table()).schema == REGISTRY.schema
    assert source_ids(registry(table()), pl.Series(["https://a.example/x", None], dtype=pl.String)).to_list() == [None, None]


def test_records_are_counted_and_their_facts_kept():
    rows = (
        record("https://doi.org/10.1000/1", at=NOON, collector="b", sha="2", title="later"),
        record("https://a.example/x", "doi:10.1000/1", "issn:0028-0836", at=NOON - timedelta(days=1), collector="a", sha="1"),
        record("https://a.example/x", "doi:10.1000/1", at=NOON - timedelta(hours=1), collector="a", sha="1", title="first"),
        record("https://copy.example/y", sha="1"),
    )
    assert registry(table(*rows, *rows)).row(0, named=True) == {
        "source_id": "doi:10.1000/1", "identifiers": ["doi:10.1000/1", "https://a.example/x"], "records": 3,
        "collectors": ["a", "b"],
        "first_acquired_at": NOON - timedelta(days=1), "last_acquired_at": NOON, "contents": ["1", "2"],
        "same_content_as": ["https://copy.example/y"], "title": "first", "related": ["issn:00280836"], "conflicts": [],
    }  # fmt: skip


def test_a_shared_identifier_makes_one_source_of_different_places():
    rows = record("https://a.example/x", "doi:10.1000/1"), record("http://b.example/y", "https://doi.org/10.1000/1")
    sources = registry(table(*rows))
    assert together(sources) == {frozenset({"doi:10.1000/1", "https://a.example/x", "https://b.example/y"})}
    uris = pl.Series(["http://b.example:80/y#top", "10.1000/1", "https://nowhere.example/z", None])
    assert source_ids(sources, uris).to_list() == ["doi:10.1000/1", "doi:10.1000/1", None, None]


def test_names_of_many_works_join_nothing():
    rows = (record(f"https://a.example/{n}", "https://a.example/", "https://www.youtube.com/@a") for n in range(9))
    sources = registry(table(*rows))
    assert sources.height == 9
    assert sources["related"].to_list() == [["https://a.example/", "https://www.youtube.com/@a"]] * 9
    assert not any(sources["conflicts"].to_list())


def test_what_too_many_places_list_joins_nothing():
    def sources_listed_by(places):
        return registry(table(*(record(f"https://a.example/{n}", "doi:10.1000/data.set") for n in range(places))))

    assert sources_listed_by(MOST_LISTINGS).height == 1
    assert sources_listed_by(MOST_LISTINGS + 1).height == MOST_LISTINGS + 1
    assert sources_listed_by(MOST_LISTINGS + 1)["related"].to_list() == [["doi:10.1000/data.set"]] * (MOST_LISTINGS + 1)


def test_equal_contents_are_shown_and_not_merged():
    rows = (record(f"https://{at}.example/{at}", sha=sha) for at, sha in (("x", "1"), ("y", "1"), ("z", "2")))
    sources = registry(table(*rows))
    assert sources["same_content_as"].to_list() == [["https://y.example/y"], ["https://x.example/x"], []]


A, B = "doi:10.1000/a", "doi:10.1000/b"
GOOD = (record("https://a.example/x", A), record("https://a.example/y", A), record("https://b.example/x", B))


@pytest.mark.parametrize(("wrong", "where", "conflicts"), [
    ((record("https://w.example/w", A, B),), "https://w.example/w", [A, B]),  # a record that contradicts itself
    ((record("https://w.example/w", A), record("https://w.example/w", B)), "https://w.example/w", [A, B]),  # two that do
    ((record("https://a.example/x", "https://b.example/x"),), A, ["https://b.example/x"]),  # a page that says it is another
    ((record("https://doi.org/10.1000/a", B),), A, [B]),
])  # fmt: skip
def test_contradictions_join_nothing_take_nothing_apart_and_are_listed(wrong, where, conflicts):
    sources = registry(table(*GOOD, *wrong))
    assert frozenset({A, "https://a.example/x", "https://a.example/y"}) in together(sources)
    assert frozenset({B, "https://b.example/x"}) in together(sources)
    clashes = sources.select("source_id", "conflicts").filter(pl.col("conflicts").list.len() > 0).rows()
    assert clashes == [(where, conflicts)]


def test_chapters_that_list_their_book_are_not_one():
    isbn = "isbn:9780471117094"
    sources = registry(table(record("https://a.example/1", A, isbn), record("https://a.example/2", B, isbn)))
    assert together(sources) == {frozenset({A, "https://a.example/1"}), frozenset({B, "https://a.example/2"})}
    assert sources["conflicts"].to_list() == [[isbn], [isbn]]


# Few names, so that everything happens: chains, contradictions, pages that are each other.
PLACES = ["https://a.example/1", "http://a.example:80/1", "https://a.example/2", "https://b.example/", "https://doi.org/10.1000/A",
          "doi:10.1000/b", "isbn:0471117099", "9780471117094", "isbn:9780306406157", "https://youtu.be/dQw4w9WgXcQ",
          "https://www.youtube.com/watch?v=dQw4w9WgXcQ", "https://github.com/o/r", "unknown"]  # fmt: skip
ROWS = st.builds(
    record, st.sampled_from(PLACES), st.sampled_from(PLACES), st.sampled_from(PLACES),
    at=st.sampled_from([NOON, NOON + timedelta(days=1)]),
    collector=st.sampled_from("ab"), sha=st.sampled_from([None, "1", "2"]), title=st.sampled_from([None, "s", "t"]),
)  # fmt: skip
LISTS = st.lists(st.lists(ROWS | st.builds(record, st.sampled_from(PLACES)), max_size=6), max_size=5)


@given(LISTS, st.randoms(use_true_random=False))
def test_order_repetition_and_cuts_change_nothing_no_name_of_a_kind_is_two_and_no_record_lost(lists, chance: random.Random):
    rows = [row for part in lists for row in part]
    sources = registry(table(*rows))
    again = [*rows, *chance.choices(rows, k=len(rows))] if rows else []
    chance.shuffle(again)
    cut = chance.randint(0, len(again))
    parts = table(*again[cut:]), table(*again[:cut])
    assert_frame_equal(registry(pl.concat(parts)), sources)
    all_names = [name for names in sources["identifiers"].to_list() for name in names]
    assert len(all_names) == len(set(all_names))
    for names in sources["identifiers"].to_list():
        kinds = [kind for kind in (identify(name).kind for name in names) if kind not in {PAGE, MANY}]
        assert len(kinds) == len(set(kinds))
    assert sources["records"].sum() == len({str(row) for row in rows})
    assert source_ids(sources, pl.Series([row["source_uri"] for row in rows], dtype=pl.String)).null_count() == 0
