import pytest
import torch
from torch import nn

from cosim.models.attention import Attention


class Network(nn.Module):
    """Every kind of layer once, a tied table, a buffer and a bare parameter."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(3, 5, kernel_size=3)
        self.attn = Attention(8, 2)
        self.norm = nn.LayerNorm(8)
        self.fc1 = nn.Linear(8, 6)
        self.embed = nn.Embedding(7, 8)
        self.head = nn.Linear(8, 7, bias=False)
        self.head.weight = self.embed.weight
        self.positions = nn.Parameter(torch.zeros(4, 8))
        self.register_buffer("shift", torch.ones(3))


@pytest.fixture
def small():
    torch.manual_seed(2)
    network = Network()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_()
    return network.eval()
