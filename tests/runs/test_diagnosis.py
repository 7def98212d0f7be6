"""The cause of a failed run: what follows from a death is none."""

from typing import Any

import pytest

from overspan.doctor.of_run import root_of
from overspan.store.run_folder import RunFolder

CANCELLED = "slurmstepd-node1: error: *** STEP 10.2 ON node1 CANCELLED AT 2026-11-22T23:17:31 ***\n"


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        ({"process": "decode", "host": "b", "code": 0}, None),  # a step's own end: Slurm cancels those that are left
        ({"process": "decode", "host": "b", "code": None}, "slurm-step-ended"),  # the job's
    ],
)
def test_steps_cancelled_after_a_death_are_no_cause(data: dict[str, Any], cause: str | None) -> None:
    run = RunFolder.create("apart")
    run.append("decode on b ended; ending the others", **data)
    (run.logs / "prefill.log").write_text(CANCELLED)
    root = root_of(run)
    assert (root.rule if root else None) == cause
