"""Where and how precisely to compute."""

from __future__ import annotations

import os
from pathlib import Path

import torch


def check_device(device: str | torch.device) -> torch.device:
    """Resolve and test the ``device`` parameter."""
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        resolved = torch.device(device)
        torch.zeros(1, device=resolved).item()  # "meta" makes tensors, but holds no numbers
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(
            f"device must be 'auto' or a device that torch can use here, got {device!r}: "
            f"{str(error).splitlines()[0]}"
        ) from error
    return resolved


def device_or_cpu(device: str | torch.device) -> torch.device:
    """Resolve the ``device`` parameter; CPU where the machine does not have it."""
    try:
        return check_device(device)
    except ValueError:
        return torch.device("cpu")


def check_precision(precision: str, device: torch.device) -> torch.dtype:
    """Resolve the ``precision`` parameter: bfloat16 where the hardware computes it natively."""
    if precision == "auto":
        precision = "bfloat16" if _native_bfloat16(device) else "float32"
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


def _native_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        # Older torch cannot tell, and then float32 is the safe answer.
        return bool(getattr(torch.cpu, "_is_avx512_bf16_supported", bool)())
    return False


def exact(device: torch.device) -> torch.dtype:
    """Give the widest type of a device: MPS has no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def available_memory(device: torch.device) -> float:
    """Bytes that a process may still take on a device; infinity where the system does not tell."""
    if device.type == "cuda":
        # What torch has freed it keeps for itself, and the driver counts it as used.
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return float(torch.cuda.mem_get_info(device)[0] + kept)
    limits = [float("inf")]
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        limits.append(float(os.sysconf("SC_PHYS_PAGES")) * os.sysconf("SC_PAGE_SIZE"))
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        # What is free or can be freed, unlike SC_AVPHYS_PAGES, which counts the disk cache as used.
        lines = meminfo.read_text().splitlines()
        kib = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
        limits += [float(n) * 1024 for n in kib]
    for name in ("memory.max", "memory/memory.limit_in_bytes"):  # a container's: cgroup v2, v1
        limit = Path("/sys/fs/cgroup", name)
        if limit.exists() and (text := limit.read_text().strip()).isdigit():
            limits.append(float(text))
    return min(limits)


def check_memory(needed: float, device: torch.device, what: str, instead: str) -> None:
    """Raise a MemoryError before the work begins, not in its midst."""
    available = available_memory(device)
    if needed > available:
        raise MemoryError(
            f"{what} needs {needed / 2**30:.1f} GiB of memory on {device}, where"
            f" {available / 2**30:.1f} GiB are available; {instead}."
        )
