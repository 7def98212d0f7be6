"""Question sets: what is right, how sure an accuracy is, and when two runs differ."""

import json
import math
import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overspan.cli.main import main
from overspan.endpoint.identify import ServedModel, identify
from overspan.endpoint.target import make_target
from overspan.schema.errors import InputError
from overspan.verify.evaluation import (
    HARNESSES,
    Comparison,
    EvalResult,
    Scored,
    command,
    compare,
    digest_of,
    evaluate,
    paired_p,
    wilson,
)
from overspan.verify.questions import Question, read
from support.endpoint import endpoint
from support.openai_server import serving

HERE = ServedModel("http://127.0.0.1:1/v1", "m")


def result(right: list[int], samples: int = 1, digest: str = "d") -> EvalResult:
    scored = [Scored(id=str(at), right=each, answered=samples, replies=[]) for at, each in enumerate(right, 1)]
    share = sum(right) / len(right) / samples
    low, high = wilson(share, len(right))
    return EvalResult(
        model="m",
        base_url="u",
        file="f",
        digest=digest,
        samples=samples,
        temperature=0.0,
        accuracy=share,
        low=low,
        high=high,
        questions=scored,
    )


def damaged(kept: Any, **changes: object) -> Any:
    """What no writer of ours would write."""
    return type(kept).model_construct(**{**dict(kept), **changes})


def renamed(kept: EvalResult) -> EvalResult:
    return kept.with_(questions=[each.with_(id="x") for each in kept.questions])


def miscounted(kept: EvalResult) -> Any:
    return damaged(kept, questions=[damaged(each, right=5) for each in kept.questions])


# Published values: R `binom.confint(x, n, methods="wilson")`, to three figures.
@pytest.mark.parametrize(
    ("right", "count", "low", "high"),
    [(24, 30, 0.627, 0.905), (0, 10, 0.0, 0.278), (10, 10, 0.722, 1.0), (50, 100, 0.404, 0.596)],
)
def test_the_interval_is_wilsons(right: int, count: int, low: float, high: float) -> None:
    assert wilson(right / count, count) == pytest.approx((low, high), abs=0.0006)


@given(better=st.integers(0, 20), worse=st.integers(0, 20))
def test_with_one_sample_the_test_is_mcnemars(better: int, worse: int) -> None:
    ones, others = [1] * better + [0] * worse, [0] * better + [1] * worse
    count, few = better + worse, min(better, worse)
    tail = sum(math.comb(count, at) for at in range(few + 1)) / 2**count
    expected = 1.0 if better == worse else 2 * tail
    assert paired_p([*ones, 1, 0], [*others, 1, 0]) == pytest.approx(expected)


def test_0810_against_0803_on_30_questions_is_no_difference() -> None:
    # AIME 2025 as in vllm-project/vllm pull 33303: 30 questions, ten samples each; 243 and 241 of 300 are right.
    one = [10] * 22 + [6, 5, 4, 3, 2, 2, 1, 0]
    other = [10] * 21 + [9, 5, 6, 4, 2, 3, 1, 1, 0]
    found = compare(result(one, 10), result(other, 10))
    assert (round(found.one, 3), round(found.other, 3)) == (0.81, 0.803)
    assert not found.differ
    assert found.p > 0.5
    assert "no difference that these questions can show" in found.text
    interval = result(one, 10)
    assert interval.low < 0.803 < interval.high


def test_a_real_difference_is_told() -> None:
    found = compare(result([1] * 28 + [0] * 2), result([1] * 14 + [0] * 16))
    assert found.differ
    assert found.p == pytest.approx(2 / 2**14)
    assert "they differ" in found.text
    assert (found.better, found.worse) == (14, 0)


def test_results_of_other_questions_are_not_compared() -> None:
    with pytest.raises(InputError, match="of different questions"):
        compare(result([1]), result([1], digest="e"))
    with pytest.raises(InputError, match="samples a question"):
        compare(result([1]), result([1], samples=2))


@pytest.mark.parametrize(
    ("match", "answer", "reply", "right"),
    [
        ("contains", "Paris", "It is paris.", True),
        ("contains", "art", "It is Paris, party town.", False),
        ("exact", "4", " 4\n", True),
        ("exact", "4", "It is 4", False),
        ("number", 1234, "First 17, then 1,234.0", True),
        ("number", 17, "First 17, then 1,234", False),
        ("number", 17, "None.", False),
        ("number", 3, "Between 1 and 3, so 1-3", True),
        ("number", -3, "It is -3", True),
        ("number", -3, "It is \u22123", True),
        ("number", 0.5, "It is .5", True),
        ("choice", "b", "A is wrong, so the answer is (B).", True),
        ("choice", "A", "The answer is B", False),
        ("contains", ["four", "4"], "Two and two are 4", True),
        ("contains", "巴黎", "法国的首都是巴黎。", True),
        ("contains", "Paris", "答案是Paris。", True),
        ("contains", "서울", "수도는 서울입니다.", True),
        ("contains", "4", "共14个", False),
        ("contains", "caf\u00e9", "Le cafe\u0301 noir", True),
        ("contains", "cafe", "Le cafe\u0301 noir", False),
        ("contains", "दिल", "दिल्ली", False),
        ("exact", "caf\u00e9", "Cafe\u0301", True),
        ("number", 1e-05, "It is 1e-05.", True),
        ("number", "1e-05", "It is 0.00001", True),
        ("number", 1500, "1.5E3 m", True),
        ("number", 3, "So 3e", True),
        ("choice", "B", "The answer is B, I think.", True),
        ("choice", "I", "The answer is B, I think.", False),
        ("choice", "I", "So it is I.", True),
        ("choice", "B", "b", True),
        ("choice", "B", "(b) Paris, e.g. the city", True),
        ("choice", "B", "the answer is b, a city", True),
        ("choice", "B", "'B'. A city in France", True),
        ("choice", "A", "A is right.", True),
        ("choice", "C", "A is wrong, (B) is wrong, so c.", True),
    ],
)
def test_when_a_reply_is_right(match: str, answer: object, reply: str, right: bool) -> None:
    question = Question.model_validate({"prompt": "?", "answer": answer, "match": match})
    assert question.right(reply) is right


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "holds no question"),
        ('{"prompt": "a", "answer": "b"}\n{"prompt": 1', "line 2: not JSON"),
        ('{"prompt": "a"}', "line 1: answer: Field required"),
        ('{"prompt": "a", "answer": "b", "match": "same"}', "line 1: match"),
        ('{"prompt": "a", "answer": "b", "id": "x"}\n' * 2, "the id 'x' appears twice"),
        ('{"prompt": "a", "answer": " "}', "line 1: .*an empty answer cannot be compared"),
        ('{"prompt": "a", "answer": "four", "match": "number"}', "line 1: .*'four' is not a number"),
        ('{"prompt": "a", "answer": NaN, "match": "number"}', "line 1: .*'nan' is not a number"),
        ('{"prompt": "a", "answer": "K", "match": "choice"}', "line 1: .*'K' is not a letter from A to J"),
        ('{"prompt": ' + "[" * 100_000, "line 1: not JSON: brackets are nested"),
        ('{"prompt": "a", "answer": ' + "9" * 5000 + "}", r"line 1: not JSON: Exceeds the limit \(4300 digits\)"),
    ],
)
def test_a_file_that_is_none_says_which_line(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "q.jsonl"
    file.write_text(text)
    with pytest.raises(InputError, match=says):
        read(file)


def test_a_mark_at_the_beginning_of_a_file_is_no_part_of_it(tmp_path: Path) -> None:
    file = tmp_path / "q.jsonl"
    file.write_text('{"prompt": "a", "answer": "b"}\r\n', encoding="utf-8-sig")
    assert [question.answer for question in read(file)] == [["b"]]


@pytest.fixture
def asked(tmp_path: Path) -> Path:
    file = tmp_path / "capitals.jsonl"
    lines = [
        {"prompt": "What is the capital of France?", "answer": "Paris"},
        {"prompt": "Who wrote Hamlet?", "answer": "Marlowe"},
    ]
    file.write_text("\n".join(json.dumps(line) for line in lines))
    return file


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def call(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            main(["verify", *arguments])
        return int(end.value.code or 0), *capsys.readouterr()

    return call


def test_the_command_scores_keeps_and_compares(asked: Path, run: Callable[..., tuple[int, str, str]]) -> None:
    out = asked.with_name("result.json")
    with endpoint() as url:
        code, said, _ = run("--base-url", url, "--eval", str(asked), "--out", str(out))
        assert (code, said) == (0, "accuracy 0.500, 95 % interval 0.095 to 0.905, 2 questions, 1 sample each\n")
        code, said, _ = run("--base-url", url, "--eval", str(asked), "--against", str(out))
    assert code == 0
    assert "0.500 against 0.500: no difference" in said
    kept = EvalResult.model_validate_json(out.read_text())
    assert kept.questions[0].replies == ["The capital of France is Paris."]


def test_what_is_not_answered_is_not_wrong(asked: Path, run: Callable[..., tuple[int, str, str]]) -> None:
    with endpoint("no-bursts") as url:
        found = evaluate(
            identify(make_target(url)),
            None,
            asked,
            [Question(prompt="List four animals.", answer=["horse"])] * 3,
            concurrency=1,
        )
    assert [each.answered for each in found.questions] == [1, 0, 0]
    assert (found.accuracy, found.unanswered) == (1.0, 2)
    assert "EngineDeadError" in (found.questions[1].error or "")


def test_what_cannot_be_compared_is_said_before_anything_is_asked(
    asked: Path, run: Callable[..., tuple[int, str, str]]
) -> None:
    other = asked.with_name("other.json")
    of_these = digest_of(read(asked))
    for kept, says in (
        (result([1]), "of different questions"),
        (result([1], digest=of_these), "its questions are not those of .*: 1 for 2"),
        (damaged(result([1, 1, 0], digest=of_these), questions=[]), "questions: List should have"),
        (renamed(result([1, 1], digest=of_these)), "its questions are not those of .*: 'x' where '1' is asked"),
        (damaged(result([1, 1], digest=of_these), samples=0), "no result of verify --eval: samples"),
        (miscounted(result([1, 1], digest=of_these)), "question 1: 5 right of 1 of 1 samples"),
    ):
        other.write_text(kept.model_dump_json())
        with serving() as server:
            code, said, error = run("--base-url", server.base_url, "--eval", str(asked), "--against", str(other))
            assert (code, said, server.requests) == (2, "", [])
        assert re.search(says, error), error


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--samples", "4"], "several samples at temperature 0"),
        (["--against", "no-such-run"], "unknown run"),
        (["--against", "nowhere.json"], "No such file"),
        (["--against", ""], "unknown run ''"),
        (["--out", "/nowhere/x.json"], "--out /nowhere/x.json: there is no folder /nowhere"),
    ],
)
def test_bad_input(
    asked: Path,
    run: Callable[..., tuple[int, str, str]],
    arguments: list[str],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OVERSPAN_STATE", str(tmp_path / "state"))
    with endpoint() as url:
        code, _, error = run("--base-url", url, "--eval", str(asked), *arguments)
    assert code == 2
    assert says in error


@pytest.mark.parametrize("harness", HARNESSES)
def test_the_harness_command_is_one_line_and_holds_no_key(harness: str, tmp_path: Path) -> None:
    line = command(harness, ServedModel("http://h:1/v1", "a b"))
    assert "a b" in " ".join(shlex.split(line))
    assert "\n" not in line
    secrets = tmp_path / "secrets.json"
    secrets.write_text('{"VLLM_API_KEY": "hidden-key"}')
    keyed = command(harness, HERE, str(secrets))
    assert "hidden-key" not in keyed
    assignment = keyed[: keyed.index('" ') + 1]
    shown = subprocess.run(
        ["bash", "-c", f"{assignment}; echo ${assignment.split('=')[0]}"], capture_output=True, text=True, check=True
    )
    assert shown.stdout.splitlines()[-1] == "hidden-key"


def test_a_comparison_without_difference_has_p_one() -> None:
    assert Comparison(one=0.5, other=0.5, better=0, worse=0, p=paired_p([1, 0], [1, 0])).p == 1.0
