"Random batches for losses and metrics: of classes, tags, masks and soft targets."
import pytest
import torch

@pytest.fixture(name='gen')
def generator(): return torch.Generator().manual_seed(0)

def classified(gen, n):
    return torch.randn(n, 6, generator=gen), torch.randint(6, (n,), generator=gen)
def tagged(gen, n): return torch.randn(n, 4, generator=gen), torch.randint(2, (n, 4), generator=gen)
def masked(gen, n):
    return torch.randn(n, 3, 4, 5, generator=gen), torch.randint(3, (n, 4, 5), generator=gen)
def softly(gen, n):
    return torch.randn(n, 6, generator=gen), torch.rand(n, 6, generator=gen).softmax(1)
