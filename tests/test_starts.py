"""Starts that were refused, and the command as it is corrected: nothing blocks it, nothing old is
taken."""

import pytest
import torch
import torch.nn.functional as F

from learners import learner, linear, one_thread, same, weights  # noqa: F401 (a fixture)
from sotavision.core.rng import set_seed
from sotavision.data.loaders import DataLoader, DataLoaders
from sotavision.speed.precision import glibc, kept_memory
from sotavision.training.callback import Callback
from sotavision.training.checkpoints import Checkpoint

class Items:
    "Items of which some cannot be read."
    def __init__(self, n=24, bad=()): self.n, self.bad = n, bad
    def __len__(self): return self.n
    def __getitem__(self, i):
        if i in self.bad: raise ValueError(f'image {i} is damaged')
        return torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(i)), i % 3

def on(train=None, seed=0, lr=.1, n_out=3, **kwargs):
    if train is None: train = Items()
    dls = DataLoaders(
        DataLoader(train, bs=8, shuffle=True), DataLoader(Items(8), bs=8), device='cpu'
    )
    return learner(
        lambda: linear(n_out), dls=dls, loss_func=F.cross_entropy, seed=seed, lr=lr, **kwargs
    )

class StopAt(Callback):
    in_lr_find = False
    def __init__(self, step): self.left = step
    def after_batch(self):
        self.left -= self.training
        if not self.left: raise KeyboardInterrupt

def refused(folder, **kwargs):
    "A start that ends before its first step, with a file in the folder."
    with pytest.raises(Exception, match='damaged'):
        on(Items(24, range(24)), **kwargs).fit(2, checkpoint=folder)
    assert list(folder.glob('fit*.pt'))

CORRECTED = [
    dict(train=Items(16)),
    dict(lr=.2),
    dict(wd=.3),
    dict(seed=5),
    dict(),
    dict(opt_func=torch.optim.SGD),
    dict(n_out=4),
    dict(precision='bf16'),
]

@pytest.mark.parametrize('now', CORRECTED, ids=lambda o: ','.join(o) or 'same')
@pytest.mark.parametrize('resume', [True, False])
def test_a_start_without_a_step_blocks_nothing(tmp_path, now, resume):
    refused(tmp_path/'ck')
    got = on(**now).fit(2, checkpoint=tmp_path/'ck', resume=resume)
    # begun with another seed: the library goes on with the first
    if now.get('seed') and resume: return
    assert same(weights(got), weights(on(**now).fit(2)))

@pytest.mark.parametrize('fit', ['fit_one_cycle', 'fine_tune'])
def test_other_trainings_too(tmp_path, fit):
    with pytest.raises(Exception, match='damaged'):
        getattr(on(Items(24, range(24))), fit)(2, checkpoint=tmp_path / 'ck')
    a = getattr(on(lr=.3), fit)(2, checkpoint=tmp_path/'ck', resume=True)
    assert same(weights(a), weights(getattr(on(lr=.3), fit)(2)))

@pytest.mark.parametrize(
    'now', [o for o in CORRECTED if o and 'seed' not in o], ids=lambda o: ','.join(o))
def test_a_training_with_steps_is_never_replaced(tmp_path, now):
    with pytest.raises(KeyboardInterrupt): on().fit(2, cbs=StopAt(4), checkpoint=tmp_path/'ck')
    before = {o.name: o.read_bytes() for o in (tmp_path/'ck').glob('*.pt')}
    with pytest.raises(ValueError, match='is of another training'):
        on(**now).fit(2, checkpoint=tmp_path / 'ck', resume=True)
    with pytest.raises(FileExistsError): on(**now).fit(2, checkpoint=tmp_path/'ck')
    assert before == {o.name: o.read_bytes() for o in (tmp_path/'ck').glob('*.pt')}

def test_a_start_that_was_killed_in_its_first_epoch_goes_on(tmp_path):
    with pytest.raises(KeyboardInterrupt): on().fit(2, cbs=StopAt(2), checkpoint=tmp_path/'ck')
    again = on(seed=9)
    set_seed(77)
    assert same(weights(again.fit(2, checkpoint=tmp_path/'ck', resume=True)), weights(on().fit(2)))

def test_the_seed_is_compared_where_it_is_known(tmp_path):
    keep = lambda seed: Checkpoint(tmp_path/'ck', seed=seed)
    with pytest.raises(KeyboardInterrupt): on().fit(2, cbs=StopAt(4), checkpoint=keep(1))
    with pytest.raises(ValueError, match='seed: 1 then, 2 now'):
        on().fit(2, checkpoint=keep(2), resume=True)
    with pytest.raises(ValueError, match='decay'): on(wd=.5).fit(2, checkpoint=keep(1), resume=True)
    on().fit(2, checkpoint=keep(None), resume=True)

def test_the_seed_of_a_start_without_a_step(tmp_path):
    with pytest.raises(Exception, match='damaged'):
        on(Items(24, range(24))).fit(2, checkpoint=Checkpoint(tmp_path/'ck', seed=0))
    got = on(seed=5).fit(2, checkpoint=Checkpoint(tmp_path/'ck', seed=5), resume=True)
    assert same(weights(got), weights(on(seed=5).fit(2)))

# Memory of the process

@pytest.mark.skipif(glibc() is None, reason='another C library')
def test_a_fit_changes_the_allocator_for_its_own_length(monkeypatch):
    from sotavision.speed import precision as speed
    calls = []
    monkeypatch.setattr(speed, 'set_malloc', lambda *a: calls.append(a) or True)
    learn = on()
    learn.validate(); learn.get_preds()
    assert not calls                                  # questions leave it alone
    learn.fit(1)
    assert len(calls) == 2 and calls[0] > calls[1] and not speed.KEEPERS
    with pytest.raises(KeyboardInterrupt): learn.fit(1, cbs=StopAt(1))
    assert len(calls) == 4 and not speed.KEEPERS
    with kept_memory('cpu'), kept_memory('cpu'): assert calls[-1] == calls[0]
    assert calls[-1] == calls[1]
