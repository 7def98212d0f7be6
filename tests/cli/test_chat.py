"""`chat` with an endpoint that no run of ours belongs to."""

from contextlib import closing

import pytest

from overspan.cli.main import main
from support.keyed_server import Keyed


def chat(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["chat", *arguments])
    return int(ended.value.code or 0)


@pytest.mark.parametrize("model", [[], ["--model", "mock"]])
def test_an_endpoint_is_asked_with_the_key_of_the_environment(
    model: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OVERSPAN_API_KEY", "k3y-of-others")
    with closing(Keyed("k3y-of-others")) as server:
        assert chat("--base-url", server.base_url, *model, "-p", "one", "-p", "two") == 0
    said = capsys.readouterr()
    assert len(said.out.strip().splitlines()) == 2
    assert "k3y" not in said.out + said.err
    assert sum(head.startswith("POST /v1/chat/completions") for head in server.heads) == 2


def test_a_missing_key_and_an_unknown_model_are_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("OVERSPAN_API_KEY", raising=False)
    with closing(Keyed("k3y-of-others")) as server:
        assert chat("--base-url", server.base_url, "-p", "one") == 2
    assert "set OVERSPAN_API_KEY" in capsys.readouterr().err
    with closing(Keyed(None)) as server:
        assert chat("--base-url", server.base_url, "--model", "other", "-p", "one") == 2
    assert "serves: mock" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "named"),
    [(("run", "--base-url", "http://127.0.0.1:1/v1"), "RUN and --base-url"), (("--model", "m"), "--base-url")],
)
def test_options_that_would_drop_another_are_refused(
    arguments: tuple[str, ...], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert chat(*arguments) == 2
    assert named in capsys.readouterr().err
