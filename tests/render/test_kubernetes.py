"""`overspan plan --render k8s`: objects that the published schemas take, with no secret inside."""

import json
import os
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from click.testing import CliRunner

from overspan.cli.plan import plan
from overspan.render.kubernetes import Pod, as_yaml, manifests
from overspan.runs.planning import Wanted, plan_of
from overspan.schema.errors import InputError, PlanRefused
from overspan.schema.process import ProcessSpec

HERE = Path(__file__).parent
DYNAMO = "nvcr.io/nvidia/ai-dynamo/vllm-runtime:1.3.1"
GOLDEN = {
    "leaderworkerset-minimax-two-sparks": ("minimax-m2.5-nvfp4", "two-sparks", ()),
    "dynamographdeployment-m3-gb200": (
        "minimax-m3-mxfp8",
        "gb200-nvl72",
        ("engine=dynamo", f"image={DYNAMO}", "topology=1P2D DEP4->TEP8"),
    ),
}


def rendered(recipe: str, inventory: str, *settings: str) -> list[dict[str, Any]]:
    return manifests(plan_of(Wanted(recipe, inventory, settings), to_start=False))


def check(found: dict[str, Any]) -> None:
    """Against the published schema of its kind: strictly, an unknown field is refused too."""
    core = yaml.safe_load((HERE / "schemas" / "core-v1.yaml").read_text())
    if found["kind"] == "Service":
        schema: dict[str, Any] = {"$ref": "#/$defs/Service"}
    else:
        published = yaml.safe_load((HERE / "schemas" / f"{found['kind'].lower()}.yaml").read_text())
        assert found["apiVersion"] == f"{published['group']}/{published['version']}"
        schema = strict(published["openAPIV3Schema"])
    jsonschema.Draft202012Validator({**schema, "$defs": core["$defs"]}).validate(found)


def strict(schema: Any) -> Any:
    """A schema of a cluster's own: what the API server would prune is an error here."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: strict(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and "type" in schema:
        closed.setdefault("additionalProperties", False)
    return closed


@pytest.mark.parametrize("name", GOLDEN)
def test_whole_objects(name: str) -> None:
    recipe, inventory, settings = GOLDEN[name]
    made = plan_of(Wanted(recipe, inventory, settings), to_start=False)
    golden = HERE / "golden" / f"{name}.yaml"
    if os.environ.get("OVERSPAN_ACCEPT"):  # how a change is accepted
        golden.write_text(as_yaml(made))
    assert as_yaml(made) == golden.read_text()
    for each in yaml.safe_load_all(golden.read_text()):
        check(each)


@pytest.mark.parametrize(
    ("recipe", "inventory", "settings"),
    [
        ("minimax-m2.5-nvfp4", "two-sparks", ["engine=vllm-ray"]),
        ("minimax-m2.5-nvfp4", "two-sparks", ["api_key=true", "layout=pp2"]),
        ("minimax-m2.5-fp8", "h200-x8", ["image=vllm/vllm-openai:v0.32.0"]),
        ("smollm2-135m", "laptop", ["image=vllm/vllm-openai:v0.32.0"]),
        ("minimax-m3-mxfp8", "gb200-nvl72", ["engine=dynamo", f"image={DYNAMO}", "topology=3P2D DEP4->TEP8"]),
        ("minimax-m3-mxfp8", "gb200-nvl72", ["engine=dynamo", f"image={DYNAMO}", "topology=1P2D DEP4->DEP4"]),
    ],
)
def test_what_ships_is_what_the_schemas_take(recipe: str, inventory: str, settings: list[str]) -> None:
    for each in rendered(recipe, inventory, *settings):
        check(each)


def test_the_schemas_refuse_what_is_wrong() -> None:
    found = rendered("minimax-m2.5-nvfp4", "two-sparks")[0]
    pod = found["spec"]["leaderWorkerTemplate"]["leaderTemplate"]["spec"]
    for place, key, value in [
        (pod["containers"][0], "imagee", "x"),
        (pod["containers"][0], "args", [1]),
        (pod["containers"][0]["startupProbe"], "periodSeconds", "10"),
        (found["spec"], "replica", 2),
        (found["spec"]["leaderWorkerTemplate"], "restartPolicy", "Never"),
    ]:
        kept = place.get(key)
        place[key] = value
        with pytest.raises(jsonschema.ValidationError):
            check(found)
        if kept is None:
            del place[key]
        else:
            place[key] = kept
    check(found)


def container(template: dict[str, Any]) -> dict[str, Any]:
    found = template["spec"]["containers"][0]
    assert isinstance(found, dict)
    return found


def test_every_node_knows_its_rank_and_the_leader() -> None:
    group, service = rendered("minimax-m2.5-nvfp4", "two-sparks", "layout=tp2")
    templates = group["spec"]["leaderWorkerTemplate"]
    assert templates["size"] == 2
    leader, worker = container(templates["leaderTemplate"]), container(templates["workerTemplate"])
    assert leader["args"][leader["args"].index("--node-rank") + 1] == "0"
    assert worker["args"][worker["args"].index("--node-rank") + 1] == "$(LWS_WORKER_INDEX)"
    assert worker["args"][worker["args"].index("--master-addr") + 1] == "$(LWS_LEADER_ADDRESS)"
    assert "--headless" in worker["args"]
    for each in (leader, worker):
        assert each["env"][0]["name"] == "POD_IP"
        assert {"name": "VLLM_HOST_IP", "value": "$(POD_IP)"} in each["env"]
        assert not [one["name"] for one in each["env"] if one["name"].endswith("SOCKET_IFNAME")]
        assert each["resources"]["limits"] == {"nvidia.com/gpu": "1"}
    labels = templates["leaderTemplate"]["metadata"]["labels"]
    assert labels.items() <= service["spec"]["selector"].items()
    assert service["spec"]["ports"][0]["port"] == leader["ports"][0]["containerPort"]


def test_a_role_is_one_component_and_its_nodes_are_the_operators() -> None:
    (graph,) = rendered(*GOLDEN["dynamographdeployment-m3-gb200"][:2], *GOLDEN["dynamographdeployment-m3-gb200"][2])
    front, prefill, decode = graph["spec"]["components"]
    assert [each["type"] for each in (front, prefill, decode)] == ["frontend", "prefill", "decode"]
    assert (prefill["replicas"], prefill.get("multinode")) == (1, None)
    assert (decode["replicas"], decode["multinode"]) == (2, {"nodeCount": 2})
    args = container(decode["podTemplate"])["args"]
    assert args[args.index("--tensor-parallel-size") + 1] == "8"
    assert '"kv_load_failure_policy":"fail"' in args[args.index("--kv-transfer-config") + 1]
    assert not {"--nnodes", "--node-rank", "--headless"} & set(args)


def test_secrets_are_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_not_for_print")
    monkeypatch.setenv("OVERSPAN_API_KEY", "key_not_for_print")
    made = plan_of(Wanted("minimax-m2.5-nvfp4", "two-sparks", ("api_key=true",)), to_start=False)
    assert "not_for_print" not in as_yaml(made)
    each = container(manifests(made)[0]["spec"]["leaderWorkerTemplate"]["leaderTemplate"])
    env = {one["name"]: one for one in each["env"]}
    assert env["HF_TOKEN"]["valueFrom"]["secretKeyRef"] == {
        "name": "hf-token-secret", "key": "HF_TOKEN", "optional": True,
    }  # fmt: skip
    assert env["VLLM_API_KEY"]["valueFrom"]["secretKeyRef"]["key"] == "VLLM_API_KEY"


def test_a_recipes_secrets_are_names_too() -> None:
    made = plan_of(Wanted("minimax-m2.5-nvfp4", "two-sparks"), to_start=False)
    made = made.with_(recipe=made.recipe.with_(secrets=["WANDB_API_KEY", "HF_TOKEN"]))
    each = container(manifests(made)[0]["spec"]["leaderWorkerTemplate"]["leaderTemplate"])
    keys = [
        one["valueFrom"]["secretKeyRef"]["key"] for one in each["env"] if "secretKeyRef" in one.get("valueFrom", {})
    ]
    assert keys == ["VLLM_API_KEY", "WANDB_API_KEY", "HF_TOKEN"]


def test_a_reference_that_is_not_ours_is_text() -> None:
    """Kubernetes would put a secret's value in its place, for all to read. (In a patch, for example.)"""
    made = plan_of(Wanted("smollm2-135m", "laptop"), to_start=False)
    spec = ProcessSpec(
        name="api", host="a", image="i:1", entrypoint="p", argv=["$(HF_TOKEN)", "{address:a}"], env={"X": "$(HF_TOKEN)"}
    )
    each = container(Pod(made, spec, None, "a").template("main", operated=False))
    assert each["args"] == ["$$(HF_TOKEN)", "$(POD_IP)"]
    assert {"name": "X", "value": "$$(HF_TOKEN)"} in each["env"]
    with pytest.raises(InputError, match="no leader of its pods"):
        Pod(made, spec.with_(argv=["{address:c}"]), None, "a").template("main", operated=False)


def test_the_command_prints_them_and_nothing_else() -> None:
    asked = ["minimax-m2.5-nvfp4", "--on", "two-sparks", "--render", "k8s"]
    printed = CliRunner().invoke(plan, asked).stdout
    assert list(yaml.safe_load_all(printed)) == json.loads(CliRunner().invoke(plan, [*asked, "--json"]).stdout)


def test_what_pods_cannot_run_is_refused() -> None:
    with pytest.raises(InputError, match="names no image"):
        rendered("smollm2-135m", "laptop")
    with pytest.raises(PlanRefused, match="separate prefill and decode"):
        rendered("minimax-m3-mxfp8", "gb200-nvl72", "topology=1P1D DEP4->TEP8")
