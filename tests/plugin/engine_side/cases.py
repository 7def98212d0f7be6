"""Run by the engine's Python: one case a fault, each in a fork of one process, since some of them crash.

Prints one JSON document: case -> {"value": ...} | {"error": "Type: text"} | {"signal": number}.
"""

import json
import logging
import mmap
import multiprocessing as mp
import os
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.distributed as dist

CASES = {}


def case(function):
    CASES[function.__name__] = function
    return function


@case
def sigmoid_routing():
    """Experts and weights of one token, as the router and as the formula give them."""
    from vllm.model_executor.layers.fused_moe.router.cpu_router import CPURouter

    torch.manual_seed(0)
    logits, bias = torch.randn(64, 8), torch.randn(8)
    router = CPURouter(
        top_k=3, global_num_experts=8, scoring_func="sigmoid", renormalize=True, e_score_correction_bias=bias
    )
    weights, ids = router._compute_routing(torch.zeros(64, 4), logits, None)
    scores = logits.sigmoid()
    best = (scores + bias).topk(3).indices
    wanted = torch.zeros(64, 8).scatter(1, best, scores.gather(1, best))
    wanted /= wanted.sum(-1, keepdim=True)
    got = torch.zeros(64, 8).scatter(1, ids.long(), weights)
    return (got - wanted).abs().max().item()


@case
def softmax_routing_is_left_alone():
    from vllm.model_executor.layers.fused_moe.router.cpu_router import CPURouter

    router = CPURouter(top_k=3, global_num_experts=8)
    return [router.use_grouped_topk, router.num_expert_group]


def _experts(hidden, w1, w2, weights, ids, expert_map, on_input=False):
    from vllm._custom_ops import cpu_prepack_moe_weight
    from vllm.model_executor.layers.fused_moe.activation import MoEActivation
    from vllm.model_executor.layers.fused_moe.experts.cpu_moe import CPUUnquantizedExperts

    experts = CPUUnquantizedExperts.__new__(CPUUnquantizedExperts)
    experts._use_zentorch = False
    experts.quant_config = SimpleNamespace(w1_bias=None, w2_bias=None)
    output = torch.empty_like(hidden)
    experts.apply(
        output=output,
        hidden_states=hidden,
        w1=cpu_prepack_moe_weight(w1, "vec"),
        w2=cpu_prepack_moe_weight(w2, "vec"),
        topk_weights=weights,
        topk_ids=ids,
        activation=MoEActivation.SILU,
        global_num_experts=8,
        expert_map=expert_map,
        a1q_scale=None,
        a2_scale=None,
        workspace13=None,
        workspace2=None,
        expert_tokens_meta=None,
        apply_router_weight_on_input=on_input,
    )
    return output


def _split_over_two(k, on_input):
    """The largest difference between one rank with eight experts, and the sum of two ranks with four."""
    torch.manual_seed(0)
    hidden, w1, w2 = torch.randn(16, 32), torch.randn(8, 128, 32) / 6, torch.randn(8, 32, 64) / 8
    weights, ids = torch.rand(16, 8).topk(k)
    ids = ids.to(torch.int32)
    whole = _experts(hidden, w1, w2, weights, ids, None, on_input)
    low = torch.tensor([0, 1, 2, 3, -1, -1, -1, -1], dtype=torch.int32)
    high = low.roll(4)
    parts = [
        _experts(hidden, w1[part], w2[part], weights.clone(), ids.clone(), expert_map, on_input)
        for part, expert_map in ((slice(0, 4), low), (slice(4, 8), high))
    ]
    return (parts[0] + parts[1] - whole).abs().max().item() / whole.abs().max().item()


@case
def expert_maps():
    return _split_over_two(3, on_input=False)


@case
def expert_maps_with_weights_on_the_input():
    return _split_over_two(1, on_input=True)


@case
def rotary_heads():
    """The largest differences, of queries in four heads and of a key, to what plain torch makes of them."""
    from vllm.config import VllmConfig, set_current_vllm_config
    from vllm.model_executor.layers.rotary_embedding import get_rope

    torch.manual_seed(0)
    plain = {"rope_theta": 1e4, "rope_type": "default"}
    with set_current_vllm_config(VllmConfig()):
        rotary = get_rope(64, 4096, is_neox_style=False, rope_parameters=plain, dtype=torch.float32)
    positions, queries, keys = torch.arange(5), torch.randn(5, 4, 192), torch.randn(5, 576)[:, 512:].unsqueeze(1)
    right = rotary.forward_native(positions, queries[..., 128:].clone(), keys.clone())
    got = rotary.forward_cpu(positions, queries[..., 128:], keys)
    flat = rotary.forward_cpu(positions, right[0].reshape(5, 256).clone(), right[1].reshape(5, 64).clone())
    twice = rotary.forward_native(positions, right[0].reshape(5, 256), right[1].reshape(5, 64))
    return [(one - other).abs().max().item() for one, other in zip((*got, *flat), (*right, *twice), strict=True)]


@case
def pipeline_buffers():
    """What a stage receives, through a runner that has never been profiled."""
    from vllm.sequence import IntermediateTensors
    from vllm.v1.worker.cpu_model_runner import CPUModelRunner

    def empty(batch_size, dtype, device):
        return IntermediateTensors({"hidden_states": torch.zeros(batch_size, 4, dtype=dtype, device=device)})

    runner = CPUModelRunner.__new__(CPUModelRunner)
    runner.intermediate_tensors = None
    runner.model = SimpleNamespace(make_empty_intermediate_tensors=empty)
    runner.max_num_tokens = 8
    runner.model_config = SimpleNamespace(dtype=torch.float32)
    runner.device = torch.device("cpu")
    sent = IntermediateTensors({"hidden_states": torch.ones(3, 4)})
    got = runner.sync_and_gather_intermediate_tensors(3, sent, True)
    return got["hidden_states"].tolist()


def _two_ranks(function):
    """Run it on two ranks of a gloo group; gives what rank 0 returned."""
    with tempfile.TemporaryDirectory() as folder:
        context = mp.get_context("fork")
        answers = context.SimpleQueue()
        children = [context.Process(target=_rank, args=(rank, function, folder, answers)) for rank in (0, 1)]
        for child in children:
            child.start()
        for child in children:
            child.join(60)
            if child.exitcode != 0:
                raise RuntimeError(answers.get() if not answers.empty() else f"a rank ended with {child.exitcode}")
    return answers.get()


def _rank(rank, function, folder, answers):
    try:
        dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
        answer = function(rank)
        dist.barrier()
        if rank == 0:
            answers.put(answer)
    except BaseException as error:
        answers.put(f"{type(error).__name__}: {error}")
        os._exit(1)


def _communicator(rank):
    from vllm.distributed.device_communicators.cpu_communicator import CpuCommunicator

    communicator = CpuCommunicator.__new__(CpuCommunicator)
    communicator.dist_module = dist
    communicator.device_group = dist.group.WORLD
    communicator.world_size = 2
    communicator.rank_in_group = rank
    communicator.ranks = [0, 1]
    communicator.unique_name = "tp:0"
    return communicator


def _collectives(rank):
    communicator, sizes = _communicator(rank), [1, 3]
    mine = torch.full((sizes[rank], 2), float(rank + 1))
    gathered = communicator.all_gatherv([mine], dim=0, sizes=sizes)[0]
    whole = torch.arange(8.0).reshape(4, 2) * (rank + 1)
    before = whole.clone()
    mine = communicator.reduce_scatterv(whole, dim=0, sizes=sizes)
    others = [torch.zeros(3, 2) for _ in range(2)]
    dist.all_gather(others, torch.nn.functional.pad(mine, (0, 0, 0, 3 - len(mine)), value=-1))
    return [gathered.tolist(), others[0].tolist(), others[1].tolist(), bool((whole == before).all())]


@case
def variable_collectives():
    return _two_ranks(_collectives)


def _names_of_two_hosts(rank):
    os.environ["VLLM_DIST_IDENT"] = "29500"
    return _communicator(rank)._all_group_ranks_share_shm_group_name()


def _names_with_own_shm(rank):
    if rank == 1:
        _own_shared_memory()
    return _names_of_two_hosts(rank)


def _own_shared_memory():
    _own_mount(b"tmpfs", b"/dev/shm", b"size=16m")


def _own_mount(kind, place, data=None):
    """Give this process a file system of its own."""
    new_mounts, private_recursive = 0x00020000, 0x40000 | 0x4000  # linux/sched.h, linux/mount.h
    _checked("unshare", new_mounts)
    _checked("mount", b"none", b"/", None, private_recursive, None)
    _checked("mount", kind, place, kind, 0, data)


def _checked(call, *arguments):
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, call)(*arguments) != 0:
        raise OSError(ctypes.get_errno(), f"{call} of {arguments}")


@case
def names_on_one_host():
    return _two_ranks(_names_of_two_hosts)


@case
def names_on_two_hosts():
    return _two_ranks(_names_with_own_shm)


def _made_communicator():
    """One of DP, whose collectives vLLM never takes from shared memory."""
    from vllm.distributed.device_communicators.cpu_communicator import CpuCommunicator

    return CpuCommunicator(dist.group.WORLD, torch.device("cpu"), dist.group.WORLD, unique_name="dp:0")


def _by_memory(rank):
    """Where ranks talk, whether all is as gloo has it, and what is left in /dev/shm."""
    communicator, checks = _made_communicator(), []
    by, world = communicator.dist_module, dist.group.WORLD
    torch.manual_seed(rank)
    tensors = [
        torch.randn(7, 3),
        torch.randn(5).to(torch.bfloat16),
        torch.arange(9, dtype=torch.int32) * (rank + 1),
        torch.randn(1500, 1024),  # more than a rank says at once
        torch.randn(6, 4).t(),
        torch.zeros(0, 4),
    ]
    for tensor in tensors:
        mine, other = tensor.clone(memory_format=torch.preserve_format), tensor.clone()
        by.all_reduce(mine, group=world)
        dist.all_reduce(other, group=world)
        checks.append(bool(torch.equal(mine, other)))
        gathered = communicator.all_gather(tensor, 0)
        parts = [torch.empty(tensor.shape, dtype=tensor.dtype) for _ in range(2)]
        dist.all_gather(parts, tensor.contiguous())
        checks.append(bool(torch.equal(gathered, torch.cat(parts))))
        told = communicator.gather(tensor.contiguous(), 1, 0)
        checks.append(bool(torch.equal(told, torch.cat(parts))) if rank == 1 else told is None)
        sizes = [len(part) for part in parts]
        checks.append(bool(torch.equal(communicator.all_gatherv(tensor.contiguous(), 0, sizes), torch.cat(parts))))
    for number in range(2000):  # one rank is always ahead of the other
        word = torch.full((3,), float(number + rank))
        by.all_reduce(word)
        checks.append(word.tolist() == [2.0 * number + 1] * 3)
    found = [None, None]
    dist.all_gather_object(found, all(checks))
    return [type(by).__name__, found, [each.name for each in Path("/dev/shm").glob("overspan-*")]]


@case
def collectives_by_memory():
    return _two_ranks(_by_memory)


def _without_room(rank):
    def full(*_):
        raise OSError(28, "No space left on device")

    os.posix_fallocate = full
    return _by_memory(rank)


@case
def collectives_without_room_in_memory():
    return _two_ranks(_without_room)


def _without_shared_memory(rank):
    if rank == 1:
        _own_shared_memory()
    return _by_memory(rank)


@case
def collectives_of_two_hosts():
    return _two_ranks(_without_shared_memory)


def _slow_rank(memory):
    """Rank 1: speaks, is late, speaks, and ends."""
    from overspan_vllm.cpu_shared_memory_collectives import SharedMemory

    by = SharedMemory(memory, 1, 2)
    by.all_reduce(torch.ones(2))
    time.sleep(1.3)
    by.all_reduce(torch.ones(2))
    os._exit(0)


def _beside(rank_1, words):
    """What rank 0 finds beside a rank that says two words, the second of them late, and ends."""
    from overspan_vllm.cpu_shared_memory_collectives import SharedMemory

    signal.alarm(60)
    memory = mmap.mmap(-1, SharedMemory.size(2))
    child = os.fork()
    if child == 0:
        rank_1(memory)
    by, found = SharedMemory(memory, 0, 2), []
    try:
        for _ in range(words):
            word = torch.ones(2)
            by.all_reduce(word)
            found.append(word.tolist())
    except RuntimeError as error:
        found.append(str(error).replace(f"pid {child}", "pid of the child"))
    return found


@case
def a_rank_that_ended():
    return _beside(_slow_rank, 3)


def _elsewhere(memory):
    """Rank 1 in a namespace of ids of its own, where it is number 1: so is another process here."""
    _checked("unshare", 0x20000000)  # CLONE_NEWPID, linux/sched.h
    if os.fork() == 0:
        _own_mount(b"proc", b"/proc")
        _slow_rank(memory)
    os.wait()
    os._exit(0)


@case
def a_rank_with_ids_of_its_own():
    return _beside(_elsewhere, 2)


def _padding(rank):
    """The tokens of each DP rank, as every rank learns them for a step."""
    from vllm.v1.worker import dp_utils

    group = SimpleNamespace(
        cpu_group=dist.group.WORLD, device="cpu", device_group=None, device_communicator=_made_communicator()
    )
    by, calls = group.device_communicator.dist_module, []
    group.device_communicator.dist_module = SimpleNamespace(
        all_reduce=lambda tensor, group: calls.append(by.all_reduce(tensor, group=group))
    )
    dp_utils.get_dp_group = lambda: group
    parallel = SimpleNamespace(data_parallel_size=2, data_parallel_rank=rank, disable_nccl_for_dp_synchronization=True)
    found = dp_utils._run_ar(False, 3 + rank, 5 + rank, rank, parallel)
    return [found.tolist(), len(calls)]


@case
def padding_of_dp():
    return _two_ranks(_padding)


LOOKS = 10


def _read(handle, told):
    from vllm.distributed.device_communicators.shm_broadcast import MessageQueue

    queue = MessageQueue.create_from_handle(handle, 0)
    queue.wait_until_ready()
    queue.dequeue()
    condition, looks = queue._spin_condition, []
    look = condition.wait

    def timed(*args, **kwargs):
        began = time.monotonic()
        look(*args, **kwargs)
        looks.append(time.monotonic() - began)
        if len(looks) == LOOKS:
            told.put("waits")

    condition.wait = timed
    before, busy = time.monotonic(), time.process_time()
    queue.dequeue()  # comes when there were so many looks for it
    waited_s, busy_s = time.monotonic() - before, time.process_time() - busy
    condition.wait = look
    try:
        queue.dequeue(timeout=0.05)
        late = "a message out of nowhere"
    except TimeoutError:
        late = "timed out"
    told.put("go on")
    numbers = [queue.dequeue() for _ in range(3000)]
    told.put([[sorted(looks[:LOOKS]), busy_s, waited_s], late, numbers == list(range(3000))])
    threading.Timer(0.2, queue.shutdown).start()
    try:
        queue.dequeue(indefinite=True)
    except RuntimeError as error:
        told.put(str(error))
    os._exit(0)


@case
def waits_of_a_queue():
    """How long each of a waiting reader's first looks takes, how long it computes, and waits, seconds; what else it
    finds."""
    from vllm.distributed.device_communicators.shm_broadcast import MessageQueue

    context = mp.get_context("fork")
    queue, told = MessageQueue(1, 1), context.SimpleQueue()
    reader = context.Process(target=_read, args=(queue.export_handle(), told))
    reader.start()
    queue.wait_until_ready()
    queue.enqueue("first")
    assert told.get() == "waits"
    queue.enqueue("second")
    told.get()
    for number in range(3000):
        queue.enqueue(number)
        if number % 300 == 0:
            time.sleep(0.002)
    return [*told.get(), told.get()]


@case
def one_token_of_a_cache_in_files():
    """What the connector finds of prompts of one and of 33 tokens that it has all seen before."""
    from vllm.distributed.kv_transfer.kv_connector.v1.example_connector import ExampleConnector

    connector = ExampleConnector.__new__(ExampleConnector)
    connector._block_size = 16
    connector._found_match_for_request = lambda request: True
    requests = [SimpleNamespace(prompt_token_ids=list(range(size))) for size in (1, 33)]
    return [connector.get_num_new_matched_tokens(request, 0)[0] for request in requests]


@case
def ray_device_key():
    from vllm.platforms import current_platform

    return current_platform.ray_device_key


LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "vocab_size": 32,
    "max_position_embeddings": 64,
}


def _engine_config(model, **arguments):
    """What the engine makes of a model's config.json and of arguments."""
    from vllm.engine.arg_utils import EngineArgs

    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(json.dumps(model))
        fixed = {"skip_tokenizer_init": True, "load_format": "dummy", "enforce_eager": True}
        return EngineArgs(model=folder, **fixed, **arguments).create_engine_config()


@case
def start_method():
    """How workers start, after the platform has seen the configuration of a tiny model."""
    _engine_config(LLAMA)
    return os.environ["VLLM_WORKER_MULTIPROC_METHOD"]


@case
def latent_attention():
    """Chunked prefill, tokens of a step and prefix caching of a model with MLA, on a CPU without AMX."""
    torch.cpu._is_amx_tile_supported = lambda: False
    model = {**LLAMA, "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", "num_hidden_layers": 4}
    model["max_position_embeddings"] = 256
    found = _engine_config(model, dtype="float32", max_num_batched_tokens=128, enable_prefix_caching=True)
    scheduler = found.scheduler_config
    return [
        scheduler.enable_chunked_prefill,
        scheduler.max_num_batched_tokens,
        found.cache_config.enable_prefix_caching,
    ]


def _count():
    from prometheus_client import Counter

    Counter("overspan_test_total", "Counted in another process").inc()


@case
def start_method_of_servers():
    """How API servers start, and whether all processes find what one of them counts."""
    from vllm.v1 import utils

    context = utils.multiprocessing.get_context("spawn")
    if context.get_start_method() != "fork":
        return [context.get_start_method()]
    from prometheus_client import CollectorRegistry, multiprocess

    with tempfile.TemporaryDirectory() as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder  # as vLLM does before it starts several
        server = utils.multiprocessing.get_context("spawn").Process(target=_count)
        server.start()
        server.join()
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)
        return [context.get_start_method(), registry.get_sample_value("overspan_test_total")]


def _sleep(told):
    told.put(os.getpid())
    time.sleep(300)


def _parent(method, told):
    context = mp.get_context(method)
    context.Process(target=_sleep, args=(told,)).start()
    time.sleep(300)


@case
def orphan_of_a_fork():
    """Whether a forked child outlives its parent's kill -9 by two seconds."""
    context = mp.get_context("fork")
    told = context.SimpleQueue()
    parent = context.Process(target=_parent, args=("fork", told))
    parent.start()
    child = told.get()
    os.kill(parent.pid, signal.SIGKILL)
    parent.join()
    lives = _lives(child, 2.0)
    if lives:
        os.kill(child, signal.SIGKILL)
    return lives


def _lives(pid, seconds):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except FileNotFoundError:
            return False
        if state == "Z":
            return False
        time.sleep(0.05)
    return True


def _answer(function, write):
    os.dup2(2, 1)
    try:
        answer = {"value": function()}
    except BaseException as error:
        answer = {"error": f"{type(error).__name__}: {error}"}
    os.write(write, json.dumps(answer).encode())
    os._exit(0)


def main():
    from vllm.plugins import load_general_plugins

    logging.basicConfig(level=logging.INFO)
    torch.set_num_threads(1)
    load_general_plugins()
    # Imported once, before the forks.
    import vllm.model_executor.layers.fused_moe.experts.cpu_moe
    import vllm.model_executor.layers.fused_moe.router.cpu_router
    import vllm.v1.worker.cpu_model_runner  # noqa: F401

    answers = {}
    for name, function in CASES.items():
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            _answer(function, write)
        os.close(write)
        with os.fdopen(read) as pipe:
            text = pipe.read()
        _, status = os.waitpid(pid, 0)
        answers[name] = json.loads(text) if text else {"signal": os.WTERMSIG(status)}
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main()
