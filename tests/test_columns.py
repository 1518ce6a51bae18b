"Callbacks add columns to the table: who asks for their numbers when, what stays of them."
import pytest
import torch

from learners import learner, one_thread  # noqa: F401 (a fixture)
from sotavision.callbacks.ema import EMA
from sotavision.callbacks.tracking import EarlyStoppingCallback, SaveModelCallback
from sotavision.objectives.metrics import accuracy
from sotavision.training.callback import Callback
from sotavision.training.recorder import ProgressCallback, Recorder

class Norm(Callback):
    "A column with the length of the weights."
    def __init__(self, name='norm', order=0, lower=True):
        self.title, self.order, self.lower, self.asked = name, order, lower, []
    def before_fit(self): self.recorder.add_column(self.title, self.norm, self.lower)
    def norm(self):
        self.asked.append(self.epoch)
        return self.model[1].weight.norm()

def norm_now(learn): return learn.model[1].weight.norm().item()

@pytest.mark.parametrize('order', [-10, 0, 25])
def test_a_callback_adds_a_column(order, capsys):
    cb = Norm(order=order)
    learn = learner(metrics=accuracy, default_cbs=True, cbs=None).fit(3, .1, cbs=cb)
    rec = learn.recorder
    assert rec.metric_names == ['epoch', 'train_loss', 'valid_loss', 'accuracy', 'norm', 'time']
    assert list(rec.table()['norm'])[-1] == norm_now(learn) and cb.asked == [0, 1, 2]
    assert rec.directions['norm'] is True and all(len(r) == 6 for r in rec.rows)
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == rec.metric_names and len(lines) == 3
    assert lines[-1].split()[4] == f'{norm_now(learn):.4f}'
    learn.fit(1)                       # it came for that training only
    assert 'norm' not in rec.metric_names and len(rec.rows[0]) == 5

def test_trackers_watch_it_the_way_it_says(tmp_path):
    learn = learner(path=tmp_path, opt_func=torch.optim.SGD)
    learn.fit(3, .5, cbs=[Norm(lower=True), SaveModelCallback('norm')])
    assert norm_now(learn) == pytest.approx(min(learn.recorder.table()['norm']))
    learn.fit(3, .5, cbs=[Norm(lower=False), SaveModelCallback('norm')])
    assert norm_now(learn) == pytest.approx(max(learn.recorder.table()['norm']))
    with pytest.raises(ValueError, match='nobody has said'):
        learn.fit(3, cbs=[Norm(lower=None), EarlyStoppingCallback('norm')])

def test_averaged_weights_do_not_measure_the_columns_of_others():
    learn = learner(metrics=[accuracy, accuracy]).fit(2, .1, cbs=[Norm(), EMA(.5)])
    more = ['norm', 'ema_loss', 'ema_accuracy', 'ema_accuracy_2']
    assert learn.recorder.metric_names[5:-1] == more

def test_a_name_is_given_once():
    for name, order in ('accuracy', 0), ('accuracy', 30), ('time', 0):
        with pytest.raises(ValueError, match=f"add_column.'{name}'.*Choose another"):
            learner(metrics=accuracy).fit(1, cbs=Norm(name, order))
    with pytest.raises(ValueError, match="add_column.'norm'"):
        learner().fit(1, cbs=[Norm(), Norm()])
    learn = learner(metrics=accuracy)
    with pytest.raises(ValueError): learn.fit(1, cbs=Norm('accuracy'))
    learn.fit(1)                       # nothing is left of the one that failed
    assert len(learn.recorder.rows[0]) == 5

@pytest.mark.parametrize('value, kept', [(None, None), (torch.tensor([2.]), 2.), (3, 3.)])
def test_numbers_and_none(value, kept):
    cb = Norm()
    cb.norm = lambda: value
    assert learner().fit(1, cbs=cb).recorder.rows[0][3] == kept

@pytest.mark.parametrize('value', ['much', torch.ones(2), [1.]])
def test_no_number_is_an_error_that_names_the_column(value):
    cb = Norm()
    cb.norm = lambda: value
    with pytest.raises(TypeError, match="column 'norm' gave"): learner().fit(1, cbs=cb)

def test_fine_tune_and_resumed_trainings_keep_it(tmp_path):
    learn = learner(splitter=lambda m: [m[0], m[1]]).fine_tune(1, .01, cbs=Norm())
    assert learn.recorder.table()['norm'].notna().tolist() == [True, True]
    class Die(Callback):
        order, in_lr_find = 99, False
        def after_train(self):
            if self.epoch == 2: raise KeyboardInterrupt
    def half(*cbs):
        with pytest.raises(KeyboardInterrupt):
            learner().fit(3, .1, cbs=[*cbs, Die()], checkpoint=tmp_path/'ck')
    def rest(*cbs):
        learn = learner(cbs=[Recorder(), ProgressCallback()])
        learn.fit(3, .1, cbs=cbs, checkpoint=tmp_path/'ck', resume=True)
        for o in (tmp_path/'ck').iterdir(): o.unlink()
        return learn.recorder.table()
    def column(*cbs): return type('Watching', (Norm,), dict(in_lr_find=False))(*cbs)
    whole = learner().fit(3, .1, cbs=column()).recorder.table()
    half(column()); table = rest(column())
    assert table.drop(columns='time').equals(whole.drop(columns='time'))
    half(column()); table = rest()     # the column stays, its numbers end
    assert list(table['norm'].notna()) == [True, True, False] and list(table)[-1] == 'time'
    half(); table = rest(column())     # and the other way round
    assert list(table['norm'].notna()) == [False, False, True] and list(table)[-1] == 'time'
