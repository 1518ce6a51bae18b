"Questions of a learner: who takes part in the answer, and that nothing changes by asking."
import copy
import threading

import pytest
import torch
from torch import nn
from torch.utils import data as tud

from learners import deep, learner, linear, one_thread  # noqa: F401 (a fixture)
from questions import ASK, Counts, Inputs, Pred, augmented, snapshot, unchanged
from sotavision.callbacks.ema import EMA
from sotavision.data.loaders import DataLoader, DataLoaders
from sotavision.objectives.metrics import accuracy
from sotavision.techniques.cutmix import CutMix
from sotavision.techniques.mixup import MixUp
from sotavision.training.asking import TURN
from sotavision.training.callback import AT_WORK, Callback
from sotavision.training.recorder import Recorder

# The callbacks that take part

class Targets(Callback):
    def before_batch(self): self.learn.yb = tuple((o + 1) % 3 for o in self.yb)
class Loss(Callback):
    def after_loss(self): self.learn.loss = self.loss + 1
class Late(Callback):
    order = 15
    def after_batch(self): self.learn.loss = self.loss * 2
class Whole(Callback):
    "Changes the model for the length of a validation."
    def before_validate(self): self.model[1].weight.data.mul_(2)
    def after_validate(self): self.model[1].weight.data.div_(2)

@pytest.mark.parametrize('cb', [Inputs, Targets, Pred, Loss, Late, Whole, MixUp, CutMix, EMA])
def test_validate_says_what_fits_table_said(cb):
    learn = learner(metrics=accuracy, cbs=[Recorder(), cb()])
    learn.fit(2)
    row = learn.recorder.values[-1][1:3]
    assert learn.validate() == row
    if cb not in (Loss, Late):
        assert learn.get_preds(with_loss=True)[2].mean().item() == pytest.approx(row[0], abs=1e-5)
    assert learn.tta(n=0)[0].equal(learn.get_preds()[0])
    with learn.added_cbs([]): learn.remove_cbs(cb)
    plain = learner(); plain.model.load_state_dict(learn.model.state_dict())
    assert (plain.validate()[0] == learn.validate()[0]) == (cb in (MixUp, CutMix, EMA, Recorder))

@pytest.mark.parametrize('cb', [Inputs, Pred])
@pytest.mark.parametrize('ask', ASK)
def test_every_question_goes_through_the_callbacks(cb, ask):
    "As if the model did it itself."
    class Inside(nn.Module):
        def __init__(self, m): super().__init__(); self.m = m
        def forward(self, x):
            return self.m(x * 3 - 1) if cb is Inputs else self.m(x) * 2 + torch.arange(3.)
    a = augmented(cbs=[Recorder(), cb()])
    b = augmented()
    b.model = Inside(copy.deepcopy(a.model))
    # flipped and then changed, or the other way round: equal up to rounding
    if ask == 'flips' and cb is Inputs: return
    assert ASK[ask](a).allclose(ASK[ask](b), atol=1e-6)

def test_what_only_watches_hears_nothing():
    class Watch(Callback):
        in_lr_find = False
        def before_batch(self): raise AssertionError
    learn = learner(cbs=[Recorder(), Watch()])
    for ask in ASK.values(): ask(learn)

def test_callbacks_of_one_fit_take_part_in_questions_from_within():
    found = []
    class Ask(Callback):
        def after_epoch(self): found.append(self.learn.validate())
    learn = learner(metrics=accuracy)
    learn.fit(2, cbs=[Inputs(), Ask()])
    assert [r[1:3] for r in learn.recorder.values] == found and learn.validate() != found[-1]

def test_ema_shows_how_the_mean_validates():
    learn = learner(deep, metrics=accuracy, cbs=[Recorder(), Inputs(), EMA(.5)])
    learn.fit(2)
    ema = learn.cbs[-1]
    with ema.averaged(): said = learn.validate()
    assert said == learn.recorder.rows[-1][-3:-1] != learn.validate()

# Nothing changes

class Tight(Counts):
    "Cannot be copied deeply."
    def __init__(self):
        super().__init__()
        self.lock, self.graph = threading.Lock(), torch.ones(2, requires_grad=True) * 2

@pytest.mark.parametrize('cb', [Counts, Tight])
@pytest.mark.parametrize('ask', ASK)
def test_asking_changes_nothing(ask, cb):
    learn = augmented(cbs=[Recorder(), cb()])
    learn.fit(1)
    learn.model.train(); learn.model[2].eval()
    before = snapshot(learn)
    # added to in place, and shared where no deep copy can be made
    if cb is Tight: before[1][1].pop('total')
    ASK[ask](learn)
    if cb is Tight: learn.cbs[1].total = None; before[1][1]['total'] = None
    unchanged(before, learn)

@pytest.mark.parametrize('ask', ASK)
@pytest.mark.parametrize(
    'event',
    ['before_validate', 'before_batch', 'before_pred', 'after_pred', 'after_batch',
     'after_validate'])
def test_an_exception_in_the_midst(ask, event):
    Fails = type('Fails', (Callback,), {event: lambda self: 1 / 0})
    learn = augmented()
    learn.fit(1)
    learn.add_cbs(Fails())
    learn.model.train(); learn.model[2].eval()
    before = snapshot(learn)
    with pytest.raises(ZeroDivisionError): ASK[ask](learn)
    unchanged(before, learn)
    assert not AT_WORK.get() and TURN.acquire(blocking=False)
    TURN.release()
    learn.remove_cbs(Fails)
    ASK[ask](learn)

def test_rates_that_a_callback_sets_in_a_question_are_put_back():
    class Sets(Callback):
        def before_batch(self):
            for g in self.opt.param_groups: g['lr'] = 7.
    learn = learner(); learn.fit(1); learn.add_cbs(Sets())
    rates = [g['lr'] for g in learn.opt.param_groups]
    learn.validate()
    assert [g['lr'] for g in learn.opt.param_groups] == rates != [7.]

def test_a_network_that_a_callback_holds_is_not_copied():
    class Teacher(Callback):
        def __init__(self): self.net, self.seen = linear(), []
        def after_pred(self): self.seen.append(id(self.net)); Teacher.last = self.net
    cb = Teacher()
    learner(cbs=cb).validate()
    assert Teacher.last is cb.net and not cb.seen

def test_copies_keep_knowing_each_other():
    class First(Callback):
        def before_batch(self): self.factor = 2
    class Second(Callback):
        order = 1
        def __init__(self, first): self.first = first
        def before_batch(self): self.learn.xb = tuple(o * self.first.factor for o in self.xb)
    a = First()
    learn, plain = learner(cbs=[Second(a), a]), learner()
    plain.model[1].weight.data *= 2
    assert learn.get_preds()[0].allclose(plain.get_preds()[0], atol=1e-5)
    assert 'factor' not in vars(a)

def test_generators_of_loaders_are_left_alone():
    gen = torch.Generator().manual_seed(3)
    data = [(torch.randn(64), i % 3) for i in range(20)]
    dls = DataLoaders(DataLoader(data, 4, device='cpu'), DataLoader(data, 4, device='cpu'))
    dls.loaders[0] = tud.DataLoader(data, 4, shuffle=True, generator=gen)
    learn = learner(dls=dls, loss_func=nn.CrossEntropyLoss())
    before = gen.get_state()
    preds, targs = learn.get_preds(0)
    # and not shuffled
    assert gen.get_state().equal(before) and targs.tolist() == [y for _, y in data]
