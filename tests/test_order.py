"""Nothing that a learner is asked leaves a trace: any order of questions gets the answers that a
fresh learner gives."""
import random

import pytest
import torch
from torch import nn
from torchvision import tv_tensors

from sotavision.augment.resize import aug_transforms
from sotavision.core.display import quiet
from sotavision.core.rng import set_seed
from sotavision.data.loaders import DataLoader, DataLoaders
from sotavision.objectives.metrics import accuracy
from sotavision.study.compare import compare
from sotavision.techniques.cutmix import CutMix
from sotavision.techniques.mixup import MixUp
from sotavision.techniques.smoothing import LabelSmoothingCrossEntropy
from sotavision.training.learner import Learner

class Items(list): c, vocab = 3, ['a', 'b', 'c']

def pictures(n, seed):
    g = torch.Generator().manual_seed(seed)
    return Items(
        (
            tv_tensors.Image(torch.randint(0, 256, (3, 12, 12), generator=g, dtype=torch.uint8)),
            i % 3,
        )
        for i in range(n)
    )

def fresh(cbs=(), weight=None):
    "A learner on random pictures; the same each time."
    set_seed(1)
    dl = lambda ds, shuffle: DataLoader(
        ds, bs=6, shuffle=shuffle, batch_tfms=aug_transforms(size=8), device='cpu'
    )
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(.5),
        nn.Linear(4, 3),
    )
    return Learner(
        DataLoaders(dl(pictures(18, 0), True), dl(pictures(9, 1), False)),
        model,
        LabelSmoothingCrossEntropy(.1, weight),
        metrics=accuracy,
        lr=.01,
        cbs=list(cbs),
    )

@pytest.fixture(scope='module')
def weights():
    "What a training with mixing, smoothing and class weights ends with."
    learn = fresh(weight=[1., 2., 3.])
    with quiet(): learn.fit(1, cbs=[MixUp(.4), CutMix(1.)])
    return learn.model.state_dict()

def tiny(seed): return torch.rand(3).sum() + seed

ASK = {
    'get_preds': lambda l: l.get_preds()[0],
    'validate': lambda l: torch.tensor(l.validate()),
    'tta': lambda l: l.tta(n=2)[0],
    'flips': lambda l: l.tta(views='flip')[0],
    'training items': lambda l: l.get_preds(ds_idx=0)[0],
    'predict': lambda l: l.dls.valid.decode(l.dls.one_batch())[0],
    'lr_find': lambda l: torch.tensor(
        l.lr_find(num_it=12, show_plot=False, suggest_funcs=None) is None
    ),
    'compare': lambda l: torch.tensor(
        list(compare(tiny, {}, 2, show=False).values('base').values())
    ),
}

def learner_with(weights, cbs=()):
    learn = fresh(cbs)
    learn.model.load_state_dict(weights)
    learn.prepare_model()
    return learn

@pytest.fixture(scope='module')
def expected(weights):
    found = {}
    for name, ask in ASK.items():
        learn = learner_with(weights)
        set_seed(5)
        with quiet(): found[name] = ask(learn)
    return found

@pytest.mark.parametrize('order', range(12))
def test_any_order(order, weights, expected):
    names = random.Random(order).sample(list(ASK), len(ASK))
    # also with mixup living in the learner
    learn = learner_with(weights, [MixUp(.4)] if order % 2 else [])
    state = {k: v.clone() for k, v in learn.model.state_dict().items()}
    for name in names:
        set_seed(5)
        with quiet(): answer = ASK[name](learn)
        # it trains, and mixup belongs to training
        if name == 'lr_find' and order % 2: continue
        assert answer.equal(expected[name]), f'{name} in {names}'
    assert all(v.equal(state[k]) for k, v in learn.model.state_dict().items())
    assert isinstance(learn.loss_func, LabelSmoothingCrossEntropy)

@pytest.mark.parametrize('order', range(3))
def test_training_after_questions_is_training_without_them(order):
    plain, asked = fresh([MixUp(.4)]), fresh([MixUp(.4)])
    with quiet():
        set_seed(7); plain.fit_one_cycle(2)
        set_seed(7)
        for name in random.Random(order).sample(list(ASK), 5): ASK[name](asked)
        asked.fit_one_cycle(2)
    assert all(v.equal(asked.model.state_dict()[k]) for k, v in plain.model.state_dict().items())

def test_mixing_smoothing_and_weights_together():
    "One step with all three: the loss is the weighted, smoothed, mixed sum by hand."
    from sotavision.training.callback import Callback
    class Keep(Callback):
        order = 99
        def after_loss(self):
            if self.training:
                self.learn.kept = self.pred.detach().clone(), self.y.clone(), self.loss.clone()
    weight = torch.tensor([1., 2., 3.])
    learn = fresh([MixUp(.4), Keep()], weight=weight)
    with quiet(): learn.fit(1)
    pred, y, loss = learn.kept
    assert y.shape == (6, 3) and y.sum(1).allclose(torch.ones(6))
    by_hand = -(weight * (y * .9 + .1 / 3) * pred.log_softmax(1)).sum(1).mean()
    assert loss.allclose(by_hand, atol=1e-6)
