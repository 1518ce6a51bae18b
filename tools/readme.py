"""README.md from nbs/index.ipynb, so that the start page is written once.

    python tools/readme.py            write README.md and its pictures
    python tools/readme.py --check    only say whether they agree with the notebook
"""
import argparse
import base64
import re
import sys
from pathlib import Path

import nbformat
from nbdev.process import extract_directives

from docs import settings
from pages import site_path, slug

ROOT = Path(__file__).resolve().parents[1]
CFG = settings()
SITE = CFG['doc_host'] + CFG['doc_baseurl']
NOTEBOOK, README, PICTURES = ROOT/'nbs'/'index.ipynb', ROOT/'README.md', 'docs/images'
DROPPED = {'hide', 'default_exp'}

def page_address(name:str) -> str:
    "`course/01_toynette` → `course/toynette.html`."
    return site_path(f'{name}.ipynb').removesuffix('.ipynb') + '.html'

def from_root(text:str) -> str:
    "Relative links of a notebook in `nbs/`: notebooks by their pages, others as seen from above."
    text = re.sub(
        r'\]\((?![a-z]+:|\.\./)([\w./-]+)\.ipynb(#[^)]*)?\)',
        lambda m: f']({SITE}/{page_address(m[1])}{"#" + slug(m[2]) if m[2] else ""})',
        text,
    )
    text = re.sub(r'(\]\()(?![a-z]+:|#|/|\.\./)', r'\1nbs/', text)
    return text.replace('](../', '](')

def no_boxes(text:str) -> str:
    "Without the lines that open and close boxes, which only the site draws."
    return re.sub(r'\n{3,}', '\n\n', re.sub(r'^</?div.*>$', '', text, flags=re.MULTILINE)).strip()

def code_text(source:str) -> str:
    code = '\n'.join(o for o in source.splitlines() if not o.startswith('#|'))
    return f'```python\n{code.strip()}\n```'

def pictures(cell) -> list:
    "Pairs (suffix, bytes) of the pictures that a code cell printed."
    outputs = cell.outputs if cell.cell_type == 'code' else []
    return [
        (kind, base64.b64decode(o.data[f'image/{kind}']))
        for o in outputs
        for kind in ('png', 'jpeg')
        if f'image/{kind}' in o.get('data', {})
    ]

def option(directives: dict, name: str) -> str:
    return ' '.join(directives.get(f'{name}:', [])).strip('"\'')

def convert(nb) -> dict:
    "Contents of README.md and of every picture it shows, by path."
    parts, files = [], {}
    for c in nb.cells:
        directives = extract_directives(c, remove=False) if c.cell_type == 'code' else {}
        if c.cell_type == 'raw' or DROPPED & set(directives): continue
        if c.cell_type == 'markdown': parts.append(no_boxes(from_root(c.source)))
        elif option(directives, 'echo') != 'false': parts.append(code_text(c.source))
        for kind, data in pictures(c):
            path = f'{PICTURES}/index-{len(files) + 1}.{kind}'
            files[path] = data
            parts.append(f'![{option(directives, "fig-alt")}]({path})')
    return {'README.md': '\n\n'.join(parts).encode() + b'\n', **files}

def differing(files:dict) -> list:
    return [
        o
        for o, data in files.items()
        if not (ROOT / o).is_file() or (ROOT / o).read_bytes() != data
    ]

def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--check', action='store_true', help='write nothing, fail when something differs'
    )
    check = parser.parse_args().check
    files = convert(nbformat.read(NOTEBOOK, as_version=4))
    stale = differing(files)
    if check and stale:
        sys.exit(
            f'{", ".join(stale)}: not what nbs/index.ipynb says. Run `python tools/readme.py`.'
        )
    for o in stale:
        (ROOT/o).parent.mkdir(parents=True, exist_ok=True)
        (ROOT/o).write_bytes(files[o])
    print(f'wrote {", ".join(stale)}' if stale else 'README.md agrees with nbs/index.ipynb')

if __name__ == '__main__': main()
