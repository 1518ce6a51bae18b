"What somebody meets who installs the package: imports, names, signatures, versions."
import ast
import configparser
import importlib
import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest

import sotavision
import sotavision.all as everything

ROOT = Path(__file__).resolve().parents[1]

def modules_after(code):
    "Which heavy modules a fresh Python has loaded after `code`."
    code += (
        '\nimport sys; print([m for m in ("torch", "torchvision", "fastcore", "matplotlib", '
        '"pandas", "numpy") if m in sys.modules])'
    )
    r = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    return r.stdout.strip().splitlines()[-1]

def test_import_is_light(): assert modules_after('import sotavision') == '[]'

def test_help_is_light():
    assert modules_after('from sotavision.cli import parser\nparser().format_help()') == '[]'

def test_the_command_line_is_a_module_too():
    argv = [sys.executable, '-m', 'sotavision.cli', '--help']
    r = subprocess.run(argv, capture_output=True, text=True)
    assert r.returncode == 0 and 'usage: sotavision' in r.stdout and 'lr-find' in r.stdout

def starred():
    "Modules that `sotavision.all` takes its names from."
    tree = ast.parse((ROOT/'sotavision'/'all.py').read_text())
    return [
        importlib.import_module('sotavision.' + n.module)
        for n in tree.body
        if isinstance(n, ast.ImportFrom) and n.names[0].name == '*'
    ]

@pytest.mark.skipif(not hasattr(os, 'fork'), reason='each module needs a process of its own')
def test_every_module_can_be_the_first_one():
    code = """
import os, sys
import filelock, matplotlib.pyplot, numpy, pandas, PIL.Image, torch, torchvision
def alone(name):
    if pid := os.fork(): return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    try: __import__(name)
    except BaseException as e: print(f'{name}: {e!r}', flush=True)
    os._exit(0)
for name in sys.argv[1:]: alone(name)"""
    files = [o for o in (ROOT/'sotavision').rglob('*.py') if not o.name.startswith('_')]
    names = sorted('.'.join(o.relative_to(ROOT).with_suffix('').parts) for o in files)
    r = subprocess.run([sys.executable, '-c', code, *names], capture_output=True, text=True)
    assert len(names) > 90 and (r.returncode, r.stdout, r.stderr) == (0, '', '')

def test_all_gives_the_public_names_and_no_others():
    tree = ast.parse((ROOT/'sotavision'/'all.py').read_text())
    named = {
        a.asname or a.name
        for n in tree.body
        if isinstance(n, (ast.ImportFrom, ast.Import))
        for a in n.names
    } - {'*'}
    public = named | {n for m in starred() for n in m.__all__}
    space = {}
    exec('from sotavision.all import *', space)
    assert set(space) - {'__builtins__'} == public

def test_no_name_stands_for_two_things():
    seen = {}
    for m in starred():
        for n in m.__all__:
            assert seen.setdefault(n, getattr(m, n)) is getattr(m, n), (
                f'{n} of {m.__name__} means something else elsewhere'
            )

def callables():
    "Public functions, classes and public methods, each once."
    for name in sorted(n for m in starred() for n in m.__all__):
        o = getattr(everything, name)
        # torchvision's own, passed on
        if not getattr(o, '__module__', '').startswith('sotavision'): continue
        if inspect.isfunction(o) or inspect.isclass(o): yield name, o
        if inspect.isclass(o):
            yield from (
                (f'{name}.{k}', f)
                for k, f in vars(o).items()
                if inspect.isfunction(f) and not k.startswith('_')
            )

@pytest.mark.parametrize('name,f', list(callables()), ids=lambda o: o if isinstance(o, str) else '')
def test_an_unknown_keyword_is_an_error(name, f):
    if inspect.isclass(f) and issubclass(f, BaseException): return
    kinds = {p.kind for p in inspect.signature(f).parameters.values()}
    assert inspect.Parameter.VAR_KEYWORD not in kinds, f'{name} swallows keywords'

def settings():
    c = configparser.ConfigParser(delimiters=['='])
    c.read(ROOT/'settings.ini')
    return c['DEFAULT']

def test_version_is_the_same_everywhere():
    assert sotavision.__version__ == settings()['version']
    assert f"## {sotavision.__version__}" in (ROOT/'CHANGELOG.md').read_text()

def test_files_beside_modules_are_packaged():
    "`MANIFEST.in` names every kind of file that modules read: templates, keys."
    lines = (ROOT/'MANIFEST.in').read_text().splitlines()
    kinds, = [o.split()[2:] for o in lines if o.startswith('recursive-include sotavision ')]
    files = [o for o in (ROOT/'sotavision').rglob('*.*') if o.is_file()]
    beside = [o for o in files if not o.suffix.startswith('.py') or o.name == 'py.typed']
    assert {o.name for o in beside} >= {'report.html', 'keys.json', 'py.typed'}
    assert not [o for o in beside if not any(map(o.match, kinds))]

def test_every_requirement_admits_its_constraint():
    from packaging.requirements import Requirement
    lines = [o.split('#')[0].strip() for o in (ROOT/'constraints.txt').read_text().splitlines()]
    pins = {
        r.name.lower(): r
        for r in map(Requirement, filter(None, lines))
        if r.marker is None or r.marker.evaluate()
    }
    for line in settings()['requirements'].split() + settings()['dev_requirements'].split():
        r = Requirement(line)
        if r.name.lower() not in pins: continue
        version = next(iter(pins[r.name.lower()].specifier)).version
        assert r.specifier.contains(version), f'{line} excludes {version} of constraints.txt'

def test_every_import_is_a_requirement():
    "What the package imports is installed with it."
    import_names = dict(pillow='PIL')
    allowed = {
        import_names.get(r, r)
        for r in (
            req.split('>')[0].split('<')[0].split('=')[0]
            for req in settings()['requirements'].split()
        )
    }
    for f in (ROOT/'sotavision').rglob('*.py'):
        for n in ast.walk(ast.parse(f.read_text())):
            tops = (
                [a.name for a in n.names]
                if isinstance(n, ast.Import)
                else [n.module]
                if isinstance(n, ast.ImportFrom) and n.level == 0
                else []
            )
            for t in (o.split('.')[0] for o in tops):
                assert t in allowed | set(sys.stdlib_module_names) | {'sotavision', 'IPython'}, (
                    f'{f.name} imports {t}'
                )
