"A small model in three parts and its learner, for the tests of rates."
import torch
from torch import nn

from sotavision.core.rng import set_seed
from sotavision.data.loaders import DataLoader, DataLoaders
from sotavision.objectives.losses import CrossEntropyLossFlat
from sotavision.training.learner import Learner
from sotavision.training.recorder import Recorder

STEPS = 4   # a pass over the training set
PARTS = {
    '0.weight': 0,
    '0.bias': 0,
    '1.weight': 0,
    '1.bias': 0,
    '2.weight': 1,
    '2.bias': 1,
    '3.weight': 1,
    '3.bias': 1,
    '6.weight': 2,
    '6.bias': 2,
}

def loaders(n=8 * STEPS, bs=8):
    gen = torch.Generator().manual_seed(0)
    data = [(torch.randn(1, 6, 6, generator=gen) + i % 2, i % 2) for i in range(n)]
    return DataLoaders(DataLoader(data, bs=bs, shuffle=True), DataLoader(data, bs=32), device='cpu')

def net():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.Conv2d(4, 4, 3),
        nn.GroupNorm(2, 4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16, 2),
    )

def three(m): return [m[:2], m[2:5], m[5:]]

def learner(splitter=three, **kwargs):
    set_seed(0)
    kwargs = dict(default_cbs=False, cbs=Recorder(), precision='fp32') | kwargs
    return Learner(loaders(), net(), CrossEntropyLossFlat(), splitter=splitter, **kwargs)
