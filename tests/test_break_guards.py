"The tool that breaks guards: they hold until they are broken, and it notes who reaches them."
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]/'tools'))
import break_guards
import switches

GUARDED = '''
import math, warnings
def root(x):
    if math.isnan(x): return 'nan'
    if x < 0 or x == 7: raise ValueError('negative')
    if x > 9: warnings.warn('large')
    return x ** .5
def whole(a, lock):
    with lock: return a.md5 == 'right'
'''

@pytest.fixture
def guarded(monkeypatch, tmp_path):
    "A function that gives `GUARDED` with the guard of one kind broken, and the log of who came by."
    for name in ('GUARD_BROKEN', 'GUARD_LOG'): monkeypatch.delenv(name, raising=False)
    tree, found = switches.switched(GUARDED, 'm.py')
    own = dict(_guard_holds=switches.holds, _guard_value=switches.value,
               _guard_nothing=switches.contextlib.nullcontext)
    exec(compile(tree, 'm.py', 'exec'), own)
    def broken(kind=''):
        monkeypatch.setenv('GUARD_BROKEN', next((o for o in found if o.endswith(kind)), kind))
        return SimpleNamespace(**own)
    monkeypatch.setattr(switches, 'noted', set())
    monkeypatch.setenv('GUARD_LOG', str(tmp_path/'log'))
    return SimpleNamespace(broken=broken, found=found, log=tmp_path/'log')

class Lock:
    held = 0
    def __enter__(self): self.held += 1
    def __exit__(self, *args): pass

def test_guards_hold_until_they_are_broken(guarded):
    m = guarded.broken('none of them')
    assert m.root(4) == 2 and m.root(float('nan')) == 'nan'
    with pytest.raises(ValueError, match='negative'): m.root(-1)
    with pytest.warns(UserWarning, match='large'): m.root(16)
    assert not m.whole(SimpleNamespace(md5='wrong'), lock := Lock()) and lock.held == 1

def test_each_kind_of_guard_breaks(guarded, recwarn):
    kinds = ['isnan', 'raise', 'part', 'part', 'warn', 'checksum', 'lock']
    assert [o.split()[1] for o in guarded.found] == kinds
    assert isinstance(guarded.broken('raise').root(-1), complex)
    assert guarded.broken('isnan').root(float('nan')) != 'nan'
    first = guarded.broken('part')   # no longer looks for numbers below 0
    assert isinstance(first.root(-1), complex)
    with pytest.raises(ValueError): first.root(7)
    assert guarded.broken('warn').root(16) == 4 and not recwarn
    assert guarded.broken('checksum').whole(SimpleNamespace(md5='wrong'), Lock())
    guarded.broken('lock').whole(SimpleNamespace(md5='wrong'), lock := Lock())
    assert lock.held == 0

def test_who_reaches_a_guard_is_noted(guarded):
    m = guarded.broken('none of them')
    for x in (4, -1):   # only a nan makes a difference to a look for nan
        try: m.root(x)
        except ValueError: pass
    notes = [o.split('\t') for o in guarded.log.read_text().splitlines()]
    (who,) = {who for _, who in notes}
    assert who == 'tests/test_break_guards.py::test_who_reaches_a_guard_is_noted'
    assert [o for o, _ in notes] == ['m.py:5:7 part', 'm.py:5:24 raise']

def test_quickest_tests_come_first_and_one_at_least():
    assert break_guards.quickest(dict(a=9, b=1, c=7)) == ['b', 'c']
    assert break_guards.quickest(dict(a=99)) == ['a']
    many = {i: .1 for i in range(30)}   # a lock shows in one of them only
    assert len(break_guards.quickest(many)) == 12 and len(break_guards.quickest(many, True)) == 30

@pytest.mark.parametrize(
    'work, status', [('pass', 0), ('raise ValueError', 1), ('while 1: pass', None)])
def test_a_fork_says_how_it_ended(work, status, tmp_path):
    todo = [('it', lambda: exec(work) or 0, tmp_path/'out', {})]
    assert list(break_guards.run_all(todo, 1, 2)) == [('it', status)]

ABROAD = """
import os, shutil, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import switches
top = Path(sys.argv[2])
inside, outside = top/'inside', top/'outside'
switches.HERE.clear()
switches.install(inside)
CHANGES = dict(
    replace=lambda to: os.replace(inside/'b', to/'a'), move=lambda to: os.rename(to/'a', to/'b'),
    write=lambda to: open(to/'a', 'w'), open=lambda to: os.open(to/'a', os.O_RDWR),
    mkdir=lambda to: (to/'c').mkdir(), rmdir=lambda to: (to/'d').rmdir(),
    chmod=lambda to: (to/'a').chmod(0o600), link=lambda to: os.link(inside/'a', to/'e'),
    symlink=lambda to: (to/'f').symlink_to('a'), rmtree=lambda to: shutil.rmtree(to/'d'),
    truncate=lambda to: os.truncate(to/'a', 0), unlink=lambda to: (to/'a').unlink(),
    through_a_link=lambda to: (inside/'link').write_text(''))
(inside/'b').write_text('new')
try: CHANGES[sys.argv[3]](outside)
except PermissionError as e: assert 'only files of tests' in str(e)
else: print('changed something')
if 'link' not in sys.argv[3]: CHANGES[sys.argv[3]](inside)
open(os.devnull, 'w').close()
"""

@pytest.mark.parametrize('how', ['replace', 'move', 'write', 'open', 'mkdir', 'rmdir', 'chmod',
                                 'link', 'symlink', 'rmtree', 'truncate', 'unlink',
                                 'through_a_link'])
def test_files_that_no_test_made_are_left_alone(tmp_path, how):
    "A library without its guards may write anywhere, and who runs the tool may be root."
    for o in (tmp_path/'inside', tmp_path/'outside'):
        (o/'d').mkdir(parents=True)
        (o/'a').write_text('kept')
    (tmp_path/'inside'/'link').symlink_to(tmp_path/'outside'/'a')
    tools = Path(break_guards.__file__).parent
    run = subprocess.run([sys.executable, '-c', ABROAD, tools, tmp_path, how], text=True,
                         capture_output=True)
    assert (run.returncode, run.stdout, run.stderr) == (0, '', '')
    assert sorted(o.name for o in (tmp_path/'outside').iterdir()) == ['a', 'd']
    assert (tmp_path/'outside'/'a').read_text() == 'kept'
