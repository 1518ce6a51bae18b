"""`--labels` and `--corrections`: tables that name the labels of images, change them, and leave
images out; what they do is said, and a row that does not fit is named."""
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from cli_runs import error, paint
from sotavision.app.config import Config, make_learner
from sotavision.app.labeled import labeled_images
from sotavision.app.predict import load_run, predictions
from sotavision.cli import main
from sotavision.data.datablock import CategoryBlock, DataBlock, ImageBlock
from sotavision.data.files import ColReader
from sotavision.data.splits import ColSplitter
from sotavision.techniques.corrections import corrections
from sotavision.techniques.kfold import KFold

ARGS = '--size 16 --epochs 1 --bs 8 --workers 0 --device cpu'.split()

@pytest.fixture(name='data')
def make_data(tmp_path):
    "Dark and light images in train/ and val/; the table says of two of them that they are not."
    root, rows = tmp_path/'pics', []
    for part, n in (('train', 6), ('val', 2)):
        for k, name in enumerate(('dark', 'light')):
            paint(root/part/name, n, (60, 190)[k], k)
            rows += [dict(path=f'{part}/{name}/{i}.png', noisy_labels_0=name, noisy_labels_25=name,
                          is_valid=part == 'val') for i in range(n)]
    for i, other in ((0, 'light'), (7, 'dark')): rows[i]['noisy_labels_25'] = other
    table = pd.DataFrame(rows)
    table.to_csv(tmp_path/'noisy.csv', index=False)
    return tmp_path

def config(at, **kw):
    some = dict(labels=str(at/'noisy.csv'), label_column='noisy_labels_25')
    return Config(str(at/'pics'), **(some | kw))

def by_name(found, side):
    root = found.items[0].parents[2]
    return {o.relative_to(root).as_posix(): found.label(o) for o in found.of(side)}

def change(file, **columns):
    "The table with other columns; None takes one away."
    table = pd.read_csv(file, dtype=str, keep_default_na=False)
    table = table.drop(columns=[k for k, v in columns.items() if v is None])
    table = table.assign(**{k: v for k, v in columns.items() if v is not None})
    table.to_csv(file, index=False)
    return table

# labels from a table

def test_the_column_names_the_labels_and_is_valid_the_sides(data):
    found = labeled_images(config(data))
    train, valid = by_name(found, 'train'), by_name(found, 'valid')
    assert len(train) == 12 and len(valid) == 4
    wrong = {k for k, v in train.items() if v != k.split('/')[1]}
    assert wrong == {'train/dark/0.png', 'train/light/1.png'}
    assert all(v == k.split('/')[1] for k, v in valid.items())
    right = by_name(labeled_images(config(data, label_column='noisy_labels_0')), 'train')
    assert all(v == k.split('/')[1] for k, v in right.items())
    assert '12 images train; 4 validate' in found.told[0]

def test_without_is_valid_a_folder_val_validates_under_its_own_names(data):
    table = change(data/'noisy.csv', is_valid=None)
    table[table.path.str.startswith('train')].to_csv(data/'noisy.csv', index=False)
    found = labeled_images(config(data))
    assert len(found.train) == 12 and by_name(found, 'valid') == {
        f'val/{c}/{i}.png': c for c in ('dark', 'light') for i in range(2)}
    assert '4 images in val/ validate, 4 of them called after their folders' in found.told[0]

def test_without_folders_a_random_fifth_validates_and_that_is_said(data):
    shutil.move(data/'pics/train', data/'all')
    shutil.rmtree(data/'pics')
    table = change(data/'noisy.csv', is_valid=None)
    table = table[table.path.str.startswith('train')]
    table.assign(path=table.path.str.removeprefix('train/')).to_csv(data/'noisy.csv', index=False)
    found = labeled_images(replace(config(data), data=str(data/'all')))
    assert len(found.valid) == 2 and 'the accuracy is wrong, too' in found.told[0]

def test_paths_are_written_as_any_system_writes_them(data):
    table = change(data/'noisy.csv')
    change(data/'noisy.csv', path='./' + table.path.str.replace('/', '\\'))
    assert len(labeled_images(config(data)).items) == 16
    (data/'noisy.csv').write_text((data/'noisy.csv').read_text().replace(',', ';'))
    assert len(labeled_images(config(data)).items) == 16

def cells(at, row, **values):
    "Change some cells of one row, counted as a spreadsheet does."
    table = change(at)
    for k, v in values.items(): table.loc[row - 2, k] = v
    table.to_csv(at, index=False)

@pytest.mark.parametrize('spoil, choices, said', [
    (None, dict(label_column=None), 'Which column .* noisy_labels_0, noisy_labels_25'),
    (None, dict(label_column='noisy_labels_52'), "Did you mean 'noisy_labels_25'"),
    (None, dict(labels='nowhere.csv'), 'nowhere.csv could not be read'),
    (lambda f: change(f, path=None), {}, "noisy.csv has no column 'path', only noisy_labels_0"),
    (lambda f: cells(f, 4, noisy_labels_25=' '), {}, "row 4 .*'noisy_labels_25' is empty"),
    (lambda f: cells(f, 5, path=''), {}, "row 5 .*'path' is empty"),
    (lambda f: cells(f, 6, is_valid='perhaps'), {}, "row 6: is_valid is 'perhaps'"),
    (lambda f: cells(f, 3, path='train/dark/0.png'), {}, 'row 3: train/dark/0.png had a row'),
    (lambda f: cells(f, 3, path='train/dark/x.png'), {}, 'row 3 .*no image train/dark/x.png'),
    (lambda f: change(f).iloc[1:].to_csv(f, index=False), {}, r'no row for .*train/dark/0.png'),
    (lambda f: change(f, is_valid='False'), {}, 'False in every row, .* none to validate'),
    (lambda f: change(f, is_valid='1'), {}, 'leaves none to train')])
def test_a_table_that_does_not_fit_is_refused_with_the_row(data, spoil, choices, said):
    if spoil: spoil(data/'noisy.csv')
    with pytest.raises((ValueError, OSError), match=said): labeled_images(config(data, **choices))

def test_choices_that_need_each_other():
    with pytest.raises(ValueError, match="label_column='a' without labels"):
        Config('x', label_column='a')
    with pytest.raises(ValueError, match='correct_valid=True without'):
        Config('x', correct_valid=True)

def test_a_column_reader_reads_the_same_table(data):
    table = pd.read_csv(data/'noisy.csv')
    block = DataBlock((ImageBlock, CategoryBlock), get_x=ColReader('path', pref=data/'pics'),
                      get_y=ColReader('noisy_labels_25'), splitter=ColSplitter())
    ds = block.datasets(table)
    found = labeled_images(config(data))
    assert ds.train.labels() == table.noisy_labels_25[~table.is_valid].tolist()
    assert sorted(ds.train.labels()) == sorted(by_name(found, 'train').values())
    assert len(ds.valid) == 4 and ds.train[0][0].size == (48, 40) and ds.vocab == ['dark', 'light']

def line(data, out, *more):
    return ['train', '--data', str(data/'pics'), '--labels', str(data/'noisy.csv'),
            '--label-column', 'noisy_labels_25', '--out', str(data/out), *ARGS, *more]

def test_a_run_keeps_its_table_and_report_and_resume_ask_it(data, capsys):
    assert main(line(data, 'run')) == 0
    told = capsys.readouterr().out
    assert "noisy.csv, column 'noisy_labels_25'. 12 images train; 4 validate" in told
    kept = json.loads((data/'run/config.json').read_text())
    assert kept['label_column'] == 'noisy_labels_25' and len(kept['labels_sha256']) == 16
    assert kept['n_train'] == 12 and kept['n_valid'] == 4
    # the labels of the table, not those of the folders, are what the report counts
    cells(data/'noisy.csv', 14, noisy_labels_25='light')
    assert main(['report', str(data/'run'), '--device', 'cpu']) == 0
    page = (data/'run/report.html').read_text()
    assert '4 to validate' in page
    assert 'labeled light' in page and page.count('labeled light<br>') == 3
    assert main(['predict', str(data/'run'), str(data/'pics/val'), '--device', 'cpu']) == 0
    said = error(capsys, *line(data, 'run', '--resume'))
    assert 'noisy.csv has been edited since' in said
    cells(data/'noisy.csv', 14, noisy_labels_25='dark')
    said = error(capsys, *[o if o != 'noisy_labels_25' else 'noisy_labels_0'
                           for o in line(data, 'run', '--resume')])
    assert "label_column='noisy_labels_25' then, 'noisy_labels_0' now" in said

# corrections

def corrected(data, rows, **kw):
    pd.DataFrame(rows).to_csv(data/'c.csv', index=False)
    return labeled_images(config(data, corrections=str(data/'c.csv'), **kw))

def row(path, action, label='', given=''):
    return dict(path=path, given=given, label=label, action=action)

FIX = [row('train/dark/0.png', 'relabel', 'dark', 'light'), row('train/light/1.png', 'Remove'),
       row('train/dark/2.png', 'keep', 'light'), row('train/dark/3.png', '', 'light'),
       row('val/dark/0.png', 'remove'), row('train/dark/99.png', 'remove')]

def test_corrections_change_what_they_name_and_nothing_else(data):
    before = by_name(labeled_images(config(data)), 'train')
    found = corrected(data, FIX)
    after = by_name(found, 'train')
    assert set(before) - set(after) == {'train/light/1.png'}
    assert {k for k in after if after[k] != before[k]} == {'train/dark/0.png'}
    assert after['train/dark/0.png'] == 'dark' and len(found.valid) == 4
    assert found.told[1].endswith(
        'c.csv: 1 relabeled, 1 removed, 1 not decided, so kept, 1 of validation images, left alone '
        '(--correct-valid applies them, too), 1 unknown (row 7 names train/dark/99.png, which is '
        'not there).')
    everywhere = corrected(data, FIX, correct_valid=True)
    assert set(by_name(everywhere, 'valid')) == {'val/dark/1.png', 'val/light/0.png',
                                                 'val/light/1.png'}

def test_the_images_that_validate_are_the_same_with_corrections(data):
    "A random split is drawn before images are left out."
    plain = labeled_images(config(data, labels=None, label_column=None, valid_pct=.3))
    shutil.move(data/'pics/val', data/'pics/more')
    cfg = config(data, labels=None, label_column=None)
    base = labeled_images(cfg)
    gone = sorted(by_name(base, 'train'))[:3]
    found = corrected(data, [row(o, 'remove') for o in gone], labels=None, label_column=None)
    assert by_name(found, 'valid') == by_name(base, 'valid') and len(plain.valid) == 4
    assert set(by_name(base, 'train')) - set(by_name(found, 'train')) == set(gone)

@pytest.mark.parametrize('rows, said', [
    ([row('train/dark/0.png', 'relabel', 'drak')], "Row 2: 'drak' is none of the 2 .*'dark'"),
    ([row('train/dark/0.png', 'relable', 'dark')], "row 2: the action 'relable' .*'relabel'"),
    ([row('train/dark/0.png', o) for o in ('remove', 'keep')], 'Row 3 .* a row before has removed'),
    ([row('train/dark/1.png', 'remove', given='light')], "has the label 'dark', .* for 'light'"),
    ([row('train/dark/0.png', 'keep')], 'changes nothing: no row says relabel or remove'),
    ([row('x.png', 'remove')], 'is about none of the images in .*row 2 names x.png'),
    ([row(f'train/{o}.png', 'remove') for o in ('light/1', *(f'dark/{i}' for i in range(6)))],
     "Nothing would be left of the class 'dark'"),
    ([dict(path='a', action='keep')], "has no column 'label'"),
    ([dict(item=1, action='remove', label='')], "has no column 'path'")])
def test_corrections_that_make_no_sense_are_refused(data, rows, said):
    with pytest.raises(ValueError, match=said): corrected(data, rows)

def test_a_run_keeps_a_mark_of_its_corrections(data, capsys):
    pd.DataFrame(FIX).to_csv(data/'c.csv', index=False)
    more = ['--corrections', str(data/'c.csv')]
    assert main(line(data, 'run', *more)) == 0
    assert '1 relabeled, 1 removed' in capsys.readouterr().out
    kept = json.loads((data/'run/config.json').read_text())
    assert kept['n_train'] == 11 and kept['n_valid'] == 4 and len(kept['corrections_sha256']) == 16
    assert main(line(data, 'run', *more, '--resume')) == 0
    pd.DataFrame(FIX[1:]).to_csv(data/'c.csv', index=False)
    assert 'c.csv has been edited since' in error(capsys, *line(data, 'run', *more, '--resume'))
    assert 'corrections=' in error(capsys, *line(data, 'run', '--resume'))

def test_debug_may_stand_behind_the_command():
    for argv in (['--debug', 'predict', 'nowhere', 'x'], ['predict', 'nowhere', 'x', '--debug'],
                 ['data', 'fetch', '--debug', 'nowhere']):
        with pytest.raises((OSError, ValueError)): main(argv)
    assert main(['predict', 'nowhere', 'x']) == 2

def test_a_suggestion_that_is_the_label_is_not_taken():
    "The method self_confidence doubts labels that are still the most probable class."
    issues = pd.DataFrame(dict(item=[3, 1], given=['a', 'a'], suggested=['a', 'b'],
                               p_given=[.5, .1], p_suggested=[.5, .9]))
    assert corrections(issues, accept=.4).action.tolist() == ['', 'relabel']
    assert corrections(issues, .4, 'remove').action.tolist() == ['remove', 'relabel']

# folds

def test_held_out_images_are_in_no_fold_and_judged_by_all_networks(data, capsys):
    (data/'pics/val/dark/1.png').unlink()
    table = change(data/'noisy.csv')
    table[table.path != 'val/dark/1.png'].to_csv(data/'noisy.csv', index=False)
    assert main(line(data, 'f', '--folds', '2')) == 0
    assert '3 images held out from all folds' in capsys.readouterr().out
    oof = pd.read_csv(data/'f/oof.csv')
    assert len(oof) == 12 and not oof.picture.str.contains('/val/').any()
    kept = json.loads((data/'f/config.json').read_text())
    rows, _ = predictions(load_run(data/'f', 'cpu'), [data/'pics/val'])
    right = sum(o['prediction'] == Path(o['picture']).parent.name for o in rows) / 3
    assert kept['result']['accuracy_held_out'] == right
    assert kept['n_train'] == 12 and kept['n_valid'] == 3

def folds_on(folder, at):
    "Two folds on the images in `folder`, begun or gone on with in `at`."
    cfg = Config(str(folder), folds=2, size=16, epochs=1, bs=8, workers=0, device='cpu')
    found = labeled_images(cfg)
    kf = KFold(2, found.label, path=at)
    return kf.fit(lambda splitter: make_learner(cfg, splitter), found.of('train'), 1, resume=True)

def test_folds_go_on_where_the_folder_has_moved(data):
    before = folds_on(data/'pics', data/'f').oof
    shutil.move(data/'pics', data/'there')
    assert folds_on(data/'there', data/'f').oof.equal(before)
    (data/'there/train/dark/5.png').rename(data/'there/train/dark/6.png')
    with pytest.raises(ValueError, match='folds of something else'):
        folds_on(data/'there', data/'f')
