"""Where and how precisely to compute."""

from __future__ import annotations

import torch


def check_device(device: str | torch.device) -> torch.device:
    """Resolve and test the ``device`` parameter."""
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        resolved = torch.device(device)
        torch.empty(0, device=resolved)
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
