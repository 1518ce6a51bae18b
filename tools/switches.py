"""A switch before every guard of the library, put there as it is imported.

A guard is a `raise`, a `warn(…)`, a part of the condition before them (`a or b`), a look for what
is not finite, a lock, or a comparison of checksums. The environment says which is broken
(`GUARD_BROKEN`) and where to note who reaches one (`GUARD_LOG`), so processes that a test starts
have the switches too.
"""
import ast
import builtins
import contextlib
import importlib.machinery
import os
import sys
import tempfile
from pathlib import Path

LIB = Path(__file__).resolve().parents[1]/'sotavision'
WARNS = 'warnings.warn(', 'warn('
CHECKSUMS = 'digest', 'md5', 'sha256', 'crc32', 'sums', 'checksum'

class Switches(ast.NodeTransformer):
    "Puts a switch before every guard of the module `path`; `found` names them."
    def __init__(self, path:str): self.path, self.found = path, []

    def switch(self, node, kind, how='_guard_holds', *args):
        key = f'{self.path}:{node.lineno}:{node.col_offset} {kind}'
        self.found.append(key)
        return ast.Call(ast.Name(how, ast.Load()), [ast.Constant(key), *args], [])

    def statement(self, node, kind): return ast.If(self.switch(node, kind), [node], [])

    def visit_Raise(self, node): return self.statement(self.generic_visit(node), 'raise')

    def visit_If(self, node):
        "Every part of a guard's condition may be missing on its own."
        first, both = node.body[0], isinstance(node.test, ast.BoolOp)
        guards = isinstance(first, ast.Raise) or ast.unparse(first).startswith(WARNS)
        self.generic_visit(node)
        if not guards or not both: return node
        gone = ast.Constant(isinstance(node.test.op, ast.And))
        node.test.values = [self.switch(o, 'part', '_guard_value', ast.UnaryOp(ast.Not(),
                            ast.UnaryOp(ast.Not(), o)), gone)
                            for o in node.test.values]
        return node

    def visit_Expr(self, node):
        self.generic_visit(node)
        return self.statement(node, 'warn') if ast.unparse(node).startswith(WARNS) else node

    def visit_Call(self, node):
        self.generic_visit(node)
        name = getattr(node.func, 'attr', getattr(node.func, 'id', ''))
        if name not in ('isfinite', 'isnan'): return node
        wanted = ast.Constant(name == 'isfinite')
        return self.switch(node, name, '_guard_value', node, wanted)

    def visit_Compare(self, node):
        self.generic_visit(node)
        known = any(o in ast.unparse(node).lower() for o in CHECKSUMS)
        if not known or not isinstance(node.ops[0], (ast.Eq, ast.NotEq)): return node
        wanted = ast.Constant(isinstance(node.ops[0], ast.Eq))
        return self.switch(node, 'checksum', '_guard_value', node, wanted)

    def visit_With(self, node):
        self.generic_visit(node)
        for o in node.items:
            if 'lock' not in ast.unparse(o.context_expr).lower(): continue
            lock, nothing = o.context_expr, ast.Call(ast.Name('_guard_nothing', ast.Load()), [], [])
            o.context_expr = ast.IfExp(self.switch(lock, 'lock'), lock, nothing)
        return node

def switched(source:str, path:str):
    "Tree of the module `path` with its switches, and their names."
    change = Switches(path)
    tree = ast.fix_missing_locations(change.visit(ast.parse(source)))
    return tree, change.found

noted = set()

def note(key):
    "Write down who reaches the guard, where a record is asked for."
    who = os.environ.get('PYTEST_CURRENT_TEST', os.environ.get('GUARD_RUN', '')).rpartition(' (')
    entry = f'{key}\t{who[0] or who[2]}\n'
    if 'GUARD_LOG' not in os.environ or entry in noted: return
    noted.add(entry)
    with contextlib.suppress(OSError):
        file = os.open(os.environ['GUARD_LOG'], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(file, entry.encode()); os.close(file)

def holds(key) -> bool:
    note(key)
    return os.environ.get('GUARD_BROKEN') != key

def value(key, found, wanted):
    "What was `found`, or what the broken guard sees; it is reached where the two differ."
    if bool((found == wanted) if isinstance(found, bool) else (found == wanted).all()):
        return found
    return found if holds(key) else (found | True) if wanted else (found & False)

class Loader(importlib.machinery.SourceFileLoader):
    codes = {}
    def get_code(self, fullname):
        if self.path not in self.codes:
            tree, _ = switched(Path(self.path).read_text('utf8'), Path(self.path).relative_to(
                LIB).as_posix())
            self.codes[self.path] = compile(tree, self.path, 'exec', dont_inherit=True)
        return self.codes[self.path]

class Finder(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, fullname, path=None, target=None):
        if fullname.split('.')[0] != 'sotavision': return None
        spec = super().find_spec(fullname, path, target)
        if spec and isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            spec.loader = Loader(spec.loader.name, spec.loader.path)
        return spec

# what changes files, and which of its arguments are paths
CHANGES = {'open': 1, 'os.rename': 2, 'os.link': 2, 'os.symlink': 2, 'os.remove': 1, 'os.rmdir': 1,
           'os.mkdir': 1, 'os.chmod': 1, 'os.chown': 1, 'os.truncate': 1, 'shutil.rmtree': 1}
HERE = [tempfile.gettempdir(), os.environ.get('SOTAVISION_HOME', LIB.parent/'.cache'),
        Path.home()/'.cache', Path.home()/'.ipython']

def stay_here(event, args):
    "An audit hook: without its guards the library must not change files that no test made."
    if event not in CHANGES: return
    if event == 'open' and not (args[2] or 0) & (os.O_WRONLY | os.O_RDWR): return
    folders = args[-2 if event in ('os.rename', 'os.link') else -1:]
    if event not in ('open', 'os.truncate') and any(type(o) is int and o >= 0 for o in folders):
        return   # relative to a folder that was opened
    allowed = tuple(os.path.realpath(o) + os.sep for o in HERE)
    for o in args[event == 'os.symlink':CHANGES[event]]:
        if not isinstance(o, (str, bytes, os.PathLike)): continue
        o = os.fsdecode(o)
        at = os.path.join(os.path.realpath(os.path.dirname(o)), os.path.basename(o))
        if event == 'open': at = os.path.realpath(o)   # it follows links
        device = at.startswith('/dev/') and os.path.exists(at) and not os.path.isfile(at)
        if event == 'open': at += os.sep   # a nameless file is opened by its folder
        if event == 'open' and device or at.startswith(allowed): continue
        raise PermissionError(f'{event} of {at}: only files of tests may be changed here')

def install(scratch):
    """From here on, modules of the library are imported with switches, and only files in `scratch`,
    temporary ones, `SOTAVISION_HOME` and caches may be changed."""
    HERE.append(scratch)
    sys.addaudithook(stay_here)
    builtins._guard_holds, builtins._guard_value = holds, value
    builtins._guard_nothing = contextlib.nullcontext
    sys.meta_path.insert(0, Finder)
