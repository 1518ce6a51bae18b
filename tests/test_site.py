"""What readers of the site see: tables that align, heads of pages, what a search quotes."""
import base64
import io
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT/'tools'))
pytest.importorskip('nbdev')
nodes = pytest.importorskip('docutils.nodes')
pd = pytest.importorskip('pandas')
from nbformat.v4 import new_output

import docs
import heads
import outputs
import pages
import widths

# --- outputs.py

def table(**columns):
    return outputs.tidy_table(pd.DataFrame(columns, index=pd.Index(['a', 'b'], name='variant'))
                              ._repr_html_())

def test_name_of_the_index_has_no_row_of_its_own():
    found = table(runs=[3, 4], says=['better', 'worse'])
    assert found.count('<tr') == 3
    assert outputs.texts(outputs.ROW.findall(found)[0]) == ['variant', 'runs', 'says']

@pytest.mark.parametrize(
    'column, is_number',
    [([3, 4], True), (['+3.9', '-4.2 to +11.9'], True), (['90.1 %', 'nan'], True),
     (['+6.0 (+4.6 to +7.3)', ''], True), (['1.5 ± .2', '2e-05'], True),
     (['better', '3'], False), (['90.1% at 0.001', '3'], False), (['', ''], False)])
def test_columns_of_numbers_are_marked(column, is_number):
    head, *rows = outputs.ROW.findall(table(here=column, says=['so', 'or so']))
    for row in (head, *rows):
        assert ['num' in o for o in row.split('</t')[:3]] == [False, is_number, False]

def test_numbers_may_be_a_fraction_without_a_zero():
    assert outputs.NUMBER.fullmatch('.25') and not outputs.NUMBER.fullmatch('a.25')

def test_other_html_stays(): assert outputs.tidy_table('<b>1</b>') == '<b>1</b>'

def picture(width, dpi=None):
    file = io.BytesIO()
    Image.new('L', (width, 8)).save(file, 'png', **({'dpi': (dpi, dpi)} if dpi else {}))
    return new_output('display_data', {'image/png': base64.b64encode(file.getvalue()).decode()})

@pytest.mark.parametrize('dpi', [80, 150])
def test_width_of_a_figure_does_not_depend_on_its_resolution(dpi):
    found = outputs.tidy([picture(8 * dpi, dpi)])
    assert found[0].metadata['image/png']['width'] in ('799px', '800px')
    assert outputs.picture_class(found) == 'inches-8'

def test_picture_without_a_resolution_keeps_its_width():
    assert outputs.tidy([picture(800)])[0].metadata == {}

def cell(source, outs, **directives):
    return SimpleNamespace(source=source, cell_type='code', metadata={}, directives_=directives,
                           get=lambda k, d=None: outs if k == 'outputs' else d)

def test_text_beside_a_picture_gets_no_caption():
    words = new_output('stream', name='stdout', text='best: 3')
    c = cell('plot()', [words, picture(80, 10)], **{'fig-cap:': ['"Loss & rate"']})
    shown = pages.code_cell(c, pages.Page('course/01_x.ipynb', []))
    assert 'figure' not in shown.metadata.mystnb
    assert [list(o.get('data', {'text': 0})) for o in shown.outputs] == [
        ['text'], ['image/png'], ['text/html']]
    assert shown.outputs[2].data['text/html'] == '<p class="caption">Loss &amp; rate</p>'

@pytest.mark.parametrize('folded, first', [(True, outputs.COVER), (False, 'best: 3')])
def test_folded_answers_begin_with_a_line_that_tells_nothing(folded, first):
    words = new_output('display_data', {'text/plain': 'best: 3'})
    c = dict(metadata=dict(jupyter=dict(outputs_hidden=folded)), outputs=[words])
    c['outputs'] = outputs.covered(c)
    assert c['outputs'][0]['data']['text/plain'] == first and outputs.covered(c) == c['outputs']
    assert outputs.tidy(c['outputs']) == [words]   # the site has its own line

# --- pages.py

def test_answers_are_called_answers():
    assert pages.prompts(['hide-output'], 'x')['code_prompt_show'] == 'Show the answer'
    assert pages.prompts(['hide-input'], 'import torch')['code_prompt_show'] == 'Imports'
    assert pages.prompts(['hide-input'], 'x = 1') == {}

def test_code_and_formulas_in_the_line_of_a_fold():
    text = '<details><summary>Is `fit` for $5w^2$?</summary>\n\n`fit` $a$\n\n</details>'
    linked = pages.api_links(text, {'fit'})
    assert pages.summaries(linked) == (
        '<details><summary>Is <code>fit</code> for <span class="math notranslate nohighlight">'
        '\\(5w^2\\)</span>?</summary>\n\n[`fit`](#def-fit) $a$\n\n</details>')

def test_types_are_told_without_their_modules():
    assert pages.type_text('sotavision.training.learner.Learner | None') == 'Learner | None'
    assert pages.type_text(dict[str, Path]) == 'dict[str, Path]'

# --- heads.py

def page_context(doctree, name='course/mixup', title='12. <em>Mixup</em>'):
    context = {'title': title}
    config = SimpleNamespace(html_baseurl='https://x.org/site', project='p', description='A "d"')
    heads.add(SimpleNamespace(config=config), name, 'page.html', context, doctree)
    return context['metatags']

def test_head_tells_title_lead_address_and_picture():
    tree = nodes.section('', nodes.paragraph(text='No.'),
                         nodes.paragraph(text='Mix\ntwo.', classes=['lead']))
    found = page_context(tree)
    for o in ('name="description" content="Mix two."', 'property="og:title" content="12. Mixup"',
              'property="og:description" content="Mix two."',
              'property="og:url" content="https://x.org/site/course/mixup.html"',
              'property="og:image" content="https://x.org/site/_static/preview.jpg"'):
        assert f'<meta {o} />' in found

def test_page_without_a_lead_is_described_as_the_site():
    for tree in (None, nodes.section('', nodes.paragraph(text='No.'))):
        assert 'name="description" content="A &quot;d&quot;"' in page_context(tree)

def test_poor_heads_are_told(tmp_path):
    assert heads.check(tmp_path) == ['_static/preview.jpg: no such file']
    (tmp_path/'_static').mkdir()
    (tmp_path/heads.PREVIEW).write_bytes(b'')
    whole = heads.head('T', 'd', 'https://x.org', 'https://x.org/p.jpg')
    (tmp_path/'good.html').write_text(f'<head>{whole}</head>')
    (tmp_path/'old.html').write_text(docs.moved('x.html'))
    assert heads.check(tmp_path) == []
    (tmp_path/'poor.html').write_text(f'<head>{whole.replace("og:image", "x")}</head>{whole}')
    (tmp_path/'empty.html').write_text(f'<head>{heads.head("T", "", "u", "p")}</head>')
    assert heads.check(tmp_path) == ['empty.html: no name="description"',
                                     'poor.html: no property="og:image"']

def test_preview_is_small_and_of_the_size_that_is_told():
    path = ROOT/'docs'/heads.PREVIEW
    assert Image.open(path).size == heads.SIZE and path.stat().st_size < 200_000

# --- search.js

PAGE = """<main role="main"><button>Light</button><div id="toc">Contents</div>
<article class="bd-article"><h1>Mixup<a class="headerlink">#</a></h1><p class="source">Colab</p>
<section id="why"><p>Why mix?</p></section></article><nav>Next</nav></main>"""

def quoted(tmp_path, anchor):
    "What a search quotes of `PAGE`, as Chromium says."
    script = (ROOT/'docs/_static/search.js').read_text(encoding='utf8')
    (tmp_path/'search.html').write_text(
        f'<script>const Search = {{htmlToText: () => "old"}}\n{script}\n'
        'addEventListener("load", () => document.body.textContent = '
        f'"[" + Search.htmlToText({json.dumps(PAGE).replace("</", "<//")}'
        f'.replaceAll("<//", "</"), {json.dumps(anchor)}) + "]")</script><body></body>')
    args = ['--headless', '--no-sandbox', '--disable-gpu', f'--user-data-dir={tmp_path/"user"}']
    page = subprocess.run([widths.browser(), *args, '--dump-dom', str(tmp_path/'search.html')],
                          capture_output=True, text=True, timeout=60).stdout
    return page.partition('<body>[')[2].partition(']')[0].strip()

@pytest.mark.skipif(not widths.browser(), reason='no Chromium')
def test_search_quotes_the_text_of_a_page_without_its_menus(tmp_path):
    assert quoted(tmp_path, '') == 'Mixup Why mix?'
    assert quoted(tmp_path, '#why') == 'Why mix?'
