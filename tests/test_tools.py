"""The tools that check and publish: each of them has to notice what it is there for."""
import inspect
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT/'tools'))
nbformat = pytest.importorskip('nbformat')
pytest.importorskip('nbdev')
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

import check
import docs
import links
import pages
import readme
import widths

# --- check.py

def notebook(*outputs, tags=()):
    return new_notebook(
        cells=[new_code_cell('x', outputs=list(outputs), metadata={'tags': list(tags)})]
    )

def stream(text): return new_output('stream', name='stdout', text=text)

ERROR = new_output('error', ename='ValueError', evalue='no', traceback=['ValueError: no'])

@pytest.mark.parametrize(
    'nb, faults',
    [(notebook(stream('fine: 1/2, a/tmp')), []), (notebook(ERROR), ['a traceback']),
     (notebook(ERROR, tags=['raises-exception']), []),
     (notebook(stream('saved in /home/someone/x.pth')), ['a path of one machine']),
     (notebook(new_output('display_data', {'application/vnd.jupyter.widget-view+json': {}})),
      ['a widget, dead in a saved file']),
     (notebook(new_output('stream', name='stderr', text='x')),
      ['words on stderr, a warning perhaps']),
     (notebook(stream('UserWarning: no label')), ['a warning']),
     (notebook(stream('in lib/site-packages/x.py')), ['a path of one machine']),
     (notebook(stream('<function f at 0x7f01a2b3c4d5>')), ['an address in memory']),
     (notebook(new_output('display_data', {'image/png': 'aa/tmp/bb'})), [])])
def test_outputs_are_looked_at(nb, faults):
    assert [o.split(':')[0] for o in check.output_faults(nb)] == faults

def test_heavy_notebook_is_told(tmp_path):
    path = tmp_path/'heavy.ipynb'
    nbformat.write(notebook(stream('x' * (check.MAX_NOTEBOOK + 1))), path)
    assert check.notebook_faults([path]) == ['heavy.ipynb: 2.0 MB, over 2']

def test_differing_files(tmp_path):
    old, new = tmp_path/'old', tmp_path/'new'
    for d in (old, new): d.mkdir(); (d/'same.py').write_text('1')
    (old / 'changed.py').write_text('1')
    (new / 'changed.py').write_text('2')
    (new / 'added.py').write_text('')
    assert check.differing(old, new, '*.py') == ['added.py', 'changed.py']

def test_failing_step_is_told(capsys):
    def breaks_down(): raise check.Failed('mend it')
    assert check.run(breaks_down) == 'mend it' and 'FAILED: mend it' in capsys.readouterr().out

def test_failing_command_is_told():
    with pytest.raises(check.Failed, match='ended with 3'):
        check.sh(sys.executable, '-c', 'raise SystemExit(3)')

# --- links.py

@pytest.fixture
def site(tmp_path):
    (tmp_path/'room').mkdir()
    (tmp_path / 'index.html').write_text(
        '<h1 id="top">T</h1><a href="room/a.html#place">a</a><a '
        'href="https://arxiv.org/abs/1">paper</a>'
    )
    (tmp_path / 'room/a.html').write_text(
        '<p id="place"></p><a href="../index.html#top">up</a><a href="#place">here</a>'
    )
    return tmp_path

def test_sound_site_passes(site): assert links.check(site) == []

@pytest.mark.parametrize(
    'html, why',
    [('<a href="b.html">', 'no such file'), ('<img src="x.png">', 'no such file'),
     ('<a href="a.html#nowhere">', 'no such place'),
     ('<a href="../../secret.html">', 'leaves the site'),
     ('<script src="https://cdn.example/x.js">', 'loaded from outside'),
     ('<link rel="stylesheet" href="//fonts.example/x.css">', 'loaded from outside'),
     ('<img src="http://example/x.png">', 'loaded from outside')])
def test_broken_link_is_told(site, html, why):
    (site/'room/c.html').write_text(html)
    assert len(links.check(site)) == 1 and why in links.check(site)[0]

# --- widths.py

def scrolling(page, n):
    "A page at `page` with a block of `n` columns."
    page.parent.mkdir(exist_ok=True)
    page.write_text(
        f'<details><pre style="width: 800px; overflow: auto">{"wide " * (n // 5)}</pre></details>'
    )

@pytest.fixture
def wide_site(tmp_path):
    for name, n in (('course/narrow', 50), ('course/wide', 300), ('reference/wide', 300)):
        scrolling(tmp_path/f'{name}.html', n)
    (tmp_path / 'old.html').write_text('<meta http-equiv="refresh" content="0; url=index.html">')
    return tmp_path

def test_pages_that_only_lead_on_are_not_measured(wide_site):
    assert widths.site_pages(wide_site) == [
        'course/narrow.html', 'course/wide.html', 'reference/wide.html'
    ]

@pytest.mark.skipif(not widths.browser(), reason='no Chromium')
def test_wide_blocks_are_told(wide_site, capsys):
    assert not widths.report(wide_site)
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith('1 blocks of the course') and 'course/wide.html: ' in told[1]
    assert told[2].startswith('1 blocks of the ref') and 'in 800: wide wide' in told[3]
    (wide_site / 'course/wide.html').unlink()
    assert widths.report(wide_site)   # a page of the reference may scroll

def test_without_chromium_nothing_is_measured(wide_site, monkeypatch, capsys):
    monkeypatch.setattr(widths, 'BROWSERS', ())
    assert widths.report(wide_site) and 'no Chromium' in capsys.readouterr().out

# --- pages.py

def page(path='course/02_datablock.ipynb', **kw):
    return pages.Page(path, [], 'From files to batches', **kw)

def cell(source, kind='code', **directives):
    return SimpleNamespace(
        source=source, cell_type=kind, metadata={}, directives_=directives, get=lambda k, d=None: d
    )

def test_addresses_have_no_numbers():
    assert pages.site_path('course/02_datablock.ipynb') == 'course/datablock.ipynb'
    assert pages.site_path('reference/data/files.ipynb') == 'reference/data/files.ipynb'
    assert pages.site_path('index.ipynb') == 'index.ipynb'

@pytest.mark.parametrize(
    'path, module, room, is_chapter',
    [('course/02_datablock.ipynb', 'data.datablock', 'data', True),
     ('course/15_together.ipynb', '', '', True),
     ('reference/data/files.ipynb', 'data.files', 'data', False),
     ('reference/cli.ipynb', 'cli', 'cli', False)])
def test_chapters_and_library_pages(path, module, room, is_chapter):
    assert (page(path, module=module).room, page(path).is_chapter) == (room, is_chapter)

def test_chapter_shows_its_number():
    assert (
        page().heading == '2. From files to batches'
        and page('reference/data/x.ipynb').heading == 'From files to batches'
    )

def test_title_stands_alone():
    assert pages.title_and_lead('# A\n\n> b', 'x') == ('A', 'b') and pages.title_and_lead(
        '# A', 'x'
    ) == ('A', '')
    with pytest.raises(ValueError, match='first cell'):
        pages.title_and_lead('# A\n\n> b\n\nMore text', 'x')

def test_links_lead_to_pages():
    text = (
        '[5](../course/05_training_loop.ipynb#fit), [2](02_datablock.ipynb), '
        '[paper](https://example.org/01_x.ipynb)'
    )
    assert (
        pages.page_links(text)
        == '[5](../course/training_loop.ipynb#fit), [2](datablock.ipynb), '
           '[paper](https://example.org/01_x.ipynb)'
    )

def test_names_become_links():
    text = '`fit()`\n# about `fit`\n```\n`fit`\n```\n[`fit`](x) `other` `Fit`'
    assert pages.api_links(text, {'fit', 'Fit'}) == (
        '[`fit()`](#def-fit)\n# about `fit`\n```\n`fit`\n```\n'
        '[`fit`](x) `other` [`Fit`](#class-fit)'
    )

def sample(
    x, # What comes in
    n:int|None=None, # How many
    *, key=sum, # What to do
) -> list: # What comes out
    "Do it."

def test_documentation_of_a_function():
    block = pages.api_block('sample', sample, ())
    assert (
        '(def-sample)=\n### sample' in block
        and '\nsample(x, n=None, *, key=sum)\n' in block
        and '\nDo it.\n' in block
    )
    for row in (
        '| `x` | What comes in |',
        '| `n` <span class="type">int &#124; None</span> | How many |',
        '| *returns* <span class="type">list</span> | What comes out |',
    ):
        assert row in block

def test_long_signature_has_a_parameter_a_line():
    def f(*args, **kw): pass
    f.__signature__ = inspect.Signature(
        [inspect.Parameter(f'parameter_{i}', inspect.Parameter.KEYWORD_ONLY) for i in range(8)]
    )
    assert pages.call_text('f', f).count('\n') == 10

def test_methods_of_a_class():
    class A:
        def told(self, a=1): "First line.\n\nMore."
        def own_entry(self): "Elsewhere."
        def _hidden(self): "No."
        def silent(self): pass
    assert pages.methods('A', A, {'A.own_entry'}).splitlines()[2:] == [
        '| `.told(a=1)` | First line. |'
    ]

@pytest.mark.parametrize(
    'c, found',
    [(cell('x = 1'), []), (cell('x', **{'echo:': ['false']}), ['remove-input']),
     (cell('x', **{'code-fold:': ['true']}), ['hide-input']),
     (cell('def f(): pass', export=[]), []), (cell('import torch', export=[]), ['hide-input']),
     (cell('x', exporti=[]), ['hide-input'])])
def test_how_a_chapter_shows_code(c, found): assert pages.tags(c, page()) == found

def test_library_page_folds_its_source():
    assert pages.tags(cell('def f(): pass', export=[]), page('reference/data/x.ipynb')) == [
        'hide-input'
    ]

def test_figure_has_caption_and_alternative_text():
    c = cell('plot()', **{'fig-cap:': ['"Loss', 'by', 'batch"'], 'fig-alt:': ['"It', 'falls"']})
    assert pages.figure(c) == {'image': {'alt': 'It falls'}, 'figure': {'caption': 'Loss by batch'}}

@pytest.mark.parametrize(
    'c, is_hidden',
    [(cell('x', hide=[]), True), (cell('x', default_exp=['core']), True),
     (cell('x', **{'include:': ['false']}), True), (cell('x', export=[]), False)])
def test_hidden_cells(c, is_hidden): assert pages.hidden(c) is is_hidden

def test_dunder_names_stay_themselves():
    assert r'### A.\_\_call\_\_' in pages.api_block('A.__call__', sample, ())

def test_unknown_name_says_which_notebook():
    with pytest.raises(ValueError, match=r'course/02_datablock.ipynb: show_doc\(nothing\)'):
        pages.lookup('nothing', {}, 'course/02_datablock.ipynb')

# --- docs.py

def test_guide_comes_after_the_course_in_its_own_order():
    order = [f'guide/{o}' for o in docs.GUIDE]
    shown = docs.contents(
        [page(f'{o}.ipynb') for o in sorted(order)] + [page(), page('exercises/further.ipynb')]
    )
    trees = [o.split() for o in shown.split('```{toctree}')[1:]]
    assert [o[-2] for o in trees[:3]] == ['course/datablock', order[-1], 'exercises/further']
    assert [o for o in trees[1] if '/' in o] == order

def test_every_page_of_the_guide_has_a_place():
    found = {p.stem for p in (docs.NBS/'guide').glob('*.ipynb')}
    assert found and found <= set(docs.GUIDE)

# --- readme.py

def test_readme_from_notebook():
    picture = new_output('display_data', {'image/png': 'aGVsbG8='})
    nb = new_notebook(
        cells=[
            new_markdown_cell(
                '# T\n\n<div class="ways">\n\nSee [1](course/01_toynette.ipynb), '
                '[why](course/01_toynette.ipynb#Does-it-help?), '
                '[it](../CHANGELOG.md), [web](https://example.org)\n\n</div>'
            ),
            new_code_cell('#| hide\nsecret = 1'),
            new_code_cell('#| eval: false\nshown = 2', outputs=[stream('not kept')]),
            new_code_cell('#| echo: false\n#| fig-alt: "Ten toys"\nshow()', outputs=[picture]),
        ]
    )
    files = readme.convert(nb)
    assert files == {
        'docs/images/index-1.png': b'hello',
        'README.md': (
            b'# T\n\nSee [1](https://sotavision.github.io/sotavision/course/toynette.html), '
            b'[why](https://sotavision.github.io/sotavision/course/toynette.html#does-it-help), '
            b'[it](CHANGELOG.md), '
            b'[web](https://example.org)\n\n'
            b'```python\nshown = 2\n```\n\n![Ten toys](docs/images/index-1.png)\n'
        ),
    }

def test_stale_readme_is_noticed(monkeypatch, tmp_path):
    monkeypatch.setattr(readme, 'ROOT', tmp_path)
    (tmp_path/'README.md').write_bytes(b'old\n')
    assert readme.differing({'README.md': b'new\n', 'x.png': b''}) == ['README.md', 'x.png']
    assert readme.differing({'README.md': b'old\n'}) == []
