"The training loop: events and their order, cut phases, crashes, optimizer and schedule."
import math
import operator

import pytest
import torch
import torch.nn.functional as F

from learners import (
    learner,
    linear,
    loaders,
    one_thread,  # noqa: F401 (a fixture)
    same,
    weights,
)
from sotavision.data.loaders import DataLoader, DataLoaders
from sotavision.objectives.metrics import accuracy
from sotavision.training.callback import (
    EVENTS,
    Callback,
    CancelBackwardException,
    CancelBatchException,
    CancelEpochException,
    CancelFitException,
    CancelStepException,
    CancelTrainException,
    CancelValidException,
)
from sotavision.training.optimizers import SGD
from sotavision.training.recorder import Recorder
from sotavision.training.schedules import one_cycle

FASTAI_BATCH = (
    'before_batch after_pred after_loss before_backward after_backward before_step after_step '
    'after_batch'
).split()
FASTAI_VALID = 'before_batch after_pred after_loss after_batch'.split()

class Spy(Callback):
    "Writes down every event, and raises `error` at event `at`, the `nth` time."
    order = -50
    def __init__(self, at=None, error=None, nth=1):
        self.heard, self.at, self.error, self.nth = [], at, error, nth
    def hear(self, event):
        self.heard.append(event)
        if event == self.at and self.heard.count(event) == self.nth: raise self.error
for o in EVENTS: setattr(Spy, o, lambda self, event=o: self.hear(event))

# Events

def test_events_come_in_fastais_order():
    spy, learn = Spy(), learner(dls=loaders(30, bs=10))
    learn.fit(2, cbs=spy)
    epoch = [
        'before_epoch',
        'before_train',
        *FASTAI_BATCH * 2,
        'after_train',
        'before_validate',
        *FASTAI_VALID,
        'after_validate',
        'after_epoch',
    ]
    assert [o for o in spy.heard if o not in ('before_pred', 'before_loss')] == [
        'before_fit',
        *epoch * 2,
        'after_fit',
        'cleanup_fit',
    ]
    assert spy.heard[spy.heard.index('after_pred') - 1] == 'before_pred'
    assert spy.heard[spy.heard.index('after_loss') - 1] == 'before_loss'

def test_what_a_callback_does_not_have_is_said_with_its_name():
    class Mine(Callback): pass
    losses, hidden = map(operator.attrgetter, ('losses', '_hidden'))
    with pytest.raises(AttributeError, match="^Mine has no attribute 'losses'"): losses(Mine())
    mine = Mine()
    learner(cbs=mine)
    with pytest.raises(AttributeError, match="^Mine has no attribute '_hidden'"): hidden(mine)

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
            assert self.x is self.xb[0] and self.y is self.yb[0] and len(self.x) == len(self.pred)
            assert self.loss.requires_grad is False
            assert self.loss_grad.requires_grad is self.training and 0 <= self.iter < self.n_iter
            assert 0 <= self.pct_train < 1.0001
            assert self.dl is (self.dls.train if self.training else self.dls.valid)
            assert self.epoch in (0, 1) and self.n_epoch == 2
            assert self.model is self.learn.model and self.opt is self.learn.opt
            assert self.model.training is self.training
    learn = learner(metrics=accuracy)
    learn.fit(2, cbs=Look())
    rec = learn.recorder
    assert learn.train_iter == 8 == len(rec.losses) == len(rec.lrs) and len(rec.values) == 2
    assert len(rec.values[0]) == 3
    assert rec.metric_names == ['epoch', 'train_loss', 'valid_loss', 'accuracy', 'time']
    assert list(rec.table().columns) == rec.metric_names

CUT = [
    ('before_batch', CancelBatchException, 'batch'),
    ('after_pred', CancelBatchException, 'batch'),
    ('after_backward', CancelBatchException, 'batch'),
    ('before_backward', CancelBackwardException, 'backward'),
    ('before_step', CancelStepException, 'step'),
    ('after_batch', CancelTrainException, 'train'),
    ('before_train', CancelTrainException, 'train'),
    ('before_validate', CancelValidException, 'validate'),
    ('before_epoch', CancelEpochException, 'epoch'),
    ('after_loss', CancelEpochException, 'epoch'),
    ('after_batch', CancelFitException, 'fit'),
    ('before_fit', CancelFitException, 'fit'),
    ('after_epoch', CancelFitException, 'fit'),
    ('before_validate', CancelFitException, 'fit'),
]

@pytest.mark.parametrize(
    'at,error,phase', CUT, ids=lambda o: o if isinstance(o, str) else o.__name__)
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
@pytest.mark.parametrize(
    'at',
    ['before_fit', 'before_epoch', 'after_pred', 'after_backward', 'after_batch',
     'before_validate', 'after_epoch', 'after_fit'])
def test_after_a_crash_the_learner_is_usable(at, error):
    spy = Spy(at, error, nth=2 if 'fit' not in at else 1)
    learn = learner(metrics=accuracy, default_cbs=True, cbs=None)
    own = list(learn.cbs)
    with pytest.raises((KeyboardInterrupt, ValueError)): learn.fit(3, cbs=spy)
    assert spy.heard[-1] == 'cleanup_fit' and learn.cbs == own and learn.training is False
    assert learn.model.training is False
    assert all(p.grad is None for p in learn.model.parameters()) and learn.loss_grad is None
    # what was finished stays
    if at in ('before_validate', 'after_epoch'): assert len(learn.recorder.rows) == 1
    learn.fit(1)
    assert len(learn.recorder.rows) == 1 and len(learn.validate()) == 2

def test_bad_callbacks_change_nothing():
    learn = learner()
    class Misspelt(Callback):
        def after_bach(self): pass
    for bad, text in (
        (Misspelt(), "'after_batch'"),
        ('text', 'not a Callback'),
        (print, 'not a Callback'),
    ):
        with pytest.raises(TypeError, match=text):
            learn.fit(1, cbs=[Spy(), bad])
        with pytest.raises(TypeError, match=text):
            learn.add_cbs([Spy(), bad])
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
    assert set(learn.recorder.lrs) == {.25}
    assert [g['weight_decay'] for g in learn.opt.param_groups] == [.2, 0]
    with pytest.raises(ValueError, match='lr=-1'): learn.fit(1, -1)

@pytest.mark.parametrize('start', [0, 1, 3])
def test_one_cycle_follows_its_formula_from_any_epoch(start):
    learn = learner()
    learn.fit_one_cycle(
        4, .1, div=10, div_final=100, pct_start=.3, moms=(.9, .8, .95), start_epoch=start
    )
    lr, mom = one_cycle(.3, .01, .1, .001), one_cycle(.3, .9, .8, .95)
    pct = [(e + i / 4) / 4 for e in range(start, 4) for i in range(4)]
    assert learn.recorder.lrs == [lr(p) for p in pct]
    assert learn.recorder.moms == [mom(p) for p in pct]
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

@pytest.mark.parametrize(
    'args',
    [dict(n_epoch=0), dict(n_epoch=-1), dict(n_epoch=2, start_epoch=2),
     dict(n_epoch=2, start_epoch=-1)])
def test_no_epoch_to_train(args):
    for fit in learner().fit, learner().fit_one_cycle:
        with pytest.raises(ValueError, match='no epoch to train'): fit(**args)

def test_no_batch_to_train():
    data = [(torch.randn(1, 8, 8), 0)] * 5
    dls = DataLoaders(DataLoader(data, bs=8, drop_last=True), DataLoader(data, bs=8), device='cpu')
    with pytest.raises(ValueError, match='no batch: 5 items with bs=8'):
        learner(dls=dls, loss_func=F.cross_entropy).fit(1)

# Handlers

def test_the_base_imports_no_plug_in():
    "Checkpoints, advice about memory and the trial register with `handles`; the loop knows none."
    import ast
    from pathlib import Path

    from sotavision import training
    at, seen, todo = Path(training.__file__).parent, set(), ['learner']
    while todo:
        name = todo.pop(); seen.add(name)
        for o in ast.walk(ast.parse((at/f'{name}.py').read_text(encoding='utf8'))):
            if isinstance(o, ast.ImportFrom) and o.level == 1 and o.module not in seen:
                todo.append(o.module)
    assert 'recorder' in seen and not seen & {'checkpoints', 'oom', 'trial', 'asking', None}

def test_handlers_are_called_at_their_moments(monkeypatch):
    from sotavision.training.callback import HANDLERS, handles
    monkeypatch.setitem(HANDLERS, 'setup', dict(HANDLERS['setup']))
    monkeypatch.setitem(HANDLERS, 'error', dict(HANDLERS['error']))
    said = []
    @handles('setup')
    def begins(learn, checkpoint, resume):
        said.append((checkpoint, resume))
        if len(said) == 2: raise CancelFitException
    @handles('error')
    def helps(learn, e):
        if isinstance(e, ZeroDivisionError): raise ValueError('by none') from e
    spy, learn = Spy(), learner()
    learn.fit(1, cbs=spy)
    assert said == [(None, False)] and spy.heard[0] == 'before_fit'
    spy = Spy()
    assert learn.fit(1, cbs=spy) is learn and spy.heard == [] and learn.cbs != [spy]
    spy = Spy('after_batch', ZeroDivisionError())
    with pytest.raises(ValueError, match='by none'): learn.fit(1, cbs=spy)
    assert spy.heard[-1] == 'cleanup_fit'
    with pytest.raises(KeyboardInterrupt): learn.fit(1, cbs=Spy('after_batch', KeyboardInterrupt()))
