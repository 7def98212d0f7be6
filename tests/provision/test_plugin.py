"""The vLLM plugin reaches the engine's environment, and is the one that this Overspan carries."""

from importlib.metadata import distributions
from pathlib import Path

import pytest

from overspan.provision import plugin


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    (tmp_path / "env/lib/python3.11/site-packages/vllm-0.32.0+cpu.dist-info").mkdir(parents=True)
    return tmp_path / "env"


def _site(environment: Path) -> Path:
    return environment / "lib/python3.11/site-packages"


def test_it_is_placed_once(environment: Path) -> None:
    assert plugin.refresh(environment) is True
    assert plugin.refresh(environment) is False
    found = [each for each in distributions(path=[str(_site(environment))]) if each.name and "overspan" in each.name]
    assert [each.name for each in found] == ["overspan-vllm-plugin"]
    groups = {entry.group: entry.value for entry in found[0].entry_points}
    assert groups == {
        "vllm.general_plugins": "overspan_vllm.entry:general",
        "vllm.platform_plugins": "overspan_vllm.entry:platform",
    }
    assert (_site(environment) / "overspan_vllm/entry.py").is_file()


def test_one_of_another_version_is_replaced_whole(environment: Path) -> None:
    plugin.refresh(environment)
    site = _site(environment)
    (info,) = site.glob("overspan_vllm_plugin-*.dist-info")
    (info / "OVERSPAN_DIGEST").write_text("000000000000\n")
    info.rename(site / "overspan_vllm_plugin-0.0.1.dist-info")
    (site / "overspan_vllm/gone_today.py").write_text("")
    assert plugin.refresh(environment) is True
    assert [each.name for each in site.glob("overspan_vllm_plugin-*")] == [info.name]
    assert not (site / "overspan_vllm/gone_today.py").exists()
    assert sorted(each.name for each in site.iterdir()) == sorted(
        ["overspan_vllm", "overspan_vllm.pth", info.name, "vllm-0.32.0+cpu.dist-info"]
    )


def test_an_engine_without_vllm_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "env/lib/python3.11/site-packages/tiny-1.0.dist-info").mkdir(parents=True)
    assert plugin.refresh(tmp_path / "env") is False
    assert [each.name for each in _site(tmp_path / "env").iterdir()] == ["tiny-1.0.dist-info"]


def test_an_engine_without_packages_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "env/bin").mkdir(parents=True)
    assert plugin.refresh(tmp_path / "env") is False
