"""The rules of house.py hold for `sotavision/` and for what stands beside it; and each is shown to
complain about made-up sources."""
import re

import pytest

from house import (
    ROOMS,
    ROOT,
    absent_rooms,
    beside,
    chained_subscripts,
    cycles,
    hidden_assignments,
    library,
    long_functions,
    long_modules,
    private,
    side_effects,
    star_imports,
    thrown_away,
    undocumented,
    undocumented_parameters,
    unknown_rooms,
    unmarked,
    wide_lines,
    wrong_arrows,
)

RULES = [
    wrong_arrows,
    unknown_rooms,
    absent_rooms,
    cycles,
    star_imports,
    side_effects,
    private,
    unmarked,
    thrown_away,
    hidden_assignments,
    chained_subscripts,
    long_modules,
    long_functions,
    wide_lines,
    undocumented,
    undocumented_parameters,
]
# those that hold for tests, tools and benchmarks too
EVERYWHERE = [
    thrown_away,
    hidden_assignments,
    chained_subscripts,
    long_modules,
    long_functions,
    wide_lines,
]

@pytest.mark.parametrize('rule', RULES, ids=lambda o: o.__name__)
def test_library_keeps(rule):
    found = rule(library())
    if found: pytest.fail('\n  '.join([rule.__doc__, *found]), pytrace=False)

@pytest.mark.parametrize('rule', EVERYWHERE, ids=lambda o: o.__name__)
def test_what_stands_beside_keeps(rule):
    found = rule(beside())
    if found: pytest.fail('\n  '.join([rule.__doc__, *found]), pytrace=False)

# --- each rule can fail

def src(*lines): return '\n'.join(lines) + '\n'

BAD = [
    (wrong_arrows, {'data/block.py': 'from ..models.layers import x'},
     ['data/block.py:1 imports from models']),
    (wrong_arrows, {'core.py': 'def f():\n    import sotavision.data.files'},
     ['core.py:2 imports from data']),
    (wrong_arrows, {'models/a.py': 'from sotavision import training, __version__'},
     ['models/a.py:1 imports from training']),
    (wrong_arrows, {'__init__.py': 'from .core import home'}, ['__init__.py:1 imports from core']),
    (wrong_arrows, {'data/a.py': 'from ..all import *'}, ['data/a.py:1 imports from all']),
    (unknown_rooms, {'attic/old.py': ''}, ['attic/old.py is in no known room']),
    (absent_rooms, {f'{o}/a.py': '' for o in ROOMS if o != 'study'}, ['there is no room study']),
    (cycles, {'data/a.py': 'from .b import x', 'data/b.py': 'def f():\n    from . import a'},
     ['data.a imports itself by a detour', 'data.b imports itself by a detour']),
    (star_imports, {'data/a.py': 'from ..core import *'}, ['data/a.py:1 star import']),
    (side_effects, {'data/a.py': 'from . import b'}, ['data/a.py:1 imports b and never uses it']),
    (side_effects, {'data/a.py': 'import os\nfrom ..core import x as y\nprint(os)'},
     ['data/a.py:2 imports y and never uses it']),
    (private, {'data/a.py': 'from ..core import _x'}, ['data/a.py:1 takes _x from core']),
    (unmarked, {'core.py': src('def f(): pass', 'X: int = 1', 'def stem(): pass')},
     ['core.py f is used nowhere else and lacks a _',
      'core.py X is used nowhere else and lacks a _']),
    (thrown_away, {'core.py': 'for x in y:\n    [x.close() for x in y]'},
     ['core.py:2 makes a comprehension and throws it away']),
    (hidden_assignments, {'core.py': 'for self.x in y: pass\nz = [1 for i, d[0] in y]'},
     ['core.py:1 assigns to self.x inside `for`', 'core.py:2 assigns to d[0] inside `for`']),
    (chained_subscripts, {'core.py': 'x[0 if a else 1 if b else 2]'},
     ['core.py:1 chains conditions in []']),
    (long_modules, {'core.py': 'x = 1\n' * 401}, ['core.py has 401 lines']),
    (long_modules, {'tests/test_a.py': 'x = 1\n' * 400, 'tests/test_b.py': 'x = 1\n' * 401},
     ['tests/test_b.py has 401 lines']),
    (long_functions, {'core.py': 'def f():\n' + '    x = 1\n' * 41}, ['core.py f has 41 lines']),
    (wide_lines, {'core.py': src("__all__ = ['a',", "  'b']", 'x' * 101, 'x' * 100)},
     ['core.py:3 has 101 columns']),
    (undocumented, {'core.py': src("__all__ = ['f']", 'def f(): pass')},
     ['core.py f has no docstring']),
    (undocumented, {'core.py': src('@patch', 'def fit(self:Learner): pass')},
     ['core.py fit has no docstring']),
    (undocumented_parameters,
     {'core.py': src("__all__ = ['f']", 'def f(a, b): # told', '    "Doc."')},
     ['core.py f(a) has no comment']),
    (undocumented_parameters,
     {'core.py': src("__all__ = ['f']", 'def f(a) -> int: # of the result', '    "Doc."')},
     ['core.py f(a) has no comment']),
    (undocumented_parameters,
     {'core.py': src("__all__ = ['A']", 'class A:', '    def __init__(self, a, *, b=1): pass')},
     ['core.py A(a) has no comment', 'core.py A(b) has no comment']),
    (undocumented_parameters,
     {'core.py': src("__all__ = ['A']", '@dataclass(frozen=True)', 'class A:', '    a: int')},
     ['core.py A(a) has no comment'])]

@pytest.mark.parametrize('rule, modules, complaints', BAD, ids=lambda o: getattr(o, '__name__', ''))
def test_rule_complains(rule, modules, complaints): assert rule(modules) == complaints

GOOD = [
    (wrong_arrows, {'training/__init__.py': 'from ..techniques import tta'}),
    (
        side_effects,
        {
            'all.py': 'from .core import x',
            'data/a.py': "from .b import x\n__all__ = ['x']",
            'data/c.py': 'import os.path\nos.path.join',
        },
    ),
    (private, {'data/a.py': 'from .b import _x\nfrom __future__ import annotations'}),
    (
        wrong_arrows,
        {
            'cli.py': 'from .data.files import x',
            'all.py': 'from .cli import *',
            'core.py': 'import torch',
        },
    ),
    (
        wrong_arrows,
        {'data/a.py': 'from ..core import x\nfrom .b import y\nfrom sotavision.core import z'},
    ),
    (cycles, {'data/a.py': 'from .b import x', 'data/b.py': 'from ..core import y', 'core.py': ''}),
    (star_imports, {'all.py': 'from .core import *'}),
    (wide_lines, {'core.py': src("__all__ = ['" + 'x' * 100 + "']")}),
    (thrown_away, {'core.py': 'x = [f(o) for o in y]\nall(o for o in y)'}),
    (hidden_assignments, {'core.py': 'for i, (a, *b) in y: self.i = i'}),
    (chained_subscripts, {'core.py': 'x[0 if a else 1] if b else x[1]'}),
    (undocumented, {'core.py': src("__all__ = ['x', 'g']", 'x = 1', 'def f(): pass')}),
    (
        undocumented_parameters,
        {
            'core.py': src(
                "__all__ = ['f']", 'def f(', '    a, # one', '    # two', '    b):', '    "Doc."'
            )
        },
    ),
]

@pytest.mark.parametrize('rule, modules', GOOD, ids=lambda o: getattr(o, '__name__', ''))
def test_rule_lets_pass(rule, modules): assert rule(modules) == []

def test_every_rule_is_shown_to_fail(): assert {rule for rule,*_ in BAD} == set(RULES)

def test_the_map_shows_the_rooms_in_their_order():
    text = (ROOT/'CONTRIBUTING.md').read_text(encoding='utf8')
    order = re.search(r'^core ─ .*$', text, re.M)[0].split(' ─ ')
    assert order == [o for o in ROOMS if o != 'exercises']   # which stands apart
