"Checkpoints in one process: damaged ones, those of another training, what is kept and what is not."
import errno

import numpy as np
import pytest
import torch

from sotavision.callbacks.ema import EMA
from sotavision.core import files
from sotavision.core.display import progress
from sotavision.training import checkpoints
from sotavision.training.callback import Callback, DivergedError
from sotavision.training.checkpoints import Checkpoint
from sotavision.training.optimizers import SGD
from trainings import learner, same

@pytest.fixture
def quiet(monkeypatch): monkeypatch.setattr(progress, 'hushed', True)

def fit(folder, learn=None, n=2, resume=True, lr=1e-2, cbs=None, **kwargs):
    learn = learn or learner()
    return learn.fit(n, lr, cbs=cbs, checkpoint=Checkpoint(folder, **kwargs), resume=resume)

def newest(folder): return Checkpoint(folder).files()[-1]

def test_a_folder_that_cannot_be_written(tmp_path, quiet, monkeypatch):
    (tmp_path/'file').write_text('')
    with pytest.raises(
        OSError,
        match='No checkpoint could be written to .*file/ck/fit0-epoch0-step0.pt.*Make room or '
              'choose another folder',
    ):
        fit(tmp_path / 'file' / 'ck')
    def refuse(path, mode): raise PermissionError(errno.EACCES, 'Permission denied')
    monkeypatch.setattr(files, 'open', refuse, raising=False)
    with pytest.raises(PermissionError, match='Permission denied. Make room'): fit(tmp_path/'ck')

@pytest.mark.parametrize(
    'damage',
    [lambda b: b[:len(b) // 2], lambda b: b[:-1], lambda b: b'',
     lambda b: b[:len(b) // 2] + bytes([b[len(b) // 2] ^ 1]) + b[len(b) // 2 + 1:],
     lambda b: b'PK' + b[5:]])
def test_damaged(tmp_path, quiet, capsys, damage):
    whole = fit(tmp_path/'a', n=3)
    fit(tmp_path/'b', n=3)
    last = newest(tmp_path/'b')
    last.write_bytes(damage(last.read_bytes()))
    again = fit(tmp_path/'b', n=3)
    said = capsys.readouterr().out
    assert f'{last} is damaged' in said and 'going on after step 10, in epoch 2 of 3' in said
    assert not same(whole.model.state_dict(), again.model.state_dict()) and last.exists()
    assert (tmp_path/'b'/(last.name + '.broken')).exists()

def test_all_damaged(tmp_path, quiet):
    fit(tmp_path)
    for o in tmp_path.glob('*.pt'): o.write_bytes(b'')
    with pytest.raises(
        ValueError, match='No checkpoint in .* is whole. Delete the folder to begin anew'
    ):
        fit(tmp_path)

class Payload:
    def __reduce__(self): return (exec, ('raise SystemExit("the file ran code")',))

def test_code_in_a_file_is_not_run(tmp_path, quiet):
    fit(tmp_path, keep=1)
    torch.save(dict(model=Payload()), newest(tmp_path))
    with pytest.raises(ValueError, match='No checkpoint in'): fit(tmp_path)

# --- other trainings

def other_opt():
    learn = learner()
    learn.opt_func = SGD
    return learn

def frozen(): return learner().freeze()

@pytest.mark.parametrize('learn, how, match', [
    (lambda: learner(width=5), {}, r'another model \(0.conv.weight is \(4, 1, 3, 3\) there and '
                                   r'\(5, 1, 3, 3\) here; .*; 3 more\)'),
    (other_opt, {}, 'optimizer: AdamW then, SGD now'),
    (learner, dict(n=3), 'epochs: 2 then, 3 now'),
    (lambda: learner(n=19), {}, 'training: 18 items in 5 batches then, 19 items in 5 batches now'),
    (lambda: learner(bs=6), {}, 'training: 18 items in 5 batches then, 18 items in 3 batches now'),
    (lambda: learner(precision='bf16'), {}, 'precision: fp32 then, bf16 now'),
    (learner, dict(lr=2e-2), r'rates: \[0.01, .* then, \[0.02'),
    (learner, dict(cbs=EMA()), r"callbacks: \['Recorder'\] then, \['Recorder', 'EMA'\] now"),
    (frozen, {}, 'learning: 5 parameters then, 4 parameters now'),
])
def test_a_checkpoint_of_another_training(tmp_path, quiet, learn, how, match):
    fit(tmp_path)
    before = {o: o.read_bytes() for o in tmp_path.iterdir()}
    learn = learn()
    weights = [p.clone() for p in learn.model.parameters()]
    with pytest.raises(
        ValueError,
        match=f'step10.pt is of another training: .*{match}.*Give what it was begun with',
    ):
        fit(tmp_path, learn, **how)
    assert before == {o: o.read_bytes() for o in tmp_path.iterdir()}
    assert not same(weights, list(learn.model.parameters()))

def test_another_schedule(tmp_path, quiet):
    learner().fit_one_cycle(2, 1e-2, checkpoint=tmp_path)
    with pytest.raises(ValueError, match='followed another schedule'):
        learner().fit_one_cycle(2, 1e-2, pct_start=.4, checkpoint=tmp_path, resume=True)

def test_nothing_is_lost_by_mistake(tmp_path, quiet):
    fit(tmp_path, resume=False)
    with pytest.raises(
        FileExistsError, match='resume=True. Or delete them, or give another folder'
    ):
        fit(tmp_path, resume=False)
    with pytest.raises(ValueError, match='resume=True: from where'): learner().fit(1, resume=True)

def test_two_fits_of_one_training(tmp_path, quiet):
    "With one Checkpoint for both, the folder knows which fit it was."
    def both(folder, resume=False, stop=None):
        learn, kept = learner(), Checkpoint(folder)
        learn.fit(2, 1e-2, checkpoint=kept, resume=resume)
        return learn.fit(2, 1e-3, checkpoint=kept, resume=resume, cbs=stop)
    class Stop(Callback):
        in_lr_find = False
        def before_train(self):
            if self.epoch == 1: raise KeyboardInterrupt
    whole = both(tmp_path/'a')
    with pytest.raises(KeyboardInterrupt): both(tmp_path/'b', stop=Stop())
    assert newest(tmp_path/'b').name == 'fit1-epoch1-step5.pt'
    assert not same(whole.model.state_dict(), both(tmp_path/'b', resume=True).model.state_dict())

def test_the_same_object_after_an_interrupt(tmp_path, quiet):
    kept, learn = Checkpoint(tmp_path), learner()
    class Stop(Callback):
        in_lr_find = False
        def before_train(self):
            if self.epoch == 1: raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        learn.fine_tune(2, freeze_epochs=1, checkpoint=kept, cbs=Stop())
    learn.fine_tune(2, freeze_epochs=1, checkpoint=kept, resume=True)
    whole = learner().fine_tune(2, freeze_epochs=1)
    assert not same(whole.model.state_dict(), learn.model.state_dict())

# --- what is kept

@pytest.mark.parametrize('keep', [1, 3])
def test_keeps_the_last(tmp_path, quiet, keep):
    fit(tmp_path, n=4, keep=keep)
    assert [o.name for o in Checkpoint(tmp_path).files()] == [
        f'fit0-epoch{i}-step{5 * i}.pt' for i in range(5)
    ][-keep:]

def test_weights_of_a_checkpoint_can_be_loaded(tmp_path, quiet):
    learn = fit(tmp_path)
    assert not same(
        learner(seed=1).load(newest(tmp_path), with_opt=False).model.state_dict(),
        learn.model.state_dict(),
    )

def test_states_are_plain(tmp_path, quiet):
    class Odd(Callback):
        keeps = 'thing',
        def __init__(self): self.thing = {1, 2}
    with pytest.raises(TypeError, match='Odd wants to keep {1, 2}, a set'): fit(tmp_path, cbs=Odd())

def test_numpy_numbers_become_plain():
    out = checkpoints.plain(dict(a=np.float64(.1), b=(np.int64(2), [True, None, 'x'])), 'it')
    assert out == dict(a=.1, b=(2, [True, None, 'x'])) and type(out['a']) is float
    assert type(out['b'][0]) is int

def test_weights_that_are_no_numbers_are_not_kept(tmp_path, quiet):
    class Spoil(Callback):
        def after_train(self):
            if self.epoch == 1: next(self.model.parameters()).data.fill_(torch.nan)
    with pytest.raises(
        DivergedError,
        match='0.conv.weight is no longer finite after step 10; the checkpoints in .* are older',
    ):
        fit(tmp_path, n=3, cbs=Spoil())
    assert newest(tmp_path).name == 'fit0-epoch1-step5.pt'

def test_divergence_names_the_last_good_weights(tmp_path, quiet):
    class Explode(Callback):
        def after_loss(self):
            if self.training and self.train_iter == 7: self.learn.loss = self.loss * torch.nan
    with pytest.raises(
        DivergedError,
        match='nan in epoch 1, at learning rate 0.01, step 8. .*1. a rate ten times smaller, '
              '0.001; 2. .*GradientClip.*; 3. precision=.fp32.*NaN in the data.*',
    ) as e:
        fit(tmp_path, cbs=Explode())
    assert f"The last good weights are in {tmp_path / 'fit0-epoch1-step5.pt'}: learn.load('" in str(
        e.value
    )
    learner(seed=1).load(newest(tmp_path), with_opt=False)

def test_precision_by_name():
    learn = learner()
    for name in ('bf16', 'fp16', 'fp32'):
        assert getattr(learn, f'to_{name}')() is learn and learn.precision == name

@pytest.mark.parametrize(
    'how, match',
    [(dict(every='step'), "every='step': write 'epoch', or a number"), (dict(every=0), 'every=0'),
     (dict(keep=0), 'keep=0')])
def test_wrong_arguments(tmp_path, how, match):
    with pytest.raises(ValueError, match=match): Checkpoint(tmp_path, **how)

def test_two_checkpoints_in_one_training_are_refused(tmp_path, quiet):
    class Second(Checkpoint): pass
    learn = learner(cbs=Checkpoint(tmp_path/'a'))
    with pytest.raises(ValueError, match='There are 2 checkpoint callbacks: give one'):
        learn.fit(1, 1e-2, cbs=Second(tmp_path/'b'))
    assert not list(tmp_path.glob('*/*'))

def test_lr_find_and_validate_leave_checkpoints_alone(tmp_path, quiet):
    learn = learner(cbs=Checkpoint(tmp_path))
    learn.lr_find(num_it=12, show_plot=False, suggest_funcs=None)
    learn.validate()
    learn.get_preds()
    assert not list(tmp_path.iterdir())
    learn.fit(1, 1e-2)
    assert newest(tmp_path).name == 'fit0-epoch1-step5.pt'
