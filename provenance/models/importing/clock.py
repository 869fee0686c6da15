"""Finds a run's schedule of learning rates, and from it the sum of rates up to each checkpoint: the run's own clock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from provenance.core.errors import ModelError
from provenance.models.adapters.training_loop import rate_by_name
from provenance.models.importing.facts import Facts
from provenance.models.importing.run import STATE, Run
from provenance.models.recipe import COSINE, RECORDED, SCHEDULES, WITHOUT_WARMUP

# Schedules that are found from logged rates alone, where nothing names one; others need more than a warm-up to be told.
TOLD_APART = ("linear", "cosine", "inverse_sqrt", "constant_with_warmup")
# Logged rates are float64 in JSON, so that a schedule either fits them or does not. A rate is logged as the step used it or, by
# transformers before 4.42, as the next step will.
FITS, SHIFTS = 1e-6, (1, 0)
# So many logged rates are needed before a schedule is believed.
LEAST = 3
# Of so many logged rates a first look is taken.
FEW = 6
# A recorded schedule has at most so many rates.
MOST_RATES = 256


def learning_rate_sums(run: Run, facts: Facts, steps: Sequence[int]) -> list[float] | None:
    """The sum of learning rates up to each step; None if nothing says them. Notes in `facts` what was found of the schedule.

    The schedule that the arguments name counts if the logged rates agree with it; else the one that fits these; else the rates
    between them are interpolated. A schedule that cannot be named, or was not gone through to its end, is `recorded`.
    """
    logged, total = logged_rates(run), max([*steps, facts.schedule_steps or 0])
    parts, ended = _named(facts, total), max(steps)
    if parts is not None and logged and not _fits(parts, logged, facts.values.get("learning_rate")):
        schedule, parts = facts.values["schedule"], None
        facts.notes.append(f"The logged learning rates are not those of the schedule {schedule!r}; the log counts.")
        _forget(facts, f"the log differs from {schedule!r}")
    if parts is None and len(logged) >= LEAST and "schedule" not in facts.values:
        parts = _found(facts, logged, total)
    if parts is not None:
        rates = _scaled(facts, parts, logged)
    elif len(logged) >= LEAST:
        at, values = zip(*logged, strict=True)
        rates = np.interp(np.arange(1, total + 1), at, values)
        _record(facts, rates[:ended], f"{len(logged)} logged rates, interpolated")
    else:
        rates = None
    if rates is None:
        return None
    warmup, name = facts.warmup_steps or 0, facts.values.get("schedule")
    if name not in (None, RECORDED) and (ended < total or warmup > (facts.schedule_steps or total)):
        _record(facts, rates[:ended], f"{name}, up to step {ended} of {max(total, warmup)}")
    sums = np.concatenate([[0.0], np.cumsum(rates)])
    return [float(sums[step]) for step in steps]


def _scaled(facts: Facts, parts: np.ndarray, logged: Sequence[tuple[int, float]]) -> np.ndarray | None:
    """The learning rates of a schedule: its peak is known, or that of the logged rates."""
    peak = facts.values.get("learning_rate")
    if peak is None and logged:
        at, values = (np.array(column) for column in zip(*logged, strict=True))
        places = min((at - shift for shift in SHIFTS), key=lambda places: _distance(parts, places, values, None))
        expected = parts[places[places < len(parts)]]
        peak = float(expected @ values[places < len(parts)] / (expected @ expected))
        if "learning_rate" not in facts.open:
            facts.set(f"the rates in {STATE}", learning_rate=peak)
    return None if peak is None else peak * parts


def _record(facts: Facts, rates: np.ndarray, source: str) -> None:
    """Note the rates of a run as its schedule, one `recorded` by parts of the peak."""
    _forget(facts, "")
    if "learning_rate" not in facts.open:
        facts.set(f"the rates in {STATE}", learning_rate=float(rates.max()))
    peak = facts.values.get("learning_rate") or float(rates.max())
    places = np.linspace(0, len(rates) - 1, min(len(rates), MOST_RATES))
    few = [round(float(part), 6) for part in np.interp(places, np.arange(len(rates)), rates / peak)]
    facts.set(source, schedule=RECORDED, rates=few)


def _forget(facts: Facts, why: str) -> None:
    for name in ("schedule", "schedule_args", "warmup"):
        facts.forget(name, why)


def logged_rates(run: Run) -> list[tuple[int, float]]:
    """Steps and learning rates that the trainer logged."""
    rows = {row["step"]: float(row["learning_rate"]) for row in run.state.get("log_history", ()) if "learning_rate" in row}
    return sorted((int(step), rate) for step, rate in rows.items() if step > 0)


def _named(facts: Facts, total: int) -> np.ndarray | None:
    """Rates of the steps 1 to `total` by the named schedule, as parts of the peak; None if it is not known well enough."""
    name, warmup = facts.values.get("schedule"), facts.warmup_steps
    if warmup is None and "warmup" in facts.values:
        warmup = round(facts.values["warmup"] * total)
    if name is None or (warmup is None and name not in WITHOUT_WARMUP):
        return None
    if name not in SCHEDULES or name in (COSINE, RECORDED):
        return None
    arguments, peak = facts.values.get("schedule_args") or {}, facts.values.get("learning_rate")
    if peak is None and (name == "polynomial" or "min_lr" in arguments):
        return None  # it ends at a rate of its own, which is no part of a peak that nobody knows
    try:
        return factors(str(name), warmup or 0, facts.schedule_steps or total, total, arguments=arguments, peak=peak or 1.0)
    except ModelError:
        return None  # it needs arguments that nobody named


def factors(
    name: str, warmup: int, steps: int, total: int, *, arguments: Mapping[str, Any] | None = None, peak: float = 1.0
) -> np.ndarray:
    """The learning rates of the steps 1 to `total` by a schedule of `transformers`, as parts of the peak."""
    rate = rate_by_name(name, peak, warmup, steps, arguments)
    return np.array([rate(step) for step in range(total)]) / peak


def _fits(rates: np.ndarray, logged: Sequence[tuple[int, float]], peak: float | None) -> bool:
    at, values = np.array([step for step, _ in logged]), np.array([rate for _, rate in logged])
    return any(_distance(rates, at - shift, values, peak) < FITS for shift in SHIFTS)


def _distance(rates: np.ndarray, places: np.ndarray, values: np.ndarray, peak: float | None) -> float:
    """The largest distance of logged rates from a schedule, as a part of the peak; the best peak if it is not known."""
    inside = places < len(rates)
    expected, values = rates[places[inside]], values[inside]
    if not (square := float(expected @ expected)):
        return np.inf
    scale = peak or float(expected @ values) / square
    return float(np.abs(scale * expected - values).max() / scale) if scale > 0 else np.inf


def _found(facts: Facts, logged: Sequence[tuple[int, float]], total: int) -> np.ndarray | None:
    """The one schedule and warm-up that fit every logged rate; None if several do, or none does."""
    peak, steps = facts.values.get("learning_rate"), facts.schedule_steps or total
    some = [logged[number] for number in np.unique(np.linspace(0, len(logged) - 1, FEW).astype(int))]
    for name in TOLD_APART:
        fitting = [warmup for warmup in range(steps) if _may_fit(name, warmup, steps, some, peak)]
        fitting = [warmup for warmup in fitting if _fits(factors(name, warmup, steps, total), logged, peak)]
        if len(fitting) > 1:
            facts.open["schedule"] = f"the log fits {name!r} with a warm-up of {fitting[0]} to {fitting[-1]} steps"
            return None
        if fitting:
            break
    else:
        return None
    rates, source = factors(name, fitting[0], steps, total), f"the rates in {STATE}"
    facts.schedule_steps, facts.warmup_steps = steps, fitting[0]
    facts.set(source, schedule=name, warmup=fitting[0] / steps)
    return rates


def _may_fit(name: str, warmup: int, steps: int, some: Sequence[tuple[int, float]], peak: float | None) -> bool:
    """Whether a schedule fits a few logged rates; most do not, and need not be computed for every step."""
    part = rate_by_name(name, 1.0, warmup, steps)
    values = np.array([rate for _, rate in some])
    rows = (np.array([part(step - shift) for step, _ in some]) for shift in SHIFTS)
    return any(_distance(row, np.arange(len(some)), values, peak) < FITS for row in rows)
