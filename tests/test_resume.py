"""A killed training goes on as if nothing had happened: the same weights, table and random numbers,
bit for bit.

Each training runs in a child of one server (trainings.py), because `kill -9` leaves nothing to test
with.
"""
import errno
import json
import random
import subprocess
import sys
from pathlib import Path

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
from trainings import learner

HERE = Path(__file__).parent

class Server:
    def __init__(self):
        self.p = subprocess.Popen(
            [sys.executable, HERE / 'trainings.py'],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.p.stdout.readline() == 'ready\n'
        self.ended = {}   # how a training that is never killed ends

    def __call__(self, folder, **job):
        "Status, what was printed, and the file of a training."
        job |= dict(folder=str(folder), out=str(folder/'out.pt'))
        if 'checkpoint' not in job: job['checkpoint'] = str(folder/'ck')
        if job['checkpoint'] is None: del job['checkpoint']
        self.p.stdin.write(json.dumps(job) + '\n'); self.p.stdin.flush()
        answer = json.loads(self.p.stdout.readline())
        return (
            answer['status'],
            answer['said'],
            torch.load(folder / 'out.pt', weights_only=True) if answer['status'] == 0 else None,
        )

    def never_killed(self, tmp_path_factory, **job):
        "The end of a training without checkpoints, computed once."
        key = json.dumps(job, sort_keys=True)
        if key not in self.ended:
            status, said, self.ended[key] = self(
                tmp_path_factory.mktemp('whole'), checkpoint=None, **job
            )
            assert status == 0, said
        return self.ended[key]

@pytest.fixture(scope='module')
def server():
    s = Server()
    yield s
    s.p.stdin.close(); s.p.wait()

def same(a, b, where='') -> list:
    "Where two nested things differ, bit for bit."
    if torch.is_tensor(a):
        return [] if torch.is_tensor(b) and a.dtype == b.dtype and torch.equal(a, b) else [where]
    if isinstance(a, dict):
        return [
            o
            for k in {**a, **b}
            for o in (same(a[k], b[k], f'{where}/{k}') if k in a and k in b else [f'{where}/{k}'])
        ]
    if isinstance(a, (list, tuple)):
        return (
            [where + ' length']
            if len(a) != len(b)
            else [o for i, (p, q) in enumerate(zip(a, b)) for o in same(p, q, f'{where}/{i}')]
        )
    return [] if a == b or a != a and b != b else [f'{where}: {a} {b}']

def killed_then_resumed(server, folder, kills, **job):
    """What a training leaves that is killed at each of `kills`, going on in between; and what it
    said in the end."""
    for kill in kills:
        begun = any((folder/'ck').glob('*.pt'))
        # a new process starts with other random numbers
        status, said, _ = server(folder, kill=kill, seed_now=99 if begun else None, **job)
        assert status == -9, said
    status, said, out = server(
        folder, seed_now=99 if any((folder / 'ck').glob('*.pt')) else None, **job
    )
    assert status == 0, said
    return out, said

KILLS = [
    ['event', 'after_loss', 1],
    ['event', 'after_loss', 9],
    ['event', 'after_step', 8],
    ['event', 'after_backward', 15],
    ['event', 'before_validate', 2],
    ['event', 'after_pred', 12],
    ['event', 'after_epoch', 1],
    ['event', 'after_epoch', 3],
    ['event', 'before_fit', 1],
    ['event', 'after_fit', 1],
    ['event', 'cleanup_fit', 1],
    ['half', 1],
    ['half', 2],
    ['half', 4],
    ['replace', 1],
    ['replace', 3],
    ['replace', 5],
    ['fsync', 2],
    ['fsync', 3],
    ['unlink', 2],
]

@pytest.mark.parametrize('kill', KILLS, ids=str)
def test_goes_on_bit_by_bit(server, tmp_path, tmp_path_factory, kill):
    "In a step, in validation, in the midst of writing: no matter."
    job = dict(kind='one_cycle')
    out, _ = killed_then_resumed(server, tmp_path, [kill], **job)
    assert not same(server.never_killed(tmp_path_factory, **job), out)
    assert sorted(o.name for o in (tmp_path / 'ck').iterdir()) == [
        'fit0-epoch2-step10.pt',
        'fit0-epoch3-step15.pt',
    ]

def test_writing_checkpoints_changes_nothing(server, tmp_path, tmp_path_factory):
    job = dict(kind='fit', cbs=['mixup', 'ema'])
    assert not same(
        server.never_killed(tmp_path_factory, **job), server(tmp_path, every=1, **job)[2]
    )

EVERYTHING = ['mixup', 'ema', 'gather', 'best']

@pytest.mark.parametrize(
    'kill',
    [['event', 'after_loss', 4], ['event', 'before_step', 6], ['event', 'before_validate', 1],
     ['event', 'after_loss', 17], ['half', 6], ['replace', 9]], ids=str)
@pytest.mark.parametrize('every', [1, 2])
def test_in_the_midst_of_an_epoch(server, tmp_path, tmp_path_factory, kill, every):
    "Gathered gradients, the running mean, the order of the epoch: all as if nothing had happened."
    job = dict(kind='one_cycle', cbs=EVERYTHING, learner=dict(n=30))
    out, _ = killed_then_resumed(server, tmp_path, [kill], every=every, **job)
    assert not same(server.never_killed(tmp_path_factory, **job), out)

@pytest.mark.parametrize(
    'job, kills',
    [(dict(kind='fit', learner=dict(precision='fp16')),
      [['event', 'after_step', 7], ['event', 'after_step', 6]]),
     (dict(kind='fit', epochs=9, cbs=['stop', 'best'], lr=.1),
      [['event', 'after_epoch', 2], ['event', 'after_fit', 1]]),
     (dict(kind='flat_cos', cbs=['gather']),
      [['event', 'before_train', 2], ['event', 'before_train', 2]]),
     (dict(kind='fine_tune', epochs=4, cbs=['ema']),
      [['event', 'before_train', 2], ['event', 'before_fit', 2], ['event', 'before_train', 2]]),
     (dict(kind='fine_tune', epochs=4),
      [['event', 'after_fit', 1], ['event', 'before_fit', 1], ['half', 1]]),
     (dict(kind='progressive', epochs=4, cbs=['mixup']),
      [['event', 'before_train', 2], ['event', 'before_train', 4], ['event', 'after_fit', 1]])],
    ids=lambda o: o.get('kind') if isinstance(o, dict) else '')
def test_every_kind_of_training(server, tmp_path, tmp_path_factory, job, kills):
    out, _ = killed_then_resumed(server, tmp_path, kills, **job)
    assert not same(server.never_killed(tmp_path_factory, **job), out)

def test_processes_that_load(server, tmp_path, tmp_path_factory):
    job = dict(kind='fit', epochs=2, learner=dict(workers=1))
    out, _ = killed_then_resumed(server, tmp_path, [['event', 'after_loss', 9]], every=3, **job)
    assert not same(server.never_killed(tmp_path_factory, **job), out)

def test_killed_at_any_time(server, tmp_path, tmp_path_factory):
    "Again and again, whenever it happens to be; eight times in all."
    job, chance = dict(kind='one_cycle', epochs=6, cbs=['mixup', 'ema']), random.Random(0)
    status, times = -9, 0
    while status == -9 and times < 8:
        status, said, out = server(tmp_path, seconds=chance.uniform(.05, .4), every=2, **job)
        times += 1
    if status == -9: status, said, out = server(tmp_path, every=2, **job)
    assert status == 0, said
    assert not same(server.never_killed(tmp_path_factory, **job), out)

def test_finished(server, tmp_path):
    "Once more: nothing to train, and the learner is as it was at the end."
    job = dict(kind='fine_tune')
    first, again = server(tmp_path, **job), server(tmp_path, seed_now=5, **job)
    assert 'done already, nothing to train' in again[1] and not same(first[2], again[2])

# --- disks

def test_full_disk(server, tmp_path, tmp_path_factory):
    job = dict(kind='one_cycle')
    status, said, _ = server(tmp_path, kill=['full', 3], **job)
    assert status == 3 and 'OSError: [Errno 28] No checkpoint could be written to' in said
    assert 'fit0-epoch2-step10.pt' in said and 'Make room' in said
    assert sorted(o.name for o in (tmp_path / 'ck').iterdir()) == [
        'fit0-epoch0-step0.pt',
        'fit0-epoch1-step5.pt',
    ]
    out, said = killed_then_resumed(server, tmp_path, [], **job)
    assert 'going on after step 5, in epoch 1 of 3' in said
    assert not same(server.never_killed(tmp_path_factory, **job), out)

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

def test_lr_find_and_validate_leave_checkpoints_alone(tmp_path, quiet):
    learn = learner(cbs=Checkpoint(tmp_path))
    learn.lr_find(num_it=12, show_plot=False, suggest_funcs=None)
    learn.validate()
    learn.get_preds()
    assert not list(tmp_path.iterdir())
    learn.fit(1, 1e-2)
    assert newest(tmp_path).name == 'fit0-epoch1-step5.pt'
