"Divergence and precision, files of weights, the table and its bar, and keywords nobody knows."
import copy
import io
import math
import os
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from learners import (
    Dice,
    block,
    deep,
    items_of,
    learner,
    linear,
    one_thread,  # noqa: F401 (a fixture)
    same,
    weights,
)
from sotavision.core.rng import set_seed
from sotavision.data.loaders import DataLoader, DataLoaders
from sotavision.objectives.losses import CrossEntropyLossFlat
from sotavision.objectives.metrics import accuracy
from sotavision.training.callback import Callback, DivergedError
from sotavision.training.learner import Learner
from sotavision.training.optimizers import SGD, Adam
from sotavision.training.recorder import ProgressCallback, Recorder
from sotavision.training.schedules import ParamScheduler

# Divergence and precision

def test_divergence_says_what_to_try():
    learn = learner(loss_func=lambda p, t: F.cross_entropy(p, t) * float('nan'))
    before = weights(learn)
    with pytest.raises(
        DivergedError, match=r'nan in epoch 0, at learning rate 0.5.*ten times smaller'
    ):
        learn.fit(1, .5)
    assert same(before, weights(learn)) and learn.recorder.rows == []   # stopped before the step

def test_divergence_by_rate():
    data = [(torch.randn(1, 8, 8), torch.randn(3)) for _ in range(16)]
    dls = DataLoaders(DataLoader(data, bs=4), DataLoader(data, bs=16), device='cpu')
    learn = learner(dls=dls, loss_func=F.mse_loss, opt_func=SGD)
    with pytest.raises(DivergedError): learn.fit(50, 1e3)
    learn.model = linear()
    learn.fit(1, .01, reset_opt=True)
    assert math.isfinite(learn.recorder.values[0][0])

@pytest.mark.parametrize('precision,atol', [('bf16', .05), ('fp16', .01), ('auto', .05)])
def test_precisions_agree_roughly(precision, atol):
    a, b = (
        learner(opt_func=SGD, lr=.1, precision=p, metrics=accuracy).fit(3)
        for p in ('fp32', precision)
    )
    assert torch.allclose(a.get_preds()[0], b.get_preds()[0], atol=atol)
    assert b.get_preds()[0].dtype == torch.float32
    assert all(p.dtype == torch.float32 for p in b.model.parameters())

def test_callbacks_see_true_gradients_in_fp16():
    class Norm(Callback):
        def before_fit(self): self.norms = []
        def before_step(self):
            self.norms.append(
                nn.utils.get_total_norm([p.grad for p in self.model.parameters()]).item()
            )
    norms = [Norm(), Norm()]
    for cb, p in zip(norms, ('fp32', 'fp16')):
        learner(precision=p, opt_func=SGD, lr=.1).fit(1, cbs=cb)
    assert np.allclose(norms[0].norms, norms[1].norms, rtol=.05)

# Files

def test_save_and_load_go_round(tmp_path):
    a = learner(deep, path=tmp_path)
    a.fit(1, .01)
    file = a.save('one')
    assert file == tmp_path/'models'/'one.safetensors'
    assert [o.name for o in file.parent.iterdir()] == ['one.safetensors']
    wanted, memory = weights(a), copy.deepcopy(a.opt.state_dict()['state'])
    b = learner(deep, seed=5, path=tmp_path).load('one')   # before any fit
    assert same(wanted, weights(b)) and same(memory, b.opt.state_dict()['state'])
    for learn in a, b:
        set_seed(9)
        learn.fit(1, .01)
    # training goes on as if never interrupted
    assert same(weights(a), weights(b))
    assert learner(deep, path=tmp_path).load('one', with_opt=False).opt is None

def test_names_of_files(tmp_path):
    learn = learner(path=tmp_path)
    assert learn.save('stage-1.5').name == 'stage-1.5.safetensors'
    assert learn.save(tmp_path/'x.pt') == tmp_path/'x.pt'
    assert learn.save('sub/y').parent.name == 'sub'
    learn.load('stage-1.5'); learn.load(tmp_path/'x.pt'); learn.load('sub/y')

def test_a_bare_state_dict_loads(tmp_path):
    learn = learner(path=tmp_path)
    torch.save(learner(seed=3).model.state_dict(), tmp_path/'bare.pth')
    learn.load(tmp_path/'bare')
    assert same(weights(learn), weights(learner(seed=3)))

class Evil:
    def __reduce__(self): return print, ('code ran',)

def test_bad_files_change_nothing(tmp_path, capsys):
    learn = learner(path=tmp_path, seed=1)
    learn.fit(1)
    models, good = tmp_path/'models', learn.save('good.pth').read_bytes()
    ours = learn.save('ours').read_bytes()
    (models/'ours cut.safetensors').write_bytes(ours[:-500])
    (models/'ours short.safetensors').write_bytes(ours[:99])
    for name, data in dict(
        cut=good[: len(good) // 2],
        end=good[:-500],
        empty=b'',
        text=b'hello',
        zip=b'PK\x03\x04' + b'0' * 99,
    ).items():
        (models / f'{name}.pth').write_bytes(data)
    torch.save(dict(model=Evil()), models/'evil.pth'); torch.save([1, 2], models/'list.pth')
    torch.save(dict(model=linear(4).state_dict()), models / 'wide.pth')
    torch.save(dict(model=deep().state_dict()), models / 'deep.pth')
    before = weights(learn)
    for name, text in dict(
        {'ours cut': 'damaged', 'ours short': 'damaged'},
        cut='damaged',
        end='damaged',
        empty='damaged',
        text='damaged',
        zip='damaged',
        evil=r'code \(.*print\).*refused',
        list='holds a list',
        wide=r'1.weight is \(4, 64\) there and \(3, 64\) here',
        deep='another model',
    ).items():
        with pytest.raises(ValueError, match=text):
            learn.load(name)
        assert same(before, weights(learn)), name
    with pytest.raises(FileNotFoundError, match="Did you mean 'good.pth'.*There are: cut.pth"):
        learn.load('god')
    with pytest.raises(FileNotFoundError, match='No weights at'): learn.load('elsewhere/none')
    assert 'code ran' not in capsys.readouterr().out

def test_weights_of_other_classes_are_refused(tmp_path):
    learner(path=tmp_path).save('abc')
    dls = block(get_y=lambda o: o[1].upper()).dataloaders(items_of(42), bs=8, device='cpu')
    with pytest.raises(
        ValueError, match=r"know the classes \['a', 'b', 'c'\], the data has \['A', 'B', 'C'\]"
    ):
        learner(dls=dls, path=tmp_path).load('abc')
    learner(dls=dls, path=tmp_path).load('abc', strict=False)

def test_an_optimizer_that_does_not_fit(tmp_path):
    learn = learner(path=tmp_path)
    learn.fit(1); learn.save('adam')
    other = learner(path=tmp_path, splitter=lambda m: [[m[1].weight], [m[1].bias]], wd_bn_bias=True)
    other.opt_func = lambda groups, lr: SGD(
        [dict(params=[p for g in groups for p in g['params']])], lr=lr
    )
    with pytest.raises(ValueError, match='with_opt=False'): other.load('adam')

def test_a_save_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    learn = learner(path=tmp_path)
    file = learn.save('x')
    old = file.read_bytes()
    def broken(part, to): assert part.stat().st_size == len(old); raise OSError('disk full')
    monkeypatch.setattr(os, 'replace', broken)
    with pytest.raises(OSError, match=r'x.safetensors could not be written: disk full'):
        learn.save('x')
    assert file.read_bytes() == old and [o.name for o in file.parent.iterdir()] == ['x.safetensors']

# Table and bar

class Terminal(io.StringIO):
    def isatty(self): return True

def test_plain_lines_where_there_is_no_terminal(capsys):
    learner(default_cbs=True, cbs=None, metrics=accuracy).fit(2)
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert len(lines) == 3 and '\r' not in out and '\033' not in out
    assert len({len(o) for o in lines}) == 1
    assert lines[0].split() == ['epoch', 'train_loss', 'valid_loss', 'accuracy', 'time']
    assert lines[2].split()[0] == '1'

def test_the_bar_redraws_on_a_terminal_and_goes_away(monkeypatch):
    monkeypatch.setattr(sys, 'stdout', Terminal())
    learner(default_cbs=False, cbs=[Recorder(), ProgressCallback(every=0)], metrics=accuracy).fit(2)
    out = sys.stdout.getvalue()
    assert 'epoch 1/2, training 1/4' in out and 'validating 1/1' in out and 'left' in out
    assert out.endswith('\r\033[K')
    shown = [o.split('\r')[-1].replace('\033[K', '') for o in out.split('\n')]
    assert len(shown) == 4 and len({len(o) for o in shown[:3]}) == 1 and shown[3] == ''

def test_no_bar_is_silent(capsys):
    learn = learner(default_cbs=True, cbs=None)
    with learn.no_bar(): learn.fit(1)
    assert capsys.readouterr().out == '' and len(learn.recorder.rows) == 1
    learn.fit(1)
    assert 'train_loss' in capsys.readouterr().out

def test_progress_without_recorder():
    with pytest.raises(ValueError, match='Recorder'): learner(cbs=ProgressCallback()).fit(1)

def test_time_left_counts_from_where_the_training_began(monkeypatch):
    monkeypatch.setattr(sys, 'stdout', Terminal())
    learner(cbs=[Recorder(), ProgressCallback(every=0)]).fit(4, start_epoch=2)
    assert 'epoch 3/4' in sys.stdout.getvalue()

def test_plots_have_names():
    import matplotlib.pyplot as plt
    learn = learner(metrics=[accuracy, Dice()])
    learn.fit(2)
    for plot, n in (
        (learn.recorder.plot_loss, 1),
        (learn.recorder.plot_sched, 2),
        (learn.recorder.plot_metrics, 2),
    ):
        plot()
        assert len(plt.gcf().axes) == n and all(
            ax.get_xlabel() and ax.get_ylabel() and ax.get_title() for ax in plt.gcf().axes
        )
        plt.close('all')

# Keywords

@pytest.mark.parametrize(
    'call',
    [lambda l: Learner(l.dls, l.model, metric=accuracy), lambda l: l.fit(1, lrs=1),
     lambda l: l.fit_one_cycle(1, lr=1), lambda l: l.validate(metrics=1),
     lambda l: l.get_preds(shuffled=False), lambda l: l.predict(1, rm_type_tfms=0),
     lambda l: l.show_results(max=3), lambda l: l.save('x', pickle_protocol=2),
     lambda l: l.load('x', device='cpu'), lambda l: ParamScheduler({}, x=1),
     lambda l: Recorder(add_time=True), lambda l: ProgressCallback(x=1),
     lambda l: l.recorder.plot_loss(log=True), lambda l: l.add_cbs([], x=1)])
def test_unknown_keywords_are_refused(call):
    with pytest.raises(TypeError, match='unexpected keyword|takes no'): call(learner())

def test_wrong_choices_are_named():
    with pytest.raises(ValueError, match="'bf61'.*Did you mean 'bf16'"): learner(precision='bf61')
    with pytest.raises(ValueError, match="compile='indcutor'.*Did you mean 'inductor'"):
        learner(compile='indcutor')
    with pytest.raises(TypeError, match='not a metric'): learner(metrics='accuracy')
    assert repr(learner()) == 'Learner: Sequential with 195 parameters, ' + repr(
        CrossEntropyLossFlat()
    )

@pytest.mark.parametrize('theirs, ours', [(SGD, Adam), (Adam, SGD), (torch.optim.RMSprop, Adam)])
@pytest.mark.parametrize('file', ['other', 'other.pth'])
def test_the_memory_of_another_optimizer_is_refused(tmp_path, theirs, ours, file):
    learner(path=tmp_path, opt_func=theirs).fit(1).save(file)
    learn = learner(path=tmp_path, opt_func=ours)
    with pytest.raises(ValueError, match='optimizer does not fit.*with_opt=False'): learn.load(file)
    assert learn.fit(1, 1e-3) and learn.load(file, with_opt=False).fit(1, 1e-3)
