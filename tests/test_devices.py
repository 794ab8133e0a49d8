"""What devices can compute with."""

from __future__ import annotations

import torch

from skvaecf._devices import exact


def test_sums_are_made_in_the_widest_type_of_a_device():
    assert exact(torch.device("cuda:1")) == exact(torch.device("cpu")) == torch.float64
    assert exact(torch.device("mps")) == torch.float32
