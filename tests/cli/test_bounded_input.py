"""Files of others that are bombs, devices, pipes, endless or far too long: one error, exit code 2, soon."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from cli.conftest import Shell
from overspan.cli.main import main
from overspan.store.run_folder import RunFolder
from support.run_documents import bench, events, findings, plan, point, process, request_lines

BOMB = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 10)
)
MERGED = "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [{','.join([f'*a{n - 1}'] * 10)}]}}\n" for n in range(1, 10))
TEXTS = {
    "bomb": (BOMB, "its aliases make"),
    "inner bomb": ("name: b\nmodel: x/y\nengine_args:\n  " + BOMB.replace("\n", "\n  "), "its aliases make"),
    "bomb of merges": (MERGED, "its aliases make"),
    "self": ("name: b\nmodel: x/y\nengine_args: &a\n  hf_overrides: *a\n", "an alias stands inside its own anchor"),
    "deep": ("name: " + "[" * 100_000, "exceeded maximum nesting depth"),
    "long value": (f"name: b\nmodel: x/y\nport: {'x' * 40_000}\n", "characters)"),
    "long key": (f"name: b\nmodel: x/y\n{'k' * 40_000}: b\n", ""),
    "long bad line": (f"name: [{'x' * 40_000}", ""),
    "large": ("#" * (9 << 20), "larger than 8 MiB"),
}
READERS = {
    "plan": ["plan", "FILE"],
    "inventory": ["plan", "smollm2-135m", "--on", "FILE"],
    "sweep": ["sweep", "FILE", "--dry-run"],
    "import": ["recipe", "import", "FILE"],
    "rules": ["doctor", "--rules", "FOLDER", "--log", "/dev/null"],
    "hardware": ["plan", "smollm2-135m", "--hardware", "FILE"],
    "gpu": ["plan", "smollm2-135m", "--gpu", "FILE"],
}


Run = Callable[..., tuple[object, str, str]]
Refused = Callable[..., str]


@pytest.fixture
def run(shell: Shell, capfd: pytest.CaptureFixture[str]) -> Run:
    """Run a command here, which raises what nobody caught. Gives its exit code, output and errors."""

    def call(*words: str) -> tuple[object, str, str]:
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(list(words))
        said = capfd.readouterr()
        return ended.value.code, said.out, said.err

    return call


@pytest.fixture
def refused(run: Run) -> Refused:
    """Run a command that must be refused with one error of bounded length, which is given."""

    def call(*words: str) -> str:
        code, _, told = run(*words)
        assert (code, told.count("error: ")) == (2, 1), told
        assert max(map(len, told.splitlines())) < 1000, told[:3000]
        return told

    return call


def words_of(reader: str, file: Path) -> list[str]:
    return [word.replace("FILE", str(file)).replace("FOLDER", str(file.parent)) for word in READERS[reader]]


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("text", ["bomb", "self", "long key"])
def test_a_bad_text_is_refused_by_every_reader(refused: Refused, tmp_path: Path, reader: str, text: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(TEXTS[text][0])
    assert TEXTS[text][1] in refused(*words_of(reader, file))


@pytest.mark.parametrize("text", sorted(set(TEXTS) - {"bomb", "self", "long key"}))
def test_a_bad_recipe_is_refused(refused: Refused, tmp_path: Path, text: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(TEXTS[text][0])
    assert TEXTS[text][1] in refused("plan", str(file))


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(("kind", "what"), [("fifo", "a named pipe"), ("device", "a device")])
def test_what_is_no_file_is_refused_by_its_kind(
    refused: Refused, tmp_path: Path, reader: str, kind: str, what: str
) -> None:
    file = tmp_path / "bad.yaml"
    os.mkfifo(file) if kind == "fifo" else file.symlink_to("/dev/zero")
    told = refused(*words_of(reader, file))
    assert f"{file} is {what}, not a file" in told


def test_ordinary_aliases_are_read(shell: Shell, run: Run, tmp_path: Path) -> None:
    file = tmp_path / "good.yaml"
    text = shell.recipe.read_text()
    file.write_text(text + "description: &d hello\nvariants: {a: {description: *d}}\n")
    assert run("plan", str(file))[0] == 0


def test_a_model_folder_of_devices_is_refused(refused: Refused, tmp_path: Path) -> None:
    model = tmp_path / "m"
    model.mkdir()
    (model / "config.json").symlink_to("/dev/zero")
    assert "holds no config.json" in refused("plan", f"{model}/")


GARBAGE = {
    "empty": b"",
    "binary": bytes(range(256)) * 64,
    "half": b'{"a": [1, 2',
    "list": b"[]\n",
    "deep": b"[" * 100_000,
    "deep line": b"[" * 100_000 + b"\n",
    "types": b'{"points": "x", "state": 5, "pid": "x", "at": 7}\n',
    "naive": b'{"at": "2026-01-01T00:00:00", "message": "x", "state": "ready"}\n',
    "first day": b'{"at": "0001-01-01T00:00:00Z", "message": "x", "state": "ready"}\n',
    "folder": None,
    "fifo": None,
    "zero": None,
}
COMMANDS = [["status"], ["list"], ["logs"], ["doctor"], ["report", "--out", "/dev/null"], ["compare"], ["stop"]]


def whole_run() -> RunFolder:
    run = RunFolder.create("whole")
    run.write("plan.json", plan())
    run.write("processes.json", [process()])
    for each in events():
        run.append(each.message, state=each.state, process=each.process)
    run.append("stopped", state="stopped")
    run.write("verify.json", findings())
    run.write("bench.json", bench([point(1)]))
    (run.path / "requests-1.jsonl").write_text("\n".join(request_lines(1, 32)) + "\n")
    run.log(process().name).write_text("INFO ready\n")
    run.record("supervisor.json", {"pid": 4_000_000, "boot": "-", "session": 4_000_000})
    return run


def spoil(path: Path, kind: str) -> None:
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "zero":
        path.symlink_to("/dev/zero")
    else:
        path.write_bytes(GARBAGE[kind] or b"")


FILES = ["events.jsonl", "requests-1.jsonl", "bench.json", "plan.json", "processes.json", "verify.json"]
FILES += ["supervisor.json", "logs/LOG"]


@pytest.mark.parametrize("file", FILES)
def test_garbage_in_a_run_is_never_a_traceback(run: Run, file: str) -> None:
    good = whole_run()
    for kind in GARBAGE:
        broken = RunFolder(good.path.with_name("broken-20260101-000000-abcd"))
        shutil.copytree(good.path, broken.path)
        spoil(broken.path / file.replace("LOG", f"{process().name}.log"), kind)
        for words in COMMANDS:
            named = [broken.id] * (0 if words == ["list"] else 2 if words == ["compare"] else 1)
            at = len(words) if words[-1] == "--from" else 1
            code, out, err = run(*words[:at], *named, *words[at:])
            assert code in (0, 1, 2, 3, 4), (kind, words)
            assert err.count("error: ") <= 1, (kind, words, err)
            if words == ["list"]:
                assert good.id in out and broken.id in out, (kind, out, err)
        shutil.rmtree(broken.path)


@pytest.mark.parametrize("facts", ["{}", "[]", "7", '"x"', "null", "[" * 100_000, '{"name": "cpu"}', "\\xff"])
def test_one_broken_engine_costs_its_own_line(shell: Shell, run: Run, facts: str) -> None:
    folder = shell.home / "cache/engines/.builds/broken"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin/python").symlink_to("/bin/true")
    (folder / "overspan-engine.json").write_text(facts)
    (shell.home / "cache/engines/cpu-broken").symlink_to(folder)
    code, told, _ = run("engine", "list")
    assert code == 0 and "cpu-broken: overspan-engine.json" in told
    assert run("plan", str(shell.recipe))[0] == 0
