"""Devices, their precision and their memory."""

from __future__ import annotations

import pytest
import torch
from conftest import naming

from skvaecf._devices import (
    available_memory,
    check_device,
    check_memory,
    check_precision,
    device_or_cpu,
    widest_float_dtype,
)

CPU = torch.device("cpu")


@pytest.mark.parametrize("cuda", [True, False])
@pytest.mark.parametrize("mps", [True, False])
def test_automatic_device(cuda, mps, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert check_device("auto").type == ("cuda" if cuda else "mps" if mps else "cpu")


def test_devices_that_are_not_available():
    for device in ("cpu", "cpu:0", CPU):
        assert check_device(device).type == device_or_cpu(device).type == "cpu"
    for device in ("quantum", "meta", "cuda:99", torch.device("meta")):
        message = "device must be 'auto' or a device that torch can use on this machine, got"
        with naming(device), pytest.raises(ValueError, match=message):
            check_device(device)
        assert device_or_cpu(device) == CPU


@pytest.mark.parametrize("native", [True, False])
def test_precision(native, monkeypatch):
    monkeypatch.setattr("skvaecf._devices._native_bfloat16", lambda device: native)
    assert check_precision("auto", CPU) == (torch.bfloat16 if native else torch.float32)
    assert check_precision("bfloat16", CPU) == torch.bfloat16
    assert check_precision("float32", CPU) == torch.float32


@pytest.mark.parametrize("of_cpu", [True, False])
@pytest.mark.parametrize("of_products", [True, False])
def test_bfloat16_needs_the_cpu_and_the_library(of_cpu, of_products, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: of_cpu, raising=False)
    name = "_is_mkldnn_bf16_supported"
    monkeypatch.setattr(torch.ops.mkldnn, name, lambda: of_products, raising=False)
    expected = torch.bfloat16 if of_cpu and of_products else torch.float32
    assert check_precision("auto", CPU) == expected


def test_too_little_memory(monkeypatch):
    monkeypatch.setattr("skvaecf._devices.available_memory", lambda device: 3 * 2**30)
    check_memory(3 * 2**30, CPU, "The matrix", "use less")
    message = "The matrix needs 4.5 GiB of memory on cpu, but only 3.0 GiB are available; use less."
    with pytest.raises(MemoryError) as raised:
        check_memory(4.5 * 2**30, CPU, "The matrix", "use less")
    assert str(raised.value) == message


def test_available_memory_of_the_cpu():
    assert available_memory(CPU) > 2**20  # infinity on systems that do not report it


def test_the_widest_type_of_a_device():
    for device, dtype in [
        ("cpu", torch.float64),
        ("cuda:1", torch.float64),
        ("mps", torch.float32),
    ]:
        assert widest_float_dtype(torch.device(device)) == dtype


def test_memory_that_torch_has_reserved_on_a_gpu_is_available(monkeypatch):
    free, reserved, allocated = 5 * 2**30, 19 * 2**30, 2**30
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 24 * 2**30))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: reserved)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: allocated)
    assert available_memory(torch.device("cuda")) == free + reserved - allocated
