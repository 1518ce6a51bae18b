"""Break the guards of the library one at a time: does a test turn red?

A first run of all tests and notebooks notes who reaches which guard (tools/switches.py says what
that is). Then each guard is switched off, and the quickest of those who reach it run again, in a
fork of this process. It may be root's, so only temporary files can be changed then, by what Python
knows of. What was noted is kept as long as neither the library nor the test changes.

    python tools/break_guards.py                   all of the library; about an hour
    python tools/break_guards.py data/ losses      modules whose path has one of these words
"""
import argparse
import contextlib
import hashlib
import importlib
import json
import os
import signal
import sys
import time
import traceback
from collections import Counter, defaultdict
from pathlib import Path

import switches

ROOT = Path(__file__).resolve().parents[1]
PATIENCE, SPEND, MOST = 90, 15, 12   # seconds for a child; seconds and tests for one guard
# they read the sources, or build
LEFT_OUT = {f'test_{o}.py' for o in ('architecture', 'break_guards', 'chapters', 'notebooks',
                                     'package', 'tools')}
ENDS = {None: ' (hangs)', 3: ' (pytest fails)', 4: ' (tests not found)', 5: ' (tests not found)'}
LARGE = 'matplotlib.pyplot', 'pandas', 'pytest', 'scipy.stats', 'torchvision', 'IPython'
TAKEN = """
import {0} as _module
globals().update({{k: v for k, v in vars(_module).items() if k not in globals() or k[:2] != '__'}})
"""

# --- runs in forks

class Reports:
    "A plugin for pytest that writes name, seconds and success of every test into `file`."
    def __init__(self, file): self.file, self.took, self.bad = file, Counter(), set()
    def pytest_runtest_logreport(self, report):
        self.took[report.nodeid] += report.duration
        if report.outcome != 'passed': self.bad.add(report.nodeid)
    def pytest_sessionfinish(self):
        good = {k: t for k, t in self.took.items() if k not in self.bad}
        self.file.write_text(json.dumps(good))

def tests(names, file=None):
    import pytest
    os.chdir(ROOT)
    quiet = ['-q', '-p', 'no:cacheprovider', *(['-x'] if file is None else [])]
    return pytest.main([*quiet, *names], plugins=[Reports(file)] if file else [])

def cells(name, file=None):
    "Run the notebook `name`; what it exports is taken from the library instead."
    from execnb.shell import CaptureShell
    from nbdev.process import NBProcessor
    from nbdev.processors import FrontmatterProc
    began, path, module = time.monotonic(), ROOT/name, ''
    nb = NBProcessor(path, procs=FrontmatterProc, process=True).nb
    for o in nb.cells:
        flags = getattr(o, 'directives_', None) or {}
        if o.cell_type != 'code': continue
        if 'default_exp' in flags: module = 'sotavision.' + flags['default_exp'][0]
        if {'export', 'exporti'} & flags.keys() and module:
            o.source = TAKEN.format(module)
        if flags.get('eval:') == ['false'] or {'slow', 'gpu'} & flags.keys(): o.source = ''
        if 'nbdev_export(' in o.source: o.source = ''
    os.environ['IN_TEST'] = '1'
    os.chdir(path.parent)
    CaptureShell(path).run_all(nb, exc_stop=True)
    if file: file.write_text(json.dumps({name: time.monotonic() - began}))
    return 0

def fork(work, log:Path, **env) -> int:
    if pid := os.fork(): return pid
    code = 1
    try:
        os.setsid()
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for o in (1, 2): os.dup2(out, o)
        os.environ.update(env)
        code = int(work())
    except BaseException: traceback.print_exc()
    finally: sys.stdout.flush(); os._exit(code)

def run_all(todo:list, jobs:int, seconds:int):
    "Run `(key, work, log, env)`, `jobs` at a time; yields `(key, exit status)`, None: too slow."
    todo, going = todo[::-1], {}
    while todo or going:
        while todo and len(going) < jobs:
            key, work, log, env = todo.pop()
            going[fork(work, log, **env)] = key, time.monotonic() + seconds
        time.sleep(.05)
        for pid, (key, until) in list(going.items()):
            late = time.monotonic() > until
            ended, status = os.waitpid(pid, os.WNOHANG)
            if not ended and not late: continue
            with contextlib.suppress(ProcessLookupError): os.killpg(pid, signal.SIGKILL)
            if not ended: os.waitpid(pid, 0)
            del going[pid]
            yield key, os.waitstatus_to_exitcode(status) if ended else None

# --- the whole of it

def record(sources:list, scratch:Path, jobs:int):
    "Who reaches each guard, `{guard: {test: seconds}}`; what was noted before counts if unchanged."
    library = b''.join(p.read_bytes() for p in sorted(switches.LIB.rglob('*.py')))
    todo, kept, reached = [], {}, defaultdict(dict)
    for p in sources:
        name = p.relative_to(ROOT).as_posix()
        kept[name] = scratch/hashlib.md5(name.encode() + p.read_bytes() + library).hexdigest()
        work = (lambda run=cells if p.suffix == '.ipynb' else tests, name=name:
                run(name if run is cells else [name], kept[name]))
        env = dict(GUARD_LOG=f'{kept[name]}.log', GUARD_RUN=name)
        if not kept[name].is_file(): todo.append((name, work, scratch/f'{p.stem}.out', env))
    for name, status in run_all(todo, jobs, 900):
        print(f'{name}: {"too slow" if status is None else status or "noted"}', flush=True)
    for file in kept.values():
        if not file.is_file(): continue
        took = json.loads(file.read_text())
        log = Path(f'{file}.log')
        for line in log.read_text().splitlines() if log.is_file() else ():
            guard, _, who = line.partition('\t')
            if who in took: reached[guard][who] = took[who]
    return reached

def quickest(found:dict, all_of_them:bool=False) -> list:
    "A few of the tests `{name: seconds}`, one at least; `all_of_them`: what `PATIENCE` allows."
    names, left = sorted(found, key=found.get), PATIENCE / 2 if all_of_them else SPEND
    some = names if all_of_them else names[:MOST]
    return [o for i, o in enumerate(some) if (left := left - found[o]) > 0 or not i]

def verdicts(guards:list, reached:dict, scratch:Path, jobs:int):
    "Yields `(guard, verdict, who reaches it)`: red, by cell, green or never run."
    todo = []
    def again(guard, kind):
        found = reached[guard].items()
        names = {k: v for k, v in found if k.endswith('.ipynb') == (kind == 'cell')}
        few = quickest(names, guard.endswith('lock'))[:2 if kind == 'cell' else None]
        work = (lambda: sum(map(cells, few))) if kind == 'cell' else (lambda: tests(few))
        name = f'{guard.replace("/", ".")} {kind}.out'
        return few and [((guard, kind, few), work, scratch/name, {'GUARD_BROKEN': guard})]
    for o in guards:
        if not reached[o]: yield o, 'never run', []
    for kind in ('test', 'cell'):
        todo = [o for guard in guards for o in again(guard, kind)]
        guards = [o for o in guards if not again(o, kind)]
        for (guard, _, few), status in run_all(todo, jobs, PATIENCE):
            if status == 0: guards.append(guard)
            else: yield guard, dict(test='red', cell='by cell')[kind] + ENDS.get(status, ''), few
    for o in guards:
        if reached[o]: yield o, 'green', list(reached[o])

def main():
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('words', nargs='*', help='parts of paths of modules')
    parser.add_argument('--jobs', type=int, default=1)
    parser.add_argument('--scratch', type=Path, default=Path('/tmp/guards'))
    args = parser.parse_args()
    scratch = args.scratch.resolve()
    scratch.mkdir(parents=True, exist_ok=True)
    (scratch/'sitecustomize.py').write_text(
        f'import sys\nsys.path.insert(0, {str(ROOT/"tools")!r})\n'
        f'import switches\nsys.path.pop(0)\nswitches.install({str(scratch)!r})\n')
    os.environ['PYTHONPATH'] = f'{scratch}:{ROOT}'
    sys.path[:0] = [str(ROOT)]
    switches.install(scratch)
    for o in LARGE: importlib.import_module(o)
    guards = []
    for p in sorted(switches.LIB.rglob('*.py')):
        name = p.relative_to(switches.LIB).as_posix()
        switches.Loader(name, str(p)).get_code(name)
        if name != '_modidx.py' and any(o in name for o in args.words or ['']):
            guards += switches.switched(p.read_text('utf8'), name)[1]
    sources = [p for p in sorted((ROOT/'tests').glob('test_*.py')) if p.name not in LEFT_OUT]
    sources += sorted((ROOT/'nbs/reference').rglob('*.ipynb'))
    sources += sorted((ROOT/'nbs/course').glob('*.ipynb'))
    reached, count = record(sources, scratch, args.jobs), Counter()
    for guard, said, few in verdicts(guards, reached, scratch, args.jobs):
        count[said] += 1
        print(f'{said:9} {guard}   {few[0] if few else ""}', flush=True)
    print(f'{len(guards)} guards:', ', '.join(f'{n} {k}' for k, n in sorted(count.items())))

if __name__ == '__main__': main()
