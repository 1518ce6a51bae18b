"""`sotavision train --task multilabel`: labels from the cells of a table, a threshold that stays
with the run, predictions with all labels, and a page."""
import csv
import io
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.metrics import average_precision_score

from cli_runs import error
from sotavision.app.config import Config, command, make_learner
from sotavision.app.labeled import labeled_images
from sotavision.app.predict import load_run, predictions, probabilities
from sotavision.cli import main

ARGS = '--size 16 --epochs 4 --bs 8 --lr 0.01 --workers 0 --device cpu'.split()

def paint_tags(root, n=40):
    "Images that are bright or not, red or not; each is a label of its own, so some have none."
    rng, rows = np.random.default_rng(0), []
    root.mkdir(parents=True)
    for i in range(n):
        bright, red = i % 2, i // 2 % 2
        a = rng.integers(0, 30, (20, 24, 3)) + 120 * bright
        a[..., 0] += 90 * red
        Image.fromarray(a.astype(np.uint8)).save(root/f'{i:02}.png')
        tags = ' '.join(['bright'] * bright + ['red'] * red)
        rows.append(dict(path=f'{i:02}.png', tags=tags, is_valid=i >= n - 12))
    pd.DataFrame(rows).to_csv(root/'tags.csv', index=False)

@pytest.fixture(scope='module', name='place')
def make_place(tmp_path_factory):
    "Images with their table, and a finished run on them."
    at = tmp_path_factory.mktemp('tags')
    paint_tags(at/'pics')
    assert main(['train', '--data', str(at/'pics'), '--task', 'multilabel', *ARGS, '--out',
                 str(at/'run')]) == 0
    return at

def config(at, **kw): return Config(str(at/'pics'), task='multilabel', **kw)

def table_in(at, **columns):
    "The table with other columns, as a file beside the images."
    table = pd.read_csv(at/'pics/tags.csv', dtype=str, keep_default_na=False)
    table = table.drop(columns=[k for k, v in columns.items() if v is None])
    table.assign(**{k: v for k, v in columns.items() if v is not None}).to_csv(
        at/'other.csv', index=False)
    return str(at/'other.csv')

def test_labels_come_from_the_cells_and_an_empty_one_has_none(place):
    found = labeled_images(config(place))
    assert [found.label(o) for o in found.items[:4]] == [[], ['bright'], ['red'], ['bright', 'red']]
    assert len(found.train) == 28 and len(found.valid) == 12

@pytest.mark.parametrize('delim, cell, wanted', [
    (';', 'a b;c', ['a b', 'c']), ('; ', ' a b;  c; ', ['a b', 'c']), (' ', ' a   b ', ['a', 'b']),
    ('\t', 'a\tb', ['a', 'b']), (',', '', []), (' | ', 'a | b|c', ['a', 'b', 'c'])])
def test_cells_are_divided(place, delim, cell, wanted):
    file = table_in(place, tags=cell)
    found = labeled_images(config(place, labels=file, label_delim=delim))
    assert found.label(found.items[0]) == wanted

def test_a_column_may_be_named_and_files_may_be_called_file(place):
    table = pd.read_csv(place/'pics/tags.csv', keep_default_na=False).rename(
        columns={'path': 'file'}).assign(more='x')
    table.to_csv(place/'more.csv', index=False)
    some = config(place, labels=str(place/'more.csv'))
    with pytest.raises(ValueError, match='Which column holds the labels.*tags, more'):
        labeled_images(some)
    found = labeled_images(replace(some, label_column='more'))
    assert found.label(found.items[0]) == ['x']

def test_the_run_says_how_good_it_is(place, capsys):
    told = json.loads((place/'run/config.json').read_text())
    r = told['result']
    assert told['task'] == 'multilabel' and told['vocab'] == ['bright', 'red']
    assert r['ap_score_multi'] > .9 and 0 < r['thresh'] < 1 and r['f1'] >= r['f1_held_out'] > .5
    assert main(['train', '--data', str(place/'pics'), '--task', 'multilabel', *ARGS, '--tta', '2',
                 '--out', str(place/'again')]) == 0
    said = capsys.readouterr().out
    assert 'Labels: ' in said and 'Mean average precision' in said
    assert 'with test-time augmentation' in said and 'chosen by them' in said

def test_rows_tell_every_label_above_the_threshold(place):
    model, about = run = load_run(place/'run', 'cpu')
    items = [place/f'pics/{i:02}.png' for i in (28, 29, 30, 31)]
    rows, wrong = predictions(run, items)
    probs, vocab = probabilities(run, items)
    thresh = about['result']['thresh']
    assert not wrong and ((probs >= 0) & (probs <= 1)).all() and vocab == ['bright', 'red']
    for row, p in zip(rows, probs.tolist()):
        assert set(row['labels']) == {v for v, o in zip(vocab, p) if o > thresh}
        assert row['probabilities'] == pytest.approx(dict(zip(vocab, p)), abs=1e-4)
    low = predictions((model, about | dict(result=dict(thresh=0.))), items)[0]
    assert all(len(o['labels']) == 2 for o in low)
    assert all(o['labels'] == list(o['probabilities']) for o in low)   # most probable first
    assert not predictions((model, about | dict(result=dict(thresh=1.))), items)[0][0]['labels']

def test_probabilities_are_the_sigmoid_of_the_networks_answers(place):
    cfg = config(place, size=16, device='cpu', workers=0, precision='fp32')
    learn = make_learner(cfg).load(place/'run/model', with_opt=False)
    probs, targs = learn.get_preds()
    found, _ = probabilities(load_run(place/'run', 'cpu'), learn.dls.valid_ds.items)
    torch.testing.assert_close(found, probs, atol=1e-5, rtol=0)
    noted = json.loads((place/'run/config.json').read_text())['result']['ap_score_multi']
    assert noted == pytest.approx(average_precision_score(targs, probs, average='macro'), abs=1e-4)

def test_formats(place, capsys):
    def said(*more):
        assert main(['predict', str(place/'run'), str(place/'pics/31.png'), *more]) == 0
        return capsys.readouterr().out
    assert '%' in said()
    row, = csv.DictReader(io.StringIO(said('--format', 'csv')))
    assert list(row) == ['picture', 'labels', 'bright', 'red']
    data, = json.loads(said('--format', 'json'))
    assert data['labels'] and row['labels'].split(' ') == data['labels']
    assert float(row['red']) == data['probabilities']['red']

def test_the_page_about_it(place):
    assert main(['report', str(place/'run'), '--device', 'cpu']) == 0
    page = (place/'run/report.html').read_text()
    assert 'mean average precision' in page and 'in every label' in page
    assert 'Truth down, answer across' not in page and 'when the run ended' not in page

def test_a_score_that_is_not_what_it_was_is_told(place, tmp_path):
    about = json.loads((place/'run/config.json').read_text())
    told = about | dict(result=about['result'] | dict(ap_score_multi=.2))
    kept = place/'run/config.json'
    before = kept.read_text()
    try:
        kept.write_text(json.dumps(told))
        assert main(['report', str(place/'run'), '--device', 'cpu', '--out',
                     str(tmp_path/'p.html')]) == 0
    finally: kept.write_text(before)
    assert 'was 20.0% when the run ended' in (tmp_path/'p.html').read_text()

def test_the_command_gives_the_same_choices(place):
    line = command(config(place, labels='a.csv', label_delim=';'))
    assert '--task multilabel' in line and "--label-delim ';'" in line

def test_compare_is_judged_by_average_precision(place, capsys, tmp_path):
    words = ['compare', '--data', str(place/'pics'), '--task', 'multilabel', *ARGS, '--epochs', '1',
             '--seeds', '2', '--variant', 'slow:lr=0.001', '--out', str(tmp_path/'c')]
    assert main(words) == 0
    assert 'ap_score_multi' in capsys.readouterr().out

@pytest.mark.parametrize('more, said', [
    (['--task', 'multilable'], 'invalid choice'),
    (['--task', 'multilabel', '--smoothing', '.1'], "smoothing=0.1 with task='multilabel'"),
    (['--task', 'multilabel', '--folds', '3'], "folds=3 with task='multilabel'"),
    (['--task', 'multilabel', '--recipe', 'imagenette-128-5'], "recipe='imagenette-128-5' with"),
    (['--task', 'multilabel', '--corrections', 'x.csv'], 'corrections='),
    (['--task', 'multilabel', '--label-column', 'nope'], "no column of labels 'nope'"),
    (['--task', 'multilabel', '--label-delim', ''], 'label_delim'),
])
def test_what_does_not_fit_is_refused(place, capsys, more, said):
    assert said in error(capsys, 'train', '--data', place/'pics', *more, '--out', place/'no')
    assert not (place/'no').exists()

def test_unknown_tasks_are_named_in_python(place):
    with pytest.raises(ValueError, match='task=.multilabels.*Did you mean .*multilabel'):
        Config(str(place/'pics'), task='multilabels')

def test_a_table_is_asked_for_where_there_is_none(tmp_path, capsys):
    paint_tags(tmp_path/'pics', 12)
    (tmp_path/'pics/tags.csv').unlink()
    said = error(capsys, 'train', '--data', tmp_path/'pics', '--task', 'multilabel', '--out',
                 tmp_path/'no')
    assert 'wants a table of labels: --labels FILE' in said and 'tags.csv' in said

def test_a_label_that_only_validation_has_is_named(place, capsys):
    table = pd.read_csv(place/'pics/tags.csv', dtype=str, keep_default_na=False)
    table.loc[39, 'tags'] = 'bright blue'
    table.to_csv(place/'blue.csv', index=False)
    said = error(capsys, 'train', '--data', place/'pics', '--task', 'multilabel', *ARGS, '--labels',
                 place/'blue.csv', '--out', place/'no')
    assert "'blue'" in said
