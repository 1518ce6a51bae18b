"""Run notebooks in place and keep their outputs, so that the committed chapters show what they do.

    python tools/chapters.py                        every notebook under nbs/
    python tools/chapters.py nbs/course/01_*.ipynb  these ones
"""
import argparse
import os
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbdev.clean import nbdev_clean

from outputs import covered

ROOT = Path(__file__).resolve().parents[1]
# cells whose outputs would only clutter the saved file
QUIET = ('#| hide', '#|hide', '#| export', 'show_doc(')

def skip(cell) -> bool:
    "Whether nbdev would not run this cell either."
    return cell.cell_type == 'code' and any(
        o in cell.source for o in ('#| eval: false', '#|eval: false', '#| slow', '#| gpu')
    )

def run(path: Path) -> float:
    "Execute one notebook in a fresh kernel, write it back, and return the seconds it took."
    nb = nbformat.read(path, as_version=4)
    kept, cells = nb.cells, [c for c in nb.cells if not skip(c)]
    nb.cells = cells
    start = time.time()
    NotebookClient(
        nb,
        timeout=900,
        kernel_name='python3',
        record_timing=False,
        store_widget_state=False,
        coalesce_streams=True,
        resources={'metadata': {'path': str(path.parent)}},
    ).execute()
    nb.cells = kept
    for c in nb.cells:
        if c.cell_type != 'code': continue
        c.outputs = [] if c.source.startswith(QUIET) else covered(c)
    nbformat.write(nb, path)
    nbdev_clean(fname=str(path))
    return time.time() - start

def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('notebooks', nargs='*', type=Path, help='all of them when none is named')
    paths = [o.resolve() for o in parser.parse_args().notebooks] or sorted(
        (ROOT / 'nbs').rglob('*.ipynb'), key=lambda p: p.name
    )
    # readers' own
    paths = [
        p
        for p in paths
        if not any(o.startswith(('.', '_')) for o in p.relative_to(ROOT).parts)
        and p.parent.name != 'exercises'
    ]
    os.environ.setdefault('SOTAVISION_HOME', str(ROOT/'.cache'))
    # the kernel's own backend is the one that puts figures into the notebook
    os.environ.pop('MPLBACKEND', None)
    os.environ['MATPLOTLIBRC'] = str(ROOT/'tools'/'matplotlibrc')
    for p in paths: print(f'{run(p):6.1f} s  {p.relative_to(ROOT)}', flush=True)

if __name__ == '__main__': main()
