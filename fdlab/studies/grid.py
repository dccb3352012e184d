"""Many runs from a few lists: every method in every direction under every seed."""

from __future__ import annotations

import dataclasses
from typing import Any

from fdlab.core.config import RunConfig
from fdlab.core.errors import UserError, name_unknown
from fdlab.methods import METHODS
from fdlab.studies.plan import Plan, read_list
from fdlab.training.runs import complete


def configure_grid(
    plan: Plan,
    methods: list[str],
    directions: list[str] | None = None,
    options: dict[str, Any] | None = None,
    pairs: list[str] | None = None,
) -> list[RunConfig]:
    """Completed configurations, method by method, each once, under the seeds of the plan.

    A method without a teacher has one run per student. options: each goes to those methods that
    have it; one that none of them has is an error. No directions: the data set's own. pairs: of
    networks within the first modality, in the place of directions.
    """
    options = options or {}
    methods = read_list("methods", methods, str)
    if not methods:
        raise UserError("methods is empty: expected some, such as none,kd; see `fdlab methods`")
    own = {name: [f.name for f in dataclasses.fields(METHODS[name].Options)] for name in methods}
    known = sorted({option for names in own.values() for option in names})
    for option in options:
        if option not in known:
            raise name_unknown(f"option of {', '.join(methods)}", option, known)
    made: dict[str, RunConfig] = {}
    for method in methods:
        chosen = {name: value for name, value in options.items() if name in own[method]}
        for config in _configure(plan, method, directions, pairs, chosen):
            made.setdefault(config.label, config)
    return list(made.values())


def _configure(
    plan: Plan,
    method: str,
    directions: list[str] | None,
    pairs: list[str] | None,
    options: dict[str, Any],
) -> list[RunConfig]:
    """Completed runs of a method: direction by direction, or pair by pair, the seeds together."""
    if pairs:
        if directions:
            raise UserError("give directions or pairs of networks: pairs are of one modality")
        return [
            complete(plan.configure_pair(pair, method, seed, options))
            for pair in plan.choose_pairs(pairs)
            for seed in plan.seeds
        ]
    return [
        complete(plan.configure(way.student, method, way.teacher, seed, options))
        for way in plan.choose_directions(directions)
        for seed in plan.seeds
    ]
