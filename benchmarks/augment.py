"""Pictures a second and memory of the same augmentation here and elsewhere, measured in one
process, turn by turn.

    pip install -e '.[bench]'               # the peers, in an environment of their own
    python benchmarks/augment.py            # writes benchmarks/results/augment-<device>.json
    python benchmarks/augment.py --queue    # writes benchmarks/results/augment-queue.json

Peers that are missing are left out. `--queue` counts what a GPU would be given to do, without one.

The work: a batch of 64 uint8 pictures of 160 × 160 becomes float pictures of 128 × 128, mirrored (p
.5), tilted, turned by up to 10° and enlarged by up to 1.1 (p .75 each), with brightness and
contrast changed by up to .2 (p .75 each), normalized.
"""
import argparse
import importlib
import json
import platform
import statistics
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

BATCH, SIDE, OUT, THREADS = 64, 160, 128, 2
HERE = Path(__file__).resolve().parent
STATS = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]

def pictures(device):
    "Smooth random pictures, as a loader would bring them: uint8, channels last in memory."
    g = torch.Generator().manual_seed(0)
    x = torch.nn.functional.interpolate(
        torch.rand(BATCH, 3, 20, 20, generator=g), (SIDE, SIDE), mode='bicubic').clamp(0, 1)
    return (x * 255).to(torch.uint8).contiguous(memory_format=torch.channels_last).to(device)

class Queue(TorchDispatchMode):
    """Notes what a GPU would be given to do with a batch, and how often somebody looks at a value,
    on the device 'meta', where tensors have no values."""
    def __init__(self): super().__init__(); self.entries, self.looks = 0, 0

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        name, meta = op._schema.name, lambda *o: any(
            isinstance(t, torch.Tensor) and t.device.type == 'meta' for t in tree_leaves(o))
        if name == 'aten::_local_scalar_dense' and meta(args):
            self.looks += 1
            return True if args[0].dtype == torch.bool else 1
        out = op(*args, **(kwargs or {}))
        view = any(
            r.alias_info is not None and not r.alias_info.is_write for r in op._schema.returns)
        # views and memory without content are no work
        self.entries += meta(out) and not view and 'empty' not in name
        return out

# --- the same work by each; a maker returns a function of one batch

def sotavision(device):
    from torchvision import tv_tensors

    from sotavision.augment.normalize import Normalize
    from sotavision.augment.resize import aug_transforms
    from sotavision.data.loaders import DataLoader
    dl = DataLoader(
        [0], batch_tfms=[*aug_transforms(size=OUT), Normalize(*STATS)], split_idx=0, device=device)
    return lambda x: dl.prepare((tv_tensors.Image(x),))[0]

def fastai(device):
    from fastai.vision.all import IntToFloatTensor, Normalize, Pipeline, TensorImage, aug_transforms
    norm = Normalize.from_stats(*STATS, cuda=False)
    norm.mean, norm.std = norm.mean.to(device), norm.std.to(device)
    pipe = Pipeline([IntToFloatTensor(), *aug_transforms(size=OUT), norm], split_idx=0)
    return lambda x: pipe(TensorImage(x))

def torchvision(device):
    from torchvision.transforms import v2
    each = v2.Compose(
        [v2.RandomHorizontalFlip(), v2.RandomPerspective(.2, p=.75),
         v2.RandomApply([v2.RandomAffine(10, scale=(1, 1.1))], .75), v2.Resize(OUT),
         v2.RandomApply([v2.ColorJitter(brightness=.2, contrast=.2)], .75),
         v2.ToDtype(torch.float32, scale=True), v2.Normalize(*STATS)])
    return lambda x: torch.stack([each(o) for o in x])

def kornia(device):
    import kornia.augmentation as K
    every = torch.nn.Sequential(
        K.RandomHorizontalFlip(p=.5), K.RandomPerspective(.2, p=.75),
        K.RandomAffine(10., scale=(1., 1.1), p=.75), K.Resize((OUT, OUT)),
        K.ColorJitter(.2, .2, p=.75), K.Normalize(*map(torch.tensor, STATS)))
    return lambda x: every(x.float() / 255)

MAKERS = {f.__name__: f for f in (sotavision, fastai, torchvision, kornia)}

def present() -> dict:
    "Version of each package that is installed."
    found = {}
    for name in MAKERS:
        try: found[name] = importlib.import_module(name).__version__
        except ImportError: print(f'{name} is not installed: left out')
    return found

def wait(device):
    if device == 'cuda': torch.cuda.synchronize()

def seconds(run, x, device) -> float:
    wait(device); start = time.perf_counter()
    run(x)
    wait(device)
    return time.perf_counter() - start

def peak(name:str, device:str) -> float:
    "MiB that ten batches need on top of what was in use before, measured in a process of its own."
    torch.set_num_threads(THREADS)
    x, run = pictures(device), MAKERS[name](device)
    if device == 'cuda':
        run(x)
        wait(device)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        for _ in range(10): run(x)
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    run(x[:2]); before = status('VmRSS')
    # forget the highest mark so far (Linux)
    Path('/proc/self/clear_refs').write_text('5')
    for _ in range(10): run(x)
    return (status('VmHWM') - before) / 2**10

def status(field:str) -> int:
    "A line of this process's memory, in KiB."
    return next(
        int(o.split()[1])
        for o in Path('/proc/self/status').read_text().splitlines() if o.startswith(field))

def cpu_name() -> str:
    lines = Path('/proc/cpuinfo').read_text().splitlines() if Path('/proc/cpuinfo').exists() else []
    return next(
        (o.split(':')[1].strip() for o in lines if o.startswith('model name')), platform.processor()
    )

def queue(versions:dict, rounds:int) -> dict:
    "Entries in a GPU's queue, and looks that it would be waited for, a batch; means over `rounds`."
    rows, x = {}, pictures('meta')
    for name, version in versions.items():
        run = MAKERS[name]('meta')
        with Queue(): run(x)                                        # what is made once
        with Queue() as seen:
            for _ in range(rounds): run(x)
        rows[name] = {
            'version': version, 'entries': round(seen.entries / rounds),
            'looks': round(seen.looks / rounds, 1)}
        print(f'{name:12}', rows[name])
    return rows

def save(device:str, rounds:int, hardware:str, rows:dict):
    "Write a file of results."
    result = {
        'what': __doc__.split('The work: ')[1].strip().replace('\n', ' '), 'batch': BATCH,
        'rounds': rounds, 'date': str(date.today()), 'device': device, 'hardware': hardware,
        'python': platform.python_version(), 'torch': torch.__version__,
        'torchvision': importlib.import_module('torchvision').__version__, 'rows': rows}
    (HERE/'results').mkdir(exist_ok=True)
    (HERE/'results'/f'augment-{device}.json').write_text(json.dumps(result, indent=1) + '\n')

def main():
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--rounds', type=int, default=30)
    p.add_argument('--device', default='cpu')
    p.add_argument('--peak', help=argparse.SUPPRESS)
    p.add_argument(
        '--queue', action='store_true', help='count what a GPU would be given to do, without one')
    a = p.parse_args()
    if a.peak: return print(peak(a.peak, a.device))
    torch.set_num_threads(THREADS)
    versions = present()
    if a.queue:
        return save(
            'queue', a.rounds, 'none: counted on the device meta', queue(versions, a.rounds))
    x = pictures(a.device)
    runs = {name: MAKERS[name](a.device) for name in versions}
    took = {name: [] for name in runs}
    # the first three rounds warm up; every round asks everybody once
    for _ in range(a.rounds + 3):
        for name, run in runs.items(): took[name].append(seconds(run, x, a.device))
    took = {name: t[3:] for name, t in took.items()}
    rows = {}
    for name, t in took.items():
        mib = float(
            subprocess.run(
                [sys.executable, __file__, '--device', a.device, '--peak', name],
                capture_output=True, text=True, check=True).stdout.split()[-1])
        ratios = [b / s for b, s in zip(t, took['sotavision'])]
        rows[name] = {
            'version': versions[name], 'pictures_per_second': round(BATCH / statistics.median(t)),
            'ms_per_batch': round(1000 * statistics.median(t), 2),
            'sotavision_is_faster_by': round(statistics.median(ratios), 2), 'peak_mib': round(mib)}
        print(f'{name:12}', rows[name])
    save(
        a.device, a.rounds,
        torch.cuda.get_device_name() if a.device == 'cuda' else f'{cpu_name()}, {THREADS} threads',
        rows)

if __name__ == '__main__': main()
