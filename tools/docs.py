"""Build the site: notebooks through nbdev to MyST (`_proc/`), through Sphinx to HTML (`_docs/`).

    python tools/docs.py
    python tools/docs.py --widths    and look whether each block of code fits into its box
"""
import argparse
import json
import re
import shutil
import subprocess
import sys
from configparser import ConfigParser
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

import nbformat
from nbformat.v4 import new_markdown_cell

import heads
import links
import widths
from pages import Page, anchor, read_page, render, site_path

ROOT = Path(__file__).resolve().parents[1]
NBS, PROC, OUT = ROOT/'nbs', ROOT/'_proc', ROOT/'_docs'
ROOMS = {
    'core': 'What every room uses.',
    'toynette': 'Ten kinds of toys, rendered: data for every task, out of nothing.',
    'data': 'From files to batches.',
    'augment': 'Resize, vary and normalize pictures.',
    'models': 'Networks, and the layers they are made of.',
    'objectives': 'What a training minimizes, and what people look at.',
    'speed': 'The same numbers in less time.',
    'training': 'Optimizers, schedules, and the loop that brings everything together.',
    'callbacks': 'Changes to the loop that many trainings want.',
    'transfer': 'Start from trained weights.',
    'techniques': 'What makes a trained network better.',
    'tasks': 'Other questions than "which class?".',
    'study': 'Find out what a network does, and whether a change helps.',
    'app': 'From a trained network to one that others use.',
    'cli': 'The command line.',
    'exercises': 'The engine behind the exercises.',
}
PICTURES = {'.png', '.jpg', '.jpeg', '.gif', '.svg', '.webp'}
# pages of `nbs/guide/`, in reading order
GUIDE = 'paper', 'photos', 'no_training', 'from_fastai', 'glossary'
# of rooms whose own name would mislead
TITLES = {'cli': 'Command line', 'exercises': 'Exercise engine'}
MATHJAX = 'tex-svg-full.js'

def settings() -> dict:
    cfg = ConfigParser(delimiters=['='], interpolation=None)
    cfg.read(ROOT/'settings.ini', encoding='utf8')
    return dict(cfg['DEFAULT'])

def source_url(cfg:dict) -> str: return f"{cfg['git_url']}/blob/{cfg['branch']}/{cfg['nbs_path']}"

# --- what there is

def visible(path: Path) -> bool:
    return not any(o.startswith(('.', '_')) for o in path.relative_to(NBS).parts)

def notebooks() -> list:
    "Paths of all notebooks below `nbs/`: chapters by number, then the library as in `all.py`."
    found = [p.relative_to(NBS).as_posix() for p in NBS.rglob('*.ipynb') if visible(p)]
    lines = (ROOT/'sotavision/all.py').read_text(encoding='utf8').splitlines()
    order = list(
        dict.fromkeys(
            m[1].replace('.', '/') for o in lines if (m := re.match(r'from \.([\w.]+) import', o))
        )
    )
    def place(path):
        name = path.removeprefix('reference/').removesuffix('.ipynb')
        return order.index(name) if name in order else len(order)
    return sorted(found, key=lambda o: (o.startswith('reference/'), place(o), o))

def copy_pictures():
    for p in NBS.rglob('*'):
        if p.suffix in PICTURES and visible(p):
            (PROC/p.relative_to(NBS)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(p, PROC/p.relative_to(NBS))

# --- table of contents

def toctree(entries, caption='', depth=1) -> str:
    options = [f':caption: {caption}'] if caption else []
    return '\n'.join(
        ['```{toctree}', ':hidden:', f':maxdepth: {depth}', *options, '', *entries, '```']
    )

def contents(pages:list) -> str:
    "The trees of the start page: chapters in order, the guide, exercises, the library by rooms."
    chapters = [p.name for p in pages if p.is_chapter]
    found = {p.name for p in pages}
    guide = [f'guide/{o}' for o in GUIDE if f'guide/{o}' in found]
    exercises = [p.name for p in pages if p.is_exercise]
    rooms = [f'library/{o}' for o in ROOMS if room_pages(pages, o)]
    return '\n\n'.join(
        [
            toctree(chapters, 'The course'),
            toctree(guide, 'Guide'),
            toctree(exercises, 'Exercises'),
            toctree(rooms, 'The library', depth=2),
        ]
    )

def room_pages(pages: list, room: str) -> list:
    return [p for p in pages if p.room == room and not p.is_exercise]

def room_page(pages:list, room:str) -> str:
    "What one room offers: each public name with its first line, and the pages beside chapters."
    here = room_pages(pages, room)
    blocks = [
        f'## {p.heading}\n\n[{p.lead or p.title}](/{p.name}.ipynb)\n\n{name_table(p)}'
        for p in here
        if p.shown
    ]
    beside = [f'/{p.name}' for p in here if not p.is_chapter]
    return (
        '\n\n'.join(
            [
                f'# {TITLES.get(room, room.capitalize())}\n\n{{.lead}}\n{ROOMS[room]}',
                *blocks,
                toctree(beside),
            ]
        )
        + '\n'
    )

def name_table(page:Page) -> str:
    rows = [f'| [`{o}`](#{anchor(o)}) | {first_line(obj)} |' for o,obj in page.shown.items()]
    return '\n'.join(['| Name | What it is |', '|---|---|', *rows])

def first_line(obj) -> str:
    "The first paragraph of a docstring, on one line."
    return ' '.join((obj.__doc__ or '').strip().split('\n\n')[0].split()).replace('|', r'\|')

# --- building

def write_sources(pages:list):
    "Everything Sphinx reads."
    names, url = {o for p in pages for o in p.shown}, source_url(settings())
    for p in pages:
        nb = render(p, names, url)
        if p.name == 'index': nb.cells.append(new_markdown_cell(contents(pages)))
        dest = PROC/site_path(p.path)
        dest.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(nb, dest)
    (PROC/'library').mkdir()
    for o in ROOMS:
        if room_pages(pages, o):
            (PROC / 'library' / f'{o}.md').write_text(room_page(pages, o), encoding='utf8')

def copy_mathjax():
    "MathJax from its pip package, so that the site shows formulas without a network."
    try: found = [o.locate() for o in files('sphinx-mathjax-offline') if o.name == MATHJAX]
    except PackageNotFoundError: sys.exit("The site needs MathJax. Install it with: pip install "
                                          "'sotavision[dev]'")
    (PROC/'_mathjax').mkdir()
    shutil.copy2(found[0], PROC/'_mathjax')

def sphinx():
    "Run Sphinx; a warning is an error."
    args = [
        '-W',
        '--keep-going',
        '-q',
        '-n',
        '-b',
        'html',
        '-c',
        ROOT / 'docs',
        '-d',
        PROC / '.doctrees',
        PROC,
        OUT,
    ]
    done = subprocess.run([sys.executable, '-m', 'sphinx', *map(str, args)], cwd=ROOT)
    # copies that myst-nb leaves beside the site
    shutil.rmtree(ROOT/'jupyter_execute', ignore_errors=True)
    if done.returncode: sys.exit('Sphinx found something to mend: see its warnings above.')

def moved(to:str) -> str:
    "A page that only leads to the address `to`."
    return (
        f'<!doctype html><meta charset="utf-8"><title>Moved</title>'
        f'<meta http-equiv="refresh" content="0; url={to}"><a href="{to}">This page has '
        'moved.</a>\n'
    )

def old_addresses():
    "A small page at each address from before the notebooks moved: it leads to the new one."
    for old, new in json.loads((ROOT/'docs/redirects.json').read_text(encoding='utf8')).items():
        at, to = OUT/f'{old}.html', '../' * old.count('/') + f'{new}.html'
        at.parent.mkdir(parents=True, exist_ok=True)
        at.write_text(moved(to), encoding='utf8')

def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--widths', action='store_true', help='measure with Chromium what scrolls')
    asked = parser.parse_args()
    for o in (PROC, OUT): shutil.rmtree(o, ignore_errors=True)
    PROC.mkdir()
    copy_pictures(); copy_mathjax()
    write_sources([read_page(NBS, o) for o in notebooks()])
    sphinx()
    old_addresses()
    if faults := links.check(OUT): sys.exit('\n'.join(['Links that lead nowhere:', *faults]))
    if faults := heads.check(OUT): sys.exit('\n'.join(['Heads of pages that lack:', *faults]))
    print(
        f'{len(list(OUT.rglob("*.html")))} pages in {OUT.relative_to(ROOT)}/: open '
        f'{OUT.relative_to(ROOT)}/index.html'
    )
    if asked.widths and not widths.report(OUT):
        sys.exit('Pages of the course scroll sideways: split the lines named above.')

if __name__ == '__main__': main()
