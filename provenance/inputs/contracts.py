"""Reads royalty contracts, which set the rule that divides an output's revenue, and assigns one to each output.

    [[contract]]
    name = "assistant"
    models = ["demo-*"]             # model ids that it covers; * and ? are wildcards
    products = ["*"]
    developer_ppb = 300_000_000
    rule = "faithful"

If several contracts cover an output, the first in the file applies.
"""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import polars as pl
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from provenance.core.errors import ContractError, did_you_mean
from provenance.core.money import PPB
from provenance.core.toml import read_toml

Ppb = Annotated[int, Field(ge=0, le=PPB, strict=True)]
Rule = Literal["faithful", "srs", "banzhaf", "flat", "proportional"]


class Contract(BaseModel):
    """One contract.

    Attributes:
        models, products: patterns of the model ids and products that it covers.
        developer_ppb: the developer's part of the revenue.
        rule: divides the rest, the pool.
        fallback: rule that pays to the extent that the night's check does not support `rule`.
        unsupported: if the check fails, the `fallback` pays at once, or the night also has to `wait` for a person.
        signal_to_noise: up to this value, measured on the night's outputs, only the fallback pays; above it the fallback pays a
            part. 0: no threshold besides the check.
        floor_ppb: shares below this go to the other parties.
        cap_ppb: the part of a share above this goes to the other parties.
        unmatched: shares of works that nobody claims are kept in `escrow`, or go to the `others`.
        duplicates: among copies, the owner with the `earliest` claim is paid, or all in `equal` parts, or each as if
            there were no copies (`off`).
        flat_by: the unit that `flat` counts: `tokens` (words, events, patches), `examples` or `works`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(min_length=1)]
    models: Annotated[tuple[str, ...], Field(min_length=1)] = ("*",)
    products: Annotated[tuple[str, ...], Field(min_length=1)] = ("*",)
    developer_ppb: Ppb
    rule: Rule = "faithful"
    fallback: Literal["flat", "proportional"] = "flat"
    unsupported: Literal["fallback", "wait"] = "fallback"
    signal_to_noise: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    floor_ppb: Ppb = 0
    cap_ppb: Annotated[int, Field(gt=0, le=PPB, strict=True)] = PPB
    unmatched: Literal["escrow", "others"] = "escrow"
    duplicates: Literal["earliest", "equal", "off"] = "earliest"
    flat_by: Literal["tokens", "examples", "works"] = "tokens"

    @model_validator(mode="after")
    def _floor_below_cap(self) -> Self:
        if self.floor_ppb > self.cap_ppb:
            raise ValueError(f"floor_ppb at most cap_ppb, {self.cap_ppb:,}")
        return self

    def covers(self, model: str, product: str) -> bool:
        """Whether the contract covers outputs of a model and a product."""
        pairs = ((model, self.models), (product, self.products))
        return all(any(fnmatchcase(value, pattern) for pattern in patterns) for value, patterns in pairs)


def read_contracts(path: Path) -> tuple[Contract, ...]:
    """The contracts of a TOML file, in its order.

    Raises:
        ContractError: names the file, the contract, the key, and the expected and the found value.
    """
    content = read_toml(path, "a file of royalty contracts", ContractError)
    tables = content.pop("contract", None)
    if content or not isinstance(tables, list) or not tables:
        found = ", ".join(map(repr, content)) or ("none" if not tables else "one that is no list")
        raise ContractError(str(path), expected="one or more [[contract]] tables and nothing else", found=found)
    return parse_contracts(tables, str(path))


def parse_contracts(tables: Sequence[dict[str, Any]], file: str) -> tuple[Contract, ...]:
    """Contracts from the plain values of a file or a manifest."""
    contracts: list[Contract] = []
    for number, values in enumerate(tables, 1):
        try:
            contract = Contract.model_validate(values)
        except ValidationError as error:
            raise _explain(error, f"{file}: contract {number} ({values.get('name', 'without a name')})") from error
        if any(contract.name == other.name for other in contracts):
            where = f"{file}: contract {number}: name"
            raise ContractError(where, expected="a name that no other contract has", found=repr(contract.name))
        contracts.append(contract)
    return tuple(contracts)


def assign(outputs: pl.DataFrame, contracts: Sequence[Contract], file: str) -> pl.Series:
    """The name of the contract that covers each output.

    Args:
        outputs: `output_id, model_id, product`.

    Raises:
        ContractError: no contract covers an output.
    """
    pairs = outputs.select("model_id", "product").rows()
    covering: dict[tuple[str, str], str | None] = {
        (model, product): next((c.name for c in contracts if c.covers(model, product)), None) for model, product in set(pairs)
    }
    names = [covering[pair] for pair in pairs]
    if None in names:
        row = outputs.row(names.index(None), named=True)
        raise ContractError(
            f"{file}: output {row['output_id']!r}",
            expected=f"a contract that covers it ({', '.join(contract.name for contract in contracts)})",
            found=f"none for model {row['model_id']!r} and product {row['product']!r}",
        )
    return pl.Series("contract", names, dtype=pl.String)


def _explain(error: ValidationError, where: str) -> ContractError:
    first = error.errors()[0]
    key = str(first["loc"][0]) if first["loc"] else ""
    at = f"{where}: {key}" if key else where
    if first["type"] == "extra_forbidden":
        keys = Contract.model_fields
        return ContractError(at, expected=f"one of {', '.join(keys)}", found=repr(key), hint=did_you_mean(key, keys))
    expected = str(first["msg"]).removeprefix("Value error, ").removeprefix("Input should be ")
    expected = expected.replace("a valid tuple", 'a list of patterns, ["*"] say').replace(str(PPB), f"{PPB:,}")
    return ContractError(at, expected=expected, found="none" if first["type"] == "missing" else repr(first["input"]))
