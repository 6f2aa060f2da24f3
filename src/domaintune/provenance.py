"""Where a result was made: versions, machine, memory. Imports no torch."""

from __future__ import annotations

import os
import platform
import resource
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("domaintune", "torch", "transformers", "accelerate", "tokenizers", "numpy", "scikit-learn", "safetensors")


def provenance(**more: Any) -> dict[str, Any]:
    """Versions, machine, command and peak memory, with `more` beside them."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "versions": {"python": platform.python_version(), **versions},
        "machine": {
            "system": platform.platform(),
            "processor": processor_name(),
            "cores": os.cpu_count(),
            "gpu": gpu_name(),
        },
        "peak_memory_bytes": peak_memory(),
        **more,
    }


def peak_memory() -> int:
    """Of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def gpu_name() -> str | None:
    """Of the GPU that this process uses, if it uses any."""
    torch = sys.modules.get("torch")
    return torch.cuda.get_device_name() if torch is not None and torch.cuda.is_initialized() else None


def processor_name() -> str:
    """The processor's model name."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
