"""What the scripts of this folder run on, and the precisions that this machine has."""

from __future__ import annotations

import os
import platform
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from skvaecf._devices import check_precision

INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
LIBRARIES = ("torch", "numpy", "scipy", "scikit-learn")
# Variables that limit the instructions or the threads.
VARIABLES = ("ATEN_CPU_CAPABILITY", "MKL_ENABLE_INSTRUCTIONS", "ONEDNN_MAX_CPU_ISA")


def precisions(device: str = "cpu") -> tuple[str, ...]:
    """Return the precisions that a device computes natively, the fastest last.

    A CPU without instructions for bfloat16 emulates it, which takes 30 times as long as float32.
    """
    native = check_precision("auto", torch.device(device)) == torch.bfloat16
    return ("float32", "bfloat16") if native else ("float32",)


def machine(device: str = "cpu") -> dict[str, Any]:
    """Return facts about the machine, by name."""
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text() if cpuinfo.exists() else ""
    named = re.search(r"model name\s*: (.+)", text)
    facts = {
        "cpu": named[1].strip() if named else platform.processor() or platform.machine(),
        "processors": os.cpu_count(),
        "instructions": [name for name in INSTRUCTIONS if re.search(rf"\b{name}\b", text)],
        "used by torch": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "precisions": precisions(device),
        "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
        "system": platform.platform(),
        "python": platform.python_version(),
    }
    if torch.device(device).type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts |= {
            "gpu": properties.name,
            "gpu memory, GiB": properties.total_memory / 2**30,
            "compute capability": torch.cuda.get_device_capability(device),
            "cuda": torch.version.cuda,
        }
    for library in LIBRARIES:
        try:
            facts[library] = version(library)
        except PackageNotFoundError:
            facts[library] = None
    return facts


def print_machine(device: str = "cpu") -> None:
    """Print the facts in a few lines."""
    facts = machine(device)
    variables = "".join(f", {name}={value}" for name, value in facts["variables"].items())
    print(f"{facts['cpu']}, {facts['processors']} processors, {' '.join(facts['instructions'])}")
    print(f"{facts['threads']} threads of torch, which uses {facts['used by torch']}{variables}")
    if "gpu" in facts:
        print(f"{facts['gpu']}, {facts['gpu memory, GiB']:.0f} GiB, CUDA {facts['cuda']}")
    versions = ", ".join(f"{library} {facts[library]}" for library in LIBRARIES)
    native = " and ".join(facts["precisions"])
    print(f"Python {facts['python']}, {versions}; native: {native}", flush=True)
