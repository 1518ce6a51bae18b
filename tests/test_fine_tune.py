"""One training in two phases: its record, models of one part, and what the optimizer keeps of
itself."""
import warnings

import pytest
import torch

import trainings
from learners import learner, loaders, one_thread  # noqa: F401 (a fixture)
from sotavision.models.xresnet import xresnet18
from sotavision.objectives.metrics import accuracy
from sotavision.techniques.progressive import progressive_resizing
from sotavision.training.callback import Callback
from sotavision.training.checkpoints import Checkpoint
from sotavision.training.optimizers import SGD, Adam, get_hypers, set_hypers
from sotavision.training.recorder import Recorder
from sotavision.training.schedules import ParamScheduler
from three_parts import STEPS, learner as three_parts

class StopAt(Callback):
    "Ctrl-C after so many steps."
    in_lr_find = False
    def __init__(self, step): self.left = step
    def after_batch(self):
        self.left -= self.training
        if not self.left: raise KeyboardInterrupt

# Models of one part

def test_a_model_of_one_part_is_fine_tuned(capsys):
    learn = learner(metrics=accuracy)
    learn.fine_tune(2, 1e-3)
    assert 'one part, so nothing is frozen' in capsys.readouterr().out
    assert len(learn.recorder.rows) == 3 and max(learn.recorder.lrs) == pytest.approx(1e-3, rel=.2)
    head = learner().freeze()
    head.fit_one_cycle(1, 1e-3, pct_start=.99)
    head.unfreeze().fit_one_cycle(2, 5e-4, 5, pct_start=.3)
    assert learn.model[1].weight.equal(head.model[1].weight)

def test_the_chapters_own_resizing(recwarn):
    from sotavision.data.loaders import DataLoader, DataLoaders
    data = [(torch.rand(3, 32, 32), i % 2) for i in range(8)]
    dls = DataLoaders(DataLoader(data, bs=4, shuffle=True), DataLoader(data, bs=4), device='cpu')
    from sotavision.objectives.losses import CrossEntropyLossFlat
    learn = learner(lambda: xresnet18(n_out=2), dls=dls, loss_func=CrossEntropyLossFlat())
    learn.fit_one_cycle(1, 1e-3)
    learn.dls = dls
    learn.fine_tune(1, 1e-3)
    learn.freeze().unfreeze()
    assert not [o for o in recwarn if 'part' in str(o.message)]

# The record

@pytest.mark.parametrize('kwargs, epochs', [({}, [0, 1, 2]), (dict(freeze_epochs=2), [0, 1, 2, 3]),
                                            (dict(freeze_epochs=0), [0, 1]),
                                            (dict(freeze_epochs=2, start_epoch=1), [1, 2, 3]),
                                            (dict(freeze_epochs=2, start_epoch=2), [2, 3]),
                                            (dict(freeze_epochs=2, start_epoch=3), [3]),
                                            (dict(start_epoch=1), [1, 2])])
def test_the_record_holds_both_phases(kwargs, epochs):
    learn = three_parts()
    learn.fit(2)   # what was trained before is no part of it
    learn.fine_tune(2, **kwargs)
    rec = learn.recorder
    assert list(rec.table()['epoch']) == epochs and len(rec.losses) == STEPS * len(epochs)
    assert rec.steps == [STEPS * (i + 1) for i in range(len(epochs))]
    assert len(rec.values) == len(epochs)
    learn.fine_tune(1)
    assert len(rec.rows) == 2 and not rec.goes_on   # the next training is told by itself
    learn.fit(1)
    assert len(rec.rows) == 1

def test_the_table_has_one_head_and_the_epochs_of_the_record(capsys):
    for start, epochs in (0, '012'), (1, '12'), (2, '2'):
        learn = three_parts(default_cbs=True, cbs=None)
        learn.fine_tune(2, start_epoch=start)
        lines = [o.split() for o in capsys.readouterr().out.splitlines()]
        assert [o[0] for o in lines] == ['epoch', *epochs]
        assert not learn.recorder.skipped

def test_a_recorder_for_this_training_alone_holds_both_too():
    learn, rec = three_parts(default_cbs=False, cbs=None), Recorder()
    for cbs in rec, [rec], (rec,):
        learn.fine_tune(1, cbs=cbs)
        assert len(rec.rows) == 2 and not rec.goes_on

@pytest.mark.parametrize('stop', [2, STEPS + 2])
def test_after_ctrl_c_the_next_record_begins_anew(stop):
    learn = three_parts()
    with pytest.raises(KeyboardInterrupt): learn.fine_tune(2, cbs=StopAt(stop))
    assert not learn.recorder.goes_on
    learn.fit(1)
    assert [r[0] for r in learn.recorder.rows] == [0]

def test_stages_that_fine_tune_make_one_record():
    table = progressive_resizing(trainings.learner(), trainings.loaders, [(6, 1, 4), (8, 1, 4)],
                                 fit=lambda learn, s: learn.fine_tune(s.epochs))
    assert list(table['epoch']) == [0, 1, 2, 3] and list(table['size']) == [6, 6, 8, 8]

def test_stages_whose_epochs_nobody_could_tell(tmp_path):
    stages = [(6, 1, 4)]
    with pytest.raises(ValueError, match='give the checkpoint there: one Checkpoint for all'):
        progressive_resizing(trainings.learner(), trainings.loaders, stages, fit=print,
                             checkpoint=tmp_path)
    learn = learner(cbs=())
    with pytest.raises(ValueError, match=r'give the learner a Recorder\(\)'):
        progressive_resizing(learn, trainings.loaders, stages)

@pytest.mark.parametrize('stop', [2, STEPS + 1, 2 * STEPS + 1])
def test_a_record_that_was_cut_goes_on(tmp_path, stop):
    whole = three_parts().fine_tune(2, checkpoint=tmp_path/'a')
    cut = three_parts()
    with pytest.raises(KeyboardInterrupt):
        cut.fine_tune(2, cbs=StopAt(stop), checkpoint=Checkpoint(tmp_path/'b', every=1))
    again = three_parts()
    again.fine_tune(2, checkpoint=tmp_path/'b', resume=True)
    assert [r[:-1] for r in again.recorder.rows] == [r[:-1] for r in whole.recorder.rows]
    assert len(again.recorder.rows) == 3 and again.recorder.steps == whole.recorder.steps

# What the optimizer keeps

def rmsprop(groups, lr): return torch.optim.RMSprop(groups, lr=lr)
def momentum_of(learn): return set(get_hypers(learn.opt)['mom'])

@pytest.mark.parametrize('opt_func', [SGD, rmsprop, lambda g, lr: Adam(g, lr=lr, mom=0.)])
@pytest.mark.parametrize('fit', ['fit_one_cycle', 'fine_tune', 'fit_flat_cos'])
def test_momentum_that_is_off_stays_off(opt_func, fit):
    learn = three_parts(opt_func=opt_func)
    getattr(learn, fit)(1)
    assert set(learn.recorder.moms) == {0.} == momentum_of(learn)

def test_plain_descent_in_a_cycle_is_plain_descent():
    from sotavision.training.schedules import one_cycle
    a = three_parts(opt_func=SGD).fit_one_cycle(1, .1)
    rate = one_cycle(.25, .1 / 25, .1, .1 / 1e5)
    b = three_parts(opt_func=SGD).fit(1, cbs=ParamScheduler(dict(lr=rate)))
    assert all(p.equal(q) for p, q in zip(a.model.parameters(), b.model.parameters()))

@pytest.mark.parametrize('fit', ['fit_one_cycle', 'fine_tune'])
@pytest.mark.parametrize('stop', [None, 1, 3])
def test_the_next_training_begins_with_the_optimizers_own_momentum(fit, stop):
    learn = three_parts(opt_func=lambda g, lr: SGD(g, lr=lr, mom=.7))
    try: getattr(learn, fit)(1, cbs=[StopAt(stop)] if stop else [])
    except KeyboardInterrupt: pass
    assert momentum_of(learn) == {.7} and not any('own' in g for g in learn.opt.param_groups)
    learn.fit(1)
    assert set(learn.recorder.moms) == {.7}

def test_a_decay_that_was_scheduled_comes_back_and_what_one_sets_stays():
    learn = three_parts(wd=.1)
    learn.fit(1, cbs=ParamScheduler(dict(wd=lambda pct: pct, mom=lambda pct: .5)))
    assert [g['weight_decay'] for g in learn.opt.param_groups][:2] == [.1, 0.]
    assert momentum_of(learn) == {.9}
    set_hypers(learn.opt, mom=.6)
    learn.fit_one_cycle(1, wd=.2)
    assert momentum_of(learn) == {.6} and learn.opt.param_groups[0]['weight_decay'] == .2

def test_a_part_without_momentum_keeps_none():
    learn = three_parts(opt_func=lambda g, lr: SGD(g, lr=lr, mom=.9))
    learn.create_opt()
    for group in learn.opt.param_groups[:2]: group['momentum'] = 0.
    learn.fit_one_cycle(1, cbs=StopAt(0))
    moms = get_hypers(learn.opt)['mom']
    assert moms[:2] == [0., 0.] and set(moms[2:]) == {.9}

def test_momentum_comes_back_after_a_kill_too(tmp_path):
    cut = three_parts(path=tmp_path)
    class Save(Callback):
        def after_batch(self):
            if self.train_iter == 1: self.learn.save('mid')
    cut.fit_one_cycle(1, cbs=Save())
    other = three_parts(path=tmp_path).load('mid')
    other.fit(1)
    assert set(other.recorder.moms) == {.9}
    done = three_parts()
    done.fit_one_cycle(1, checkpoint=tmp_path/'c')
    again = three_parts()
    again.fit_one_cycle(1, checkpoint=tmp_path/'c', resume=True)   # done already
    assert momentum_of(again) == {.9}

# A body that knows nothing

def untrained(**kwargs):
    from torchvision.models import resnet18

    from learners import block, items_of
    from sotavision.transfer.vision_learner import vision_learner
    return vision_learner(
        block().dataloaders(items_of(42), bs=8, device='cpu'),
        resnet18,
        pretrained=False,
        precision='fp32',
        **kwargs,
    )

def test_freezing_random_weights_is_warned_of(tmp_path):
    learn = untrained(path=tmp_path)
    with pytest.warns(UserWarning, match='random weights: frozen, it stays random'): learn.freeze()
    learn.unfreeze().fit(1)
    learn.save('trained')
    with warnings.catch_warnings():
        warnings.simplefilter('error', UserWarning)
        learn.freeze().unfreeze()                       # trained by now
        untrained(path=tmp_path).load('trained').freeze()
        three_parts().freeze()                          # nobody knows where its weights are from

def test_both_phases_are_shown_in_one_table(monkeypatch):
    from IPython import display

    from sotavision.training import recorder
    shown = []
    class Handle:
        def update(self, html): shown[-1].append(html.data)
    def show(html, display_id): shown.append([html.data]); return Handle()
    monkeypatch.setattr(recorder, 'in_notebook', lambda: True)
    monkeypatch.setattr(display, 'display', show)
    learn = three_parts(default_cbs=True, cbs=None)
    learn.fine_tune(2)
    assert len(shown) == 1 and shown[0][-1].count('<tr>') == 4
    learn.fine_tune(1)
    assert len(shown) == 2 and shown[1][-1].count('<tr>') == 3
