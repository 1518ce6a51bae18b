"Cells of a file that is checked: what one does to its process, the next one does not suffer."
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from exercise_book import ROOT, own_file, said  # noqa: F401 (a fixture)
from sotavision.exercises import apart, guard, progress
from sotavision.exercises.terminal import check_file

needs_copies = pytest.mark.skipif(not apart.CAN, reason='only Linux copies processes')
FIRST = 'from sotavision.exercises.engine import check, answer\nkept = [1]'
RIGHT = "kept.append(2)\nprint('kept', kept)\ncheck('q11b', 5)"

def notebook(folder, *sources) -> Path:
    cells = [dict(cell_type='code', source=o) for o in (FIRST, *sources)]
    (folder/'a.ipynb').write_text(json.dumps(dict(cells=cells)))
    return folder/'a.ipynb'

def checked(capsys, folder, *sources, seconds=.5) -> str:
    "What the command says of a file with these cells; it leaves this process as it was."
    before = os.getcwd(), sys.stdout, threading.active_count(), set(os.listdir('/proc/self/fd'))
    capsys.readouterr()
    fine = check_file(notebook(folder, *sources), seconds)
    out = capsys.readouterr().out
    assert fine == ('✗ code cell' not in out)
    after = os.getcwd(), sys.stdout, threading.active_count(), set(os.listdir('/proc/self/fd'))
    assert after == before
    return out

BAD = {
    'leaves at once': ('import os; os._exit(0)', 'ends the whole process, with the exit code 0'),
    'leaves with a code': ('import os; os._exit(7)', 'exit code 7'),
    'exit': ('exit()', 'raises `SystemExit`'),
    'sys.exit': ('import sys; sys.exit(3)', 'raises `SystemExit`'),
    'interrupts': ('raise KeyboardInterrupt', 'raises `KeyboardInterrupt`'),
    'generator exit': ('raise GeneratorExit', 'raises `GeneratorExit`'),
    'a huge power': ('9**9**8', 'still running'),
    'backtracking': ("import re; re.match('(a+)+b', 'a' * 50)", 'still running'),
    'a loop': ('while True: pass', 'still running'),
    'a loop that catches all': ('while True:\n    try: pass\n    except BaseException: pass',
                                'still running'),
    'a long sum': ('sum(range(10**15))', 'still running'),
    'sleeps': ('import time; time.sleep(1000)', 'still running'),
    'blocks all signals': ('import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, '
                           'signal.valid_signals())\nwhile True: pass', 'still running'),
    'prints': ("while True: print('words ' * 1000)", 'prints without end'),
    'writes to the file': ("import os\nwhile True: os.write(1, b'words ' * 9999)",
                           'prints without end'),
    'writes errors': ("import sys\nwhile True: sys.stderr.write('words ' * 9999)",
                      'prints without end'),
    'a lot of memory': ('kept = bytearray(1 << 45)', 'raises `MemoryError`'),
    'memory bit by bit': ('while True: kept.append(b"x" * (1 << 25))', 'memory|MemoryError'),
    'memory of torch': ('import torch\nwhile True: kept.append(torch.ones(1 << 23))',
                        'memory|MemoryError'),
    'memory that torch is refused': ('import torch\nkept.append(torch.ones(1 << 40))',
                                     'raises `MemoryError`'),
    'killed': ('import os; os.kill(os.getpid(), 9)', 'makes Python crash .SIGKILL.'),
    'its group': ('import os; os.killpg(0, 9)', 'makes Python crash .SIGKILL.'),
    'crashes': ('import ctypes; ctypes.string_at(0)', 'makes Python crash .SIGSEGV.'),
    'aborts': ('import os; os.abort()', 'makes Python crash .SIGABRT.'),
    'closes its files': ('import os; os.closerange(0, 99)', 'ends the whole process'),
    'no recursion': ('def f(): return f()\nf()', 'raises `RecursionError`'),
    'no Python': ('this is no Python', 'raises `SyntaxError`'),
    'a null byte': ('x = "\0"', 'raises `'),
    'an odd exception': ('class Odd(Exception):\n    def __str__(self): raise ValueError\nraise '
                         'Odd', 'raises `Odd`'),
}
STOPPED = {k for k, (_, told) in BAD.items() if 'raises' not in told or 'Memory' in told}
NEVER_RUN = 'no Python', 'a null byte'

@pytest.fixture
def tight(monkeypatch):
    monkeypatch.setattr(guard, 'MEMORY', 300 << 20)
    monkeypatch.setattr(guard, 'WORDS', 4 << 20)

@needs_copies
@pytest.mark.parametrize('case', BAD)
def test_a_bad_cell_is_told_and_the_next_ones_are_checked(capsys, tmp_path, tight, case):
    code, told = BAD[case]
    start = time.monotonic()
    out = checked(capsys, tmp_path, "check('q11b', 4)", 'kept.append("bad")\n' + code, RIGHT)
    where = out.index('✗ code cell 3')
    line = out[where:].splitlines()[0]
    assert re.search(told, line), out[-2000:]
    assert out.index('✗ q11b') < where < out.index('✓ q11b') and 'Traceback' not in out
    kept = '[1, 2]' if case in STOPPED or case in NEVER_RUN else "[1, 'bad', 2]"
    assert f'kept {kept}' in out and len(out) < 3 << 20
    entry = progress.entry(progress.load()[0], 'q11b')
    assert entry.solved and entry.tries == 1 and time.monotonic() - start < 30

@needs_copies
def test_many_bad_cells_between_good_ones(capsys, tmp_path, tight):
    "Each good cell is checked once, and sees what the good ones before it have made."
    bad = ['import os; os._exit(1)', '9**9**8', 'raise ValueError("odd")',
           "while True: print('words ' * 1000)", 'import os; os.kill(os.getpid(), 9)']
    cells = [o for i, b in enumerate(bad) for o in (f"kept.append({i})\ncheck('q11b', {i})", b)]
    out = checked(capsys, tmp_path, *cells, 'print("kept", kept)')
    assert 'kept [1, 0, 1, 2, 3, 4]' in out
    assert [int(o) for o in re.findall(r'✗ code cell (\d+)', out)] == [3, 5, 7, 9, 11]
    assert out.count('✗ q11b') == 5 == progress.entry(progress.load()[0], 'q11b').tries

@needs_copies
@pytest.mark.parametrize('where', ['first', 'last', 'only'])
@pytest.mark.parametrize('bad', ['import os; os._exit(1)', '9**9**8'])
def test_at_the_ends_too(capsys, tmp_path, where, bad):
    cells = dict(first=[bad, RIGHT], last=[RIGHT, bad], only=[bad])[where]
    out = checked(capsys, tmp_path, *cells)
    assert out.count('✗ code cell') == 1 and ('✓ q11b' in out) == (where != 'only')

PATCHES = {
    'torch.manual_seed': 'import torch; torch.manual_seed = None',
    'torch.ones': 'import torch; torch.ones = torch.zeros',
    'torch.allclose': 'import torch; torch.allclose = lambda *a, **k: True',
    'torch.Tensor.mean': 'import torch; torch.Tensor.mean = lambda *a: 3',
    'cross_entropy': 'import torch.nn.functional as F; F.cross_entropy = None',
    'gone': 'import torch; del torch.equal',
    'builtins.len': 'import builtins; builtins.len = builtins.print = builtins.setattr = None',
    'builtins.isinstance': 'import builtins; builtins.isinstance = lambda *a: True',
    'setattr': 'import builtins; builtins.setattr = builtins.callable = builtins.vars = None',
}
GOOD = "def pool(h): return h.mean((2, 3))\ncheck('e10a', pool)"
WRONG = "def pool(h): return h.sum((2, 3))\ncheck('e10a', pool)"

@pytest.mark.parametrize('copies', [pytest.param(True, marks=needs_copies), False])
@pytest.mark.parametrize('case', PATCHES)
def test_what_a_cell_patches_is_put_back(capsys, tmp_path, monkeypatch, case, copies):
    monkeypatch.setattr(apart, 'CAN', copies)
    out = checked(capsys, tmp_path, GOOD, PATCHES[case], WRONG, GOOD)
    assert '✗ code cell 3 changes ' in out and out.count('✓ e10a') == 2 == 1 + out.count('✗ e10a')
    name = {'cross_entropy': 'torch.nn.functional.cross_entropy', 'gone': 'torch.equal',
            'torch.Tensor.mean': 'Tensor.mean', 'setattr': 'builtins.'}.get(case, case)
    assert name in out

@needs_copies
def test_threads_of_torch_are_not_waited_for(capsys, tmp_path, monkeypatch):
    "A copy has none of the threads that have worked for this process: to wait for them has no end."
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        torch.ones(1 << 24).exp()   # now they exist
        out = checked(capsys, tmp_path, 'import torch; print(torch.ones(1 << 24).exp().sum() > 0)')
    finally: torch.set_num_threads(before)
    assert 'tensor(True)' in out

@pytest.fixture
def interrupted_fork():
    "Ctrl-C comes in a hook of the next `os.fork`, where Python drops what is raised."
    armed = []
    def press():
        if armed: armed.pop(), os.kill(os.getpid(), signal.SIGINT)
    os.register_at_fork(after_in_parent=press)   # for good: only `armed` ends it
    armed.append(True)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
    assert not armed

@needs_copies
@pytest.mark.parametrize('what', ['a file', 'a function'])
def test_ctrl_c_in_a_hook_of_fork_is_not_lost(capsys, tmp_path, interrupted_fork, what):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        if what == 'a file': check_file(notebook(tmp_path, 'import time; time.sleep(9)'), 2)
        else: apart.apart(lambda: iter([('one', time.sleep(9))]), None, 2)
    assert signal.getsignal(signal.SIGINT) is before

def test_own_names_and_new_ones_are_no_patches(capsys, tmp_path):
    out = checked(capsys, tmp_path, 'len = lambda o: 7\nassert len([]) == 7', 'import torch, '
                  'torch._dynamo; torch.mine = 3; torch.set_default_dtype(torch.float32)', RIGHT,
                  seconds=60)
    assert '✗' not in out

@pytest.mark.parametrize('name', ['00_start.ipynb', '15-17_judgement.ipynb'])
def test_ordinary_files_say_what_they_said(capsys, monkeypatch, name, tmp_path):
    "The solutions, in a process of their own and in this one."
    file = ROOT/'nbs'/'_exercises'/'solutions'/name
    found = []
    for copies in True, False:
        monkeypatch.setattr(apart, 'CAN', apart.CAN and copies)
        monkeypatch.setenv('SOTAVISION_EXERCISES', str(tmp_path/f'{copies}.json'))
        fine = check_file(file)
        found.append((fine, capsys.readouterr(), progress.load()[0]))
    assert found[0] == found[1] and found[0][0] and '✓' in found[0][1].out

def test_values_types_and_output_of_cells_that_end_well(capsys, tmp_path):
    cells = ['import sys, threading\nclass Mine: pass\nlock, mine = threading.Lock(), Mine()',
             'lock.acquire(); gen = (i for i in range(3)); next(gen)\nprint("no newline", end="")',
             'assert type(mine) is Mine and lock.locked() and next(gen) == 1\nprint("ä→😀", '
             'file=sys.stderr)\nprint(__name__)', '%matplotlib inline\n!ls\nprint("on")']
    assert check_file(notebook(tmp_path, *cells), 5)
    out, err = capsys.readouterr()
    assert out == 'no newline__main__\non\n' and err == 'ä→😀\n'

@needs_copies
def test_much_output_is_cut_and_the_cell_goes_on(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(guard, 'SHOWN', 1000)
    out = checked(capsys, tmp_path, "print('words' * 10**5)\nkept.append(3)", RIGHT)
    assert 'kept [1, 3, 2]' in out and 'the rest of what this cell prints' in out
    assert len(out) < 1500 and '✗' not in out

@needs_copies
def test_who_dies_after_its_cell(capsys, tmp_path):
    "A thread that a cell has left behind ends the process in the midst of a later one."
    left = ('import threading, os, time\n'
            'threading.Timer(1., lambda: os._exit(5)).start()\nkept.append(5)')
    out = checked(capsys, tmp_path, left, 'kept.append(6)', 'time.sleep(60)', RIGHT, seconds=5)
    assert '✗ code cell 4 ends the whole process, with the exit code 5' in out
    assert 'kept [1, 5, 6, 2]' in out and '✓ q11b' in out

@needs_copies
def test_what_cells_start_ends_with_them(capsys, tmp_path):
    start = f"""import subprocess, sys
subprocess.Popen([sys.executable, '-c',
    "import time; time.sleep(1.5); open('{tmp_path}/alive', 'w')"])
"""
    checked(capsys, tmp_path, start + '9**9**8', start, RIGHT)
    time.sleep(2)
    assert not (tmp_path/'alive').exists()

@needs_copies
def test_memory_of_a_lost_cell_is_free_again(capsys, tmp_path, tight):
    fill = 'while True: kept.append(b"x" * (1 << 24))'
    out = checked(capsys, tmp_path, fill, fill, 'much = b"x" * (100 << 20)', RIGHT)
    assert re.findall(r'✗ code cell (\d)', out) == ['2', '3'] and 'kept [1, 2]' in out

def test_nobody_is_asked(capsys, tmp_path):
    if not apart.CAN: pytest.skip('only where cells have a process of their own')
    out = checked(capsys, tmp_path, "input('how many? ')", 'import sys; print([sys.stdin.read()])')
    assert 'code cell 2 raises `EOFError`: there is nobody to ask' in out and "['']" in out

def test_where_there_are_no_copies(capsys, tmp_path, monkeypatch):
    "What raises is told, and the next cell runs; as the docstring says, no more than that."
    monkeypatch.setattr(apart, 'CAN', False)
    monkeypatch.setattr(guard, 'CALL', None)
    out = checked(capsys, tmp_path, 'exit()', 'x = bytearray(1 << 60)', '1 / 0', RIGHT)
    assert [int(o) for o in re.findall(r'✗ code cell (\d)', out)] == [2, 3, 4]
    assert '✓ q11b' in out

@needs_copies
def test_where_there_can_be_no_more_processes(capsys, tmp_path, monkeypatch):
    def none(): raise BlockingIOError(11, 'Resource temporarily unavailable')
    with monkeypatch.context() as m:
        m.setattr(os, 'fork', none)
        assert 'kept [1, 2]' in checked(capsys, tmp_path, 'exit()', RIGHT)
    real, parent = os.fork, os.getpid()
    monkeypatch.setattr(os, 'fork', lambda: real() if os.getpid() == parent else none())
    out = checked(capsys, tmp_path, RIGHT, 'import os; os._exit(2)', "print('never')")
    assert '✓ q11b' in out and 'The cells after it were not run.' in out and 'never' not in out

@pytest.mark.parametrize('seconds', [0, -1, float('nan')])
def test_no_time_at_all_is_refused(tmp_path, seconds):
    with pytest.raises(ValueError, match='seconds='): check_file(notebook(tmp_path), seconds)

# --- the command itself

MAIN = 'import sys; from sotavision.cli import main; sys.exit(main())'

def command(folder, *args):
    env = os.environ | dict(PYTHONPATH=str(ROOT), SOTAVISION_EXERCISES=str(folder/'.e.json'))
    # a shell has its jobs in the background ignore Ctrl-C, and what they start inherits that
    def foreground(): signal.signal(signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen([sys.executable, '-c', MAIN, 'exercises', 'check', *args],
                            env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            preexec_fn=foreground)

@needs_copies
def test_the_command_tells_and_goes_on(tmp_path):
    file = notebook(tmp_path, "check('q11b', 4)", '9**9**8', 'import os; os._exit(0)', RIGHT)
    run = command(tmp_path, str(file), '--seconds', '1')
    out, err = run.communicate(timeout=60)
    assert run.returncode == 1 and not err
    assert re.findall(r'✗ code cell (\d)', out) == ['3', '4'] and '✓ q11b' in out
    assert json.loads((tmp_path/'.e.json').read_text())['q11b']['tries'] == 1

def family(pid) -> list:
    "A process and all that it has started, and they."
    text = Path(f'/proc/{pid}/task/{pid}/children').read_text()
    return [pid, *(o for child in text.split() for o in family(int(child)))]

def ended(pid) -> bool:
    try: return Path(f'/proc/{pid}/stat').read_text().rsplit(')', 1)[1].split()[0] == 'Z'
    except OSError: return True

@needs_copies
@pytest.mark.parametrize('how', [signal.SIGINT, signal.SIGKILL, signal.SIGTERM])
def test_who_stops_the_command_stops_all_of_it(tmp_path, how):
    (tmp_path/'a.py').write_text("open('begun', 'w').close()\nwhile True: pass")
    run = command(tmp_path, str(tmp_path/'a.py'))
    until = time.monotonic() + 60
    while not (tmp_path/'begun').exists() and time.monotonic() < until: time.sleep(.05)
    all_of_it = family(run.pid)
    assert len(all_of_it) == 3   # the watch, the runner, the spare
    run.send_signal(how)
    run.communicate(timeout=30)
    until = time.monotonic() + 5
    while not all(map(ended, all_of_it)) and time.monotonic() < until: time.sleep(.1)
    assert all(map(ended, all_of_it))
