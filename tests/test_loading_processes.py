"Why a process that loads has died, and errors of its work that come home as they are."
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from sotavision.augment.resize import Resize
from sotavision.data import workers
from sotavision.data.datablock import DataBlock
from sotavision.data.loaders import DataLoader
from sotavision.data.workers import fate, loading, starting

pytestmark = pytest.mark.skipif(
    sys.platform != 'linux', reason='signals and start methods of Linux'
)


class Wanting(Exception):
    "An error that cannot be made again from its message."
    def __init__(self, first, *, second): super().__init__(f'{first}, {second}')


def boom(kind):
    raise {
        'key': KeyError('breed'),
        'own': Wanting('one', second='two'),
        'reset': ConnectionResetError('by peer'),
        'end': EOFError(),
        'runtime': RuntimeError('plain'),
        'worker': RuntimeError('DataLoader worker (pid 5) is killed'),
        'stop': StopIteration('over'),
        'memory': MemoryError('full'),
        'exit': SystemExit(3),
        'os': OSError(5, 'no disk', 'x.jpg'),
    }[kind]


FATAL = {
    'leave': lambda: os._exit(7),
    'well': lambda: os._exit(0),
    'kill': lambda: os.kill(os.getpid(), signal.SIGKILL),
    'segv': lambda: os.kill(os.getpid(), signal.SIGSEGV),
    'term': lambda: os.kill(os.getpid(), signal.SIGTERM),
}


class Numbers:
    "Items 0 to 11; what happens at 7 is up to `kind`."
    def __init__(self, kind=None): self.kind = kind
    def __len__(self): return 12
    def __getitem__(self, i):
        if i == 7 and self.kind: FATAL[self.kind]() if self.kind in FATAL else boom(self.kind)
        return torch.tensor([float(i)]), torch.tensor(i)


def loader(kind, n=1, **kw): return DataLoader(Numbers(kind), 3, num_workers=n, device='cpu', **kw)


ERRORS = [
    ('key', KeyError, 'breed'),
    ('own', (Wanting, RuntimeError), 'one, two'),
    ('reset', ConnectionResetError, '^by peer'),
    ('end', EOFError, ''),
    ('runtime', RuntimeError, '^plain'),
    ('memory', MemoryError, '^full'),
    ('exit', (RuntimeError, SystemExit), '3'),
    ('os', OSError, 'no disk'),
]

@pytest.mark.parametrize('n', [0, 1])
@pytest.mark.parametrize('kind, error, told', ERRORS, ids=[o[0] for o in ERRORS])
def test_errors_of_the_data_set_come_home(kind, error, told, n):
    with pytest.raises(error, match=told) as e: list(loader(kind, n))
    assert 'process that loads' not in str(e.value) and 'memory' not in str(e.value)


@pytest.mark.parametrize('n', [0, 2])
@pytest.mark.parametrize(
    'kind, error',
    [('key', KeyError), ('own', (Wanting, RuntimeError)), ('exit', (RuntimeError, SystemExit))])
def test_errors_of_targets_beside_kept_pictures(tmp_path, kind, error, n):
    "Pictures come from the cache as windows; the targets are read by the processes."
    for k in range(6):
        (tmp_path/'ab'[k % 2]).mkdir(exist_ok=True)
        Image.new('RGB', (20, 20)).save(tmp_path/'ab'[k % 2]/f'{k}.png')
    bad = []
    def label(f):
        if bad: boom(kind)
        return f.parent.name
    dls = DataBlock(get_y=label, item_tfms=Resize(16)).dataloaders(
        sorted(tmp_path.rglob('*.png')), bs=2, device='cpu', cache='ram', num_workers=n
    )
    list(dls.train)
    bad.append(1)
    with pytest.raises(error) as e: list(dls.train)
    assert 'process that loads' not in str(e.value)


@pytest.mark.parametrize(
    'kind, told',
    [('leave', 'exit code 7: does anything .* call exit'),
     ('well', 'exit code 0|may have run out'),
     ('kill', 'killed from outside: by somebody, or .*memory ran out'),
     ('segv', 'crashed inside a library'), ('term', 'Somebody ended it')])
def test_a_process_that_dies(kind, told):
    with pytest.raises(
        RuntimeError, match=f'(?s)^A process that loads images died.*{told}.*num_workers=0'
    ) as e:
        list(loader(kind))
    assert str(e.value).count('A process that loads') == 1 and 'Mostly' not in str(e.value)
    if kind in ('leave', 'segv', 'term'):
        assert 'memory' not in str(e.value).replace('shared memory', '')


@pytest.mark.parametrize(
    'told, codes, why',
    [('is killed by signal: Bus error. It is possible that dataloader\'s workers are out of '
      'shared memory.', (), '--shm-size'), ('', [None, -7], '--shm-size'),
     ('is killed by signal: Aborted', (), 'gave up'),
     ('exited unexpectedly', [None], 'may have run out of memory'),
     ('exited unexpectedly', [None, 5], 'exit code 5'),
     ('exited unexpectedly with exit code 1. Details are lost', (), 'call exit')])
def test_fates(told, codes, why): assert why in fate(told, codes)


def test_only_what_torch_says_of_a_dead_process_counts():
    for told in (
        'Caught KeyError in DataLoader worker process 0.',
        'out of memory',
        'DataLoader is fine',
    ):
        with pytest.raises(RuntimeError) as e, loading(2):
            raise RuntimeError(told)
        assert str(e.value) == told


def test_what_follows_a_batch_is_not_blamed_on_the_processes():
    "An error of the one who takes the batches, or of a batch transform, is theirs."
    def reset(batch): raise ConnectionResetError('of a batch transform')
    with pytest.raises(ConnectionResetError, match='of a batch transform'):
        list(loader(None, batch_tfms=reset))
    with pytest.raises(EOFError, match='mine'):
        for _ in loader(None): raise EOFError('mine')


# --- processes that begin anew

@pytest.fixture
def anew(monkeypatch):
    before = multiprocessing.get_start_method(allow_none=True)
    def start(how): multiprocessing.set_start_method(how, force=True)
    yield start
    multiprocessing.set_start_method(before, force=True)


@pytest.mark.parametrize('how', ['spawn', 'forkserver'])
def test_what_cannot_be_sent(anew, how):
    anew(how)
    local = Numbers(); local.f = lambda: 0
    class Inner(Numbers): pass
    open_file = Numbers(); open_file.f = open(os.devnull)
    for ds in (local, Inner(), open_file):
        with pytest.raises(
            RuntimeError,
            match=f'begin anew here .{how}.*cannot be sent to them: '
                  '.*(lambda|Inner|TextIOWrapper).*num_workers=0',
        ) as e:
            list(DataLoader(ds, 3, num_workers=1, device='cpu'))
        assert 'memory' not in str(e.value)
        assert len(list(DataLoader(ds, 3, num_workers=0, device='cpu'))) == 4
    open_file.f.close()


@pytest.mark.parametrize('n, how, told', [
    (0, 'spawn', 'cannot pickle it'), (1, 'fork', 'cannot pickle it'), (1, 'spawn', 'no sampler')])
def test_only_what_cannot_be_sent_is_advised_on(anew, n, how, told):
    anew(how)
    class Broken:
        num_workers = n
        def __iter__(self): raise TypeError(told)
    with pytest.raises(TypeError, match=f'^{told}$'): workers._begun(Broken())


def test_errors_at_the_end_of_a_pass():
    "Torch's own complaint about a dead process is known already; another error is not."
    class Pass:
        def __init__(self, told): self.told = told
        def _shutdown_workers(self): raise RuntimeError(self.told)
    workers._end(Pass('DataLoader worker (pid 7) is killed'))
    with pytest.raises(RuntimeError, match='no room'): workers._end(Pass('no room'))


def test_an_error_of_the_samples_is_not_taken_for_that(anew):
    class Odd(Numbers):
        def __getitem__(self, i): raise TypeError('cannot pickle my cucumbers')
    with pytest.raises(TypeError, match='^cannot pickle my cucumbers'):
        list(DataLoader(Odd(), 3, num_workers=1, device='cpu'))


@pytest.mark.parametrize(
    'asked, version, how',
    [(None, (3, 11), 'fork'), (None, (3, 14), 'fork'), ('forkserver', (3, 14), 'fork'),
     ('forkserver', (3, 11), 'forkserver'), ('spawn', (3, 14), 'spawn'), ('fork', (3, 14), 'fork')])
def test_how_they_begin(monkeypatch, asked, version, how):
    "A lambda in a data block works with every Python on Linux; who asked for another way gets it."
    monkeypatch.setattr(multiprocessing, 'get_start_method', lambda allow_none=False: asked)
    monkeypatch.setattr(workers.sys, 'version_info', version)
    assert starting() == how


def test_the_default_of_newer_pythons_loads_lambdas(anew, monkeypatch):
    anew('forkserver')
    monkeypatch.setattr(workers.sys, 'version_info', (3, 14))
    ds = Numbers(); ds.f = lambda: 0
    assert len(list(DataLoader(ds, 3, num_workers=2, device='cpu'))) == 4


SCRIPT = '''
import multiprocessing, torch
from sotavision.data.loaders import DataLoader
class Numbers:
    def __len__(self): return 6
    def __getitem__(self, i): return torch.tensor([i]), torch.tensor(i)
def main(): print(len(list(DataLoader(Numbers(), 3, num_workers=1, device='cpu'))), 'batches')
'''

def test_a_script_without_its_guard(tmp_path):
    (tmp_path / 'script.py').write_text(
        SCRIPT + "multiprocessing.set_start_method('spawn', force=True); main()"
    )
    env = {
        **os.environ,
        'PYTHONPATH': os.pathsep.join(
            [str(Path(workers.__file__).parents[2]), os.environ.get('PYTHONPATH', '')]
        ),
    }
    r = subprocess.run(
        [sys.executable, 'script.py'],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
    )
    last = r.stderr.splitlines()[-1]
    assert r.returncode == 1
    assert "put what the script does below `if __name__ == '__main__':`" in last
    assert 'memory' not in last and str(tmp_path/'script.py') in last
