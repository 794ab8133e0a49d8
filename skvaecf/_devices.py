"""The device of a computation, its precision and its memory."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

# A forked process has none of the threads of torch: parallel work would wait for them without end.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))


@contextmanager
def default_modes() -> Iterator[None]:
    """Suspend the modes of torch that the caller has set, so that results do not depend on them.

    These are ``no_grad``, ``inference_mode``, ``autocast`` and another default device. Tensors are
    created with an explicit dtype everywhere, so the default dtype needs no care.
    """
    with ExitStack() as modes:
        if torch.is_inference_mode_enabled():
            modes.enter_context(torch.inference_mode(False))
        if not torch.is_grad_enabled():
            modes.enter_context(torch.enable_grad())
        for device_type in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device_type):
                modes.enter_context(torch.autocast(device_type, enabled=False))
        if torch.empty(0).device.type != "cpu":
            modes.enter_context(torch.device("cpu"))
        yield


def check_device(device: str | torch.device) -> torch.device:
    """Return the device that the ``device`` parameter names, or raise a ValueError."""
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        resolved = torch.device(device)
        torch.zeros(1, device=resolved).item()  # fails on "meta", whose tensors have no values
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(
            f"device must be 'auto' or a device that torch can use on this machine, got {device!r}:"
            f" {str(error).splitlines()[0]}"
        ) from error
    return resolved


def device_or_cpu(device: str | torch.device) -> torch.device:
    """Return the device that the ``device`` parameter names, or the CPU if it is unavailable."""
    try:
        return check_device(device)
    except ValueError:
        return torch.device("cpu")


def as_tensor(array: np.ndarray, device: torch.device) -> Tensor:
    """Return an array as a tensor, which must not be changed: on the CPU it shares the memory."""
    _silence_read_only_warning()
    return torch.as_tensor(array, device=device)


@cache
def _silence_read_only_warning() -> None:
    """Suppress the warning about read-only arrays (memory maps), which torch gives once."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.as_tensor(np.broadcast_to(np.float32(0), 1))


def check_precision(precision: str, device: torch.device) -> torch.dtype:
    """Return the dtype of ``precision``; "auto" is bfloat16 if the hardware has it natively."""
    native = precision == "auto" and _native_bfloat16(device)
    return torch.bfloat16 if native or precision == "bfloat16" else torch.float32


def _native_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        # Older versions of torch do not report it. Then float32 is used; bool() is False. oneDNN,
        # which computes the products, may be limited to other instructions by ONEDNN_MAX_CPU_ISA.
        of_cpu = getattr(torch.cpu, "_is_avx512_bf16_supported", bool)
        of_products = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", bool)
        return bool(of_cpu()) and bool(of_products())
    return False


def widest_float_dtype(device: torch.device) -> torch.dtype:
    """Return float64, or float32 on MPS, which has no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def available_memory(device: torch.device) -> float:
    """Return the number of bytes that a process can still allocate; infinity if it is unknown."""
    if device.type == "cuda":
        # torch keeps the memory that was freed. The driver counts it as used.
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return float(torch.cuda.mem_get_info(device)[0] + kept)
    limits = [float("inf")]
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        limits.append(float(os.sysconf("SC_PHYS_PAGES")) * os.sysconf("SC_PAGE_SIZE"))
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        # This includes the disk cache, which can be freed. SC_AVPHYS_PAGES counts it as used.
        lines = meminfo.read_text().splitlines()
        kib = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
        limits += [float(n) * 1024 for n in kib]
    # The limits of a container: cgroup v2, cgroup v1.
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        limit = Path("/sys/fs/cgroup", name)
        if limit.exists() and (text := limit.read_text().strip()).isdigit():
            limits.append(float(text))
    return min(limits)


def check_memory(needed: float, device: torch.device, what: str, instead: str) -> None:
    """Raise a MemoryError if ``what`` needs more bytes than are available; advise ``instead``."""
    available = available_memory(device)
    if needed > available:
        raise MemoryError(
            f"{what} needs {needed / 2**30:.1f} GiB of memory on {device}, but only"
            f" {available / 2**30:.1f} GiB are available; {instead}."
        )
