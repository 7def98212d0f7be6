"""`verify --eval` of a run: the result stays in the run's folder."""

from __future__ import annotations

from pathlib import Path

from overspan.schema.errors import InputError
from overspan.store.run_folder import RunFolder, open_run
from overspan.verify.evals.evaluate import EvalResult, load


def file_of(run: RunFolder, questions: Path) -> Path:
    """Where a run keeps its result of a file of questions."""
    return run.path / f"eval-{questions.stem}.json"


def keep(run: RunFolder, result: EvalResult) -> Path:
    """Write a result into the run's folder."""
    path = file_of(run, Path(result.file))
    run.write(path.name, result)
    spread = f"{result.accuracy:.3f} (95 %: {result.low:.3f} to {result.high:.3f})"
    run.append(f"eval {Path(result.file).name}: {spread} on {len(result.questions)} questions")
    return path


def earlier(which: str, questions: Path) -> EvalResult:
    """The result to compare with: a file, or a run that was asked the same file.

    Raises:
        InputError: there is none.
    """
    if which.endswith(".json"):
        return load(Path(which))
    run = open_run(which)
    path = file_of(run, questions)
    if not path.exists():
        raise InputError(
            f"run {run.id} has no result of {questions.name}", next=f"overspan verify {run.id} --eval {questions}"
        )
    return load(path)
