"""`make advisories`: known vulnerabilities of what the locks pin, by pip-audit, in an environment of its own.

Exit codes: 0 none but accepted ones, 1 some, 3 no source of advisories can be reached and nothing is known.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

NOTHING_KNOWN = 3
CHECKOUT = Path(__file__).parents[1]
LOCKS = (*sorted((CHECKOUT / "infra/requirements").glob("*.txt")), CHECKOUT / "bench/peers/requirements.txt")
ACCEPTED = CHECKOUT / "infra/advisories.toml"
SOURCES = ("pypi", "osv")
# A version with advisories (CVE-2024-22195 and later ones). pip-audit says that nothing is known to be wrong with packages that
# its source does not know, so a source that has nothing to say of this one is none.
CANARY = "jinja2==3.1.2"


@dataclass(frozen=True, order=True)
class Found:
    """An advisory on what a lock pins, and why it is accepted, if it is."""

    package: str
    version: str
    id: str
    aliases: tuple[str, ...] = ()
    fixed_in: tuple[str, ...] = ()
    because: str = ""


def ask(source: str, requirements: Path) -> dict[str, Any]:
    """What pip-audit says of a file of requirements, which is installed nowhere.

    Raises:
        OSError: it says nothing.
    """
    options = ["--no-deps", "--disable-pip", "--progress-spinner", "off", "--format", "json"]
    command = [sys.executable, "-m", "pip_audit", "-s", source, *options, "-r", str(requirements)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        said: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        raise OSError((done.stderr.strip().splitlines() or ["nothing was said"])[-1]) from None
    return said


def reachable(asked: Callable[[str, Path], dict[str, Any]]) -> tuple[str, dict[str, str]]:
    """The first source that knows what is known of an old version; empty for none, with what each said."""
    said = {}
    with tempfile.TemporaryDirectory() as folder:
        canary = Path(folder) / "requirements.txt"
        canary.write_text(f"{CANARY}\n")
        for source in SOURCES:
            try:
                (answer,) = asked(source, canary)["dependencies"]
            except OSError as error:
                said[source] = str(error)
                continue
            if answer.get("vulns"):
                return source, said
            said[source] = answer.get("skip_reason") or f"it knows of no advisory on {CANARY}"
    return "", said


def advisories(answers: Sequence[Mapping[str, Any]]) -> tuple[list[Found], set[str]]:
    """Every advisory once, and the packages that the source does not know."""
    found, unknown = set(), set()
    for dependency in (dependency for answer in answers for dependency in answer["dependencies"]):
        if "skip_reason" in dependency:
            unknown.add(dependency["name"])
        for known in dependency.get("vulns", ()):
            names = tuple(sorted(known.get("aliases", ()))), tuple(known.get("fix_versions", ()))
            found.add(Found(dependency["name"], dependency["version"], known["id"], *names))
    return sorted(found), unknown


def judged(found: Sequence[Found], accepted: Sequence[Mapping[str, Any]], today: date) -> Iterator[Found]:
    """The advisories, with the reason of those that are accepted and still may be."""
    for one in found:
        reason = next(
            (
                entry["because"]
                for entry in accepted
                if entry["package"] == one.package and entry["id"] in {one.id, *one.aliases} and entry["until"] >= today
            ),
            "",
        )
        yield Found(one.package, one.version, one.id, one.aliases, one.fixed_in, reason)


def report(
    asked: Callable[[str, Path], dict[str, Any]], locks: Sequence[Path], accepted: Sequence[Mapping[str, Any]], today: date
) -> tuple[int, list[str]]:
    """The exit code, and what to say."""
    source, said = reachable(asked)
    if not source:
        tried = [f"  {name}: {reason}" for name, reason in said.items()]
        return NOTHING_KNOWN, ["advisories: no source of advisories can be reached; nothing is known of the locks.", *tried]
    found, unknown = advisories([asked(source, lock) for lock in locks])
    lines, left = [], 0
    for one in judged(found, accepted, today):
        left += not one.because
        what = f"accepted: {one.because}" if one.because else f"fixed in {', '.join(one.fixed_in) or 'no version yet'}"
        lines.append(f"{one.package} {one.version}: {one.id}; {what}")
    known = {name for one in found for name in (one.id, *one.aliases)}
    lines += [
        f"{entry['package']}: {entry['id']} is accepted, and found no more" for entry in accepted if entry["id"] not in known
    ]
    if unknown:
        lines.append(f"{len(unknown)} packages that {source} does not know were not checked: {', '.join(sorted(unknown))}")
    lines.append(f"advisories: {len(found)} on what {len(locks)} locks pin, {left} of them not accepted ({source})")
    return int(left > 0), lines


def main() -> int:
    """Ask, and say what is known."""
    accepted = tomllib.loads(ACCEPTED.read_text())["accepted"]
    code, lines = report(ask, LOCKS, accepted, datetime.now(UTC).date())
    sys.stdout.write("\n".join([*lines, ""]))
    return code


if __name__ == "__main__":
    raise SystemExit(main())
