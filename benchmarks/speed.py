"""Seconds of whole epochs and of their parts, here and in fastai: same pictures, network, size,
batch size and transforms, each library's own defaults else.

    pip install -e '.[bench]'                             # in an environment of its own
    python benchmarks/speed.py PATH
    python benchmarks/speed.py PATH --growth --compile

PATH holds train/<class>/ and val/<class>/, Imagenette's layout. `--growth` also measures how the
cost grows with pictures and with size, `--compile` what torch.compile costs and gives.

Each library works in a process of its own, turn by turn, so that both meet the same machine and
each has its own peak of memory. The first epoch of a row is cold (nothing decoded, nothing warm),
the others are not; files come from the page cache in both. Writes
benchmarks/results/speed-<device>.json after each row.
"""
import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import torch

from augment import HERE, STATS, THREADS

ROWS = dict(
    cpu=[
        ('xresnet18', 64, 96, 1920, 640), ('xresnet18', 128, 160, 640, 256),
        ('xresnet50', 128, 160, 320, 128)],
    cuda=[
        ('xresnet18', 128, 160, 9469, 3925), ('xresnet50', 128, 160, 9469, 3925),
        ('xresnet50', 224, 256, 9469, 3925)])
# first epochs only
GROWTH = [('xresnet18', 64, 96, n, 256) for n in (1000, 2000, 5000, 9469)] + [
    ('xresnet18', s, max(96, s), 320, 128) for s in (64, 96, 128, 192, 256)]

def chosen(path:Path, n_train:int, n_valid:int) -> list:
    "Files spread evenly over the classes, always the same."
    files = []
    for split, n in (('train', n_train), ('val', n_valid)):
        every = sorted(
            (path/split).rglob('*.*'),
            key=lambda f: (
                int(f.stem.split('_')[-1]) if f.stem.split('_')[-1].isdigit() else 0, f.name))
        files += every[:n]
    return files

# --- one library in its own process: it reads a command a line and answers with JSON

def sotavision_learner(files, arch, size, presize, bs, tfms):
    from sotavision import all as lib
    block = lib.DataBlock(
        (lib.ImageBlock, lib.CategoryBlock), get_items=lambda o: o, get_y=lib.parent_label,
        splitter=lib.GrandparentSplitter(), item_tfms=lib.Resize(presize),
        batch_tfms=[*lib.aug_transforms(size=size, min_scale=.75), lib.Normalize(*STATS)] if tfms
        else None)
    lib.set_seed(0)
    return lib.Learner(
        block.dataloaders(files, bs=bs), getattr(lib, arch)(n_out=10), metrics=lib.accuracy), lib

def fastai_learner(files, arch, size, presize, bs, tfms):
    from fastai.vision import all as lib
    block = lib.DataBlock(
        (lib.ImageBlock, lib.CategoryBlock), get_items=lambda o: o, get_y=lib.parent_label,
        splitter=lib.GrandparentSplitter(valid_name='val'), item_tfms=lib.Resize(presize),
        batch_tfms=[
            *lib.aug_transforms(size=size, min_scale=.75), lib.Normalize.from_stats(*STATS)]
        if tfms else None)
    lib.set_seed(0)
    return lib.Learner(
        block.dataloaders(files, bs=bs), getattr(lib, arch)(n_out=10), metrics=lib.accuracy), lib

def sotavision_augmentation(dl):
    "What makes a batch of bytes ready for the model."
    from sotavision.data.sources import ItemBatches
    raw = ItemBatches(dl.ds, dl.item_tfms, 0).load(range(dl.bs))
    return lambda: dl.prepare(raw)

def fastai_augmentation(dl):
    "The same."
    from fastai.torch_core import to_device
    raw = dl.create_batch([dl.do_item(i) for i in range(dl.bs)])
    return lambda: dl.after_batch(to_device(raw, dl.device))

LIBRARIES = dict(
    sotavision=(sotavision_learner, sotavision_augmentation),
    fastai=(fastai_learner, fastai_augmentation))

def sync():
    if torch.cuda.is_available(): torch.cuda.synchronize()

def stopwatch(lib):
    """A callback that adds up the seconds from the moment a training batch has come to the end of
    its step."""
    class Stopwatch(lib.Callback):
        def before_fit(self): self.steps = []
        def before_batch(self): sync(); self.start = time.perf_counter()
        def after_batch(self):
            sync()
            if self.learn.training: self.steps.append(time.perf_counter() - self.start)
    return Stopwatch()

class Worker:
    "What the process of one library can do."
    def __init__(self, name, path):
        self.maker, self.augmenter = LIBRARIES[name]
        self.path = Path(path)

    def start(self, arch, size, presize, n_train, n_valid, bs):
        self.args = chosen(self.path, n_train, n_valid), arch, size, presize, bs
        self.learn, self.lib = self.maker(*self.args, True)
        self.bare = self.batch = None

    def epoch(self) -> dict:
        "Train and validate once."
        watch = stopwatch(self.lib)
        start = time.perf_counter()
        bars = self.learn.no_bar
        with bars(), (getattr(self.learn, 'no_logging', bars))(): self.learn.fit(1, 1e-3, cbs=watch)
        sync()
        return dict(epoch=time.perf_counter() - start, step=statistics.median(watch.steps))

    def loader(self) -> dict:
        "One pass over the training loader, without transforms of batches."
        if self.bare is None: self.bare = self.maker(*self.args, False)[0].dls.train
        start = time.perf_counter()
        for _ in self.bare: pass
        sync()
        return dict(loader=time.perf_counter() - start)

    def augmentation(self) -> dict:
        "Transforms of one batch, the median of five."
        if self.batch is None: self.batch = self.augmenter(self.learn.dls.train); self.batch()
        times = []
        for _ in range(5):
            sync(); start = time.perf_counter()
            self.batch()
            sync(); times.append(time.perf_counter() - start)
        return dict(augmentation=statistics.median(times))

    def memory(self) -> dict:
        "Peaks so far: of this process, of its children (processes that load), and of the GPU."
        out = dict(
            memory_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            children_mib=resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)
        if torch.cuda.is_available(): out['gpu_mib'] = torch.cuda.max_memory_allocated() / 2**20
        return out

def serve(name, path):
    if not torch.cuda.is_available(): torch.set_num_threads(THREADS)
    worker = Worker(name, path)
    answers, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        command, *args = json.loads(line)
        print(json.dumps(getattr(worker, command)(*args) or {}), file=answers, flush=True)

# --- the parent: whose turn it is, and the table

class Process:
    "A library at work, or waiting."
    def __init__(self, name, path):
        self.p = subprocess.Popen(
            [sys.executable, __file__, str(path), '--serve', name], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    def __call__(self, *command) -> dict:
        print(json.dumps(command), file=self.p.stdin, flush=True)
        return json.loads(self.p.stdout.readline())
    def close(self): self.p.stdin.close(); self.p.wait()

def measure(path, row, bs, repeats, parts=True) -> dict:
    "One row: every library's medians, and how many times faster we are, the median over turns."
    libs = {name: Process(name, path) for name in ('sotavision', 'fastai')}
    for lib in libs.values(): lib('start', *row, bs)
    turns = [{name: lib('epoch') for name, lib in libs.items()} for _ in range(repeats + 1)]
    peaks = {name: lib('memory') for name, lib in libs.items()}
    passes = [
        {name: lib('loader') for name, lib in libs.items()} for _ in range(repeats + 1)
    ] if parts else []
    dials = [
        {name: lib('augmentation') for name, lib in libs.items()} for _ in range(5)
    ] if parts else []
    for lib in libs.values(): lib.close()
    arch, size, presize, n_train, n_valid = row
    cold, warm = turns[0], turns[1:] or turns
    out = dict(
        arch=arch, size=size, presized=presize, train=n_train, valid=n_valid, bs=bs, repeats=repeats
    )
    for name in libs:
        out[name] = dict(
            first_epoch=cold[name]['epoch'],
            epoch=statistics.median(t[name]['epoch'] for t in warm),
            epochs=[t[name]['epoch'] for t in warm],
            step=statistics.median(t[name]['step'] for t in warm), **peaks[name])
        if parts:
            out[name] |= dict(
                first_pass=passes[0][name]['loader'],
                loader=statistics.median(t[name]['loader'] for t in passes[1:]),
                augmentation=statistics.median(t[name]['augmentation'] for t in dials))
    def ratio(key, those): return statistics.median(
        t['fastai'][key] / t['sotavision'][key] for t in those)
    out['times_faster'] = dict(
        first_epoch=ratio('epoch', turns[:1]), epoch=ratio('epoch', warm), step=ratio('step', warm),
        **(
            dict(loader=ratio('loader', passes[1:]), augmentation=ratio('augmentation', dials))
            if parts else {}))
    return rounded(out)

def compiled(bs:int, steps:int=15) -> dict:
    "What `torch.compile` costs and gives: xresnet18, 64 px, in the default precision."
    from sotavision.all import autocast, xresnet18
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    os.environ['TORCHINDUCTOR_CACHE_DIR'] = tempfile.mkdtemp()   # nothing is compiled yet
    x = torch.randn(bs, 3, 64, 64, device=device).contiguous(memory_format=torch.channels_last)
    y, found = torch.randint(0, 10, (bs,), device=device), {}
    ways = dict(eager=None, compiled={}) | (
        dict(graphs=dict(mode='reduce-overhead')) if device == 'cuda' else {})
    for name, how in ways.items():
        model = xresnet18(n_out=10).to(device, memory_format=torch.channels_last)
        run = model if how is None else torch.compile(model, **how)
        opt, times = torch.optim.Adam(model.parameters()), []
        for _ in range(steps):
            start = time.perf_counter()
            with autocast(device): loss = torch.nn.functional.cross_entropy(run(x).float(), y)
            loss.backward(); opt.step(); opt.zero_grad(); sync()
            times.append(time.perf_counter() - start)
        found |= {f'{name}_first_step': times[0], f'{name}_step': statistics.median(times[3:])}
    return rounded(dict(arch='xresnet18', size=64, bs=bs, **found))

def rounded(o):
    if isinstance(o, dict): return {k: rounded(v) for k, v in o.items()}
    if isinstance(o, list): return [rounded(v) for v in o]
    return float(f'{o:.4g}') if isinstance(o, float) else o

def arguments():
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('path', type=Path)
    p.add_argument('--bs', type=int, default=64)
    p.add_argument('--repeats', type=int, default=3)
    p.add_argument('--growth', action='store_true')
    p.add_argument('--rows', type=int, nargs='*')
    p.add_argument('--compile', action='store_true')
    p.add_argument('--serve')
    return p.parse_args()

def header(path:Path, device:str) -> dict:
    "What was measured, when, and on what."
    import fastai

    from sotavision.core.device import machine
    what = (f'seconds, {path.name}; each library in its own process, turn by turn; '
            'first epochs start with nothing decoded')
    return dict(what=what, date=str(date.today()), machine=machine(device) | dict(threads=THREADS),
                fastai=fastai.__version__)

def jobs(device:str, numbers, repeats:int, growth:bool) -> list:
    "Tuples (key in the results, row, repeats, whether the parts of an epoch are measured too)."
    rows = [o for k, o in enumerate(ROWS[device]) if numbers is None or k in numbers]
    return [('rows', o, repeats, True) for o in rows] + [
        ('growth', o, 0, False) for o in GROWTH if growth]

def replaced(rows:list, found:dict) -> list:
    "`rows` with `found` in place of an earlier measurement of the same work."
    def same(o): return all(o[k] == found[k] for k in ('arch', 'size', 'train'))
    return [o for o in rows if not same(o)] + [found]

def main():
    a = arguments()
    if a.serve: return serve(a.serve, a.path)
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    out = HERE/'results'/f'speed-{device}.json'
    result = json.loads(out.read_text()) if out.exists() else {}
    result |= header(a.path, device)
    if a.compile:
        torch.set_num_threads(THREADS)
        result['compile'] = compiled(a.bs)
        out.write_text(json.dumps(result, indent=1) + '\n'); print(result['compile'], flush=True)
    for kind, row, repeats, parts in jobs(device, a.rows, a.repeats, a.growth):
        found = measure(a.path, row, a.bs, repeats, parts)
        result[kind] = replaced(result.get(kind, []), found)
        out.write_text(json.dumps(result, indent=1) + '\n')
        epochs = {n: found[n]['epoch'] for n in ('sotavision', 'fastai')}
        print(row, found['times_faster'], epochs, flush=True)

if __name__ == '__main__': main()
