"Lookahead by hand, its way to disk and back, and where in a training a round ends."
import copy

import pytest
import torch
from torch import nn

from sotavision.callbacks.ema import EMA
from sotavision.core.rng import set_seed
from sotavision.data.loaders import DataLoader, DataLoaders
from sotavision.objectives.losses import CrossEntropyLossFlat
from sotavision.training import Learner
from sotavision.training.callback import Callback, CancelFitException
from sotavision.training.lookahead import Lookahead, RAdam, ranger, rectification
from sotavision.training.optimizers import SGD, Adam, get_hypers, param_groups

def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.LayerNorm(5), nn.Tanh(), nn.Linear(5, 2))

def flat(m): return torch.cat([p.detach().flatten() for p in m.parameters()])

def walk(m, opt, steps, seed=1):
    g = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        m(torch.randn(8, 3, generator=g)).square().mean().backward()
        opt.step(); opt.zero_grad()
    return flat(m)

INNER = dict(sgd=lambda ps: SGD(ps, lr=.1, mom=.9), adam=lambda ps: Adam(ps, lr=.01),
             radam=lambda ps: RAdam(ps, lr=.01))

@pytest.mark.parametrize('inner', INNER.values(), ids=INNER)
def test_one_step_all_the_way_is_the_optimizer_inside(inner):
    a, b = model(), model()
    assert walk(a, Lookahead(inner(a.parameters()), k=1, alpha=1.), 50).equal(
        walk(b, inner(b.parameters()), 50))

@pytest.mark.parametrize('k, alpha', [(6, .5), (3, .8), (1, .3)])
def test_fifty_steps_by_hand(k, alpha):
    a, b = model(), model()
    got = walk(a, Lookahead(Adam(a.parameters(), lr=.01), k, alpha), 50)
    opt, slow, g = Adam(b.parameters(), lr=.01), flat(b), torch.Generator().manual_seed(1)
    for t in range(1, 51):
        b(torch.randn(8, 3, generator=g)).square().mean().backward()
        opt.step(); opt.zero_grad()
        if t % k: continue
        slow = slow + alpha * (flat(b) - slow)
        nn.utils.vector_to_parameters(slow.clone(), b.parameters())
    assert torch.allclose(got, flat(b), atol=1e-6)

def test_radam_is_torchs_with_decoupled_decay():
    a, b = model(), model()
    theirs = torch.optim.RAdam(b.parameters(), lr=.02, betas=(.9, .99), eps=1e-5, weight_decay=.1,
                               decoupled_weight_decay=True, foreach=False)
    ours = RAdam(a.parameters(), lr=.02, mom=.9, wd=.1)
    assert torch.allclose(walk(a, ours, 50), walk(b, theirs, 50), atol=1e-6)

def test_the_factor_rises_from_zero_to_one():
    rs = [rectification(t) for t in range(1, 3000)]
    assert rs[:5] == [0.] * 5 and 0 < rs[5] < .1
    assert all(a <= b for a, b in zip(rs, rs[1:])) and .999 < rs[-1] <= 1

@pytest.mark.parametrize('cut', [4, 6, 9])   # within a round, at its end, within the next
def test_saved_and_loaded_it_goes_on_bit_for_bit(cut, tmp_path):
    whole = model()
    expected = walk(whole, ranger(whole.parameters(), lr=.05), cut + 20, 1)
    m = model()
    opt, g = ranger(m.parameters(), lr=.05), torch.Generator().manual_seed(1)
    def some(m, opt, n):
        for _ in range(n):
            m(torch.randn(8, 3, generator=g)).square().mean().backward()
            opt.step(); opt.zero_grad()
    some(m, opt, cut)
    torch.save((m.state_dict(), opt.state_dict()), tmp_path/'a.pt')
    weights, memory = torch.load(tmp_path/'a.pt', weights_only=True)
    m2 = model()
    with torch.no_grad(): m2[0].weight.add_(1.)
    m2.load_state_dict(weights)
    opt2 = ranger(m2.parameters(), lr=.7)
    opt2.load_state_dict(memory)
    some(m2, opt2, 20)
    assert flat(m2).equal(expected)

def test_groups_and_memory_are_shared_after_loading():
    m = model()
    opt = ranger(param_groups(m, .1), lr=.05)
    walk(m, opt, 3)
    opt.load_state_dict(opt.state_dict())
    opt.param_groups[0]['lr'] = .123
    assert opt.opt.param_groups[0]['lr'] == .123 and opt.opt.state is opt.state
    assert get_hypers(opt)['lr'][0] == .123 and get_hypers(opt)['wd'] == [.1, 0.]

def test_a_copy_has_parameters_of_its_own():
    m = model()
    opt = ranger(m.parameters(), lr=.05)
    walk(m, opt, 4)
    m2, opt2 = copy.deepcopy((m, opt))
    before = flat(m).clone()
    assert not walk(m2, opt2, 5).equal(before) and flat(m).equal(before)
    assert walk(m, opt, 5).equal(flat(m2))

@pytest.mark.parametrize('kwargs, said', [
    (dict(k=0), 'k=0'), (dict(k=2.5), 'k=2.5'), (dict(k=True), 'k=True'),
    (dict(alpha=0.), 'alpha=0'), (dict(alpha=1.1), 'alpha=1.1'),
    (dict(alpha=float('nan')), 'alpha=nan')])
def test_bad_choices_are_named(kwargs, said):
    with pytest.raises(ValueError, match=said): Lookahead(SGD(model().parameters()), **kwargs)

def test_the_memory_of_a_bare_optimizer_is_refused():
    m = model()
    with pytest.raises(ValueError, match='without Lookahead'):
        Lookahead(SGD(m.parameters())).load_state_dict(SGD(m.parameters()).state_dict())

def test_a_parameter_without_a_gradient_stays():
    a, b = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    opt = Lookahead(SGD([a, b], lr=.1), k=2)
    for _ in range(4): a.grad = torch.ones(2); opt.step()
    assert b.equal(torch.ones(2)) and torch.allclose(a, torch.tensor(.8))

# --- in a training

def learner(opt_func=ranger, n=40, **kwargs):
    g = torch.Generator().manual_seed(0)
    data = [(torch.randn(3, generator=g), i % 2) for i in range(n)]
    dls = DataLoaders(DataLoader(data, bs=4), DataLoader(data, bs=8), device='cpu')
    set_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    return Learner(dls, net, CrossEntropyLossFlat(), opt_func=opt_func, precision='fp32', **kwargs)

class Watch(Callback):
    "Steps that the round has when validation begins, and whether fast and slow weights agree."
    def __init__(self): self.seen = []
    def before_validate(self):
        opt = self.opt
        self.seen.append((opt.steps, all(p.equal(opt.slow[p]) for p in opt.params())))

def test_validation_sees_the_end_of_a_round():
    learn = learner(cbs=(watch := Watch()))           # ten steps an epoch, six in a round
    learn.fit(3, .01)
    assert watch.seen == [(0, True)] * 3

def test_a_cut_off_training_ends_the_round_too():
    class Stop(Callback):
        def after_batch(self):
            if self.training and self.iter == 3: raise CancelFitException
    learn = learner()
    learn.fit(1, .01, cbs=Stop())
    assert learn.opt.steps == 0

def test_loaded_weights_are_never_pulled_back():
    learn = learner()
    learn.fit(1, .01)
    with torch.no_grad():
        for p in learn.model.parameters(): p.fill_(7.)
    learn.fit(1, 0.)
    assert all(p.eq(7).all() for p in learn.model.parameters())

def test_a_resumed_training_is_the_whole_one(tmp_path):
    whole = learner().fit_flat_cos(4, .02)
    class Kill(Callback):
        in_lr_find = False
        def before_epoch(self):
            if self.epoch == 2: raise KeyboardInterrupt
    first = learner()
    with pytest.raises(KeyboardInterrupt):
        first.fit_flat_cos(4, .02, cbs=Kill(), checkpoint=tmp_path)
    again = learner().fit_flat_cos(4, .02, checkpoint=tmp_path, resume=True)
    assert flat(again.model).equal(flat(whole.model))
    other = learner(lambda ps, lr: Lookahead(Adam(ps, lr)))
    with pytest.raises(ValueError, match=r'optimizer: Lookahead\(RAdam\) then'):
        other.fit_flat_cos(4, .02, checkpoint=tmp_path, resume=True)

def test_a_mean_of_weights_changes_no_step():
    a, b = learner().fit(2, .02), learner(cbs=EMA(.9)).fit(2, .02)
    assert flat(a.model).equal(flat(b.model))

def test_saved_with_its_memory_and_loaded(tmp_path):
    learn = learner(path=tmp_path)
    learn.fit(1, .02)
    learn.save('a')
    other = learner(path=tmp_path).load('a')
    assert other.fit(1, .02) and learn.fit(1, .02)
    assert flat(other.model).equal(flat(learn.model))

def test_half_precision_scales_its_steps():
    learn = learner()
    learn.precision = 'bf16'
    learn.fit(1, .02)
    assert flat(learn.model).isfinite().all()
