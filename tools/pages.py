"""Notebooks to pages: nbdev finds directives and what needs documenting, this writes it the way
MyST reads it."""
import ast
import inspect
import re
from dataclasses import dataclass, field
from importlib import import_module
from itertools import count
from pathlib import Path
from urllib.parse import quote

import nbformat
from fastcore.docments import docments
from nbdev.process import NBProcessor
from nbdev.processors import add_show_docs, clean_magics, filter_stream_, hide_line, strip_ansi
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from nbformat.v4.rwbase import rejoin_lines

from outputs import captioned, is_picture, picture_class, tidy
from sotavision.exercises.keys import book

PREFIX = r'(\d+)_(?=[\w-]+\.ipynb)'   # number at the head of a chapter's file name
DROPPED = {'hide', 'default_exp'}
AMBIGUOUS = {'progress'}   # of core, while the exercises have one of their own
KEYWORD, VARIADIC = inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_POSITIONAL

@dataclass
class Page:
    "One notebook on its way to the site."
    path: str        # of the notebook below `nbs/`: `course/01_toynette.ipynb`
    cells: list      # as nbdev hands them on
    title: str = ''
    lead: str = ''   # the one-line description below the title
    shown: dict = field(default_factory=dict)   # what it documents: name → object
    module: str = '' # the module that it exports: `toynette.dataset`

    @property
    def number(self): return re.match(PREFIX, Path(self.path).name)
    @property
    def room(self): return self.module.split('.')[0]
    @property
    def name(self): return site_path(self.path).removesuffix('.ipynb')
    @property
    def is_exercise(self): return str(Path(self.path).parent) == 'exercises'
    @property
    def is_chapter(self): return str(Path(self.path).parent) == 'course'
    @property
    def heading(self):
        return f'{int(self.number[1])}. {self.title}' if self.is_chapter else self.title

def site_path(path:str) -> str:
    "`course/01_toynette.ipynb` → `course/toynette.ipynb`: addresses survive renumbering."
    return re.sub(r'(^|/)' + PREFIX, r'\1', path)

# --- reading

def read_page(root:Path, path:str) -> Page:
    "Notebook `path` below `root`: directives parsed, a `show_doc` cell for each exported name."
    procs = [add_show_docs, strip_ansi, hide_line, filter_stream_, clean_magics]
    nb = NBProcessor(root/path, procs=procs, process=True).nb
    page = Page(
        path,
        shown_once(nb.cells[1:]),
        *title_and_lead(nb.cells[0].source, path),
        module=module_of(nb),
    )
    names = [shown_name(c) for c in page.cells if shown_name(c)]
    space = namespace(nb) if names else {}
    page.shown = {o: lookup(o, space, path) for o in names}
    return page

def shown_once(cells:list) -> list:
    "Without the second `show_doc` of a name: nbdev adds one of its own for a patched method."
    seen = set()
    return [c for c in cells if not (name := shown_name(c)) or not (name in seen or seen.add(name))]

def title_and_lead(source:str, path:str) -> tuple:
    found = re.fullmatch(r'# +([^\n]+)(?:\n+> *([^\n]+))?', source.strip())
    if not found:
        raise ValueError(
            f'{path}: the first cell has to be "# Title" and "> description", nothing else'
        )
    return found[1], found[2] or ''

def module_of(nb) -> str:
    "The module that a notebook exports, '' for none."
    return next(
        (c.directives_['default_exp'][0] for c in nb.cells if 'default_exp' in c.directives_), ''
    )

def namespace(nb) -> dict:
    "The names of the module that a notebook exports."
    return vars(import_module(f'sotavision.{module_of(nb) or "all"}'))

def lookup(name:str, space:dict, path:str):
    try: return eval(name, dict(space))
    except (NameError, AttributeError) as e:
        raise ValueError(
            f'{path}: show_doc({name}): {e}. Is the module exported? Run `make export`.'
        ) from e

def shown_name(cell) -> str:
    "What a `show_doc(…)` cell shows, '' for any other cell."
    if cell.cell_type != 'code' or not cell.source.strip().startswith('show_doc('): return ''
    return ast.unparse(ast.parse(cell.source.strip()).body[0].value.args[0])

# --- documentation of one name

def anchor(name:str) -> str:
    "Where `name` is documented: anchors know no case, and `Backdrop` is not `backdrop`."
    kind = 'class' if name.rpartition('.')[2][0].isupper() else 'def'
    return f'{kind}-{name}'.lower()

def value_text(o) -> str:
    text = getattr(o, '__name__', None) or re.sub(r' at 0x\w+', '', repr(o))
    return text if len(text) <= 80 else f'{type(o).__name__}(...)'

def type_text(o) -> str:
    "An annotation without the modules its names come from, '' for none."
    if o in (inspect.Parameter.empty, type(None), object): return ''
    text = o if isinstance(o, str) else inspect.formatannotation(o)
    return re.sub(r'\b(?:\w+\.)+(\w+)', r'\1', text)

def parameters(obj) -> dict:
    try: found = inspect.signature(obj).parameters
    except (ValueError, TypeError): return {}
    return {k: v for k,v in found.items() if k != 'self'}

def call_text(name:str, obj) -> str:
    "`name(a, b=1)`, a parameter a line where one line is too short."
    params = list(parameters(obj).values())
    told, kinds = [str(plain(o)) for o in params], [o.kind for o in params]
    if KEYWORD in kinds and VARIADIC not in kinds: told.insert(kinds.index(KEYWORD), '*')
    line = f'{name}({", ".join(told)})'
    return line if len(line) <= 76 else f'{name}(\n    ' + ',\n    '.join(told) + ',\n)'

class Plain:
    "A default value that prints as one would write it."
    def __init__(self, value): self.value = value
    def __repr__(self): return value_text(self.value)

def plain(param):
    "A parameter without its type."
    default = param.default if param.default is param.empty else Plain(param.default)
    return param.replace(annotation=param.empty, default=default)

def row(left:str, right:str) -> str: return f'| {left} | {right} |'.replace('\n', ' ')

def parameter_table(obj) -> str:
    told, params = docments(obj, full=True), parameters(obj)
    def left(k):
        kind = type_text(params[k].annotation)
        return ' '.join(
            [f'`{k}`', *([f'<span class="type">{escape(kind)}</span>'] if kind else [])]
        )
    rows = [row(left(k), told[k].docment or '') for k in params if k in told]
    back = told.get('return') if inspect.isfunction(obj) else None
    if back and (back.docment or type_text(back.anno)):
        rows.append(
            row(
                f'*returns* <span class="type">{escape(type_text(back.anno))}</span>',
                back.docment or '',
            )
        )
    return '\n'.join(['| Parameter | Meaning |', '|---|---|', *rows]) if rows else ''

def escape(text:str) -> str: return text.replace('<', '&lt;').replace('|', '&#124;')

def methods(name:str, obj, documented) -> str:
    "The methods of a class that say what they do and have no entry of their own."
    if not inspect.isclass(obj): return ''
    own = {
        k: v
        for k, v in vars(obj).items()
        if inspect.isfunction(v) and not k.startswith('_') and v.__doc__
    }
    rows = [
        row(f'`.{call_text(k, v)}`', ' '.join(inspect.getdoc(v).split('\n\n')[0].split()))
        for k, v in own.items()
        if f'{name}.{k}' not in documented
    ]
    return '\n'.join(['| Method | What it does |', '|---|---|', *rows]) if rows else ''

def escape_heading(name:str) -> str: return name.replace('_', r'\_')

def api_block(name:str, obj, documented, level:int=3) -> str:
    "Heading, signature, description and parameters of `obj`."
    parts = [
        f'({anchor(name)})=\n{"#" * level} {escape_heading(name)}',
        f'```python\n{call_text(name, obj)}\n```',
        inspect.getdoc(obj) or '',
        parameter_table(obj),
        methods(name, obj, documented),
    ]
    return '\n\n'.join(o for o in parts if o)

# --- cells

def page_links(text:str) -> str:
    "Links to notebooks become links to their pages, places in them are called as on the site."
    place = r'(\]\([^)\s#]+\.ipynb#|\]\(#(?=[A-Z]))([^)\s]+)'
    text = re.sub(place, lambda m: m[1] + slug(m[2]), text)
    return re.sub(r'(\]\((?:[^)\s:#]*/)?)' + PREFIX, r'\1', text)

def slug(place:str) -> str:
    "`Look-first:-how-is-it-laid-out?`, as JupyterLab calls a heading, the way MyST does."
    return re.sub(r'[^\w-]', '', place.lower())

def api_links(text:str, names) -> str:
    "Names in backticks become links to what documents them, but in headings, code and links."
    def link(m): return f'[{m[0]}](#{anchor(m[1])})' if m[1] in names else m[0]
    parts = re.split(
        r'(^```.*?^```|^ {4}.*?$|^#.*?$|\[[^\]]*\]\([^)]*\)|<summary>.*?</summary>)',
        text,
        flags=re.DOTALL | re.MULTILINE,
    )
    return ''.join(
        o if i % 2 else re.sub(r'(?<!`)`([A-Za-z_][\w.]*)(?:\(\))?`(?!`)', link, o)
        for i, o in enumerate(parts)
    )

def summaries(text:str) -> str:
    "Code and formulas in the line that opens a fold, where Markdown has no say."
    def line(m):
        found = re.sub(r'`([^`]+)`', r'<code>\1</code>', m[1])
        maths = r'<span class="math notranslate nohighlight">\\(\1\\)</span>'
        return f'<summary>{re.sub(r"[$]([^$]+)[$]", maths, found)}</summary>'
    return re.sub(r'<summary>(.*?)</summary>', line, text, flags=re.DOTALL)

def option(cell, name:str) -> str:
    "Value of a directive like `#| fig-alt: \"…\"`, '' without it."
    return ' '.join(cell.directives_.get(f'{name}:', [])).strip('"\'').replace('\\\\', '\\')

def tags(cell, page:Page) -> list:
    "How the page shows a code cell: in full, folded, or only what it printed."
    exported = {'export', 'exporti', 'exports'} & set(cell.directives_)
    plumbing = exported and (
        not page.is_chapter or 'exporti' in exported or only_imports(cell.source)
    )
    found = ['remove-input'] if option(cell, 'echo') == 'false' else []
    if option(cell, 'output') == 'false': found.append('remove-output')
    # what answers a guess: folded in JupyterLab, so folded here
    if cell.metadata.get('jupyter', {}).get('outputs_hidden'): found.append('hide-output')
    if plumbing or option(cell, 'code-fold') in ('true', 'show'): found.append('hide-input')
    return found + [o for o in cell.metadata.get('tags', []) if o not in found]

def only_imports(source:str) -> bool:
    try: return all(isinstance(o, (ast.Import, ast.ImportFrom)) for o in ast.parse(source).body)
    except SyntaxError: return False   # `!ls` and other lines that are not Python

def figure(cell) -> dict:
    "What myst-nb wants to know about a picture."
    alt, caption = option(cell, 'fig-alt'), option(cell, 'fig-cap')
    found = {'image': {'alt': alt or caption}} if alt or caption else {}
    return {**found, 'figure': {'caption': caption}} if caption else found

def prompts(found:list, source:str) -> dict:
    "What the line says that opens a folded cell."
    if 'hide-output' in found:
        return {'code_prompt_show': 'Show the answer', 'code_prompt_hide': 'Hide the answer'}
    if only_imports(source):
        return {'code_prompt_show': 'Imports', 'code_prompt_hide': 'Imports'}
    return {}

def bare(source:str) -> str:
    "Source without directive lines."
    return '\n'.join(o for o in source.splitlines() if not o.startswith('#|')).strip()

def code_cell(cell, page:Page):
    outputs = tidy([nbformat.from_dict(o) for o in cell.get('outputs', [])])
    found = tags(cell, page)
    shown = {**figure(cell), **prompts(found, cell.source)}
    pictures = [o for o in outputs if is_picture(o)]
    if pictures: shown['image'] = {**shown.get('image', {}), 'classes': picture_class(pictures)}
    if 'figure' in shown and 0 < len(pictures) < len(outputs):
        outputs = captioned(outputs, shown.pop('figure')['caption'])
    meta = {'tags': found, **({'mystnb': shown} if shown else {})}
    return new_code_cell(bare(cell.source), outputs=outputs, metadata=meta)

def hidden(cell) -> bool:
    return (
        cell.cell_type == 'raw'
        or bool(DROPPED & set(cell.directives_))
        or option(cell, 'include') == 'false'
    )

def convert(cell, page:Page, names, level:int):
    if name := shown_name(cell):
        return new_markdown_cell(api_block(name, page.shown[name], names, level))
    if cell.cell_type == 'markdown':
        return new_markdown_cell(
            summaries(
                page_links(api_links(cell.source, names - AMBIGUOUS if page.is_exercise else names))
            )
        )
    return code_cell(cell, page)

def with_hints(cells:list) -> list:
    "Folded hints below the cell in which an exercise is answered."
    out = []
    for c in cells:
        asked = re.match(r"(?:check|answer)\('(\w+)'", c.source) if c.cell_type == 'code' else None
        out += [c] + (
            [new_markdown_cell('\n\n'.join(map(folded, count(1), book()[asked[1]].hints)))]
            if asked
            else []
        )
    return out

def folded(i: int, hint: str) -> str:
    return f'<details><summary>Hint {i}</summary>\n\n{page_links(hint)}\n\n</details>'

def source_last(cells:list, page:Page) -> list:
    "On a library page the folded source stands below the documentation of what it defines."
    out, held = [], []
    for c in cells:
        if not shown_name(c): out += held; held = []
        if not page.is_chapter and 'export' in c.directives_: held.append(c)
        else: out.append(c)
    return out + held

def launchers(page:Page, source_url:str) -> str:
    "Links that open the notebook where it can be run without an installation."
    repo, _, folder = source_url.removeprefix('https://github.com/').partition('/blob/')
    branch, _, folder = folder.partition('/')
    path = f'{folder}/{page.path}'
    colab = f'https://colab.research.google.com/github/{repo}/blob/{branch}/{path}'
    binder = f'https://mybinder.org/v2/gh/{repo}/{branch}?labpath={quote(path, safe="")}'
    return f' · run it on [Colab]({colab}) or [Binder]({binder})'

def head(page:Page, source_url:str) -> str:
    "Title, description and where the notebook is."
    lead = f'\n\n{{.lead}}\n{page.lead}' if page.lead else ''
    source = f'[{Path(page.path).name}]({source_url}/{page.path})'
    if not page.name.startswith('reference/'):
        source += launchers(page, source_url)
    source = f'\n\n{{.source}}\nNotebook: {source}' if page.name != 'index' else ''
    return f'# {page.heading}{lead}{source}'

def api_levels(cells:list) -> list:
    "Per cell the level of an API heading there: one below the author's last heading, at most 3."
    levels, now = [], 2
    for c in cells:
        found = (
            re.findall(r'^(#+) ', re.sub(r'```.*?```', '', c.source, flags=re.DOTALL), re.M)
            if c.cell_type == 'markdown'
            else []
        )
        if found: now = min(3, len(found[-1]) + 1)
        levels.append(now)
    return levels

def render(page:Page, names, source_url:str):
    "The page as a MyST notebook."
    kept = [c for c in source_last(page.cells, page) if not hidden(c) and bare(c.source)]
    cells = [
        new_markdown_cell(head(page, source_url)),
        *(convert(c, page, names, n) for c, n in zip(kept, api_levels(kept))),
    ]
    if page.is_exercise: cells = with_hints(cells)
    meta = {
        'kernelspec': {'name': 'python3', 'display_name': 'python3', 'language': 'python'},
        'language_info': {'name': 'python'},
    }
    return rejoin_lines(new_notebook(cells=cells, metadata=meta))
