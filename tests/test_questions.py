"""Questions of a learner: who takes part in the answer, that nothing changes by asking, and what is
no answer."""
import copy
import random
import threading
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils import data as tud
from torchvision import tv_tensors

from learners import (
    block,
    deep,
    items_of,
    learner,
    linear,
    loaders,
    one_thread,  # noqa: F401 (a fixture)
    same,
    weights,
)
from sotavision.augment.grid import KeyPoints
from sotavision.augment.normalize import Normalize
from sotavision.augment.resize import FlipItem, aug_transforms
from sotavision.callbacks.ema import EMA
from sotavision.core.rng import set_seed
from sotavision.data.datablock import CategoryBlock
from sotavision.data.loaders import DataLoader, DataLoaders
from sotavision.objectives.losses import CrossEntropyLossFlat
from sotavision.objectives.metrics import accuracy
from sotavision.study.gradcam import grad_cam
from sotavision.study.interpret import ClassificationInterpretation as Interpretation
from sotavision.techniques.cutmix import CutMix
from sotavision.techniques.mixup import MixUp
from sotavision.training.asking import TURN
from sotavision.training.callback import (
    AT_WORK,
    Callback,
    CancelBatchException,
    CancelValidException,
    DivergedError,
)
from sotavision.training.recorder import Recorder

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

# The callbacks that take part

class Inputs(Callback):
    def before_batch(self): self.learn.xb = tuple(o * 3 - 1 for o in self.xb)
class Targets(Callback):
    def before_batch(self): self.learn.yb = tuple((o + 1) % 3 for o in self.yb)
class Pred(Callback):
    def after_pred(self): self.learn.pred = self.pred * 2 + torch.arange(3.)
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

class Tight(Counts):
    "Cannot be copied deeply."
    def __init__(self):
        super().__init__()
        self.lock, self.graph = threading.Lock(), torch.ones(2, requires_grad=True) * 2

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

# Questions from within

@pytest.mark.parametrize(
    'event',
    ['after_epoch', 'after_batch', 'before_batch', 'after_backward', 'before_validate',
     'after_pred'])
def test_questions_from_a_training(event):
    def ask(self):
        for f in ASK.values(): f(self.learn)
    Asks = type('Asks', (Callback,), {event: ask})
    def run(cbs):
        learn = augmented()
        learn.fit_one_cycle(1, 1e-2, cbs=cbs)
        return learn
    quiet, asked = run([Counts()]), run([Asks(), Counts()])
    assert same(weights(quiet), weights(asked)) and quiet.recorder.values == asked.recorder.values
    assert torch.stack(quiet.recorder.losses).equal(torch.stack(asked.recorder.losses))
    assert quiet.recorder.lrs == asked.recorder.lrs

def test_a_callback_that_asks_the_learner_of_the_notebook_is_no_endless_loop():
    seen = []
    class Asks(Callback):
        def after_batch(self): seen.append(learn.validate())
    class AsksToo(Asks): pass
    learn = learner(metrics=accuracy, cbs=[Recorder(), Asks(), AsksToo()])
    learn.validate()
    assert 0 < len(seen) <= 4 * len(learn.dls.valid) and all(o == seen[0] for o in seen)

def test_a_question_within_a_look_is_about_the_plain_picture():
    seen = []
    class Asks(Callback):
        def after_batch(self): seen.append(self.learn.get_preds()[0])
    learn = learner(cbs=[Recorder(), Asks()])
    # knows left from right
    with torch.no_grad(): learn.model[1].weight[0, ::2] += 3
    plain = learner(); plain.model = learn.model
    want = plain.get_preds()[0]
    learn.tta(views='flip')
    assert len(seen) == 2 and all(o.equal(want) for o in seen)
    assert not plain.tta(views='flip')[0].equal(want)

# Eight threads

def in_threads(jobs):
    "Run the jobs at once, and return what each gave."
    found, start = [None] * len(jobs), threading.Barrier(len(jobs))
    def work(i):
        start.wait()
        try: found[i] = jobs[i]()
        except Exception as e: found[i] = e
    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(jobs))]
    for t in threads: t.start()
    for t in threads: t.join(60)
    return found

@pytest.mark.parametrize('cbs', [(), (Inputs,), (Counts, Pred)])
def test_eight_threads_get_the_answers_of_one(cbs, often):
    learn = augmented(cbs=[Recorder(), *(o() for o in cbs)])
    learn.fit(1)
    alone = {k: f(learn) for k, f in ASK.items()}
    before, chance = snapshot(learn), random.Random(len(cbs))
    for _ in range(often(2)):
        asks = [[chance.choice(list(ASK)) for _ in range(3)] for _ in range(8)]
        answers = in_threads([lambda names=names: [ASK[k](learn) for k in names] for names in asks])
        for names, got in zip(asks, answers):
            assert not isinstance(got, Exception), got
            for name, answer in zip(names, got): assert answer.equal(alone[name]), name
    unchanged(before, learn)

def test_eight_learners_in_eight_threads():
    "One model's looks draw from the generator of the process; another's must not notice."
    learners = [augmented(seed=i) for i in range(8)]
    alone = [l.tta(n=2)[0] for l in learners]
    for got, want in zip(in_threads([lambda l=l: l.tta(n=2)[0] for l in learners]), alone):
        assert got.equal(want)

def test_a_question_that_fails_in_one_thread_does_not_hurt_the_others():
    learn = augmented()
    want = learn.get_preds()[0]
    def good(): return [learn.get_preds()[0] for _ in range(3)]
    def bad():
        for _ in range(3):
            with pytest.raises(RuntimeError):
                learn.get_preds(dl=[(torch.zeros(2, 7), torch.zeros(2).long())])
    answers = in_threads([good, bad] * 4)
    assert not any(isinstance(o, Exception) for o in answers)
    assert all(o.equal(want) for got in answers[::2] for o in got)
    assert all(m.training for m in learn.model.modules())

def test_heat_maps_and_predictions_at_once():
    set_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(.5),
        nn.Linear(4, 3),
    )
    learn = learner(lambda: net)
    x = learn.dls.valid.one_batch()[0]
    want = learn.get_preds()[0], grad_cam(learn, x)
    for a, b in in_threads([lambda: (learn.get_preds()[0], grad_cam(learn, x))] * 8):
        assert a.equal(want[0]) and b.equal(want[1])
    assert all(m.training for m in net.modules())

def test_a_learner_that_another_thread_trains_is_not_asked():
    got, plain = [], augmented().fit(2)
    def ask(f):
        try: f(learn)
        except RuntimeError as e: got.append(str(e))
    class Elsewhere(Callback):
        def after_backward(self):
            for t in [threading.Thread(target=ask, args=(f,)) for f in ASK.values()]:
                t.start()
                t.join()
    learn = augmented()
    learn.fit(2, cbs=Elsewhere())
    assert len(got) == 2 * len(learn.dls.train) * len(ASK)
    assert all('Another thread trains' in o for o in got)
    assert same(weights(learn), weights(plain)) and learn.recorder.values == plain.recorder.values
    # afterwards it is free again
    assert not in_threads([learn.validate])[0] is None and learn.thread is None

def test_a_learner_that_another_thread_trains_is_not_trained():
    got, plain = [], augmented().fit(2)
    class Elsewhere(Callback):
        def after_backward(self):
            if threading.current_thread() is not threading.main_thread(): return
            t = threading.Thread(target=again); t.start(); t.join()
    def again():
        try: learn.fit(3, cbs=[])
        except RuntimeError as e: got.append(str(e))
    learn = augmented()
    learn.fit(2, cbs=Elsewhere())
    assert len(got) == 2 * len(learn.dls.train)
    assert all('trains this learner already' in o for o in got)
    assert same(weights(learn), weights(plain)) and learn.recorder.values == plain.recorder.values
    assert learn.fit(1)                                               # afterwards it is free again

def test_a_training_waits_for_questions_that_are_on_their_way():
    learn, plain, inside, go = augmented(), augmented(), threading.Event(), threading.Event()
    def act(o): inside.set(); go.wait(20); return o
    want = plain.get_preds(act=lambda o: o)[0]
    found = []
    set_seed(5)
    asker = threading.Thread(target=lambda: found.append(learn.get_preds(act=act)[0]))
    trainer = threading.Thread(target=lambda: learn.fit(1))
    asker.start(); inside.wait(20); trainer.start(); trainer.join(.3)
    assert trainer.is_alive() and not learn.recorder.losses                        # not one step
    go.set(); asker.join(20); trainer.join(20)
    set_seed(5)
    assert found[0].equal(want) and same(weights(learn), weights(plain.fit(1)))

def test_nobody_meets_averaged_weights_by_chance():
    learn = augmented(cbs=[Recorder(), EMA(.5)])
    learn.fit(2)
    want, said = learn.get_preds()[0], []
    with learn.cbs[-1].averaged():
        t = threading.Thread(target=lambda: said.append(learn.get_preds()[0]))
        t.start()
        t.join(.2)
        assert not said and not learn.get_preds()[0].equal(want)
    t.join(20)
    assert said[0].equal(want)

def test_a_question_within_the_range_test():
    class Rates(Callback):
        def after_batch(self):
            if self.training: seen.append((self.opt.param_groups[0]['lr'], float(self.loss)))
    class Asks(Callback):
        order = -1
        def after_batch(self):
            if self.training: self.learn.validate(); self.learn.tta(n=1)
    runs = []
    for cbs in ([], [Asks()]):
        seen = []
        augmented(cbs=[Recorder(), Rates(), *cbs]).lr_find(
            num_it=12, show_plot=False, suggest_funcs=None
        )
        runs.append(seen)
    assert runs[0] == runs[1] and len(seen) == 12

# What is no answer

def broken(where):
    learn = augmented()
    if where == 'weights': learn.model[2].bias.data[1] = float('nan')
    if where == 'inputs':
        learn.add_cbs(
            type(
                'Spoils',
                (Callback,),
                {
                    'before_batch': lambda self: (
                        self.xb[0].as_subclass(torch.Tensor)[-1:].fill_(float('inf'))
                    )
                },
            )
        )
    if where == 'model':
        class Bad(nn.Module):
            def forward(self, x):
                return x.flatten(1)[:, :3].where(x.flatten(1)[:, :1] < 2, x.new_tensor(0)) / 0
        learn.model = Bad()
    return learn

@pytest.mark.parametrize('ask', ['get_preds', 'predict', 'tta', 'flips', 'interpret', 'losses'])
@pytest.mark.parametrize(
    'where, text',
    [('weights', r'weights are not finite \(2.bias; 1 of'), ('inputs', 'inputs are not finite'),
     ('model', 'does the model divide')])
def test_a_prediction_that_is_no_number(ask, where, text):
    with pytest.raises(
        DivergedError, match=f'(?s)prediction for item \\d+ is not finite .*{text}'
    ) as e:
        ASK[ask](broken(where))
    assert '\n' not in str(e.value)

def test_the_item_is_named():
    data = [(torch.randn(4), i % 2) for i in range(11)]
    data[9][0][2] = float('nan')
    learn = learner(
        lambda: nn.Linear(4, 2),
        dls=DataLoaders(*[DataLoader(data, 4, device='cpu')] * 2),
        loss_func=nn.CrossEntropyLoss(),
    )
    with pytest.raises(DivergedError, match='item 9 .*inputs'): learn.get_preds()

def test_half_precision_that_overflows():
    class Large(nn.Module):
        def forward(self, x):
            return (
                x.flatten(1)[:, :3]
                * 6e4
                * 6e4
                * (float('inf') if torch.is_autocast_enabled('cpu') else 1)
            )
    learn = learner(Large, precision='bf16')
    with pytest.raises(DivergedError, match="precision='bf16'.*to_fp32"): learn.get_preds()
    learn.to_fp32().get_preds()

def test_infinity_that_was_asked_for():
    class Masked(nn.Module):
        "Never the last class."
        def forward(self, x): return x.flatten(1)[:, :3] + torch.tensor([0., 0., -torch.inf])
    learn = learner(Masked)
    assert learn.get_preds()[0][:, 2].eq(0).all()                         # probabilities are finite
    assert learn.get_preds(act=lambda o: o)[0][:, 2].isneginf().all()
    assert learn.get_preds(act=lambda o: o.log_softmax(1))[0].isneginf().any()
    class Overflows(nn.Module):
        def forward(self, x): return x.flatten(1)[:, :3] * torch.inf
    for act in (None, lambda o: o):
        with pytest.raises(DivergedError): learner(Overflows).get_preds(act=act)

@pytest.mark.parametrize(
    'where, text',
    [('weights', 'weights are not finite'), ('inputs', 'loss is nan'), ('model', 'loss is nan')])
def test_validate_tells_of_nan(where, text):
    with pytest.warns(UserWarning, match=text): broken(where).validate()

@pytest.mark.parametrize(
    'error, event',
    [(CancelBatchException, 'before_batch'), (CancelValidException, 'before_validate')])
def test_a_callback_that_ends_the_pass(error, event):
    def stop(self): raise error
    learn = learner(cbs=type('Stop', (Callback,), {event: stop})())
    with pytest.raises(ValueError, match='callback ended'): learn.get_preds()

# What comes back

def test_parts_come_in_fastais_order():
    learn = learner(deep, metrics=accuracy)
    x, preds, targs, answers, losses = learn.get_preds(
        with_input=True, with_decoded=True, with_loss=True
    )
    assert x.equal(torch.cat([b[0] for b in learn.dls.valid]).as_subclass(torch.Tensor))
    assert type(x) is torch.Tensor
    assert preds.equal(learn.get_preds()[0])
    assert targs.shape == answers.shape == losses.shape == (10,)
    x, preds, targs, losses = learn.get_preds(with_input=True, with_loss=True)
    assert x.shape == (10, 1, 8, 8) and losses.shape == (10,)
    # the place that it has in fast.ai
    assert learn.get_preds(1, None, True)[0].shape == (10, 1, 8, 8)

def test_inputs_are_what_the_model_saw():
    learn = learner(cbs=Inputs())
    x = torch.cat([b[0] for b in learn.dls.valid]).as_subclass(torch.Tensor)
    assert learn.get_preds(with_input=True)[0].equal(x * 3 - 1)
    class Spoils(nn.Module):
        def forward(self, x): return x.zero_().flatten(1)[:, :3]
    assert learner(Spoils).get_preds(with_input=True)[0].equal(x)

def test_several_inputs():
    data = [(torch.randn(4), torch.randn(2), i % 2) for i in range(10)]
    class Two(nn.Module):
        def forward(self, a, b): return a[:, :2] + b
    learn = learner(
        Two,
        dls=DataLoaders(*[DataLoader(data, 4, device='cpu')] * 2),
        loss_func=nn.CrossEntropyLoss(),
    )
    (a, b), preds, _ = learn.get_preds(with_input=True)
    assert a.shape == (10, 4) and b.shape == (10, 2) and preds.shape == (10, 2)

def test_several_targets():
    class Pairs(list): n_inp = 1
    data = Pairs((torch.randn(4), i % 2, torch.tensor([float(i)])) for i in range(10))
    loss = lambda p, y, z: F.cross_entropy(p[:, :2], y) + F.mse_loss(p[:, 2:], z)
    learn = learner(
        lambda: nn.Linear(4, 3),
        dls=DataLoaders(*[DataLoader(data, 4, device='cpu')] * 2),
        loss_func=loss,
    )
    x, preds, (y, z), losses = learn.get_preds(with_input=True, with_loss=True)
    assert x.shape == (10, 4) and preds.shape == (10, 3) and y.tolist() == [o[1] for o in data]
    assert z.flatten().tolist() == list(range(10))
    assert losses.mean().item() == pytest.approx(learn.validate()[0], rel=1e-5)
    with pytest.raises(ValueError, match='2 targets'): Interpretation.from_learner(learn)
    assert learn.tta(views='flip', n=0)[1][0].equal(y)

# Losses of plain functions

@pytest.mark.parametrize(
    'loss',
    [lambda p, t: F.cross_entropy(p, t), lambda p, t: F.cross_entropy(p, t, reduction='sum'),
     lambda p, t: F.nll_loss(p.log_softmax(1), t) + 1])
def test_losses_item_by_item(loss):
    learn = learner(loss_func=loss)
    got = learn.get_preds(with_loss=True)[2]
    probs, targs = learn.get_preds()
    want = -probs[range(10), targs].log()
    assert got.allclose(want, atol=1e-4) or got.allclose(want + 1, atol=1e-4)

@pytest.mark.parametrize(
    'loss',
    [lambda p, t: F.cross_entropy(p - p.mean(0), t),
     lambda p, t: F.cross_entropy(p, t) if len(p) > 1 else 1 / 0,
     lambda p, t: F.cross_entropy(p, t, weight=torch.tensor([1., 2., 9.]))])
def test_a_loss_of_whole_batches_only(loss):
    learn = learner(loss_func=loss)
    with pytest.raises(ValueError, match='no `reduction`'): learn.get_preds(with_loss=True)
    o = Interpretation.from_learner(learn)                                 # all but losses works
    o.confusion_matrix(); o.most_confused(); o.per_class(); repr(o)
    with pytest.raises(ValueError, match='no `reduction`'): o.top_losses(3)

@pytest.mark.parametrize(
    'loss',
    [nn.CrossEntropyLoss(ignore_index=255), partial(F.cross_entropy, ignore_index=255),
     CrossEntropyLossFlat(axis=1, ignore_index=255)])
def test_places_without_a_class_count_for_no_item(loss):
    masks = torch.randint(3, (6, 8, 8))
    masks[:, 4:] = 255; masks[5] = 255
    data = [(tv_tensors.Image(torch.rand(3, 8, 8)), tv_tensors.Mask(m)) for m in masks]
    learn = learner(
        lambda: nn.Conv2d(3, 3, 1),
        dls=DataLoaders(*[DataLoader(data, 2, device='cpu')] * 2),
        loss_func=loss,
    )
    losses, logits = learn.get_preds(with_loss=True)[2], learn.get_preds(act=lambda o: o)[0]
    want = F.cross_entropy(logits[:, :, :4], masks[:, :4].clamp(max=2), reduction='none').mean(
        (1, 2)
    )
    assert losses[:5].allclose(want[:5], atol=1e-5) and losses[5] == 0

# Other classes

def other(names, target=CategoryBlock):
    b = block(lambda: CategoryBlock(vocab=names), lambda o: names['abc'.index(o[1])])
    return b.dataloaders(items_of(42), bs=8, device='cpu')

@pytest.mark.parametrize(
    'ask',
    [lambda l, dl: l.validate(dl=dl), lambda l, dl: l.get_preds(dl=dl), lambda l, dl: l.tta(dl=dl),
     lambda l, dl: Interpretation.from_learner(l, dl=dl), lambda l, dl: l.show_results(dl=dl)])
def test_items_of_other_classes_are_refused(ask):
    learn = learner()
    for names in (['c', 'b', 'a'], ['x', 'y', 'z'], ['a', 'b', 'd'], ['a', 'b', 'c', 'd']):
        with pytest.raises(ValueError, match=r'other classes than the learner: number \d'):
            ask(learn, other(names).valid)
    ask(learn, other(['a', 'b', 'c']).valid)

def test_a_model_with_more_answers_than_classes():
    learn = learner(partial(linear, 7))
    learn.model[1].bias.data[5] = 99
    for ask in (
        lambda: learn.predict(items_of(1)[0]),
        lambda: learn.get_preds(with_decoded=True),
        lambda: learn.show_results(),
    ):
        with (
            pytest.warns(UserWarning, match='7 outputs'),
            pytest.raises(ValueError, match='answers with class 5.*n_out=3'),
        ):
            ask()
    for ask in (
        lambda: learner(partial(linear, 2)).predict(items_of(1)[0]),
        lambda: learner(partial(linear, 2)).validate(),
    ):
        with pytest.raises(ValueError, match='2 outputs and the data 3 classes'):
            ask()

# Processes

def test_one_picture_starts_no_process(monkeypatch):
    learn = learner(dls=loaders(num_workers=2))
    learn.dls.train.num_workers = 0
    monkeypatch.setattr(
        'torch.utils.data.dataloader._MultiProcessingDataLoaderIter', lambda *a: 1 / 0
    )
    assert learn.predict(items_of(1)[0])[0] in 'abc'
    with pytest.raises(ZeroDivisionError): learn.get_preds()

# Looks that are put back

class Sides(list): c = 2

def points_learner(n_points=1, shape=None, target=KeyPoints):
    "A perfect model: it finds the brightest pixels."
    gen = torch.Generator().manual_seed(0)
    data = Sides()
    for _ in range(6):
        x = torch.zeros(1, 16, 20)
        at = torch.stack(
            [
                torch.randint(4, 16, (n_points,), generator=gen),
                torch.randint(4, 12, (n_points,), generator=gen),
            ],
            1,
        )
        for k, (u, v) in enumerate(at.tolist()): x[0, v, u] = 1 + k
        data.append(
            (
                tv_tensors.Image(x),
                target(at.float(), canvas_size=(16, 20))
                if target is KeyPoints
                else target(at.float()),
            )
        )
    class Finds(nn.Module):
        def forward(self, x):
            best = (
                x.flatten(1).topk(n_points, 1).indices.flip(1)
                if n_points > 1
                else x.flatten(1).argmax(1, keepdim=True)
            )
            found = torch.stack([best % 20, best // 20], -1).float()
            return found.flatten(1) if shape == 'flat' else found
    loss = lambda p, t: F.mse_loss(p.reshape(t.shape), t)
    return learner(Finds, dls=DataLoaders(*[DataLoader(data, 4, device='cpu')] * 2), loss_func=loss)

needs_points = pytest.mark.skipif(KeyPoints == (), reason='torchvision has key points from 0.23 on')

@needs_points
@pytest.mark.parametrize('shape', [None, 'flat'])
def test_flips_of_points_are_undone(shape):
    learn = points_learner(shape=shape)
    plain, targs = learn.get_preds()
    assert plain.reshape(targs.shape).equal(targs)
    assert learn.tta(views='flip')[0].allclose(plain, atol=1e-4)
    # found in an enlarged picture: within a pixel
    assert learn.tta(views='five_crop')[0].allclose(plain, atol=.7)
    assert learn.tta(views='flip', n=0)[0].equal(plain)

@needs_points
def test_points_from_chance_are_refused():
    learn = points_learner(3)
    assert learn.tta(views='flip')[0].allclose(learn.get_preds()[0], atol=1e-4)
    with pytest.raises(ValueError, match="Key points.*views='flip'"): learn.tta()
    with pytest.raises(ValueError, match='use_max'): learn.tta(views='flip', use_max=True)

def test_boxes_and_masks_without_a_block():
    boxes = lambda o: tv_tensors.BoundingBoxes(
        torch.cat([o, o + 1], 1), format='XYXY', canvas_size=(16, 20)
    )
    for looks in ('random', 'flip'):
        with pytest.raises(ValueError, match='Boxes'): points_learner(target=boxes).tta(views=looks)
    data = [
        (tv_tensors.Image(torch.rand(3, 8, 8)), tv_tensors.Mask(torch.randint(3, (8, 8))))
        for _ in range(4)
    ]
    learn = learner(
        lambda: nn.Conv2d(3, 3, 1),
        dls=DataLoaders(*[DataLoader(data, 2, device='cpu')] * 2),
        loss_func=nn.CrossEntropyLoss(),
    )
    with pytest.raises(ValueError, match='Masks'): learn.tta()
    assert learn.tta(views='flip')[0].allclose(learn.get_preds()[0], atol=1e-5)

def test_numbers_of_whole_pictures_need_no_way_back():
    data = [(tv_tensors.Image(torch.rand(1, 8, 8)), torch.rand(1)) for _ in range(4)]
    learn = learner(
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 1)),
        dls=DataLoaders(*[DataLoader(data, 2, device='cpu')] * 2),
        loss_func=nn.MSELoss(),
    )
    assert learn.tta(views='flip')[0].shape == (4, 1)

def test_a_data_set_that_draws_is_asked_without_a_trace():
    class RandomTransform(list):
        def __getitem__(self, i): return torch.rand(64) + random.random(), i % 3
    data = RandomTransform(range(8))
    learn = learner(
        dls=DataLoaders(*[DataLoader(data, 4, device='cpu')] * 2), loss_func=nn.CrossEntropyLoss()
    )
    learn.fit(1)
    before = snapshot(learn)
    for ask in (lambda: learn.tta(views='flip', n=0), lambda: learn.get_preds(0), learn.validate):
        ask()
    unchanged(before, learn)

# Transforms of the looks

def test_looks_with_transforms_of_ones_own():
    b = block()
    b.item_tfms, b.batch_tfms = [FlipItem(p=0.)], [Normalize(mean=(.5,), std=(.25,))]
    learn = learner(dls=b.dataloaders(items_of(42), bs=8, device='cpu'))
    plain, mirrored = learn.get_preds()[0], learn.tta(n=1, beta=0., item_tfms=FlipItem(p=1.))[0]
    x = torch.cat([o[0] for o in learn.dls.valid]).as_subclass(torch.Tensor)
    with torch.no_grad(): assert mirrored.allclose(learn.model(x.flip(-1)).softmax(1), atol=1e-5)
    class Halved:
        def __call__(self, sample): return (tv_tensors.Image(sample[0] / 2), *sample[1:])
    # normalized behind it, as the model wants it
    halved = learn.tta(n=1, beta=0., batch_tfms=Halved())[0]
    raw = x * .25 + .5
    with torch.no_grad():
        assert halved.allclose(learn.model((raw / 2 - .5) / .25).softmax(1), atol=1e-5)
    own = learn.tta(n=1, beta=0., batch_tfms=[Halved(), Normalize(mean=(0.,), std=(1.,))])[0]
    with torch.no_grad(): assert own.allclose(learn.model(raw / 2).softmax(1), atol=1e-5)
    assert learn.get_preds()[0].equal(plain) and learn.dls.valid.item_tfms[0].p == 0
    with pytest.raises(ValueError, match='random looks'):
        learn.tta(views='flip', item_tfms=FlipItem(1.))
    with pytest.raises(ValueError, match='looked at anew'):
        learn.tta(dl=[learn.dls.valid.one_batch()])
    assert learn.tta(dl=[learn.dls.valid.one_batch()], views='flip')[0].shape == (10, 3)
