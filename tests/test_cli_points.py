"""`sotavision train --task points`: places from a table, predictions in pixels of each file, a
page, and rows that make no sense."""
import json
import math

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cli_runs import error
from sotavision.app.config import Config, command
from sotavision.app.labeled import labeled_images
from sotavision.app.predict import load_run, predictions
from sotavision.app.report import interpret_run
from sotavision.cli import main

ARGS = '--size 32 --epochs 30 --bs 8 --lr 0.01 --workers 0 --device cpu'.split()

def spot(file, x, y, size=(60, 40)):
    "A bright spot on a dark image."
    w, h = size
    far = (np.arange(w) - x)**2 + (np.arange(h)[:, None] - y)**2
    gray = np.rint(235 * np.exp(-far / (.06 * w)**2) + 10).astype(np.uint8)
    Image.fromarray(np.dstack([gray] * 3)).save(file)

@pytest.fixture(scope='module', name='place')
def make_place(tmp_path_factory):
    "Images, a table of their points with an empty cell, and a finished run."
    at, g, rows = tmp_path_factory.mktemp('points'), np.random.default_rng(0), []
    (at/'data/images').mkdir(parents=True)
    for i in range(40):
        x, y = g.uniform(8, 52), g.uniform(6, 34)
        spot(at/f'data/images/{i:02}.png', x, y)
        rows.append(dict(file=f'images/{i:02}.png', x=round(x, 1), y=round(y, 1),
                         is_valid=i < 10))
    table = pd.DataFrame(rows)
    table.loc[20, ['x', 'y']] = math.nan
    table.to_csv(at/'data/points.csv', index=False)
    assert main(['train', '--data', str(at/'data'), '--task', 'points', *ARGS, '--tta', '1',
                 '--out', str(at/'run')]) == 0
    return at

def test_tables_are_read(place):
    found = labeled_images(Config(str(place/'data'), task='points'))
    assert len(found.valid) == 10 and len(found.train) == 30
    assert any(math.isnan(found.label(o)[0]) for o in found.items)
    assert "columns 'x', 'y'" in found.told[0]

def test_what_a_run_keeps(place):
    kept = json.loads((place/'run/config.json').read_text())
    assert kept['vocab'] == ['x', 'y']
    assert kept['result']['pck@0.1'] > .7 and kept['result']['pck@0.1_tta'] > .7
    assert '--task points' in command(Config('d', task='points', points='p.csv'))

def test_answers_are_pixels_of_each_file(place, tmp_path):
    for name, k in (('small', 1), ('large', 5)):
        im = Image.open(place/'data/images/03.png')
        im.resize((60 * k, 40 * k), Image.BILINEAR).save(tmp_path/f'{name}.png')
    rows, wrong = predictions(load_run(place/'run'), [tmp_path/'small.png', tmp_path/'large.png'])
    (a, b), true = (o['points'] for o in rows), pd.read_csv(place/'data/points.csv').loc[3]
    assert not wrong and abs(a['x'] - true.x) < 6 and abs(a['y'] - true.y) < 5
    assert abs(b['x'] / 5 - a['x']) < 2.5 and abs(b['y'] / 5 - a['y']) < 2

@pytest.mark.parametrize('format', ['table', 'csv', 'json'])
def test_the_command_line_predicts(place, capsys, format):
    image = str(place/'data/images/01.png')
    assert main(['predict', str(place/'run'), image, '--format', format]) == 0
    out = capsys.readouterr().out
    if format == 'csv': assert out.splitlines()[0] == 'picture,x,y'
    if format == 'json': assert set(json.loads(out)[0]['points']) == {'x', 'y'}
    if format == 'table': assert image in out and ' x ' in out

def test_a_page_about_points(place):
    assert main(['report', str(place/'run')]) == 0
    page = (place/'run/report.html').read_text()
    assert ', 1 point<' in page and 'pixels off' in page and 'What it confuses' not in page
    inter, config, log = interpret_run(place/'run')
    assert len(inter) == 10 and inter.targs.shape == (10, 1, 2)
    table = pd.read_csv(place/'data/points.csv')[:10]
    assert np.allclose(sorted(inter.targs[:, 0, 0].tolist()), sorted(table.x), atol=.01)

@pytest.mark.parametrize('change,said', [
    (dict(x='left'), 'row 3'), (dict(x=70), 'outside its image'),
    (dict(y=55, x=10), 'in front of x')])
def test_rows_that_make_no_sense(place, tmp_path, capsys, change, said):
    table = pd.read_csv(place/'data/points.csv', dtype=object)
    for k, v in change.items(): table.loc[1, k] = v
    table.to_csv(tmp_path/'p.csv', index=False)
    text = error(capsys, 'train', '--data', str(place/'data'), '--task', 'points', '--points',
                  str(tmp_path/'p.csv'), *ARGS, '--out', str(tmp_path/'run'))
    assert said in text

@pytest.mark.parametrize('args,said', [
    (['--mixup', '.4'], 'mixup'), (['--folds', '3'], 'folds'), (['--masks', 'm'], 'masks'),
    (['--points', 'none.csv'], 'none.csv')])
def test_choices_that_say_nothing(place, tmp_path, capsys, args, said):
    text = error(capsys, 'train', '--data', str(place/'data'), '--task', 'points', *ARGS, *args,
                 '--out', str(tmp_path/'run'))
    assert said in text

def test_points_say_nothing_elsewhere(place, tmp_path, capsys):
    text = error(capsys, 'train', '--data', str(place/'data'), '--points', 'p.csv', *ARGS, '--out',
                  str(tmp_path/'run'))
    assert 'points' in text

@pytest.mark.parametrize('columns,said', [
    (['path', 'y', 'x'], 'x comes first'), (['path', 'x'], 'next to each other')])
def test_tables_in_another_order(place, tmp_path, capsys, columns, said):
    table = pd.read_csv(place/'data/points.csv').rename(columns=dict(file='path'))
    table[columns].to_csv(tmp_path/'p.csv', index=False)
    text = error(capsys, 'train', '--data', str(place/'data'), '--task', 'points', '--points',
                 str(tmp_path/'p.csv'), *ARGS, '--out', str(tmp_path/'run'))
    assert said in text and 'p.csv' in text

def test_no_point_in_validation_ends_without_a_score(place, tmp_path, capsys):
    table = pd.read_csv(place/'data/points.csv')
    table.loc[table.is_valid, ['x', 'y']] = math.nan
    table.to_csv(tmp_path/'p.csv', index=False)
    args = '--size 32 --epochs 1 --bs 8 --workers 0 --device cpu'.split()
    assert main(['train', '--data', str(place/'data'), '--task', 'points', '--points',
                 str(tmp_path/'p.csv'), *args, '--out', str(tmp_path/'run')]) == 0
    assert 'No point is marked in the 10 validation images' in capsys.readouterr().out
