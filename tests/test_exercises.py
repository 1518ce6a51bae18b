"""The exercises: solutions pass, stubs wait, mistakes get the diagnosis meant for them, and no
answer lies open."""
import html
import json
import os
import re
import time
from pathlib import Path

import pytest
import torch

from exercise_book import (
    EVERY,
    ROOT,
    key,
    own_file,  # noqa: F401 (a fixture)
    plain,
    said,
    space,
    tool,
)
from sotavision.exercises import engine, keys, progress, terminal
from sotavision.exercises.judge import judge, judge_code, task

FOLDER = ROOT/'nbs'/'exercises'
NOTEBOOKS = sorted(p for p in FOLDER.glob('*.ipynb'))
NAMES = [p.name for p in NOTEBOOKS]
CODE = [e for e in EVERY if e.kind in ('code', 'script')]
VALUES = [e for e in EVERY if e.kind in ('number', 'vector', 'choice')]
TEXTS = [e for e in EVERY if e.kind == 'text']
GUESSES = [
    e
    for p in sorted((ROOT / tool.GUESSES).glob('*.ipynb'))
    for e in tool.exercises(tool.nbformat.read(p, as_version=4), '')
]
by_id = lambda e: e.id

def defined(e, source):
    "What a solution, or its stub, hands to `check`."
    names = space()
    exec(compile(source, e.id, 'exec'), names)
    return names[tool.named(e)]

# --- the files

def test_generated_files_are_the_committed_ones():
    files = tool.build()
    assert [o for o, text in files.items() if not tool.same(o, text)] == []
    assert tool.leftovers(files) == []

def test_a_stale_file_is_noticed(tmp_path):
    (tmp_path/'a.ipynb').write_text('old')
    assert not tool.same('a.ipynb', 'new', tmp_path) and not tool.same('b.ipynb', 'new', tmp_path)
    assert tool.same('a.ipynb', 'old', tmp_path)

def test_compression_does_not_matter():
    kept = json.loads((ROOT/tool.KEYS).read_text())
    first = next(iter(kept['exercises'].values()))
    first['packed'] = keys.base64.b85encode(
        keys.zlib.compress(keys.unpack(first['packed']).encode(), 1)
    ).decode()
    assert tool.same(tool.KEYS, json.dumps(kept))

def test_regions_become_stubs():
    source = (
        'def f(x):\n    "Doc."\n    ### solution\n    y = 2 * x   # twice\n\n    return y\n    ### '
        'end\n'
    )
    assert (
        tool.stub(source) == 'def f(x):\n    "Doc."\n    ...   # about 2 lines'
        and '###' not in tool.solved(source)
        and 'return y' in tool.solved(source)
    )

@pytest.mark.parametrize(
    'change, told',
    [(dict(section='Nowhere'), 'no section'), (dict(kind='code', solution=''), 'wants the checks')])
def test_faulty_sources_are_told(change, told):
    e = tool.Exercise(
        **{
            **dict(
                id='e12z',
                kind='text',
                title='',
                chapter=12,
                section='',
                ask='',
                hints=['', '', ''],
                why='',
            ),
            **change,
        }
    )
    assert told in tool.faults([e], tool.chapters())[0] and 'twice' in tool.faults([e, e], {})[0]

def test_syllabus_is_covered():
    ids = [e.id for e in EVERY]
    old = {f'q{n:02}' for n in range(1, 15)}
    old |= set('f1 f1b f2 f2b f3 f4 f4a f4b f4c f4d f4e'.split())
    assert {keys.RENAMED[o] for o in old} <= set(ids)

def test_ids_follow_the_chapters():
    assert [tool.misnamed(e) for e in [*EVERY, *GUESSES] if tool.misnamed(e)] == []
    assert set(keys.RENAMED.values()) <= {e.id for e in EVERY}

@pytest.mark.parametrize(
    'id, chapter, notebook, told',
    [('q08', 12, '10-14_better.ipynb', 'was the id of q12a'),
     ('e11a', 12, '10-14_better.ipynb', 'does not follow its chapter'),
     ('e12a', 12, '01-03_data.ipynb', 'does not follow its chapter'),
     ('e06d', 'transfer/freezing', '15-17_judgement.ipynb', 'does not follow its chapter'),
     ('f1d', 11, 'further.ipynb', 'is no id')])
def test_an_id_of_another_chapter_is_told(id, chapter, notebook, told):
    e = tool.Exercise(id, 'text', '', chapter, '', '', [''] * 3, '', notebook=notebook)
    assert told in tool.misnamed(e) and told in tool.faults([e], {})[0]

# of a page of the library: by the exercise's name
def chapter(e):
    return str(e.chapter) if str(e.chapter).isdigit() else str(int(re.search(r'\d+', e.id)[0]))

PAGES = tool.chapters()
CHAPTERS = [n for n in PAGES if n.isdigit()]

@pytest.mark.parametrize('n', CHAPTERS)
def test_every_chapter_has_new_exercises(n):
    own = [e for e in EVERY if chapter(e) == n and e.id.startswith('e') and e.id != 'e00']
    code = [e for e in own if e.kind == 'code']
    assert len(own) >= 2 and 2 * len(code) >= len(own), (
        f'chapter {n}: {[e.id for e in own]}, {len(code)} of them code'
    )

def test_every_exercise_leads_to_its_section():
    for e in EVERY:
        page = PAGES[str(e.chapter)]
        assert (ROOT/'nbs'/page['path']).is_file() and f'](../{page["path"]}' in key(e).link
        if 'Summary' in page['sections']:
            assert (
                e.section in page['sections'] and f'#{e.section.replace(" ", "-")})' in key(e).link
            ), e.id
        assert not set(e.section) & set('()[]<>%#`$*_'), (
            f'{e.id}: the section {e.section!r} makes no link'
        )

@pytest.mark.parametrize('n', [n for n in CHAPTERS if 'Summary' in PAGES[n]['sections']])
def test_every_chapter_leads_to_its_exercises(n):
    cells = tool.nbformat.read(ROOT/'nbs'/PAGES[n]['path'], as_version=4).cells
    turn = '\n'.join(c.source for c in cells if c.cell_type == 'markdown').split('## Your turn')[1]
    assert {o for o in NAMES if f'](../exercises/{o})' in turn} == {
        e.notebook for e in EVERY if chapter(e) == n and e.id != 'e00'
    }

# --- right and wrong

@pytest.mark.parametrize('e', CODE, ids=by_id)
def test_solution_passes(e):
    verdict = judge(key(e), defined(e, tool.solved(e.solution)))
    assert verdict.status == 'right', verdict.text

@pytest.mark.parametrize('e', CODE, ids=by_id)
def test_stub_waits(e):
    verdict = judge(key(e), defined(e, tool.stub(e.solution)))
    assert verdict.status == 'open' and 'Not yet' in verdict.text

@pytest.mark.parametrize('e', CODE, ids=by_id)
def test_every_mistake_gets_its_diagnosis(e):
    t = task(key(e))
    assert len(t.faults) >= 3 and len({why for why, _ in t.faults}) == len(t.faults)
    for why, faulty in t.faults:
        verdict = judge_code(key(e), faulty)
        assert verdict.status == 'wrong' and verdict.text.startswith(why), f'{why}\n{verdict}'

def test_every_task_knows_enough_mistakes():
    few = [e.id for e in CODE if len(task(key(e)).faults) < 3] + [
        e.id
        for e in VALUES
        if len({str(v) for v, _ in e.wrong}) < 2 or len({why for _, why in e.wrong}) < 2
    ]
    assert few == [] and len(CODE) + len(VALUES) + len(TEXTS) == len(EVERY)

def test_a_value_with_one_mistake_is_refused():
    with pytest.raises(ValueError, match='at least two'):
        tool.Exercise(
            'x', 'number', '', 1, '', '', ['', '', ''], '', value=3, wrong=[(4, 'One too many.')]
        )

@pytest.mark.parametrize('e', VALUES, ids=by_id)
def test_values(e):
    assert judge(key(e), e.value).status == 'right'
    if e.kind != 'choice':
        near = [v + .9 * e.tol for v in (e.value if isinstance(e.value, list) else [e.value])]
        assert judge(key(e), torch.tensor(near, dtype=torch.float64)).status == 'right'
        assert judge(key(e), [v + 1.5 * e.tol for v in near]).status == 'wrong'
    for value, why in e.wrong:
        verdict = judge(key(e), value)
        assert verdict.status == 'wrong' and verdict.text == why

# --- notebooks

@pytest.fixture(scope='module')
def untouched(tmp_path_factory):
    "What the readers' notebooks say before anything is written in them, and how long that takes."
    from contextlib import redirect_stderr, redirect_stdout
    from io import StringIO
    found = {}
    os.environ['SOTAVISION_EXERCISES'] = str(tmp_path_factory.mktemp('untouched')/'.exercises.json')
    for p in NOTEBOOKS:
        out, start = StringIO(), time.time()
        with redirect_stdout(out), redirect_stderr(out): fine = terminal.check_file(p)
        found[p.name] = (
            out.getvalue(),
            fine,
            time.time() - start,
            Path(os.environ['SOTAVISION_EXERCISES']).exists(),
        )
    return found

@pytest.mark.parametrize('name', [p.name for p in NOTEBOOKS])
def test_untouched_notebook(untouched, name):
    text, fine, seconds, left = untouched[name]
    assert fine and 'Traceback' not in text and '✗' not in text and '✓' not in text and seconds < 30
    assert not left
    for e in EVERY:
        if e.notebook == name: assert f'… {e.id} ' in text

def test_all_solutions_make_a_hundred_percent(capsys, file):
    for p in sorted((ROOT/tool.SOLVED).glob('*.ipynb')): assert terminal.check_file(p), p.name
    out = said(capsys, engine.progress)
    assert re.search(rf'100 % +{len(EVERY)}/{len(EVERY)}', out) and 'All of them are done.' in out
    assert 'Read again' not in out
    whole = file.read_text()
    file.write_text(whole[:len(whole) // 2])
    out = said(capsys, engine.progress)
    assert 'damaged' in out and 'All of them' not in out and '100 % ' in out
    assert 'damaged' in said(capsys, engine.check, 'e00', 4) and progress.load(file)[1]
    kept = progress.load(file)[0]
    assert len(EVERY) // 3 < sum(progress.entry(kept, e.id).done for e in EVERY) < len(EVERY)

# --- no answer lies open

def secrets(e):
    "Pieces of text that give an exercise away."
    found = [o for o in re.split(r'(?<=[.:!?])\s+', e.why) if len(o) > 40]
    if e.solution:
        solution = [o.strip() for m in tool.REGION.finditer(e.solution) for o in m[2].splitlines()]
        found += [o for o in solution if len(o) > 20] + [
            o.strip() for o in e.script.splitlines() if len(o.strip()) > 30
        ]
    if e.kind == 'vector': found += [repr(e.value), ', '.join(map(str, e.value))]
    return found + [why for _, why in e.wrong]

@pytest.mark.parametrize('name', [p.name for p in NOTEBOOKS])
def test_no_answer_in_the_readers_notebooks(name):
    text = plain('\n'.join(c.source for c in tool.nbformat.read(FOLDER/name, as_version=4).cells))
    assert [(e.id, o) for e in EVERY for o in secrets(e) if plain(o) in text] == []

@pytest.mark.parametrize('name', [p.name for p in NOTEBOOKS])
def test_page_has_folded_hints_and_no_answer(name, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT/'tools'))
    import pages
    page = pages.read_page(ROOT/'nbs', f'exercises/{name}')
    cells = pages.render(page, set(), '').cells
    text = plain('\n'.join(''.join(c.source) for c in cells))
    here = [e for e in EVERY if e.notebook == name]
    assert page.is_exercise and not page.is_chapter and text.count('<details>') == 3 * len(here)
    assert all(
        f'{e.id} · {e.title}' in text and plain(pages.page_links(key(e).hints[0])) in text
        for e in here
    )
    assert [(e.id, o) for e in here for o in secrets(e) if plain(o) in text] == []

def test_no_model_answer_in_the_chapters():
    for o in PAGES.values():
        text = plain(
            '\n'.join(
                c.source for c in tool.nbformat.read(ROOT / 'nbs' / o['path'], as_version=4).cells
            )
        )
        told = [
            (e.id, s)
            for e in EVERY
            for s in (re.split(r'(?<=[.:!?])\s+', e.why) if e.kind == 'text' else [])
            if len(s) > 40 and plain(s) in text
        ]
        told += [
            (e.id, e.value)
            for e in EVERY
            if e.kind == 'vector'
            and (repr(e.value).replace('0.', '.') in text or repr(e.value) in text)
        ]
        assert told == [], o['path']

def test_no_answer_on_the_site():
    built = sorted((ROOT/'_docs').rglob('*.html'))
    if not built: pytest.skip('the site is not built')
    text = plain(
        html.unescape(
            re.sub(
                '<[^>]+>',
                '',
                '\n'.join(p.read_text(encoding='utf8') for p in built if 'exercises' in p.parts),
            )
        )
    )
    assert [(e.id, o) for e in EVERY for o in secrets(e) if plain(o) in text] == []

def test_no_answer_in_the_keys():
    text = plain((ROOT/tool.KEYS).read_text())
    assert [(e.id, o) for e in EVERY for o in [*secrets(e), *e.hints] if plain(o) in text] == []
    for e in VALUES:
        own = {
            k: v
            for k, v in json.loads((ROOT / tool.KEYS).read_text())['exercises'][e.id].items()
            if k != 'packed'
        }
        assert 'value' not in own and 'right' not in own

def test_numbers_are_hidden_even_when_unpacked():
    for e in VALUES:
        packed = json.loads(
            keys.unpack(json.loads((ROOT / tool.KEYS).read_text())['exercises'][e.id]['packed'])
        )
        assert set(packed['right']) <= {'shift', 'hash'}
        # what `reveal` shows is packed once more
        assert keys.unpack(packed['shown']) == tool.shown(e) != packed['shown']
        if e.kind != 'choice': assert all(0 <= o <= 2 * e.tol for o in packed['right']['shift'])

@pytest.mark.parametrize('e', VALUES, ids=by_id)
def test_feedback_does_not_tell_the_value(e):
    told = [
        judge(key(e), v).text
        for v in (
            [12345.678] * (len(e.value) if isinstance(e.value, list) else 1),
            'zz',
            float('nan'),
            *(v for v, _ in e.wrong),
        )
    ]
    if e.kind == 'number':
        assert not any(
            re.search(rf'(?<![\d.]){re.escape(f"{e.value:.4g}")}(?!\d)', o) for o in told
        ), told
    if e.kind == 'vector': assert not any(', '.join(map(str, e.value)) in o for o in told)

def test_a_traceback_shows_no_check(capsys):
    for e in [o for o in CODE if o.kind == 'code'][::8]:
        def raises(*args, **kw): raise RuntimeError('oh')
        out = said(capsys, engine.check, e.id, raises)
        assert 'oh' in out and 'Traceback' not in out
        assert not any(plain(o) in plain(out) for o in secrets(e))
