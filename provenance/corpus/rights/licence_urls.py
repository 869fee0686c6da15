"""The licences behind the addresses at which their stewards publish them.

Creative Commons, SPDX and the Open Source Initiative, and the stewards of some common licences. An address names a licence
whatever its scheme, letter case, language or ending: `http://creativecommons.org/licenses/by/4.0/deed.de` is CC-BY-4.0.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

_ENDING = r"(?:[/?#].*)?"
_FORMAT = r"(?:\.(?:html?|txt|json|rdf|xml|php|jsonld)|-(?:txt|php|html))?"
# The hosts of stewards, with or without a scheme; any other address counts with its scheme.
_HOSTS = (
    r"(?:www\.)?(?:creativecommons\.org|spdx\.org|opensource\.org|choosealicense\.com|gnu\.org|apache\.org|mozilla\.org|"
    r"opendatacommons\.org|unlicense\.org|wtfpl\.net|scripts\.sil\.org|openfontlicense\.org)"
)
ADDRESS = re.compile(rf"<?(?:(?:https?:)?//[^\s<>()]+|(?<![\w./@-]){_HOSTS}/?[^\s<>()]*)>?", re.IGNORECASE)


def _creative_commons(match: re.Match[str]) -> tuple[str, ...]:
    """The ids for a licence, the most exact first: a ported version has an id of its own, or else that of the suite."""
    elements = match["elements"].lower().split("-")
    ordered = [element for element in ("by", "nc", "nd", "sa") if element in elements]
    whole = f"CC-{'-'.join(ordered)}-{match['version']}"
    return (f"{whole}-{match['port']}", whole) if match["port"] else (whole,)


def _squeezed_slug(match: re.Match[str]) -> tuple[str, ...]:
    """The ids for a slug, such as `apache-2-0`, `gpl-3.0`, `mit-license` or `agpl-v3`."""
    slug = re.sub(_FORMAT + "$", "", match["slug"].lower())
    plain = slug.removesuffix("-license").removesuffix("license")
    full = re.sub(r"-?v(?=\d)", "-", plain)
    return (slug, plain, full, f"{full}-0", f"{plain}-0")


# The first matching pattern counts. Patterns match an address without scheme and `www.`, in any letter case.
STEWARDS: tuple[tuple[str, str | Callable[[re.Match[str]], tuple[str, ...]]], ...] = (
    (r"creativecommons\.org/publicdomain/zero/1\.0", "CC0-1.0"),
    (r"creativecommons\.org/publicdomain/mark/1\.0", "CC-PDM-1.0"),
    (r"creativecommons\.org/licenses/publicdomain", "CC-PDDC"),
    (
        r"creativecommons\.org/licenses/(?P<elements>(?:by|nc|nd|sa)(?:-(?:by|nc|nd|sa))*)/(?P<version>\d\.\d)(?:/(?P<port>[a-z]{2,3})(?=/|$))?",
        _creative_commons,
    ),
    (rf"spdx\.org/licenses/(?P<id>[A-Za-z0-9.+-]+?){_FORMAT}", lambda match: (match["id"],)),
    (r"(?:opensource\.org/licen[cs]es?|choosealicense\.com/licenses)/(?P<slug>[A-Za-z0-9.+-]+)", _squeezed_slug),
    (r"apache\.org/licenses/LICENSE-(?P<version>\d\.\d)(?:\.\w+)?", lambda match: (f"Apache-{match['version']}",)),
    (
        r"gnu\.org/(?:licenses|copyleft)/(?:old-licenses/)?(?P<name>a?gpl|lgpl|fdl)-(?P<version>\d\.\d)(?:-standalone)?(?:\.[a-z.-]+)?",
        lambda match: (f"{match['name'].replace('fdl', 'gfdl')}-{match['version']}",),
    ),
    (r"mozilla\.org/(?:[a-z-]{2,7}/)?MPL/(?P<version>\d\.\d)", lambda match: (f"MPL-{match['version']}",)),
    (r"opendatacommons\.org/licenses/odbl(?:/1[.-]0)?", "ODbL-1.0"),
    (r"opendatacommons\.org/licenses/by(?:/1[.-]0)?", "ODC-By-1.0"),
    (r"opendatacommons\.org/licenses/pddl(?:/1[.-]0)?", "PDDL-1.0"),
    (r"unlicense\.org", "Unlicense"),
    (r"wtfpl\.net", "WTFPL"),
    (r"(?:scripts\.sil\.org/OFL|openfontlicense\.org)", "OFL-1.1"),
)
_PATTERNS = tuple((re.compile(pattern + _ENDING, re.IGNORECASE), ids) for pattern, ids in STEWARDS)


def id_of(address: str, ids: Mapping[str, str]) -> str | None:
    """The licence that an address names; None if it names none of `ids`.

    Args:
        ids: by id in lower case, the id as SPDX writes it, or the expression that stands for it.
    """
    place = re.sub(r"^(?:https?:)?//", "", address.strip("<>").rstrip(".,;"), flags=re.IGNORECASE)
    place = re.sub(r"^www\.", "", place, flags=re.IGNORECASE)
    if ".." in re.split(r"[/?#]", place):
        return None  # it leads elsewhere
    for pattern, named in _PATTERNS:
        if match := pattern.fullmatch(place):
            candidates = (named,) if isinstance(named, str) else named(match)
            found = (ids.get(name.lower()) for name in candidates)
            squeezed = _by_letters(ids) if named is _squeezed_slug else {}
            also = (squeezed.get(_letters(name)) for name in candidates)
            return next(filter(None, (*found, *also)), None)
    return None


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9+]", "", name.lower())


def _by_letters(ids: Mapping[str, str]) -> dict[str, str]:
    """The licences by the letters of their ids; those of which there is one version alone without it, too."""
    versions: dict[str, set[str]] = {}
    for name, licence in ids.items():
        if "+" not in name:
            versions.setdefault(_letters(re.sub(r"-\d[\d.]*$", "", name)), set()).add(licence)
    unversioned = {name: next(iter(licences)) for name, licences in versions.items() if len(licences) == 1}
    return unversioned | {_letters(name): licence for name, licence in ids.items()}
