"""Epochs in a journal: what one gave, filed under where it began."""

from __future__ import annotations

from dataclasses import asdict, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from nysstream.errors import CheckpointError
from nysstream.journal import Entry, current_journal, key_of
from nysstream.solvers.quadratic import Certified
from nysstream.streaming.rowstate import RowState
from nysstream.trace import Cost, PassRecord, current_trace

if TYPE_CHECKING:
    from collections.abc import Callable

    from nysstream.journal import Journal
    from nysstream.solvers.epoch import EpochState
    from nysstream.solvers.finite_sum import FiniteSum
    from nysstream.trace import Trace


def remembered_epoch(
    solver: Any, problem: FiniteSum, state: EpochState, run: Callable[[EpochState], EpochState]
) -> EpochState:
    """Run an epoch, or recall what an earlier run of the job made of the same state.

    The table of the state is left out of the key: it follows from where the first epoch began. It is as
    long as the data, so that an entry of its own holds it, which goes when the next epoch has one.
    """
    journal = current_journal()
    if journal is None:
        return run(state)
    design = problem.batches.design
    inputs = (
        solver,
        (design.fingerprint, design.centering, design.precision, design.get_device().name),
        (problem.batches.batch_rows, problem.batches.seed, problem.batches.window_blocks),
        (problem.outcome, problem.composite.regularizer, problem.composite.scale),
        (problem.sample.fingerprint, problem.factor),
        replace(state, table=None),
    )
    key = key_of("epoch", *inputs)
    trace = current_trace()
    entry = journal.recall(key)
    if entry is not None:
        after = _recalled(entry, problem, state, trace)
    else:
        if solver.reference == "table" and state.table is None and state.epoch > 0:
            state = replace(state, table=_table(solver, journal))
        began, read = 0 if trace is None else len(trace.passes), problem.passes
        after = run(state)
        if after.table is not None:
            journal.keep(_of_table(key), "table", Entry({"table": np.asarray(after.table)}))
        passes = [] if trace is None else trace.passes[began:]
        journal.keep(key, "epoch", _entry(after, passes, problem.passes - read))
    before, journal.newest_epoch = journal.newest_epoch, key
    if state.epoch > 0 and before is not None and solver.reference == "table":
        journal.drop(_of_table(before))
    return after


def _of_table(key: str) -> str:
    return f"{key}-table"


def _table(solver: Any, journal: Journal) -> RowState:
    """Recall the table that the newest epoch has left."""
    newest = journal.newest_epoch
    entry = None if newest is None else journal.recall(_of_table(newest))
    if entry is None:
        message = (
            "the checkpoint lacks the table of the rows' slopes that the next epoch begins with: begin anew "
            "with overwrite=True"
        )
        raise CheckpointError(message)
    return RowState.of(entry.arrays["table"], in_memory=solver.table_in_memory)


def _entry(after: EpochState, passes: list[PassRecord], reads: int) -> Entry:
    """Lay out a state, but for its table."""
    arrays = {f.name: getattr(after, f.name) for f in fields(after) if f.name not in ("certified", "table")}
    arrays |= {f"certified.{f.name}": getattr(after.certified, f.name) for f in fields(Certified)}
    return Entry(arrays, {"passes": [asdict(record) for record in passes], "reads": reads})


def _recalled(entry: Entry, problem: FiniteSum, state: EpochState, trace: Trace | None) -> EpochState:
    arrays = dict(entry.arrays)
    found = {f.name: arrays.pop(f"certified.{f.name}") for f in fields(Certified)}
    problem.epochs += entry.facts["reads"]
    if trace is not None:
        for item in entry.facts["passes"]:
            trace.passes.append(PassRecord(**item | {"cost": Cost(**item["cost"]), "recalled": True}))
    scalars = {name: values.item() for name, values in arrays.items() if not np.ndim(values)}
    return replace(state, **arrays | scalars, certified=Certified(**found), table=None)
