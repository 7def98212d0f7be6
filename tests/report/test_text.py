import shlex

import pytest

from overspan.report import text
from overspan.schema.process import ProcessSpec


def spec(argv: list[str], **fields: object) -> ProcessSpec:
    return ProcessSpec.model_validate({"name": "api", "host": "h", "argv": argv, **fields})


def words(pasted: str) -> list[str]:
    """What a shell makes of the text, continuation lines joined as it joins them."""
    return shlex.split(pasted.replace(" \\\n", " "))


@pytest.mark.parametrize(
    "argv",
    [
        ["vllm", "serve", "/models/with space", "--flag", "-"],
        ["vllm", "--json", '{"a": "it\'s $HOME `x`"}', "--empty", "", "--lines", "one\ntwo", "-O3"],
        ["bash", "-c", "echo \\\n done; rm -rf /"],
    ],
)
def test_a_command_pastes_back_to_its_argv(argv: list[str]) -> None:
    pasted = text.command(spec(argv))
    # Only whole-word continuations are ours; one inside a quoted argument must survive.
    assert shlex.split(pasted.replace(" \\\n  -", " -").replace(" \\\n  ''", " ''")) == argv


def test_environment_and_folder_come_before_the_command() -> None:
    pasted = text.command(spec(["vllm", "serve"], env={"B": "two words", "A": "1"}, cwd="/a b"))
    assert words(pasted) == ["cd", "/a b", "&&", "env", "A=1", "B=two words", "vllm", "serve"]


def test_secrets_are_never_written() -> None:
    process = spec(
        ["vllm", "--api-key", "sk-1", "--hf-token=hf_2", "--max-num-batched-tokens", "8192"],
        env={"HF_TOKEN": "hf_3", "MY_PASSWORD": "pw4", "NAMED": "s5", "VLLM_MAX_TOKENS": "77"},
        secrets=["NAMED"],
    )
    pasted = text.command(process)
    for secret in ("sk-1", "hf_2", "hf_3", "pw4", "s5"):
        assert secret not in pasted
    assert 'HF_TOKEN="$HF_TOKEN"' in pasted
    assert 'NAMED="$NAMED"' in pasted
    assert "--max-num-batched-tokens 8192" in pasted
    assert "VLLM_MAX_TOKENS=77" in pasted


def test_a_column_shares_its_decimals() -> None:
    assert text.column([52.04, 1777.0, None]) == ["52.0", "1,777.0", "–"]
    assert text.column([0.314, 12.0]) == ["0.31", "12.00"]
    assert text.column([412.4, 9000.0]) == ["412", "9,000"]


def test_ranks_in_a_row_are_joined() -> None:
    assert text.ranges([0, 1, 2, 3, 8]) == "0-3, 8"


def test_terminal_colours_are_taken_out() -> None:
    assert text.plain("\x1b[31mERROR\x1b[0m out of memory") == "ERROR out of memory"
