"""Canonical identifiers: one spelling for the many spellings of an address, a number or a platform's id.

Collectors spell names differently. `identify` turns a text into an `Identifier`: its canonical spelling and its kind. Distinct
works must never get the same name, so no rule is applied that might merge two works:

- `http` and `https` are one (both become `https`), as are default ports, the case of a host, its Unicode and ASCII forms
  (IDNA 2008), credentials or none, spellings of percent-encoding, orders of query arguments, and arguments for tracking.
- `www.` and a final slash are kept: some sites answer differently with and without.
- Fragments are removed, as they point into a page, unless they begin with `!` or `/`: applications put pages behind those.
- A platform's own id replaces all URLs of the same thing (`PLATFORMS`). A version of a work, or an article in another language,
  is a different thing.
- An invalid number (such as an ISBN with a wrong check digit) stays unchanged and identifies nothing.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote, unquote, urlsplit, urlunsplit

import idna
from packageurl import PackageURL
from packaging.utils import canonicalize_name, canonicalize_version
from stdnum import isbn, isni, isrc, issn
from stdnum.exceptions import ValidationError
from w3lib.url import canonicalize_url

from provenance.core.tables import LONGEST_ID
from provenance.corpus.identifiers import is_iswc

# Two different names of one kind mean two works, except for pages: one work may have many addresses.
PAGE = "page"
# Names that identify no single work: of many works (a channel, a journal), and unreadable ones.
MANY = "many"


@dataclass(frozen=True)
class Identifier:
    """A name in canonical spelling.

    Attributes:
        name: the canonical spelling, which `identify` maps to itself.
        kind: the kind of name (`doi`, `isbn`, `youtube`, ...), `page` or `many`.
    """

    name: str
    kind: str


# Arguments that only track readers; only names documented as such, and none that could select content.
_TRACKING = re.compile(
    r"(?:utm_\w+|fbclid|gclid|gclsrc|dclid|gbraid|wbraid|msclkid|yclid|ttclid|twclid|li_fat_id|igshid|igsh|mc_cid|mc_eid"
    r"|_ga|_gl|_hsenc|_hsmi|mkt_tok|vero_id|oly_enc_id|oly_anon_id|srsltid)(?:=|$)"
)
_PORTS = {"http": 80, "https": 443}
# Most addresses need no encoding; this pattern normalises them twenty times as fast as the general way.
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_PAIR = r"[\w~.-]+=[\w~.-]*"
_PLAIN_URL = re.compile(
    rf"https?://((?:{_LABEL}\.)+[A-Za-z]{{2,}})((?:/(?!\.)[\w~.-]*)*)(?:\?({_PAIR}(?:&{_PAIR})*))?(?:#(?![!/])[\w~.:=-]*)?",
    re.ASCII,
)
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*):", re.IGNORECASE)
_DOI = re.compile(r"10\.\d{4,9}(?:\.\d+)*/\S+")
_ARXIV = re.compile(
    r"(?P<id>\d{4}\.\d{4,5}|[a-z-]+(?:\.[a-z-]{2,})?/\d{7})(?P<version>v[1-9]\d*)?(?:\s*\[[\w.-]+\])?", re.IGNORECASE
)
_GIT_SSH = re.compile(
    r"(?:ssh://(?:git@)?([\w.-]+)(?::\d+)?[:/]|git@([\w.-]+)[:/]|git://(github\.com|gitlab\.com|bitbucket\.org)/)(.+)"
)
# An address of a repository as pip and npm write it: `r.git@v1#egg=r`, `r.git#v1`.
_OF_GIT = re.compile(
    r"(?P<address>https?://[^?#]+?)(?:\.git)?(?:@(?P<at>[^@?#]+))?(?:\?[^#]*)?(?:#(?P<fragment>.*))?", re.IGNORECASE
)
# As npm and Nix write it: `github:o/r#v1`.
_SHORT = re.compile(r"(?P<owner>[\w.-]+(?:/[\w.-]+)*)/(?P<name>[\w.-]+?)(?:\.git)?(?:#(?P<at>[^#=&?]+))?", re.ASCII)


def canonical(text: str) -> str:
    """The canonical spelling of a URL, a number (DOI, ISBN, ...), a package or another URI; other texts unchanged."""
    return identify(text).name


def identify(text: str) -> Identifier:
    """The canonical spelling of a text and its kind."""
    text = text.strip()
    identifier = _identify(text)
    if len(identifier.name.encode()) > LONGEST_ID:
        digest = hashlib.sha256(identifier.name.encode()).hexdigest()
        return Identifier(f"{identifier.name.encode()[:800].decode(errors='ignore')}~{digest}", identifier.kind)
    return identifier


def says_where(text: str) -> bool:
    """Whether a text is an address, a number or a package."""
    return bool(_SCHEME.match(text) or _GIT_SSH.fullmatch(text)) or identify(text).kind != MANY


def _identify(text: str) -> Identifier:
    if ssh := _GIT_SSH.fullmatch(text):
        return _of_git(f"https://{ssh[1] or ssh[2] or ssh[3]}/{ssh[4]}")
    if scheme := _SCHEME.match(text):
        return _with_scheme(scheme[1].lower(), text[scheme.end() :], text)
    identifier = None
    if _DOI.fullmatch(text):
        identifier = _doi(text)
    elif bare := re.fullmatch(r"(?:ISBN(?:-1[03])?[ -]*)([\dX -]+)|(97[89][\d -]{10,14})", text, re.IGNORECASE):
        identifier = _isbn(bare[1] or bare[2])
    return identifier or Identifier(text, MANY)


def _with_scheme(scheme: str, rest: str, text: str) -> Identifier:
    if scheme in {"http", "https"}:
        return _of_url(text)
    if scheme == "scm" and rest.lower().startswith("git:"):  # as Maven writes it
        return identify(rest[4:]) if _GIT_SSH.fullmatch(rest[4:]) else _of_git(rest[4:])
    if scheme.startswith("git+"):
        return identify(text[4:]) if _GIT_SSH.fullmatch(text[4:]) else _of_git(text[4:])
    if scheme in REPOSITORIES and (short := _SHORT.fullmatch(rest)) and (scheme == "gitlab" or "/" not in short["owner"]):
        return NUMBERS["pkg"](_repository(scheme)(short)[4:]) or Identifier(text, MANY)
    if scheme in {"urn", "info"} and (inner := re.match(r"(isbn|issn|doi|isrc|iswc|isni)[:/]", rest, re.IGNORECASE)):
        scheme, rest = inner[1].lower(), rest[inner.end() :]
    scheme = "isbn" if scheme in {"isbn-10", "isbn-13"} else scheme
    if scheme in NUMBERS:
        return NUMBERS[scheme](rest.strip()) or Identifier(text, MANY)
    of_platform = _OF_PLATFORM.fullmatch(text)
    return Identifier(text, of_platform[1] if of_platform else PAGE)


def _of_git(text: str) -> Identifier:
    """The repository of an address that Git is given, at its branch, tag or commit if there is one."""
    match = _OF_GIT.fullmatch(text)
    if not match:
        return identify(text)
    repository = identify(match["address"])
    fragment = match["fragment"] or ""
    at = match["at"] or ("" if "=" in fragment or ":" in fragment else fragment)
    if not re.fullmatch(r"pkg:(?:github|gitlab|bitbucket)/[^@#?]+", repository.name):
        return identify(text)
    return identify(f"{repository.name}@{quote(unquote(at), safe='')}") if at else repository


def _of_url(text: str) -> Identifier:
    try:
        url = _plain_url(text) or _url(text)
    except ValueError:  # a port that is no number, brackets that do not close
        return Identifier(text, PAGE)
    place = url.removeprefix("https://")
    host, _, path = place.partition("/")
    if not path:
        return Identifier(url, MANY)  # a home page
    site = ".".join(host.split(".")[-2:])
    if site == "doi.org" and re.fullmatch(r"(?:dx\.|www\.)?doi\.org", host):
        # Text after ? or # belongs to the name: it should have been encoded.
        raw = urlsplit(text)
        query = _without_tracking(raw.query)
        rest = (f"?{query}" if query else "") + (f"#{raw.fragment}" if raw.fragment else "")
        return _doi(unquote(raw.path.lstrip("/")) + rest) or Identifier(url, PAGE)
    place = re.sub(r"^(?:www|m|mobile)\.", "", place)
    for platform in _BY_SITE.get(site, ()):
        if match := platform.pattern.match(place):
            name = platform.name(match) if callable(platform.name) else platform.name.format(**match.groupdict())
            if name:
                return Identifier(name, platform.kind) if platform.kind in _EXACT else identify(name)
            if platform.kind == MANY:
                return Identifier(url, MANY)
    return Identifier(url, PAGE)


def _plain_url(text: str) -> str | None:
    plain = _PLAIN_URL.fullmatch(text)
    if not plain:
        return None
    host, path, query = plain.groups()
    pairs = sorted(pair.split("=") for pair in (query or "").split("&") if pair and not _TRACKING.match(pair))
    arguments = "?" + "&".join(map("=".join, pairs)) if pairs else ""
    return f"https://{host.lower()}{path or '/'}{arguments}"


def _url(text: str) -> str:
    parts = urlsplit(text)
    host, port = (parts.hostname or "").rstrip("."), parts.port
    if not host.isascii():
        try:
            host = idna.encode(host, uts46=True).decode()
        except idna.IDNAError:
            host = host.lower()
    host = f"[{host}]" if ":" in host else host
    place = host if port in {None, _PORTS[parts.scheme]} else f"{host}:{port}"
    fragment = parts.fragment if parts.fragment.startswith(("!", "/")) else ""
    whole = urlunsplit(("https", place, parts.path or "/", _without_tracking(parts.query), fragment))
    return canonicalize_url(whole, keep_fragments=True)


def _without_tracking(query: str) -> str:
    return "&".join(pair for pair in query.split("&") if not _TRACKING.match(pair))


def _doi(text: str) -> Identifier | None:
    """A DOI, in lower case, since case of ASCII letters is irrelevant (DOI Handbook, 2.4); arXiv's DOIs become arXiv ids."""
    if not _DOI.fullmatch(text):
        return None
    name = re.sub("[A-Z]", lambda letter: letter[0].lower(), text)
    paper = name.removeprefix("10.48550/arxiv.")
    return (_arxiv(paper) if paper != name else None) or Identifier(f"doi:{name}", "doi")


def _arxiv(text: str) -> Identifier | None:
    """An arXiv id such as `1706.03762` or `math.GT/0309136` (the class is optional), with or without version."""
    match = _ARXIV.fullmatch(text)
    if not match:
        return None
    archive, _, number = match["id"].lower().rpartition("/")
    name = f"{archive.split('.')[0]}/{number}" if archive else number
    version = (match["version"] or "").lower()
    return Identifier(f"arxiv:{name}{version}", "arxiv-version" if version else "arxiv")


def _isbn(text: str) -> Identifier | None:
    try:
        return Identifier(f"isbn:{isbn.validate(text, convert=True)}", "isbn")
    except ValidationError:
        return None


def _iswc(text: str) -> Identifier | None:
    return Identifier(f"iswc:{re.sub('[^T0-9]', '', text.upper())}", "iswc") if is_iswc(text) else None


def _purl(text: str) -> Identifier | None:
    """A package URL in its canonical spelling, which is read as itself; None if it cannot be read."""
    for _ in range(MOST_READINGS):
        identifier = _read_purl(text)
        if identifier is None or identifier.name == f"pkg:{text}":
            return identifier
        text = identifier.name.removeprefix("pkg:")
    return None


def _read_purl(text: str) -> Identifier | None:
    """A package URL: of a file, of a release, or of a whole package, which is a name of many works.

    Names of PyPI are normalised by PEP 503, and versions by PEP 440. The purl standard lower-cases names of npm, but npm
    distinguishes case in names without a scope, which are older than its rule: JSONStream is not jsonstream. Other registries
    that ignore the case of a name are in `_NO_CASE`. Branches and tags of repositories have their short names.
    """
    try:
        purl = PackageURL.from_string(f"pkg:{text}")
    except ValueError:
        return None
    if {".", ".."} & set(unquote(text).partition("#")[2].split("/")):
        return None  # they would be dropped, which would mean another file
    namespace, name, version = purl.namespace, purl.name, purl.version
    if not namespace and "/" in name:  # the slash was encoded
        namespace, _, name = name.rpartition("/")
    if purl.type in _NO_CASE or (namespace or "").lower().startswith(_HOSTS_WITHOUT_CASE):
        namespace, name = namespace and namespace.lower(), name.lower()
    if purl.type == "npm" and namespace:
        namespace, name = f"@{namespace.lower().lstrip('@')}", name.lower()
    if purl.type == "cargo":
        name = name.replace("_", "-")  # of two crates that differ by this alone there is one
    if purl.type == "nuget":
        version = version and version.lower()
    if purl.type == "pypi":
        name = canonicalize_name(name)
        version = version and canonicalize_version(version)  # 1.0 and 1.0.0 are one release (PEP 440)
    if purl.type == "docker" and namespace == "library" and "repository_url" not in (purl.qualifiers or {}):
        namespace = None  # where the registry looks by default
    if purl.type in _IMAGES and version and _DIGEST.fullmatch(version):
        version = version.lower()
    if purl.type in REPOSITORIES:
        name = name.removesuffix(".git") or name  # no host lets a repository's name end so
        version = version and _short_ref(version)
    try:
        spelling = PackageURL(purl.type, namespace, name, version, purl.qualifiers, purl.subpath).to_string()
    except ValueError:
        return None
    if purl.type == "npm" and not namespace:
        as_written = unquote(PackageURL.from_string(f"pkg:{text}", normalize_purl=False).name)
        lower, kept = (quote(part, safe=":") for part in (name, as_written))
        if kept.lower() == lower and spelling.startswith(f"pkg:npm/{lower}"):
            spelling = f"pkg:npm/{kept}{spelling.removeprefix(f'pkg:npm/{lower}')}"
    if purl.subpath:
        return Identifier(spelling, "file")
    # A repository has many works, in any version; a release of a package is one work.
    return Identifier(spelling, MANY if purl.type in REPOSITORIES or not version else "package")


def _short_ref(version: str) -> str:
    """The short name of a branch or tag, as addresses of files have it; digests of commits in small letters."""
    short = re.sub(r"^(?:refs/(?:heads|tags|remotes/origin)/)+", "", version)
    return short.lower() if re.fullmatch("[0-9A-Fa-f]{40}|[0-9A-Fa-f]{64}", short) else short


def _checked(
    name: str, kind: str, compact: Callable[[str], str], is_valid: Callable[[str], bool]
) -> Callable[[str], Identifier | None]:
    return lambda text: Identifier(f"{name}:{compact(text)}", kind) if is_valid(text) else None


# A spelling that is not settled after these readings has signs that were encoded twice.
MOST_READINGS = 4
REPOSITORIES = {"github", "gitlab", "bitbucket"}
# Packages named by digests of their contents, whose letters are hexadecimal.
_IMAGES = {"docker", "oci"}
_DIGEST = re.compile(r"sha(?:256|512):[0-9a-f]+", re.IGNORECASE)
# Types of packages whose registries ignore the case of a name, beside those that the library knows.
_NO_CASE = {"cargo", "composer", "deb", "docker", "hex", "nuget", "pub", *REPOSITORIES}
# Modules of Go and Swift are named by their host, and these hosts ignore case.
_HOSTS_WITHOUT_CASE = ("github.com/", "gitlab.com/", "bitbucket.org/")
NUMBERS: dict[str, Callable[[str], Identifier | None]] = {
    "doi": lambda text: _doi(text) or _doi(unquote(text)),
    "isbn": _isbn,
    "arxiv": _arxiv,
    "pkg": _purl,
    "iswc": _iswc,  # a composition
    "isrc": _checked("isrc", "isrc", isrc.compact, isrc.is_valid),  # a recording
    "isni": _checked("isni", MANY, isni.compact, isni.is_valid),  # who made works
    "orcid": _checked("orcid", MANY, isni.compact, isni.is_valid),  # the same
    "issn": _checked("issn", MANY, issn.compact, issn.is_valid),  # a journal
}


@dataclass(frozen=True)
class Platform:
    """A pattern for URLs of one platform.

    Attributes:
        kind: kind of the names; `many` for channels, lists and people, whose URLs stay unchanged.
        sites: the last two labels of its hosts.
        pattern: matches a URL in canonical spelling, without scheme, `www.`, `m.` and `mobile.`.
        name: the canonical name: a template with the pattern's groups, or a function of a match; empty: unknown.
    """

    kind: str
    sites: tuple[str, ...]
    pattern: re.Pattern[str]
    name: str | Callable[[re.Match[str]], str]


def _platform(kind: str, sites: str, pattern: str, name: str | Callable[[re.Match[str]], str] | None = None) -> Platform:
    template = ("" if kind == MANY else f"{kind}:{{id}}") if name is None else name
    return Platform(kind, tuple(sites.split()), re.compile(pattern, re.ASCII), template)


def _article(match: re.Match[str]) -> str:
    """An article of Wikipedia, with its title as MediaWiki spells it, or a revision; empty for others (a history, a draft)."""
    groups = match.groupdict()
    arguments = dict(parse_qsl(groups.get("query") or "", keep_blank_values=True))
    title = groups.get("title") or arguments.pop("title", "")
    if "oldid" in arguments and arguments["oldid"].isdigit():
        return f"wikipedia-version:{groups['language']}:{arguments['oldid']}"
    return f"wikipedia:{groups['language']}:{_title(title)}" if title and not arguments else ""


def _title(text: str) -> str:
    title = unicodedata.normalize("NFC", re.sub(r"[\s_]+", "_", unquote(text)).strip("_"))
    first = title[:1].upper()
    return (first if len(first) == 1 else title[:1]) + title[1:]


def _file_of(host: str) -> Callable[[re.Match[str]], str]:
    """The purl of a file in a repository at a branch, a tag or a commit."""

    def name(match: re.Match[str]) -> str:
        owner, repository, version, path = (unquote(match[part]) for part in ("owner", "name", "version", "path"))
        # `to_string` normalises as well; once is enough.
        purl = PackageURL(host, owner.lower(), repository.lower(), _short_ref(version), None, path, normalize_purl=False)
        return purl.to_string()

    return name


def _repository(host: str) -> Callable[[re.Match[str]], str]:
    """The purl of a repository, at a branch, a tag or a commit if there is one."""

    def name(match: re.Match[str]) -> str:
        at = match.groupdict().get("at")
        return f"pkg:{host}/{match['owner']}/{match['name']}" + (f"@{quote(unquote(at), safe='')}" if at else "")

    return name


_PYPI = r"pypi\.(?:python\.)?org/(?:project|pypi)"
_NPM = r"(?:@[\w.-]+(?:/|%2F))?[\w.-]+"


def _npm(name: str) -> str:
    return name.replace("%2F", "/").replace("@", "%40")


_END = r"/?(?:[?#].*)?$"
_REPOSITORY = r"(?P<owner>[^/?#]+)/(?P<name>[^/?#@]+?)(?:\.git)?"
_AT = r"(?:@(?P<at>[^@?#]+?))?"
_ARCHIVE = r"\.(?:zip|tar\.gz|tar\.bz2|tar|tgz)"
# Projects of GitLab lie in groups of groups; pages about a project had no `-` before GitLab 13.
_NO_GROUP = (
    r"(?!(?:explore|users|groups|help|dashboard|api|admin|search|profile|projects|snippets|public|-|oauth)(?:[/?#]|$))"
    r"(?!.*/(?:-|issues|merge_requests|tree|blob|raw|blame|commits?|tags|wikis|pipelines|snippets|network|compare|branches"
    r"|releases|boards|milestones|labels|graphs|jobs|activity|builds|edit|archive|repository)(?:[/?#]|$))"
)
_PROJECT = r"(?P<owner>[^/?#@]+(?:/[^/?#@]+)*?)/(?P<name>[^/?#@]+?)"
_REF = r"(?:refs/(?:heads|tags)/)?"
_FILE = rf"{_REF}(?P<version>[^/?#]+)/(?P<path>[^?#]+)"
# The first matching pattern of a platform counts. To add one, add a row here and real spellings to the test.
PLATFORMS = (
    _platform(
        "youtube", "youtube.com youtube-nocookie.com",
        r"(?:music\.)?youtube(?:-nocookie)?\.com/(?:watch/?\?(?:.*&)?v=|(?:shorts|embed|live|v|e|watch)/)"
        r"(?!videoseries|live_stream)(?P<id>[\w-]{11})(?:[/?&#].*)?$",
    ),
    _platform("youtube", "youtu.be", r"youtu\.be/(?P<id>[\w-]{11})(?:[/?&#].*)?$"),
    _platform(MANY, "youtube.com", r"(?:music\.)?youtube\.com/(?:@|channel/|c/|user/|playlist|embed/videoseries|feed/)"),
    _platform(
        "vimeo", "vimeo.com",
        r"(?:player\.)?vimeo\.com/(?:video/|channels/[^/]+/|groups/[^/]+/videos/|(?:album|showcase)/\d+/video/)?"
        rf"(?P<id>\d+)(?:/[0-9a-f]+)?{_END}",
    ),
    _platform(MANY, "vimeo.com", r"vimeo\.com/(?:channels|groups|album|showcase|ondemand|[a-z]\w+/?$)"),
    _platform("dailymotion", "dailymotion.com", rf"dailymotion\.com/(?:embed/)?video/(?P<id>[a-z0-9]+)(?:_[^/?#]*)?{_END}"),
    _platform("dailymotion", "dai.ly", rf"dai\.ly/(?P<id>[a-z0-9]+){_END}"),
    _platform("tiktok", "tiktok.com", rf"tiktok\.com/@[^/]+/video/(?P<id>\d+){_END}"),
    _platform(
        "soundcloud", "soundcloud.com",
        r"soundcloud\.com/(?P<id>(?!(?:discover|stream|you|search|charts|pages|tags)/)[\w-]+/"
        r"(?!(?:sets|tracks|albums|reposts|likes|followers|following|popular-tracks|comments|toptracks)(?:[/?#]|$))[\w-]+)"
        rf"(?:/s-\w+)?{_END}",
    ),
    _platform(MANY, "soundcloud.com", r"soundcloud\.com/"),
    _platform(
        "spotify:track", "spotify.com",
        rf"open\.spotify\.com/(?:intl-[a-z]+/)?(?:embed/)?track/(?P<id>[A-Za-z0-9]{{22}}){_END}",
    ),
    _platform(MANY, "spotify.com", r"open\.spotify\.com/(?:intl-[a-z]+/)?(?:embed/)?(?:album|artist|playlist|show|user)/"),
    _platform("flickr", "flickr.com", r"flickr\.com/photos/[^/]+/(?P<id>\d+)(?:[/?#].*)?$"),
    _platform(
        "flickr", "staticflickr.com flickr.com",
        r"\w+\.static\.?flickr\.com/(?:\d+/)?\d+/(?P<id>\d+)_[0-9a-f]+(?:_\w+)?\.\w+(?:[?#].*)?$",
    ),
    _platform(MANY, "flickr.com", r"flickr\.com/(?:photos|people|groups)/"),
    _platform(MANY, "wikipedia.org", r"[a-z-]+\.(?:m\.)?wikipedia\.org/wiki/(?:Category|Portal|Special):"),
    _platform(
        "wikipedia", "wikipedia.org",
        r"(?P<language>[a-z-]+)\.(?:m\.)?wikipedia\.org/wiki/(?P<title>[^?#]+)(?:\?(?P<query>[^#]*))?$", _article,
    ),
    _platform(
        "wikipedia-version", "wikipedia.org",
        r"(?P<language>[a-z-]+)\.(?:m\.)?wikipedia\.org/w/index\.php\?(?P<query>[^#]*)$", _article,
    ),
    _platform(
        "commons", "wikimedia.org", r"commons\.(?:m\.)?wikimedia\.org/wiki/(?:File|Image):(?P<id>[^?#]+)$",
        lambda match: f"commons:{_title(match['id'])}",
    ),
    _platform(
        "commons", "wikimedia.org",
        r"upload\.wikimedia\.org/wikipedia/commons/(?:thumb/)?[0-9a-f]/[0-9a-f]{2}/(?P<id>[^/?#]+)(?:/\d+px-[^/?#]+)?$",
        lambda match: f"commons:{_title(match['id'])}",
    ),
    _platform("arxiv", "arxiv.org", rf"(?:export\.)?arxiv\.org/(?:abs|html|ps|e-print|src|format)/(?P<id>[^?#]+?){_END}"),
    _platform("arxiv", "arxiv.org", rf"(?:export\.)?arxiv\.org/pdf/(?P<id>[^?#]+?)(?:\.pdf)?{_END}"),
    _platform("arxiv", "arxiv.org ar5iv.org", rf"(?:ar5iv\.labs\.arxiv|ar5iv)\.org/(?:abs|html)/(?P<id>[^?#]+?){_END}"),
    _platform("pmid", "nih.gov", rf"(?:pubmed\.ncbi\.nlm\.nih\.gov|ncbi\.nlm\.nih\.gov/pubmed)/(?P<id>\d+){_END}"),
    _platform(
        "pmcid", "nih.gov", rf"(?:pmc\.)?ncbi\.nlm\.nih\.gov/(?:pmc/)?articles/(?P<id>PMC\d+)(?:/pdf(?:/[^/?#]+)?)?{_END}"
    ),
    _platform("gutenberg", "gutenberg.org", r"gutenberg\.org/ebooks/(?P<id>\d+)(?:\.[\w.-]+)?/?$"),
    _platform("gutenberg", "gutenberg.org", r"gutenberg\.org/files/(?P<id>\d+)/(?P=id)(?:-\w+)?\.(?:txt|zip|htm|html)$"),
    _platform("gutenberg", "gutenberg.org", r"gutenberg\.org/cache/epub/(?P<id>\d+)/pg(?P=id)[\w-]*\.[\w.-]+$"),
    _platform("stackoverflow", "stackoverflow.com", rf"stackoverflow\.com/[aq]/(?P<id>\d+)(?:/\d+)?{_END}"),
    _platform("stackoverflow", "stackoverflow.com", r"stackoverflow\.com/questions/\d+/(?!\d+(?:[/?#]|$))[^/?#]+/(?P<id>\d+)"),
    _platform(
        "stackoverflow", "stackoverflow.com",
        rf"stackoverflow\.com/questions/(?P<id>\d+)(?:/(?!\d+(?:[/?#]|$))[^/?#]+)?{_END}",
    ),
    _platform(
        "reddit", "reddit.com",
        rf"(?:(?:old|new|np)\.)?reddit\.com/(?:r|user)/[^/]+/comments/(?P<id>[a-z0-9]+)(?:/[^/?#]*)?{_END}",
    ),
    _platform("reddit", "redd.it", rf"redd\.it/(?P<id>[a-z0-9]+){_END}"),
    _platform(MANY, "reddit.com", r"(?:(?:old|new|np)\.)?reddit\.com/(?:r|user)/[^/]+/?$"),
    _platform(
        "tweet", "x.com twitter.com", rf"(?:x|twitter)\.com/[^/]+/status(?:es)?/(?P<id>\d+)(?:/(?:photo|video)/\d)?{_END}"
    ),
    _platform(MANY, "x.com twitter.com", r"(?:x|twitter)\.com/[^/]+/?$"),
    _platform("gist", "github.com", rf"gist\.github\.com/(?:[^/?#]+/)?(?P<id>[0-9a-f]{{20,32}}){_END}"),
    _platform("file", "github.com", rf"github\.com/{_REPOSITORY}/(?:blob|raw|blame)/{_FILE}", _file_of("github")),
    _platform("file", "githubusercontent.com", rf"raw\.githubusercontent\.com/{_REPOSITORY}/{_FILE}", _file_of("github")),
    _platform("file", "github.com", rf"raw\.github\.com/{_REPOSITORY}/{_FILE}", _file_of("github")),
    _platform(
        "file", "github.com",
        rf"api\.github\.com/repos/{_REPOSITORY}/contents/(?P<path>[^?#]+)\?ref={_REF}(?P<version>[^&#]+)$", _file_of("github"),
    ),
    _platform(MANY, "github.com", rf"(?:api\.github\.com/repos|github\.com)/{_REPOSITORY}{_AT}{_END}", _repository("github")),
    _platform(
        MANY, "github.com", rf"github\.com/{_REPOSITORY}/(?:tree/{_REF}|releases/tag/|commit/)(?P<at>[^/?#]+){_END}",
        _repository("github"),
    ),
    _platform(
        MANY, "github.com", rf"github\.com/{_REPOSITORY}/archive/{_REF}(?P<at>[^?#]+?){_ARCHIVE}$", _repository("github"),
    ),
    _platform(
        MANY, "github.com", rf"github\.com/{_REPOSITORY}/(?:zip|tar)ball/{_REF}(?P<at>[^?#]+?){_END}", _repository("github"),
    ),
    _platform(
        MANY, "github.com", rf"codeload\.github\.com/{_REPOSITORY}/(?:legacy\.)?(?:zip|tar\.gz)/{_REF}(?P<at>[^?#]+?){_END}",
        _repository("github"),
    ),
    _platform(
        MANY, "github.com", rf"api\.github\.com/repos/{_REPOSITORY}/(?:zip|tar)ball/{_REF}(?P<at>[^?#]+?){_END}",
        _repository("github"),
    ),
    _platform(MANY, "github.com", r"github\.com/[^/?#]+/?$"),
    _platform(
        "file", "gitlab.com",
        rf"gitlab\.com/(?P<owner>[^?#]+)/(?P<name>[^/?#]+)/-/(?:blob|raw|blame)/{_FILE}", _file_of("gitlab"),
    ),
    _platform(
        "file", "gitlab.com",  # as it was before GitLab 13
        rf"gitlab\.com/(?P<owner>[^/?#-][^/?#]*(?:/[^/?#-][^/?#]*)*?)/(?P<name>[^/?#-][^/?#]*)/(?:blob|raw|blame)/{_FILE}",
        _file_of("gitlab"),
    ),
    _platform(
        MANY, "gitlab.com",
        rf"gitlab\.com/{_PROJECT}/-/(?:tree|tags|releases|commits?|archive)/{_REF}(?P<at>[^/?#]+)(?:/[^/?#]+{_ARCHIVE})?{_END}",
        _repository("gitlab"),
    ),
    _platform(MANY, "gitlab.com", rf"gitlab\.com/{_NO_GROUP}{_PROJECT}(?:\.git)?{_AT}{_END}", _repository("gitlab")),
    _platform("file", "bitbucket.org", rf"bitbucket\.org/{_REPOSITORY}/(?:src|raw)/{_FILE}", _file_of("bitbucket")),
    _platform(MANY, "bitbucket.org", rf"bitbucket\.org/{_REPOSITORY}{_AT}{_END}", _repository("bitbucket")),
    _platform(MANY, "bitbucket.org", rf"bitbucket\.org/{_REPOSITORY}/src/(?P<at>[^/?#]+){_END}", _repository("bitbucket")),
    _platform(
        MANY, "bitbucket.org", rf"bitbucket\.org/{_REPOSITORY}/get/(?P<at>[^/?#]+?){_ARCHIVE}$", _repository("bitbucket")
    ),
    _platform(
        "file", "jsdelivr.net",
        rf"cdn\.jsdelivr\.net/gh/{_REPOSITORY}@(?P<version>[^/?#@]+)/(?P<path>[^?#]+)", _file_of("github"),
    ),
    _platform(
        MANY, "pypi.org python.org", rf"{_PYPI}/(?P<id>[\w.-]+?)(?:/json)?{_END}", "pkg:pypi/{id}",
    ),
    _platform(
        "package", "pypi.org python.org", rf"{_PYPI}/(?P<id>[\w.-]+)/(?P<at>\d[^/?#]*)(?:/json)?{_END}",
        "pkg:pypi/{id}@{at}",
    ),
    _platform(
        "package", "npmjs.com npmjs.org",
        rf"(?:npmjs\.com/package/(?P<id>{_NPM})/v|registry\.npmjs\.org/(?P<api>{_NPM}))"
        rf"/(?P<at>\d[^/?#]*){_END}",
        lambda match: f"pkg:npm/{_npm(match['id'] or match['api'])}@{match['at']}",
    ),
    _platform(
        "package", "npmjs.org",
        r"registry\.npmjs\.org/(?P<scope>@[\w.-]+(?:/|%2F))?(?P<id>[\w.-]+)/-/(?P=id)-(?P<at>\d[\w.+-]*)\.tgz$",
        lambda match: f"pkg:npm/{_npm(match['scope'] or '')}{match['id']}@{match['at']}",
    ),
    _platform(
        MANY, "npmjs.com", rf"npmjs\.com/package/(?P<id>{_NPM}){_END}",
        lambda match: f"pkg:npm/{_npm(match['id'])}",
    ),
    _platform("package", "crates.io", rf"crates\.io/crates/(?P<id>[\w-]+)/(?P<at>\d[^/?#]*){_END}", "pkg:cargo/{id}@{at}"),
    _platform(MANY, "crates.io", rf"crates\.io/crates/(?P<id>[\w-]+){_END}", "pkg:cargo/{id}"),
    _platform(
        "package", "rubygems.org", rf"rubygems\.org/gems/(?P<id>[\w.-]+)/versions/(?P<at>\d[^/?#]*){_END}", "pkg:gem/{id}@{at}"
    ),
    _platform(MANY, "rubygems.org", rf"rubygems\.org/gems/(?P<id>[\w.-]+){_END}", "pkg:gem/{id}"),
    _platform(MANY, "orcid.org isni.org", r"(?:orcid|isni)\.org/"),
)  # fmt: skip
_BY_SITE = {site: [row for row in PLATFORMS if site in row.sites] for row in PLATFORMS for site in row.sites}
# Kinds that only the table above makes.
_OWN_KINDS = {row.kind for row in PLATFORMS} - {MANY, "arxiv", "file", "package"}
_OF_PLATFORM = re.compile(rf"({'|'.join(sorted(_OWN_KINDS))}):\S+")
# Kinds whose names are final as the table makes them.
_EXACT = {"file", *_OWN_KINDS} - {"wikipedia", "wikipedia-version"}
