"""What `prove` refuses before it starts anything."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from overspan.catalog import recipes
from overspan.prove import proving
from overspan.prove.twin.shrink import Twin
from overspan.schema.errors import InputError, ModelUnavailable

RECIPE = recipes.find("minimax-m2.5-nvfp4")
HEADER = b'{"x":{"dtype":"F32","shape":[4],"data_offsets":[0,99999]}}'


def free(monkeypatch: pytest.MonkeyPatch, gib: float) -> None:
    class Memory:
        available = gib * 2**30

    monkeypatch.setattr("psutil.virtual_memory", Memory)


def test_layouts_that_do_not_fit_this_machine_are_not_started(monkeypatch: pytest.MonkeyPatch) -> None:
    free(monkeypatch, 2.0)
    with pytest.raises(InputError, match=r"proving pp2dp2 takes about 3.1 GiB, and 2.0 GiB are free") as refused:
        next(proving.prove(RECIPE, proving.layouts_of("all", RECIPE), print))
    assert refused.value.next == "--layouts tp1,tp2,tep2,pp2,dp2,dep2"
    assert refused.value.exit_code == 2


def test_where_none_fits_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    free(monkeypatch, 0.5)
    with pytest.raises(InputError, match="not enough memory") as refused:
        next(proving.prove(RECIPE, proving.layouts_of(None, RECIPE), print))
    assert "end something that takes memory" in (refused.value.next or "")


@pytest.mark.parametrize(("layouts", "layers"), [("tp1", 4), ("tp2,pp6tp2", 6), ("pp8", 8), ("pp64", 62)])
def test_the_twin_has_a_layer_for_each_stage_that_the_real_model_has_one_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, layouts: str, layers: int
) -> None:
    """A shorter one would be refused where the real model is not."""

    class Made(Exception):
        pass

    def write(_: str, twin: Twin, *__: object) -> None:
        raise Made(twin.config["num_hidden_layers"])

    free(monkeypatch, 64.0)
    monkeypatch.setattr(proving, "twins_dir", lambda: tmp_path)
    monkeypatch.setattr(proving, "write", write)
    monkeypatch.setattr("overspan.provision.engines.find", lambda _: SimpleNamespace(python=Path("/nowhere")))
    with pytest.raises(Made, match=str(layers)):
        next(proving.prove(RECIPE, proving.layouts_of(layouts, RECIPE), print))


CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
}


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        (b"\x10\x00", "cut short"),
        ((1 << 60).to_bytes(8, "little") + b"{}", "its header claims 1152921504606846976 bytes"),
        (len(HEADER).to_bytes(8, "little") + HEADER, "'x' ends 99999 bytes after the file"),
        ((2).to_bytes(8, "little") + b"{}", "no tokenizer"),
    ],
)
def test_a_folder_that_an_engine_would_not_load_is_no_model_to_prove(tmp_path: Path, weights: bytes, said: str) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps(CONFIG))
    (model / "model.safetensors").write_bytes(weights)
    with pytest.raises(ModelUnavailable, match=re.escape(said)) as refused:
        proving.write_twin(str(model), tmp_path / "twin")
    assert refused.value.exit_code == 2
    with pytest.raises(ModelUnavailable, match=re.escape(said)):
        next(proving.prove(recipes.for_model(str(model)), proving.layouts_of("tp1", RECIPE), print))
    assert not (tmp_path / "twin").exists()


@pytest.mark.parametrize(
    ("layouts", "said"),
    [
        ("tp0", "does not parse at 'tp0'"),
        ("tp2,,pp2", "layout '' names no degree"),
        ("tp2tp2", "names tp twice"),
        ("tp999999999999", "layout 'tp999999999999': tp: Input should be less than or equal to 1024"),
        ("tp1024dp1024ep", "layout 'tp1024dp1024ep': ep: Input should be less than or equal to 4096"),
        ("tp" + "9" * 5000, "does not parse at '999"),
    ],
)
def test_a_layout_that_is_none_says_where(layouts: str, said: str) -> None:
    with pytest.raises(InputError, match=re.escape(said)):
        proving.layouts_of(layouts, RECIPE)


def test_a_link_to_weights_that_are_gone_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "model.safetensors").symlink_to(tmp_path / "gone")
    with pytest.raises(ModelUnavailable, match=r"model\.safetensors: No such file"):
        proving.write_twin(str(tmp_path), tmp_path / "twin")
