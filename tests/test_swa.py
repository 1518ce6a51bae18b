"Averaged weights and norms measured anew: by hand, against torch, in any order."
import copy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, update_bn

from sotavision.callbacks.ema import EMA
from sotavision.callbacks.norms import update_norms
from sotavision.callbacks.swa import SWA
from sotavision.callbacks.tracking import SaveModelCallback
from sotavision.core.rng import set_seed
from sotavision.data.loaders import DataLoader, DataLoaders
from sotavision.objectives.losses import CrossEntropyLossFlat
from sotavision.objectives.metrics import accuracy
from sotavision.training import Learner
from sotavision.training.callback import Callback, CancelStepException

gen = torch.Generator().manual_seed(0)
DATA = [(torch.randn(6, generator=gen) + .5 * (i % 2), i % 2) for i in range(96)]

def net():
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(.3),
                         nn.Linear(8, 2))

def learner(*cbs, model=None, shuffle=True, **kwargs):
    set_seed(0)
    dls = DataLoaders(DataLoader(DATA, bs=8, shuffle=shuffle), DataLoader(DATA, bs=96),
                      device='cpu')
    return Learner(dls, model or net(), CrossEntropyLossFlat(), metrics=accuracy, cbs=cbs,
                   precision='fp32', **kwargs)

def state(learn): return {k: v.clone() for k, v in learn.model.state_dict().items()}
def equal(a, b): return a.keys() == b.keys() and all(a[k].equal(b[k]) for k in a)

class Kept(Callback):
    "The weights after each step."
    in_lr_find, order = False, 29
    def __init__(self): self.each = []
    def after_step(self): self.each.append(self.model[0].weight.detach().clone())

@pytest.mark.parametrize('cb', [lambda: SWA(.5), lambda: SWA(.2, every=5), lambda: EMA(.9),
                                lambda: SWA(0., norm_batches=2), lambda: EMA(.9, norm_batches=2)])
def test_the_training_does_not_change(cb):
    assert equal(state(learner().fit(3, .05)), state(learner(cb()).fit(3, .05)))

@pytest.mark.parametrize('start, epochs, n', [(.75, 4, 1), (.5, 4, 2), (0., 3, 3), (.7, 10, 3),
                                              (.99, 5, 1)])
def test_late_epochs_count_alike(start, epochs, n):
    learn = learner(swa := SWA(start), kept := Kept()).fit(epochs, .05)
    ends = kept.each[11::12][-n:]
    assert swa.steps == n == len(ends)
    assert torch.allclose(swa.mean['0.weight'], torch.stack(ends).mean(0), atol=1e-6)
    swa.to_model()
    assert learn.model[0].weight.equal(swa.mean['0.weight'])

def test_every_so_many_steps_by_hand_and_as_torchs():
    learn = learner(swa := SWA(.5, every=5), kept := Kept()).fit(2, .05)
    ends = kept.each[14::5]                    # steps 15 and 20 of 24; 5 and 10 came too early
    assert swa.steps == len(ends) == 2
    assert torch.allclose(swa.mean['0.weight'], torch.stack(ends).mean(0), atol=1e-6)
    theirs = AveragedModel(learn.model)
    for w in ends:
        with torch.no_grad(): learn.model[0].weight.copy_(w)
        theirs.update_parameters(learn.model)
    assert torch.allclose(swa.mean['0.weight'], theirs.module[0].weight, atol=1e-6)

def test_skipped_steps_do_not_count():
    class Odd(Callback):
        def before_step(self):
            if self.iter % 2: raise CancelStepException
    learner(swa := SWA(0., every=1), Odd()).fit(1, .05)
    assert swa.steps == 6

def test_columns_before_and_after_the_start():
    learn = learner(swa := SWA(.5)).fit(4, .05)
    t = learn.recorder.table()
    assert t['swa_loss'][0] == t['valid_loss'][0] and t['swa_accuracy'][1] == t['accuracy'][1]
    assert t['swa_loss'][2] == pytest.approx(t['valid_loss'][2])    # the mean of one
    with swa.averaged(): assert learn.validate()[0] == t['swa_loss'][3] != t['valid_loss'][3]
    assert learn.validate()[0] == t['valid_loss'][3]

def test_a_resumed_training_has_the_same_mean(tmp_path):
    class Kill(Callback):
        in_lr_find = False
        def before_epoch(self):
            if self.epoch == 3: raise KeyboardInterrupt
    learner(whole := SWA(.5)).fit(4, .05)
    with pytest.raises(KeyboardInterrupt):
        learner(SWA(.5)).fit(4, .05, cbs=Kill(), checkpoint=tmp_path)
    learner(again := SWA(.5)).fit(4, .05, checkpoint=tmp_path, resume=True)
    assert again.steps == 2 and equal(whole.mean, again.mean)

def test_a_new_training_begins_a_new_mean():
    learn = learner(swa := SWA(.5)).fit(2, .05)
    learn.fit(2, .05)
    assert swa.steps == 1

def test_both_means_side_by_side_and_the_best_is_kept(tmp_path):
    learn = learner(SWA(.3), EMA(.9), path=tmp_path)
    best = SaveModelCallback(monitor='swa_loss', fname='best')
    learn.fit(4, .05, cbs=best)
    t = learn.recorder.table()
    assert {'swa_loss', 'ema_loss'} <= set(t.columns)
    assert learn.validate()[0] == pytest.approx(min(t['swa_loss']))

@pytest.mark.parametrize('kwargs, said', [
    (dict(start=1.), 'start=1'), (dict(start=-.1), 'start=-0.1'),
    (dict(every='step'), "every='step'"), (dict(every=0), 'every=0'),
    (dict(every=2.5), 'every=2.5'), (dict(every=True), 'every=True'),
    (dict(norm_batches=0), 'norm_batches=0')])
def test_bad_choices_are_named(kwargs, said):
    with pytest.raises(ValueError, match=said): SWA(**kwargs)

def test_without_a_mean_there_is_nothing_to_give():
    with pytest.raises(ValueError, match=r'no mean yet.*SWA'): SWA().to_model()
    with pytest.raises(ValueError, match=r'no mean yet.*EMA'): EMA().to_model()

def test_norms_are_measured_for_the_mean():
    learn = learner(swa := SWA(0., norm_batches=12)).fit(3, .05)
    own = state(learn)
    with swa.averaged(): inside = state(learn)
    assert equal(state(learn), own)
    assert not inside['1.running_mean'].equal(swa.mean['1.running_mean'])
    assert inside['1.num_batches_tracked'] == 12
    swa.to_model()
    assert torch.allclose(state(learn)['1.running_mean'], inside['1.running_mean'], atol=.2)

# --- update_norms

def test_measured_as_torchs_where_nothing_is_random():
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4),
                          nn.BatchNorm1d(4))
    learn = learner(model=model, shuffle=False).fit(1, .05)
    theirs = copy.deepcopy(learn.model)
    update_bn([(x,) for x, _ in learn.dls.train], theirs)
    update_norms(learn)
    ours = learn.model.state_dict()
    assert all(torch.allclose(v, ours[k], atol=1e-6) for k, v in theirs.state_dict().items())

def test_only_statistics_change_and_nothing_else_in_the_world():
    learn = learner().fit(1, .05)
    learn.model.train(); learn.model[4].eval()
    before, modes = state(learn), [m.training for m in learn.model.modules()]
    torch.manual_seed(5); update_norms(learn); after = torch.rand(1)
    torch.manual_seed(5); assert torch.rand(1).equal(after)
    now = state(learn)
    changed = {k for k in now if not now[k].equal(before[k])}
    assert changed <= {'1.running_mean', '1.running_var', '1.num_batches_tracked'} and changed
    assert [m.training for m in learn.model.modules()] == modes and learn.model[1].momentum == .1

def test_so_many_batches():
    learn = learner().fit(1, .05)
    update_norms(learn, n=3)
    assert learn.model[1].num_batches_tracked == 3
    update_norms(learn, n=1000)
    assert learn.model[1].num_batches_tracked == 12

def test_frozen_norms_rest_and_a_model_without_norms_is_left_alone():
    learn = learner().fit(1, .05)
    learn.model[1].requires_grad_(False)
    before = state(learn)
    update_norms(learn)
    assert equal(before, state(learn))
    update_norms(nn.Linear(2, 2), [torch.ones(1, 2)])

def test_dropout_is_off_meanwhile():
    model = nn.Sequential(nn.Dropout(.9), nn.BatchNorm1d(6))
    x = torch.stack([x for x, _ in DATA])
    update_norms(model, [x])
    assert torch.allclose(model[1].running_mean, x.mean(0), atol=1e-6) and model[0].training

def test_a_model_and_any_batches():
    model = nn.Sequential(nn.BatchNorm1d(6))
    x = torch.stack([x for x, _ in DATA])
    for batches in [x], [(x, 1)], [[x]]:
        model[0].reset_running_stats()
        update_norms(model, batches)
        assert torch.allclose(model[0].running_mean, x.mean(0), atol=1e-6)

def test_bad_choices_of_update_norms_are_named_and_nothing_is_half_done():
    model = net()
    model(torch.randn(8, 6)); mean = model[1].running_mean.clone()
    with pytest.raises(ValueError, match='give update_norms a dl'): update_norms(model)
    with pytest.raises(ValueError, match='n=0'): update_norms(model, [torch.ones(2, 6)], n=0)
    with pytest.raises(ValueError, match='no batch'): update_norms(model, [])
    with pytest.raises(RuntimeError): update_norms(model, [torch.ones(2, 7)])
    assert model[1].momentum == .1 and all(m.training for m in model.modules())
    assert model[1].running_mean.equal(mean) and model[1].num_batches_tracked == 1
