"""Comparisons that are stopped, edited, killed; verdicts at the edges."""
import math
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from torch import nn

from sotavision.core.rng import set_seed
from sotavision.data.loaders import DataLoader, DataLoaders
from sotavision.objectives.losses import CrossEntropyLossFlat
from sotavision.objectives.metrics import accuracy
from sotavision.study.compare import Comparison, compare
from sotavision.study.intervals import interval, student, verdict
from sotavision.study.kept import read_runs
from sotavision.training.callback import Callback
from sotavision.training.learner import Learner

def make_learner(cbs=None):
    model = nn.Linear(4, 3)
    x = torch.randn(24, 4); y = x[:, :3].argmax(1)
    dl = lambda shuffle: DataLoader(list(zip(x, y)), bs=8, shuffle=shuffle, device='cpu')
    return Learner(
        DataLoaders(dl(True), dl(False)),
        model,
        CrossEntropyLossFlat(),
        metrics=accuracy,
        lr=.1,
        cbs=cbs,
    )

class Start(Callback):
    "Keep the weights before the first step."
    seen = []
    def before_fit(self): Start.seen.append(self.model.weight.detach().clone())

class Noisy(Callback):
    "Draws random numbers in every batch."
    def before_batch(self): torch.rand(3)

def learner_recipe(epochs=2, cbs=None):
    learn = make_learner(Start())
    learn.fit_one_cycle(epochs, cbs=cbs)
    return learn

def test_variants_start_from_the_same_weights_and_report_as_learners_do(capsys):
    Start.seen.clear()
    c = compare(
        learner_recipe, {'noisy': dict(cbs=Noisy()), 'long': dict(epochs=3)}, seeds=2, show=False
    )
    a, b, l, a1, *_ = Start.seen
    assert a.equal(b) and a.equal(l) and not a.equal(a1)
    assert c.metric == 'accuracy' and c.scale == 100
    assert set(c.runs[0]['results']) == {'train_loss', 'valid_loss', 'accuracy'}
    # the learners' own tables stay silent
    assert capsys.readouterr().out == ''

def test_a_variant_does_not_change_the_next_one():
    shared = Noisy()
    c = compare(
        learner_recipe, [('one', dict(cbs=shared)), ('two', dict(cbs=shared))], seeds=2, show=False
    )
    # every run got a copy
    assert c.values('one') == c.values('two') and getattr(shared, 'learn', None) is None

def test_lines_of_progress(capsys):
    compare(lambda k=1: k, {'two': dict(k=2)}, seeds=1)
    assert capsys.readouterr().out.splitlines()[1].startswith('2/2  two, seed 0: score 2.0000')

def test_an_edited_recipe_runs_anew(tmp_path):
    file = tmp_path/'runs.jsonl'
    def recipe(k=1): return k
    compare(recipe, {}, 2, file=file, show=False)
    def recipe(k=1): return k + 1
    c = compare(recipe, {}, 2, file=file, show=False)
    assert list(c.values('base').values()) == [2, 2] and len(read_runs(file)) == 4

def test_more_seeds_reuse_the_first(tmp_path):
    calls, file = [], tmp_path/'runs.jsonl'
    def recipe(seed): calls.append(seed); return seed
    compare(recipe, {}, 2, file=file, show=False, key='calls grows, and does not matter')
    c = compare(
        recipe, {}, [0, 1, 5], file=file, show=False, key='calls grows, and does not matter'
    )
    assert calls == [0, 1, 5] and c.values('base') == {0: 0, 1: 1, 5: 5}

def test_files_that_are_not_ours_are_passed_over(tmp_path):
    file = tmp_path/'runs.jsonl'
    file.write_text(
        'not json\n[1]\n{"variant": "base"}\n\n{"variant": "base", "seed": 0, "key": "other", '
        '"results": {"score": 9}}\n'
    )
    c = compare(lambda: 1, {}, 2, file=file, show=False)
    assert list(c.values('base').values()) == [1, 1] and file.read_text().startswith('not json\n')

KILLED = '''
import sys, time
from sotavision.study.compare import compare
def recipe(seed, k=1):
    open(sys.argv[2], 'a').write(f'{seed} {k}\\n')
    time.sleep(.15)
    return seed * 10 + k
compare(recipe, {'two': dict(k=2)}, 4, file=sys.argv[1], show=False)
'''

def test_kill_and_go_on(tmp_path):
    script, file, log = tmp_path/'run.py', tmp_path/'runs.jsonl', tmp_path/'log.txt'
    script.write_text(KILLED)
    start = lambda: subprocess.Popen([sys.executable, str(script), str(file), str(log)])
    p = start()
    while p.poll() is None and len(read_runs(file)) < 3: time.sleep(.02)
    p.send_signal(signal.SIGKILL if os.name == 'posix' else signal.SIGTERM); p.wait()
    kept = len(read_runs(file))
    assert 3 <= kept < 8
    assert start().wait() == 0
    runs = read_runs(file)
    # nothing lost, nothing twice
    assert len(runs) == 8 and len({(r['variant'], r['seed']) for r in runs}) == 8
    assert {(r['variant'], r['seed']): r['results']['score'] for r in runs} == {
        (v, s): s * 10 + k for v, k in (('base', 1), ('two', 2)) for s in range(4)
    }
    # at most the run that was killed began twice
    assert 8 <= len(log.read_text().split('\n')) - 1 <= 9

def test_budget_ends_between_seeds(capsys):
    c = compare(lambda: time.sleep(.05) or 1., {'b': {}}, 50, budget=.5)
    a, b = len(c.values('base')), len(c.values('b'))
    assert a == b and 1 <= a < 50
    assert 'The budget of 0.5 s ends before seed' in capsys.readouterr().out

def test_identical_variants_are_seldom_told_apart():
    "Twenty pairs of twins with unlike seeds: the 95 % interval holds zero about nineteen times."
    def twin(seed, skip=0):
        torch.rand(skip)
        return torch.randn(()).item()
    held = sum(
        i.low <= 0 <= i.high
        for i in (
            compare(twin, {'twin': dict(skip=5)}, range(k, k + 4), show=False).difference('twin')
            for k in range(0, 80, 4)
        )
    )
    assert 17 <= held <= 20

# --- numbers and words

def test_only_common_seeds_are_paired():
    run = lambda v, s, x: dict(variant=v, seed=s, results={'acc': x}, seconds=1.)
    c = Comparison(
        [
            run('base', 0, .5),
            run('base', 1, .6),
            run('base', 2, .9),
            run('a', 0, .6),
            run('a', 1, .7),
        ],
        ['base', 'a'],
        'acc',
    )
    assert c.difference('a').n == 2 and abs(c.difference('a').mean - .1) < 1e-12
    assert c.table().loc['a', 'runs'] == 2 and c.table().loc['base', 'runs'] == 3

@pytest.mark.parametrize(
    'metric, lower',
    [('accuracy', False), ('valid_loss', True), ('error_rate', True), ('seconds', True),
     ('f1', False)])
def test_direction(metric, lower): assert Comparison([], ['base'], metric).lower_is_better == lower

def test_empty_and_single():
    c = Comparison([], ['base', 'a'], 'accuracy')
    assert '0 pairs' in c.table().loc['a', 'verdict'] and math.isnan(c.difference('a').mean)
    assert 'a' in repr(c) and c.words().loc['a', '95% interval'] == ''
    assert verdict(interval([.1])).startswith('1 pair cannot')

@pytest.mark.parametrize('n', [2, 3, 7, 30])
def test_interval_against_its_formula(n):
    d = np.random.default_rng(n).normal(.2, 1, n)
    i, half = interval(d), student(.975, n - 1) * d.std(ddof=1) / n**.5
    assert np.allclose([i.low, i.high], [d.mean() - half, d.mean() + half])
    assert i.visible > half and interval(d, .99).high > i.high
    assert interval(d + 1).mean == pytest.approx(i.mean + 1)

@pytest.mark.parametrize('df', [1, 2, 5, 30])
def test_student_is_symmetric_and_rises(df):
    p = [.01, .2, .5, .8, .99]
    t = [student(o, df) for o in p]
    assert t == sorted(t) and np.allclose(t, [-o for o in reversed(t)], atol=1e-6)
    assert abs(t[2]) < 1e-9

@pytest.mark.parametrize(
    'diffs, scale, lower, start',
    [([.02, .021, .019], 100, False, 'better by 2.0 points'),
     ([-.02, -.021, -.019], 100, False, 'worse by 2.0 points'),
     ([-.5, -.51, -.49], 1, True, 'better by 0.5 '),
     ([.02, -.02, .01], 100, False, 'no difference seen with 3 seeds'),
     ([0, 0], 100, False, 'no difference at all')])
def test_words(diffs, scale, lower, start):
    assert verdict(interval(diffs), scale, lower).startswith(start)

def gives(value): return lambda: value

def test_what_a_recipe_returns_is_checked():
    for bad in (None, 'x', [1], {}):
        with pytest.raises(TypeError, match='The recipe returned'):
            compare(gives(bad), {}, 1, show=False)
    with pytest.raises(ValueError, match='has not been trained'):
        compare(make_learner, {}, 1, show=False)

def test_random_numbers_of_others_are_left_alone():
    set_seed(3); expected = torch.rand(2)
    set_seed(3); compare(lambda: torch.rand(9).sum(), {}, 2, show=False)
    assert torch.rand(2).equal(expected)

def test_the_plot_has_a_row_a_variant():
    import matplotlib
    matplotlib.use('agg')
    import matplotlib.pyplot as plt
    c = compare(
        lambda seed, k=0: seed + k + .1 * (seed % 2) * k,
        {'a': dict(k=1), 'b': dict(k=2)},
        3,
        show=False,
    )
    c.plot()
    left, right = plt.gcf().axes
    assert [t.get_text() for t in left.get_yticklabels()] == ['base', 'a', 'b']
    assert len(left.lines) == 3 and 'interval' in right.get_title()
    plt.close('all')
