"""The algebra of topologies: notation, placement, limits of a rank, and what cannot be, each with its reason."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overspan.catalog import inventories, models, overrides, recipes
from overspan.planner import inputs
from overspan.planner.make import make_plan
from overspan.planner.placement import Placed, hosts_of, place
from overspan.planner.roles import length_refusals, rank_limits, role_refusals
from overspan.schema.errors import InputError, PlanRefused
from overspan.schema.inventory import Inventory
from overspan.schema.layout import Layout
from overspan.schema.plan import EngineChoice
from overspan.schema.topology import Role, Topology, parse_topology
from overspan.schema.workload import Demand

RACK = inventories.find("gb200-nvl72")
M3 = "minimax-m3-mxfp8"


def placed_on(topology: Topology, machines: Inventory) -> Placed:
    return place(topology, machines, whole_nodes=True)


def with_nodes(text: str, **nodes: int) -> Topology:
    roles = [role.with_(nodes=nodes.get(role.name)) for role in parse_topology(text).roles]
    return Topology(roles=roles)


def refused(text: str, *settings: str, tokens: int = 1, **nodes: int) -> list[str]:
    recipe = overrides.apply(recipes.find(M3), settings)
    try:
        placed = placed_on(with_nodes(text, **nodes), RACK)
    except PlanRefused as error:
        return error.reasons
    model = models.find(M3)
    return role_refusals(model, recipe, placed, RACK) + length_refusals(model, recipe, placed.topology, tokens)


layouts = st.builds(
    lambda tp, pp, dp, spread: Layout(tp=tp, pp=pp, dp=dp, ep=tp * dp if spread else 1),
    st.integers(1, 8), st.integers(1, 4), st.integers(1, 8), st.booleans(),
)  # fmt: skip


@given(x=st.integers(0, 99), y=st.integers(0, 99), prefill=layouts, decode=layouts)
def test_the_notation_gives_the_topology_again(x: int, y: int, prefill: Layout, decode: Layout) -> None:
    apart = Topology(
        roles=[Role(name="prefill", workers=x, layout=prefill), Role(name="decode", workers=y, layout=decode)]
    )
    together = Topology(roles=[Role(name="aggregated", layout=decode)])
    for topology in (apart, together):
        assert parse_topology(topology.label) == topology
        assert parse_topology(topology.label.lower()) == topology


@pytest.mark.parametrize(
    "text", ["", "1P2D", "1P2D TEP8", "1P DEP4->TEP8", "XP1D TP1->TP1", "TPP2", "1P1D TP1->", "TP2->TP4"]
)
def test_what_is_no_topology(text: str) -> None:
    with pytest.raises(InputError, match="topology"):
        parse_topology(text)


def test_workers_fill_nodes_in_order() -> None:
    placed = placed_on(parse_topology("1P2D DEP4->TEP8"), RACK)
    assert [(worker.role, [each.host for each in worker.placements]) for worker in placed.workers] == [
        ("prefill", ["gb200-01"]),
        ("decode", ["gb200-02", "gb200-03"]),
        ("decode", ["gb200-04", "gb200-05"]),
    ]
    assert placed.workers[1].placements[1].ranks == [4, 5, 6, 7]
    assert (len(placed.nodes), placed.gpus_used, placed.gpus_reserved) == (5, 20, 20)


def test_small_workers_share_a_node_and_a_node_is_reserved_whole() -> None:
    placed = placed_on(parse_topology("1P2D TP2->TP1"), inventories.find("h200-x8"))
    assert [each.gpus for worker in placed.workers for each in worker.placements] == [[0, 1], [2], [3]]
    assert (placed.gpus_used, placed.gpus_reserved) == (4, 8)


@given(
    x=st.integers(1, 6),
    y=st.integers(1, 6),
    prefill=st.sampled_from([1, 2, 4, 8]),
    decode=st.sampled_from([1, 2, 4, 8]),
)
def test_no_gpu_is_given_twice(x: int, y: int, prefill: int, decode: int) -> None:
    try:
        placed = placed_on(parse_topology(f"{x}P{y}D tp{prefill}->tp{decode}"), RACK)
    except PlanRefused:
        assert x * prefill + y * decode > 72 - 8
        return
    held = [(each.host, gpu) for worker in placed.workers for each in worker.placements for gpu in each.gpus]
    assert len(held) == len(set(held)) == placed.gpus_used == x * prefill + y * decode
    assert placed.gpus_reserved >= placed.gpus_used


@pytest.mark.parametrize(
    ("text", "nodes", "said"),
    [
        ("1P1D DEP4->TP2", {"decode": 2}, "decode TP2 on 8 GPUs: 1 x 2 = 2 ranks fill 1 of 2 nodes of 4"),
        ("1P1D DEP4->TEP8", {"prefill": 7}, "prefill DEP4 on 28 GPUs: 1 x 4 = 4 ranks fill 1 of 7 nodes of 4"),
        ("0P1D DEP4->TEP8", {"prefill": 2}, "prefill has 2 nodes and no workers"),
        ("1P0D DEP4->TEP8", {}, "decode has no workers"),
        ("1P1D DEP4->TEP8", {"decode": 1}, "decode TEP8 needs 8 GPUs; 1 nodes of 4 are 4"),
        ("DP3", {}, "aggregated DP3 on nodes of 4 GPUs: 3 ranks leave 1 of 4 idle"),
        ("1P1D DEP4->TP6", {}, "decode TP6 on nodes of 4 GPUs: 6 ranks leave 2 of 8 idle"),
        ("20P1D DEP4->TEP8", {}, "20 x 4 (DEP4) + 1 x 8 (TEP8) = 88 GPUs; gb200-nvl72 has 72 on 18 nodes"),
    ],
)
def test_what_does_not_fill_the_machines(text: str, nodes: dict[str, int], said: str) -> None:
    assert any(said in reason for reason in refused(text, **nodes)), refused(text, **nodes)


@pytest.mark.parametrize(
    ("text", "settings", "said"),
    [
        ("TEP2", [], "tep2 does not fit a rank on gb200-01"),
        ("1P1D DEP4->TP2", [], "decode: tp2 does not fit a rank"),
        ("TEP4", ["block_size=64"], "block_size is 64; it must be 128"),
        ("1P1D DEP4->TEP8", ["moe_backend=marlin"], "decode: moe_backend is marlin with TEP8"),
        ("1P1D DEP4->DEP4", ["moe_backend=marlin"], "prefill: moe_backend is marlin with DEP4"),
        ("TEP4", ["max_model_len=2047"], "max_model_len 2047 is shorter than a request of 2048 tokens"),
    ],
)
def test_what_the_model_cannot_run(text: str, settings: list[str], said: str) -> None:
    found = refused(text, *settings, tokens=2048)
    assert any(said in reason for reason in found), found


def test_a_block_size_that_nobody_gave_is_refused_too() -> None:
    recipe = recipes.find(M3)
    bare = recipe.with_(engine_args={})
    placed = placed_on(parse_topology("TEP4"), RACK)
    assert any("block_size is not set" in reason for reason in role_refusals(models.find(M3), bare, placed, RACK))


def test_what_the_field_runs_is_accepted() -> None:
    assert refused("1P1D DEP4->TEP8", tokens=2048) == []
    assert refused("5P2D DEP4->TEP8", tokens=9216, prefill=5, decode=4) == []
    marlin = recipes.find(M3).with_(roles={})
    marlin = marlin.with_(engine_args={**marlin.engine_args, "moe_backend": "marlin"})
    placed = placed_on(parse_topology("TP4"), RACK)
    assert role_refusals(models.find(M3), marlin, placed, RACK) == []


def test_limits_of_a_rank_are_its_share() -> None:
    recipe = recipes.find(M3)
    dep = rank_limits(parse_topology("1P2D DEP4->DEP4"), recipe, 2048)
    assert dep == {"max_num_seqs": 256, "max_cudagraph_capture_size": 256}
    assert rank_limits(parse_topology("1P1D DEP4->TEP8"), recipe, 100)["max_num_seqs"] == 128
    given = overrides.apply(recipe, ["max_num_seqs=64"])
    assert rank_limits(parse_topology("1P1D DEP4->TEP8"), given, 100) == {"max_cudagraph_capture_size": 64}
    assert rank_limits(parse_topology("TEP8"), recipe, 100) == {}


def test_a_role_has_the_recipe_and_its_own_over_it() -> None:
    recipe = recipes.find(M3)
    decode = parse_topology("1P1D DEP4->TEP8").answering
    own = recipe.for_role(decode)
    assert own.layout == decode.layout
    assert own.engine_args["max_num_batched_tokens"] == 16384
    assert own.engine_args["block_size"] == 128


def test_one_nvlink_domain_is_one_link_however_many_nodes() -> None:
    """A GB200 rack joins its nodes by NVLink: a step over two of them is not a step over InfiniBand."""
    recipe, model = inputs.resolve(M3)
    case = inputs.case_of(model, recipe, parse_topology("TEP8").answering.layout, RACK, Demand())
    assert case.link == case.hardware.within


def test_a_plan_of_one_worker_keeps_the_same_rules() -> None:
    """What a sweep refuses, `plan` and `up` refuse."""
    recipe = overrides.apply(recipes.find(M3), ["block_size=64"])
    with pytest.raises(PlanRefused, match="block_size is 64; it must be 128"):
        make_plan(recipe, RACK, EngineChoice(name="vllm", version="0.32.0"))
    assert make_plan(recipes.find(M3), RACK, EngineChoice(name="vllm", version="0.32.0")).layout.label == "tep4"
    recipe = overrides.apply(recipes.find(M3), ["layout=dp3"])
    with pytest.raises(PlanRefused) as refusal:
        make_plan(recipe, RACK, EngineChoice(name="vllm", version="0.32.0"))
    assert "aggregated DP3 on nodes of 4 GPUs: 3 ranks leave 1 of 4 idle" in refusal.value.reasons


@pytest.mark.parametrize("topology", [[], ["topology=1P1D DEP4->TEP8"]])
def test_a_load_that_is_longer_than_the_context_is_refused_where_its_lengths_are_stated(topology: list[str]) -> None:
    recipe = overrides.apply(recipes.find(M3), ["max_model_len=2000", *topology])
    engine = EngineChoice(name="vllm", version="0.32.0")
    with pytest.raises(PlanRefused) as refusal:
        make_plan(recipe, RACK, engine, Demand(isl=1024, osl=1024))
    assert any("max_model_len 2000 is shorter than a request of 2048 tokens" in each for each in refusal.value.reasons)
    make_plan(recipe, RACK, engine, Demand(concurrency=4))


def machines_of(*gpus: int) -> Inventory:
    """Hosts with so many GPUs each."""
    (host,) = inputs.what_if("h200", 1, max(gpus)).hosts
    hosts = [host.with_(name=f"h{index}", gpus=host.gpus[:held]) for index, held in enumerate(gpus)]
    return inputs.what_if("h200", 1, 1).with_(hosts=hosts)


@pytest.mark.parametrize(
    ("gpus", "layout", "held"),
    [
        ((1, 2), "tp2", {"h0": [0], "h1": [1]}),
        ((2, 1, 2), "tp4", {"h0": [0, 1], "h2": [2, 3]}),
        ((4, 4), "tp6", {"h0": [0, 1, 2], "h1": [3, 4, 5]}),
    ],
)
def test_a_layout_is_placed_as_a_topology_of_one_role(
    gpus: tuple[int, ...], layout: str, held: dict[str, list[int]]
) -> None:
    machines = machines_of(*gpus)
    topology = parse_topology(layout)
    placed = place(topology, machines)
    assert {each.host: each.ranks for each in placed.placements} == held
    assert [each.process for each in placed.placements] == ["api", "worker1"][: len(held)]
    assert [host.name for host in hosts_of(topology.answering.layout, machines)] == list(held)


@pytest.mark.parametrize(
    ("gpus", "layout", "said"),
    [
        ((1, 1), "tp3", "tp3 needs 3 GPUs, one a rank; "),
        ((2, 1), "tp3", "3 ranks, which do not spread evenly over hosts"),
    ],
)
def test_a_layout_that_cannot_be_placed_says_why(gpus: tuple[int, ...], layout: str, said: str) -> None:
    with pytest.raises(PlanRefused) as refusal:
        place(parse_topology(layout), machines_of(*gpus))
    assert said in refusal.value.reasons[0]
