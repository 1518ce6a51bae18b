"""What one can ask a learner, callbacks that take part in the answer, and whether asking has
changed anything."""
import copy
import random

import numpy as np
import torch

from learners import block, deep, items_of, learner, same, weights
from sotavision.augment.resize import aug_transforms
from sotavision.objectives.metrics import accuracy
from sotavision.study.interpret import ClassificationInterpretation as Interpretation
from sotavision.training.callback import Callback

ASK = {
    'validate': lambda l: torch.tensor(l.validate(), dtype=torch.float64),
    'get_preds': lambda l: l.get_preds()[0],
    'losses': lambda l: l.get_preds(0, with_loss=True)[2],
    'predict': lambda l: l.predict(items_of(4)[3])[2],
    'tta': lambda l: l.tta(n=2)[0],
    'flips': lambda l: l.tta(views='flip')[0],
    'interpret': lambda l: Interpretation.from_learner(l).losses,
}

def augmented(**kwargs):
    b = block()
    b.batch_tfms = aug_transforms(size=8)
    return learner(
        deep, dls=b.dataloaders(items_of(42), bs=8, device='cpu'), metrics=accuracy, **kwargs
    )

class Inputs(Callback):
    def before_batch(self): self.learn.xb = tuple(o * 3 - 1 for o in self.xb)
class Pred(Callback):
    def after_pred(self): self.learn.pred = self.pred * 2 + torch.arange(3.)

class Counts(Callback):
    "Gathers in all the ways there are."
    def __init__(self):
        self.n, self.seen, self.total, self.by, self.gen = (
            0,
            [],
            torch.zeros(1),
            {},
            torch.Generator(),
        )
    def before_batch(self):
        self.n += 1; self.seen.append(len(self.xb[0])); self.total += 1; self.by[self.n] = [self.n]
        torch.rand(1); random.random(); np.random.rand()
    def after_validate(self): self.by.clear()

def snapshot(learn):
    own = {k: v for k, v in vars(learn).items()}
    cbs = [
        {
            k: copy.deepcopy(v)
            if type(v) in (int, list, dict)
            else v.clone()
            if torch.is_tensor(v)
            else v
            for k, v in vars(cb).items()
        }
        for cb in learn.cbs
    ]
    opt = copy.deepcopy(learn.opt.state_dict())
    return (
        own,
        cbs,
        opt,
        weights(learn),
        [m.training for m in learn.model.modules()],
        torch.get_rng_state(),
        random.getstate(),
        np.random.get_state()[1].copy(),
    )

def unchanged(before, learn):
    after = snapshot(learn)
    assert all(after[0][k] is v for k, v in before[0].items())
    assert after[0].keys() == before[0].keys()
    for a, b in zip(before[1], after[1]):
        assert a.keys() == b.keys()
        assert all(same(v, b[k]) if torch.is_tensor(v) else v == b[k] for k, v in a.items())
    assert same(before[2], after[2]) and same(before[3], after[3]) and before[4] == after[4]
    assert before[5].equal(after[5]) and before[6] == after[6] and (before[7] == after[7]).all()
