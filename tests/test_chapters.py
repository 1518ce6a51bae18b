"""The form of a chapter: its arc is complete, every guess is folded and one is typed, what readers
need not see is hidden, every figure has words for those who do not see it."""
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sotavision.exercises.keys import book

ROOT = Path(__file__).resolve().parents[1]
CHAPTERS = sorted((ROOT/'nbs/course').glob('*.ipynb'))
GUIDES = [
    p for p in sorted((ROOT/'nbs/guide').glob('*.ipynb')) if 'find_spec' in p.read_text('utf8')
]
ARC = 'The paper', 'Does it help?', 'Summary', 'Your turn'

spec = importlib.util.spec_from_file_location('figures', ROOT/'tools'/'figures.py')
figures = importlib.util.module_from_spec(spec)
spec.loader.exec_module(figures)

def cells(path) -> list:
    found = json.loads(path.read_text(encoding='utf8'))['cells']
    return [(c['cell_type'], ''.join(c['source']), c) for c in found]

def sections(found) -> list:
    text = '\n'.join(s for kind, s, _ in found if kind == 'markdown')
    return re.findall(r'^## +(.+?) *$', text, re.MULTILINE)

def arc(found, number):
    "A question at the head, then in this order: the paper, does it help, summary, your turn."
    here = [o for o in sections(found) if o in ARC]
    if sorted(here, key=ARC.index) != here or set(here) != set(ARC):
        yield f'sections {here} where {list(ARC)} are expected'
    head = [s for kind, s, _ in found if kind == 'markdown'][1:3]
    if not any('?**' in s for s in head): yield 'no question in bold at its head'

def folded(c) -> bool: return bool(c['metadata'].get('jupyter', {}).get('outputs_hidden'))

def guesses(found, number):
    "After a guess comes a folded answer, in its cell or below, or a folded output."
    for k, (kind, s, _) in enumerate(found):
        if kind != 'markdown' or not re.search(r'\bguess\b', s, re.IGNORECASE): continue
        if '<details>' in s or 'Guess' not in s: continue
        after = [o for o in found[k + 1:k + 4]]
        if not any(folded(c) or '<details>' in s for _, s, c in after):
            yield f'the answer to this guess is not folded: {s[-80:]!r}'

def covered(found, number):
    """JupyterLab shows the first line of a folded output: 'The answer:'. Where the code is folded
    too, it shows only the first line of that: '#| answer: click to open'."""
    for _, s, c in found:
        if not folded(c) or not c['outputs']: continue
        first = ''.join(c['outputs'][0].get('data', {}).get('text/plain', ''))
        if first != 'The answer:': yield f'an answer in sight: {s[:60]!r}'
        both = c['metadata']['jupyter'].get('source_hidden')
        if both and not s.startswith('#| answer: click to open\n'):
            yield f'no line to click: {s[:60]!r}'

def typed(found, number):
    "At least one guess is typed, and known."
    asked = [o for _, s, _ in found for o in re.findall(r"^check\('(\w+)'", s, re.MULTILINE)]
    if not asked: yield 'no check() of a guess'
    for o in asked:
        if o not in book(part='guesses'): yield f'check of {o!r}: nbs/_exercises/guesses lacks it'
    for _, s, c in found:
        if "check('g" in s and 'There is no exercise' in str(c.get('outputs', '')):
            yield f'run before there was such a guess: {s[-40:]!r}'

def hidden(found, number):
    "What readers need not see is folded in JupyterLab too."
    for kind, s, c in found:
        hide = kind == 'code' and re.search(r'^#\| *(hide|echo: *false)$', s, re.MULTILINE)
        if hide and not c['metadata'].get('jupyter', {}).get('source_hidden'):
            yield f'not folded: {s[:60]!r}'

def described(found, number):
    "A cell that leaves a picture says in words what is on it."
    for _, s, c in found:
        pictures = [o for o in c.get('outputs', []) if 'image/png' in o.get('data', {})]
        if pictures and 'fig-alt' not in s: yield f'a figure without fig-alt: {s[:60]!r}'

def installs(found, number):
    "Where the package is missing, as on Colab, the first cell of code installs it."
    first = next(s for kind, s, _ in found if kind == 'code')
    if "find_spec('sotavision')" not in first: yield f'the first code is {first[:60]!r}'

def computed(found, number):
    "A figure in prose is computed by a cell, asserted in one, or stands with its source in a list."
    here = next((p.stem for p in CHAPTERS if int(p.stem[:2]) == number), '')
    made = [dict(c, cell_type=kind, source=s) for kind, s, c in found]
    for cell, figure in figures.unsupported(made, figures.allowed().get(here, ())):
        yield f'cell {cell}: {figure}'

RULES = installs, arc, guesses, covered, typed, hidden, described, computed

@pytest.mark.parametrize('rule', RULES, ids=lambda o: o.__name__)
@pytest.mark.parametrize('path', CHAPTERS, ids=lambda o: o.stem)
def test_form(path, rule):
    if wrong := list(rule(cells(path), int(path.name[:2]))):
        pytest.fail(f'{rule.__doc__}\n  ' + '\n  '.join(wrong), pytrace=False)

def test_every_allowed_figure_is_still_used():
    text = {p.stem: {f for k, s, _ in cells(p) if k == 'markdown' for f, _ in figures.figures(s)}
            for p in CHAPTERS}
    allowed = [(k, o) for k, names in figures.allowed().items() for o in names]
    assert [(k, o) for k, o in allowed if o not in text.get(k, ())] == []

def test_an_allowed_figure_names_its_source(tmp_path):
    (tmp_path/'a.txt').write_text('07_xresnet | 3.8 |\n')
    with pytest.raises(ValueError, match='names no source'): figures.allowed(tmp_path/'a.txt')

def test_every_guess_is_asked():
    asked = {o for p in CHAPTERS for _, s, _ in cells(p) for o in re.findall(r"check\('(g\w+)'", s)}
    assert set(book(part='guesses')) == asked

def first_cell(path) -> str: return next(s for kind, s, _ in cells(path) if kind == 'code')

@pytest.mark.parametrize('there', [True, False])
@pytest.mark.parametrize('path', [*CHAPTERS, *GUIDES], ids=lambda o: o.stem)
def test_the_first_cell_installs_what_is_missing(path, there, monkeypatch):
    calls = []
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: name if there else None)
    monkeypatch.setattr(subprocess, 'run', lambda *args, **kw: calls.append((args, kw)))
    exec(first_cell(path), {})
    pip = [sys.executable, '-m', 'pip', 'install', '-q', 'sotavision']
    assert calls == ([] if there else [((pip,), dict(check=True))])

def code(source, *printed, **jupyter):
    outputs = [dict(data={'text/plain': o}) for o in printed]
    return 'code', source, dict(metadata=dict(jupyter=jupyter), outputs=outputs)

MADE_UP = [
    (installs, [code('import torch')], 'the first code is'),
    (arc, [('markdown', '# A', {}), ('markdown', '## Summary\n## The paper', {})], 'sections'),
    (guesses, [('markdown', '**Guess first:** which?', {}), code('print(1)')], 'is not folded'),
    (covered, [code('1 + 1', '2', outputs_hidden=True)], 'in sight'),
    (covered, [code('1 + 1', 'The answer:', '2', outputs_hidden=True, source_hidden=True)],
     'no line to click'),
    (typed, [code('1 + 1')], 'no check'),
    (typed, [code("check('g99x', ...)")], 'lacks'),
    (typed, [code("check('g12', ...)", "There is no exercise 'g12'.")], 'run before'),
    (hidden, [code('#| hide\nassert True')], 'not folded'),
    (computed, [('markdown', 'It gains 4.7 %.', {}), code('4.9')], '4.7 %'),
    (computed, [('markdown', 'A step takes 312 ms.', {}), code('x = 12')], '312 ms'),
    (described, [('code', 'plt.plot(x)', dict(outputs=[dict(data={'image/png': ''})]))], 'fig-alt'),
]

@pytest.mark.parametrize('rule, found, word', MADE_UP)
def test_rules_complain(rule, found, word): assert word in ' '.join(rule(found, 1))

FINE = [
    (guesses, [('markdown', '**Guess first:** which?', {}), code('1', outputs_hidden=True)]),
    (guesses, [('markdown', '**Guess:** which?\n\n<details>It</details>', {})]),
    (covered, [code('1 + 1', 'The answer:', '2', outputs_hidden=True), code('1 + 1', '2')]),
    (covered, [code('#| answer: click to open\n1', 'The answer:', outputs_hidden=True,
                    source_hidden=True)]),
    (hidden, [code('#| hide\nassert True', source_hidden=True)]),
]

def printed(text): return 'code', 'f()', dict(metadata={}, outputs=[dict(text=text)])

FINE += [
    (computed, [('markdown', 'It gains 4.7 %.', {}), o])
    for o in (printed('gain 4.68'), printed('gain .0471'), code('#| hide\nassert gain > 4.7'))
] + [
    (computed, [('markdown', o, {})])
    for o in ('`x = .123`', '$.123$', '# 1.5', 'section 2.3', '[a](b.123)', 'in 2019', 'ResNet50',
              'fastai 2.7', 'arXiv 1812.01187', '```\n.123\n```', '12 images')
]

@pytest.mark.parametrize('rule, found', FINE)
def test_rules_let_good_chapters_pass(rule, found): assert not list(rule(found, 1))
