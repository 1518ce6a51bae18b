"""The house rules, read from sources without importing them; test_architecture.py applies them.

Every rule takes `{path: source}` and returns complaints, so that a test can show with made-up
sources that it does complain. Imports inside functions count like those at the top: an arrow is an
arrow.
"""
import ast
import io
import json
import re
import tokenize
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIB = ROOT/'sotavision'
ROOMS = (
    'core toynette data augment models objectives speed training callbacks transfer techniques '
    'tasks study app exercises cli'
).split()
MAX_MODULE, MAX_FUNCTION, MAX_WIDTH = 400, 40, 100
# chapters teach these by name, though only their modules use them
TAUGHT = {'boxes', 'head', 'jobs_for', 'residual', 'shortcut', 'stage', 'stem'}
GENERATED = '_modidx.py'
FACADES = 'all.py', 'training/__init__.py'   # they gather, and hold nothing else
# rooms that training's facade takes from: they begin with it
STARTED = tuple(f'{o}/__init__.py' for o in ('callbacks', 'transfer', 'techniques', 'tasks'))

def library() -> dict:
    "Source of every module of the library by its path."
    return {
        p.relative_to(LIB).as_posix(): p.read_text(encoding='utf8')
        for p in sorted(LIB.rglob('*.py'))
    }

def beside() -> dict:
    "Source of what stands beside the library: tests, tools and benchmarks."
    return {
        p.relative_to(ROOT).as_posix(): p.read_text(encoding='utf8')
        for folder in ('tests', 'tools', 'benchmarks')
        for p in sorted((ROOT/folder).glob('*.py'))
    }

def functions(tree):
    return [o for o in ast.walk(tree) if isinstance(o, (ast.FunctionDef, ast.AsyncFunctionDef))]

# --- imports

def module_name(path:str) -> str:
    "`data/block.py` → `data.block`, `data/__init__.py` → `data`."
    return path.removesuffix('.py').removesuffix('__init__').strip('/').replace('/', '.')

def targets(path:str, node) -> list:
    "Names inside our package that one import statement may bring in: `core`, `data.block` …"
    if isinstance(node, ast.Import):
        names = [o.name for o in node.names]
    elif node.level:
        parts = ['sotavision', *path.split('/')[:-1]]
        base = '.'.join(
            parts[: len(parts) - node.level + 1] + ([node.module] if node.module else [])
        )
        names = [base, *(f'{base}.{o.name}' for o in node.names)]
    else:
        names = [node.module, *(f'{node.module}.{o.name}' for o in node.names)]
    return [
        o.removeprefix('sotavision.')
        for o in names
        if o.startswith('sotavision.') and not o.endswith('__')
    ]

def imports(path:str, source:str) -> list:
    "Pairs (line, target) for every import of our own."
    nodes = [o for o in ast.walk(ast.parse(source)) if isinstance(o, (ast.Import, ast.ImportFrom))]
    return [(o.lineno, t) for o in nodes for t in targets(path, o)]

def room(name:str) -> str: return name.split('.')[0]

def arrow_ok(path:str, target:str) -> bool:
    """Facades may take from anywhere, the package's own `__init__` from nowhere, a room from itself
    and its left."""
    if path in FACADES: return True
    here, there = room(module_name(path)), room(target)
    return here in ROOMS and there in ROOMS and ROOMS.index(there) <= ROOMS.index(here)

def wrong_arrows(modules):
    "A room imports only rooms to its left."
    found = {
        (p, n, room(t)) for p, s in modules.items() for n, t in imports(p, s) if not arrow_ok(p, t)
    }
    return [f'{p}:{n} imports from {t}' for p,n,t in sorted(found)]

def unknown_rooms(modules):
    "Every module stands in a room that has a place in the order."
    free = {'__init__.py', 'all.py', GENERATED}
    return [
        f'{p} is in no known room'
        for p in modules
        if p not in free and room(module_name(p)) not in ROOMS
    ]

def absent_rooms(modules):
    "Every room in the order is there."
    there = {room(module_name(p)) for p in modules}
    return [f'there is no room {o}' for o in ROOMS if o not in there]

def reachable(graph:dict, start) -> set:
    "All that imports lead to from `start`."
    seen, todo = set(), [start]
    while todo:
        new = graph.get(todo.pop(), set()) - seen
        seen |= new; todo += new
    return seen

def cycles(modules):
    "No module reaches itself by imports."
    graph = {
        module_name(p): {t for _, t in imports(p, s)}
        for p, s in modules.items()
        if p not in STARTED
    }
    for p in modules:
        # `from . import a` names the room
        if p.endswith('__init__.py') and p not in STARTED:
            graph[module_name(p)].discard(module_name(p))
    return [f'{o} imports itself by a detour' for o in graph if o in reachable(graph, o)]

def star_imports(modules):
    "Star imports only in `all.py`."
    return [
        f'{p}:{o.lineno} star import'
        for p, s in modules.items()
        if p != 'all.py'
        for o in ast.walk(ast.parse(s))
        if isinstance(o, ast.ImportFrom) and o.names[0].name == '*'
    ]

def side_effects(modules):
    """No import whose names nobody uses: what a module does to others, it does when its room is
    imported."""
    return [
        f'{p}:{n} imports {name} and never uses it'
        for p, s in modules.items()
        if p not in (*FACADES, *STARTED, GENERATED)
        for n, name in unused(ast.parse(s))
    ]

def unused(tree) -> list:
    "Pairs (line, name) of imports that nothing reads."
    read = (
        {o.id for o in ast.walk(tree) if isinstance(o, ast.Name)}
        | exported(tree)
        | listed(tree, '_all_')
    )
    found = [(o.lineno, a.asname or a.name.split('.')[0]) for o in ast.walk(tree)
             if isinstance(o, (ast.Import, ast.ImportFrom)) for a in o.names]
    return [(n, name) for n, name in found if name not in read]

def private(modules):
    "A name that begins with `_` stays in its room."
    found = [
        (p, o.lineno, a.name, base)
        for p, s in modules.items()
        for o in ast.walk(ast.parse(s))
        if isinstance(o, ast.ImportFrom)
        for a in o.names
        for base in [targets(p, o)[:1]]
        if base and a.name.startswith('_')
    ]
    return [f'{p}:{n} takes {name} from {base[0]}' for p,n,name,base in found
            if not name.endswith('__') and room(base[0]) != room(module_name(p))]

# --- names that only their module uses

IMPORT = re.compile(r'from (?:sotavision\.|(\.+))([\w.]*) import (\([^)]*\)|[\w, ]+)')

def package(path:str, dots:str, base:str) -> str:
    "`data.files` for what `from .files import x` in `data/a.py` names."
    parts = path.split('/')[:-1] if dots else []
    return '.'.join([*parts[: len(parts) - len(dots) + 1], *filter(None, [base])])

def imported(path:str, text:str) -> dict:
    "What names stand for that imports bring in, strings of code included: `{'x': 'data.files.x'}`."
    found = {}
    for dots, base, names in IMPORT.findall(text):
        for o in re.sub(r'#.*|[()\\]', '', names).split(','):
            if words := o.split(): found[words[-1]] = f'{package(path, dots, base)}.{words[0]}'
    return found | {b: a for a, b in re.findall(r'import sotavision\.([\w.]+) as (\w+)', text)}

def reads(path:str, text:str) -> set:
    "What a text takes from our modules, by import, as attribute or by a string: `data.files.x`."
    known = imported(path, text)
    found = {*known.values(), *re.findall(r'\bsotavision\.([\w.]+)', text)}
    # files.x, setattr(files, 'x', …)
    for word, name in re.findall(r"""\b(\w+)(?:\.|, *['"])(\w+)""", text):
        if word in known: found.add(f'{known[word]}.{name}')
    return found

def notebook_reads(notebook:dict) -> set:
    "What a notebook takes from modules that are not its own."
    code = '\n\n'.join(''.join(o['source']) for o in notebook['cells'] if o['cell_type'] == 'code')
    own = re.search(r'^#\| *default_exp (\S+)', code, re.M)
    return {o for o in reads('', code) if not (own and o.startswith(f'{own[1]}.'))}

@cache
def read_elsewhere() -> set:
    "What tests, tools, benchmarks and notebooks take from the library."
    texts = [p.read_text(encoding='utf8') for d in ('tests', 'tools', 'benchmarks')
             for p in (ROOT/d).glob('*.py')]
    notebooks = [json.loads(p.read_text(encoding='utf8')) for p in (ROOT/'nbs').rglob('*.ipynb')]
    return set().union(*(reads('', o) for o in texts), *map(notebook_reads, notebooks))

def own_names(source:str) -> list:
    "Functions, classes and constants at the top of a module that are neither public nor marked."
    tree = ast.parse(source)
    kinds = ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef
    names = [o.name for o in tree.body if isinstance(o, kinds) and not is_patch(o)]
    names += [
        n.id
        for o in tree.body
        if isinstance(o, (ast.Assign, ast.AnnAssign))
        for t in (o.targets if isinstance(o, ast.Assign) else [o.target])
        for n in ast.walk(t)
        if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
    ]
    free = exported(tree) | listed(tree, '_all_')
    return [o for o in dict.fromkeys(names) if o not in free and not o.startswith('_')]

def unmarked_names(modules) -> list:
    "Pairs (path, name) of names without `_` that only their module uses."
    taken = read_elsewhere().union(*(reads(p, s) for p, s in modules.items() if p != GENERATED))
    return [(p, o) for p, s in modules.items() if p not in (*FACADES, GENERATED)
            for o in own_names(s) if f'{module_name(p)}.{o}' not in taken]

def unmarked(modules):
    "A name that only its module uses begins with `_`, but for those that a chapter teaches."
    return [f'{p} {name} is used nowhere else and lacks a _'
            for p, name in unmarked_names(modules) if name not in TAUGHT]

# --- statements that hide what they do

def nodes(modules, kind):
    "Pairs (path, node) of all nodes of a kind."
    return [(p, o) for p, s in modules.items() for o in ast.walk(ast.parse(s))
            if isinstance(o, kind)]

def thrown_away(modules):
    "A comprehension makes something that is used; for what a call does there are loops."
    kinds = ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp
    return [f'{p}:{o.lineno} makes a comprehension and throws it away'
            for p, o in nodes(modules, ast.Expr) if isinstance(o.value, kinds)]

def hidden_assignments(modules):
    "A `for` binds plain names."
    loops = nodes(modules, (ast.For, ast.AsyncFor, ast.comprehension))
    return [
        f'{p}:{o.target.lineno} assigns to {ast.unparse(n)} inside `for`'
        for p, o in loops
        for n in ast.walk(o.target)
        if isinstance(n, (ast.Attribute, ast.Subscript))
    ]

def chained_subscripts(modules):
    "What stands in [] has at most one condition."
    def chained(o):
        return any(isinstance(n, ast.IfExp) for n in ast.walk(o) if n is not o)
    return [
        f'{p}:{o.lineno} chains conditions in []'
        for p, o in nodes(modules, ast.Subscript)
        if any(isinstance(n, ast.IfExp) and chained(n) for n in ast.walk(o.slice))
    ]

# --- sizes

def long_modules(modules):
    "A module fits in 400 lines."
    sizes = {p: len(s.splitlines()) for p,s in modules.items() if p != GENERATED}
    return [f'{p} has {n} lines' for p,n in sizes.items() if n > MAX_MODULE]

def long_functions(modules):
    "The body of a function fits in 40 lines."
    sizes = [
        (p, o.name, o.end_lineno - o.body[0].lineno + 1)
        for p, s in modules.items()
        for o in functions(ast.parse(s))
    ]
    return [f'{p} {name} has {n} lines' for p,name,n in sizes if n > MAX_FUNCTION]

LIST = re.compile(r'^__all__ = \[[^]]*\]$', re.M)

def wide_lines(modules):
    "Lines are at most 100 columns wide, but for `__all__`, which nbdev wraps at 120."
    return [
        f'{p}:{n} has {len(o)} columns'
        for p, s in modules.items()
        if p != GENERATED
        for n, o in enumerate(LIST.sub(_blank, s).splitlines(), 1)
        if len(o) > MAX_WIDTH
    ]

def _blank(found) -> str: return '\n' * found[0].count('\n')

# --- documentation

def exported(tree) -> set: return listed(tree, '__all__')

def listed(tree, name:str) -> set:
    "The names in a list at the top of a module."
    lists = [
        o.value
        for o in tree.body
        if isinstance(o, ast.Assign) and getattr(o.targets[0], 'id', '') == name
    ]
    return {name for o in lists for name in ast.literal_eval(o)}

def is_patch(node) -> bool:
    made = [getattr(o, 'func', o) for o in getattr(node, 'decorator_list', [])]
    return any(getattr(o, 'id', '') == 'patch' for o in made)

def public(source:str) -> list:
    "Public functions and classes that `source` defines, patched-in methods among them."
    tree = ast.parse(source)
    defined = [
        o for o in tree.body if isinstance(o, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
    ]
    return [
        o
        for o in defined
        if o.name in exported(tree) or (is_patch(o) and not o.name.startswith('_'))
    ]

def undocumented(modules):
    "Every public function and class has a docstring."
    return [
        f'{p} {o.name} has no docstring'
        for p, s in modules.items()
        for o in public(s)
        if not ast.get_docstring(o)
    ]

@cache
def comment_lines(source:str) -> dict:
    "For every line with a comment: does it stand there alone?"
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {
        o.start[0]: o.line.lstrip().startswith('#') for o in tokens if o.type == tokenize.COMMENT
    }

def parameters(node) -> list:
    """Pairs (name, last line) that the caller passes: arguments of a function or `__init__`, fields
    of a dataclass."""
    if isinstance(node, ast.ClassDef):
        init = [o for o in functions(node) if o.name == '__init__' and o in node.body]
        if init: return parameters(init[0])
        fields = 'dataclass' in ''.join(map(ast.unparse, node.decorator_list))
        return [
            (o.target.id, o.end_lineno)
            for o in node.body
            if fields and isinstance(o, ast.AnnAssign)
        ]
    a = node.args
    args = [*a.posonlyargs, *a.args, a.vararg, *a.kwonlyargs, a.kwarg]
    return [(o.arg, o.end_lineno) for o in args if o and o.arg not in ('self', 'cls')]

def missing_docments(source:str, node) -> list:
    "Parameters without a comment of their own, on their line or alone on the line above."
    comments, last = comment_lines(source), {line: name for name,line in parameters(node)}
    returns = getattr(node, 'returns', None)
    def told(name, line):
        own = (
            comments.get(line) is False
            and last[line] == name
            and not (returns and returns.lineno == line)
        )
        return own or comments.get(line - 1) is True
    return [name for name,line in parameters(node) if not told(name, line)]

def undocumented_parameters(modules):
    "Every parameter of a public function or class has a comment beside it."
    return [f'{p} {o.name}({name}) has no comment' for p,s in modules.items() for o in public(s)
            for name in missing_docments(s, o)]
