"""Whether a small number is a good one is known or asked for, never guessed; failed runs are told,
not averaged."""
import json
import math
from functools import partial
from pathlib import Path

import pytest
import torch

from sotavision.objectives.metrics import AvgMetric, accuracy, error_rate
from sotavision.study.compare import Comparison, compare
from sotavision.study.kept import read_runs
from sotavision.training.callback import DivergedError
from sotavision.training.learner import Learner
from test_compare import make_learner

RESULTS = Path(__file__).resolve().parents[1]/'benchmarks'/'results'

def told(metric=None, **kwargs):
    "The verdict on a variant whose number is higher in every seed."
    c = compare(
        lambda seed, k=0: {metric or 'made_up': seed + 10. + 3 * k + k * .01 * seed},
        {'more': dict(k=1)},
        3,
        show=False,
        **kwargs,
    )
    return c.verdict('more')

@pytest.mark.parametrize(
    'metric, word',
    [('mse', 'worse'), ('mae', 'worse'), ('error_rate', 'worse'), ('valid_loss', 'worse'),
     ('training loss', 'worse'), ('seconds', 'worse'), ('accuracy', 'better'),
     ('accuracy_multi(thresh=0.3)', 'better'), ('f1_score', 'better'), ('dice', 'better'),
     ('ema_accuracy', 'better'), ('ema_mse', 'worse'), ('confidence', 'higher'),
     ('rmse', 'higher'), ('made_up', 'higher'), ('lossless', 'higher'), ('terror', 'higher'),
     ('times_right', 'higher'), ('perplexity', 'higher')])
def test_by_name(metric, word):
    text = told(metric)
    assert text.startswith(f'{word} by')
    assert ('Say lower_is_better' in text) == (word == 'higher' and metric != 'confidence')

@pytest.mark.parametrize(
    'said, word',
    [(True, 'worse'), (False, 'better'), ({'made_up': True}, 'worse'),
     ({'made_up': False, 'other': True}, 'better'), ({'other': True}, 'higher'), (None, 'higher')])
def test_as_you_say(said, word): assert told(lower_is_better=said).startswith(word)

def test_what_you_say_beats_what_is_known():
    assert told('accuracy', lower_is_better=True).startswith('worse')
    assert told('mse', lower_is_better={'mse': False}).startswith('better')

def hinge(pred, targ): return pred.max()
def odd(pred, targ): return pred.max()
odd.lower_is_better = True

def recipe(metrics=(), epochs=1):
    learn = make_learner()
    learn = Learner(learn.dls, learn.model, learn.loss_func, lr=.1, metrics=list(metrics))
    learn.fit(epochs)
    return learn

@pytest.mark.parametrize(
    'metric, name, lower',
    [(accuracy, 'accuracy', False), (error_rate, 'error_rate', True), (hinge, 'hinge', None),
     (odd, 'odd', True), (AvgMetric(hinge, lower_is_better=True), 'hinge', True),
     (AvgMetric(hinge, 'accuracy_of_mine', lower_is_better=True), 'accuracy_of_mine', True),
     (partial(error_rate, axis=1), 'error_rate(axis=1)', True)], ids=str)
def test_from_the_learner_and_through_a_file(tmp_path, metric, name, lower):
    file = tmp_path/'runs.jsonl'
    first = compare(
        recipe, {'long': dict(epochs=2)}, 2, dict(metrics=[metric]), file=file, show=False
    )
    name = next(k for k in first.runs[0]['results'] if k not in ('train_loss', 'valid_loss'))
    assert first.metric == name and first.lower_is_better is lower
    # another process knows as much
    again = Comparison(read_runs(file), first.names, name)
    assert again.lower_is_better is lower and again.verdict('long') == first.verdict('long')
    assert first.by('valid_loss').lower_is_better is True

def test_what_was_said_is_kept_in_the_file(tmp_path):
    file = tmp_path/'runs.jsonl'
    compare(lambda seed: seed, {}, 2, file=file, lower_is_better=True, show=False)
    assert Comparison(read_runs(file), ['base'], 'score').lower_is_better is True

def test_nobody_loses_a_training_at_the_end(tmp_path):
    "A misspelt metric, or none that is known: the runs are in the file."
    file = tmp_path/'runs.jsonl'
    with pytest.raises(ValueError, match="no result 'acuracy'.*Did you mean 'accuracy'"):
        compare(lambda: {'accuracy': .5}, {}, 1, metric='acuracy', file=file, show=False)
    assert len(read_runs(file)) == 1
    assert 'higher' in told() and told().count('lower_is_better') == 1

@pytest.mark.parametrize(
    'file, metric, lower',
    [('techniques.jsonl', 'accuracy', False), ('techniques.jsonl', 'accuracy with tta', False),
     ('patience.jsonl', 'accuracy', False), ('patience.jsonl', 'confidence', None)])
def test_recorded_runs_are_judged_as_before(file, metric, lower):
    runs = read_runs(RESULTS/file)
    assert len(runs) == len((RESULTS/file).read_text().splitlines())
    c = Comparison(runs, list(dict.fromkeys(r['variant'] for r in runs)), metric)
    assert c.lower_is_better is lower and c.scale == 100
    assert 'lower_is_better' not in ' '.join(c.verdict(n) for n in c.names[1:])
    assert 'failed' not in c.table()

# --- runs without a number

BAD = {
    'nan': math.nan,
    'inf': math.inf,
    '-inf': -math.inf,
    'tensor': torch.tensor(math.nan),
    'diverged': None,
}

@pytest.mark.parametrize('how', BAD)
@pytest.mark.parametrize('where', ['base', 'risky'])
def test_failed_runs_are_left_out_and_told(tmp_path, how, where, capsys):
    file, calls = tmp_path/'runs.jsonl', tmp_path/'calls.txt'
    def recipe(seed, risk=False):
        with calls.open('a') as f: f.write('x')
        if seed == 1 and risk == (where == 'risky'):
            if how == 'diverged': raise DivergedError('The training loss is nan in epoch 0.')
            return {'accuracy': BAD[how]}
        return {'accuracy': .5 + .1 * risk + .001 * seed * risk}
    run = lambda: compare(recipe, {'risky': dict(risk=True)}, 4, file=file, key='k')
    c = run()
    assert c.difference('risky').n == 3 and c.failed(where) == [1] and len(c.runs) == 8
    assert c.verdict('risky').startswith('better by 10.')
    assert c.verdict('risky').endswith(f"; 1 of 4 runs of '{where}' failed")
    assert c.table().loc[where, 'failed'] == 1 and c.words().loc[where, 'runs'] == '3 of 4'
    assert 'nan' not in repr(c) + c._repr_html_()
    said = capsys.readouterr().out
    assert ('failed: The training loss is nan' if how == 'diverged' else 'accuracy') in said
    for line in file.read_text().splitlines():
        json.loads(line, parse_constant=lambda o: pytest.fail(o))
    again = run()
    # it would fail again
    assert len(calls.read_text()) == 8 and again.verdict('risky') == c.verdict('risky')
    assert repr(again) == repr(c)
    c.plot()

def test_all_fail():
    def recipe(): raise DivergedError('The training loss is nan.')
    c = compare(recipe, {'b': {}}, 2, show=False)
    assert c.failed('base') == [0, 1] and '0 pairs' in c.verdict('b') and 'b' in repr(c)
    assert c.by('accuracy').failed('b') == [0, 1]

def test_a_first_run_that_fails_does_not_hide_the_metric(tmp_path):
    def recipe(seed):
        if seed == 0: raise DivergedError('nan')
        return {'valid_loss': 1., 'accuracy': .5}
    file = tmp_path/'r.jsonl'
    assert (
        compare(recipe, {}, 3, file=file, show=False).metric
        == 'accuracy'
        == compare(recipe, {}, 3, file=file, show=False).metric
    )

def test_a_real_divergence_goes_on():
    def recipe(lr=.1):
        learn = make_learner()
        learn.fit(2, lr)
        return learn
    c = compare(recipe, {'wild': dict(lr=1e38)}, 2, show=False)
    assert c.failed('wild') == [0, 1] and c.failed('base') == []
    assert 'The training loss' in c.runs[1]['failed']

def test_other_errors_still_stop():
    def recipe(): raise ZeroDivisionError('a bug')
    with pytest.raises(ZeroDivisionError): compare(recipe, {}, 2, show=False)
