"""The exercises: from the sources in nbs/_exercises/source to what readers open, what CI solves,
and the keys.

    python tools/exercises.py            write all three
    python tools/exercises.py --check    only say whether they agree with the sources

A source is a notebook. Markdown and most code go into both notebooks as they are;
`[text](chapter:11)` becomes a link.
    #| exercise   a call of `exercise(…)`: what is asked, hints, the answer; see `Exercise`
    #| solution   code; what stands between `### solution` and `### end` is `...` for the reader
    #| checks     the script of a code task (nbs/reference/exercises/judge.ipynb has its names)
nbs/_exercises/guesses has a notebook a chapter, of `exercise(…)` cells for the guesses that its
`check('g12', …)` looks at. They have no hints and no notebook of their own.
"""
import argparse
import hashlib
import json
import math
import re
import sys
import textwrap
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from sotavision.exercises.keys import RENAMED, digest, hide, letters, opened, pack, unpack

ROOT = Path(__file__).resolve().parents[1]
FOLDER = 'nbs/exercises'
# no reader should stumble over them
SOURCE, SOLVED = 'nbs/_exercises/source', 'nbs/_exercises/solutions'
GUESSES = 'nbs/_exercises/guesses'
KEYS = 'sotavision/exercises/keys.json'
ABOUT = (
    'Packed so that nobody reads an answer by accident; it keeps out no one who wants in. '
    'Written by tools/exercises.py: change nbs/_exercises/source.'
)

@dataclass
class Exercise:
    "One exercise of a source notebook."
    id: str
    kind: str             # text, choice, number, vector, code, script
    title: str
    # number of the chapter that answers it; 'study/intervals' for a page of the library
    chapter: object
    section: str          # of that chapter
    ask: str              # the question
    hints: list           # three; a guess has none
    why: str              # model answer, or what to know about the right one
    value: object = None  # of a choice, number or vector
    tol: float = 0.
    wrong: list = field(default_factory=list)   # pairs (wrong value, diagnosis)
    notebook: str = ''
    solution: str = ''
    script: str = ''

    def __post_init__(self):
        n = 0 if self.id.startswith('g') else 3
        if len(self.hints) != n: raise ValueError(f'{self.id}: {n} hints, not {len(self.hints)}')
        if n and self.kind in ('choice', 'number', 'vector') and len(self.wrong) < 2:
            raise ValueError(f'{self.id}: at least two wrong values')
        for name in ('ask', 'why'):
            setattr(self, name, textwrap.dedent(getattr(self, name)).strip())

# --- chapters

def chapters(root:Path=ROOT) -> dict:
    """Title, path and sections of every chapter, by its number, and of every page of the library,
    by its name: '15', 'study/intervals'."""
    found = {}
    for p in sorted([*root.glob('nbs/course/*.ipynb'), *root.glob('nbs/reference/**/*.ipynb')]):
        text = [c.source for c in nbformat.read(p, as_version=4).cells if c.cell_type == 'markdown']
        sections = re.findall(r'^##+ (.+)$', '\n'.join(text), re.MULTILINE)
        number = re.match(r'0*(\d+)_', p.name)
        name = (
            number[1]
            if number
            else p.relative_to(root / 'nbs/reference').with_suffix('').as_posix()
        )
        found[name] = dict(
            title=re.match('# (.+)', text[0])[1],
            path=p.relative_to(root / 'nbs').as_posix(),
            sections=sections,
        )
    return found

def linked(text:str, known:dict) -> str:
    "`[text](chapter:11)` as a link from nbs/exercises; bare text while there is no such chapter."
    return re.sub(
        r'\[([^\]]+)\]\(chapter:(\d+)\)',
        lambda m: f'[{m[1]}](../{known[m[2]]["path"]})' if m[2] in known else m[1],
        text,
    )

# --- reading sources

def directive(cell) -> str:
    found = re.match(r'#\| *(exercise|solution|checks)\b', cell.source)
    return found[1] if found and cell.cell_type == 'code' else ''

def body(cell) -> str: return cell.source.split('\n', 1)[1]

def exercises(nb, name:str) -> list:
    "The exercises of one source notebook."
    found = []
    for c in nb.cells:
        kind = directive(c)
        if kind == 'exercise':
            exec(
                body(c),
                dict(math=math, exercise=lambda *args, **kw: found.append(Exercise(*args, **kw))),
            )
            found[-1].notebook = name
        elif kind == 'solution': found[-1].solution = body(c)
        elif kind == 'checks': found[-1].script = body(c)
    return found

def named(e:Exercise) -> str:
    "What a solution defines: its last function, or the name of its script."
    pattern = r'^(\w+) *=' if e.kind == 'script' else r'^def (\w+)'
    return re.findall(pattern, e.solution, re.MULTILINE)[0 if e.kind == 'script' else -1]

# --- solution regions

REGION = re.compile(r'^( *)### solution\n(.*?)^ *### end\n?', re.MULTILINE | re.DOTALL)

def stub(source:str) -> str:
    "`source` with `...` where the solution stands."
    def gap(m):
        n = len([o for o in m[2].splitlines() if o.strip() and not o.strip().startswith('#')])
        note = f'# about {n} line{"s" if n > 1 else ""}'
        return f'{m[1]}...   {note}\n' if m[1] else f'{note}\n'
    return REGION.sub(gap, source).rstrip('\n')

def solved(source:str) -> str: return REGION.sub(lambda m: m[2], source).rstrip('\n')

# --- keys

def hidden(e:Exercise, value) -> dict:
    if e.kind == 'choice': return dict(hash=digest(e.id, letters(value)))
    return hide(e.id, value if isinstance(value, (list, tuple)) else [value], e.tol)

def shown(e:Exercise) -> str:
    "The answer to a choice, a number or a vector, for a reader who gives up."
    if e.kind == 'choice': return ', '.join(letters(e.value))
    return ', '.join(f'{o:.6g}' for o in (e.value if isinstance(e.value, list) else [e.value]))

def model_answer(e:Exercise) -> str:
    return f'```python\n{solved(e.solution)}\n```\n\n{e.why}'.strip() if e.solution else e.why

def key(e:Exercise, known:dict) -> dict:
    packed = dict(hints=[linked(o, known) for o in e.hints], why=linked(model_answer(e), known))
    if e.value is not None:
        packed |= dict(
            tol=e.tol,
            right=hidden(e, e.value),
            shown=pack(shown(e)),
            wrong=[(hidden(e, v), why) for v, why in e.wrong],
        )
    if e.script: packed['script'] = e.script
    return dict(
        kind=e.kind,
        title=e.title,
        notebook=e.notebook,
        chapter=e.chapter,
        section=there(e, known),
        packed=pack(json.dumps(packed, ensure_ascii=False)),
    )

def there(e:Exercise, known:dict) -> str:
    """The section, where the chapter has it. One that is still being written may not, and then
    the link leads to its top."""
    return (
        e.section if e.section in known.get(str(e.chapter), dict(sections=[]))['sections'] else ''
    )

def keys_file(found:list, guesses:list, known:dict) -> dict:
    used = {str(e.chapter) for e in found + guesses}
    places = {n: dict(title=o['title'], path=o['path']) for n, o in known.items() if n in used}
    return dict(
        about=ABOUT,
        chapters=places,
        exercises={e.id: key(e, known) for e in found},
        guesses={e.id: key(e, known) for e in guesses},
    )

def unpacked(keys:dict) -> dict:
    "For comparing: another zlib may compress the same text to other letters."
    def open_all(part):
        kept = keys.get(part, {})
        return {k: {**o, 'packed': json.loads(unpack(o['packed']))} for k, o in kept.items()}
    return {**keys, **{part: open_all(part) for part in ('exercises', 'guesses')}}

# --- writing notebooks

def place(e:Exercise, known:dict) -> str:
    fields = key(e, known)
    return opened(e.id, fields, known_places(known)).link

def known_places(known: dict) -> dict:
    return {n: dict(title=o['title'], path=o['path']) for n, o in known.items()}

def question(e:Exercise, known:dict):
    link = place(e, known)
    return new_markdown_cell(
        f'### {e.id} · {e.title}\n\n{linked(e.ask, known)}\n\nAnswered in {link}'
    )

def quoted(text:str) -> str: return "r'''" + text.replace("'''", '"""') + "'''"

def own_cells(e:Exercise, answered:bool) -> list:
    "The code cells that an exercise brings by itself."
    if e.kind == 'text':
        text = quoted(e.why) if answered else "'''\n\n'''"
        return [f"answer('{e.id}', {text})", f"reveal('{e.id}'{', 3' if answered else ''})"]
    if e.kind in ('code', 'script'): return []
    return [checked(e, repr(e.value) if answered else '...', answered)]

def checked(e:Exercise, answer:str, answered:bool) -> str:
    "The call that checks `answer`, and a word to the reader where it is still to be found."
    return f"check('{e.id}', {answer})" + ('' if answered else f"      # stuck? hint('{e.id}')")

def notebook(source, found:list, known:dict, answered:bool):
    "The reader's notebook, or the solved one."
    here, cells = iter(found), []
    for c in source.cells:
        kind = directive(c)
        if kind == 'exercise':
            e = next(here)
            cells += [question(e, known), *map(new_code_cell, own_cells(e, answered))]
        elif kind == 'solution':
            cells.append(new_code_cell((solved if answered else stub)(body(c))))
        elif kind == 'checks':
            cells.append(new_code_cell(checked(e, named(e), answered)))
        elif c.cell_type == 'markdown': cells.append(new_markdown_cell(linked(c.source, known)))
        else: cells.append(new_code_cell(c.source))
    return numbered(cells)

def numbered(cells:list):
    "A notebook whose cell ids depend on nothing but the cells."
    seen = {}
    for c in cells:
        id = hashlib.blake2b(c.source.encode(), digest_size=4).hexdigest()
        seen[id] = seen.get(id, 0) + 1
        c['id'] = id if seen[id] == 1 else f'{id}-{seen[id]}'
    return new_notebook(
        cells=cells,
        metadata={
            'kernelspec': {'display_name': 'python3', 'language': 'python', 'name': 'python3'}
        },
    )

# --- all of it

def misnamed(e:Exercise) -> str:
    "What is wrong with an id: it is a letter, the chapter's number, and a letter where needed."
    if e.id in RENAMED: return f'{e.id} was the id of {RENAMED[e.id]}'
    m = re.fullmatch(r'[eqfg](\d\d)[a-z]?', e.id)
    if not m: return f'{e.id} is no id: write e12a, q12a, f12a or g12'
    n, (first, last) = int(m[1]), covered(e.notebook)
    follows = n == e.chapter or not isinstance(e.chapter, int) or e.id == 'e00'
    return '' if follows and first <= n <= last else f'{e.id} does not follow its chapter'

def covered(name:str) -> tuple:
    "First and last chapter of a notebook of exercises."
    found = re.match(r'(\d\d)(?:-(\d\d))?_', name)
    return (int(found[1]), int(found[2] or found[1])) if found else (1, 99)

def faults(found:list, known:dict) -> list:
    "What is wrong with the sources."
    ids = [e.id for e in found]
    told = [f'{o} stands twice' for o in sorted(set(ids)) if ids.count(o) > 1]
    told += [o for o in map(misnamed, found) if o]
    told += [
        f'{e.id} wants the checks and the solution of a code task'
        for e in found
        if e.kind in ('code', 'script') and not (e.script and e.solution)
    ]
    return told + [
        f'{e.id}: chapter {e.chapter} has no section {e.section!r}'
        for e in found
        if (page := known.get(str(e.chapter)))
        and e.section not in page['sections']
        and 'Summary' in page['sections']
    ]

def text_of(nb) -> str: return nbformat.writes(nb, indent=1) + '\n'

def build(root:Path=ROOT) -> dict:
    "Contents of every generated file, by path."
    known = chapters(root)
    sources = {
        p.name: nbformat.read(p, as_version=4) for p in sorted((root / SOURCE).glob('*.ipynb'))
    }
    found = {name: exercises(nb, name) for name, nb in sources.items()}
    every = [e for o in found.values() for e in o]
    guesses = [
        e
        for p in sorted((root / GUESSES).glob('*.ipynb'))
        for e in exercises(nbformat.read(p, as_version=4), '')
    ]
    if told := faults(every + guesses, known): raise SystemExit('\n'.join(told))
    files = {}
    for name, nb in sources.items():
        files[f'{FOLDER}/{name}'] = text_of(notebook(nb, found[name], known, answered=False))
        files[f'{SOLVED}/{name}'] = text_of(notebook(nb, found[name], known, answered=True))
    keys = keys_file(every, guesses, known)
    return files | {KEYS: json.dumps(keys, ensure_ascii=False, indent=1) + '\n'}

def same(path:str, text:str, root:Path=ROOT) -> bool:
    "Whether the file in the tree says what the sources say."
    if not (root/path).is_file(): return False
    kept = (root/path).read_text(encoding='utf8')
    return kept == text or (
        path == KEYS and unpacked(json.loads(kept)) == unpacked(json.loads(text))
    )

def leftovers(files:dict, root:Path=ROOT) -> list:
    "Notebooks that no source makes any more."
    here = [
        p.relative_to(root).as_posix() for d in (FOLDER, SOLVED) for p in (root / d).glob('*.ipynb')
    ]
    return sorted(o for o in here if o not in files)

def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--check', action='store_true', help='write nothing, fail when something differs'
    )
    check, files = parser.parse_args().check, build()
    stale, left = [o for o, text in files.items() if not same(o, text)], leftovers(files)
    if check and (stale or left):
        sys.exit(
            f'{", ".join(stale + left)}: not what nbs/_exercises/source says. Run `python '
            'tools/exercises.py`.'
        )
    for o in left: (ROOT/o).unlink()
    for o in stale:
        (ROOT/o).parent.mkdir(parents=True, exist_ok=True)
        (ROOT/o).write_text(files[o], encoding='utf8')
    print(
        f'wrote {", ".join(stale)}'
        if stale or left
        else f'{len(files)} files agree with nbs/_exercises/source'
    )

if __name__ == '__main__': main()
