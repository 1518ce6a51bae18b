"Whatever comes in as an answer to an exercise, and the exercises in the terminal."
import threading
from pathlib import Path

import pytest
import torch

from exercise_book import (
    EVERY,
    key,
    own_file,  # noqa: F401 (a fixture)
    plain,
    said,
    space,
)
from sotavision.cli import main
from sotavision.exercises import engine, keys, progress
from sotavision.exercises.judge import judge
from sotavision.exercises.runner import difference

# --- whatever comes in

def test_empty_answers(capsys, file):
    for text in ('', '   \n', '...', '…'):
        assert 'Not yet' in said(capsys, engine.answer, 'q09a', text)
    assert 'First try' in said(capsys, engine.reveal, 'q09a') and not file.exists()

def test_answer_reveal_rate(capsys):
    assert 'Noted, 4 words' in said(capsys, engine.answer, 'q09a', 'mean zero, deviation one')
    out = said(capsys, engine.reveal, 'q09a')
    assert 'A rating is missing' in out and "reveal('q09a', 3)`: 3 had it" in out
    assert plain(key(next(e for e in EVERY if e.id == 'q09a')).why)[:60] in plain(out)
    for bad in (0, 4, True, 'good'): assert 'no rating' in said(capsys, engine.reveal, 'q09a', bad)
    assert 'Missed. Read again: chapter 9' in said(capsys, engine.reveal, 'q09a', 1)
    assert 'Read again' in said(capsys, engine.progress)
    assert '(q09a)' in said(capsys, engine.progress)
    assert 'Had it' in said(capsys, engine.reveal, 'q09a', 3)
    assert '(q09a)' not in said(capsys, engine.progress)

def test_unknown_ids(capsys):
    for f, args in (
        (engine.check, ('q113', 1)),
        (engine.answer, ('e12', 'x')),
        (engine.reveal, ('q1',)),
        (engine.hint, ('e12z',)),
    ):
        assert 'There is no exercise' in said(capsys, f, *args)
    assert "Did you mean 'q14c'" in said(capsys, engine.check, 'q114c', 1)
    assert 'There is no' in said(capsys, engine.check, None, 1)
    assert 'There is no' not in said(capsys, engine.check, ' Q14c ', [.1] * 5)

def test_wrong_kind_of_call(capsys, file):
    assert "answer('q09a'" in said(capsys, engine.check, 'q09a', 3)
    assert "check('q14c'" in said(capsys, engine.answer, 'q14c', 'words')
    assert 'not a number' in said(capsys, engine.answer, 'q09a', 3)
    assert 'without calling it' in said(capsys, engine.check, 'e12a', torch.ones(2))
    assert not file.exists()

def test_numbers_of_all_kinds(capsys, file):
    assert 'Right' in said(capsys, engine.check, 'q11b', torch.tensor(5))
    assert 'Right' in said(capsys, engine.check, 'q11b', torch.tensor([5.]))
    for odd in ('five', None, ..., [1, 2], {}, object(), True, torch.ones(2, 2), lambda: 5):
        assert '… q11b' in said(capsys, engine.check, 'q11b', odd)
    for bad in (float('nan'), torch.tensor(float('nan')), float('inf'), -5, 10**400):
        assert '✗ q11b' in said(capsys, engine.check, 'q11b', bad)
    assert progress.entry(progress.load()[0], 'q11b').solved

NAN = float('nan')

@pytest.mark.parametrize('got, want, says', [
    (NAN, NAN, ''), (NAN, 1., 'got NaN, expected 1'), (1., NAN, 'got 1, expected NaN'),
    ([1., NAN], [1., NAN], ''), (torch.tensor(NAN), NAN, '')])
def test_numbers_that_are_none(got, want, says):
    told = difference(got, want)
    assert told.endswith(says) and bool(told) == bool(says)

def mix(x, y, lam, partner, n): pass

@pytest.mark.parametrize(
    'body, told',
    [('while True: pass', 'was stopped'),
     ('raise KeyError("x")', '`KeyError`, in line 2 of `mix`'), ('exit()', '`SystemExit`'),
     ('return mix(x, y, lam, partner, n)', '`RecursionError`'),
     ('return 3', 'is a number where a tuple is wanted'),
     ('return None, x', 'element 0 is nothing'),
     ('return x * float("nan"), x', 'NaN'), ('return "x", "y"', 'a text where a tensor is wanted')])
def test_code_that_misbehaves(capsys, monkeypatch, body, told):
    from sotavision.exercises import judge as module
    whole = module.task
    monkeypatch.setattr(module, 'task', lambda key: vars_with(whole(key), seconds=.3))
    names = space()
    exec(f'def mix(x, y, lam, partner, n):\n    {body}\n', names)
    out = said(capsys, engine.check, 'e12a', names['mix'])
    assert told in out and '✗ e12a' in out and 'Traceback' not in out

def vars_with(t, **changes): return type(t)(**{**vars(t), **changes})

def test_prints_are_told_and_kept_short(capsys):
    names = space()
    exec(
        'def pool(h):\n    for _ in range(10_000): print("here")\n    return h.mean((2, 3))', names
    )
    out = said(capsys, engine.check, 'e10a', names['pool'])
    assert 'Right' in out and 'It also printed' in out and out.count('here') < 30

def test_wrong_number_of_parameters(capsys):
    assert '`TypeError`' in said(capsys, engine.check, 'e12a', lambda x: x)

def test_hints_come_one_by_one(capsys):
    outs = [said(capsys, engine.hint, 'e12a') for _ in range(4)]
    assert [
        'Hint 1' in outs[0] and 'Hint 2' not in outs[0],
        'Hint 2' in outs[1],
        'Hint 3' in outs[2] and 'chapter 12' in outs[2],
        outs[2] == outs[3],
    ] == [True] * 4
    assert "reveal('e12a')" in said(capsys, engine.check, 'e12a', lambda *a: (1, 2))

def test_reveal_after_a_miss_counts_as_help(capsys):
    assert 'First try' in said(capsys, engine.reveal, 'q14c')
    engine.check('q14c', [.1] * 5)
    assert '1 − ε' in said(capsys, engine.reveal, 'q14c')
    assert 'not rated' in said(capsys, engine.reveal, 'q14c', 3)
    engine.check('q14c', [.02, .92, .02, .02, .02])
    assert progress.entry(progress.load()[0], 'q14c').done
    assert '(q14c)' in said(capsys, engine.progress)

def test_playing_on_after_the_right_answer_does_no_harm(capsys):
    for value in (5, 4, 4, 4, 1): engine.check('q11b', value)
    engine.reveal('q11b')
    assert progress.entry(progress.load()[0], 'q11b').done
    assert 'Read again' not in said(capsys, engine.progress)

@pytest.mark.parametrize(
    'script, told',
    [('import sys\nsys.exit(3)\n', 'the script ended with 3'),
     ('x = 1\n1 / 0\n', 'line 2 of the script: ZeroDivisionError'),
     ('open("x", "w").write("1")\n', 'once/log.csv is missing')])
def test_scripts_that_misbehave(capsys, script, told):
    out = said(capsys, engine.check, 'f05a', script)
    assert '✗ f05a' in out and told in out and 'Traceback' not in out

def test_progress_survives_what_cannot_be_written(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv('SOTAVISION_EXERCISES', str(tmp_path/'no'/'such'/'.exercises.json'))
    out = said(capsys, engine.check, 'q11b', 5)
    assert 'could not be saved' in out and 'Right' in out

def test_check_works_outside_the_main_thread(capsys):
    found = []
    t = threading.Thread(
        target=lambda: found.append(judge(keys.book()['e10a'], lambda h: h.mean((2, 3))).status)
    )
    t.start(); t.join()
    assert found == ['right']

# --- what a learner is told

def test_after_a_miss_one_knows_where_the_solution_is(capsys):
    for id, bad in (('e12a', lambda *a: (1, 2)), ('q11b', 77), ('e15c', 'a')):
        out = said(capsys, engine.check, id, bad)
        assert f"`hint('{id}')` gives a hint" in out and f"`reveal('{id}')` shows the sol" in out
        for _ in range(3): engine.hint(id)
        out = said(capsys, engine.check, id, bad)
        assert 'gives a hint' not in out and f"`reveal('{id}')` shows the solution" in out

@pytest.mark.parametrize('e', [e for e in EVERY if e.value is not None], ids=lambda e: e.id)
def test_reveal_shows_the_value_after_a_try(capsys, e):
    assert 'First try' in said(capsys, engine.reveal, e.id)
    engine.check(e.id, e.wrong[0][0])
    shown = said(capsys, engine.reveal, e.id).split('the solution:')[1].strip().splitlines()[0]
    value = shown if e.kind == 'choice' else [float(o) for o in shown.split(',')]
    assert judge(key(e), value).status == 'right' and 'e+' not in shown

def test_a_missing_rating_is_told(capsys):
    out = said(capsys, engine.answer, 'q09a', 'mean zero')
    assert 'once you have rated it' in out and "reveal('q09a')" in out
    assert 'A rating is missing' in said(capsys, engine.reveal, 'q09a')
    out = said(capsys, engine.progress)
    assert 'A rating is missing: q09a.' in out and "`reveal('q09a', 3)`: 3 had it" in out
    assert 'Read again' not in out
    engine.reveal('q09a', 3)
    assert 'rating is missing' not in said(capsys, engine.progress)
    assert 'You rated yours: had it' in said(capsys, engine.reveal, 'q09a')
    assert 'once you have rated' not in said(capsys, engine.answer, 'q09a', 'mean zero, of course')

@pytest.mark.parametrize(
    'id, body, told',
    [('e16d', 'return [hi] * n', 'element 0 is wrong: got 0.0001, expected 1e-06'),
     ('e15b', "return [('a',)] * 5",
      "element 0 is wrong: got 'a', expected 'mixup+smoothing+tta'"),
     ('e10c', 'return 3', 'the result does not have the form that was asked for'),
     ('e10a', 'return h[:, :, 0, 0]',
      'has the right shape, but 12 of its 12 numbers are wrong. The first, at [0, 0]: got'),
     ('e10a', 'return 1 / 0', 'your function raises `ZeroDivisionError`')])
def test_a_fault_is_told_plainly(capsys, id, body, told):
    names = space()
    args = dict(e16d='lo, hi, n', e15b='parts', e10c='n, pct, seed=42', e10a='h')[id]
    exec(f'def f({args}):\n    {body}\n', names)
    out = said(capsys, engine.check, id, names['f'])
    assert f'✗ {id}' in out and 'In the case *' in out and plain(told) in plain(out)

# --- ids and progress of before

def test_progress_of_version_0_1_counts(capsys, file):
    file.write_text(
        '{"q08": {"answer": "so", "rating": 3, "seen": true},\n"e06c": {"solved": true, "x": 1},\n'
        '"f3": {"tries": 4}, "e12a": {"solved": true}}\n'
    )
    kept, whole = progress.load()
    assert whole and set(kept) == {'q12a', 'e16d', 'f05a', 'e12a'} and kept['e16d']['x'] == 1
    out = said(capsys, engine.progress)
    assert f'3/{len(EVERY)}' in out and '(f05a)' in out
    engine.check('e06c', 3)         # nothing changes
    assert '✓ q11b' in said(capsys, engine.check, 'q07', 5)
    assert 'q08' not in file.read_text() and f'4/{len(EVERY)}' in said(capsys, engine.progress)
    assert 'Hint 1' in said(capsys, engine.hint, 'f1b')
    assert progress.entry(progress.load()[0], 'f11b').hints == 1

def test_progress_under_both_ids_is_joined(file):
    file.write_text('{"q08": {"answer": "old", "rating": 3, "hints": 2}, '
                    '"q12a": {"answer": "new", "hints": 1, "seen": true}}')
    found = progress.entry(progress.load()[0], 'q12a')
    assert (found.answer, found.rating, found.hints, found.seen) == ('new', 3, 2, True)

def test_every_exercise_of_version_0_1_is_still_there():
    for old, new in keys.RENAMED.items():
        assert new in keys.book() and old not in keys.book() and old[0] == new[0]

# --- terminal

def test_terminal(capsys, tmp_path):
    assert main(['exercises', 'list']) == 0 and '  e12a  code' in capsys.readouterr().out
    (tmp_path / 'mine.py').write_text(
        'from sotavision.exercises.engine import check\ncheck("q11b", 5)\n'
    )
    assert main(['exercises', 'check', str(tmp_path/'mine.py')]) == 0
    assert '✓ q11b Right' in capsys.readouterr().out
    assert main(['exercises', 'list']) == 0 and '✓ q11b' in capsys.readouterr().out
    assert main(['exercises', 'progress']) == 0 and f'1/{len(EVERY)}' in capsys.readouterr().out
    assert main(['exercises', 'hint', 'e12a']) == 0 and 'Hint 1 of 3' in capsys.readouterr().out
    assert main(['exercises', 'hint', 'e12z']) == 1 and 'Did you mean' in capsys.readouterr().out
    (tmp_path/'broken.py').write_text('1 / 0\n')
    assert main(['exercises', 'check', str(tmp_path/'broken.py')]) == 1
    assert 'ZeroDivisionError' in capsys.readouterr().out
    assert main(['exercises', 'check', str(tmp_path/'absent.py')]) == 2
    assert 'no file' in capsys.readouterr().err

def test_progress_file_is_found_from_the_root(monkeypatch, tmp_path):
    monkeypatch.delenv('SOTAVISION_EXERCISES')
    monkeypatch.chdir(tmp_path)
    assert progress.progress_file() == Path('.exercises.json')
    (tmp_path/'nbs'/'exercises').mkdir(parents=True)
    assert progress.progress_file() == Path('nbs/exercises/.exercises.json')
