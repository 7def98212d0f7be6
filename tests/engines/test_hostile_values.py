"""The commands of every engine, run for real in a shell-less way with programs that only tell what they were given:
hostile values arrive as they are and never run, in the script that starts Ray too."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from overspan.runs.planning import Wanted, plan_of, processes_of
from overspan.schema.process import ProcessSpec

TELL = """#!{python}
import json, os, sys
with open({told!r}, "a") as out:
    print(json.dumps([os.path.basename(sys.argv[0]), *sys.argv[1:], os.environ.get("ODD")]), file=out)
"""


def run(spec: ProcessSpec, folder: Path) -> list[list[str]]:
    """Run a process's argv with a fake `ray` and `vllm` first on the PATH; what each of them was given."""
    told = folder / "told"
    for name in ("ray", "vllm"):
        program = folder / name
        program.write_text(TELL.format(python=sys.executable, told=str(told)))
        program.chmod(0o755)
    argv = [*([spec.entrypoint] if spec.entrypoint else []), *spec.argv]
    env = {"PATH": f"{folder}:{os.environ['PATH']}", **spec.env}
    subprocess.run(argv, env=env, cwd=folder, check=True, timeout=60)
    return [json.loads(line) for line in told.read_text().splitlines()]


@pytest.mark.parametrize("engine", ["vllm", "vllm-ray"])
@pytest.mark.parametrize("form", ["a'; touch {} #", '$(touch {})"', "--x\n; touch {}"])
def test_hostile_values_reach_the_program_and_nothing_else(engine: str, form: str, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    value = form.format(mark)
    model = tmp_path / f"m {form.format('ran').replace('/', '_')}"
    model.mkdir()
    (model / "config.json").write_text("{}")
    settings = [f"engine={engine}", f"model={model}", f"env.ODD={value}", f"served_model_name={value}", "layout=pp2"]
    # `$(...)` and the like in a setting are holes that nothing fills in: those come from the inventory or a folder.
    if "$(" in form:
        settings = [setting for setting in settings if value not in setting and "model=" not in setting]
    plan = plan_of(Wanted("minimax-m2.5-nvfp4", "two-sparks", tuple(settings)), to_start=False)
    plan = plan.with_(endpoint=plan.endpoint.with_(model=value))
    plan = plan.with_(model_path=str(model))
    head = processes_of(plan)[0].with_(env={**processes_of(plan)[0].env, "ODD": value})
    *_, serve = run(head, tmp_path)
    assert (serve[0], serve[1], serve[-1]) == ("vllm", "serve", value)
    assert value in serve or f"--served-model-name={value}" in serve
    assert serve[2] == str(model)
    assert not mark.exists() and not (tmp_path / "ran").exists()
