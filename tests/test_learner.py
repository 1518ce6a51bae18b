"The training loop with what people get wrong: events and their order, cut phases, crashes, state that must not leak, files."
import contextlib, copy, io, math, random, re, sys
from functools import partial
from operator import itemgetter

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sotavision.core import set_seed
from sotavision.data.block import CategoryBlock, DataBlock, ImageBlock, MaskBlock, MultiCategoryBlock, RegressionBlock
from sotavision.data.files import IndexSplitter
from sotavision.data.loaders import DataLoader, DataLoaders
from sotavision.training import inference, schedules
from sotavision.training.callbacks import (EVENTS, Callback, CancelBackwardException, CancelBatchException, CancelEpochException, CancelFitException,
                                           CancelStepException, CancelTrainException, CancelValidException, DivergedError)
from sotavision.training.learner import Learner
from sotavision.training.losses import BCEWithLogitsLossFlat, CrossEntropyLossFlat, MSELossFlat
from sotavision.training.metrics import Metric, accuracy, accuracy_multi
from sotavision.training.optimizers import SGD, get_hypers
from sotavision.training.recorder import ProgressCallback, Recorder
from sotavision.training.schedules import ParamScheduler, one_cycle

FASTAI_BATCH = 'before_batch after_pred after_loss before_backward after_backward before_step after_step after_batch'.split()
FASTAI_VALID = 'before_batch after_pred after_loss after_batch'.split()

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
    return [((torch.rand(8, 8, generator=gen) * 100 + 50 * (i % 3)).byte().numpy(), 'abc'[i % 3]) for i in range(n)]

def block(target=CategoryBlock, get_y=itemgetter(1), valid=range(0, 10)):
    return DataBlock((ImageBlock('L'), target), get_x=itemgetter(0), get_y=get_y, splitter=IndexSplitter(list(valid)))

def loaders(n=42, bs=8, **kwargs): return block().dataloaders(items_of(n), bs=bs, device='cpu', **kwargs)

def linear(n_out=3): return nn.Sequential(nn.Flatten(), nn.Linear(64, n_out))

def deep(): return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 8), nn.ReLU(), nn.Dropout(.2), nn.Linear(8, 3))

def learner(model=None, seed=0, dls=None, **kwargs):
    set_seed(seed)
    kwargs = dict(default_cbs=False, cbs=Recorder(), precision='fp32') | kwargs
    return Learner(loaders() if dls is None else dls, linear() if model is None else model(), **kwargs)

def weights(learn): return [o.clone() for o in learn.model.state_dict().values()]

def same(a, b):
    if torch.is_tensor(a): return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict): return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    return len(a) == len(b) and all(map(same, a, b)) if isinstance(a, (list, tuple)) else a == b

class Spy(Callback):
    "Writes down every event, and raises `error` at event `at`, the `nth` time."
    order = -50
    def __init__(self, at=None, error=None, nth=1): self.heard, self.at, self.error, self.nth = [], at, error, nth
    def hear(self, event):
        self.heard.append(event)
        if event == self.at and self.heard.count(event) == self.nth: raise self.error
for o in EVENTS: setattr(Spy, o, lambda self, event=o: self.hear(event))

# Events

def test_events_come_in_fastais_order():
    spy, learn = Spy(), learner(dls=loaders(30, bs=10))
    learn.fit(2, cbs=spy)
    epoch = ['before_epoch', 'before_train', *FASTAI_BATCH * 2, 'after_train', 'before_validate', *FASTAI_VALID, 'after_validate', 'after_epoch']
    assert [o for o in spy.heard if o not in ('before_pred', 'before_loss')] == ['before_fit', *epoch * 2, 'after_fit', 'cleanup_fit']
    assert spy.heard[spy.heard.index('after_pred') - 1] == 'before_pred' and spy.heard[spy.heard.index('after_loss') - 1] == 'before_loss'

def test_order_decides_who_hears_first():
    said = []
    class Say(Callback):
        def __init__(self, name, order): self.word, self.order = name, order
        def before_fit(self): said.append(self.word)
    learner().fit(1, cbs=[Say('c', 5), Say('a', -5), Say('b1', 0), Say('b2', 0)])
    assert said == ['a', 'b1', 'b2', 'c']

def test_names_that_readers_know():
    class Look(Callback):
        def after_loss(self):
            assert self.x is self.xb[0] and self.y is self.yb[0] and len(self.x) == len(self.pred) and self.loss.requires_grad is False
            assert self.loss_grad.requires_grad is self.training and 0 <= self.iter < self.n_iter and 0 <= self.pct_train < 1.0001
            assert self.dl is (self.dls.train if self.training else self.dls.valid) and self.epoch in (0, 1) and self.n_epoch == 2
            assert self.model is self.learn.model and self.opt is self.learn.opt and self.model.training is self.training
    learn = learner(metrics=accuracy)
    learn.fit(2, cbs=Look())
    rec = learn.recorder
    assert learn.train_iter == 8 == len(rec.losses) == len(rec.lrs) and len(rec.values) == 2 and len(rec.values[0]) == 3
    assert rec.metric_names == ['epoch', 'train_loss', 'valid_loss', 'accuracy', 'time'] and list(rec.table().columns) == rec.metric_names

CUT = [('before_batch', CancelBatchException, 'batch'), ('after_pred', CancelBatchException, 'batch'), ('after_backward', CancelBatchException, 'batch'),
       ('before_backward', CancelBackwardException, 'backward'), ('before_step', CancelStepException, 'step'), ('after_batch', CancelTrainException, 'train'),
       ('before_train', CancelTrainException, 'train'), ('before_validate', CancelValidException, 'validate'), ('before_epoch', CancelEpochException, 'epoch'),
       ('after_loss', CancelEpochException, 'epoch'), ('after_batch', CancelFitException, 'fit'), ('before_fit', CancelFitException, 'fit'),
       ('after_epoch', CancelFitException, 'fit'), ('before_validate', CancelFitException, 'fit')]

@pytest.mark.parametrize('at,error,phase', CUT, ids=lambda o: o if isinstance(o, str) else o.__name__)
def test_a_cut_phase_still_ends_and_the_learner_goes_on(at, error, phase):
    spy, learn = Spy(at, error), learner(metrics=accuracy, default_cbs=True, cbs=None)
    learn.fit(2, cbs=spy)
    i = spy.heard.index(f'after_cancel_{phase}')
    assert spy.heard[i + 1] == f'after_{phase}' and spy.heard[-1] == 'cleanup_fit'
    assert spy.heard.count(f'after_cancel_{phase}') == 1
    if phase == 'fit': assert len(learn.recorder.rows) < 2
    else: assert len(learn.recorder.rows) == 2
    assert spy not in learn.cbs and not learn.training
    learn.fit(1)
    assert len(learn.recorder.values) == 1 and None not in learn.recorder.values[0]

def test_cut_steps_move_nothing():
    class NoStep(Callback):
        def before_step(self): raise CancelStepException
    class NoBackward(Callback):
        def before_backward(self): raise CancelBackwardException
    for cb in NoStep, NoBackward:
        learn = learner(opt_func=SGD)
        before = weights(learn)
        learn.fit(1, cbs=cb)
        assert same(before, weights(learn)) and len(learn.recorder.losses) == 4

def test_gathered_gradients_equal_one_large_batch():
    class Gather(Callback):
        def after_loss(self): self.learn.loss_grad = self.loss_grad / 4
        def after_backward(self):
            if (self.iter + 1) % 4: raise CancelBatchException
    data = [(torch.randn(1, 8, 8), i % 3) for i in range(32)]
    def train(bs, cbs=None):
        dls = DataLoaders(DataLoader(data, bs=bs), DataLoader(data, bs=32), device='cpu')
        learn = learner(dls=dls, loss_func=F.cross_entropy, opt_func=SGD)
        learn.fit(2, .1, cbs=cbs)
        return learn.model[1].weight
    assert torch.allclose(train(8, Gather()), train(32), atol=1e-6)

# Crashes

@pytest.mark.parametrize('error', [KeyboardInterrupt, ValueError('broken')])
@pytest.mark.parametrize('at', ['before_fit', 'before_epoch', 'after_pred', 'after_backward', 'after_batch', 'before_validate', 'after_epoch', 'after_fit'])
def test_after_a_crash_the_learner_is_usable(at, error):
    spy, learn = Spy(at, error, nth=2 if 'fit' not in at else 1), learner(metrics=accuracy, default_cbs=True, cbs=None)
    own = list(learn.cbs)
    with pytest.raises((KeyboardInterrupt, ValueError)): learn.fit(3, cbs=spy)
    assert spy.heard[-1] == 'cleanup_fit' and learn.cbs == own and learn.training is False and learn.model.training is False
    assert all(p.grad is None for p in learn.model.parameters()) and learn.loss_grad is None
    if at in ('before_validate', 'after_epoch'): assert len(learn.recorder.rows) == 1   # what was finished stays
    learn.fit(1)
    assert len(learn.recorder.rows) == 1 and len(learn.validate()) == 2

def test_bad_callbacks_change_nothing():
    learn = learner()
    class Misspelt(Callback):
        def after_bach(self): pass
    for bad, text in ((Misspelt(), "'after_batch'"), ('text', 'not a Callback'), (print, 'not a Callback')):
        with pytest.raises(TypeError, match=text): learn.fit(1, cbs=[Spy(), bad])
        with pytest.raises(TypeError, match=text): learn.add_cbs([Spy(), bad])
        assert [o.name for o in learn.cbs] == ['Recorder']

def test_a_callback_must_say_whom_it_writes_to():
    class Shadow(Callback):
        def before_batch(self): self.pred = 1
    with pytest.raises(AttributeError, match='self.learn.pred'): learner().fit(1, cbs=Shadow())

def test_recorder_given_for_one_fit_leaves_again():
    learn, other = learner(), Recorder()
    own = learn.recorder
    learn.fit(1, cbs=other)
    assert learn.recorder is own and len(other.rows) == len(own.rows) == 1

# Optimizer and schedule

def test_optimizer_is_kept_and_can_be_reset():
    learn = learner()
    learn.fit(1)
    opt, steps = learn.opt, lambda: max(float(s['step']) for s in learn.opt.state.values())
    learn.fit(1)
    assert learn.opt is opt and steps() == 8
    learn.fit(1, reset_opt=True)
    assert learn.opt is not opt and steps() == 4
    learn.fit_one_cycle(1, reset_opt=True)
    assert steps() == 4

def test_rate_and_decay_of_fit():
    learn = learner(lr=.5, wd=.1)
    learn.fit(1)
    assert set(learn.recorder.lrs) == {.5}
    learn.fit(1, .25, wd=.2)
    assert set(learn.recorder.lrs) == {.25} and [g['weight_decay'] for g in learn.opt.param_groups] == [.2, 0]
    with pytest.raises(ValueError, match='lr=-1'): learn.fit(1, -1)

@pytest.mark.parametrize('start', [0, 1, 3])
def test_one_cycle_follows_its_formula_from_any_epoch(start):
    learn = learner()
    learn.fit_one_cycle(4, .1, div=10, div_final=100, pct_start=.3, moms=(.9, .8, .95), start_epoch=start)
    lr, mom = one_cycle(.3, .01, .1, .001), one_cycle(.3, .9, .8, .95)
    pct = [(e + i / 4) / 4 for e in range(start, 4) for i in range(4)]
    assert learn.recorder.lrs == [lr(p) for p in pct] and learn.recorder.moms == [mom(p) for p in pct]
    assert [r[0] for r in learn.recorder.rows] == list(range(start, 4)) and learn.train_iter == 16

def test_one_cycle_without_momentum():
    learn = learner(opt_func=lambda groups, lr: torch.optim.Adagrad(groups, lr=lr))
    learn.fit_one_cycle(1, .1)
    assert all(math.isnan(m) for m in learn.recorder.moms)

def test_schedule_goes_on_smoothly_when_the_loaders_change_midway():
    class Larger(Callback):
        def before_epoch(self):
            if self.epoch == 2: self.learn.dls = loaders(bs=4)
    learn = learner()
    learn.fit_one_cycle(4, .1, cbs=Larger())
    f = one_cycle(.25, .1 / 25, .1, .1 / 1e5)
    pct = [(e + i / n) / 4 for e, n in enumerate((4, 4, 8, 8)) for i in range(n)]
    assert learn.recorder.lrs == [f(p) for p in pct] and learn.recorder.steps == [4, 8, 16, 24]

def test_new_loaders_between_trainings():
    learn = learner(metrics=accuracy)
    learn.fit(1)
    learn.dls = loaders(60, bs=5)
    learn.fit(1)
    assert len(learn.recorder.losses) == 10 and len(learn.get_preds(0)[0]) == 50

def test_an_optimizer_for_another_model_is_noticed():
    learn = learner()
    learn.fit(1)
    learn.model = linear()
    with pytest.raises(ValueError, match='reset_opt=True'): learn.fit(1)
    learn.fit(1, reset_opt=True)

@pytest.mark.parametrize('args', [dict(n_epoch=0), dict(n_epoch=-1), dict(n_epoch=2, start_epoch=2), dict(n_epoch=2, start_epoch=-1)])
def test_no_epoch_to_train(args):
    for fit in learner().fit, learner().fit_one_cycle:
        with pytest.raises(ValueError, match='no epoch to train'): fit(**args)

def test_no_batch_to_train():
    data = [(torch.randn(1, 8, 8), 0)] * 5
    dls = DataLoaders(DataLoader(data, bs=8, drop_last=True), DataLoader(data, bs=8), device='cpu')
    with pytest.raises(ValueError, match='no batch: 5 items with bs=8'): learner(dls=dls, loss_func=F.cross_entropy).fit(1)

# What must not change anything

class Dice(Metric):
    "Draws from every generator."
    def reset(self): self.n = 0
    def accumulate(self, preds, targs): self.n += torch.rand(()) + random.random() + np.random.rand()
    value = property(lambda self: float(self.n))

def test_metrics_and_validation_never_change_training():
    runs = [learner(deep, metrics=m).fit(2) for m in (None, accuracy, [accuracy, Dice()])]
    runs.append(learner(deep, dls=DataLoaders(loaders().train, device='cpu')).fit(2))   # no validation at all
    assert all(same(weights(runs[0]), weights(o)) for o in runs[1:])
    assert runs[-1].recorder.values[0][1] is None and runs[-1].recorder.values[0][0] is not None

def test_same_seed_same_run_and_showing_does_not_matter(capsys):
    kinds = dict(), dict(default_cbs=True, cbs=None), dict(seed=1)
    a, b, c = (learner(deep, metrics=accuracy, **o).fit_one_cycle(2, 1e-2) for o in kinds)
    assert same(weights(a), weights(b)) and a.recorder.values == b.recorder.values and not same(weights(a), weights(c))

def state(learn):
    return (weights(learn), torch.get_rng_state(), random.getstate()[1], np.random.get_state()[1].tolist(), [m.training for m in learn.model.modules()],
            list(learn.recorder.losses), learn.recorder.values, learn.cbs, learn.training, learn.metrics, set(vars(learn)))

@pytest.mark.parametrize('ask', [
    lambda l: l.validate(), lambda l: l.validate(0), lambda l: l.get_preds(0, with_decoded=True, with_loss=True), lambda l: l.get_preds(dl=l.dls.train),
    lambda l: l.predict(items_of(1)[0]), lambda l: l.show_results(max_n=4), lambda l: l.show_results(0, seed=3), lambda l: l.get_preds(dl=l.dls.test_dl(items_of(3)))])
@pytest.mark.parametrize('mode', [True, False])
def test_questions_change_nothing(ask, mode):
    import matplotlib.pyplot as plt
    learn = learner(deep, metrics=[accuracy, Dice()])
    learn.fit(1)
    learn.model.train(mode); learn.model[1].train(not mode)
    before = state(learn)
    ask(learn)
    plt.close('all')
    assert same(before, state(learn))

def test_questions_in_mid_training_change_nothing():
    class Ask(Callback):
        def after_backward(self): self.learn.get_preds(); self.learn.validate()
        def after_batch(self):
            if not self.training: self.learn.validate()
    learn, quiet = learner(deep, metrics=accuracy).fit(2, cbs=Ask()), learner(deep, metrics=accuracy).fit(2)
    assert same(weights(learn), weights(quiet)) and learn.recorder.values == quiet.recorder.values

def test_a_failing_question_leaves_the_learner_as_it_was():
    learn = learner()
    learn.fit(1)
    learn.model.train()
    before = state(learn)
    with pytest.raises(RuntimeError): learn.get_preds(dl=[(torch.zeros(2, 7), torch.zeros(2).long())])
    assert same(before, state(learn))

def test_what_validation_leaves_can_be_trained_with():
    class Keeps(nn.Module):
        "Keeps something from its first forward pass, as position tables do."
        def __init__(self): super().__init__(); self.lin, self.scale = nn.Linear(64, 3), None
        def forward(self, x):
            if self.scale is None: self.scale = torch.ones(64) * 2
            return self.lin(x.flatten(1) * self.scale)
    learn = learner(Keeps)
    learn.validate(); learn.fit(1)

# Questions and answers

def test_predictions_of_training_items_are_in_their_order():
    dls = loaders(45, bs=8)   # shuffled, and a last batch that is dropped in training
    learn = learner(dls=dls)
    learn.fit(1)
    probs, targs = learn.get_preds(0)
    assert len(dls.train) * 8 < len(probs) == len(dls.train_ds) and [dls.vocab[t] for t in targs] == dls.train_ds.labels()
    one = [learn.predict(o)[2] for o in dls.train_ds.items[:3]]
    assert torch.allclose(torch.stack(one), probs[:3], atol=1e-6) and torch.allclose(probs.sum(1), torch.ones(len(probs)))

def test_training_transforms_do_not_reach_predictions():
    from sotavision.augment.presize import FlipItem
    b = block()
    b.item_tfms = [FlipItem(p=1.)]
    learn = learner(dls=b.dataloaders(items_of(42), bs=8, device='cpu'))
    assert torch.allclose(learn.get_preds(0)[0], learn.get_preds(dl=learn.dls.test_dl(learn.dls.train_ds.items))[0])

def test_metrics_weigh_a_last_batch_of_one_like_one_item():
    dls = block(valid=range(9)).dataloaders(items_of(42), bs=8, val_bs=4, device='cpu')   # 4 + 4 + 1
    learn = learner(dls=dls, metrics=accuracy)
    learn.fit(1)
    probs, targs = learn.get_preds()
    assert learn.validate()[1] == pytest.approx((probs.argmax(1) == targs).float().mean().item()) == learn.recorder.values[-1][2]
    assert learn.validate()[0] == pytest.approx(-probs[range(9), targs].log().mean().item(), abs=1e-5)

@pytest.mark.parametrize('loss', [F.cross_entropy, nn.CrossEntropyLoss(), CrossEntropyLossFlat(), partial(F.cross_entropy, label_smoothing=.1), None])
def test_losses_of_every_kind(loss):
    learn = learner(loss_func=loss, metrics=accuracy)
    learn.fit(2, .01)
    probs, targs, answers, losses = learn.get_preds(with_decoded=True, with_loss=True)
    assert torch.allclose(probs.sum(1), torch.ones(10)) and torch.equal(answers, probs.argmax(1)) and losses.shape == (10,)
    assert losses.mean().item() == pytest.approx(learn.validate()[0], abs=1e-5) and learn.predict(items_of(1)[0])[0] in 'abc'

def test_a_loss_that_is_not_one_number():
    with pytest.raises(ValueError, match=r'loss has shape \(8,\)'): learner(loss_func=partial(F.cross_entropy, reduction='none')).fit(1)
    learn = learner(loss_func=lambda p, t: F.cross_entropy(p, t))
    with pytest.raises(ValueError, match='no `reduction`'): learn.get_preds(with_loss=True)

def target_learner(target, get_y, model, n_out, **kwargs):
    dls = block(target, get_y).dataloaders(items_of(42), bs=8, device='cpu')
    return learner(model, dls=dls, **kwargs)

def test_multi_label():
    learn = target_learner(MultiCategoryBlock, lambda o: ['odd'] * (o[1] == 'b') + ['high'] * (o[1] == 'c'), lambda: linear(2), 2, metrics=accuracy_multi)
    learn.fit(3, .1)
    probs, targs, answers = learn.get_preds(with_decoded=True)
    assert isinstance(learn.loss_func, BCEWithLogitsLossFlat) and answers.dtype == torch.bool and probs.shape == targs.shape == (10, 2)
    assert isinstance(learn.predict(items_of(1)[0])[0], list)
    learn.show_results(max_n=4)

def test_regression():
    learn = target_learner(RegressionBlock, lambda o: float(o[0].mean()) / 255, lambda: linear(1), 1)
    learn.fit(3, .01)
    preds, targs, losses = learn.get_preds(with_loss=True)
    assert isinstance(learn.loss_func, MSELossFlat) and preds.shape == (10, 1) and losses.shape == (10,) and learn.recorder.values[-1][1] < learn.recorder.values[0][1]
    learn.predict(items_of(1)[0]); learn.show_results(max_n=4)

def test_segmentation():
    learn = target_learner(lambda: MaskBlock(['dark', 'light']), lambda o: torch.as_tensor(o[0] > 100).long(), lambda: nn.Conv2d(1, 2, 1), 2, metrics=partial(accuracy, axis=1))
    learn.fit(3, .1)
    probs, targs, answers, losses = learn.get_preds(with_decoded=True, with_loss=True)
    assert probs.shape == (10, 2, 8, 8) and targs.shape == answers.shape == (10, 8, 8) and losses.shape == (10,)
    assert losses.mean().item() == pytest.approx(learn.validate()[0], abs=1e-5)
    learn.predict(items_of(1)[0]); learn.show_results(max_n=4)

def test_items_without_labels():
    learn = learner()
    dl = learn.dls.test_dl(items_of(5))
    preds, targs, losses = learn.get_preds(dl=dl, with_loss=True)
    assert preds.shape == (5, 3) and targs is None and losses is None
    learn.show_results(dl=dl)
    with pytest.raises(ValueError, match='no labels'): learn.validate(dl=dl)
    assert len(learn.validate(dl=learn.dls.test_dl(items_of(5), with_labels=True))) == 1

def test_batches_from_anywhere():
    learn = learner()
    batch = learn.dls.valid.one_batch()
    assert torch.equal(learn.get_preds(dl=[batch])[0], learn.get_preds()[0])

def test_width_of_the_model():
    with pytest.raises(ValueError, match='2 outputs and the data 3 classes.*n_out=3'): learner(partial(linear, 2)).fit(1)
    with pytest.warns(UserWarning, match='7 outputs and the data 3 classes'): learner(partial(linear, 7)).fit(1)

def test_a_loss_that_cannot_be_guessed():
    data = [(torch.randn(1, 8, 8), 0)] * 9
    with pytest.raises(ValueError, match='give loss_func'): Learner(DataLoaders(DataLoader(data), DataLoader(data), device='cpu'), linear())

# Divergence and precision

def test_divergence_says_what_to_try():
    learn = learner(loss_func=lambda p, t: F.cross_entropy(p, t) * float('nan'))
    before = weights(learn)
    with pytest.raises(DivergedError, match=r'nan in epoch 0, at learning rate 0.5.*ten times smaller'): learn.fit(1, .5)
    assert same(before, weights(learn)) and learn.recorder.rows == []   # stopped before the step

def test_divergence_by_rate():
    data = [(torch.randn(1, 8, 8), torch.randn(3)) for _ in range(16)]
    dls = DataLoaders(DataLoader(data, bs=4), DataLoader(data, bs=16), device='cpu')
    learn = learner(dls=dls, loss_func=F.mse_loss, opt_func=SGD)
    with pytest.raises(DivergedError): learn.fit(50, 1e3)
    learn.model = linear()
    learn.fit(1, .01, reset_opt=True)
    assert math.isfinite(learn.recorder.values[0][0])

@pytest.mark.parametrize('precision,atol', [('bf16', .05), ('fp16', .01), ('auto', .05)])
def test_precisions_agree_roughly(precision, atol):
    a, b = (learner(opt_func=SGD, lr=.1, precision=p, metrics=accuracy).fit(3) for p in ('fp32', precision))
    assert torch.allclose(a.get_preds()[0], b.get_preds()[0], atol=atol)
    assert b.get_preds()[0].dtype == torch.float32 and all(p.dtype == torch.float32 for p in b.model.parameters())

def test_callbacks_see_true_gradients_in_fp16():
    class Norm(Callback):
        def before_fit(self): self.norms = []
        def before_step(self): self.norms.append(nn.utils.get_total_norm([p.grad for p in self.model.parameters()]).item())
    norms = [Norm(), Norm()]
    for cb, p in zip(norms, ('fp32', 'fp16')): learner(precision=p, opt_func=SGD, lr=.1).fit(1, cbs=cb)
    assert np.allclose(norms[0].norms, norms[1].norms, rtol=.05)

# Files

def test_save_and_load_go_round(tmp_path):
    a = learner(deep, path=tmp_path)
    a.fit(1, .01)
    file = a.save('one')
    assert file == tmp_path/'models'/'one.pth' and [o.name for o in file.parent.iterdir()] == ['one.pth']
    wanted, memory = weights(a), copy.deepcopy(a.opt.state_dict()['state'])
    b = learner(deep, seed=5, path=tmp_path).load('one')   # before any fit
    assert same(wanted, weights(b)) and same(memory, b.opt.state_dict()['state'])
    for learn in a, b:
        set_seed(9)
        learn.fit(1, .01)
    assert same(weights(a), weights(b))                    # training goes on as if never interrupted
    assert learner(deep, path=tmp_path).load('one', with_opt=False).opt is None

def test_names_of_files(tmp_path):
    learn = learner(path=tmp_path)
    assert learn.save('stage-1.5').name == 'stage-1.5.pth' and learn.save(tmp_path/'x.pt') == tmp_path/'x.pt' and learn.save('sub/y').parent.name == 'sub'
    learn.load('stage-1.5'); learn.load(tmp_path/'x.pt'); learn.load('sub/y')

def test_a_bare_state_dict_loads(tmp_path):
    learn = learner(path=tmp_path)
    torch.save(learner(seed=3).model.state_dict(), tmp_path/'bare.pth')
    learn.load(tmp_path/'bare')
    assert same(weights(learn), weights(learner(seed=3)))

class Evil:
    def __reduce__(self): return print, ('code ran',)

def test_bad_files_change_nothing(tmp_path, capsys):
    learn = learner(path=tmp_path, seed=1)
    learn.fit(1)
    learn.save('good')
    models = tmp_path/'models'
    good = (models/'good.pth').read_bytes()
    for name, data in dict(cut=good[:len(good) // 2], end=good[:-500], empty=b'', text=b'hello', zip=b'PK\x03\x04' + b'0' * 99).items(): (models/f'{name}.pth').write_bytes(data)
    torch.save(dict(model=Evil()), models/'evil.pth'); torch.save([1, 2], models/'list.pth')
    torch.save(dict(model=linear(4).state_dict()), models/'wide.pth'); torch.save(dict(model=deep().state_dict()), models/'deep.pth')
    before = weights(learn)
    for name, text in dict(cut='damaged', end='damaged', empty='damaged', text='damaged', zip='damaged', evil=r'code \(.*print\).*refused', list='holds a list',
                           wide=r'1.weight is \(4, 64\) there and \(3, 64\) here', deep='another model').items():
        with pytest.raises(ValueError, match=text): learn.load(name)
        assert same(before, weights(learn)), name
    with pytest.raises(FileNotFoundError, match="Did you mean 'good.pth'.*There are: cut.pth"): learn.load('god')
    with pytest.raises(FileNotFoundError, match='No weights at'): learn.load('elsewhere/none')
    assert 'code ran' not in capsys.readouterr().out

def test_weights_of_other_classes_are_refused(tmp_path):
    learner(path=tmp_path).save('abc')
    dls = block(get_y=lambda o: o[1].upper()).dataloaders(items_of(42), bs=8, device='cpu')
    with pytest.raises(ValueError, match=r"know the classes \['a', 'b', 'c'\], the data has \['A', 'B', 'C'\]"): learner(dls=dls, path=tmp_path).load('abc')
    learner(dls=dls, path=tmp_path).load('abc', strict=False)

def test_an_optimizer_that_does_not_fit(tmp_path):
    learn = learner(path=tmp_path)
    learn.fit(1); learn.save('adam')
    other = learner(path=tmp_path, splitter=lambda m: [[m[1].weight], [m[1].bias]], wd_bn_bias=True)
    other.opt_func = lambda groups, lr: SGD([dict(params=[p for g in groups for p in g['params']])], lr=lr)
    with pytest.raises(ValueError, match='with_opt=False'): other.load('adam')

def test_a_save_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    learn = learner(path=tmp_path)
    file = learn.save('x')
    old = file.read_bytes()
    def broken(state, part): part.write_bytes(b'half'); raise OSError('disk full')
    monkeypatch.setattr(inference.torch, 'save', broken)
    with pytest.raises(OSError): learn.save('x')
    assert file.read_bytes() == old and [o.name for o in file.parent.iterdir()] == ['x.pth']

# Table and bar

class Terminal(io.StringIO):
    def isatty(self): return True

def test_plain_lines_where_there_is_no_terminal(capsys):
    learner(default_cbs=True, cbs=None, metrics=accuracy).fit(2)
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert len(lines) == 3 and '\r' not in out and '\033' not in out and len({len(o) for o in lines}) == 1
    assert lines[0].split() == ['epoch', 'train_loss', 'valid_loss', 'accuracy', 'time'] and lines[2].split()[0] == '1'

def test_the_bar_redraws_on_a_terminal_and_goes_away(monkeypatch):
    monkeypatch.setattr(sys, 'stdout', Terminal())
    learner(default_cbs=False, cbs=[Recorder(), ProgressCallback(every=0)], metrics=accuracy).fit(2)
    out = sys.stdout.getvalue()
    assert 'epoch 1/2, training 1/4' in out and 'validating 1/1' in out and 'left' in out and out.endswith('\r\033[K')
    shown = [o.split('\r')[-1].replace('\033[K', '') for o in out.split('\n')]
    assert len(shown) == 4 and len({len(o) for o in shown[:3]}) == 1 and shown[3] == ''

def test_no_bar_is_silent(capsys):
    learn = learner(default_cbs=True, cbs=None)
    with learn.no_bar(): learn.fit(1)
    assert capsys.readouterr().out == '' and len(learn.recorder.rows) == 1
    learn.fit(1)
    assert 'train_loss' in capsys.readouterr().out

def test_progress_without_recorder():
    with pytest.raises(ValueError, match='Recorder'): learner(cbs=ProgressCallback()).fit(1)

def test_time_left_counts_from_where_the_training_began(monkeypatch):
    monkeypatch.setattr(sys, 'stdout', Terminal())
    learner(cbs=[Recorder(), ProgressCallback(every=0)]).fit(4, start_epoch=2)
    assert 'epoch 3/4' in sys.stdout.getvalue()

def test_plots_have_names():
    import matplotlib.pyplot as plt
    learn = learner(metrics=[accuracy, Dice()])
    learn.fit(2)
    for plot, n in ((learn.recorder.plot_loss, 1), (learn.recorder.plot_sched, 2), (learn.recorder.plot_metrics, 2)):
        plot()
        assert len(plt.gcf().axes) == n and all(ax.get_xlabel() and ax.get_ylabel() and ax.get_title() for ax in plt.gcf().axes)
        plt.close('all')

# Keywords

@pytest.mark.parametrize('call', [
    lambda l: Learner(l.dls, l.model, metric=accuracy), lambda l: l.fit(1, lrs=1), lambda l: l.fit_one_cycle(1, lr=1), lambda l: l.validate(metrics=1),
    lambda l: l.get_preds(shuffled=False), lambda l: l.predict(1, rm_type_tfms=0), lambda l: l.show_results(max=3), lambda l: l.save('x', pickle_protocol=2),
    lambda l: l.load('x', device='cpu'), lambda l: ParamScheduler({}, x=1), lambda l: Recorder(add_time=True), lambda l: ProgressCallback(x=1),
    lambda l: l.recorder.plot_loss(log=True), lambda l: l.add_cbs([], x=1)])
def test_unknown_keywords_are_refused(call):
    with pytest.raises(TypeError, match='unexpected keyword|takes no'): call(learner())

def test_wrong_choices_are_named():
    with pytest.raises(ValueError, match="'bf61'.*Did you mean 'bf16'"): learner(precision='bf61')
    with pytest.raises(TypeError, match='not a metric'): learner(metrics='accuracy')
    assert repr(learner()) == 'Learner: Sequential with 195 parameters, ' + repr(CrossEntropyLossFlat())
