"Callbacks that trust labels less: their tables, their sums by hand, and what they must not change."
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils import data as tud

from learners import (
    deep,
    items_of,
    learner,
    linear,
    loaders,
    one_thread,  # noqa: F401 (a fixture)
    same,
    weights,
)
from sotavision.callbacks.gradients import GradientAccumulation
from sotavision.core.display import quiet
from sotavision.core.rng import set_seed
from sotavision.data.datablock import CategoryBlock, DataBlock, ImageBlock
from sotavision.data.loaders import DataLoader, DataLoaders
from sotavision.data.splits import IndexSplitter
from sotavision.objectives.losses import CrossEntropyLossFlat
from sotavision.objectives.metrics import accuracy
from sotavision.techniques.cutmix import CutMix
from sotavision.techniques.label_correction import ELR, ProgressiveLabelCorrection
from sotavision.techniques.mixup import MixUp
from sotavision.techniques.noisy_labels import add_label_noise
from sotavision.training.callback import Callback
from sotavision.training.learner import Learner
from sotavision.training.optimizers import SGD
from sotavision.training.recorder import Recorder

Correct = ProgressiveLabelCorrection

@pytest.fixture(autouse=True)
def silence():
    with quiet(): yield

def noisy(n=90, share=.3):
    "Items of which a share is labelled wrong; the right labels of those that train."
    items = items_of(n)
    right = [y for _, y in items]
    told = add_label_noise(right, share, seed=3)
    return [(x, y) for (x, _), y in zip(items, told)], right[10:]

def noisy_loaders(bs=8, **kwargs):
    items, right = noisy()
    b = DataBlock((ImageBlock('L'), CategoryBlock), getters=[lambda o: o[0], lambda o: o[1]],
                  splitter=IndexSplitter(list(range(10))))
    return b.dataloaders(items, bs=bs, device='cpu', **kwargs), right

# Nothing changes where nothing may

@pytest.mark.parametrize('cb', [lambda: ELR(lam=0), lambda: Correct(1.01), lambda: Correct((2, 2)),
                                lambda: Correct(.01, warm_up=1.)])
@pytest.mark.parametrize('workers', [0, 2])
def test_off_is_plain_training_bit_for_bit(cb, workers):
    runs = [
        learner(deep, dls=loaders(num_workers=workers), metrics=accuracy, cbs=[Recorder(), *cbs])
        for cbs in ([], [cb()])
    ]
    for r in runs: set_seed(1); r.fit_one_cycle(3, 1e-2)
    assert same(*map(weights, runs)) and runs[0].recorder.losses == runs[1].recorder.losses
    assert runs[0].recorder.values == runs[1].recorder.values

@pytest.mark.parametrize('cb', [ELR, lambda: Correct(.05, 0.)])
def test_on_is_not(cb):
    a, b = learner(deep).fit(3, 1e-2), learner(deep).fit(3, 1e-2, cbs=cb())
    assert not same(weights(a), weights(b))

@pytest.mark.parametrize('cb', [ELR, Correct])
def test_validation_and_questions_do_not_write(cb):
    cb = cb()
    learn = learner(deep, cbs=[Recorder(), cb]).fit(2)
    before = cb.probs.clone(), cb.given.clone()
    learn.validate(); learn.validate(0); learn.get_preds(0)
    set_seed(0); learn.lr_find(show_plot=False, num_it=20, suggest_funcs=None)
    assert same(before, (cb.probs, cb.given))

# The table goes by item

@pytest.mark.parametrize('kwargs', [dict(), dict(num_workers=2), dict(cache='ram'),
                                    dict(cache='ram', num_workers=2)], ids=str)
@pytest.mark.parametrize('cb, share', [(lambda: ELR(.7), .3), (Correct, 1.)])
def test_a_row_holds_what_was_said_of_its_item(kwargs, cb, share):
    dls, _ = noisy_loaders(**kwargs)
    dls.train.drop_last = False
    learn, cb = learner(dls=dls), cb()
    learn.fit(1, 0., cbs=cb)
    probs, targets = learn.get_preds(0)
    assert torch.allclose(cb.probs, share * probs, atol=1e-4)
    assert torch.equal(cb.given, targets)

def test_every_batch_names_its_items():
    data = [(torch.tensor([float(k)]), torch.tensor(k)) for k in range(23)]
    for workers in 0, 2:
        for shuffle in True, False:
            dl = DataLoader(data, 4, shuffle=shuffle, num_workers=workers, device='cpu')
            seen = [b.idxs for b in dl]
            assert all(y.tolist() == b.idxs for b in dl for y in b[1:])
            assert len({k for o in seen for k in o}) == (20 if shuffle else 23)

class Idxs(Callback):
    order = 90
    def __init__(self): self.seen = []
    def before_batch(self): self.seen.append((self.training, self.idxs, self.yb[0].tolist()))

def test_the_learner_says_which_items_are_there():
    learn, look = learner(), Idxs()
    learn.fit(2, cbs=look)
    codes = [learn.dls.vocab.o2i[o] for o in learn.dls.train_ds.labels()]
    assert all([codes[k] for k in idxs] == y for training, idxs, y in look.seen if training)
    assert learn.idxs is None

def test_an_item_drawn_twice_is_written_once():
    class Twice(DataLoader):
        def batches(self, num_workers=None):
            for b in super().batches(num_workers):
                b.idxs[0] = b.idxs[-1]
                yield b
    dls = loaders()
    train = Twice(dls.train.ds, 8, device='cpu')
    cb = Correct()
    learn = learner(dls=DataLoaders(train, dls.valid, device='cpu')).fit(1, 0., cbs=cb)
    probs, _ = learn.get_preds(dl=dls.train.new())
    last = [7, 15, 23, 31]
    assert torch.allclose(cb.probs[last], probs[last], atol=1e-6)

# By hand

def two_items(*cbs, epochs=2, lr=.5):
    "Logits are the inputs times a matrix that begins as the unit matrix."
    x, y = torch.tensor([[2., 0.], [1., 1.5]]), torch.tensor([1, 1])
    ds = type('Set', (list,), dict(c=2, vocab=['a', 'b']))(zip(x, y))
    dls = DataLoaders(DataLoader(ds, 2, shuffle=True, device='cpu'), device='cpu')
    model = nn.Linear(2, 2, bias=False)
    with torch.no_grad(): model.weight.copy_(torch.eye(2))
    learn = Learner(dls, model, CrossEntropyLossFlat(), SGD, default_cbs=False,
                    cbs=Recorder(beta=0), precision='fp32')
    return learn.fit(epochs, lr, cbs=cbs), x.double().numpy(), y.numpy()

def test_elr_by_hand():
    cb = ELR(.6, 2.)
    learn, x, y = two_items(cb)
    w, t, losses = np.eye(2), np.zeros((2, 2)), []
    for _ in range(2):
        z = x @ w.T
        p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
        t = .6 * t + .4 * p
        dot = (t * p).sum(1)
        losses.append(-np.log(p[[0, 1], y]).mean() + 2 * np.log(1 - dot).mean())
        # d log(1 − ⟨p, t⟩) / dz_k = p_k (⟨p, t⟩ − t_k) / (1 − ⟨p, t⟩)
        dz = p - np.eye(2)[y] + 2 * p * (dot[:, None] - t) / (1 - dot)[:, None]
        w = w - .5 * (dz / 2).T @ x
    assert np.allclose(learn.model.weight.detach().numpy(), w, atol=1e-5)
    assert np.allclose(cb.probs.numpy(), t, atol=1e-6)
    assert np.allclose([float(o) for o in learn.recorder.losses], losses, atol=1e-5)

def test_elr_is_finite_where_the_network_is_certain():
    cb = ELR()
    learn = learner(lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 3)))
    with torch.no_grad(): learn.model[1].weight.mul_(1e4)
    learn.fit(3, 1e-3, cbs=cb)
    assert all(o.isfinite().all() for o in weights(learn)) and cb.probs.isfinite().all()

def test_gathered_gradients_hold_the_whole_term():
    dls = loaders(40, bs=30)
    small = DataLoaders(dls.train.new(bs=10, shuffle=False, split_idx=0), device='cpu')
    whole = DataLoaders(dls.train.new(bs=30, shuffle=False, split_idx=0), device='cpu')
    a = learner(dls=whole, opt_func=SGD).fit(2, .01, cbs=ELR(.5))
    b = learner(dls=small, opt_func=SGD).fit(2, .01, cbs=[ELR(.5), GradientAccumulation(30)])
    assert all(torch.allclose(u, v, atol=1e-6) for u, v in zip(weights(a), weights(b)))

def test_correction_by_hand():
    # without learning: the first item is surely 'a' by (e²−1)/(e²+1) = .76, the second 'b'
    margin = (math.e**2 - 1) / (math.e**2 + 1)
    for theta, now in ((margin - .01, [0, 1]), (margin + .01, [1, 1])):
        cb = Correct(theta, warm_up=0.)
        two_items(cb, lr=0.)
        assert cb.now.tolist() == now and cb.given.tolist() == [1, 1]
    table = two_items(cb := Correct(.5, 0., clean=['a', 'b']), lr=0.) and cb.changes()
    assert table.values.tolist() == [[0, 'b', 'a', True]]
    two_items(cb := Correct(.5, 0., [1, 1]), lr=0.)
    assert cb.changes().right.tolist() == [False]

def test_it_trains_with_the_corrected_label_after_the_warm_up():
    look = Idxs()
    two_items(Correct(.5, .5), look, epochs=4, lr=0.)
    first = [dict(zip(i, y))[0] for _, i, y in look.seen]
    assert first == [1, 1, 0, 0]
    # one epoch has nothing to go by
    two_items(cb := Correct(.5, 0.), epochs=1, lr=0.)
    assert cb.changes().empty

def test_theta_falls():
    class Thetas(Callback):
        order = 90
        def __init__(self): self.seen = []
        def before_train(self): self.seen.append(round(cb.theta_now(), 6))
    two_items(cb := Correct((.9, .5), .2), look := Thetas(), epochs=5)
    assert look.seen == [.9, .9, .8, .7, .6]

# They do what they are for

@pytest.mark.parametrize('cb', [lambda right: Correct((.6, .4), .2, right),
                                lambda right: ELR(.7, 3., right)])
def test_most_of_what_is_disbelieved_is_wrong(cb):
    gen = torch.Generator().manual_seed(0)
    right = [k % 3 for k in range(240)]
    told = add_label_noise(right, .3)
    x = torch.randn(240, 6, generator=gen) + 4 * torch.eye(6)[right]
    ds = type('Set', (list,), dict(c=3, vocab=list('abc')))(zip(x, torch.tensor(told)))
    dls = DataLoaders(DataLoader(ds, 16, shuffle=True, device='cpu'), device='cpu')
    cb = cb(right)
    learn = learner(lambda: nn.Linear(6, 3), dls=dls, loss_func=CrossEntropyLossFlat())
    learn.fit(15, 1e-2, cbs=cb)
    found = cb.changes()
    assert found.right.mean() > .85 and found.right.sum() > .8 * 72
    assert ['abc'[told[k]] for k in found.item] == found.given.tolist()

def test_it_says_how_many(capsys):
    from sotavision.core import display
    dls, right = noisy_loaders()
    display.progress.hushed = False
    learner(dls=dls).fit(4, 1e-3, cbs=[Correct(.2, 0.), ELR(clean=right)])
    said = capsys.readouterr().out.splitlines()
    assert 'ProgressiveLabelCorrection changed' in said[-2] and 'of 80 labels.' in said[-2]
    assert 'ELR disbelieves' in said[-1] and 'of them rightly.' in said[-1]

# Cut off, and gone on with

class Cut(Callback):
    order, in_lr_find = 95, False
    def __init__(self, step): self.step = step
    def after_batch(self):
        if self.training and self.train_iter == self.step: raise RuntimeError('cut')

@pytest.mark.parametrize('cb', [lambda: Correct((.3, .05), .2), lambda: ELR(.7, 3.)])
@pytest.mark.parametrize('step', [9, 20])
@pytest.mark.parametrize('every', ['epoch', 3])
def test_resumes_bit_for_bit(cb, step, every, tmp_path):
    from sotavision.training.checkpoints import Checkpoint
    def run(cut, **kw):
        made = cb()
        set_seed(5)
        learn = learner(deep, dls=noisy_loaders()[0], cbs=[Recorder(), made])
        try: learn.fit_one_cycle(4, 3e-2, cbs=[Cut(step)] if cut else None, **kw)
        except RuntimeError as e: assert str(e) == 'cut'
        return weights(learn), made.state_dict(), made.changes().values.tolist()
    whole = run(False)
    run(True, checkpoint=Checkpoint(tmp_path/'ck', every))
    again = run(False, checkpoint=Checkpoint(tmp_path/'ck', every), resume=True)
    assert same(whole[0], again[0]) and same(whole[1], again[1]) and whole[2] == again[2]
    assert whole[2] or cb().name == 'ELR'

def test_a_new_training_begins_anew_and_a_part_of_one_goes_on():
    cb = Correct(.2, 0.)
    learn = learner(deep, cbs=[Recorder(), cb])
    learn.fit(1)
    learn.recorder.goes_on = True
    learn.fit(1, 0.)
    assert cb.changes() is not None and (cb.probs > 0).any()
    before = cb.probs
    learn.fit(1, 0.)
    assert cb.probs is before
    learn.recorder.goes_on = False
    learn.fit(1, 0.)
    assert cb.probs is not before

# What cannot be

class Pairs(tud.Dataset):
    c, vocab = 3, list('abc')
    def __len__(self): return 12
    def __getitem__(self, k): return torch.ones(64), k % 3

@pytest.mark.parametrize('cb', [ELR, Correct])
@pytest.mark.parametrize('other', [MixUp, CutMix])
def test_mixtures_are_refused(cb, other):
    with pytest.raises(ValueError, match=f'{other.__name__} shows it mixtures'):
        learner().fit(1, cbs=[cb(), other()])

@pytest.mark.parametrize('cb', [ELR, Correct])
def test_loaders_that_do_not_tell_are_refused(cb):
    dls = DataLoaders(tud.DataLoader(Pairs(), 4, shuffle=True), device='cpu')
    learn = Learner(dls, linear(), CrossEntropyLossFlat(), default_cbs=False)
    with pytest.raises(ValueError, match='which items a batch holds'): learn.fit(1, cbs=cb())

@pytest.mark.parametrize('make, word', [
    (lambda: ELR(beta=1), 'beta=1'), (lambda: ELR(beta=-.1), 'beta'), (lambda: ELR(lam=-1), 'lam'),
    (lambda: ELR(lam=float('nan')), 'lam'), (lambda: Correct(0), 'theta'),
    (lambda: Correct((.5, .4, .3)), 'theta'), (lambda: Correct(('a', .3)), 'theta'),
    (lambda: Correct(warm_up=-1), 'warm_up'), (lambda: ELR().changes(), 'no training'),
    (lambda: learner().fit(1, cbs=ELR(clean=['a'])), 'clean has 1 labels'),
])
def test_choices_that_make_no_sense(make, word):
    with pytest.raises(ValueError, match=word): make()

def test_soft_targets_are_not_corrected():
    from sotavision.data.datablock import RegressionBlock
    b = DataBlock((ImageBlock('L'), RegressionBlock(3)), get_x=lambda o: o[0],
                  get_y=lambda o: np.eye(3)['abc'.index(o[1])].astype('float32'),
                  splitter=IndexSplitter(list(range(10))))
    dls = b.dataloaders(items_of(42), bs=8, device='cpu')
    with pytest.raises(ValueError, match='one class an item'):
        learner(dls=dls, loss_func=CrossEntropyLossFlat()).fit(1, cbs=Correct())
    learner(dls=dls, loss_func=CrossEntropyLossFlat()).fit(1, cbs=ELR())
