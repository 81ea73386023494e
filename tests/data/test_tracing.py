"""What is recorded gives torch's own numbers, far from 0 too."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from segcal.data.tracing import log_sigmoid, softplus, traced


class Recorded(torch.nn.Module):
    def __init__(self, operation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.operation = operation

    def forward(self, x: Tensor) -> Tensor:
        assert traced()
        return self.operation(x)


@pytest.mark.parametrize(("ours", "torchs"), [(softplus, functional.softplus), (log_sigmoid, functional.logsigmoid)])
def test_recorded_and_not(ours: Callable[[Tensor], Tensor], torchs: Callable[[Tensor], Tensor]) -> None:
    x = torch.cat(
        [torch.linspace(-800, 800, 1001, dtype=torch.float64), torch.linspace(-1, 1, 51, dtype=torch.float64)]
    )
    assert not traced()
    assert torch.equal(ours(x), torchs(x))
    program = torch.export.export(Recorded(ours), (x,))
    # torch's softplus is x itself from 20 on: 2e-9 off
    torch.testing.assert_close(program.module()(x), torchs(x), rtol=1e-12, atol=3e-9)
    assert not {"aten.softplus.default", "aten.log_sigmoid_forward.default"} & {
        str(n.target) for n in program.graph.nodes
    }
