"Rates at every step and for every parameter: schedules, slices, frozen parts."
import math

import pytest
import torch
from torch import nn

from learners import one_thread  # noqa: F401 (a fixture)
from sotavision.training.callback import Callback, CancelEpochException, CancelFitException
from sotavision.training.optimizers import SGD, Adam, get_hypers
from three_parts import PARTS, STEPS, learner, three

class Watch(Callback):
    "Rate of every parameter and momentum of every group, at every step."
    order = 15
    def __init__(self): self.rates, self.moms = [], []
    def before_batch(self):
        if not self.training: return
        names = {id(p): n for n, p in self.model.named_parameters()}
        self.rates.append(
            {names[id(p)]: g['lr'] for g in self.opt.param_groups for p in g['params']}
        )
        self.moms.append(set(get_hypers(self.opt).get('mom', ())))

def watched(fit, *args, learn=None, **kwargs):
    cb, learn = Watch(), learn or learner()
    getattr(learn, fit)(*args, cbs=cb, **kwargs)
    return cb

# The formulas, written another way: in degrees, with numbers of steps

def wave(a, b, x): return a + (b - a) * math.sin(math.radians(90 * x))**2

def one_cycle_by_hand(n, peak, div, div_final, pct):
    turn = pct * n
    return [
        wave(peak / div, peak, k / turn)
        if k < turn
        else wave(peak, peak / div_final, (k - turn) / (n - turn))
        for k in range(n)
    ]

def flat_cos_by_hand(n, lr, div_final, pct):
    turn = pct * n
    return [
        lr if k <= turn else wave(lr, lr / div_final, (k - turn) / (n - turn)) for k in range(n)
    ]

def close(a, b):
    return len(a) == len(b) and all(math.isclose(x, y, rel_tol=1e-9) for x, y in zip(a, b))

ASKED = [
    (.1, (.1, .1, .1)),
    (slice(1e-4, 1e-2), (1e-4, 1e-3, 1e-2)),
    (slice(.5), (.05, .05, .5)),
    (slice(1e-2, 1e-4), (1e-2, 1e-3, 1e-4)),
    ([.3, .2, .1], (.3, .2, .1)),
]

@pytest.mark.parametrize('lr, wanted', ASKED, ids=str)
@pytest.mark.parametrize('start', [0, 1, 4])
@pytest.mark.parametrize('pct', [.25, .3, .99])
def test_one_cycle_on_every_parameter(lr, wanted, start, pct):
    cb = watched(
        'fit_one_cycle',
        5,
        lr,
        div=10,
        div_final=1e3,
        pct_start=pct,
        start_epoch=start,
        moms=(.9, .7, .8),
    )
    for name, part in PARTS.items():
        assert close(
            [o[name] for o in cb.rates],
            one_cycle_by_hand(5 * STEPS, wanted[part], 10, 1e3, pct)[start * STEPS :],
        )
    turn, n = pct * 5 * STEPS, 5 * STEPS
    moms = [
        wave(.9, .7, k / turn) if k < turn else wave(.7, .8, (k - turn) / (n - turn))
        for k in range(n)
    ][start * STEPS :]
    assert close([o for s in cb.moms for o in s], moms)
    assert all(o.keys() == PARTS.keys() for o in cb.rates)

@pytest.mark.parametrize('lr, wanted', ASKED, ids=str)
@pytest.mark.parametrize('start', [0, 2, 4])
@pytest.mark.parametrize('pct', [0, .5, .75])
def test_flat_cos_on_every_parameter(lr, wanted, start, pct):
    cb = watched('fit_flat_cos', 5, lr, div_final=1e3, pct_start=pct, start_epoch=start)
    for name, part in PARTS.items():
        assert close(
            [o[name] for o in cb.rates],
            flat_cos_by_hand(5 * STEPS, wanted[part], 1e3, pct)[start * STEPS :],
        )
    assert cb.moms == [{.9}] * len(cb.rates)

@pytest.mark.parametrize('lr, wanted', ASKED, ids=str)
def test_constant_rates_on_every_parameter(lr, wanted):
    cb = watched('fit', 2, lr)
    assert len(cb.rates) == 2 * STEPS
    assert all(
        math.isclose(o[name], wanted[part]) for o in cb.rates for name, part in PARTS.items()
    )

@pytest.mark.parametrize('fit', ['fit_one_cycle', 'fit_flat_cos'])
def test_starts_peaks_and_ends(fit):
    "At the first step, at the turn, and as near to the end as the last step comes."
    rates = [o['6.bias'] for o in watched(fit, 10, 1.).rates]
    assert max(rates) == 1 and rates[-1] < .025
    assert rates[0] == (1 / 25 if fit == 'fit_one_cycle' else 1)
    assert rates.index(1) == (10 if fit == 'fit_one_cycle' else 0)

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
    assert all(
        a.equal(b)
        for a, b in zip(whole.model.state_dict().values(), halves.model.state_dict().values())
    )

@pytest.mark.parametrize('opt_func', [SGD, Adam])
@pytest.mark.parametrize('fit', ['fit', 'fit_one_cycle', 'fit_flat_cos'])
def test_the_learners_own_rate_may_be_a_slice(fit, opt_func):
    cb = watched(fit, 1, learn=learner(lr=slice(1e-4, 1e-2), opt_func=opt_func))
    assert all(
        math.isclose(o['6.bias'] / o['2.weight'], 10)
        and math.isclose(o['2.weight'] / o['0.weight'], 10)
        for o in cb.rates
    )

@pytest.mark.parametrize('fit', ['fit', 'fit_one_cycle', 'fit_flat_cos'])
@pytest.mark.parametrize(
    'splitter, lr, says',
    [(three, slice(0, 1e-2), r'write slice\(lo, hi\)'), (None, slice(0, 1e-2), 'write slice'),
     (None, slice(1e-4, None), 'write slice'), (three, slice(1e-4, None), 'write slice'),
     (three, slice(1e-4, 1e-2, 1e-3), 'write slice'),
     (three, slice(float('nan'), 1), 'write slice'),
     (three, slice(1e-4, float('nan')), 'write slice'),
     (three, [.1, .2], '2 values for a model in 3 parts'), (three, -1., '0 or more')])
def test_rates_that_make_no_sense(fit, splitter, lr, says):
    learn = learner(splitter)
    before = [o.clone() for o in learn.model.parameters()]
    with pytest.raises(ValueError, match=says): getattr(learn, fit)(1, lr)
    assert all(a.equal(b) for a, b in zip(before, learn.model.parameters()))

@pytest.mark.parametrize('fit', ['fit', 'fit_one_cycle', 'fit_flat_cos'])
def test_a_slice_over_one_part_is_its_last_rate(fit):
    with pytest.warns(UserWarning, match='one part, so all of it gets 0.01'):
        cb = watched(fit, 1, slice(1e-4, 1e-2), learn=learner(None))
    assert [o['0.weight'] for o in cb.rates] == [o['6.bias'] for o in cb.rates]
    assert cb.rates == watched(fit, 1, 1e-2, learn=learner(None)).rates
    assert cb.rates == watched(fit, 1, slice(1e-2), learn=learner(None)).rates

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
    getattr(learn, fit)(
        1, **(dict(freeze_epochs=2, train_bn=False, cbs=Only()) if fit == 'fine_tune' else {})
    )
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
    assert learn.opt is opt
    assert count == {
        n: STEPS * (2 if n in ('0.weight', '0.bias', '2.weight', '2.bias') else 3) for n in PARTS
    }

def test_a_weight_used_in_two_parts_is_named():
    learn = learner(lambda m: [m[:5], m[5:], [m[6].bias]])
    for ask in learn.freeze, learn.unfreeze, lambda: learn.fit(1):
        with pytest.raises(ValueError, match="'6.bias' is in parts 1 and 2"): ask()
