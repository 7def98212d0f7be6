"""NVIDIA's library, scripted."""

from __future__ import annotations

from types import ModuleType, SimpleNamespace


class Nvml(ModuleType):
    """NVIDIA's library as it answers on a GB10 (no memory of its own) or an H100."""

    class NVMLError(Exception):
        pass

    class NVMLError_NotSupported(NVMLError):  # noqa: N801 - the library's name
        pass

    def __init__(self, name: str, memory_bytes: int | None, capability: tuple[int, int]) -> None:
        super().__init__("pynvml")
        self.closed = False
        self.nvmlInit = lambda: None
        self.nvmlShutdown = lambda: setattr(self, "closed", True)
        self.nvmlDeviceGetCount = lambda: 1
        self.nvmlDeviceGetHandleByIndex = lambda index: index
        self.nvmlDeviceGetName = lambda handle: name
        self.nvmlDeviceGetCudaComputeCapability = lambda handle: capability
        self.nvmlSystemGetDriverVersion = lambda: "580.159.04"
        self.memory_bytes = memory_bytes
        self.nvmlDeviceGetPciInfo = lambda handle: SimpleNamespace(pciDeviceId=0x00FF10DE)

    def nvmlDeviceGetMigMode(self, handle: int) -> tuple[int, int]:  # noqa: N802 - the library's name
        raise self.NVMLError_NotSupported

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> SimpleNamespace:  # noqa: N802 - the library's name
        if self.memory_bytes is None:
            raise self.NVMLError_NotSupported
        return SimpleNamespace(total=self.memory_bytes)
