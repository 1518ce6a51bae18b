"What models, losses, metrics and data may give, and the one line where they may not."
from collections import OrderedDict, namedtuple
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils import data as tud

from learners import learner, linear, loaders, one_thread, same, weights  # noqa: F401 (a fixture)
from sotavision.callbacks.gradients import GradientAccumulation
from sotavision.core.rng import rng_states
from sotavision.data.loaders import DataLoader, DataLoaders
from sotavision.objectives.losses import BCEWithLogitsLossFlat, CrossEntropyLossFlat
from sotavision.objectives.metrics import Metric, accuracy
from sotavision.training.callback import (
    Callback,
    CancelBackwardException,
    CancelStepException,
    DivergedError,
)
from sotavision.training.optimizers import SGD
from sotavision.training.recorder import Recorder

Named = namedtuple('Named', 'logits aux')

class Gives(nn.Module):
    "A linear model whose output is wrapped."
    def __init__(self, wrap): super().__init__(); self.lin, self.wrap = linear(), wrap
    def forward(self, x): return self.wrap(self.lin(x))

WRAPS = [
    lambda o: (o, o * 2),
    lambda o: [o],
    lambda o: Named(o, o + 1),
    lambda o: dict(out=o, aux=o * 3),
    lambda o: OrderedDict(loss=None, logits=o),
    lambda o: (None, o),
    lambda o: dict(aux=o * 2, logits=o),
]

# Models

@pytest.mark.parametrize('wrap', WRAPS)
def test_models_of_several_outputs_train_and_answer_like_those_of_one(wrap):
    with pytest.warns(UserWarning, match='the loss sees that alone') as said:
        a = learner(lambda: Gives(wrap), metrics=accuracy).fit(2, .1)
    assert len([o for o in said if 'sees that alone' in str(o.message)]) == 1
    b = learner(lambda: Gives(lambda o: o), metrics=accuracy).fit(2, .1)
    assert same(weights(a), weights(b)) and a.recorder.values == b.recorder.values
    assert a.validate() == b.validate() and a.get_preds()[0].equal(b.get_preds()[0])
    item = a.dls.valid_ds.items[0]
    assert a.predict(item)[0] == b.predict(item)[0]

@pytest.mark.parametrize(
    'wrap, says',
    [(lambda o: None, 'NoneType'), (lambda o: dict(a=o, b=o), r'dict \(a, b\)'),
     (lambda o: (), 'tuple'), (lambda o: (None, 3), r'NoneType, int'), (lambda o: 'text', 'str'),
     (lambda o: dict(out=None), 'out')])
@pytest.mark.parametrize(
    'ask', [lambda l: l.fit(1), lambda l: l.validate(), lambda l: l.get_preds()])
def test_what_is_no_prediction_is_named(wrap, says, ask):
    with pytest.raises(TypeError, match=f'Gives returned .*{says}.*instead of a tensor'):
        ask(learner(lambda: Gives(wrap)))

def test_a_loss_may_have_all_of_it():
    class Aux(nn.Module):
        whole_output = True
        def forward(self, o, y):
            return F.cross_entropy(o.logits, y) + .4 * F.cross_entropy(o.aux, y)
    learn = learner(lambda: Gives(lambda o: Named(o, o * 2)), loss_func=Aux(), metrics=accuracy)
    learn.fit(1, .1)
    x, y = learn.dls.valid.one_batch()
    out = learn.model(x.as_subclass(torch.Tensor))
    assert learn.validate()[0] == pytest.approx(Aux()(out, y).item(), abs=1e-5)
    assert learn.validate()[1] == pytest.approx(accuracy(out.logits, y).item())

def test_a_model_without_a_way_back_is_named():
    with pytest.raises(ValueError, match='does not depend on the weights'):
        learner(lambda: Gives(lambda o: o.detach())).fit(1)

# One output for two classes

def two_classes(loss, n_out=1, **kwargs):
    from learners import block, items_of
    two = [(x, 'ab'['c' in y]) for x, y in items_of(42)]
    dls = block().dataloaders(two, bs=8, device='cpu')
    return learner(lambda: linear(n_out), dls=dls, loss_func=loss, **kwargs)

def bce(pred, targ): return F.binary_cross_entropy_with_logits(pred.squeeze(1), targ.float())

@pytest.mark.parametrize('loss', [BCEWithLogitsLossFlat(), bce])
def test_yes_or_no_as_one_number(loss):
    learn = two_classes(loss).fit(20, .05)
    assert learn.validate()[0] < .5

@pytest.mark.parametrize(
    'loss',
    [None, F.cross_entropy, nn.CrossEntropyLoss(), CrossEntropyLossFlat(),
     partial(F.cross_entropy, label_smoothing=.1)])
def test_one_number_and_a_softmax_is_refused(loss):
    with pytest.raises(ValueError, match='1 outputs and the data 2 classes'):
        two_classes(loss).fit(1)
    with pytest.raises(ValueError, match='1 outputs and the data 3 classes'):
        learner(lambda: linear(1), loss_func=bce).fit(1)

# Losses

@pytest.mark.parametrize('give, error, says', [
    (lambda l: l.item(), TypeError, 'returned .*a float, instead of a '
                                    'tensor'), (lambda l: 3, TypeError, 'a int'),
    (lambda l: None, TypeError, 'NoneType'), (lambda l: (l, l), TypeError, 'a tuple'),
    (lambda l: torch.stack([l, l]), ValueError, r'shape \(2,\) instead of one number')])
def test_a_loss_that_is_no_number(give, error, says):
    learn = learner(loss_func=lambda p, t: give(F.cross_entropy(p, t)))
    with pytest.raises(error, match=says): learn.fit(1)
    with pytest.raises(error, match=says): learn.validate()

# Classes that one side does not have

def pairs(n, top): return [(torch.rand(1, 8, 8), i % top) for i in range(n)]

@pytest.mark.parametrize('loss', [F.cross_entropy, nn.CrossEntropyLoss(), CrossEntropyLossFlat()])
@pytest.mark.parametrize('kind', [DataLoader, tud.DataLoader])
def test_a_class_that_the_model_does_not_have_is_named_with_its_batch(loss, kind):
    sides = dict(validation=(pairs(24, 3), pairs(24, 5)), training=(pairs(24, 5), pairs(24, 3)))
    for side, (train, valid) in sides.items():
        dls = DataLoaders(DataLoader(train, bs=8), kind(valid, 8), device='cpu')
        learn = learner(dls=dls, loss_func=loss, metrics=accuracy)
        with pytest.raises(
            ValueError, match=f'Batch 0 of the {side} set holds class [34].* 3 outputs'
        ):
            learn.fit(1)
        if side == 'validation':
            with pytest.raises(ValueError, match='holds class [34]'): learn.validate()

def test_targets_to_ignore_are_no_class_too_many():
    data = [(torch.rand(1, 8, 8), -100 if i % 2 else 1) for i in range(16)]
    dls = DataLoaders(DataLoader(data, bs=8), DataLoader(data, bs=8), device='cpu')
    learner(dls=dls, loss_func=nn.CrossEntropyLoss()).fit(1)

# Metrics, before the first step

def no_number(preds, targs): return dict(a=1.)
def nothing(preds, targs): return None
def pair(preds, targs): return torch.ones(2)
def raises(preds, targs): raise ZeroDivisionError('no reason')
class Late(Metric):
    "Needs every class for its value, as an area under a curve does."
    name, lower_is_better = 'late', False
    def reset(self): self.seen = set()
    def accumulate(self, preds, targs): self.seen |= set(targs.tolist())
    @property
    def value(self):
        if len(self.seen) < 3: raise ValueError('one class only')
        return 1.

@pytest.mark.parametrize('metric, error, says', [
    (no_number, TypeError, 'no_number gave .*dict'), (nothing, TypeError, 'nothing gave None'),
    (raises, ZeroDivisionError, 'no reason'), (pair, (TypeError, ValueError, RuntimeError), '.')])
@pytest.mark.parametrize('fit', ['fit', 'fit_one_cycle'])
def test_a_metric_that_fails_is_found_before_the_first_step(metric, error, says, fit):
    learn = learner(metrics=[accuracy, metric])
    before = weights(learn)
    with pytest.raises(error, match=says): getattr(learn, fit)(2)
    assert same(before, weights(learn)) and not learn.recorder.rows and not learn.training

def test_a_metric_that_needs_the_whole_set_is_no_failure():
    data = pairs(24, 3)
    data.sort(key=lambda o: o[1])
    dls = DataLoaders(DataLoader(data, bs=8), DataLoader(data, bs=8), device='cpu')
    assert (
        learner(dls=dls, loss_func=F.cross_entropy, metrics=Late()).fit(1).recorder.values[-1][-1]
        == 1.
    )

class Counts(nn.Module):
    "A buffer and a number that every pass changes."
    def __init__(self):
        super().__init__(); self.lin = linear(); self.bn = nn.BatchNorm1d(3)
    def forward(self, x): return self.bn(self.lin(x))

class Hears(Callback):
    def __init__(self): self.heard = 0
    def before_batch(self): self.heard += 1

@pytest.mark.parametrize('kind', ['ours', 'torch', 'list', 'sampler'])
def test_the_trial_leaves_no_trace(kind):
    from sotavision.core.rng import set_seed
    gen = torch.Generator().manual_seed(3)
    data = pairs(24, 3)
    batch = torch.stack([x for x, _ in data]), torch.tensor([y for _, y in data])
    valid = dict(ours=DataLoader(data, bs=8), torch=tud.DataLoader(data, 8), list=[batch],
                 sampler=tud.DataLoader(data, 8, shuffle=True, generator=gen))[kind]
    dls = DataLoaders(DataLoader(data, bs=8, shuffle=True), DataLoader(data, bs=8), device='cpu')
    dls.loaders[1] = valid
    learn, hears = learner(Counts, dls=dls, loss_func=F.cross_entropy, metrics=accuracy), Hears()
    learn.add_cbs(hears); learn.create_opt()
    set_seed(1)
    before = weights(learn)
    states = (rng_states(torch.device('cpu'), dls), learn.opt.state_dict())
    metric, of_batch = vars(learn.metrics[0]).copy(), [o.clone() for o in batch]
    learn.trial()
    assert learn.tried and same(before, weights(learn)) and hears.heard == 0
    assert str((rng_states(torch.device('cpu'), dls), learn.opt.state_dict())) == str(states)
    assert str(vars(learn.metrics[0])) == str(metric) and same(of_batch, list(batch))

def test_an_iterator_is_not_used_up():
    data = pairs(8, 3)
    batch = torch.stack([x for x, _ in data]), torch.tensor([y for _, y in data])
    class Once:
        "Batches that come once."
        device = torch.device('cpu')
        def __init__(self): self.it = iter([batch] * 2)
        def __len__(self): return 2
        def __iter__(self): return self.it
    dls = DataLoaders(DataLoader(data, bs=8), DataLoader(data, bs=8), device='cpu')
    dls.loaders[1] = Once()
    learn = learner(dls=dls, loss_func=F.cross_entropy, metrics=accuracy).fit(1)
    assert learn.recorder.values[0][1] is not None

def test_a_table_of_layers_does_not_use_up_an_iterator():
    data = pairs(8, 3)
    dls = DataLoaders(DataLoader(data, bs=8), DataLoader(data, bs=8), device='cpu')
    learn = learner(dls=dls, loss_func=F.cross_entropy)
    class Once:
        device, n_inp = torch.device('cpu'), None
        def __len__(self): return 1
        def __iter__(self): return self
        def __next__(self): raise AssertionError('used up')
    dls.loaders[0] = Once()
    with pytest.raises(ValueError, match='no batch without being used up'): learn.summary()

def test_an_error_of_the_loss_that_nobody_can_explain_is_the_losses_own():
    def mine(preds, targs): raise ValueError('my own words')
    with pytest.raises(ValueError, match='my own words'): learner(loss_func=mine).fit(1)

def test_a_loss_that_is_nan_between_two_looks(monkeypatch):
    "A GPU is looked at now and then; the mean of an epoch tells in any case."
    monkeypatch.setattr(Recorder, 'after_loss', lambda self: None)
    losses = iter(range(99))
    def once(preds, targs): return preds.mean() * (float('nan') if next(losses) == 1 else 1)
    learn = learner(loss_func=once)
    with pytest.raises(DivergedError, match='nan in epoch 0'): learn.fit(1)

# Assigning metrics, callbacks twice

@pytest.mark.parametrize('given', [accuracy, partial(accuracy, axis=1), [accuracy], (accuracy,)])
def test_metrics_at_construction_and_by_assignment(given):
    a, b = learner(metrics=given), learner()
    b.metrics = given
    assert [m.name for m in a.metrics] == [m.name for m in b.metrics] and len(a.metrics) == 1
    assert len(a.fit(1).validate()) == len(b.fit(1).validate()) == 2
    b.metrics = None
    assert b.metrics == [] and len(b.validate()) == 1

def test_a_callback_cannot_shadow_the_metrics():
    class Shadow(Callback):
        def before_fit(self): self.metrics = []
    with pytest.raises(AttributeError, match='self.learn.metrics'): learner().fit(1, cbs=Shadow())

def test_the_same_callback_twice_counts_once():
    from sotavision.callbacks.ema import EMA
    from sotavision.callbacks.gradients import GradientClip
    from sotavision.callbacks.tracking import EarlyStoppingCallback, SaveModelCallback
    from sotavision.techniques.mixup import MixUp
    from sotavision.training.recorder import ProgressCallback
    own = Hears()
    learn = learner(default_cbs=True)
    n = len(learn.cbs)
    for make in (
        lambda: MixUp(.2),
        EMA,
        lambda: GradientAccumulation(8),
        GradientClip,
        SaveModelCallback,
        EarlyStoppingCallback,
        ProgressCallback,
        lambda: own,
    ):
        learn.add_cbs(make()).add_cb(last := make())
        assert sum(type(o) is type(last) for o in learn.cbs) == 1 and learn.cbs[-1] is last
    assert len(learn.cbs) == n + 7
    with pytest.raises(ValueError, match='given twice'): learn.add_cbs([MixUp(.1), MixUp(.2)])
    with pytest.raises(ValueError, match='given twice'): learner().fit(1, cbs=[own, own])

def test_two_of_a_kind_with_different_tasks_stay():
    from sotavision.callbacks.gradients import GradientClip
    from sotavision.callbacks.tracking import EarlyStoppingCallback, SaveModelCallback
    cbs = [
        SaveModelCallback(fname='a'),
        SaveModelCallback(fname='b'),
        EarlyStoppingCallback(),
        EarlyStoppingCallback('train_loss'),
        GradientClip(1.),
        GradientClip(.1, float('inf')),
        Hears(),
        Hears(),
    ]
    assert learner().add_cbs(cbs).cbs[1:] == cbs

def test_a_callback_for_one_training_takes_the_place_of_the_learners_own():
    from sotavision.techniques.mixup import MixUp
    always, once = MixUp(.2), MixUp(.4)
    learn = learner(cbs=[*learner().cbs, always])
    with learn.added_cbs(once): assert once in learn.cbs and always not in learn.cbs
    assert always in learn.cbs and once not in learn.cbs

# Data that is no number

@pytest.mark.parametrize('bad', [float('nan'), float('inf')])
@pytest.mark.parametrize('what', ['inputs', 'targets'])
def test_divergence_names_the_data_where_it_is_at_fault(what, bad):
    data = [(torch.rand(4), torch.rand(1)) for _ in range(24)]
    data[13][what == 'targets'][0] = bad
    dls = DataLoaders(DataLoader(data, bs=8), DataLoader(data[:8], bs=8), device='cpu')
    learn = learner(lambda: nn.Linear(4, 1), dls=dls, loss_func=F.mse_loss)
    with pytest.raises(
        DivergedError, match=rf'The {what} of batch 1 are not finite \(items 5 of 8'
    ):
        learn.fit(1)

def test_divergence_by_the_rate_says_so():
    data = [(torch.rand(4), torch.rand(1)) for _ in range(24)]
    dls = DataLoaders(DataLoader(data, bs=8), DataLoader(data[:8], bs=8), device='cpu')
    learn = learner(lambda: nn.Linear(4, 1), dls=dls, loss_func=F.mse_loss, opt_func=SGD)
    with pytest.raises(DivergedError, match='a rate ten times smaller'): learn.fit(30, 1e9)

# Half precision with a phase cut

@pytest.mark.parametrize(
    'event, error',
    [('before_backward', CancelBackwardException), ('before_step', CancelStepException)])
@pytest.mark.parametrize('every', [1, 2])
def test_half_precision_with_a_phase_that_is_cut(event, error, every):
    def cut(self):
        if self.iter % every == 0: raise error
    cb = type('Cut', (Callback,), {event: cut})
    learn = learner(precision='fp16').fit(2, .01, cbs=cb)
    assert len(learn.recorder.losses) == 8 and learn.fit(1, .01)
    gathered = learner(precision='fp16').fit(2, .01, cbs=[GradientAccumulation(16), cb])
    assert len(gathered.recorder.losses) == 8

# torch's own loaders

@pytest.mark.parametrize('shuffle', [True, False])
def test_torchs_own_loaders(shuffle, tmp_path):
    data = pairs(24, 3)
    train, valid = tud.DataLoader(data, 8, shuffle=shuffle), tud.DataLoader(data[:10], 4)
    learn = learner(
        dls=DataLoaders(train, valid, device='cpu'),
        loss_func=CrossEntropyLossFlat(),
        metrics=accuracy,
        path=tmp_path,
    )
    learn.fit(1)
    learn.fit_one_cycle(1, 1e-2, checkpoint=tmp_path / 'ck')
    learn.lr_find(show_plot=False, num_it=10, suggest_funcs=None)
    assert len(learn.validate()) == 2 and len(learn.validate(0)) == 2
    preds, targs = learn.get_preds()
    assert preds.shape == (10, 3) and targs.tolist() == [y for _, y in data[:10]]
    learn.save('x'); learn.load('x')
