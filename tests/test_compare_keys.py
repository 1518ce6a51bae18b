"""Runs are reused only where the recipe and all that it reaches are the same: each way of being
different, each way of being the same."""
import multiprocessing
import os
import re
import subprocess
import sys
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from sotavision.augment.resize import Resize
from sotavision.data.datablock import CategoryBlock, DataBlock, ImageBlock
from sotavision.data.files import RegexLabeller
from sotavision.data.loaders import DataLoader, DataLoaders
from sotavision.study.compare import compare
from sotavision.study.fingerprint import fingerprint
from sotavision.study.kept import read_runs
from sotavision.techniques.mixup import MixUp

# --- a small project, in a process of its own

PROJECT = {
    'recipe.py': '''
import helper, numpy as np
from functools import partial
from pathlib import Path
from package import settings
from other import other_function

RATE = .1
DATA = Path('data')
TABLE = np.arange(3)

def scale(x): return inner(x) * 2
def inner(x): return x + 1

class Tool:
    "A class."
    size = 3
    def use(self, x): return self.size + x

def make(noise, pick=len):
    tool = Tool()
    def recipe(seed, steps=3):
        # a comment
        import late
        words = {'one', 'two', 'three'}
        ours = scale(steps) + tool.use(seed) + pick(words) + RATE + TABLE.sum()
        others = helper.deep(seed) + settings.depth + other_function() + late.value
        return noise + ours + others + len(list(DATA.iterdir()))
    return recipe

recipe = make(.1)
''',
    'helper.py': 'from deeper import deepest\ndef deep(x): return deepest(x)\ndef unused(x): '
                 'return x\n',
    'deeper.py': 'LEVEL = 1\ndef deepest(x): return x + LEVEL\n',
    'other.py': 'import yet_another\ndef other_function(): return yet_another.f()\n',
    'yet_another.py': 'def f(): return 1\n',
    'late.py': 'value = 1\n',
    'package/__init__.py': '',
    'package/settings.py': 'depth = 3\n',
    'data/a.txt': 'one', 'data/deep/b.txt': 'two',
}

def write(folder, files):
    for name, text in files.items():
        (folder/name).parent.mkdir(parents=True, exist_ok=True)
        (folder/name).write_text(text)

def tell(folder, code, pipe):
    "In a child: the mark of `recipe.recipe`, after running `code`."
    os.chdir(folder); sys.path.insert(0, str(folder)); sys.dont_write_bytecode = True
    try:
        import recipe
        exec(code, dict(recipe=recipe))
        pipe.send(fingerprint(recipe.recipe))
    except BaseException as e: pipe.send(repr(e))

def marked(folder, code='') -> str:
    "The mark of the project's recipe as another process sees it."
    ours, theirs = multiprocessing.get_context('fork').Pipe()
    p = multiprocessing.get_context('fork').Process(target=tell, args=(folder, code, theirs))
    p.start(); found = ours.recv(); p.join()
    assert len(found) == 32, found
    return found

@pytest.fixture
def project(tmp_path): write(tmp_path, PROJECT); return tmp_path

@pytest.fixture(scope='module')
def usual(tmp_path_factory):
    folder = tmp_path_factory.mktemp('usual'); write(folder, PROJECT)
    return marked(folder)

@pytest.mark.parametrize(
    'file, old, new',
    [('recipe.py', 'make(.1)', 'make(.8)'), ('recipe.py', 'steps=3', 'steps=4'),
     ('recipe.py', 'RATE = .1', 'RATE = .2'), ('recipe.py', 'RATE = .1', 'RATE = 1'),
     ('recipe.py', 'inner(x) * 2', 'inner(x) * 3'), ('recipe.py', 'return x + 1', 'return x - 1'),
     ('recipe.py', 'size = 3', 'size = 4'), ('recipe.py', 'self.size + x', 'self.size - x'),
     ('recipe.py', "'two'", "'five'"), ('recipe.py', 'pick=len', 'pick=max'),
     ('recipe.py', 'pick=len', 'pick=lambda o: 3'),
     ('recipe.py', 'pick=len', 'pick=partial(sum, start=1)'),
     ('recipe.py', 'np.arange(3)', 'np.arange(4)'), ('recipe.py', 'np.arange(3)', 'np.arange(3.)'),
     ('recipe.py', "Path('data')", "Path('package')"),
     ('recipe.py', 'import late', 'import deeper as late'),
     ('helper.py', 'return deepest(x)', 'return 2 * deepest(x)'),
     ('helper.py', 'def unused(x): return x', 'def unused(x): return -x'),
     ('deeper.py', 'LEVEL = 1', 'LEVEL = 2'), ('deeper.py', 'x + LEVEL', 'x - LEVEL'),
     ('other.py', 'yet_another.f()', '-yet_another.f()'),
     ('yet_another.py', 'return 1', 'return 2'), ('late.py', '1', '2'),
     ('package/settings.py', '3', '4'), ('data/a.txt', 'one', 'two'),
     ('data/deep/b.txt', 'two', 'three')])
def test_another_recipe(project, usual, file, old, new):
    assert old in PROJECT[file]
    (project/file).write_text(PROJECT[file].replace(old, new, 1))
    assert marked(project) != usual

@pytest.mark.parametrize(
    'change',
    [lambda d: (d/'data'/'new.txt').write_text('new'), lambda d: (d/'data'/'a.txt').unlink(),
     lambda d: (d/'data'/'a.txt').rename(d/'data'/'c.txt'),
     lambda d: (d/'data'/'big').write_bytes(bytes(2**17))], ids=['new', 'gone', 'renamed', 'large'])
def test_another_folder(project, usual, change):
    change(project)
    assert marked(project) != usual

@pytest.mark.parametrize(
    'code',
    ['recipe.RATE = .2', 'recipe.settings.depth = 4', 'recipe.helper.deep = abs',
     'recipe.Tool.size = 9', 'recipe.TABLE[0] = 5',
     'import other; recipe.other_function = lambda: 3'])
def test_changed_while_it_is_loaded(project, usual, code): assert marked(project, code) != usual

@pytest.mark.parametrize(
    'file, old, new',
    [('recipe.py', '# a comment', '# quite another comment'),
     ('recipe.py', '        # a comment\n', ''),
     ('recipe.py', '\nimport helper', '\n\n\n\n# lines move\nimport helper'),
     ('recipe.py', 'x + 1', '(x   +   1)'), ('helper.py', 'def deep', '# told\n\ndef deep'),
     ('recipe.py', 'make(.1)', 'make(  .1  )')])
def test_the_same_recipe(project, usual, file, old, new):
    assert old in PROJECT[file]
    (project/file).write_text(PROJECT[file].replace(old, new, 1))
    assert marked(project) == usual

def test_the_same_in_another_place_and_after_other_imports(project, usual):
    assert (
        marked(
            project,
            'import random; random.random(); import xml.dom, package.settings; recipe.inner(3); '
            'recipe.scale(4)',
        )
        == usual
    )
    (project/'data'/'.hidden.lock').touch(); os.utime(project/'data'/'a.txt', (1, 1))
    assert marked(project) == usual

def test_the_same_with_other_hash_seeds(project):
    code = (
        'import sys; sys.path.insert(0, "."); import recipe; from sotavision.study.fingerprint '
        'import fingerprint; print(fingerprint(recipe.recipe))'
    )
    runs = [
        subprocess.Popen(
            [sys.executable, '-c', code],
            cwd=project,
            env={**os.environ, 'PYTHONHASHSEED': s},
            stdout=subprocess.PIPE,
            text=True,
        )
        for s in ('1', '2')
    ]
    a, b = (p.communicate(timeout=200)[0] for p in runs)
    # the second may read the byte code that the first wrote
    assert len(a.strip()) == 32 and a == b

# --- the same through compare

def figures(file, recipe, **kwargs):
    return list(compare(recipe, {}, 2, file=file, show=False, **kwargs).values('base').values())

def made(noise):
    def recipe(k=1): return noise + k
    return recipe

def test_the_recipe_of_a_factory(tmp_path):
    file = tmp_path/'runs.jsonl'
    assert figures(file, made(.1)) == [1.1, 1.1] and figures(file, made(.8)) == [1.8, 1.8]
    assert figures(file, made(.1)) == [1.1, 1.1]
    assert len(read_runs(file)) == 4

class Method:
    def __init__(self, k): self.k = k
    def run(self): return self.k
    def __call__(self): return 2 * self.k
    @classmethod
    def kind(cls): return 3
    @staticmethod
    def plain(): return 4

def linear(seed): torch.manual_seed(seed); return nn.Linear(2, 2)
def loaders(n=8, bs=4, flip=0):
    return DataLoaders(
        *(
            DataLoader(
                [(torch.full((3, 4, 4), float(i + flip)), i % 2) for i in range(n)],
                bs=bs,
                device='cpu',
            )
            for _ in range(2)
        )
    )

@pytest.mark.parametrize(
    'a, b',
    [(Method(1).run, Method(2).run), (Method(1), Method(2)),
     (partial(made(1), k=1), partial(made(1), k=2)), (lambda: 1, lambda: 2),
     (made(np.zeros(2)), made(np.ones(2))), (made(torch.zeros(2)), made(torch.ones(2))),
     (made([1, [2]]), made([1, [3]])), (made({'a': 1}), made({'a': 2})),
     (made({1, 2}), made({1, 3})), (made(1), made(1.)), (made(True), made(1)),
     (made(made(1)), made(made(2))), (made(linear(0)), made(linear(1))),
     (made(Resize(8)), made(Resize(9))), (made(MixUp(.1)), made(MixUp(.2))),
     (made(loaders()), made(loaders(flip=1))), (made(loaders()), made(loaders(n=9))),
     (made(loaders()), made(loaders(bs=2))),
     (made(pd.DataFrame({'a': [1, 2]})), made(pd.DataFrame({'a': [2, 1]}))),
     (made(DataBlock((ImageBlock, CategoryBlock), get_y=made(1))),
      made(DataBlock((ImageBlock, CategoryBlock), get_y=made(2)))), (Method.kind, Method.plain),
     (made(torch.nn.functional.relu), made(torch.nn.functional.gelu)),
     (made(np.random.default_rng(0)), made(np.random.default_rng(1))),
     (made(slice(1)), made(slice(2)))],
    ids=lambda o: getattr(o, '__qualname__', type(o).__name__).split('.')[0])
def test_two_recipes(a, b): assert fingerprint(a) != fingerprint(b)

@pytest.mark.parametrize(
    'make',
    [lambda: Method(1).run, lambda: partial(made(1), k=2), lambda: made(np.arange(4)),
     lambda: made(linear(0)), lambda: made(Resize(8)), lambda: made(MixUp(.1)),
     lambda: made(loaders()), lambda: made({'x', 'y', 'z'}),
     lambda: made(DataBlock((ImageBlock, CategoryBlock), get_y=made(1))),
     lambda: made(pd.DataFrame({'a': ['x', None]})), lambda: made(Method),
     lambda: made(np.random.default_rng(0))])
def test_one_recipe_made_twice(make): assert fingerprint(make()) == fingerprint(make())

def test_loaders_that_were_used_are_the_same():
    recipe = made(dls := loaders())
    before = fingerprint(recipe)
    list(dls.train), dls.one_batch(), list(dls.valid)
    assert fingerprint(recipe) == before

# --- where nobody can tell

def test_what_cannot_be_told_apart_is_asked_for(tmp_path):
    file, stream = tmp_path/'runs.jsonl', (i for i in range(9))
    class Source: pass
    source = Source(); source.stream = stream
    def recipe(k=1): return k + bool(source)
    with pytest.raises(TypeError, match=r"recipe\.source\.stream is a generator.*Give key='…'"):
        compare(recipe, {}, 1, file=file, show=False)
    # before anything was trained
    assert not file.exists()
    # no file, no question
    assert figures(file, recipe, key='first') == [2, 2]
    assert compare(recipe, {}, 1, show=False).values('base') == {0: 2}
    with pytest.raises(TypeError, match='k is a generator'):
        compare(made(1), {'a': dict(k=stream)}, 1, file=file, show=False)

def test_what_is_nested_too_deeply_is_asked_for():
    deep = []
    for _ in range(9999): deep = [deep]
    with pytest.raises(TypeError, match='noise is a list .it is nested too deeply'):
        fingerprint(made(deep))

def test_a_key_stands_for_the_recipe_but_not_for_its_choices(tmp_path):
    file = tmp_path/'runs.jsonl'
    run = lambda noise, key, **base: compare(
        made(noise), {}, 1, base, file=file, key=key, show=False
    ).values('base')[0]
    assert run(1, 'a') == 2 == run(5, 'a') and run(5, 'b') == 6 and run(5, 'a', k=2) == 7
    assert len(read_runs(file)) == 3

def test_runs_of_another_recipe_are_named(tmp_path, capsys):
    file = tmp_path/'runs.jsonl'
    for noise in (1, 2): compare(made(noise), {'two': dict(k=2)}, 2, file=file)
    assert (
        f'4 runs in {file} have these names and choices, but another recipe'
        in capsys.readouterr().out
    )
    compare(made(2), {'two': dict(k=3)}, 2, file=file)
    # other choices are nothing to wonder at
    assert 'another recipe' not in capsys.readouterr().out

def test_a_recipe_that_changes_itself_is_warned_of(tmp_path):
    calls, file = [], tmp_path/'runs.jsonl'
    def recipe(seed): calls.append(seed); return seed
    with pytest.warns(UserWarning, match=r'changes recipe\.calls, which it reaches.*key='):
        figures(file, recipe)

@pytest.mark.parametrize('name', ['labels.csv', 'deep/labels.csv', '../labels.csv'])
def test_a_table_that_is_named_in_words(tmp_path, monkeypatch, name):
    (tmp_path/'here').mkdir(); monkeypatch.chdir(tmp_path/'here')
    write(tmp_path/'here', {name: 'a,b'})
    def recipe(): return len(open(name).read())
    before = fingerprint(recipe)
    write(tmp_path/'here', {name: 'a,c'})
    assert fingerprint(recipe) != before
    write(tmp_path/'here', {name: 'a,b'})
    assert fingerprint(recipe) == before

@pytest.mark.parametrize(
    'a, b',
    [(re.compile('a'), re.compile('b')), (re.compile('a'), re.compile('a', re.I)),
     (np.sin, np.cos), (RegexLabeller('a(.)'), RegexLabeller('b(.)'))])
def test_what_pickle_knows_by_its_kind(a, b):
    assert fingerprint(lambda o=a: o) != fingerprint(lambda o=b: o)
    assert fingerprint(a) == fingerprint(a)
