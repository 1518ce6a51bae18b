"Rules that every notebook a reader opens keeps: how wide its code is."
import json
from pathlib import Path

import pytest

NBS = Path(__file__).resolve().parents[1]/'nbs'
MAX_WIDTH = 100
WIDE_LINES = 0

def for_readers() -> dict:
    "Cells of the notebooks of course, exercises, reference and start page, by path."
    found = {p.relative_to(NBS).as_posix(): p for p in sorted(NBS.rglob('*.ipynb'))}
    return {
        name: json.loads(p.read_text(encoding='utf8'))['cells']
        for name, p in found.items()
        if not any(o.startswith(('.', '_')) for o in Path(name).parts)
    }

def code_lines(cell) -> list:
    """Lines of code of a cell that is not exported: what is, tests/test_architecture.py reads
    in its module. Directives (`#| fig-alt: …`) cannot be split."""
    lines = ''.join(cell['source']).splitlines()
    exported = any(o.startswith(('#| export', '#|export')) for o in lines)
    if cell['cell_type'] != 'code' or exported: return []
    return [o for o in lines if not o.startswith('#|')]

def wide_lines(notebooks:dict) -> list:
    "Complaints about lines of code that do not fit the page."
    return [
        f'{name}, cell {i}: {len(line)} columns: {line.strip()[:40]}'
        for name, cells in notebooks.items()
        for i, cell in enumerate(cells)
        for line in code_lines(cell)
        if len(line) > MAX_WIDTH
    ]

def cell(*lines, kind='code'): return dict(cell_type=kind, source=[f'{o}\n' for o in lines])

def test_code_fits_the_page():
    found = wide_lines(for_readers())
    assert len(found) <= WIDE_LINES, '\n'.join(found)

def test_notebooks_are_found():
    names = set(for_readers())
    assert 'index.ipynb' in names and any(o.startswith('exercises/') for o in names)
    assert len([o for o in names if o.startswith('course/')]) >= 17

def test_a_wide_line_is_told():
    cells = [cell('x = 1'), cell('#| hide', 'y = 2', '    z = ' + '9' * 93)]
    assert wide_lines({'a.ipynb': cells}) == [
        f'a.ipynb, cell 1: 101 columns: z = {"9" * 36}'
    ]

@pytest.mark.parametrize('fits', [
    cell('x' * 100),
    cell('x' * 101, kind='markdown'),
    cell('#| fig-alt: "' + 'x' * 100, 'plot()'),
    cell('#| export', 'x' * 101),
])
def test_what_fits_passes(fits): assert wide_lines({'a.ipynb': [fits]}) == []
