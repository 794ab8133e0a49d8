"""What devices can compute with."""

from __future__ import annotations

import torch

from skvaecf._devices import available_memory, exact


def test_sums_are_made_in_the_widest_type_of_a_device():
    assert exact(torch.device("cuda:1")) == exact(torch.device("cpu")) == torch.float64
    assert exact(torch.device("mps")) == torch.float32


def test_what_torch_keeps_of_a_gpu_for_itself_is_available(monkeypatch):
    free, reserved, allocated = 5 * 2**30, 19 * 2**30, 2**30
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 24 * 2**30))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: reserved)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: allocated)
    assert available_memory(torch.device("cuda")) == free + reserved - allocated
