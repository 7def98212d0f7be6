"""Seed 001's open question: do PP and DP together garble characters? Two hundred requests in many scripts, at once.

What was found is told in docs/proof.md.
"""

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from overspan.catalog import recipes
from overspan.endpoint.client import Client
from overspan.endpoint.replies import ModelReply
from overspan.prove import proving
from overspan.prove.scratch import launched, verified
from overspan.provision import engines
from overspan.schema.errors import EngineMissing
from overspan.schema.layout import parse_layout
from overspan.schema.recipe import Recipe
from support.scripts import mixed_prompts

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(1200)]

PROMPTS = mixed_prompts(104)
LENGTHS = (4, 12, 24, 48)


@pytest.fixture(scope="module", autouse=True)
def state(tmp_path_factory: pytest.TempPathFactory) -> None:
    try:
        engines.find("cpu")
    except EngineMissing as missing:
        pytest.skip(f"{missing.what}; run `{missing.next}`")


def recipe_of(model: str, tmp_path: Path) -> Recipe:
    """A model in fp32, where another batch does not change the greedy token."""
    if model == "twin":
        twin = proving.twin_of(recipes.find("minimax-m2.5-nvfp4").model, print)
        settings: dict[str, object] = {"model": str(twin), "package": None}
    else:
        settings = {}
    args = {
        "dtype": "float32",
        "max_model_len": 1024,
        "max_num_seqs": 32,
        "max_num_batched_tokens": 256,
        "kv_cache_memory_bytes": 512 * 2**20,
    }
    base = recipes.find("smollm2-135m").model_dump(mode="json")
    changes: dict[str, object] = {
        "name": f"mixed-{model}",
        "engine_args": args,
        "known_answers": [],
        "port": 0,
        **settings,
    }
    return Recipe.model_validate({**base, **changes})


def answers(recipe: Recipe, layout: str) -> tuple[list[ModelReply], set[str]]:
    """Every prompt whole and streamed, all at once; and the engines that gave tokens."""
    with launched(recipe.with_(layout=parse_layout(layout))) as run:
        verified(run)
        endpoint = run.plan().endpoint
        ask = Client(endpoint, timeout_s=900)

        def one(number: int) -> ModelReply:
            prompt = PROMPTS[number % len(PROMPTS)]
            return ask.chat(prompt, LENGTHS[number % len(LENGTHS)], stream=number >= len(PROMPTS))

        with ThreadPoolExecutor(max_workers=96) as pool:
            replies = list(pool.map(one, range(2 * len(PROMPTS))))
        page = httpx.get(f"{endpoint.base_url.removesuffix('/v1')}/metrics", trust_env=False).text
        ask.close()
    gave = re.findall(r'^vllm:generation_tokens_total\{[^}]*engine="(\d+)"[^}]*\} (\S+)', page, re.MULTILINE)
    return replies, {engine for engine, tokens in gave if float(tokens) > 0}


@pytest.mark.parametrize("model", ["smollm2", "twin"])
def test_pipeline_and_data_parallelism_together_garble_nothing(model: str, tmp_path: Path) -> None:
    recipe = recipe_of(model, tmp_path)
    alone, one = answers(recipe, "tp1")
    both, two = answers(recipe, "pp2dp2")
    assert (one, two) == ({"0"}, {"0", "1"})
    assert len(both) == 208
    for number, (reply, expected) in enumerate(zip(both, alone, strict=True)):
        where = f"request {number}: {PROMPTS[number % len(PROMPTS)]!r}"
        # Client decodes strictly: what is no UTF-8, or ends early, never comes this far.
        reply.text.encode("utf-8")
        assert reply.finish in ("stop", "length"), where
        if reply.finish == "length":
            assert reply.completion_tokens == LENGTHS[number % len(LENGTHS)], where
        assert (reply.text, reply.finish) == (expected.text, expected.finish), where
    for number, reply in enumerate(both[: len(PROMPTS)]):
        assert reply.text == both[number + len(PROMPTS)].text, f"request {number}: streamed otherwise"
    assert len({reply.text for reply in both}) > 50
    if model == "smollm2":
        assert any(ord(mark) > 0x2E80 for reply in both for mark in reply.text), "no answer left the Latin script"
