"""Evaluations: a set of questions is asked, scored and compared with another such result, or given to a harness."""

from __future__ import annotations

import hashlib
import math
import shlex
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, Self

from pydantic import Field, model_validator

from overspan.endpoint.client import Addressed, Client, NoAnswer
from overspan.schema.base import Frozen
from overspan.schema.errors import InputError
from overspan.schema.secrets import Secret
from overspan.schema.units import count
from overspan.store.files import read_document
from overspan.store.run_folder import RunFolder, open_run
from overspan.verify.questions import Question
from overspan.verify.subject import ANSWER_S

_Z: Final = 1.959963984540054
"""Two-sided 95 % of the normal distribution."""
LEVEL: Final = 0.05
"""Below this p two runs are said to differ: the usual level, the other side of a 95 % interval."""

HARNESSES: Final = ("lm-eval", "evalscope")
TASK: Final = "gsm8k"
"""Both harnesses know it by this name."""


class Scored(Frozen):
    """One question: how many of its samples were right, and what was said."""

    id: str
    right: int = Field(ge=0)
    answered: int = Field(ge=0)
    replies: list[str]
    error: str | None = None


class EvalResult(Frozen):
    """What a run made of a file of questions."""

    model: str
    base_url: str
    file: str
    digest: str = Field(description="of the questions: results of other questions are not compared")
    samples: int = Field(ge=1, description="answers to each question")
    temperature: float
    accuracy: float
    low: float = Field(description="lower end of the 95 % interval (Wilson, over questions)")
    high: float
    questions: list[Scored] = Field(min_length=1)

    @model_validator(mode="after")
    def _no_more_than_asked(self) -> Self:
        for each in self.questions:
            if not each.right <= each.answered <= self.samples:
                raise ValueError(f"question {each.id}: {each.right} right of {each.answered} of {self.samples} samples")
        return self

    @property
    def unanswered(self) -> int:
        """Requests that failed; they are not counted as wrong answers."""
        return sum(self.samples - each.answered for each in self.questions)


class Comparison(Frozen):
    """Two results of the same questions."""

    one: float
    other: float
    better: int = Field(description="questions that the first run answered better")
    worse: int
    p: float = Field(description="chance of a difference like this between equally good runs, or a larger one")

    @property
    def differ(self) -> bool:
        """Whether the difference is more than chance."""
        return self.p < LEVEL

    @property
    def text(self) -> str:
        """For a person."""
        verdict = "they differ" if self.differ else "no difference that these questions can show"
        counts = f"better on {self.better} questions, worse on {self.worse}"
        return f"{self.one:.3f} against {self.other:.3f}: {verdict} (p = {self.p:.2g}; {counts})"


def evaluate(
    endpoint: Addressed,
    api_key: Secret | None,
    file: Path,
    questions: Sequence[Question],
    *,
    samples: int = 1,
    temperature: float = 0.0,
    max_tokens: int = 512,
    concurrency: int = 8,
    progress: Callable[[int], None] = lambda done: None,
) -> EvalResult:
    """Ask every question `samples` times. A request that fails is told in its question and is no wrong answer.

    Args:
        endpoint: asked by chat.
        api_key: its key.
        file: where the questions are from, for the result.
        questions: what is asked.
        samples: answers to each question; more than one needs a temperature above 0.
        temperature: of the answers.
        max_tokens: of a question that does not say.
        concurrency: requests at once.
        progress: told how many requests have ended.

    Raises:
        InputError: several samples at temperature 0.
    """
    if samples > 1 and temperature == 0:
        raise InputError("several samples at temperature 0 are one sample", next="give --temperature, or --samples 1")
    ask = Client(endpoint, api_key, ANSWER_S)
    ended = 0

    def one(question: Question) -> str | NoAnswer:
        nonlocal ended
        try:
            reply = ask.chat(question.prompt, question.max_tokens or max_tokens, temperature=temperature)
            # Half of a surrogate pair, which JSON can spell, would end the result that is to be kept.
            found: str | NoAnswer = reply.text.encode("utf-8", "backslashreplace").decode("utf-8")
        except NoAnswer as error:
            found = error
        ended += 1
        progress(ended)
        return found

    try:
        with ThreadPoolExecutor(max_workers=concurrency) as pool:
            replies = list(pool.map(one, [question for question in questions for _ in range(samples)]))
    finally:
        ask.close()
    return _result(endpoint, file, questions, replies, samples=samples, temperature=temperature)


def _result(
    endpoint: Addressed,
    file: Path,
    questions: Sequence[Question],
    replies: Sequence[str | NoAnswer],
    *,
    samples: int,
    temperature: float,
) -> EvalResult:
    """What the replies, `samples` of them a question in their order, make of a file of questions."""
    scored = [
        _scored(question, replies[at * samples : (at + 1) * samples], name)
        for at, (question, name) in enumerate(zip(questions, _ids(questions), strict=True))
    ]
    accuracy = sum(each.right for each in scored) / max(1, sum(each.answered for each in scored))
    low, high = wilson(accuracy, sum(each.answered > 0 for each in scored))
    return EvalResult(
        model=endpoint.model,
        base_url=endpoint.base_url,
        file=str(file),
        digest=digest_of(questions),
        samples=samples,
        temperature=temperature,
        accuracy=accuracy,
        low=low,
        high=high,
        questions=scored,
    )


def _scored(question: Question, replies: Sequence[str | NoAnswer], name: str) -> Scored:
    said = [reply for reply in replies if isinstance(reply, str)]
    errors = [reply for reply in replies if isinstance(reply, NoAnswer)]
    return Scored(
        id=name,
        right=sum(question.right(reply) for reply in said),
        answered=len(said),
        replies=said,
        error=f"{errors[0].what}: {errors[0].quote or ''}".rstrip(": ") if errors else None,
    )


def _ids(questions: Sequence[Question]) -> list[str]:
    """The name of each question in a result: its id, or its number from 1."""
    return [question.id or str(number) for number, question in enumerate(questions, 1)]


def digest_of(questions: Sequence[Question]) -> str:
    """What tells a set of questions from any other, in its order."""
    text = "\n".join(question.model_dump_json() for question in questions)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def compare(one: EvalResult, other: EvalResult) -> Comparison:
    """Compare two results question by question. Questions that one of them could not ask fully are left out.

    Raises:
        InputError: they are of other questions, or sampled unequally often.
    """
    _require_alike(one.file, one.digest, [each.id for each in one.questions], one.samples, other)
    both = [
        (a.right, b.right)
        for a, b in zip(one.questions, other.questions, strict=True)
        if a.answered == b.answered == one.samples
    ]
    ones, others = [a for a, _ in both], [b for _, b in both]
    whole = max(1, len(both) * one.samples)
    return Comparison(
        one=sum(ones) / whole,
        other=sum(others) / whole,
        better=sum(a > b for a, b in both),
        worse=sum(a < b for a, b in both),
        p=paired_p(ones, others),
    )


def require_comparable(file: Path, questions: Sequence[Question], samples: int, other: EvalResult) -> None:
    """Before anything is asked: what will come can be compared with a result that was kept.

    Raises:
        InputError: they are of other questions, or sampled unequally often.
    """
    _require_alike(str(file), digest_of(questions), _ids(questions), samples, other)


def _require_alike(file: str, digest: str, ids: Sequence[str], samples: int, other: EvalResult) -> None:
    if digest != other.digest:
        raise InputError(
            f"the two results are of different questions: {file} ({digest}), {other.file} ({other.digest})"
        )
    if samples != other.samples:
        raise InputError(f"the results have {samples} and {other.samples} samples a question; they must be equal")
    found = [each.id for each in other.questions]
    if found != list(ids):
        differs = next((pair for pair in zip(ids, found, strict=False) if pair[0] != pair[1]), None)
        how = f"'{differs[1]}' where '{differs[0]}' is asked" if differs else f"{len(found)} for {len(ids)}"
        raise InputError(f"the result of {other.file} is damaged: its questions are not those of {file}: {how}")


def wilson(share: float, count: int) -> tuple[float, float]:
    """The 95 % interval of a share of `count` independent questions (Wilson 1927, score interval).

    Several samples of one question are not independent: `count` stays the number of questions, which is on the safe
    side.
    """
    if count < 1:
        return 0.0, 1.0
    square = _Z * _Z
    middle = (share + square / (2 * count)) / (1 + square / count)
    half = _Z / (1 + square / count) * math.sqrt(share * (1 - share) / count + square / (4 * count * count))
    return max(0.0, middle - half), min(1.0, middle + half)


def paired_p(one: Sequence[int], other: Sequence[int]) -> float:
    """The chance that two equally good runs differ as much as these, question by question, or more. Exact, two-sided.

    Under the null hypothesis each question's difference has either sign with equal chance (a sign-flip permutation
    test). With one sample a question this is McNemar's exact test.

    Args:
        one: right answers to each question, in one run.
        other: the same questions in the other run, as often sampled.
    """
    differences = [abs(a - b) for a, b in zip(one, other, strict=True) if a != b]
    seen = abs(sum(a - b for a, b in zip(one, other, strict=True)))
    chances = {0: 1.0}
    for size in differences:
        step: dict[int, float] = {}
        for total, chance in chances.items():
            for next_total in (total - size, total + size):
                step[next_total] = step.get(next_total, 0.0) + chance / 2
        chances = step
    return min(1.0, sum(chance for total, chance in chances.items() if abs(total) >= seen))


def file_of(run: RunFolder, questions: Path) -> Path:
    """Where a run keeps its result of a file of questions."""
    return run.path / f"eval-{questions.stem}.json"


def keep(run: RunFolder, result: EvalResult) -> Path:
    """Write a result into the run's folder."""
    path = file_of(run, Path(result.file))
    run.write(path.name, result)
    spread = f"{result.accuracy:.3f} (95 %: {result.low:.3f} to {result.high:.3f})"
    run.append(f"eval {Path(result.file).name}: {spread} on {count(len(result.questions), 'question')}")
    return path


def earlier(which: str, questions: Path) -> EvalResult:
    """The result to compare with: a file, or a run that was asked the same file.

    Raises:
        InputError: there is none.
    """
    if which.endswith(".json"):
        return read_document(Path(which), EvalResult, "result of verify --eval")
    run = open_run(which)
    path = file_of(run, questions)
    if not path.exists():
        raise InputError(
            f"run {run.id} has no result of {questions.name}", next=f"overspan verify {run.id} --eval {questions}"
        )
    return read_document(path, EvalResult, "result of verify --eval")


def command(harness: str, endpoint: Addressed, key_file: str | None = None) -> str:
    """A line for a shell. A key is read from its file when the line runs, and stands in no argument.

    Sources: lm_eval 0.4.13 (_cli/run.py, models/openai_completions.py: key in OPENAI_API_KEY), evalscope 1.14.1
    (arguments.py, models/openai_compatible.py: an empty --api-key makes it read EVALSCOPE_API_KEY).

    Args:
        harness: one of HARNESSES.
        endpoint: what is evaluated, by chat.
        key_file: the run's secrets.json, if it has a key.
    """
    if harness == "lm-eval":
        url = f"{endpoint.base_url}/chat/completions"
        model = f"model={endpoint.model},base_url={url},num_concurrent=16,max_retries=3"
        words = ["lm_eval", "--model", "local-chat-completions", "--model_args", model]
        words += ["--tasks", TASK, "--apply_chat_template", "--output_path", "eval-lm_eval"]
        variable = "OPENAI_API_KEY"
    else:
        words = ["evalscope", "eval", "--model", endpoint.model, "--api-url", endpoint.base_url]
        words += ["--eval-type", "openai_api", "--datasets", TASK, "--eval-batch-size", "16"]
        words += ["--api-key", "" if key_file else "EMPTY", "--work-dir", "eval-evalscope"]
        variable = "EVALSCOPE_API_KEY"
    line = shlex.join(words)
    if key_file is None:
        return line
    read = 'import json,sys; print(json.load(open(sys.argv[1]))["VLLM_API_KEY"])'
    return f'{variable}="$(python3 -c {shlex.quote(read)} {shlex.quote(key_file)})" {line}'
