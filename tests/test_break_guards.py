"The tool that breaks guards: they hold until they are broken, and it notes who reaches them."
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

@pytest.mark.parametrize(
    'work, status', [('pass', 0), ('raise ValueError', 1), ('while 1: pass', None)])
def test_a_fork_says_how_it_ended(work, status, tmp_path):
    todo = [('it', lambda: exec(work) or 0, tmp_path/'out', {})]
    assert list(break_guards.run_all(todo, 1, 2)) == [('it', status)]
