"Rates at every step and for every parameter: schedules, slices, frozen parts, the rate finder."
import copy, math, random

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from torch import nn

from sotavision.core import set_seed
from sotavision.data.loaders import DataLoader, DataLoaders
from sotavision.training import inference, parts, schedules
from sotavision.training.callbacks import Callback, CancelEpochException, CancelFitException, DivergedError
from sotavision.training.learner import Learner
from sotavision.training.losses import CrossEntropyLossFlat, MSELossFlat
from sotavision.training.lr_find import SUGGEST, minimum, slide, smooth, valley
from sotavision.training.optimizers import SGD, Adam, get_hypers
from sotavision.training.recorder import Recorder

STEPS = 4   # a pass over the training set

@pytest.fixture(autouse=True, scope='module')
def one_thread():
    "Models this small only lose by sharing work."
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)

def loaders(n=8 * STEPS, bs=8):
    gen = torch.Generator().manual_seed(0)
    data = [(torch.randn(1, 6, 6, generator=gen) + i % 2, i % 2) for i in range(n)]
    return DataLoaders(DataLoader(data, bs=bs, shuffle=True), DataLoader(data, bs=32), device='cpu')

def net():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))

def three(m): return [m[:2], m[2:5], m[5:]]

def learner(splitter=three, **kwargs):
    set_seed(0)
    kwargs = dict(default_cbs=False, cbs=Recorder(), precision='fp32') | kwargs
    return Learner(loaders(), net(), CrossEntropyLossFlat(), splitter=splitter, **kwargs)

class Watch(Callback):
    "Rate of every parameter and momentum of every group, at every step."
    order = 15
    def __init__(self): self.rates, self.moms = [], []
    def before_batch(self):
        if not self.training: return
        names = {id(p): n for n, p in self.model.named_parameters()}
        self.rates.append({names[id(p)]: g['lr'] for g in self.opt.param_groups for p in g['params']})
        self.moms.append(set(get_hypers(self.opt).get('mom', ())))

def watched(fit, *args, learn=None, **kwargs):
    cb, learn = Watch(), learn or learner()
    getattr(learn, fit)(*args, cbs=cb, **kwargs)
    return cb

# The formulas, written another way: in degrees, with numbers of steps

def wave(a, b, x): return a + (b - a) * math.sin(math.radians(90 * x))**2

def one_cycle_by_hand(n, peak, div, div_final, pct):
    turn = pct * n
    return [wave(peak / div, peak, k / turn) if k < turn else wave(peak, peak / div_final, (k - turn) / (n - turn)) for k in range(n)]

def flat_cos_by_hand(n, lr, div_final, pct):
    turn = pct * n
    return [lr if k <= turn else wave(lr, lr / div_final, (k - turn) / (n - turn)) for k in range(n)]

def close(a, b): return len(a) == len(b) and all(math.isclose(x, y, rel_tol=1e-9) for x, y in zip(a, b))

PARTS = {'0.weight': 0, '0.bias': 0, '1.weight': 0, '1.bias': 0, '2.weight': 1, '2.bias': 1, '3.weight': 1, '3.bias': 1, '6.weight': 2, '6.bias': 2}
ASKED = [(.1, (.1, .1, .1)), (slice(1e-4, 1e-2), (1e-4, 1e-3, 1e-2)), (slice(.5), (.05, .05, .5)), (slice(1e-2, 1e-4), (1e-2, 1e-3, 1e-4)), ([.3, .2, .1], (.3, .2, .1))]

@pytest.mark.parametrize('lr, wanted', ASKED, ids=str)
@pytest.mark.parametrize('start', [0, 1, 4])
@pytest.mark.parametrize('pct', [.25, .3, .99])
def test_one_cycle_on_every_parameter(lr, wanted, start, pct):
    cb = watched('fit_one_cycle', 5, lr, div=10, div_final=1e3, pct_start=pct, start_epoch=start, moms=(.9, .7, .8))
    for name, part in PARTS.items():
        assert close([o[name] for o in cb.rates], one_cycle_by_hand(5 * STEPS, wanted[part], 10, 1e3, pct)[start * STEPS:])
    turn, n = pct * 5 * STEPS, 5 * STEPS
    moms = [wave(.9, .7, k / turn) if k < turn else wave(.7, .8, (k - turn) / (n - turn)) for k in range(n)][start * STEPS:]
    assert close([o for s in cb.moms for o in s], moms) and all(o.keys() == PARTS.keys() for o in cb.rates)

@pytest.mark.parametrize('lr, wanted', ASKED, ids=str)
@pytest.mark.parametrize('start', [0, 2, 4])
@pytest.mark.parametrize('pct', [0, .5, .75])
def test_flat_cos_on_every_parameter(lr, wanted, start, pct):
    cb = watched('fit_flat_cos', 5, lr, div_final=1e3, pct_start=pct, start_epoch=start)
    for name, part in PARTS.items():
        assert close([o[name] for o in cb.rates], flat_cos_by_hand(5 * STEPS, wanted[part], 1e3, pct)[start * STEPS:])
    assert cb.moms == [{.9}] * len(cb.rates)

@pytest.mark.parametrize('lr, wanted', ASKED, ids=str)
def test_constant_rates_on_every_parameter(lr, wanted):
    cb = watched('fit', 2, lr)
    assert len(cb.rates) == 2 * STEPS and all(math.isclose(o[name], wanted[part]) for o in cb.rates for name, part in PARTS.items())

@pytest.mark.parametrize('fit', ['fit_one_cycle', 'fit_flat_cos'])
def test_starts_peaks_and_ends(fit):
    "At the first step, at the turn, and as near to the end as the last step comes."
    rates = [o['6.bias'] for o in watched(fit, 10, 1.).rates]
    assert max(rates) == 1 and rates[-1] < .025
    assert rates[0] == (1 / 25 if fit == 'fit_one_cycle' else 1) and rates.index(1) == (10 if fit == 'fit_one_cycle' else 0)

@pytest.mark.parametrize('fit', ['fit', 'fit_one_cycle', 'fit_flat_cos'])
def test_two_halves_make_a_whole(fit):
    "Two epochs, saved in memory, then two more with start_epoch: the weights of one run of four."
    class Stop(Callback):
        def before_epoch(self):
            if self.epoch == 2: raise CancelFitException
    whole = learner()
    getattr(whole, fit)(4, .01)
    halves = learner()
    getattr(halves, fit)(4, .01, cbs=Stop())
    getattr(halves, fit)(4, .01, start_epoch=2)
    assert all(a.equal(b) for a, b in zip(whole.model.state_dict().values(), halves.model.state_dict().values()))

@pytest.mark.parametrize('opt_func', [SGD, Adam])
@pytest.mark.parametrize('fit', ['fit', 'fit_one_cycle', 'fit_flat_cos'])
def test_the_learners_own_rate_may_be_a_slice(fit, opt_func):
    cb = watched(fit, 1, learn=learner(lr=slice(1e-4, 1e-2), opt_func=opt_func))
    assert all(math.isclose(o['6.bias'] / o['2.weight'], 10) and math.isclose(o['2.weight'] / o['0.weight'], 10) for o in cb.rates)

@pytest.mark.parametrize('fit', ['fit', 'fit_one_cycle', 'fit_flat_cos'])
@pytest.mark.parametrize('splitter, lr, says', [
    (None, slice(1e-4, 1e-2), 'this one is one part'), (None, slice(1e-2), 'this one is one part'), (three, slice(0, 1e-2), r'write slice\(lo, hi\)'),
    (three, slice(1e-4, None), 'write slice'), (three, slice(1e-4, 1e-2, 1e-3), 'write slice'), (three, slice(float('nan'), 1), 'write slice'),
    (three, slice(1e-4, float('nan')), 'write slice'), (three, [.1, .2], '2 values for a model in 3 parts'), (three, -1., '0 or more')])
def test_rates_that_make_no_sense(fit, splitter, lr, says):
    learn = learner(splitter)
    before = [o.clone() for o in learn.model.parameters()]
    with pytest.raises(ValueError, match=says): getattr(learn, fit)(1, lr)
    assert all(a.equal(b) for a, b in zip(before, learn.model.parameters()))

# Freezing

def test_norms_without_parameters_rest_with_their_part():
    learn, norm = learner(lambda m: [m[0], m[1:]]), nn.BatchNorm2d(4, affine=False)
    learn.model[0] = nn.Sequential(learn.model[0], norm)
    learn.freeze().fit(1, .1)
    assert norm.running_mean.eq(0).all() and norm.num_batches_tracked == 0
    learn.unfreeze().fit(1, .1)
    assert norm.num_batches_tracked == STEPS

@pytest.mark.parametrize('fit', ['fit', 'fit_one_cycle', 'fit_flat_cos', 'fine_tune'])
def test_a_frozen_part_computes_what_it_did(fit):
    learn, x = learner(wd=.5), torch.randn(4, 1, 6, 6)
    learn.prepare_model()   # channels-last may round otherwise
    learn.freeze(train_bn=False)
    before = learn.model.eval()[:5](x)
    getattr(learn, fit)(1, **(dict(freeze_epochs=2, train_bn=False, cbs=Only()) if fit == 'fine_tune' else {}))
    assert learn.model.eval()[:5](x).equal(before)

class Only(Callback):
    "Let only the head's epochs of `fine_tune` happen."
    def before_epoch(self):
        if all(p.requires_grad for p in self.model.parameters()): raise CancelEpochException

def test_freezing_keeps_what_the_optimizer_remembers():
    learn = learner()
    learn.fit(1)
    opt = learn.opt
    learn.freeze().fit(1); learn.unfreeze().fit(1)
    count = {n: float(opt.state[p]['step']) for n, p in learn.model.named_parameters()}
    assert learn.opt is opt and count == {n: STEPS * (2 if n in ('0.weight', '0.bias', '2.weight', '2.bias') else 3) for n in PARTS}

def test_a_weight_used_in_two_parts_is_named():
    learn = learner(lambda m: [m[:5], m[5:], [m[6].bias]])
    for ask in learn.freeze, learn.unfreeze, lambda: learn.fit(1):
        with pytest.raises(ValueError, match="'6.bias' is in parts 1 and 2"): ask()

# The rate finder leaves no trace and ends with an answer

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
    return (learn.model.state_dict(), [p.requires_grad for p in learn.model.parameters()], [m.training for m in learn.model.modules()], opt, dict(vars(learn)), states,
            torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist())

def same(a, b):
    if torch.is_tensor(a): return torch.equal(a, b)
    if isinstance(a, dict): return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    return len(a) == len(b) and all(map(same, a, b)) if isinstance(a, (list, tuple)) else a is b or a == b

@pytest.mark.parametrize('opt_func', [Adam, SGD, lambda g, lr: torch.optim.SGD(g, lr, momentum=.9), lambda g, lr: torch.optim.Adagrad(g, lr)])
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
    with pytest.raises(type(error) if isinstance(error, Exception) else error): learn.lr_find(show_plot=False)
    assert same(before[0], learn.model.state_dict()) and same(before[1], everything(learn))

def test_loaders_with_generators_of_their_own():
    data = [(torch.randn(1, 6, 6), i % 2) for i in range(32)]
    own, sampler = torch.Generator().manual_seed(1), torch.Generator().manual_seed(2)
    dl = torch.utils.data.DataLoader(data, 8, sampler=torch.utils.data.RandomSampler(data, generator=sampler), generator=own)
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
    assert learn.model.seen is seen and seen == 0 and learn.model.a.weight.equal(weight) and learn.model.b.weight is learn.model.a.weight

def test_a_callback_that_cannot_be_copied_is_named():
    cb = Noisy(); cb.file = open(__file__)
    learn = learner(cbs=cb)
    with pytest.raises(TypeError, match='Noisy cannot be copied.*in_lr_find = False'): learn.lr_find()
    cb.file.close()

def test_every_step_has_its_rate():
    class Seen(Callback):
        order, rates = 40, []
        def before_step(self): Seen.rates.append({p: g['lr'] for g in self.opt.param_groups for p in g['params']})
    learn = learner(cbs=Seen())
    learn.lr_find(1e-5, 1e-1, 17, stop_div=False, show_plot=False, suggest_funcs=None)
    assert np.allclose([next(iter(o.values())) for o in Seen.rates], [10**(-5 + 4 * k / 16) for k in range(17)])
    assert all(len(set(o.values())) == 1 and len(o) == len(PARTS) for o in Seen.rates)

def points(f, n=256, bs=16, seed=0):
    "A learner of a line from points `(x, f(x))`."
    set_seed(seed)
    data = [(x, f(x)) for x in torch.randn(n, 3)]
    return Learner(DataLoaders(DataLoader(data, bs=bs, shuffle=True), device='cpu'), nn.Linear(3, 1), MSELossFlat(), opt_func=SGD, precision='fp32', default_cbs=False)

@pytest.mark.parametrize('n, bs', [(256, 16), (16, 16), (17, 16), (8, 16)])   # the last ones: one batch, one batch and a rest
def test_a_line_is_learned_at_the_rate_that_is_suggested(n, bs):
    "The curvature is 2, so steps diverge beyond 1. `slide` may come late: an explosion from zero takes its time."
    learn = points(lambda x: 3 * x.sum(0, keepdim=True) + 1, n, bs)
    found = learn.lr_find(show_plot=False, suggest_funcs=tuple(SUGGEST))
    assert all(1e-3 < o < 1 for o in (found.valley, found.steep, found.minimum)) and found.minimum < found.valley < found.slide
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
    with pytest.raises(DivergedError, match=f'The loss is {bad} at step 1, .*NaN in the data'): points(lambda x: torch.full((1,), bad)).lr_find()

@pytest.mark.parametrize('start', [3., 1e3, 1e20])
def test_a_start_that_is_too_large(start):
    with pytest.raises((ValueError, DivergedError), match='start_lr|at rate'): points(lambda x: x.sum(0, keepdim=True)).lr_find(start, start * 1e6, show_plot=False)

def test_names_of_suggestions():
    learn = points(lambda x: 3 * x.sum(0, keepdim=True))
    def third(lrs, losses): return lrs[3]
    found = learn.lr_find(show_plot=False, suggest_funcs=[third, 'slide', minimum])
    assert found._fields == ('third', 'slide', 'minimum') and found.third == pytest.approx(1e-7 * 10**(8 * 3 / 99))
    assert learn.lr_find(show_plot=False)._fields == ('valley',)
    for wrong, says in (('vally', "'vally'.*Did you mean 'valley'"), ('best', 'choose from valley, slide'), (3, 'called 3')):
        with pytest.raises(ValueError, match=says): learn.lr_find(suggest_funcs=wrong)
    for kwargs in (dict(start_lr=0), dict(start_lr=-1), dict(start_lr=1, end_lr=1), dict(end_lr=float('inf')), dict(start_lr=float('nan')), dict(num_it=9), dict(num_it=0)):
        with pytest.raises(ValueError, match=next(iter(kwargs))): learn.lr_find(**kwargs)
    with pytest.raises(TypeError): learn.lr_find(1e-7, 10, n=3)

def test_the_plot_names_its_axes_and_suggestions():
    points(lambda x: 3 * x.sum(0, keepdim=True)).lr_find(suggest_funcs=('valley', 'steep'))
    ax = plt.gca()
    assert ax.get_xscale() == 'log' and ax.get_xlabel() == 'learning rate' and ax.get_ylabel() == 'loss'
    assert [o.get_text().split(':')[0] for o in ax.get_legend().get_texts()] == ['each step', 'smoothed', 'valley', 'steep']
    plt.close('all')

def test_noise_does_not_move_a_suggestion_far():
    "The same curve with twenty kinds of noise. (A straight descent has no steepest point, so `steep` may be anywhere on it.)"
    lrs = np.geomspace(1e-7, 10, 100)
    x = np.log10(lrs)
    curve = 2.3 - .8 * np.clip((x + 4.5) / 2, 0, 1) + np.clip(x + 2, 0, None)**2
    for f in valley, slide, minimum:
        clean = f(lrs, smooth(curve, 4))
        noisy = [f(lrs, smooth(curve + .1 * np.random.default_rng(k).standard_normal(100), 4)) for k in range(20)]
        assert all(1 / 4 < o / clean < 4 for o in noisy), f.__name__

@pytest.mark.parametrize('ask', [lambda o: o.fit(1), lambda o: o.fit_one_cycle(1), lambda o: o.lr_find(show_plot=False)])
def test_a_model_that_may_not_learn_says_so(ask):
    learn = learner()
    for p in learn.model.parameters(): p.requires_grad_(False)
    with pytest.raises(ValueError, match='No parameter of the model may learn'): ask(learn)
