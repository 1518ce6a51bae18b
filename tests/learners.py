"Small learners for the tests of the training loop, and how to compare two of them."
import random
from operator import itemgetter

import numpy as np
import pytest
import torch
from torch import nn

from sotavision.core.rng import set_seed
from sotavision.data.datablock import CategoryBlock, DataBlock, ImageBlock
from sotavision.data.splits import IndexSplitter
from sotavision.models import weights as disk
from sotavision.objectives.metrics import Metric
from sotavision.training.learner import Learner
from sotavision.training.recorder import Recorder

@pytest.fixture(autouse=True, scope='module')
def one_thread():
    "Models this small only lose by sharing work."
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)

def items_of(n, gen=None):
    "Pictures of 8 × 8 pixels whose brightness tells the class."
    gen = gen or torch.Generator().manual_seed(0)
    return [
        ((torch.rand(8, 8, generator=gen) * 100 + 50 * (i % 3)).byte().numpy(), 'abc'[i % 3])
        for i in range(n)
    ]

def block(target=CategoryBlock, get_y=itemgetter(1), valid=range(0, 10)):
    return DataBlock(
        (ImageBlock('L'), target),
        get_x=itemgetter(0),
        get_y=get_y,
        splitter=IndexSplitter(list(valid)),
    )

def loaders(n=42, bs=8, **kwargs):
    return block().dataloaders(items_of(n), bs=bs, device='cpu', **kwargs)

def linear(n_out=3): return nn.Sequential(nn.Flatten(), nn.Linear(64, n_out))

def deep():
    return nn.Sequential(
        nn.Flatten(),
        nn.BatchNorm1d(64),
        nn.Linear(64, 8),
        nn.ReLU(),
        nn.Dropout(.2),
        nn.Linear(8, 3),
    )

def learner(model=None, seed=0, dls=None, **kwargs):
    set_seed(seed)
    kwargs = dict(default_cbs=False, cbs=Recorder(), precision='fp32') | kwargs
    return Learner(
        loaders() if dls is None else dls, linear() if model is None else model(), **kwargs
    )

def weights(learn): return [o.clone() for o in learn.model.state_dict().values()]

def same(a, b):
    if torch.is_tensor(a): return torch.is_tensor(b) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict): return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    return len(a) == len(b) and all(map(same, a, b)) if isinstance(a, (list, tuple)) else a == b

class Dice(Metric):
    "Draws from every generator."
    def reset(self): self.n = 0
    def accumulate(self, preds, targs):
        self.n += torch.rand(()) + random.random() + np.random.rand()
    value = property(lambda self: float(self.n))

@pytest.fixture(autouse=True, name='told')
def told_already(monkeypatch):
    "Of files without a checksum the process has been told."
    monkeypatch.setattr(
        disk, 'TOLD', {'in torch\'s format', 'in torch\'s old format', 'of another program'}
    )

def trained(tmp_path, model=deep, **kw):
    learn = learner(model, path=tmp_path, **kw)
    learn.fit(1, .01)
    return learn
