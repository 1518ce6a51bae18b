"""`sotavision train --folds`: tables of what each image's own judge says; predictions averaged."""
import json

import pandas as pd
import pytest
import torch

from sotavision.app.config import Config
from sotavision.app.predict import load_run, predictions, probabilities
from sotavision.cli import main
from sotavision.core.rng import set_seed
from sotavision.data.files import get_image_files
from sotavision.data.images import PILImage

ARGS = '--size 16 --epochs 1 --bs 8 --folds 3 --workers 0 --device cpu'.split()

@pytest.fixture(scope='module')
def data(tmp_path_factory):
    "Red and blue images, twelve of each."
    root = tmp_path_factory.mktemp('colors')
    set_seed(0)
    for i in range(24):
        at = root/('red', 'blue')[i % 2]
        at.mkdir(exist_ok=True)
        x = (torch.rand(20, 20, 3) * 100).byte()
        x[..., 2 * (i % 2)] += 150
        PILImage.create(x.numpy()).save(at/f'{i}.png')
    return root

@pytest.fixture(scope='module')
def run(data, tmp_path_factory):
    out = tmp_path_factory.mktemp('run')/'folds'
    assert main(['train', '--data', str(data), '--out', str(out), *ARGS]) == 0
    return out

def test_every_image_is_in_the_table_once_with_its_fold(run, data):
    oof = pd.read_csv(run/'oof.csv')
    assert sorted(oof.picture) == sorted(map(str, get_image_files(data)))
    assert oof.groupby(['fold', 'label']).size().tolist() == [4] * 6
    assert list(oof.columns) == ['picture', 'fold', 'label', 'prediction', 'blue', 'red']
    assert (oof[['blue', 'red']].sum(axis=1) - 1).abs().max() < 1e-4
    folds = pd.read_csv(run/'folds.csv', index_col='fold')
    assert list(folds.index) == ['0', '1', '2', 'mean', 'std']
    right = (oof.label == oof.prediction)[oof.fold == 1].mean()
    assert folds.accuracy['1'] == pytest.approx(right)
    assert json.loads((run/'config.json').read_text())['result']['accuracy'] == pytest.approx(
        (oof.label == oof.prediction).mean())

def test_predictions_are_the_mean_of_the_folds(run, data):
    items = list(get_image_files(data))[:5]
    model, config = load_run(run, 'cpu')
    each = torch.stack([probabilities((m, config), items)[0] for m in model.models])
    assert len(each) == 3 and each.std(0).max() > 1e-4
    assert torch.allclose(probabilities((model, config), items)[0], each.mean(0), atol=1e-6)
    rows, wrong = predictions((model, config), items)
    assert len(rows) == 5 and not wrong

def test_a_finished_run_is_not_trained_again(run, data, capsys):
    before = (run/'oof.csv').stat().st_mtime_ns
    assert main(['train', '--data', str(data), '--out', str(run), *ARGS, '--resume']) == 0
    assert 'is finished' in capsys.readouterr().out and (run/'oof.csv').stat().st_mtime_ns == before
    args = ['train', '--data', str(data), '--out', str(run), *ARGS, '--resume', '--lr', '.1']
    assert main(args) == 2 and 'lr=0.003 then, 0.1 now' in capsys.readouterr().err

def test_a_run_that_was_cut_off_goes_on_to_the_same(run, data, tmp_path, capsys, monkeypatch):
    from sotavision.techniques.kfold import KFold
    args = ['train', '--data', str(data), '--out', str(tmp_path/'o'), *ARGS]
    whole = KFold._fit_one
    def impatient(self, f, items, train):
        if f == 1: raise KeyboardInterrupt
        whole(self, f, items, train)
    monkeypatch.setattr(KFold, '_fit_one', impatient)
    assert main(args) == 130 and not (tmp_path/'o/config.json').exists()
    monkeypatch.undo()
    assert main(args) == 2 and '--resume' in capsys.readouterr().err
    assert main([*args, '--resume']) == 0
    assert (tmp_path/'o/oof.csv').read_text() == (run/'oof.csv').read_text()

def test_a_report_on_folds_is_refused_with_words(run, capsys):
    assert main(['report', str(run)]) == 2
    assert 'oof.csv' in capsys.readouterr().err

@pytest.mark.parametrize('kw, said', [
    (dict(folds=1), 'folds=1: a whole number from 2 to 100'), (dict(folds=-3), 'folds=-3'),
    (dict(folds=3, first_size=8), 'first_size=8 with folds')])
def test_choices_that_make_no_sense(kw, said):
    with pytest.raises(ValueError, match=said): Config('x', **kw)

def test_comparing_folds_is_refused(data, tmp_path, capsys):
    assert main(['compare', '--data', str(data), '--out', str(tmp_path/'c'), '--variant',
                 'k:folds=3']) == 2
    assert 'folds' in capsys.readouterr().err

def test_too_many_folds_are_told(data, tmp_path, capsys):
    args = [o if o != '3' else '13' for o in ARGS]
    assert main(['train', '--data', str(data), '--out', str(tmp_path/'o'), *args]) == 2
    assert 'has 12 items, too few for k=13' in capsys.readouterr().err
