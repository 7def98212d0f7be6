"""On one machine too, nothing that a user or a recipe says ever runs, and HF_TOKEN stands in no file of a run."""

from pathlib import Path

from cli.conftest import Shell
from support.fake_env import make_model, make_recipe

MARK = "overspan-ran-this"
HOSTILE = f"a'; touch {MARK} #"
TOKEN = "hf_Local'of\"mine"


def test_no_text_runs_and_the_token_is_written_nowhere(shell: Shell, tmp_path: Path) -> None:
    model = make_model(tmp_path / HOSTILE)
    recipe = make_recipe(tmp_path / f"{HOSTILE}.yaml", tmp_path / "model", f'env:\n  ODD: "{HOSTILE}"\n')
    settings = [f"model={model}", f"served_model_name={HOSTILE}", f"reasoning_parser_plugin={HOSTILE}"]
    words = [word for setting in settings for word in ("--set", setting)]
    done = shell.run("up", str(recipe), *words, HF_TOKEN=TOKEN)
    assert done.returncode == 0, done.stderr
    (run,) = shell.runs()
    (api,) = run.processes()
    assert HOSTILE in api.argv and api.env["ODD"] == HOSTILE and str(model) in api.argv
    lines = ["\0".join(process.cmdline()) for process in shell.processes()]
    assert lines and not any("hf_Local" in line for line in lines)
    shell.run("stop", "--grace", "0")
    written = [path.name for path in tmp_path.rglob("*") if path.is_file() and b"hf_Local" in path.read_bytes()]
    assert written == []
    assert list(tmp_path.rglob(MARK)) == [] and not Path(MARK).exists()
