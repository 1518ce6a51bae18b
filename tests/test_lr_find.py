"The rate finder leaves no trace and ends with an answer."
import copy
import random

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from torch import nn

from learners import one_thread  # noqa: F401 (a fixture)
from sotavision.core.rng import set_seed
from sotavision.data.loaders import DataLoader, DataLoaders
from sotavision.objectives.losses import MSELossFlat
from sotavision.training.callback import Callback, DivergedError
from sotavision.training.learner import Learner
from sotavision.training.lr_find import SUGGEST, minimum, slide, smooth, valley
from sotavision.training.optimizers import SGD, Adam
from sotavision.training.recorder import Recorder
from three_parts import PARTS, learner, three

class Noisy(Callback):
    "Draws from every generator, changes batches, and counts."
    def __init__(self): self.n, self.list = 0, []
    def before_batch(self):
        self.n += 1; self.list.append(random.random() + np.random.rand())
        if self.training: self.learn.xb = (self.xb[0] + .1 * torch.randn_like(self.xb[0]),)

class Writer(Callback):
    "Must not hear of the trial."
    in_lr_find = False
    def before_fit(self): self.fits = getattr(self, 'fits', 0) + 1

def everything(learn):
    "All numbers of a learner and of the world around it."
    opt = learn.opt and (learn.opt.state_dict(), [id(g) for g in learn.opt.param_groups])
    states = [vars(cb).copy() for cb in learn.cbs]
    return (
        learn.model.state_dict(),
        [p.requires_grad for p in learn.model.parameters()],
        [m.training for m in learn.model.modules()],
        opt,
        dict(vars(learn)),
        states,
        torch.get_rng_state(),
        random.getstate(),
        np.random.get_state()[1].tolist(),
    )

def same(a, b):
    if torch.is_tensor(a): return torch.equal(a, b)
    if isinstance(a, dict): return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    return (
        len(a) == len(b) and all(map(same, a, b))
        if isinstance(a, (list, tuple))
        else a is b or a == b
    )

@pytest.mark.parametrize(
    'opt_func',
    [Adam, SGD, lambda g, lr: torch.optim.SGD(g, lr, momentum=.9),
     lambda g, lr: torch.optim.Adagrad(g, lr)])
@pytest.mark.parametrize('trained', [0, 1])
@pytest.mark.parametrize('frozen', [False, True])
def test_lr_find_leaves_everything_as_it_was(opt_func, trained, frozen):
    learn = learner(opt_func=opt_func, cbs=[Recorder(), Noisy(), Writer()], lr=slice(1e-4, 1e-3))
    if frozen: learn.freeze()
    if trained: learn.fit_one_cycle(1)
    before = copy.deepcopy(everything(learn)[0]), everything(learn)
    learn.lr_find(num_it=20, show_plot=False, suggest_funcs=None)
    after = everything(learn)
    assert same(before[0], after[0]) and same(before[1], after)

@pytest.mark.parametrize('splitter', [None, three])
def test_training_after_lr_find_is_the_training_without(splitter):
    def run(asks):
        learn = learner(splitter, cbs=[Recorder(), Noisy()])
        for fit in 'fit_one_cycle', 'fit_flat_cos':
            for _ in range(asks): learn.lr_find(num_it=15, show_plot=False, suggest_funcs=None)
            getattr(learn, fit)(1, 1e-2)
        return [*learn.model.state_dict().values(), torch.stack(learn.recorder.losses)]
    assert all(a.equal(b) for a, b in zip(run(0), run(2)))

@pytest.mark.parametrize('error', [KeyboardInterrupt, ValueError('broken')])
def test_an_interrupted_lr_find_leaves_no_trace_either(error):
    class Stop(Callback):
        def after_backward(self):
            if self.train_iter == 7: raise error
    learn = learner(cbs=[Recorder(), Stop()])
    before = copy.deepcopy(learn.model.state_dict()), everything(learn)
    with pytest.raises(type(error) if isinstance(error, Exception) else error):
        learn.lr_find(show_plot=False)
    assert same(before[0], learn.model.state_dict()) and same(before[1], everything(learn))

def test_loaders_with_generators_of_their_own():
    data = [(torch.randn(1, 6, 6), i % 2) for i in range(32)]
    own, sampler = torch.Generator().manual_seed(1), torch.Generator().manual_seed(2)
    dl = torch.utils.data.DataLoader(
        data, 8, sampler=torch.utils.data.RandomSampler(data, generator=sampler), generator=own
    )
    class Foreign(list): train, device = property(lambda self: self[0]), torch.device('cpu')
    learn = learner()
    learn.dls = Foreign([dl])
    before = own.get_state(), sampler.get_state()
    learn.lr_find(num_it=20, show_plot=False, suggest_funcs=None)
    assert own.get_state().equal(before[0]) and sampler.get_state().equal(before[1])

def test_buffers_that_are_replaced_and_tied_weights():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(36, 36), nn.Linear(36, 36)
            self.b.weight = self.a.weight
            self.register_buffer('seen', torch.zeros(()), persistent=False)
        def forward(self, x):
            self.seen = self.seen + 1
            return self.b(self.a(x.flatten(1)))[:, :2]
    learn = learner(None); learn.model = Odd()
    seen, weight = learn.model.seen, learn.model.a.weight.clone()
    learn.lr_find(num_it=12, show_plot=False, suggest_funcs=None)
    assert learn.model.seen is seen and seen == 0 and learn.model.a.weight.equal(weight)
    assert learn.model.b.weight is learn.model.a.weight

def test_a_callback_that_cannot_be_copied_is_named():
    cb = Noisy(); cb.file = open(__file__)
    learn = learner(cbs=cb)
    with pytest.raises(TypeError, match='Noisy cannot be copied.*in_lr_find = False'):
        learn.lr_find()
    cb.file.close()

def test_every_step_has_its_rate():
    class Seen(Callback):
        order, rates = 40, []
        def before_step(self):
            Seen.rates.append({p: g['lr'] for g in self.opt.param_groups for p in g['params']})
    learn = learner(cbs=Seen())
    learn.lr_find(1e-5, 1e-1, 17, stop_div=False, show_plot=False, suggest_funcs=None)
    assert np.allclose(
        [next(iter(o.values())) for o in Seen.rates], [10 ** (-5 + 4 * k / 16) for k in range(17)]
    )
    assert all(len(set(o.values())) == 1 and len(o) == len(PARTS) for o in Seen.rates)

def points(f, n=256, bs=16, seed=0):
    "A learner of a line from points `(x, f(x))`."
    set_seed(seed)
    data = [(x, f(x)) for x in torch.randn(n, 3)]
    return Learner(
        DataLoaders(DataLoader(data, bs=bs, shuffle=True), device='cpu'),
        nn.Linear(3, 1),
        MSELossFlat(),
        opt_func=SGD,
        precision='fp32',
        default_cbs=False,
    )

# the last ones: one batch, one batch and a rest
@pytest.mark.parametrize('n, bs', [(256, 16), (16, 16), (17, 16), (8, 16)])
def test_a_line_is_learned_at_the_rate_that_is_suggested(n, bs):
    """The curvature is 2, so steps diverge beyond 1. `slide` may come late: an explosion from zero
    takes its time."""
    learn = points(lambda x: 3 * x.sum(0, keepdim=True) + 1, n, bs)
    found = learn.lr_find(show_plot=False, suggest_funcs=tuple(SUGGEST))
    assert all(1e-3 < o < 1 for o in (found.valley, found.steep, found.minimum))
    assert found.minimum < found.valley < found.slide
    learn.fit(-(-60 // len(learn.dls.train)), found.valley)
    assert learn.validate(0)[0] < .1

@pytest.mark.parametrize('seed', range(5))
@pytest.mark.parametrize('f', [lambda x: torch.zeros(1), lambda x: torch.randn(1)])
def test_nothing_to_learn(f, seed):
    learn = points(f, seed=seed)
    nn.init.zeros_(learn.model.weight); nn.init.zeros_(learn.model.bias)
    with pytest.raises(ValueError, match='no rate to suggest'): learn.lr_find(show_plot=False)
    assert learn.lr_find(show_plot=False, suggest_funcs=None) is None

@pytest.mark.parametrize('bad', [float('nan'), float('inf')])
def test_data_that_is_no_number(bad):
    with pytest.raises(
        DivergedError, match=f'The loss is {bad} at step 1, .*targets of batch 0 are not finite'
    ):
        points(lambda x: torch.full((1,), bad)).lr_find()

@pytest.mark.parametrize('start', [3., 1e3, 1e20])
def test_a_start_that_is_too_large(start):
    with pytest.raises((ValueError, DivergedError), match='start_lr|at rate'):
        points(lambda x: x.sum(0, keepdim=True)).lr_find(start, start * 1e6, show_plot=False)

def test_names_of_suggestions():
    learn = points(lambda x: 3 * x.sum(0, keepdim=True))
    def third(lrs, losses): return lrs[3]
    found = learn.lr_find(show_plot=False, suggest_funcs=[third, 'slide', minimum])
    assert found._fields == ('third', 'slide', 'minimum')
    assert found.third == pytest.approx(1e-7 * 10**(8 * 3 / 99))
    assert learn.lr_find(show_plot=False)._fields == ('valley',)
    for wrong, says in (
        ('vally', "'vally'.*Did you mean 'valley'"),
        ('best', 'choose from valley, slide'),
        (3, 'called 3'),
    ):
        with pytest.raises(ValueError, match=says):
            learn.lr_find(suggest_funcs=wrong)
    for kwargs in (
        dict(start_lr=0),
        dict(start_lr=-1),
        dict(start_lr=1, end_lr=1),
        dict(end_lr=float('inf')),
        dict(start_lr=float('nan')),
        dict(num_it=9),
        dict(num_it=0),
    ):
        with pytest.raises(ValueError, match=next(iter(kwargs))):
            learn.lr_find(**kwargs)
    with pytest.raises(TypeError): learn.lr_find(1e-7, 10, n=3)

def test_the_plot_names_its_axes_and_suggestions():
    points(lambda x: 3 * x.sum(0, keepdim=True)).lr_find(suggest_funcs=('valley', 'steep'))
    ax = plt.gca()
    assert ax.get_xscale() == 'log' and ax.get_xlabel() == 'learning rate'
    assert ax.get_ylabel() == 'loss'
    assert [o.get_text().split(':')[0] for o in ax.get_legend().get_texts()] == [
        'each step',
        'smoothed',
        'valley',
        'steep',
    ]
    plt.close('all')

def test_noise_does_not_move_a_suggestion_far():
    """The same curve with twenty kinds of noise. (A straight descent has no steepest point, so
    `steep` may be anywhere on it.)"""
    lrs = np.geomspace(1e-7, 10, 100)
    x = np.log10(lrs)
    curve = 2.3 - .8 * np.clip((x + 4.5) / 2, 0, 1) + np.clip(x + 2, 0, None)**2
    for f in valley, slide, minimum:
        clean = f(lrs, smooth(curve, 4))
        noisy = [
            f(lrs, smooth(curve + .1 * np.random.default_rng(k).standard_normal(100), 4))
            for k in range(20)
        ]
        assert all(1 / 4 < o / clean < 4 for o in noisy), f.__name__

@pytest.mark.parametrize(
    'ask', [lambda o: o.fit(1), lambda o: o.fit_one_cycle(1), lambda o: o.lr_find(show_plot=False)])
def test_a_model_that_may_not_learn_says_so(ask):
    learn = learner()
    for p in learn.model.parameters(): p.requires_grad_(False)
    with pytest.raises(ValueError, match='No parameter of the model may learn'): ask(learn)
