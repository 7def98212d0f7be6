"""`prove --on`: a twin over two real hosts, in containers, natively and on Ray, token for token."""

import json
from pathlib import Path

import pytest

from overspan.catalog import overrides, recipes
from overspan.prove import proving
from overspan.provision import engines
from overspan.schema.errors import EngineMissing
from overspan.schema.layout import parse_layout
from support.mixtral import MIXTRAL
from testbed import image
from testbed.bed import Bed

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(1500)]


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("OVERSPAN_STATE", str(tmp_path / "state"))
    (tmp_path / "mixtral").mkdir()
    (tmp_path / "mixtral" / "config.json").write_text(json.dumps(MIXTRAL))
    return str(tmp_path / "mixtral")


@pytest.mark.parametrize("layout", ["tp2", "pp2"])
@pytest.mark.parametrize("engine", ["vllm", "vllm-ray"])
def test_a_twin_over_two_hosts_is_exact(bed: Bed, model: str, engine: str, layout: str) -> None:
    try:
        engines.find("cpu")
        installed = engines.find("cpu-ray" if engine == "vllm-ray" else "cpu")
    except EngineMissing as missing:
        pytest.skip(f"{missing.what}; run `{missing.next}`")
    recipe = overrides.apply(recipes.find(model), [f"engine={engine}", f"image={image.NAME}"])
    inventory = bed.inventory(engine=installed.path).with_(engine_environment=str(installed.path))
    (proof,) = proving.prove(recipe, [parse_layout(layout)], print, on=inventory)
    assert proof.exact, proof
    assert proof.tokens > 900
    assert bed.orphans() == []
