"""Epochs in a journal: what one gave, filed under where it began."""

from __future__ import annotations

from dataclasses import asdict, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from nysstream.journal import Entry, current_journal, remembered
from nysstream.solvers.quadratic import Certified
from nysstream.streaming.rowstate import RowState
from nysstream.trace import Cost, PassRecord, current_trace

if TYPE_CHECKING:
    from collections.abc import Callable

    from nysstream.solvers.epoch import EpochState
    from nysstream.solvers.finite_sum import FiniteSum


def remembered_epoch(
    solver: Any, problem: FiniteSum, state: EpochState, run: Callable[[], EpochState]
) -> EpochState:
    """Run an epoch, or recall what an earlier run of the job made of the same state.

    The table of the state is left out of the key: it follows from where the first epoch began. What the
    problem has seen of the losses comes back with the state.
    """
    if current_journal() is None:
        return run()
    design = problem.batches.design
    inputs = (
        solver,
        (design.fingerprint, design.centering, design.precision, design.get_device().name),
        (problem.batches.batch_rows, problem.batches.seed, problem.batches.blocks_at_once),
        (problem.outcome, problem.composite.regularizer, problem.composite.scale),
        (problem.sample.fingerprint, problem.factor),
        replace(state, table=None),
    )
    trace = current_trace()
    began, read = 0 if trace is None else len(trace.passes), problem.passes

    def pack(after: EpochState) -> Entry:
        arrays = {
            f.name: getattr(after, f.name) for f in fields(after) if f.name not in ("certified", "table")
        }
        arrays |= {f"certified.{f.name}": getattr(after.certified, f.name) for f in fields(Certified)}
        arrays["seen"] = problem.seen
        if after.table is not None:
            arrays["table"] = np.asarray(after.table)
        made = [] if trace is None else [asdict(record) for record in trace.passes[began:]]
        return Entry(arrays, {"passes": made, "reads": problem.passes - read})

    def unpack(entry: Entry) -> EpochState:
        arrays = dict(entry.arrays)
        table, problem.seen = arrays.pop("table", None), float(arrays.pop("seen"))
        found = {f.name: arrays.pop(f"certified.{f.name}") for f in fields(Certified)}
        problem.epochs += entry.facts["reads"]
        if trace is not None:
            for item in entry.facts["passes"]:
                trace.passes.append(PassRecord(**item | {"cost": Cost(**item["cost"]), "recalled": True}))
        scalars = {name: values.item() for name, values in arrays.items() if not np.ndim(values)}
        return replace(
            state,
            **arrays | scalars,
            certified=Certified(**found),
            table=None if table is None else RowState.of(table, in_memory=solver.table_in_memory),
        )

    return remembered("epoch", inputs, run, pack, unpack)[0]
