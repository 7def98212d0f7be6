"""A vLLM plugin that breaks a layout on purpose: what `prove` must catch."""

import os


def install():
    """Plant the fault that PLANTED names."""
    {"expert_map": _expert_map_off_by_one, "residual": _lost_residual}[os.environ["PLANTED"]]()


def _expert_map_off_by_one():
    from overspan_vllm import cpu_expert_maps

    right = cpu_expert_maps.localize

    def localize(weights, ids, expert_map):
        return right(weights, ids, expert_map.roll(1))

    cpu_expert_maps.localize = localize


def _lost_residual():
    from overspan_vllm.mend import Mend, arrange

    def lose(module):
        right = module.CPUModelRunner.sync_and_gather_intermediate_tensors

        def sync_and_gather_intermediate_tensors(self, *args, **kwargs):
            received = right(self, *args, **kwargs)
            received["residual"].zero_()
            return received

        module.CPUModelRunner.sync_and_gather_intermediate_tensors = sync_and_gather_intermediate_tensors

    arrange([Mend("a planted fault: a lost residual", ("0.32",), "vllm.v1.worker.cpu_model_runner", lose)])
