"Muon against torch's, against a decomposition, and in a training."
import pytest
import torch
from torch import nn

from sotavision.core.rng import set_seed
from sotavision.data.loaders import DataLoader, DataLoaders
from sotavision.models.xresnet import xresnet18
from sotavision.objectives.losses import CrossEntropyLossFlat
from sotavision.training import Learner
from sotavision.training.callback import Callback
from sotavision.training.muon import Muon, muon, newton_schulz
from sotavision.training.optimizers import get_hypers, param_groups

def singular(n, m, values, seed=0):
    "A matrix with these singular values."
    g = torch.Generator().manual_seed(seed)
    k = min(n, m)
    u = torch.linalg.qr(torch.randn(n, k, generator=g, dtype=torch.float64))[0]
    v = torch.linalg.qr(torch.randn(m, k, generator=g, dtype=torch.float64))[0]
    return u, v, u @ torch.diag(values) @ v.T

@pytest.mark.parametrize('n, m', [(8, 8), (8, 30), (30, 8), (1, 5), (5, 1)])
def test_directions_stay_and_lengths_become_one(n, m):
    k = min(n, m)
    u, v, g = singular(n, m, torch.logspace(1, -1, k, dtype=torch.float64))
    out = u.T @ newton_schulz(g) @ v
    assert (out - torch.diag(out.diagonal())).abs().max() < 1e-9
    assert .6 < out.diagonal().min() and out.diagonal().max() < 1.25

def test_the_size_does_not_matter_and_a_batch_is_its_members():
    g = torch.randn(3, 4, 6, dtype=torch.float64)
    out = newton_schulz(g)
    assert torch.allclose(newton_schulz(1e4 * g), out)
    assert all(torch.allclose(newton_schulz(o), p) for o, p in zip(g, out))
    assert newton_schulz(torch.zeros(2, 3)).equal(torch.zeros(2, 3))
    with pytest.raises(ValueError, match='matrices'): newton_schulz(torch.ones(3))

@pytest.mark.skipif(not hasattr(torch.optim, 'Muon'), reason='this torch has no Muon')
def test_fifty_steps_are_torchs(monkeypatch):
    monkeypatch.setattr(torch.Tensor, 'bfloat16', lambda self: self)   # torch's rounds there
    torch.manual_seed(0)
    starts = [torch.randn(*o, dtype=torch.float64) for o in ((6, 4), (4, 9), (5, 5))]
    ours, theirs = ([nn.Parameter(o.clone()) for o in starts] for _ in range(2))
    a = Muon(ours, lr=.02, mom=.9, wd=.1)
    b = torch.optim.Muon(theirs, lr=.02, momentum=.9, weight_decay=.1,
                         adjust_lr_fn='match_rms_adamw')
    for _ in range(50):
        for ps, opt in (ours, a), (theirs, b):
            sum((p @ p.mT - torch.eye(len(p))).square().sum() + p.sum() for p in ps).backward()
            opt.step(); opt.zero_grad()
    assert all(torch.allclose(p, q, atol=1e-6) for p, q in zip(ours, theirs))

def test_a_filter_is_the_matrix_of_its_outputs():
    torch.manual_seed(0)
    w, g = torch.randn(6, 3, 3, 3), torch.randn(6, 3, 3, 3)
    conv, mat = nn.Parameter(w.clone()), nn.Parameter(w.flatten(1).clone())
    last = nn.Parameter(w.clone(memory_format=torch.channels_last))
    for p in conv, mat, last:
        opt = Muon([p], lr=.1)
        for _ in range(3): p.grad = g.clone().view_as(p); opt.step()
    assert torch.allclose(conv.flatten(1), mat) and torch.allclose(conv, last)
    # entries of a step are .2 on the root mean square, as Adam's are
    step = newton_schulz(g.flatten(1)) * .2 * 27**.5
    assert .15 < step.square().mean().sqrt() < .25

def test_what_is_no_matrix_is_adams():
    torch.manual_seed(0)
    start = torch.randn(5)
    a, b, c = (nn.Parameter(start.clone()) for _ in range(3))
    wide = nn.Parameter(torch.randn(3, 3)); same = nn.Parameter(wide.detach().clone())
    ours = Muon([dict(params=[a]), dict(params=[wide], muon=False)], lr=.02, wd=.1)
    theirs = torch.optim.AdamW([b, same], lr=.02, betas=(.95, .99), eps=1e-5, weight_decay=.1)
    for _ in range(50):
        for opt, ps in (ours, (a, wide)), (theirs, (b, same)):
            sum((p**2 - p).sum() for p in ps).backward()
            opt.step(); opt.zero_grad()
    assert torch.allclose(a, b, atol=1e-6) and torch.allclose(wide, same, atol=1e-6)
    assert c.equal(start)

def test_first_and_last_matrix_norms_and_biases_are_adams():
    net = xresnet18(n_out=10)
    opt = muon(param_groups(net, .05), lr=.01)
    mine = {id(p) for g in opt.param_groups if g['muon'] for p in g['params']}
    names = [n for n, p in net.named_parameters() if id(p) in mine]
    shapes = [p.ndim for p in net.parameters() if id(p) in mine]
    every = [n for n, p in net.named_parameters() if p.ndim >= 2]
    assert names == every[1:-1] and set(shapes) == {4}
    assert sum(len(g['params']) for g in opt.param_groups) == len(list(net.parameters()))
    hypers = get_hypers(opt)
    assert set(hypers['lr']) == {.01} and set(hypers['mom']) == {.95}
    assert all(g['weight_decay'] == (.05 if g['decay'] else 0) for g in opt.param_groups)

def test_tables_that_decay_spares_are_adams():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.pos_embed = nn.Linear(4, 4), nn.Parameter(torch.zeros(1, 5, 4))
            self.inner, self.last = nn.Linear(4, 4), nn.Linear(4, 2)
    net = Net()
    opt = muon(param_groups(net, .1), lr=.01)
    mine = [p for g in opt.param_groups if g['muon'] for p in g['params']]
    assert len(mine) == 1 and mine[0] is net.inner.weight

def test_plain_parameters_and_closures():
    ps = [nn.Parameter(torch.ones(3, 3)) for _ in range(3)]
    opt = muon(iter(ps), lr=.1)
    assert [len(g['params']) for g in opt.param_groups if g['muon']] == [1]
    def closure():
        loss = sum(p.square().sum() for p in ps)
        loss.backward()
        return loss
    assert opt.step(closure) == 27 and not ps[1].equal(torch.ones(3, 3))
    ps[1].grad = None
    before = ps[1].detach().clone()
    opt.step()
    assert ps[1].equal(before)

# --- in a training

def learner(**kwargs):
    g = torch.Generator().manual_seed(0)
    data = [(torch.randn(3, 16, 16, generator=g), i % 2) for i in range(24)]
    dls = DataLoaders(DataLoader(data, bs=8), DataLoader(data, bs=8), device='cpu')
    set_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3),
                        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    return Learner(dls, net, CrossEntropyLossFlat(), opt_func=muon, precision='fp32', **kwargs)

def weights(learn): return torch.cat([p.detach().flatten() for p in learn.model.parameters()])

def test_a_resumed_training_is_the_whole_one(tmp_path):
    whole = learner().fit_one_cycle(3, .02)
    class Kill(Callback):
        in_lr_find = False
        def before_epoch(self):
            if self.epoch == 2: raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        learner().fit_one_cycle(3, .02, cbs=Kill(), checkpoint=tmp_path)
    again = learner().fit_one_cycle(3, .02, checkpoint=tmp_path, resume=True)
    assert weights(again).equal(weights(whole))

def test_rates_by_part():
    learn = learner(splitter=lambda m: [m[:3], m[3:]])
    learn.fit(1, slice(1e-3, 1e-2))
    assert {g['part']: g['lr'] for g in learn.opt.param_groups} == {0: 1e-3, 1: 1e-2}

def test_saved_with_its_memory_and_loaded(tmp_path):
    learn = learner(path=tmp_path)
    learn.fit(1, .02)
    learn.save('a')
    other = learner(path=tmp_path).load('a')
    learn.fit(1, .02); other.fit(1, .02)
    assert weights(other).equal(weights(learn))

@pytest.mark.parametrize('fast', ['fp32', 'bf16'])
def test_large_matrices_are_multiplied_as_the_hardware_likes(fast, monkeypatch):
    monkeypatch.setattr('sotavision.training.muon.best_precision', lambda device: fast)
    seen = []
    bfloat16 = torch.Tensor.bfloat16
    monkeypatch.setattr(torch.Tensor, 'bfloat16', lambda o: seen.append(o.shape) or bfloat16(o))
    u, v, g = singular(64, 96, torch.logspace(0, -1, 64, dtype=torch.float64))
    out = newton_schulz(g.float())
    assert out.dtype == torch.float32 and len(seen) == (fast == 'bf16')
    assert newton_schulz(g).dtype == torch.float64 and len(seen) == (fast == 'bf16')
    kept = u.T @ out.double() @ v
    assert .6 < kept.diagonal().min() and kept.diagonal().max() < 1.25
    assert (kept - torch.diag(kept.diagonal())).abs().max() < (.06 if fast == 'bf16' else 1e-3)
    small = newton_schulz(torch.randn(63, 96))
    assert small.dtype == torch.float32 and len(seen) == (fast == 'bf16')
