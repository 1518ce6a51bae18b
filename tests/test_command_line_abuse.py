"""Refused starts, two runs in one place, disks that refuse, weights that are no use: what the
command line leaves behind."""
import errno
import json
import os
import shutil
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import torch

from sotavision.app import config, predict, train
from sotavision.app.config import Config
from sotavision.app.files import only_one
from sotavision.cli import main
from sotavision.core import files
from sotavision.training.predict import Learner
from sotavision.training.recorder import Recorder
from test_fuzz_command_lines import answer, paint, refused

@pytest.fixture(scope='module')
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp('data')
    for part, n in (('train', 8), ('val', 3)):
        for name, value in (('dark', 60), ('light', 190)): paint(root/part/name, n, value)
    return root

def line(data, out, *more):
    return [
        'train',
        '--data',
        str(data),
        '--size',
        '16',
        '--epochs',
        '2',
        '--bs',
        '8',
        '--device',
        'cpu',
        '--out',
        str(out),
        *map(str, more),
    ]

@pytest.fixture(scope='module')
def run(data, tmp_path_factory):
    out = tmp_path_factory.mktemp('runs')/'one'
    assert main(line(data, out)) == 0
    return out

@pytest.fixture(autouse=True)
def few_plots(monkeypatch, request):
    "Plots take longer than the trainings; the tests that look at them get them."
    if any(o in request.node.name for o in ('library_calls', 'full_disk')): return
    monkeypatch.setattr(Learner, 'show_results', lambda self, **kwargs: None)
    for name in ('plot_loss', 'plot_sched', 'plot_metrics'):
        monkeypatch.setattr(Recorder, name, lambda self: None)

# --- what a refused start leaves

def test_a_bad_picture_deleted_as_told(data, tmp_path, capsys):
    shutil.copytree(data, tmp_path/'d'); bad = tmp_path/'d'/'train'/'dark'/'0.png'
    bad.write_bytes(b'no image')
    assert '0.png' in refused(capsys, *line(tmp_path/'d', tmp_path/'r'))
    assert not (tmp_path/'r').exists()
    bad.unlink()
    assert main(line(tmp_path/'d', tmp_path/'r')) == 0

@pytest.mark.parametrize(
    'wrong, right',
    [(['--lr', '1e30'], ['--lr', '.001']), (['--lr', '1e30'], ['--wd', '.1', '--resume'])])
def test_a_training_that_diverged_at_once(data, tmp_path, capsys, wrong, right):
    said = refused(capsys, *line(data, tmp_path/'r', *wrong))
    # none were better than the start
    assert 'ten times smaller' in said and 'last good weights' not in said
    assert not (tmp_path/'r').exists()
    assert main(line(data, tmp_path/'r', *right)) == 0

@pytest.mark.parametrize('resume', [[], ['--resume']])
def test_a_start_that_was_killed_blocks_nobody(data, tmp_path, resume):
    "Only the checkpoint of step 0 is there: nothing was learned, and other choices may begin."
    kept = tmp_path/'r'/'checkpoints'; kept.mkdir(parents=True)
    (kept / 'fit0-epoch0-step0.pt').write_bytes(b'the start')
    (kept / 'choices.json').write_text('{"data": "x"}')
    assert main(line(data, tmp_path/'r', '--wd', '.1', *resume)) == 0 and not kept.exists()

def test_what_was_learned_is_not_forgotten(data, tmp_path, monkeypatch, capsys):
    whole = Learner.train_epoch
    def breaks(self):
        if self.epoch == 1: raise RuntimeError('the machine breaks')
        whole(self)
    monkeypatch.setattr(Learner, 'train_epoch', breaks)
    assert 'the machine breaks' in refused(capsys, *line(data, tmp_path/'r'))
    monkeypatch.undo()
    assert 'cut off' in refused(capsys, *line(data, tmp_path/'r'))
    assert 'seed=42 then, 7 now' in refused(
        capsys, *line(data, tmp_path / 'r', '--resume', '--seed', '7')
    )
    assert main(line(data, tmp_path/'r', '--resume')) == 0

def test_nothing_is_trained_before_all_is_looked_at(data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(train, 'fit', lambda *a, **k: pytest.fail('it trains'))
    for more in (
        ['--tta', '-1'],
        ['--mixup', 'inf'],
        ['--first-size', '0'],
        ['--precision', 'fp9'],
    ):
        refused(capsys, *line(data, tmp_path / 'r', *more))
    monkeypatch.setattr(config, 'loaders', lambda *a: pytest.fail('it looks for images'))
    for more in (['--arch', 'xresnet19'], ['--device', 'cuda:77']):
        refused(capsys, *line(data, tmp_path / 'r', *more))

def test_a_finished_run_says_how_to_go_on(run, data, capsys):
    said = refused(capsys, *line(data, run, '--resume', '--epochs', '9'))
    assert 'epochs=2 then, 9 now' in said and 'train anew' in said

def test_choices_of_an_older_version(run, data, tmp_path, capsys):
    "What it did not know was as usual."
    shutil.copytree(run, tmp_path/'r')
    config = json.loads((run/'config.json').read_text())
    for k in ('pretrained', 'tta', 'first_size', 'bits'): del config[k]
    (tmp_path/'r'/'config.json').write_text(json.dumps(config))
    assert main(line(data, tmp_path/'r', '--resume')) == 0 and 'finished' in capsys.readouterr().out

# --- one place, two runs

def test_two_runs_into_one_folder(data, tmp_path, capsys):
    with only_one(tmp_path/'r'):
        assert 'another process is writing to' in refused(capsys, *line(data, tmp_path/'r'))
        assert 'another process is writing to' in refused(
            capsys, 'compare', *line(data, tmp_path / 'r')[1:], '--variant', 'a:size=8'
        )
    assert not (tmp_path/'r').exists() and main(line(data, tmp_path/'r', '--epochs', '1')) == 0

def test_the_usual_folder_tells_choices_apart(data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    short = [o for o in line(data, 'x', '--epochs', '1') if o not in ('--out', 'x')]
    assert main(short) == 0 and main([*short, '--lr', '.001']) == 0
    assert len([o for o in (tmp_path/'runs').iterdir() if o.is_dir()]) == 2
    other = tmp_path/'elsewhere'/data.name
    shutil.copytree(data, other)
    assert 'holds a run on' in refused(
        capsys, *(str(other) if o == str(data) else o for o in short)
    )

# --- disks and folders that refuse

@pytest.mark.parametrize('where', ['choices.json', 'model', 'log.csv', 'loss.png', 'config.json'])
def test_a_full_disk_is_a_line(data, tmp_path, capsys, monkeypatch, where):
    whole = files.whole_file
    def full(path, *args, **kwargs):
        if where in Path(path).name:
            raise OSError(errno.ENOSPC, f'{path} could not be written: No space left on device')
        return whole(path, *args, **kwargs)
    monkeypatch.setattr(files, 'whole_file', full)
    import sotavision.models.weights as weights
    if hasattr(weights, 'whole_file'): monkeypatch.setattr(weights, 'whole_file', full)
    said = refused(capsys, *line(data, tmp_path/'r'))
    assert where in said and 'No space left' in said and not (tmp_path/'r'/'config.json').exists()
    monkeypatch.undo()
    # what was learned is there
    assert main(line(data, tmp_path/'r', '--resume')) == 0

def test_a_folder_that_may_not_be_written(data, run, tmp_path, capsys, monkeypatch):
    # root may write anywhere
    monkeypatch.setattr(os, 'access', lambda path, mode: False)
    for command in (
        ['predict', run, data / 'val', '--out', tmp_path / 'p.csv'],
        ['report', run, '--out', tmp_path / 'p.html'],
        ['lr-find', '--data', data, '--out', tmp_path / 'p.png'],
        ['data', 'show', data, '--out', tmp_path / 'p.png'],
    ):
        assert 'Nothing can be written' in refused(capsys, *command)

def test_every_file_of_a_run_is_json_or_whole(run):
    for o in run.iterdir(): assert not o.name.startswith('.') and o.stat().st_size
    json.loads((run/'config.json').read_text(), parse_constant=lambda o: pytest.fail(o))

def test_numbers_that_are_not_finite_are_null(data, tmp_path, monkeypatch):
    scores = train.scores
    monkeypatch.setattr(
        train, 'scores', lambda *a: scores(*a) | dict(valid_loss=float('nan'), more=float('inf'))
    )
    assert main(line(data, tmp_path/'r')) == 0
    result = json.loads(
        (tmp_path / 'r' / 'config.json').read_text(), parse_constant=lambda o: pytest.fail(o)
    )['result']
    assert result['valid_loss'] is None is result['more']
    assert main(['report', str(tmp_path/'r'), '--device', 'cpu']) == 0

# --- predictions

@pytest.mark.parametrize('format', ['table', 'csv', 'json'])
def test_a_damaged_picture_among_many(run, data, tmp_path, capsys, format):
    shutil.copytree(data / 'val', tmp_path / 'v')
    (tmp_path / 'v' / 'dark' / '1.png').write_bytes(b'no image')
    (tmp_path / 'v' / 'light' / '2.png').write_bytes(b'')
    capsys.readouterr()
    status = main(['predict', str(run), str(tmp_path/'v'), '--format', format, '--device', 'cpu'])
    out, said = capsys.readouterr()
    assert status == 1 and len(said.strip().splitlines()) == 2 and '1.png' in said
    assert '2.png' in said and out.count('.png') == 4
    assert answer(capsys, 'predict', run, tmp_path/'v'/'dark'/'0.png', '--device', 'cpu')[0] == 0

def test_only_damaged_pictures(run, tmp_path, capsys):
    (tmp_path/'a.png').write_bytes(b'no'); (tmp_path/'b.png').write_bytes(b'no')
    assert 'a.png' in refused(capsys, 'predict', run, tmp_path)
    with pytest.raises(OSError, match='a.png'): predict.predict(run, [tmp_path/'a.png'])

def test_a_prediction_that_is_no_number(run, data, tmp_path, capsys, monkeypatch):
    load = predict.load_run
    def spoilt(*args):
        model, config = load(*args)
        with torch.no_grad(): next(model.parameters()).fill_(float('nan'))
        return model, config
    monkeypatch.setattr(predict, 'load_run', spoilt)
    monkeypatch.setattr('sotavision.cli.load_run', spoilt)
    assert 'is not finite' in refused(
        capsys, 'predict', run, data / 'val', '--out', tmp_path / 'p.json', '--format', 'json'
    )
    assert 'is not finite' in refused(
        capsys, 'report', run, '--out', tmp_path / 'p.html', '--device', 'cpu'
    )
    assert not list(tmp_path.glob('p.*'))

def test_weights_of_another_run(run, data, tmp_path, capsys):
    shutil.copytree(run, tmp_path/'r')
    config = json.loads((run/'config.json').read_text())
    for change in (
        dict(vocab=['light', 'dark']),
        dict(vocab=['a', 'b', 'c']),
        dict(arch='xresnet34'),
    ):
        (tmp_path / 'r' / 'config.json').write_text(json.dumps(config | change))
        refused(capsys, 'predict', tmp_path / 'r', data / 'val', '--device', 'cpu')

# --- figures of others, and weights that want pictures as they are

def test_library_calls_leave_figures_and_backend_alone(data, tmp_path, monkeypatch):
    import matplotlib
    plt.close('all')
    mine = plt.figure(); backend = matplotlib.get_backend()
    used = []
    monkeypatch.setattr(matplotlib, 'use', lambda *a, **k: used.append(a))
    cfg = Config(str(data), size=16, epochs=1, bs=8, device='cpu')
    assert train.train(cfg, tmp_path/'r') == 0
    from sotavision.app.trials import trial
    from sotavision.cli import show_data
    trial(cfg, {'a': dict(size=12)}, 2, tmp_path/'c'); show_data(str(data), tmp_path/'s.png', 4)
    assert plt.get_fignums() == [mine.number] and plt.gcf() is mine and not used
    assert matplotlib.get_backend() == backend
    assert (tmp_path/'c'/'compare.png').stat().st_size > 1000
    assert (tmp_path/'r'/'loss.png').stat().st_size > 1000
    plt.close('all')

def test_weights_that_want_mean_0_and_std_1(data, tmp_path, monkeypatch, capsys):
    make = train.make_learner
    def plain(cfg):
        learn = make(cfg)
        for dl in learn.dls: dl.batch_tfms = []
        return learn
    monkeypatch.setattr(train, 'make_learner', plain)
    assert main(line(data, tmp_path/'r')) == 0
    assert json.loads((tmp_path/'r'/'config.json').read_text())['stats'] == [[0, 0, 0], [1, 1, 1]]
    assert main(['predict', str(tmp_path/'r'), str(data/'val'), '--device', 'cpu']) == 0

def test_other_pictures_are_other_runs(data, tmp_path):
    shutil.copytree(data, tmp_path/'d')
    command = [
        'compare',
        *line(
            tmp_path / 'd', tmp_path / 'c', '--epochs', '1', '--seeds', '1', '--variant', 'a:size=8'
        )[1:],
    ]
    count = lambda: len((tmp_path/'c'/'runs.jsonl').read_text().splitlines())
    assert main(command) == 0 and count() == 2 and main(command) == 0 and count() == 2
    (tmp_path/'d'/'train'/'dark'/'0.png').unlink()
    assert main(command) == 0 and count() == 4
