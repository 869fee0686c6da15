"""The policy on rights: the class of each licence, what each class may be used for, and whose word counts.

    strictness = ["commercial", "non_commercial", "academic_only", "unspecified", "forbidden"]
    precedence = ["owner", "source", "aggregator"]

    [uses]
    train = ["commercial"]

    [licences]
    commercial = ["MIT", "CC-BY-4.0"]
    non_commercial = ["CC-BY-NC-*"]

`infra/settings/rights.toml` explains every key.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from fnmatch import filter as matching
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from provenance.core.errors import ContractError, did_you_mean
from provenance.core.toml import read_toml
from provenance.corpus.rights import spdx

Class = Literal["commercial", "non_commercial", "academic_only", "unspecified", "forbidden"]
Asserter = Literal["owner", "source", "aggregator"]
Use = Literal["train", "research", "evaluate"]
CLASSES: tuple[Class, ...] = get_args(Class)
ASSERTERS: tuple[Asserter, ...] = get_args(Asserter)
USES: tuple[Use, ...] = get_args(Use)
UNSPECIFIED: Class = "unspecified"


class Words(BaseModel):
    """What words mean that are no SPDX expression.

    Attributes:
        pattern: a regular expression; capitals do not count.
        licence_class: the class of terms that say so.
        spdx: the licence that they name, if they name one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    pattern: Annotated[str, Field(min_length=1)]
    licence_class: Annotated[Class, Field(alias="class")]
    spdx: str | None = None

    def match(self, text: str) -> bool:
        """Whether a text says so: all of it, where it would allow the most, or else any part of it."""
        search = re.fullmatch if self.licence_class == CLASSES[0] else re.search
        return search(self.pattern, text, flags=re.IGNORECASE | re.DOTALL) is not None


class RightsPolicy(BaseModel):
    """The policy, as `parse_policy` has checked it.

    Attributes:
        strictness: all classes, the least strict first: of a choice the first counts, of terms that hold together the last.
        precedence: whose word counts, the first first.
        uses: the classes whose works may be used so.
        licences: SPDX ids by class; `*` stands for anything, and an id that is written out counts before it.
        references: the class of terms that documents call `LicenseRef-`.
        exceptions: the class of exceptions that take something back; the others of SPDX's leave a licence its class.
        words: what other words mean.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    strictness: tuple[Class, ...]
    precedence: tuple[Asserter, ...]
    uses: dict[Use, tuple[Class, ...]]
    licences: dict[Class, tuple[str, ...]]
    references: dict[str, Class] = {}
    exceptions: dict[str, Class] = {}
    words: tuple[Words, ...] = ()

    @cached_property
    def classes(self) -> dict[str, Class]:
        """The class of each SPDX licence and reference that the policy has one for."""
        listed = [(text, name) for name, texts in self.licences.items() for text in texts]
        by_pattern = {key: name for text, name in listed if "*" in text for key in _meant(text)}
        written_out = {key: name for text, name in listed if "*" not in text for key in _meant(text)}
        return by_pattern | written_out | self.references

    def strictest(self, classes: Iterable[Class]) -> Class:
        """The class of terms that hold together."""
        return max(classes, key=self.strictness.index)

    def mildest(self, classes: Iterable[Class]) -> Class:
        """The class of terms of which the recipient chooses."""
        return min(classes, key=self.strictness.index)

    def refusal(self, licence_class: Class, use: Use = "train") -> str:
        """Why works of a class may not be used so; empty: they may."""
        allowed = self.uses[use]
        return (
            ""
            if licence_class in allowed
            else f"{licence_class}, and the policy lets {use} only {', '.join(allowed) or 'none'}"
        )


def read_policy(path: Path) -> RightsPolicy:
    """The policy of a TOML file; an error names the nearest that is known, too."""
    return parse_policy(read_toml(path, "a policy on rights", ContractError), str(path))


def parse_policy(values: Mapping[str, Any], file: str) -> RightsPolicy:
    """A policy from plain values; errors as of `read_policy`."""
    try:
        policy = RightsPolicy.model_validate(values)
    except ValidationError as error:
        raise _explain(error, file) from error
    _check_order(policy, file)
    _check_licences(policy, file)
    _check_words(policy, file)
    return policy


def _check_order(policy: RightsPolicy, file: str) -> None:
    """Every class, asserter and use has its place, and what is stricter may not be used for more."""
    orders = {"strictness": (policy.strictness, CLASSES), "precedence": (policy.precedence, ASSERTERS)}
    for key, (found, all_of) in orders.items():
        if sorted(found) != sorted(all_of):
            raise ContractError(
                f"{file}: {key}", expected=f"each of {', '.join(all_of)} once", found=", ".join(found) or "none"
            )
    for use in USES:
        if use not in policy.uses:
            raise ContractError(f"{file}: uses.{use}", expected="a list of classes", found="none")
        allowed = policy.uses[use]
        mildest = policy.strictness[: len(allowed)]
        if set(allowed) != set(mildest):
            expected = f"no class without all that strictness has before it, such as {', '.join(mildest)}"
            raise ContractError(f"{file}: uses.{use}", expected=expected, found=", ".join(allowed))


def _check_licences(policy: RightsPolicy, file: str) -> None:
    """Ids are known, and no two classes have one: written out or by patterns."""
    seen: dict[tuple[str, bool], str] = {}
    for name, texts in policy.licences.items():
        for text in texts:
            where = f"{file}: licences.{name}"
            if not (keys := _meant(text)):
                hint = did_you_mean(text, sorted(spdx.known()))
                raise ContractError(where, expected="ids of SPDX licences", found=repr(text), hint=hint)
            for key in keys:
                other = seen.setdefault((key, "*" in text), name)
                if other != name:
                    raise ContractError(where, expected=f"no licence of {other}", found=f"{text!r}, which means {key}")
    for key in policy.references:
        if not spdx.REFERENCE.fullmatch(key):
            expected = "LicenseRef- and letters, digits, dots or dashes"
            raise ContractError(f"{file}: references", expected=expected, found=repr(key))
    for key in policy.exceptions:
        exceptions = spdx.known(exceptions=True)
        if key not in exceptions and not spdx.REFERENCE.fullmatch(key):
            hint = did_you_mean(key, sorted(exceptions))
            expected = "an exception that SPDX knows, or AdditionRef-..."
            raise ContractError(f"{file}: exceptions", expected=expected, found=repr(key), hint=hint)


def _check_words(policy: RightsPolicy, file: str) -> None:
    for number, words in enumerate(policy.words, 1):
        where = f"{file}: words.{number}"
        try:
            matches_nothing_said = re.search(words.pattern, "") is not None
        except re.error as error:
            raise ContractError(
                f"{where}.pattern", expected="a regular expression", found=f"{words.pattern!r}: {error}"
            ) from error
        if matches_nothing_said:
            raise ContractError(f"{where}.pattern", expected="one that asks for some words", found=repr(words.pattern))
        if words.spdx is not None:
            try:
                spdx.parse(words.spdx)
            except spdx.Unreadable as error:
                raise ContractError(f"{where}.spdx", expected="an SPDX expression", found=f"{words.spdx!r}: {error}") from error


def _meant(text: str) -> list[str]:
    """The SPDX licences that an id, or a pattern of ids, means."""
    if "*" in text:
        return sorted(matching(spdx.known(), text))
    try:
        key = str(spdx.parse(text))
    except spdx.Unreadable:
        return []
    return [key] if key in spdx.known() else []


def _explain(error: ValidationError, file: str) -> ContractError:
    first = error.errors()[0]
    path = [place + 1 if isinstance(place, int) else place for place in first["loc"] if place != "[key]"]
    where = f"{file}: {'.'.join(map(str, path))}"
    key = str(first["loc"][-2] if first["loc"][-1] == "[key]" else path[-1])
    if first["type"] == "extra_forbidden":
        known: tuple[str, ...] = tuple(RightsPolicy.model_fields)
        if len(path) > 1:
            known = ("pattern", "class", "spdx")
        return ContractError(where, expected=f"one of {', '.join(known)}", found=repr(key), hint=did_you_mean(key, known))
    if first["type"] == "literal_error":
        allowed = next(names for names in (CLASSES, ASSERTERS, USES) if repr(names[0]) in str(first["ctx"]["expected"]))
        hint = did_you_mean(str(first["input"]), allowed)
        return ContractError(where, expected=f"one of {', '.join(allowed)}", found=repr(first["input"]), hint=hint)
    found = "none" if first["type"] == "missing" else repr(first["input"])
    expected = str(first["msg"]).removeprefix("Input should be ").replace("a valid tuple", "a list")
    return ContractError(where, expected=expected, found=found)
