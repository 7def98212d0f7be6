"""Images and weights on the storage that a Slurm's nodes share."""

import json
import os
import signal
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from overspan.provision import shared, weights
from overspan.schema.errors import InputError, ModelUnavailable, OverspanError
from overspan.transport.local import Local
from support.fake_enroot import add_enroot, asked
from support.waiting import until


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    add_enroot(tmp_path, monkeypatch)
    return tmp_path


@pytest.mark.parametrize(
    ("image", "uri"),
    [
        ("vllm/vllm-openai:v0.32.0", "docker://vllm/vllm-openai:v0.32.0"),
        ("nvcr.io/nvidia/ai-dynamo/vllm-runtime:1.3.0", "docker://nvcr.io#nvidia/ai-dynamo/vllm-runtime:1.3.0"),
        ("nvcr.io#nvidia/x:1", "docker://nvcr.io#nvidia/x:1"),
        ("localhost:5000/x:1", "docker://localhost:5000#x:1"),
        ("ubuntu:24.04", "docker://ubuntu:24.04"),
    ],
)
def test_the_registry_is_set_off_with_a_hash(image: str, uri: str) -> None:
    assert shared.enroot_uri(image) == uri


def test_names_that_differ_are_files_that_differ() -> None:
    names = ["a/b:1", "a_b:1", "a/b_1", "nvcr.io/a/b:1", "a/b/1"]
    assert len({shared.image_file(name, "/i") for name in names}) == len(names)


def test_many_at_once_import_once(site: Path) -> None:
    code = (
        "import sys; from overspan.provision import shared, weights; from overspan.transport.local import Local;"
        "print(shared.import_image(Local(), 'nvcr.io/x/y:1', sys.argv[1], lambda text: None))"
    )
    many = [
        subprocess.Popen([sys.executable, "-c", code, str(site / "images")], stdout=subprocess.PIPE, text=True)
        for _ in range(5)
    ]
    paths = {one.communicate()[0].strip() for one in many}
    assert len(paths) == 1
    assert asked(site) == ["docker://nvcr.io#x/y:1"]
    assert sorted(path.suffix for path in (site / "images").iterdir()) == [".lock", ".sqsh"]


def test_killed_half_way_the_next_recovers(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = site / "images"
    monkeypatch.setenv("IMPORT_S", "60")
    target = shared.image_file("x/y:1", str(images))
    first = subprocess.Popen(["sh", "-c", shared._IMPORT, "sh", "docker://x/y:1", target], start_new_session=True)
    until(lambda: list(images.glob("*.partial.*")), "a half-written image")
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    monkeypatch.setenv("IMPORT_S", "0")
    assert shared.import_image(Local(), "x/y:1", str(images), lambda text: None) == target
    assert not list(images.glob("*.partial.*"))
    assert len(asked(site)) == 2


def test_an_image_that_is_cut_short_is_never_taken(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMPORT_CUT", "1")
    with pytest.raises(OverspanError, match="importing image x/y:1 failed") as caught:
        shared.import_image(Local(), "x/y:1", str(site / "images"), lambda text: None)
    assert caught.value.quote == "enroot import left no whole image"
    assert not list((site / "images").glob("*.sqsh"))
    # One that was damaged later is imported again.
    monkeypatch.delenv("IMPORT_CUT")
    path = Path(shared.import_image(Local(), "x/y:1", str(site / "images"), lambda text: None))
    path.write_bytes(path.read_bytes()[:200])
    shared.import_image(Local(), "x/y:1", str(site / "images"), lambda text: None)
    assert path.stat().st_size == 4096


def test_a_named_file_must_be_there(site: Path) -> None:
    with pytest.raises(InputError, match=r"/nowhere/x\.sqsh is not on the login node"):
        shared.import_image(Local(), "/nowhere/x.sqsh", str(site), lambda text: None)


def test_weights_are_checked_before_submission(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match="is not on the login node"):
        shared.check_weights(Local(), str(tmp_path / "absent"))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelUnavailable, match="no weights"):
        shared.check_weights(Local(), str(tmp_path))
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "model-1.safetensors").write_bytes(struct.pack("<Q", 2) + b"{}")
    with pytest.raises(ModelUnavailable, match=r"1 of 2 weight files are missing in .*: model-2\.safetensors"):
        shared.check_weights(Local(), str(tmp_path))
    (tmp_path / "model-2.safetensors").write_bytes(struct.pack("<Q", 2) + b"{}")
    shared.check_weights(Local(), str(tmp_path))


def test_numbered_weights_without_an_index_tell_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    for number in (1, 3):
        (tmp_path / f"model-0000{number}-of-00003.safetensors").write_bytes(struct.pack("<Q", 2) + b"{}")
    with pytest.raises(ModelUnavailable, match=r"1 weight files are missing in .*: model-00002-of-00003\.safetensors"):
        shared.check_weights(Local(), str(tmp_path))
    with pytest.raises(ModelUnavailable, match=r"model-00002-of-00003\.safetensors is missing"):
        weights.check_folder(tmp_path)
