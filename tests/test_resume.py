"""A killed training goes on as if nothing had happened: the same weights, table and random numbers,
bit for bit.

Each training runs in a child of one server (trainings.py), because `kill -9` leaves nothing to test
with.
"""
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from trainings import same

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
