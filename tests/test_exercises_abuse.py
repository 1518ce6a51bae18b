"""Answers that hold the interpreter, leave, crash, patch, chatter, ask or start threads: told, and
nothing else happens.

`check` never raises, the process that asks stays as it was, and the next answer is judged as ever.
"""
import builtins
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
import torch

from exercise_book import (
    EVERY,
    own_file,  # noqa: F401 (a fixture)
    said,
    space,
)
from sotavision.exercises import apart, engine, judge as module, progress, terminal

pytestmark = pytest.mark.skipif(not apart.CAN, reason='no copies of a process here')
RIGHT = 'return h.mean((2, 3))'


@pytest.fixture
def short(monkeypatch):
    "Little time for each case."
    whole = module.task
    def task(key): t = whole(key); return type(t)(**{**vars(t), 'seconds': .3})
    monkeypatch.setattr(module, 'task', task)
    monkeypatch.setattr(apart, 'GRACE', .4)
    monkeypatch.setattr(apart, 'ANSWER', 10**6)


def pool(body, **names):
    "A function for exercise e10a, the mean over height and width."
    names = {**space(), **names}
    exec('def pool(h):\n' + ''.join(f'    {o}\n' for o in body.splitlines()), names)
    return names['pool']


def fine(capsys):
    "The process and the check are as before."
    assert '✓ e10a' in said(capsys, engine.check, 'e10a', pool(RIGHT))
    assert torch.ones(2).sum().item() == 2 and len([1]) == 1 and threading.active_count() < 20


ABUSES = {
    'a number that takes years': ('9**9**8', 'still running after its time'),
    'a regular expression that takes years': (
        "import re; re.match(r'(a+)+$', 'a' * 64 + 'b')", 'still running after its time'),
    'a sum that takes years': ('sum(range(10**13))', 'still running after its time'),
    'a loop that swallows everything': (
        'while True:\n    try: pass\n    except BaseException: pass',
        'still running after its time'),
    'a long sleep': ('import time; time.sleep(1000)', 'still running after its time'),
    'leaving': ('import sys; sys.exit(3)', '`SystemExit`, in line 2 of `pool`: 3'),
    'leaving politely': ('exit()', '`SystemExit`'),
    'leaving by raising': ('raise SystemExit', '`SystemExit`'),
    'leaving at once': ('import os; os._exit(5)', 'ends the whole process, with the exit code 5'),
    'leaving with success': (
        'import os; os._exit(0)', 'ends the whole process, with the exit code 0'),
    'killing': (
        'import os, signal; os.kill(os.getpid(), signal.SIGKILL)', 'makes Python crash .SIGKILL.'),
    'killing its group': (
        'import os, signal; os.killpg(os.getpgid(0), signal.SIGKILL)',
        'makes Python crash .SIGKILL.'),
    'crashing': ('import ctypes; ctypes.string_at(0)', 'makes Python crash .SIGSEGV.'),
    'aborting': ('import os; os.abort()', 'makes Python crash .SIGABRT.'),
    'much memory': ("x = bytearray(1 << 40)", '`MemoryError`'),
    'much memory for torch': ("torch.empty(1 << 40)", "`RuntimeError`.*memory"),
    'memory bit by bit': (
        "x = []\nwhile True: x.append(bytearray(1 << 28))", '`MemoryError`|still running'),
    'asking': ("return float(input('how much? '))", '`EOFError`.*nobody to ask'),
    'reading stdin': ('import sys; return sys.stdin.read()', 'a text where a tensor is wanted'),
    'interrupting': ('raise KeyboardInterrupt', '`KeyboardInterrupt`'),
    'recursion': ('return pool(h)', '`RecursionError`'),
    'an odd exception': (
        "class Odd(Exception):\n    def __init__(self, a, *, b): pass\n    def __str__(self): "
        "raise ValueError\nraise Odd(1, b=2)", 'e10a'),
    'nothing that can be sent': (
        'import threading; return threading.Lock()', 'a lock where a tensor is wanted'),
    'a generator': ('return (o for o in h)', 'a generator where a tensor is wanted'),
    'a module': ('return torch', 'a module where a tensor is wanted'),
    'an own class': ('class Mine: pass\nreturn Mine()', 'a Mine where a tensor is wanted'),
    'a huge result': ('return torch.zeros(10, 10**5)', 'a result of 3 MiB')}

@pytest.mark.parametrize('case', ABUSES)
def test_abuse_is_told_and_harms_nobody(capsys, short, case):
    body, told = ABUSES[case]
    start = time.monotonic()
    out = said(capsys, engine.check, 'e10a', pool(body))
    assert (
        '✗ e10a' in out
        and re.search(told, out, re.DOTALL)
        and 'Traceback' not in out
        and time.monotonic() - start < 25
    ), out
    fine(capsys)
    assert progress.entry(progress.load()[0], 'e10a').tries == 1


PATCHES = {
    'torch': 'torch.ones = torch.allclose = torch.equal = torch.manual_seed = None',
    'builtins': 'import builtins; builtins.len = builtins.print = builtins.isinstance = None',
    'pickle': 'import pickle; pickle.dumps = pickle.loads = None',
    'the verdict': "import sotavision.exercises.runner as r; r.difference = lambda *a: ''",
    'the folder': "import os, tempfile; os.chdir(tempfile.mkdtemp())",
    'the environment': "import os; os.environ.clear()",
    'the dice': 'torch.manual_seed(5); import random; random.seed(5)',
    'the default type': 'torch.set_default_dtype(torch.float64)',
    'gradients': 'torch.set_grad_enabled(False)',
    'stdout': 'import sys; sys.stdout = sys.stderr = sys.__stdout__ = None',
    'signals': 'import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)',
}

@pytest.mark.parametrize('case', PATCHES)
def test_patches_stay_in_the_copy(capsys, case):
    before = (
        os.getcwd(),
        dict(os.environ),
        torch.get_rng_state(),
        torch.get_default_dtype(),
        torch.is_grad_enabled(),
        builtins.len,
    )
    wrong = said(capsys, engine.check, 'e10a', pool(f'{PATCHES[case]}\nreturn h.sum((2, 3))'))
    assert '✓' not in wrong and 'Traceback' not in wrong
    engine.check('e10a', pool(f'{PATCHES[case]}\n{RIGHT}'))
    after = (
        os.getcwd(),
        dict(os.environ),
        torch.get_rng_state(),
        torch.get_default_dtype(),
        torch.is_grad_enabled(),
        builtins.len,
    )
    assert all(a.equal(b) if torch.is_tensor(a) else a == b for a, b in zip(before, after))
    fine(capsys)


WORDS = {
    'print': "while True: print('words')",
    'raw': "import os\nwhile True: os.write(1, b'words')",
    'errors': "import sys\nwhile True: sys.stderr.write('words')",
    'much at once': "print('words' * 10**7)\nreturn h.mean((2, 3))",
}

@pytest.mark.parametrize('case', WORDS)
def test_words_without_end(capfd, short, case):
    engine.check('e10a', pool(WORDS[case]))
    out, err = capfd.readouterr()
    assert len(out) < 3000 and len(err) < 1000
    assert ('✓' if case == 'much at once' else 'still running') in out


def test_what_it_starts_ends_with_it(capsys, tmp_path):
    body = f'''import threading, time, subprocess, sys
threading.Thread(target=lambda: time.sleep(1000)).start()
late = "import time; time.sleep(1); open('{tmp_path}/alive', 'w')"
subprocess.Popen([sys.executable, '-c', late])
{RIGHT}'''
    assert '✓ e10a' in said(capsys, engine.check, 'e10a', pool(body))
    time.sleep(1.5)
    assert not (tmp_path/'alive').exists()


def test_no_file_is_left_behind(capsys, short):
    before = set(os.listdir(tempfile.gettempdir()))
    engine.check('e10a', pool("import tempfile; tempfile.mkstemp(); tempfile.mkdtemp()\n9**9**8"))
    engine.check('f05a', "import tempfile, os; tempfile.mkstemp(); os._exit(2)\n")
    new = set(os.listdir(tempfile.gettempdir())) - before
    assert not [o for o in new if o.startswith('tmp')]


@pytest.mark.parametrize(
    'script, told',
    [('9**9**8\n', 'still running'), ('import os; os._exit(4)\n', 'exit code 4'),
     ('x = input()\n', 'nobody to ask'), ('raise KeyboardInterrupt\n', 'KeyboardInterrupt')])
def test_scripts(capsys, short, script, told):
    before = os.getcwd(), sys.argv[:]
    out = said(capsys, engine.check, 'f05a', script)
    assert '✗ f05a' in out and told in out and (os.getcwd(), sys.argv) == before
    fine(capsys)


@pytest.mark.parametrize(
    'body, told',
    [('9**9**8', 'still running'), ('import os; os._exit(1)', 'ends the whole process'),
     ('return h', r'gives \(2, 3\); wanted: \(2,\)'), ('print("x")', 'gives nothing yet')])
def test_expect_shape(capsys, monkeypatch, body, told):
    whole = apart.apart
    monkeypatch.setattr(apart, 'apart', lambda work, f, seconds: whole(work, f, .5))
    assert re.search(
        told, said(capsys, engine.expect_shape, pool(body), torch.ones(2, 3), shape=(2,))
    )

# --- check never raises

class Spiteful:
    "Raises whatever one does with it."
    def __getattr__(self, name): raise RuntimeError(name)
    def __str__(self): raise RuntimeError('str')
    __repr__ = __float__ = __len__ = __iter__ = __abs__ = __eq__ = __bool__ = __str__


class Leaves:
    def __getattr__(self, name): raise SystemExit(name)


@pytest.mark.parametrize(
    'id', ['q11b', 'q14c', 'e12a', 'e10a', 'f05a', 'q09a', 'nowhere', None, 3, ['q11b'], ''])
def test_any_value_for_any_exercise(capsys, id):
    loop = []; loop.append(loop)
    for value in (
        Spiteful(),
        Leaves(),
        loop,
        {1: 2},
        b'x',
        float('nan'),
        1j,
        10**5000,
        object,
        Spiteful,
        torch.zeros(3000, 3000),
        torch.tensor(5).to_sparse(),
        torch.empty(1, device='meta'),
        '\ud83d',
        '\0',
        'x' * 10**6,
        Path('\0'),
        range(10**9),
        print,
        lambda: None,
        iter([1]),
    ):
        for f in (engine.check, engine.answer, engine.reveal):
            assert f(id, value) is None
        engine.hint(id)
    assert 'Traceback' not in capsys.readouterr().out


def test_a_wrong_call_is_an_error():
    for call in (
        lambda: engine.check(),
        lambda: engine.check('q11b', 1, 2),
        lambda: engine.check('q11b', valeu=3),
        lambda: engine.hint(),
    ):
        with pytest.raises(TypeError):
            call()


def test_patched_before_the_check(capsys, monkeypatch):
    """What a cell has done to torch is in the check's way: said, not raised; and away with it, all
    is well."""
    with monkeypatch.context() as m:
        m.setattr(torch, 'manual_seed', None)
        out = said(capsys, engine.check, 'e10a', pool(RIGHT))
        assert 'e10a' in out and '✓' not in out and 'Traceback' not in out
    fine(capsys)


def test_progress_that_is_nonsense_keeps_no_check_from_working(capsys, file):
    for text in (
        '{"q11b": {"tries": "many", "hints": -5, "solved": []}}',
        '[[[',
        '{"q11b": 3}',
        '{"q11b": {"tries": 1e999}}',
    ):
        file.write_text(text)
        assert '✓ q11b' in said(capsys, engine.check, 'q11b', 5)
        engine.hint('q11b')
        engine.progress()

# --- in a file, and how long it takes

CELLS = [
    "check('q11b', 4)",
    'import sys; sys.exit()',
    "check('q11b', 5)",
    'raise SystemExit(3)',
    'exit()',
    "def pool(h): import os; os._exit(1)\ncheck('e10a', pool)",
    "def pool(h): return h.mean((2, 3))\ncheck('e10a', pool)",
]

def test_later_cells_are_checked_after_an_exit(capsys, tmp_path):
    cells = [
        dict(cell_type='code', source=o)
        for o in ['from sotavision.exercises.engine import check', *CELLS]
    ]
    (tmp_path/'a.ipynb').write_text(json.dumps(dict(cells=cells)))
    assert not terminal.check_file(tmp_path/'a.ipynb')
    out = capsys.readouterr().out
    assert (
        out.index('✗ q11b')
        < out.index('code cell 3 raises `SystemExit`')
        < out.index('✓ q11b')
        < out.index('code cell 5 raises')
        < out.index('✗ e10a')
        < out.index('✓ e10a')
    )


def test_a_check_is_quick(capsys):
    "After the first, well under a second each, however busy the machine."
    fine(capsys)
    times = []
    for _ in range(5):
        start = time.monotonic()
        engine.check('e10a', pool(RIGHT))
        times.append(time.monotonic() - start)
    assert min(times) < .5, times


def test_torch_works_in_the_copy(capsys, threads=4):
    "Its threads have been used here; a copy has none of them."
    code = f'''
import torch
from sotavision.exercises import engine
torch.set_num_threads({threads})
x = torch.rand(600, 600, requires_grad=True); (x @ x).relu().sum().backward()
torch.nn.Conv2d(8, 8, 3)(torch.rand(8, 8, 64, 64)).sum().backward()
def pool(h):
    big = torch.rand(600, 600, requires_grad=True); (big @ big).relu().sum().backward()
    torch.nn.Conv2d(8, 8, 3)(torch.rand(8, 8, 64, 64)).sum().backward()
    torch.linalg.svd(torch.rand(60, 60)); torch.rand(10**6).sort()
    return h.mean((2, 3))
for _ in range(3): engine.check('e10a', pool)
assert torch.get_num_threads() == {threads}
'''
    env = {k: v for k, v in os.environ.items() if k != 'OMP_NUM_THREADS'}
    r = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, timeout=120, env=env
    )
    assert r.stdout.count('✓ e10a') == 3, r.stdout + r.stderr


def test_where_there_are_no_copies(capsys, monkeypatch, short):
    "A thread, as before: loops of Python are stopped, exits are caught."
    monkeypatch.setattr(apart, 'CAN', False)
    for body, told in (
        ('while True: pass', 'still running'),
        ('exit()', '`SystemExit`'),
        (RIGHT, '✓ e10a'),
    ):
        assert told in said(capsys, engine.check, 'e10a', pool(body))
    monkeypatch.setattr(apart, 'CAN', True)
    def none(): raise BlockingIOError(11, 'Resource temporarily unavailable')
    monkeypatch.setattr(os, 'fork', none)
    assert '✓ e10a' in said(capsys, engine.check, 'e10a', pool(RIGHT))


def test_a_gpu_that_is_in_use(capsys):
    "A copy cannot share it: then the function runs here."
    body = f'''import os
if os.getpid() != {os.getpid()}:
    raise RuntimeError('Cannot re-initialize CUDA in forked subprocess.')
{RIGHT}'''
    assert '✓ e10a' in said(capsys, engine.check, 'e10a', pool(body)) and len(EVERY) > 50
