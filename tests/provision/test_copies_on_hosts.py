"""Images and model folders brought from one real host to another."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from overspan.provision.folders import copy_folder
from overspan.provision.images import find_image, same_image
from overspan.provision.manifest import PARTIAL, differences, read_manifest
from overspan.schema.errors import InputError, ModelUnavailable, OverspanError
from overspan.schema.inventory import Host
from overspan.transport.copying import ReachableHost, choose_route, stream
from overspan.transport.local import Local
from overspan.transport.reach import reach
from support.containers import until
from testbed import image
from testbed.bed import Bed

pytestmark = pytest.mark.real

MODEL = "/srv/models/tiny"
BIG = 96 << 20


@pytest.fixture
def ends(bed: Bed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[ReachableHost, ReachableHost]]:
    monkeypatch.setenv("OVERSPAN_STATE", str(tmp_path / "state"))
    one, two = (ReachableHost(host, reach(host)) for host in bed.inventory().hosts)
    yield one, two
    for end in (one, two):
        end.transport.close()


def put_model(bed: Bed, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        file = bed.hosts[0].outside(f"{MODEL}/{name}")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)


def tree(bed: Bed, number: int) -> dict[str, bytes]:
    root = bed.hosts[number].outside(MODEL)
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


FILES = {
    "config.json": b'{"a": 1}',
    "model-00001.safetensors": os.urandom(3 << 20),
    "deep/er/odd 'name'; touch x #\\.txt": b"odd",
    "empty": b"",
    os.fsdecode(b"no-utf8-\xfe"): b"one",
    os.fsdecode(b"no-utf8-\xff"): b"another",
}


def test_image_that_differs_is_copied_once(bed: Bed, ends: tuple[ReachableHost, ReachableHost]) -> None:
    one, two = bed.hosts
    two.docker("import", "-", image.NAME, stdin=image.empty_root("another"))
    assert image.image_id(one) != image.image_id(two)
    said: list[str] = []
    assert same_image(ends, image.NAME, say=said.append) == ["node2"]
    assert said == [f"copying image {image.NAME} from node1 to node2, directly"]
    assert image.image_id(one) == image.image_id(two)
    assert same_image(ends, image.NAME, say=said.append) == []
    assert len(said) == 1


def test_image_that_one_host_lacks_comes_from_the_other(bed: Bed, ends: tuple[ReachableHost, ReachableHost]) -> None:
    one, two = bed.hosts
    kept = image.image_id(two)
    one.docker("image", "rm", "--force", image.NAME)
    assert find_image(ends[0], image.NAME) is None
    assert same_image(ends, image.NAME) == ["node1"]
    assert image.image_id(one) == kept


def test_image_nobody_has_and_image_for_another_machine(ends: tuple[ReachableHost, ReachableHost], bed: Bed) -> None:
    with pytest.raises(InputError, match="no host has image absent:1") as error:
        same_image(ends, "absent:1")
    assert "docker pull absent:1" in str(error.value.next)
    bed.hosts[1].docker("image", "rm", "--force", image.NAME)
    arm = ReachableHost(ends[1].host.with_(arch="aarch64"), ends[1].transport)
    with pytest.raises(InputError, match="is made for amd64, and node2 is aarch64"):
        same_image([ends[0], arm], image.NAME)


def test_folder_is_copied_once_and_only_what_differs_again(bed: Bed, ends: tuple[ReachableHost, ReachableHost]) -> None:
    put_model(bed, FILES)
    first = copy_folder(*ends, MODEL)
    assert (sorted(first.files), first.route) == (sorted(FILES), "direct")
    assert tree(bed, 1) == FILES
    assert copy_folder(*ends, MODEL).files == []
    with bed.hosts[1].altered(f"{MODEL}/model-00001.safetensors"):
        (found,) = differences(read_manifest(ends[0], MODEL), read_manifest(ends[1], MODEL))
        assert found.path == "model-00001.safetensors"
        again = copy_folder(*ends, MODEL)
        assert (again.files, again.bytes) == (["model-00001.safetensors"], 3 << 20)
        assert tree(bed, 1) == FILES


def test_without_ssh_between_the_hosts_it_goes_through_here(
    bed: Bed, ends: tuple[ReachableHost, ReachableHost]
) -> None:
    put_model(bed, FILES)
    trusted = bed.hosts[0].outside("/root/.ssh/known_hosts")
    content = trusted.read_text()
    trusted.write_text("")
    try:
        assert copy_folder(*ends, MODEL).route == "through_here"
    finally:
        trusted.write_text(content)
    assert tree(bed, 1) == FILES


def test_from_this_machine_over_the_fabric(bed: Bed, ends: tuple[ReachableHost, ReachableHost], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    here = ReachableHost(Host(name="here", memory_bytes=1 << 30), Local("here"))
    assert choose_route(here, ends[0]) == "direct"
    stream(here, ["cat", str(folder / "config.json")], ends[0], ["sh", "-c", "cat >/srv/arrived"], "direct")
    assert bed.hosts[0].outside("/srv/arrived").read_text() == "{}"
    assert choose_route(ends[0], here) == "through_here"
    stream(ends[0], ["cat", "/srv/arrived"], here, ["tee", str(tmp_path / "back")], "through_here")
    assert (tmp_path / "back").read_text() == "{}"


@pytest.mark.parametrize("trusting", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_cut_half_way_goes_on_where_it_was(bed: Bed, ends: tuple[ReachableHost, ReachableHost], trusting: bool) -> None:
    put_model(bed, {"model.safetensors": os.urandom(1 << 20) * (BIG >> 20)})
    two = bed.hosts[1]
    trusted = bed.hosts[0].outside("/root/.ssh/known_hosts")
    content = trusted.read_text()
    trusted.write_text(content if trusting else "")
    failed: list[OverspanError] = []

    def copy() -> None:
        try:
            copy_folder(*ends, MODEL)
        except OverspanError as error:
            failed.append(error)

    copying = threading.Thread(target=copy)
    try:
        with two.slow(bits_per_s=100_000_000):
            copying.start()
            until(lambda: any(path.stat().st_size > 8 << 20 for path in _partials(bed)), "some of it has arrived")
            with two.cut():
                copying.join(90)
        assert len(failed) == 1
        assert PARTIAL in "".join(tree(bed, 1))
        assert "model.safetensors" not in tree(bed, 1)
        done = copy_folder(*ends, MODEL)
    finally:
        trusted.write_text(content)
    assert done.resumed_bytes >= 8 << 20
    assert done.resumed_bytes + done.bytes == BIG
    assert tree(bed, 1) == tree(bed, 0)


def _partials(bed: Bed) -> list[Path]:
    return list(bed.hosts[1].outside("/srv").rglob(f"*{PARTIAL}*")) if bed.hosts[1].outside("/srv").exists() else []


def test_what_arrived_damaged_is_not_used(bed: Bed, ends: tuple[ReachableHost, ReachableHost]) -> None:
    put_model(bed, FILES)
    digest = read_manifest(ends[0], MODEL).files["config.json"].sha256
    bed.hosts[1].outside(MODEL).mkdir(parents=True)
    bed.hosts[1].outside(f"{MODEL}/config.json{PARTIAL}{digest[:12]}").write_bytes(b"XX")
    with pytest.raises(OverspanError, match=r"config\.json did not arrive on node2 as it is on node1"):
        copy_folder(*ends, MODEL)
    assert "config.json" not in tree(bed, 1)
    copy_folder(*ends, MODEL)
    assert tree(bed, 1) == FILES


@pytest.mark.parametrize(
    ("writer", "live"), [("exec sleep 1000", False), ("while :; do echo x >&9; sleep 0.5; done", True)]
)
def test_another_writer_is_ended_only_when_it_is_dead(
    bed: Bed, ends: tuple[ReachableHost, ReachableHost], writer: str, live: bool
) -> None:
    put_model(bed, FILES)
    digest = read_manifest(ends[0], MODEL).files["model-00001.safetensors"].sha256
    bed.hosts[1].outside(MODEL).mkdir(parents=True)
    partial = f"{MODEL}/model-00001.safetensors{PARTIAL}{digest[:12]}"
    script = f'exec 9>>"$1"; flock 9; echo $$ >"$1.pid"; {writer}'
    with subprocess.Popen(bed.hosts[1].inside(["sh", "-c", script, "sh", partial])) as other:
        until(bed.hosts[1].outside(f"{partial}.pid").exists, "the other writes")
        try:
            if live:
                with pytest.raises(OverspanError) as error:
                    copy_folder(*ends, MODEL)
                assert f"another copy is writing {partial}" in str(error.value.quote)
            else:
                assert "model-00001.safetensors" in copy_folder(*ends, MODEL).files
                assert tree(bed, 1) == FILES
                assert other.wait(10) != 0
        finally:
            bed.hosts[1].clear()


def test_no_source_and_no_space(bed: Bed, ends: tuple[ReachableHost, ReachableHost]) -> None:
    with pytest.raises(ModelUnavailable, match="node1 has no files in /srv/absent"):
        copy_folder(*ends, "/srv/absent")
    big = bed.hosts[0].outside(MODEL)
    big.mkdir(parents=True)
    with (big / "weights").open("wb") as file:
        file.truncate(1 << 20)
    bed.hosts[1].run("mount", "-t", "tmpfs", "-o", "size=64k", "small", "/srv")
    try:
        with pytest.raises(ModelUnavailable, match=r"no space on node2 for /srv/models/tiny: it needs 1\.05 MB"):
            copy_folder(*ends, MODEL)
    finally:
        bed.hosts[1].run("umount", "/srv")


def test_notes_of_tools_do_not_count_and_relative_folders_are_refused(
    bed: Bed, ends: tuple[ReachableHost, ReachableHost]
) -> None:
    put_model(bed, {**FILES, ".cache/huggingface/x.metadata": b"when"})
    assert sorted(read_manifest(ends[0], MODEL).files) == sorted(FILES)
    with pytest.raises(OverspanError, match="not an absolute path: 'srv'"):
        read_manifest(ends[0], "srv")
