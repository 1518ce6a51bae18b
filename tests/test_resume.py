"""A killed training goes on as if nothing had happened: the same weights, table and random numbers, bit for bit.

Each training runs in a child of one server (trainings.py), because `kill -9` leaves nothing to test with.
"""
import json, subprocess, sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent

class Server:
    def __init__(self):
        self.p = subprocess.Popen([sys.executable, HERE/'trainings.py'], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.p.stdout.readline() == 'ready\n'
        self.ended = {}   # how a training that is never killed ends

    def __call__(self, folder, **job):
        "Status, what was printed, and the file of a training."
        job |= dict(folder=str(folder), out=str(folder/'out.pt'))
        if 'checkpoint' not in job: job['checkpoint'] = str(folder/'ck')
        if job['checkpoint'] is None: del job['checkpoint']
        self.p.stdin.write(json.dumps(job) + '\n'); self.p.stdin.flush()
        answer = json.loads(self.p.stdout.readline())
        return answer['status'], answer['said'], torch.load(folder/'out.pt', weights_only=True) if answer['status'] == 0 else None

    def never_killed(self, tmp_path_factory, **job):
        "The end of a training without checkpoints, computed once."
        key = json.dumps(job, sort_keys=True)
        if key not in self.ended:
            status, said, self.ended[key] = self(tmp_path_factory.mktemp('whole'), checkpoint=None, **job)
            assert status == 0, said
        return self.ended[key]

@pytest.fixture(scope='module')
def server():
    s = Server()
    yield s
    s.p.stdin.close(); s.p.wait()

def same(a, b, where='') -> list:
    "Where two nested things differ, bit for bit."
    if torch.is_tensor(a): return [] if torch.is_tensor(b) and a.dtype == b.dtype and torch.equal(a, b) else [where]
    if isinstance(a, dict): return [o for k in {**a, **b} for o in (same(a[k], b[k], f'{where}/{k}') if k in a and k in b else [f'{where}/{k}'])]
    if isinstance(a, (list, tuple)): return [where + ' length'] if len(a) != len(b) else [o for i, (p, q) in enumerate(zip(a, b)) for o in same(p, q, f'{where}/{i}')]
    return [] if a == b or a != a and b != b else [f'{where}: {a} {b}']

KILLS = [['event', 'after_loss', 1], ['event', 'after_loss', 9], ['event', 'after_step', 8], ['event', 'after_backward', 15], ['event', 'before_validate', 2], ['event', 'after_epoch', 1],
         ['event', 'after_fit', 1], ['half', 1], ['half', 3], ['replace', 1], ['replace', 3], ['replace', 5]]

@pytest.mark.parametrize('kill', KILLS, ids=str)
def test_goes_on_bit_by_bit(server, tmp_path, tmp_path_factory, kill):
    job = dict(kind='one_cycle')
    status, said, _ = server(tmp_path, kill=kill, **job)
    assert status == -9, said
    begun = any((tmp_path/'ck').glob('*.pt'))
    status, said, out = server(tmp_path, seed_now=99 if begun else None, **job)   # the new process starts with other random numbers
    assert status == 0, said
    assert not same(server.never_killed(tmp_path_factory, **job), out)
