"""`sotavision labels`: what the folds doubt, as a page and a table; decisions are never lost."""
import hashlib
import json
import re
import shutil
from html.parser import HTMLParser

import pandas as pd
import pytest

from cli_runs import error, paint
from sotavision.app.labels import label_issues, write_labels
from sotavision.cli import main
from sotavision.techniques.corrections import apply_corrections, read_corrections
from sotavision.techniques.noisy_labels import find_label_issues

ARGS = '--size 16 --epochs 1 --bs 8 --workers 0 --device cpu'.split()
ODD = '<img src=x onerror=alert(1)>"\',.png'
SURE = {'dark': (.95, .05), 'light': (.08, .92)}

@pytest.fixture(name='place')
def make_place(tmp_path):
    """Images, and a run over three folds on them whose predictions are written by hand: two of
    twelve labels are wrong, and the folds are surer of one of them."""
    for k, name in enumerate(('dark', 'light')): paint(tmp_path/'pics'/name, 6, (60, 190)[k], k)
    (tmp_path/'pics/dark/3.png').rename(tmp_path/'pics/dark'/ODD)
    rows = []
    for name in SURE:
        for k, file in enumerate(sorted((tmp_path/'pics'/name).iterdir())):
            p = SURE[name]
            if file.name == ODD: p = .1, .9
            if (name, file.name) == ('light', '5.png'): p = .97, .03
            rows.append(dict(picture=str(file), fold=k % 3, label=name,
                             prediction='dark' if p[0] > .5 else 'light', dark=p[0], light=p[1]))
    run = tmp_path/'run'
    run.mkdir()
    pd.DataFrame(rows).to_csv(run/'oof.csv', index=False)
    config = dict(data=str(tmp_path/'pics'), arch='xresnet18', folds=3, vocab=['dark', 'light'],
                  stats=[[.5], [.2]])
    (run/'config.json').write_text(json.dumps(config))
    return tmp_path

def decisions(place, **kw):
    table = read_corrections(write_labels(place/'run', **kw)['table'])
    return dict(zip(table.path, table.action))

def test_it_finds_what_find_label_issues_finds(place):
    oof = pd.read_csv(place/'run/oof.csv')
    for method in ('confident', 'self_confidence', 'disagree'):
        found, files, n, _ = label_issues(place/'run', method)
        p = oof[['dark', 'light']].to_numpy()
        theirs = find_label_issues(oof.label, p, method)
        assert found['item'].tolist() == theirs['item'].tolist() and n == len(files) == 12
        assert found.path.tolist() == ['light/5.png', f'dark/{ODD}']

def test_suggestions_are_taken_from_the_probability_asked_for(place):
    a, b = 'light/5.png', f'dark/{ODD}'
    assert decisions(place) == {a: '', b: ''}
    assert decisions(place, accept=.95) == {a: 'relabel', b: ''}
    assert decisions(place, accept=.95, rest='remove') == {a: 'relabel', b: 'remove'}
    assert decisions(place, accept=.9) == {a: 'relabel', b: 'relabel'}
    assert read_corrections(place/'run/corrections.csv').label.tolist() == ['dark', 'light']

def test_from_the_folds_to_a_corrected_training(place, capsys):
    assert main(['labels', str(place/'run'), '--accept', '.95', '--rest', 'remove']) == 0
    told = capsys.readouterr().out
    assert '2 of 12 labels look wrong: 1 to relabel, 1 to remove, 0 to keep, 0 to decide.' in told
    assert f'--corrections {place}/run/corrections.csv' in told and '--folds' not in told
    assert main(['train', '--data', str(place/'pics'), '--folds', '2', '--out', str(place/'next'),
                 '--corrections', str(place/'run/corrections.csv'), *ARGS]) == 0
    assert '1 relabeled, 1 removed.' in capsys.readouterr().out
    oof = pd.read_csv(place/'next/oof.csv')
    assert len(oof) == 11 and (oof.label == 'dark').sum() == 6
    assert oof.label[oof.picture.str.endswith('light/5.png')].item() == 'dark'

def test_a_run_of_one_network_is_refused_with_the_reason(place, capsys):
    config = json.loads((place/'run/config.json').read_text())
    (place/'run/config.json').write_text(json.dumps(config | dict(folds=0)))
    said = error(capsys, 'labels', place/'run')
    assert 'it repeats their labels' in said and '--folds 5' in said

def spoil_oof(place, change):
    file = place/'run/oof.csv'
    change(pd.read_csv(file)).to_csv(file, index=False)

@pytest.mark.parametrize('change, said', [
    (lambda t: t.drop(columns='fold'), 'does not say which fold'),
    (lambda t: t.assign(fold=3), "row 2: the fold '3' is none of the 3"),
    (lambda t: pd.concat([t, t[:1]]), 'row 14: .* had a row before'),
    (lambda t: t.rename(columns=dict(dark='dusk')), 'has the columns'),
    (lambda t: t.assign(dark=2), 'no set of probabilities'),
    (lambda t: t.assign(picture='x' + t.picture.str[-5:] + t.label), 'not in .* --data')])
def test_predictions_that_are_none_out_of_folds_are_refused(place, change, said):
    spoil_oof(place, change)
    with pytest.raises(ValueError, match=said): label_issues(place/'run')

def test_a_table_that_is_gone_or_empty(place, capsys):
    (place/'run/oof.csv').write_text('')
    assert 'is no table' in error(capsys, 'labels', place/'run')
    (place/'run/oof.csv').unlink()
    assert 'oof.csv could not be read' in error(capsys, 'labels', place/'run')
    assert 'is no run' in error(capsys, 'labels', place/'pics')

def test_images_may_have_moved_or_gone(place, capsys):
    shutil.move(place/'pics', place/'moved')
    assert 'pics' in error(capsys, 'labels', place/'run')
    (place/'moved/dark/0.png').unlink()
    (place/'moved/light/5.png').write_bytes(b'no image')
    told = write_labels(place/'run', data=place/'moved')
    assert told['labels'] == 11 and told['issues'] == 2
    assert 'The image cannot be read' in told['page'].read_text()

@pytest.mark.parametrize('option, said', [
    (('--accept', '2'), 'accept=2'), (('-n', '0'), 'n=0'), (('--method', 'guess'), 'guess'),
    (('--rest', 'relabel'), 'relabel'), (('--out', ''), 'empty')])
def test_options_that_make_no_sense(place, option, said, capsys):
    assert said in error(capsys, 'labels', place/'run', *option)
    assert not (place/'run/corrections.csv').exists()

# decisions of a person

def test_what_a_person_has_changed_is_not_written_over(place, capsys):
    file = place/'run/corrections.csv'
    write_labels(place/'run')
    write_labels(place/'run', accept=.9)     # nobody has touched it
    mine = file.read_text().replace('relabel', 'keep')
    file.write_text(mine)
    assert 'holds decisions' in error(capsys, 'labels', place/'run')
    assert file.read_text() == mine
    assert main(['labels', str(place/'run'), '--out', str(place/'else')]) == 0
    (place/'run/labels.html').unlink()       # nobody knows any more who wrote it
    assert 'holds decisions' in error(capsys, 'labels', place/'run')
    assert main(['labels', str(place/'run'), '--overwrite']) == 0 and file.read_text() != mine

def test_a_second_round_takes_over_the_first(place):
    first = place/'first.csv'
    pd.DataFrame([dict(path='light/0.png', given='light', label='dark', action='keep'),
                  dict(path='dark/1.png', given='light', label='dark', action='relabel'),
                  dict(path='light/5.png', given='dark', label='light', action='relabel'),
                  dict(path='light/9.png', given='light', label='dark', action='remove'),
                  dict(path='light/1.png', given='light', label='dark', action=''),
                  dict(path=f'dark/{ODD}', given='dark', label='light', action='keep'),
                  ]).to_csv(first, index=False)
    mark = hashlib.sha256(first.read_bytes()).hexdigest()[:16]
    file = place/'run/config.json'
    config = json.loads(file.read_text()) | dict(corrections=str(first), corrections_sha256=mark)
    file.write_text(json.dumps(config))
    told = write_labels(place/'run', accept=.9)
    table = read_corrections(told['table'])
    assert told['issues'] == 1 and told['actions'] == dict(relabel=1)
    assert list(zip(table.path, table.action)) == [
        ('light/0.png', 'keep'), ('dark/1.png', 'relabel'), ('light/5.png', 'relabel'),
        ('light/9.png', 'remove'), (f'dark/{ODD}', 'keep'), ('light/5.png', 'relabel')]
    first_labels = {'light/0.png': 'light', 'dark/1.png': 'light', 'light/5.png': 'dark',
                    'light/9.png': 'light', f'dark/{ODD}': 'dark'}
    assert apply_corrections(first_labels, table) == {
        'light/0.png': 'light', 'dark/1.png': 'dark', 'light/5.png': 'dark', f'dark/{ODD}': 'dark'}
    # not decided again: what was decided before stays
    table.loc[table.index[-1], 'action'] = ''
    assert apply_corrections(first_labels, table)['light/5.png'] == 'light'
    page = told['page'].read_text()
    assert page.count('data-row=') == 1 and 'data-row="5" data-action="relabel"' in page
    first.write_text(first.read_text() + '\n')
    with pytest.raises(ValueError, match='is not what the run was trained with'):
        write_labels(place/'run', overwrite=True)

# the page

class Tags(HTMLParser):
    "What a browser would make of a page: tags with their attributes, and text."
    def __init__(self): super().__init__(); self.tags, self.text = [], []
    def handle_starttag(self, tag, attrs): self.tags.append((tag, dict(attrs)))
    def handle_data(self, data): self.text.append(data)

def page_of(place, **kw):
    text = write_labels(place/'run', **kw)['page'].read_text()
    tags = Tags()
    tags.feed(text)
    return text, tags

def test_names_are_text_on_the_page_and_nothing_else(place):
    spoil_oof(place, lambda t: t.replace('dark', '</script><b>dark').rename(
        columns=dict(dark='</script><b>dark')))
    file = place/'run/config.json'
    config = json.loads(file.read_text()) | dict(vocab=['</script><b>dark', 'light'])
    file.write_text(json.dumps(config))
    text, tags = page_of(place)
    assert [o for o, _ in tags.tags].count('img') == 2
    assert all('onerror' not in a and a.get('src', 'data:').startswith('data:')
               for _, a in tags.tags)
    assert text.count('</script>') == 2 and '<b>dark' not in text.replace('<b>9', '')
    assert f'dark/{ODD}' in tags.text and '</script><b>dark' in ' '.join(tags.text)

def test_the_page_needs_nothing_else_and_holds_the_table(place):
    text, tags = page_of(place, accept=.95, n=1)
    assert not re.search(r'(src|href)="(?!data:)', text) and 'http' not in text
    cards = [a for t, a in tags.tags if t == 'article']
    assert len(cards) == 1 and cards[0]['data-action'] == 'relabel'
    assert 'Shown are 1' in text
    data = json.loads(re.search('id="data">(.*?)</script>', text, re.DOTALL)[1])
    table = pd.read_csv(place/'run/corrections.csv', keep_default_na=False)
    assert data['columns'] == list(table) and data['vocab'] == ['dark', 'light']
    assert pd.DataFrame(data['rows'], columns=data['columns']).equals(table)

def test_a_run_without_a_doubt_says_so(place):
    spoil_oof(place, lambda t: t.assign(dark=(t.label == 'dark') * .9 + .05,
                                        light=(t.label == 'light') * .9 + .05))
    text, _ = page_of(place)
    assert 'No label looks wrong' in text
    assert len(read_corrections(place/'run/corrections.csv')) == 0
