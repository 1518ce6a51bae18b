"lr-find, list, show and report at the command line."
import json
import shlex
import shutil

import pytest
from PIL import Image

from cli_runs import error, make_data, make_run, paint  # noqa: F401 (fixtures)
from sotavision.app import config, train
from sotavision.cli import main

def test_lr_find(data, tmp_path, capsys):
    argv = [
        'lr-find',
        '--data',
        str(data),
        '--size',
        '32',
        '--bs',
        '24',
        '--device',
        'cpu',
        '--out',
        str(tmp_path / 'deep' / 'rate.png'),
    ]
    assert main(argv) == 0
    text = capsys.readouterr().out
    rates = {o.split()[0]: float(o.split()[1]) for o in text.splitlines()[:4]}
    assert set(rates) == {'valley', 'slide', 'steep', 'minimum'}
    assert 1e-5 < rates["valley"] < .1 and all(1e-7 < o <= 10 for o in rates.values())
    assert f'--lr {rates["valley"]:.2g}' in text
    assert Image.open(tmp_path/'deep'/'rate.png').width > 300
    # the same seed, the same suggestion
    assert main(argv) == 0 and capsys.readouterr().out == text

@pytest.mark.parametrize(
    'options',
    [[], ['--pretrained', '--size', '96'],
     ['--arch', 'xresnet34', '--augment', '--mixup', '.4', '--valid-pct', '.3', '--bs', '8',
      '--device', 'cpu']])
def test_the_command_that_lr_find_offers_trains_with_the_same_choices(options):
    from sotavision.cli import config_of, parser
    cfg = config_of(
        parser().parse_args(['train', '--data', 'my images', '--lr', '.003', *options])
    )
    line = shlex.split(config.command(cfg))
    assert line[:2] == ['sotavision', 'train'] and '--lr' in line
    assert config_of(parser().parse_args(line[1:])) == cfg

def test_lr_find_without_an_answer(data, tmp_path, capsys, monkeypatch):
    make = train.make_learner
    def stuck(cfg):
        learn = make(cfg)
        learn.loss_func = lambda pred, targ: pred.sum() * 0 + 1.
        return learn
    monkeypatch.setattr(train, 'make_learner', stuck)
    assert 'no rate to suggest' in error(
        capsys,
        'lr-find',
        '--data',
        data,
        '--size',
        '32',
        '--bs',
        '8',
        '--device',
        'cpu',
        '--out',
        tmp_path / 'rate.png',
    )
    assert (tmp_path/'rate.png').exists()

def test_list_and_show(capsys, data, tmp_path):
    assert main(['data', 'list']) == 0
    text = capsys.readouterr().out
    assert 'toynette' in text and 'imagenette2-160' in text
    assert main(['data', 'show', str(data), '--out', str(tmp_path/'sheet.png'), '-n', '12']) == 0
    assert Image.open(tmp_path/'sheet.png').width > 300
    assert main(['data', 'fetch', str(data)]) == 0
    assert str(data) in capsys.readouterr().out

def test_report(run, capsys, tmp_path):
    assert (
        main(
            [
                'report',
                str(run),
                '--out',
                str(tmp_path / 'deep' / 'page.html'),
                '-n',
                '3',
                '--device',
                'cpu',
            ]
        )
        == 0
    )
    assert 'page.html' in capsys.readouterr().out
    text = (tmp_path/'deep'/'page.html').read_text(encoding='utf8')
    assert text.count('data:image/jpeg;base64,') == 3 and text.count('<svg') == 2
    assert '>dark<' in text and '>light<' in text
    assert not any(o in text for o in ('<script', 'http', 'src="/', 'file:'))

def test_report_finds_the_accuracy_of_the_run(run, tmp_path, capsys):
    assert main(['report', str(run), '--out', str(tmp_path/'page.html'), '--device', 'cpu']) == 0
    right = round(12 * json.loads((run/'config.json').read_text())['result']['accuracy'])
    assert f'{right} of 12 validation images right' in (tmp_path / 'page.html').read_text(
        encoding='utf8'
    )

def test_report_after_the_pictures_moved(run, data, tmp_path, capsys):
    shutil.copytree(data, tmp_path/'elsewhere'); shutil.copytree(run, tmp_path/'r')
    config = json.loads((tmp_path/'r'/'config.json').read_text())
    (tmp_path/'r'/'config.json').write_text(json.dumps(config | dict(data=str(tmp_path/'gone'))))
    assert 'gone' in error(capsys, 'report', tmp_path/'r')
    assert not (tmp_path/'r'/'report.html').exists()
    assert (
        main(
            [
                'report',
                str(tmp_path / 'r'),
                '--data',
                str(tmp_path / 'elsewhere'),
                '--device',
                'cpu',
            ]
        )
        == 0
    )
    assert (tmp_path/'r'/'report.html').exists()

def test_report_of_a_run_without_an_epoch(run, tmp_path):
    shutil.copytree(run, tmp_path/'r')
    head = (run/'log.csv').read_text().splitlines()[0]
    (tmp_path/'r'/'log.csv').write_text(head + '\n')
    assert main(['report', str(tmp_path/'r'), '--device', 'cpu']) == 0
    assert 'No epoch was finished' in (tmp_path/'r'/'report.html').read_text(encoding='utf8')

def test_report_of_no_run(capsys, tmp_path): assert 'is no run' in error(capsys, 'report', tmp_path)
def test_report_without_pictures(capsys, run):
    assert 'k=0' in error(capsys, 'report', run, '-n', '0')

def test_report_on_other_classes(capsys, run, tmp_path):
    paint(tmp_path / 'pics' / 'train' / 'red', 4, 60, 0)
    paint(tmp_path / 'pics' / 'train' / 'dark', 4, 60, 0)
    paint(tmp_path / 'pics' / 'val' / 'red', 2, 60, 1)
    said = error(capsys, 'report', run, '--data', tmp_path/'pics')
    assert "have the class 'red', which" in said and 'never learned' in said
