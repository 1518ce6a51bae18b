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

# --- whatever comes in

def test_empty_answers(capsys, file):
    for text in ('', '   \n', '...', '…'):
        assert 'Not yet' in said(capsys, engine.answer, 'q02', text)
    assert 'First try' in said(capsys, engine.reveal, 'q02') and not file.exists()

def test_answer_reveal_rate(capsys):
    assert 'Noted, 4 words' in said(capsys, engine.answer, 'q02', 'mean zero, deviation one')
    out = said(capsys, engine.reveal, 'q02')
    assert 'How does yours compare' in out
    assert plain(key(next(e for e in EVERY if e.id == 'q02')).why)[:60] in plain(out)
    for bad in (0, 4, True, 'good'): assert 'no rating' in said(capsys, engine.reveal, 'q02', bad)
    assert 'Missed. Read again: chapter 9' in said(capsys, engine.reveal, 'q02', 1)
    assert 'Read again' in said(capsys, engine.progress)
    assert '(q02)' in said(capsys, engine.progress)
    assert 'Had it' in said(capsys, engine.reveal, 'q02', 3)
    assert '(q02)' not in said(capsys, engine.progress)

def test_unknown_ids(capsys):
    for f, args in (
        (engine.check, ('q113', 1)),
        (engine.answer, ('e12', 'x')),
        (engine.reveal, ('q1',)),
        (engine.hint, ('e12z',)),
    ):
        assert 'There is no exercise' in said(capsys, f, *args)
    assert "Did you mean 'q13'" in said(capsys, engine.check, 'q113', 1)
    assert 'There is no' in said(capsys, engine.check, None, 1)
    assert 'There is no' not in said(capsys, engine.check, ' Q13 ', [.1] * 5)

def test_wrong_kind_of_call(capsys, file):
    assert "answer('q02'" in said(capsys, engine.check, 'q02', 3)
    assert "check('q13'" in said(capsys, engine.answer, 'q13', 'words')
    assert 'not a number' in said(capsys, engine.answer, 'q02', 3)
    assert 'without calling it' in said(capsys, engine.check, 'e12a', torch.ones(2))
    assert not file.exists()

def test_numbers_of_all_kinds(capsys, file):
    assert 'Right' in said(capsys, engine.check, 'q07', torch.tensor(5))
    assert 'Right' in said(capsys, engine.check, 'q07', torch.tensor([5.]))
    for odd in ('five', None, ..., [1, 2], {}, object(), True, torch.ones(2, 2), lambda: 5):
        assert '… q07' in said(capsys, engine.check, 'q07', odd)
    for bad in (float('nan'), torch.tensor(float('nan')), float('inf'), -5, 10**400):
        assert '✗ q07' in said(capsys, engine.check, 'q07', bad)
    assert progress.entry(progress.load()[0], 'q07').solved

def mix(x, y, lam, partner, n): pass

@pytest.mark.parametrize(
    'body, told',
    [('while True: pass', 'was stopped'),
     ('raise KeyError("x")', '`KeyError`, in line 2 of `mix`'), ('exit()', '`SystemExit`'),
     ('return mix(x, y, lam, partner, n)', '`RecursionError`'),
     ('return 3', 'is a number where a tuple is wanted'), ('return None, x', 'place 0'),
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
    assert 'First try' in said(capsys, engine.reveal, 'q13')
    engine.check('q13', [.1] * 5)
    assert '1 − ε' in said(capsys, engine.reveal, 'q13')
    assert 'not rated' in said(capsys, engine.reveal, 'q13', 3)
    engine.check('q13', [.02, .92, .02, .02, .02])
    assert progress.entry(progress.load()[0], 'q13').done
    assert '(q13)' in said(capsys, engine.progress)

def test_playing_on_after_the_right_answer_does_no_harm(capsys):
    for value in (5, 4, 4, 4, 1): engine.check('q07', value)
    engine.reveal('q07')
    assert progress.entry(progress.load()[0], 'q07').done
    assert 'Read again' not in said(capsys, engine.progress)

@pytest.mark.parametrize(
    'script, told',
    [('import sys\nsys.exit(3)\n', 'the script ended with 3'),
     ('x = 1\n1 / 0\n', 'line 2 of the script: ZeroDivisionError'),
     ('open("x", "w").write("1")\n', 'once/log.csv is missing')])
def test_scripts_that_misbehave(capsys, script, told):
    out = said(capsys, engine.check, 'f3', script)
    assert '✗ f3' in out and told in out and 'Traceback' not in out

def test_progress_survives_what_cannot_be_written(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv('SOTAVISION_EXERCISES', str(tmp_path/'no'/'such'/'.exercises.json'))
    out = said(capsys, engine.check, 'q07', 5)
    assert 'could not be saved' in out and 'Right' in out

def test_check_works_outside_the_main_thread(capsys):
    found = []
    t = threading.Thread(
        target=lambda: found.append(judge(keys.book()['e10a'], lambda h: h.mean((2, 3))).status)
    )
    t.start(); t.join()
    assert found == ['right']

# --- terminal

def test_terminal(capsys, tmp_path):
    assert main(['exercises', 'list']) == 0 and '  e12a  code' in capsys.readouterr().out
    (tmp_path / 'mine.py').write_text(
        'from sotavision.exercises.engine import check\ncheck("q07", 5)\n'
    )
    assert main(['exercises', 'check', str(tmp_path/'mine.py')]) == 0
    assert '✓ q07 Right' in capsys.readouterr().out
    assert main(['exercises', 'list']) == 0 and '✓ q07' in capsys.readouterr().out
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
