"""Records: kept runs stay, a killed run goes on, the table says what was missed."""
import importlib.util
import json
import random
from pathlib import Path

import pytest
from PIL import Image

from sotavision.techniques.recipes import Recipe

FILE = Path(__file__).resolve().parent.parent / 'benchmarks' / 'records.py'
TINY = Recipe('tiny', arch='xresnet18', size=32, epochs=3, bs=8, min_scale=1.)

@pytest.fixture(scope='module')
def records():
    spec = importlib.util.spec_from_file_location('records', FILE)
    m = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(m)
    return m

@pytest.fixture(scope='module')
def images(tmp_path_factory):
    root, rng = tmp_path_factory.mktemp('images'), random.Random(0)
    rows = ['path,noisy_labels_0,noisy_labels_50,is_valid']
    for part, n in ('train', 12), ('val', 4):
        for name, hue in ('red', (200, 40, 40)), ('blue', (40, 40, 200)):
            (root/part/name).mkdir(parents=True)
            for k in range(n):
                color = tuple(o + rng.randint(-30, 30) for o in hue)
                Image.new('RGB', (40, 40), color).save(root/part/name/f'{k}.png')
                rows.append(f'{part}/{name}/{k}.png,{name},{"blue" if k % 2 else "red"},'
                            f'{part == "val"}')
    (root/'labels.csv').write_text('\n'.join(rows))
    return root

def run(records, images, out, **kwargs):
    usual = dict(out=out, work=out/'work', device='cpu', precision='fp32')
    return records.one_run(TINY, images, images/'labels.csv', **usual | kwargs)

def test_a_kept_run_is_not_done_again(records, images, tmp_path):
    line = run(records, images, tmp_path)
    file = tmp_path/'32px-3ep-0noise.jsonl'
    assert json.loads(file.read_text()) == line and len(line['epochs']) == 3
    assert line['accuracy'] == line['epochs'][-1]['accuracy'] and 0 <= line['accuracy'] <= 1
    assert run(records, images, tmp_path) is None
    assert run(records, images, tmp_path, seed=1)['seed'] == 1
    assert len(records.read(file)) == 2

def test_a_killed_run_goes_on_with_the_same_numbers(records, images, tmp_path, monkeypatch):
    whole = run(records, images, tmp_path/'whole')
    from sotavision.training.learner import Learner
    once, began = Learner.do_epoch, []
    def killed(self):
        began.append(self.epoch)
        if len(began) == 3: raise KeyboardInterrupt
        return once(self)
    monkeypatch.setattr(Learner, 'do_epoch', killed)
    try: run(records, images, tmp_path/'cut')
    except KeyboardInterrupt: pass
    assert began == [0, 1, 2] and not list((tmp_path/'cut').glob('*.jsonl'))
    line = run(records, images, tmp_path/'cut')
    assert began == [0, 1, 2, 2]                       # the epochs that were done stay done
    assert line['epochs'] == whole['epochs']
    assert not any((tmp_path/'cut'/'work').iterdir())

def test_trials_never_see_validation_images(records, images, tmp_path):
    train, valid = records.split(images, held=True)
    assert len(train) + len(valid) == 24 and not set(train) & set(valid)
    assert all(o.relative_to(images).parts[0] == 'train' for o in [*train, *valid])
    run(records, images, tmp_path, held=True)
    assert [o['held'] for o in records.read(tmp_path/'trials.jsonl')] == [True]

def test_wrong_labels_are_in_training_alone(records, images):
    train, valid = records.split(images, held=False)
    told = records.told_labels(images, [*train, *valid], images/'labels.csv', 50)
    assert sum(told[o] != o.parent.name for o in train) == 12
    assert all(told[o] == o.parent.name for o in valid)

def test_the_table_by_hand(records, tmp_path):
    def fill(noise, values, **changes):
        recipe = dict(records.named(128, 5, noise), name='any', **changes)
        for seed, v in enumerate(values):
            records.keep(tmp_path/f'128px-5ep-{noise}noise.jsonl',
                         dict(recipe=recipe, seed=seed, accuracy=v))
    fill(0, [.88, .89, .88, .89, .88])
    fill(0, [.99] * 6, wd=.5)                            # more seeds, but not the row's own
    fill(5, [.80] * 5, wd=.5)
    fill(5, [.99] * 2, wd=.7)
    fill(50, [.9] * 2)
    records.keep(tmp_path/'trials.jsonl', dict(held=True))
    lines = records.table(tmp_path).splitlines()
    assert lines[2] == ('| 128 | 5 | 0 % | 87.43 | 88.00 | 88.40 (87.72 to 89.08) | 5 | reached |')
    assert lines[3].endswith('| 80.00 (80.00 to 80.00) | 5 | missed, with an earlier recipe |')
    assert lines[4].endswith('| 2 | too few seeds |')
    assert lines[5].endswith('| – | 0 | not run yet |')
    assert lines[-1] == 'Trials on split-off training images before: 1.'

def test_half_of_the_labels_wrong_has_a_recipe_of_its_own(records):
    assert records.named(128, 5, 0) == records.named(128, 5, 5) != records.named(128, 5, 50)
    assert records.named(128, 20, 0) == records.named(128, 20, 50)

def test_a_line_from_before_a_choice_was_there_has_its_default(records, tmp_path):
    records.keep(tmp_path/'a.jsonl', dict(recipe=dict(name='a', lr=.5)))
    recipe = records.read(tmp_path/'a.jsonl')[0]['recipe']
    assert (recipe['opt'], recipe['lr']) == ('Adam', .5)

def test_a_line_cut_off_by_a_kill_is_not_a_run(records, tmp_path):
    file = tmp_path/'a.jsonl'
    file.write_text('{"seed": 0}\n{"seed": 1, "acc')
    records.keep(file, dict(seed=2))
    assert [o['seed'] for o in records.read(file)] == [0, 2]
