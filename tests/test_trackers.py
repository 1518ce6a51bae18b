"What watches a column of the table: which way is better, which column, which epochs, whose file."
import sys

import numpy as np
import pytest

from learners import learner, loaders, one_thread  # noqa: F401 (a fixture)
from sotavision.callbacks.ema import EMA
from sotavision.callbacks.tracking import EarlyStoppingCallback, SaveModelCallback, TrackerCallback
from sotavision.core.files import file_lock
from sotavision.data.loaders import DataLoaders
from sotavision.objectives.metrics import Metric, accuracy
from sotavision.training.callback import Callback, CancelValidException
from sotavision.training.recorder import Recorder
from sotavision.training.weights import weights_file

class Script(Metric):
    "Gives the values it was given, one a validation."
    name, value = None, None
    def __init__(self, values, name='script', lower=None):
        self.left, self.name, self.lower_is_better = list(values), name, lower
    def reset(self): self.value = None
    def accumulate(self, preds, targs):
        if self.value is None: self.value = self.left.pop(0)

class Heads(Callback):
    "The weights after each epoch."
    order = 62
    def __init__(self): self.kept = []
    def after_epoch(self): self.kept.append(self.model[1].weight.detach().clone())

class NoValidation(Callback):
    "Leaves the validation out in some epochs."
    def __init__(self, epochs): self.epochs = epochs
    def before_validate(self):
        if self.epoch in self.epochs: raise CancelValidException

def best_of(tmp_path, values, name='script', lower=None, cbs=(), epochs=None, **kwargs):
    "Which epoch's weights a training ends with, and how many epochs it had."
    heads, keep = Heads(), SaveModelCallback(kwargs.pop('monitor', name), **kwargs)
    learn = learner(path=tmp_path, metrics=Script(values, name, lower))
    learn.fit(epochs or len(values), .01, cbs=[keep, heads, *cbs])
    return [learn.model[1].weight.equal(o) for o in heads.kept].index(True), len(heads.kept)

# Which way

@pytest.mark.parametrize(
    'name', ['mse', 'mae', 'rmse', 'perplexity', 'loss_like', 'error', 'accuracy'])
@pytest.mark.parametrize('lower', [True, False])
def test_the_metric_says_which_way_is_better_and_its_name_nothing(tmp_path, name, lower):
    assert best_of(tmp_path, [3., 1., 5., 2.], name, lower)[0] == (1 if lower else 2)

def test_two_metrics_of_one_name_have_a_column_each(tmp_path):
    values = [1., 3., 2.], [5., 4., 6.], [9., 8., 7.]
    for monitor, best in ('m', 1), ('m_2', 2), ('m_3', 0):
        heads, found = Heads(), [Script(o, 'm', False) for o in values]
        learn = learner(path=tmp_path, metrics=found)
        learn.fit(3, .01, cbs=[SaveModelCallback(monitor, fname=monitor), heads])
        assert learn.recorder.metric_names[3:-1] == ['m', 'm_2', 'm_3']
        assert learn.model[1].weight.equal(heads.kept[best])
    names = learner(metrics=[Script([1.], o) for o in ('m', 'm', 'm_2')]).fit(1).recorder
    assert names.metric_names[3:-1] == ['m', 'm_2', 'm_2_2']

@pytest.mark.parametrize('own', [False, True])
def test_a_second_recorder_counts_for_itself(tmp_path, own):
    one = learner(metrics=accuracy).fit(2, .1).recorder
    learn, rec = learner(metrics=accuracy, path=tmp_path), Recorder()
    keep = SaveModelCallback('accuracy')
    if own: learn.add_cbs(rec).fit(2, .1, cbs=keep)
    else: learn.fit(2, .1, cbs=[rec, keep])
    assert keep.best is not None
    for o in (rec, learn.recorder): assert o.values == one.values

def test_a_column_whose_name_begins_with_a_sign(tmp_path):
    with pytest.raises(ValueError, match='no column'):
        best_of(tmp_path, [1.], '% right', False, monitor='accuracy')

@pytest.mark.parametrize('cls', [TrackerCallback, SaveModelCallback, EarlyStoppingCallback])
def test_an_unknown_way_is_refused_before_the_first_step(tmp_path, cls):
    learn = learner(path=tmp_path, metrics=Script([1.] * 3))
    before = learn.model[1].weight.clone()
    with pytest.raises(ValueError, match=r"nobody has said.*lower_is_better.*comp=np\.less"):
        learn.fit(1, .1, cbs=cls('script'))
    assert learn.model[1].weight.equal(before)
    learn.fit(1, .1, cbs=cls('script', comp=np.greater))

def test_comp_wins_over_the_metric(tmp_path):
    assert best_of(tmp_path, [3., 1., 5.], lower=True, comp=np.greater) == (2, 3)
    assert best_of(tmp_path, [3., 1., 5.], lower=False, comp=np.less) == (1, 3)

def test_early_stopping_follows_the_metric_too():
    for lower, n in ((True, 3), (False, 4)):
        learn = learner(metrics=Script([2., 3., 4., 1., 1., 1.], 'mse', lower))
        learn.fit(4, cbs=EarlyStoppingCallback('mse', patience=2))
        assert len(learn.recorder.rows) == n

# Which column

def test_a_bare_name_finds_its_column(tmp_path):
    assert best_of(tmp_path, [3., 1., 5.], 'dice(axis=1)', False, monitor='dice') == (2, 3)
    assert best_of(tmp_path, [3., 1.], 'dice(axis=1)', False, monitor='dice(axis=1)') == (0, 2)

def test_an_ambiguous_name_lists_the_columns():
    two = [Script([1.], f'dice({o})', False) for o in ('a', 'b')]
    for cls in SaveModelCallback, EarlyStoppingCallback:
        with pytest.raises(ValueError, match=r"'dice\(a\)' or 'dice\(b\)': write one"):
            learner(metrics=two).fit(1, cbs=cls('dice'))
    exact = [Script([1.], 'dice', False), Script([1.], 'dice(b)', False)]
    learner(metrics=exact).fit(1, cbs=EarlyStoppingCallback('dice'))

# Which epochs

def test_epochs_without_validation_are_skipped(tmp_path):
    skip = NoValidation({0, 2, 3})
    assert best_of(tmp_path, [1., 3., 2.], lower=False, cbs=[skip], epochs=6) == (4, 6)
    learn = learner(metrics=Script([1., 0., 2., 3.], lower=False))
    learn.fit(8, cbs=[EarlyStoppingCallback('script', patience=2), NoValidation({1, 2, 3, 5})])
    assert len(learn.recorder.rows) == 8   # better again in epoch 6: none of those between counts

@pytest.mark.parametrize('cls', [SaveModelCallback, EarlyStoppingCallback])
def test_without_any_validation_a_tracker_is_refused_at_once(tmp_path, cls):
    learn = learner(dls=DataLoaders(loaders().train, device='cpu'), path=tmp_path)
    before = learn.model[1].weight.clone()
    with pytest.raises(ValueError, match='no validation images'): learn.fit(1, cbs=cls())
    assert learn.model[1].weight.equal(before)
    learn.fit(1, cbs=cls('train_loss'))

# Whose file

def test_fine_tune_keeps_the_best_of_both_phases(tmp_path):
    for values, best in (([5., 1., 2.], 0), ([1., 5., 2.], 1), ([1., 2., 5.], 2)):
        heads, keep = Heads(), SaveModelCallback('script')
        learn = learner(
            path=tmp_path, metrics=Script(values, lower=False), splitter=lambda m: [m[0], m[1]]
        )
        for where in 'call', 'learner':
            learn.metrics[0].left, heads.kept = list(values), []
            if where == 'learner': learn.add_cbs([keep, heads]).fine_tune(2, .01)
            else: learn.fine_tune(2, .01, cbs=[keep, heads])
            assert [learn.model[1].weight.equal(o) for o in heads.kept].index(True) == best
            assert keep.reset_on_fit and not learn.recorder.goes_on

def test_two_callbacks_do_not_share_a_file(tmp_path):
    two = [SaveModelCallback('valid_loss'), SaveModelCallback('train_loss')]
    learn = learner(path=tmp_path)
    with pytest.raises(ValueError, match='fname of its own'): learn.fit(1, cbs=two)
    # and no lock is left
    learn.fit(1, cbs=[two[0], SaveModelCallback('train_loss', fname='other')])
    learn.fit(1, cbs=[two[0], SaveModelCallback(every_epoch=1)])
    assert {'model_0', 'other'} <= {o.stem for o in (tmp_path/'models').iterdir()}

def test_two_trainings_do_not_share_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr(
        sys.modules['sotavision.callbacks.tracking']._sole_writer, '__defaults__', (.1,)
    )
    (tmp_path/'models').mkdir()
    file = weights_file(learner(path=tmp_path), 'model')
    with file_lock(file):   # as another training holds it
        with pytest.raises(ValueError, match='Another training'):
            learner(path=tmp_path).fit(1, cbs=SaveModelCallback())
        learner(path=tmp_path).fit(1, cbs=SaveModelCallback(fname='mine'))
    learner(path=tmp_path).fit(1, cbs=SaveModelCallback())

@pytest.mark.parametrize('how, name', [({}, 'model'), (dict(at_end=True), 'model'),
                                       (dict(every_epoch=2), 'model_0'), (dict(fname='a'), 'a')])
@pytest.mark.parametrize('same', [True, False])
def test_who_writes_over_a_finished_training_is_told(tmp_path, recwarn, how, name, same):
    keep, learn = SaveModelCallback(**how), learner(path=tmp_path)
    learn.fit(3, cbs=keep)
    learner(path=tmp_path).fit(1, cbs=SaveModelCallback(fname='other'))   # a name of its own
    assert not list(recwarn)
    again = (learn, keep) if same else (learner(path=tmp_path), SaveModelCallback(**how))
    with pytest.warns(UserWarning, match='writes over them') as found:
        again[0].fit(1, cbs=again[1])
    assert str(weights_file(learn, name)) in str(found[0].message) and len(found) == 1

def test_one_training_writes_over_its_own_files_in_silence(tmp_path, recwarn):
    class Die(Callback):
        order, in_lr_find = 99, False
        def __init__(self, step): self.step = step
        def after_batch(self):
            self.step -= self.training
            if not self.step: raise KeyboardInterrupt
    def make(folder, cbs):
        learn = learner(path=tmp_path/folder, splitter=lambda m: [m[0], m[1]])
        learn.add_cbs(cbs)
        return learn
    keepers = {}, dict(at_end=True), dict(reset_on_fit=False)
    for i, how in enumerate(keepers): make(str(i), SaveModelCallback(**how)).fine_tune(2, .01)
    keep = SaveModelCallback(reset_on_fit=False)
    for _ in range(2): make('all', keep).fit(1)
    for step in 2, 6, 10:   # in the first, the second and the third epoch
        again = dict(checkpoint=tmp_path/f'ck{step}')
        with pytest.raises(KeyboardInterrupt):
            make(f's{step}', [SaveModelCallback(), Die(step)]).fine_tune(2, .01, **again)
        make(f's{step}', SaveModelCallback()).fine_tune(2, .01, **again, resume=True)
    assert not list(recwarn)

def test_a_training_that_dies_leaves_no_lock(tmp_path):
    class Die(Callback):
        order = 99
        def after_epoch(self): raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        learner(path=tmp_path).fit(2, cbs=[SaveModelCallback(), Die()])
    learner(path=tmp_path).fit(1, cbs=SaveModelCallback())

@pytest.mark.parametrize('how', [{}, dict(with_opt=True)])
def test_weights_that_somebody_else_wrote_are_not_taken_for_the_best(tmp_path, how):
    class Other(Callback):
        "Another program, which knows no lock, saves under the same name."
        order = 99
        def after_epoch(self):
            if self.epoch == 1: learner(path=self.learn.path, seed=5).save('model')
    heads = Heads()
    learn = learner(path=tmp_path, metrics=Script([3., 1., 1.], lower=False))
    with pytest.warns(UserWarning, match='no longer what this training saved'):
        learn.fit(3, .1, cbs=[SaveModelCallback('script', **how), heads, Other()])
    assert learn.model[1].weight.equal(heads.kept[-1])

def test_a_killed_training_does_not_take_the_best_of_one_in_between(tmp_path):
    def keep(): return SaveModelCallback('script')
    def make(seed=0):
        return learner(path=tmp_path, seed=seed, metrics=Script([3., 1., 1.], lower=False))
    class Die(Callback):
        order, in_lr_find = 99, False
        def after_train(self):
            if self.epoch == 1: raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        make().fit(3, cbs=[keep(), Die()], checkpoint=tmp_path / 'ck')
    make(5).fit(3, cbs=keep())
    again = make(1)
    again.metrics[0].left = [1., 1.]
    with pytest.warns(UserWarning, match='no longer what this training saved'):
        again.fit(3, cbs=keep(), checkpoint=tmp_path/'ck', resume=True)

@pytest.mark.parametrize('how', [{}, dict(with_opt=True)])
def test_averaged_weights_are_saved_where_they_were_measured(tmp_path, how):
    ema = EMA(.5)
    learn = learner(path=tmp_path, metrics=accuracy)
    learn.fit(2, .1, cbs=[ema, SaveModelCallback('ema_loss', **how)])
    epoch = min(range(2), key=lambda i: learn.recorder.table()['ema_loss'][i])
    assert learn.validate()[0] == pytest.approx(learn.recorder.table()['ema_loss'][epoch], abs=1e-6)
    own = learner(path=tmp_path)
    own.fit(2, .1, cbs=[EMA(.5), SaveModelCallback('valid_loss')])
    assert own.validate()[0] == pytest.approx(min(own.recorder.table()['valid_loss']), abs=1e-6)
