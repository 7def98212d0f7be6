"""`overspan predict` from outside: one document with --json, one clear error, exit code 2."""

import json

import pytest

from overspan.cli.main import main


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["predict", *arguments])
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


def test_json_is_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "minimax-m2.5-nvfp4", "--on", "two-sparks", "--layout", "tep2", "--json")
    found = json.loads(out)
    assert code == 0
    assert sum(found["terms"].values()) == pytest.approx(found["tpot_ms"])
    low, high = found["interval"]["tpot_ms"]
    assert low < found["tpot_ms"] < high
    assert found["bound"] == "weights"


def test_table_sentence_and_rejections(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "minimax-m2.5-nvfp4", "--on", "two-sparks", "--set", "engine=vllm-ray")
    assert code == 0
    assert "tok/s a user" in out
    assert "rejected 2 layouts" in out
    assert "crashed on its second request" in out


def test_what_if_on_machines_that_are_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "minimax-m2.5", "--gpu", "b200", "--gpus", "4", "-c", "64", "--top", "9", "--json")
    assert code == 0
    assert {item["layout"] for item in json.loads(out)["layouts"]} >= {"tp4"}


def test_requests_longer_than_the_recipe_serves_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    load = ("--gpu", "h200", "--isl", "8192", "--osl", "1024")
    assert "--set max_model_len=9216 or more" in run(capsys, "llama-3.3-70b", *load)[1]
    assert "max_model_len" not in run(capsys, "llama-3.3-70b", *load, "--set", "max_model_len=16384")[1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["minimax-m2.5", "--gpu", "h200", "--layout", "tp8"], "blocks of 128 do not divide"),
        (["minimax-m2.6", "--gpu", "h200"], "unknown recipe or model 'minimax-m2.6': did you mean minimax-m2.5"),
        (["minimax-m2.5", "--gpu", "h200", "--set", "kv_cache_dtype=fp9"], "did you mean fp8"),
        (["minimax-m2.5", "--gpu", "h200", "--slo", "tpot"], "'tpot' is not a limit"),
        (["llama-3.3-70b", "--gpu", "h200", "--isl", "200000"], "takes 131072 (max_position_embeddings)"),
    ],
)
def test_bad_input(capsys: pytest.CaptureFixture[str], arguments: list[str], said: str) -> None:
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert said in err


def test_a_layout_in_numbers_is_the_one_in_the_notation(capsys: pytest.CaptureFixture[str]) -> None:
    load = ["--gpu", "h200", "--concurrency", "16", "--json"]
    numbers = run(capsys, "--model", "MiniMaxAI/MiniMax-M2.5", "--tp", "4", "--ep", "4", *load)
    assert numbers == run(capsys, "MiniMaxAI/MiniMax-M2.5", "--layout", "tep4", *load)
    assert {"tpot_ms", "ttft_ms", "bound", "terms", "interval"} <= json.loads(numbers[1]).keys()


def test_hosts_follow_from_the_layout(capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(run(capsys, "minimax-m2.5", "--gpu", "h100", "--dp", "16", "--ep", "16", "--json")[1])
    assert (found["inventory"], found["gpus"]) == ("2x8-h100", 16)


def test_an_ep_that_fits_nothing_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "minimax-m2.5", "--gpu", "h100", "--tp", "8", "--ep", "3")
    assert code == 2
    assert "tp*dp = 8" in err
