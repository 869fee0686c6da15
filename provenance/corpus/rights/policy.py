"""The policy on rights: classes of licences, permitted uses of classes, and precedence of asserters.

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
    """The meaning of words that are no SPDX expression.

    Attributes:
        pattern: a regular expression that ignores case.
        licence_class: the class of terms with these words.
        spdx: the licence that they name, if any.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    pattern: Annotated[str, Field(min_length=1)]
    licence_class: Annotated[Class, Field(alias="class")]
    spdx: str | None = None

    def match(self, text: str) -> bool:
        """Whether a text matches: the whole text for the most permissive class, else any part of it."""
        search = re.fullmatch if self.licence_class == CLASSES[0] else re.search
        return search(self.pattern, text, flags=re.IGNORECASE | re.DOTALL) is not None


class RightsPolicy(BaseModel):
    """The policy, checked by `parse_policy`.

    Attributes:
        strictness: all classes, least strict first; alternatives take the first, terms that hold together the last.
        precedence: all asserters, the decisive one first.
        uses: the permitted classes of each use.
        licences: SPDX ids by class; `*` matches anything, and an id written out takes precedence over patterns.
        references: the classes of `LicenseRef-` names.
        exceptions: the classes of restrictive exceptions; other exceptions of SPDX leave a licence its class.
        words: the meaning of other words.
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
        """The class of each SPDX licence and reference in the policy."""
        pairs = [(text, name) for name, texts in self.licences.items() for text in texts]
        by_pattern = {key: name for text, name in pairs if "*" in text for key in _matching_ids(text)}
        written_out = {key: name for text, name in pairs if "*" not in text for key in _matching_ids(text)}
        return by_pattern | written_out | self.references

    def strictest(self, classes: Iterable[Class]) -> Class:
        """The class of terms that hold together."""
        return max(classes, key=self.strictness.index)

    def mildest(self, classes: Iterable[Class]) -> Class:
        """The class of terms among which the recipient chooses."""
        return min(classes, key=self.strictness.index)

    def refusal(self, licence_class: Class, use: Use = "train") -> str:
        """The reason why works of a class must not be used; empty: they may be."""
        allowed = self.uses[use]
        return (
            ""
            if licence_class in allowed
            else f"{licence_class}, and the policy lets {use} only {', '.join(allowed) or 'none'}"
        )


def read_policy(path: Path) -> RightsPolicy:
    """Read the policy from a TOML file; errors hint at the nearest known name."""
    return parse_policy(read_toml(path, "a policy on rights", ContractError), str(path))


def parse_policy(values: Mapping[str, Any], file: str) -> RightsPolicy:
    """Check plain values and make a policy; errors as in `read_policy`."""
    try:
        policy = RightsPolicy.model_validate(values)
    except ValidationError as error:
        raise _explain(error, file) from error
    _check_order(policy, file)
    _check_licences(policy, file)
    _check_words(policy, file)
    return policy


def _check_order(policy: RightsPolicy, file: str) -> None:
    """Check that every class, asserter and use is listed, and that no stricter class has more uses."""
    orders = {"strictness": (policy.strictness, CLASSES), "precedence": (policy.precedence, ASSERTERS)}
    for key, (order, names) in orders.items():
        if sorted(order) != sorted(names):
            raise ContractError(f"{file}: {key}", expected=f"each of {', '.join(names)} once", found=", ".join(order) or "none")
    for use in USES:
        if use not in policy.uses:
            raise ContractError(f"{file}: uses.{use}", expected="a list of classes", found="none")
        allowed = policy.uses[use]
        mildest = policy.strictness[: len(allowed)]
        if set(allowed) != set(mildest):
            expected = f"no class without all that strictness has before it, such as {', '.join(mildest)}"
            raise ContractError(f"{file}: uses.{use}", expected=expected, found=", ".join(allowed))


def _check_licences(policy: RightsPolicy, file: str) -> None:
    """Check that ids are known and belong to one class, written out or by patterns."""
    seen: dict[tuple[str, bool], str] = {}
    for name, texts in policy.licences.items():
        for text in texts:
            where = f"{file}: licences.{name}"
            if not (keys := _matching_ids(text)):
                hint = did_you_mean(text, sorted(spdx.known_ids()))
                raise ContractError(where, expected="ids of SPDX licences", found=repr(text), hint=hint)
            for key in keys:
                owner_class = seen.setdefault((key, "*" in text), name)
                if owner_class != name:
                    raise ContractError(where, expected=f"no licence of {owner_class}", found=f"{text!r}, which means {key}")
    for key in policy.references:
        if not spdx.REFERENCE.fullmatch(key):
            expected = "LicenseRef- and letters, digits, dots or dashes"
            raise ContractError(f"{file}: references", expected=expected, found=repr(key))
    for key in policy.exceptions:
        exceptions = spdx.known_ids(exceptions=True)
        if key not in exceptions and not spdx.REFERENCE.fullmatch(key):
            hint = did_you_mean(key, sorted(exceptions))
            expected = "an exception that SPDX knows, or AdditionRef-..."
            raise ContractError(f"{file}: exceptions", expected=expected, found=repr(key), hint=hint)


def _check_words(policy: RightsPolicy, file: str) -> None:
    for number, words in enumerate(policy.words, 1):
        where = f"{file}: words.{number}"
        try:
            matches_empty = re.search(words.pattern, "") is not None
        except re.error as error:
            raise ContractError(
                f"{where}.pattern", expected="a regular expression", found=f"{words.pattern!r}: {error}"
            ) from error
        if matches_empty:
            raise ContractError(f"{where}.pattern", expected="one that asks for some words", found=repr(words.pattern))
        if words.spdx is not None:
            try:
                spdx.parse(words.spdx)
            except spdx.Unreadable as error:
                raise ContractError(f"{where}.spdx", expected="an SPDX expression", found=f"{words.spdx!r}: {error}") from error


def _matching_ids(text: str) -> list[str]:
    """The SPDX licences that match an id or a pattern."""
    if "*" in text:
        return sorted(matching(spdx.known_ids(), text))
    try:
        key = str(spdx.parse(text))
    except spdx.Unreadable:
        return []
    return [key] if key in spdx.known_ids() else []


def _explain(error: ValidationError, file: str) -> ContractError:
    first = error.errors()[0]
    path = [place + 1 if isinstance(place, int) else place for place in first["loc"] if place != "[key]"]
    where = f"{file}: {'.'.join(map(str, path))}"
    key = str(first["loc"][-2] if first["loc"][-1] == "[key]" else path[-1])
    if first["type"] == "extra_forbidden":
        keys: tuple[str, ...] = tuple(RightsPolicy.model_fields)
        if len(path) > 1:
            keys = ("pattern", "class", "spdx")
        return ContractError(where, expected=f"one of {', '.join(keys)}", found=repr(key), hint=did_you_mean(key, keys))
    if first["type"] == "literal_error":
        allowed = next(names for names in (CLASSES, ASSERTERS, USES) if repr(names[0]) in str(first["ctx"]["expected"]))
        hint = did_you_mean(str(first["input"]), allowed)
        return ContractError(where, expected=f"one of {', '.join(allowed)}", found=repr(first["input"]), hint=hint)
    found = "none" if first["type"] == "missing" else repr(first["input"])
    expected = str(first["msg"]).removeprefix("Input should be ").replace("a valid tuple", "a list")
    return ContractError(where, expected=expected, found=found)
