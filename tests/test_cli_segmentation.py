"""`sotavision train --task segmentation`: masks found beside images, predictions as files of their
own size with the values that the masks have, and a page."""
import json

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

ARGS = '--size 32 --epochs 6 --bs 4 --lr 0.01 --workers 0 --device cpu'.split()
VALUES = dict(void=0, ground=10, toy=200)   # in the files of masks

def draw(root, i, size=(40, 48)):
    "A bright square on a dark ground, a stripe of void; gray tells the class."
    g = np.random.default_rng(i)
    mask = np.full(size, VALUES['ground'], np.uint8)
    y, x = g.integers(8, 16, 2)
    mask[y:y + 20, x:x + 20] = VALUES['toy']
    im = (mask > 100)[..., None] * 160 + g.integers(0, 40, (*size, 3))
    mask[:4] = VALUES['void']
    Image.fromarray(im.astype(np.uint8)).save(root/f'images/{i:02}.png')
    Image.fromarray(mask).save(root/f'labels/{i:02}_P.png')

@pytest.fixture(scope='module', name='place')
def make_place(tmp_path_factory):
    "Images with masks, a list of those that validate, and a finished run."
    at = tmp_path_factory.mktemp('masks')
    for o in ('images', 'labels'): (at/'data'/o).mkdir(parents=True)
    for i in range(20): draw(at/'data', i)
    (at/'data/codes.txt').write_text(''.join(f'{v} {k}\n' for k, v in VALUES.items()))
    (at/'data/valid.txt').write_text(''.join(f'{i:02}.png\n' for i in range(6)))
    assert main(['train', '--data', str(at/'data'), '--task', 'segmentation', '--masks',
                 'labels/{}_P.png', *ARGS, '--tta', '1', '--out', str(at/'run')]) == 0
    return at

def config(at, **kw):
    given = dict(masks='labels/{}_P.png') | kw
    return Config(str(at/'data'), task='segmentation', **given)

def test_masks_are_found_and_are_no_images_themselves(place):
    found = labeled_images(config(place))
    assert len(found.items) == 20 and len(found.valid) == 6 and len(found.train) == 14
    assert all(found.label(o).name == f'{o.stem}_P.png' for o in found.items)
    assert {found.items[i].stem for i in found.valid} == {f'{i:02}' for i in range(6)}

def test_masks_beside_their_images_in_one_folder(place, tmp_path):
    """A mask is no image to train on, whatever it is called; an image may be called like one."""
    for o in ('images', 'labels'): (tmp_path/o).mkdir()
    for i in range(6): draw(tmp_path, i)
    (tmp_path/'all').mkdir()
    drawn = [*tmp_path.glob('images/*'), *tmp_path.glob('labels/*')]
    for o in drawn: o.rename(tmp_path/'all'/o.name)
    for o in ('images', 'labels'): (tmp_path/o).rmdir()
    found = labeled_images(Config(str(tmp_path), task='segmentation', masks='all/{}_P.png'))
    assert sorted(o.name for o in found.items) == [f'{i:02}.png' for i in range(6)]
    assert all(found.label(o).name == f'{o.stem}_P.png' for o in found.items)

def test_what_a_run_keeps(place):
    kept = json.loads((place/'run/config.json').read_text())
    assert kept['vocab'] == ['ground', 'toy'] and kept['values'] == [10, 200, 0]
    result = kept['result']
    assert result['pixel_accuracy'] > .8 and result['miou'] > .6 and result['miou_tta'] > .6
    assert '--masks' in command(config(place))

@pytest.mark.parametrize('window', [None, 32])
def test_masks_of_the_files_size_with_the_files_values(place, tmp_path, window):
    (tmp_path/'images').mkdir(); (tmp_path/'labels').mkdir()
    draw(tmp_path, 50, size=(50, 96) if window else (40, 48))
    rows, wrong = predictions(load_run(place/'run'), [tmp_path/'images'], tmp_path/'out', window)
    mask = np.asarray(Image.open(rows[0]['mask']))
    truth = np.asarray(Image.open(tmp_path/'labels/50_P.png'))
    assert not wrong and mask.shape == truth.shape and set(np.unique(mask)) <= {10, 200}
    assert (mask == truth)[truth != 0].mean() > .7
    assert Image.open(rows[0]['overlay']).size == truth.shape[::-1]
    assert abs(sum(rows[0]['shares'].values()) - 1) < .001
    assert abs(rows[0]['shares']['toy'] - (mask == 200).mean()) < .001

def test_the_command_line_predicts(place, tmp_path, capsys):
    image = place/'data/images/01.png'
    assert main(['predict', str(place/'run'), str(image), str(image), '--format', 'csv', '--masks',
                 str(tmp_path/'m')]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == 'picture,mask,overlay,ground,toy' and len(lines) == 3
    assert sorted(o.name for o in (tmp_path/'m').iterdir()) == [
        '01-2_mask.png', '01-2_overlay.png', '01_mask.png', '01_overlay.png']
    assert main(['predict', str(place/'run'), str(image)]) == 0   # into the run's own folder
    assert (place/'run/masks/01_mask.png').exists()
    assert 'ground' in capsys.readouterr().out
    (tmp_path/'bad.png').write_bytes(b'no image')
    assert main(['predict', str(place/'run'), str(image), str(tmp_path/'bad.png')]) == 1
    assert 'bad.png' in capsys.readouterr().err

def test_the_page(place):
    inter, *_ = interpret_run(place/'run')
    kept = json.loads((place/'run/config.json').read_text())['result']
    assert len(inter) == 6 and abs(inter.per_class().iou.mean() - kept['miou']) < 1e-6
    assert 6 * 32 * 28 <= inter.matrix.sum() < 6 * 32 * 32   # without the stripe of void
    assert main(['report', str(place/'run')]) == 0
    page = (place/'run/report.html').read_text()
    for said in ('mean IoU of 2 classes', 'IoU: the pixels', 'True mask and answer'):
        assert said in page

def test_compare_and_rates_know_masks(place, tmp_path, capsys):
    args = ['--data', str(place/'data'), '--task', 'segmentation', '--masks', 'labels/{}_P.png',
            '--size', '16', '--epochs', '1', '--workers', '0', '--device', 'cpu', '--bs', '4']
    assert main(['compare', *args, '--variant', 'slow:lr=0.0001', '--seeds', '2', '--out',
                 str(tmp_path/'c')]) == 0
    assert 'miou' in pd.read_json(tmp_path/'c/runs.jsonl', lines=True).results[0]

@pytest.mark.parametrize('choices, said', [
    (dict(masks=None), "task='segmentation' wants masks"),
    (dict(smoothing=.1), 'smoothing=0.1 with task=.*says nothing'),
    (dict(labels='a.csv'), 'labels=.* with task=.*says nothing'),
])
def test_choices_that_do_not_fit(place, choices, said):
    with pytest.raises(ValueError, match=said): config(place, **choices)

def test_masks_are_for_segmentation():
    with pytest.raises(ValueError, match="masks='m' with task='classification'"):
        Config('x', masks='m')

def test_errors_name_the_file(place, tmp_path, capsys):
    def trained(masks, *more):
        return error(capsys, 'train', '--data', str(place/'data'), '--task', 'segmentation',
                     '--masks', masks, *ARGS, *more, '--out', str(tmp_path/'r'))
    assert '00.png has no mask' in trained('labels/{}.png')
    assert 'No folder nowhere' in trained('nowhere')
    codes = tmp_path/'codes.txt'
    codes.write_text('10 ground\n0 void\n')
    assert 'holds the value 200, which has no name' in trained('labels/{}_P.png', '--codes',
                                                              str(codes))
    assert 'There is no file' in trained('labels/{}_P.png', '--codes', str(tmp_path/'none.txt'))
    assert 'masks and window are for runs of' in error(
        capsys, 'predict', str(_labels_run(tmp_path)), str(place/'data/images/01.png'), '--window',
        '8')

def _labels_run(tmp_path):
    "A run of another task."
    for name, value in (('a', 40), ('b', 200)):
        (tmp_path/'pics'/name).mkdir(parents=True)
        for i in range(6):
            Image.new('RGB', (16, 16), (value, i, 0)).save(tmp_path/'pics'/name/f'{i}.png')
    assert main(['train', '--data', str(tmp_path/'pics'), '--size', '16', '--epochs', '1', '--bs',
                 '4', '--workers', '0', '--device', 'cpu', '--out', str(tmp_path/'other')]) == 0
    return tmp_path/'other'
