"""Figures in the prose of the chapters that nothing computes.

    python tools/figures.py [NOTEBOOK …]     all chapters, or these

A figure is a decimal, a percentage, or a number with a unit of time, memory or gain. It has to
stand in an output of its notebook, in a cell of code (hidden ones count: an assertion does), or in
tools/figures.txt, one a line with its source: `04_losses | 3.57 % | He et al. 2015, table 5`.
Code, links, formulas, headings, versions and the numbers of sections are no figures.
"""
import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ALLOWED = Path(__file__).with_suffix('.txt')
UNITS = (
    r'%|percent|points?|dB|times|×(?! ?\d)|ms|µs|s|seconds?|minutes?|hours?|days?|[KMGT]i?B|bytes|'
    'MFLOPs|GFLOPs|FLOPs|million|billion'
)
NO_PROSE = [
    r'```[\s\S]*?```', r'\$\$[\s\S]*?\$\$', r'`[^`]*`', r'\$[^$\n]+\$', r'<!--[\s\S]*?-->',
    r'<[^>]+>',
    r'^#+ .*$',                                   # headings
    r'(?<=\])\([^)]*\)', r'https?://\S+', r'\b\d{4}\.\d{4,5}\b',     # addresses, arXiv
    r'\b(?:sections?|figures?|tables?|chapters?|equations?|pages?|pp\.|appendix|lines?|part|step|'
    r'version|Python|torch|torchvision|PyTorch|CUDA|fastai|timm|nbdev|pp?\.|Fig\.) '
    r'[\d.]+(?:(?:, | and | or | to |–|-)[\d.]+)*',
]
NUMBER = r'(?<![\w.,])(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?(?![\w])'
FIGURE = re.compile(rf'({NUMBER})(?: |\u00a0)?((?:{UNITS})(?![\w]))?')
ANY = re.compile(r'(?<![\w.])-?(?:\d[\d_,]*\d|\d)?(?:\.\d+)?(?:e-?\d+)?')

def prose(text:str) -> str:
    "Markdown without what is no prose."
    for o in NO_PROSE: text = re.sub(o, ' ', text, flags=re.MULTILINE)
    return text

def figures(text:str) -> list:
    "The figures in a cell of Markdown: pairs of how they are written and their number."
    found = []
    for m in FIGURE.finditer(prose(text)):
        if not m[1] or not ('.' in m[1] or m[2]): continue
        found.append((f'{m[1]} {m[2] or ""}'.strip(), m[1].replace(',', '')))
    return found

def texts(cell:dict) -> list:
    "What a cell of code says: its source, and its outputs without pictures."
    found = [''.join(cell['source'])]
    for o in cell.get('outputs', []):
        found += [''.join(o.get('text', ''))]
        found += [''.join(v) for k, v in o.get('data', {}).items() if k.startswith('text/')]
    return found

def known(cells:list) -> list:
    "All numbers of a notebook's code and outputs."
    text = '\n'.join(t for c in cells if c['cell_type'] == 'code' for t in texts(c))
    found = {m[0].replace(',', '').replace('_', '').lstrip('-') for m in ANY.finditer(text)}
    numbers = set()
    for o in found:
        try: numbers.add(float(o))
        except ValueError: pass
    return sorted(numbers)

def is_known(figure:str, number:str, numbers) -> bool:
    "Whether one of `numbers`, for a percentage also a hundredfold of one, rounds to `number`."
    value, digits = float(number), len(number.partition('.')[2])
    factors = (1, 100) if figure.endswith(('%', 'percent', 'point', 'points')) else (1,)
    exact = len(number.replace('.', '').lstrip('0')) < 2      # one digit: no rounding
    half = 1e-9 if exact else .5000001 * 10**-digits
    return any(abs(o * k - value) <= half for o in numbers for k in factors)

def allowed(path=ALLOWED) -> dict:
    "Chapter → figures that have a named source."
    found = {}
    for line in Path(path).read_text(encoding='utf8').splitlines():
        if not line.strip() or line.startswith('#'): continue
        chapter, figure, source = (o.strip() for o in line.split('|', 2))
        if not source: raise ValueError(f'{path.name}: {line!r} names no source')
        found.setdefault(chapter, set()).add(figure)
    return found

def unsupported(cells:list, fine=()) -> list:
    "Pairs of a cell's id and a figure that nothing computes and nobody vouches for."
    numbers = known(cells)
    return [
        (c.get('id', k), figure)
        for k, c in enumerate(cells)
        if c['cell_type'] == 'markdown'
        for figure, number in figures(''.join(c['source']))
        if figure not in fine and not is_known(figure, number, numbers)
    ]

def main(paths) -> int:
    sources, n = allowed(), 0
    for p in map(Path, paths or sorted((ROOT/'nbs/course').glob('*.ipynb'))):
        cells = json.loads(p.read_text(encoding='utf8'))['cells']
        for cell, figure in unsupported(cells, sources.get(p.stem, ())):
            print(f'{p.stem}: {cell}: {figure}')
            n += 1
    return 1 if n else 0

if __name__ == '__main__': sys.exit(main(sys.argv[1:]))
