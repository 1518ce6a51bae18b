"""Mixing leaves out items whose label the loss ignores: they weigh nothing, whatever the loss."""
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from sotavision.core.rng import set_seed
from sotavision.data.loaders import DataLoaders
from sotavision.objectives.losses import CrossEntropyLossFlat
from sotavision.techniques.cutmix import CutMix
from sotavision.techniques.mixup import MixUp
from sotavision.training import Learner
from sotavision.training.callback import Callback

X = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))

class Keep(Callback):
    "What the model gets, and what the step is made of."
    order = 50
    def after_loss(self):
        if self.training: self.seen = self.x, self.y, self.loss.detach(), self.divisor

def run(mixing, loss, x, y):
    "The only batch of a training."
    dls = DataLoaders(*(DataLoader(TensorDataset(x, y), batch_size=len(x)) for _ in range(2)))
    dls.train.ds.c = 3
    set_seed(1)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
    kept = Keep()
    learn = Learner(dls, model, loss, precision='fp32')
    with learn.no_bar(): learn.fit(1, 1e-3, cbs=[mixing(1.), kept])
    return kept.seen

@pytest.mark.parametrize('mixing', [MixUp, CutMix])
@pytest.mark.parametrize('loss, ignored', [
    (CrossEntropyLossFlat(), -100),
    (CrossEntropyLossFlat(ignore_index=2), 2),
    (nn.CrossEntropyLoss(), -100),
    (F.cross_entropy, -100),
])
def test_ignored_items_weigh_nothing(mixing, loss, ignored):
    y = torch.tensor([0, ignored, 1, 1, ignored, 0])
    keep = y != ignored
    x, t, value, count = run(mixing, loss, X, y)
    assert len(x) == len(t) == 4 and count == 4
    torch.testing.assert_close(t.sum(1), torch.ones(4))
    others = run(mixing, loss, X[keep], y[keep])
    assert x.equal(others[0]) and t.equal(others[1]) and value == others[2]

@pytest.mark.parametrize('mixing', [MixUp, CutMix])
@pytest.mark.parametrize('loss', [
    nn.CrossEntropyLoss(ignore_index=2),
    partial(F.cross_entropy, ignore_index=2),
])
def test_what_torch_cannot_ignore_is_refused(mixing, loss):
    with pytest.raises(ValueError, match=r'give CrossEntropyLossFlat\(ignore_index=2\)'):
        run(mixing, loss, X, torch.tensor([0, 1, 2, 0, 1, 2]))

@pytest.mark.parametrize('mixing', [MixUp, CutMix])
def test_without_ignored_items_all_are_mixed(mixing):
    y = torch.tensor([0, 2, 1, 1, 2, 0])
    assert len(run(mixing, CrossEntropyLossFlat(), X, y)[0]) == 6

@pytest.mark.parametrize('mixing', [MixUp, CutMix])
@pytest.mark.parametrize('labels', [[-100] * 6, [-100] * 5 + [1]])
def test_nobody_to_mix_with(mixing, labels):
    x, y, value, _ = run(mixing, CrossEntropyLossFlat(), X, torch.tensor(labels))
    assert x.equal(X) and y.tolist() == labels and value.isfinite()

@pytest.mark.parametrize('mixing', [MixUp, CutMix])
def test_loaders_that_do_not_say_how_many_classes(mixing):
    data = TensorDataset(X, torch.tensor([0, 1, 2, 0, 1, 2]))
    dls = DataLoaders(*(DataLoader(data, batch_size=6) for _ in range(2)))
    learn = Learner(dls, nn.Sequential(nn.Flatten(), nn.Linear(192, 3)), CrossEntropyLossFlat())
    with learn.no_bar(), pytest.raises(ValueError, match='How many classes are there'):
        learn.fit(1, cbs=mixing(1.))
