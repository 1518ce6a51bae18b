"""Build the site: notebooks through nbdev to MyST (`_proc/`), and through Sphinx to HTML (`_docs/`).

    python tools/docs.py
"""
import argparse, shutil, subprocess, sys
from configparser import ConfigParser
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

import nbformat
from nbformat.v4 import new_markdown_cell

import links
from pages import Page, anchor, read_page, render, site_path

ROOT = Path(__file__).resolve().parents[1]
NBS, PROC, OUT = ROOT/'nbs', ROOT/'_proc', ROOT/'_docs'
ROOMS = {
    'core': 'What every room uses.',
    'data': 'From files, or from nothing at all, to batches.',
    'augment': 'Resize, vary and normalize pictures.',
    'models': 'Networks, and the layers they are made of.',
    'training': 'Losses, metrics, optimizers, and the loop that brings them together.',
    'techniques': 'What makes a trained network better.',
    'tasks': 'Other questions than "which class?".',
    'study': 'Find out what a network does, and whether a change helps.',
    'production': 'From a trained network to one that others use.',
    'cli': 'The command line.',
    'exercises': 'The engine behind the exercises.',
}
PICTURES = {'.png', '.jpg', '.jpeg', '.gif', '.svg', '.webp'}
TITLES = {'cli': 'Command line', 'exercises': 'Exercise engine'}   # of rooms whose own name would mislead
MATHJAX = 'tex-svg-full.js'

def settings() -> dict:
    cfg = ConfigParser(delimiters=['='], interpolation=None)
    cfg.read(ROOT/'settings.ini', encoding='utf8')
    return dict(cfg['DEFAULT'])

def source_url(cfg:dict) -> str: return f"{cfg['git_url']}/blob/{cfg['branch']}/{cfg['nbs_path']}"

# --- what there is

def visible(path:Path) -> bool: return not any(o.startswith(('.', '_')) for o in path.relative_to(NBS).parts)

def notebooks() -> list:
    "Paths of all notebooks below `nbs/`, in the order of their numbers."
    found = [p.relative_to(NBS).as_posix() for p in NBS.rglob('*.ipynb') if visible(p)]
    return sorted(found, key=lambda o: Path(o).name)

def copy_pictures():
    for p in NBS.rglob('*'):
        if p.suffix in PICTURES and visible(p):
            (PROC/p.relative_to(NBS)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(p, PROC/p.relative_to(NBS))

# --- table of contents

def toctree(entries, caption='', depth=1) -> str:
    options = [f':caption: {caption}'] if caption else []
    return '\n'.join(['```{toctree}', ':hidden:', f':maxdepth: {depth}', *options, '', *entries, '```'])

def contents(pages:list) -> str:
    "The trees of the start page: chapters in reading order, their exercises, then the library room by room."
    chapters, exercises = [p.name for p in pages if p.is_chapter], [p.name for p in pages if p.is_exercise]
    rooms = [f'library/{o}' for o in ROOMS if room_pages(pages, o)]
    return '\n\n'.join([toctree(chapters, 'The course'), toctree(exercises, 'Exercises'), toctree(rooms, 'The library', depth=2)])

def room_pages(pages:list, room:str) -> list: return [p for p in pages if p.room == room and not p.is_exercise]

def room_page(pages:list, room:str) -> str:
    "What one room offers: every public name with its first line, and the pages that are no chapters."
    here = room_pages(pages, room)
    blocks = [f'## {p.heading}\n\n[{p.lead or p.title}](/{p.name}.ipynb)\n\n{name_table(p)}' for p in here if p.shown]
    beside = [f'/{p.name}' for p in here if not p.is_chapter]
    return '\n\n'.join([f'# {TITLES.get(room, room.capitalize())}\n\n{{.lead}}\n{ROOMS[room]}', *blocks, toctree(beside)]) + '\n'

def name_table(page:Page) -> str:
    rows = [f'| [`{o}`](#{anchor(o)}) | {first_line(obj)} |' for o,obj in page.shown.items()]
    return '\n'.join(['| Name | What it is |', '|---|---|', *rows])

def first_line(obj) -> str: return (obj.__doc__ or '').strip().split('\n')[0].replace('|', r'\|')

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
        if room_pages(pages, o): (PROC/'library'/f'{o}.md').write_text(room_page(pages, o), encoding='utf8')

def copy_mathjax():
    "MathJax from its pip package, so that the site shows formulas without a network."
    try: found = [o.locate() for o in files('sphinx-mathjax-offline') if o.name == MATHJAX]
    except PackageNotFoundError: sys.exit("The site needs MathJax. Install it with: pip install 'sotavision[dev]'")
    (PROC/'_mathjax').mkdir()
    shutil.copy2(found[0], PROC/'_mathjax')

def sphinx():
    "Run Sphinx; a warning is an error."
    args = ['-W', '--keep-going', '-q', '-n', '-b', 'html', '-c', ROOT/'docs', '-d', PROC/'.doctrees', PROC, OUT]
    done = subprocess.run([sys.executable, '-m', 'sphinx', *map(str, args)], cwd=ROOT)
    shutil.rmtree(ROOT/'jupyter_execute', ignore_errors=True)   # copies that myst-nb leaves beside the site
    if done.returncode: sys.exit('Sphinx found something to mend: see its warnings above.')

def main():
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    for o in (PROC, OUT): shutil.rmtree(o, ignore_errors=True)
    PROC.mkdir()
    copy_pictures(); copy_mathjax()
    write_sources([read_page(NBS, o) for o in notebooks()])
    sphinx()
    if faults := links.check(OUT): sys.exit('\n'.join(['Links that lead nowhere:', *faults]))
    print(f'{len(list(OUT.rglob("*.html")))} pages in {OUT.relative_to(ROOT)}/: open {OUT.relative_to(ROOT)}/index.html')

if __name__ == '__main__': main()
