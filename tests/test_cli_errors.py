"What the command line says to what it cannot do."
import json
import shutil
from pathlib import Path

import pytest
import torch

from cli_runs import error, make_data, make_run, options, paint  # noqa: F401 (fixtures)
from sotavision.cli import main
from sotavision.models.weights import read_weights

def test_wrong_option(capsys):
    assert 'Did you mean --size?' in error(capsys, 'train', '--data', 'toynette', '--sizes', '3')
def test_wrong_command(capsys): assert 'Did you mean train?' in error(capsys, 'trian')
def test_abbreviations_are_not_guessed(capsys):
    assert 'Did you mean --epochs?' in error(capsys, 'train', '--data', 'toynette', '--epoch', '3')
def test_no_such_folder(capsys, tmp_path):
    assert 'no_such' in error(capsys, *options(tmp_path / 'no_such', tmp_path / 'r'))
def test_unknown_architecture(capsys, data, tmp_path):
    assert "Did you mean 'xresnet18'" in error(
        capsys, *options(data, tmp_path / 'r', '--arch', 'xresnet19')
    )
def test_size_zero(capsys, data, tmp_path):
    assert 'size=0' in error(capsys, *options(data, tmp_path / 'r', '--size', '0'))
def test_no_epochs(capsys, data, tmp_path):
    assert 'epochs=0' in error(capsys, *options(data, tmp_path / 'r', '--epochs', '0'))
def test_not_a_run(capsys, tmp_path):
    assert 'config.json' in error(capsys, 'predict', tmp_path, tmp_path)
def test_no_such_picture(capsys, run):
    said = error(capsys, 'predict', run, 'nowhere.jpg')
    assert 'No image or folder at nowhere.jpg' in said

def test_folder_without_pictures(capsys, tmp_path):
    (tmp_path/'docs').mkdir(); (tmp_path/'docs'/'a.txt').write_text('hello')
    assert '.txt' in error(capsys, *options(tmp_path/'docs', tmp_path/'r'))

def test_an_empty_folder_is_named(capsys, run, tmp_path):
    empty = tmp_path/'empty'; empty.mkdir()
    assert f'No images in {empty}' in error(capsys, 'predict', run, empty)
    sheet = tmp_path/'sheet.png'
    assert f'No images in {empty}' in error(capsys, 'data', 'show', empty, '--out', sheet)
    assert not sheet.exists()

def test_debug_shows_where_an_error_comes_from(run):
    with pytest.raises(FileNotFoundError, match='nowhere.jpg'):
        main(['--debug', 'predict', str(run), 'nowhere.jpg'])

@pytest.mark.parametrize('fact, value', [('stats', [[float('nan')], [1.]]),
                                         ('result', dict(accuracy=float('inf')))])
def test_facts_of_a_run_that_are_not_finite(run, data, tmp_path, capsys, fact, value):
    shutil.copytree(run, tmp_path/'r')
    facts = json.loads((run/'config.json').read_text()) | {fact: value}
    (tmp_path/'r'/'config.json').write_text(json.dumps(facts))
    text = error(capsys, 'predict', tmp_path/'r', data/'val')
    assert 'config.json' in text and fact in text

def test_one_class(capsys, tmp_path):
    paint(tmp_path/'pics'/'dark', 6, 50, 0)
    assert 'Only 1 class' in error(capsys, *options(tmp_path/'pics', tmp_path/'r'))

def test_class_only_in_validation(capsys, data, tmp_path):
    shutil.copytree(data, tmp_path/'d'); paint(tmp_path/'d'/'val'/'grey', 2, 128, 3)
    assert "'grey'" in error(capsys, *options(tmp_path/'d', tmp_path/'r'))

def test_corrupt_picture_is_named(capsys, data, tmp_path):
    shutil.copytree(data, tmp_path / 'd')
    (tmp_path / 'd' / 'train' / 'dark' / '0.png').write_bytes(b'not an image')
    text = error(capsys, *options(tmp_path/'d', tmp_path/'r'))
    assert str(Path('dark')/'0.png') in text and 'verify_images' in text

def test_divergence_is_explained(capsys, data, tmp_path):
    assert 'ten times smaller' in error(capsys, *options(data, tmp_path/'r', '--lr', '1e30'))

def test_weights_that_carry_code_are_refused(capsys, run, data, tmp_path):
    shutil.copytree(run, tmp_path/'r'); (tmp_path/'r'/'model.safetensors').unlink()
    torch.save({'model': print}, tmp_path/'r'/'model.pth')
    assert 'holds code' in error(capsys, 'predict', tmp_path/'r', data/'val')

def test_one_wrong_bit_in_the_weights_is_refused(capsys, run, data, tmp_path):
    shutil.copytree(run, tmp_path/'r')
    at = tmp_path/'r'/'model.safetensors'
    bits = bytearray(at.read_bytes()); bits[-5001] ^= 4; at.write_bytes(bits)
    assert 'is damaged' in error(capsys, 'predict', tmp_path/'r', data/'val')
    state = read_weights(run/'model')
    at.unlink()
    torch.save({'model': state['model'], 'vocab': state['vocab']}, tmp_path / 'r' / 'model.pth')
    assert main(['predict', str(tmp_path/'r'), str(data/'val')]) == 0   # as older runs have it
    first = next(k for k, o in state['model'].items() if o.is_floating_point())
    state['model'][first][0] = float('nan')
    torch.save(state['model'], tmp_path/'r'/'model.pth')
    assert 'not finite: 1 of' in error(capsys, 'predict', tmp_path/'r', data/'val')
