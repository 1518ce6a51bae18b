"""Small trainings that a test can kill: a server that forks a child for each (see test_resume.py).

A line of JSON comes in: which training, where its checkpoints are, when to kill it. A line goes
out: how the child ended, what it printed and, where it came to its end, a file with weights and
records. Forking a process that has torch loaded costs milliseconds, a new one seconds.
"""
import builtins
import errno
import io
import json
import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path

import numpy as np
import torch
from torch import nn

from sotavision.callbacks.ema import EMA
from sotavision.callbacks.gradients import GradientAccumulation
from sotavision.callbacks.tracking import EarlyStoppingCallback, SaveModelCallback
from sotavision.core import files
from sotavision.core.rng import rng_states, set_seed
from sotavision.core.transform import Transform
from sotavision.data.loaders import DataLoader, DataLoaders
from sotavision.models.layers import ConvLayer
from sotavision.objectives.losses import CrossEntropyLossFlat
from sotavision.objectives.metrics import accuracy
from sotavision.techniques.mixup import MixUp
from sotavision.techniques.progressive import progressive_resizing
from sotavision.training import checkpoints
from sotavision.training.callback import Callback
from sotavision.training.checkpoints import Checkpoint
from sotavision.training.learner import Learner

class Noisy(Transform):
    "Draws from every generator there is."
    def params(self, sample, split_idx):
        return random.random() + np.random.rand() + torch.rand(()).item() if split_idx == 0 else 0.
    def apply(self, x, p): return x * (1 + p / 3) if x.ndim else x

class Pictures:
    "Noise, brighter in one of two halves."
    vocab, c = ['left', 'right'], 2
    def __init__(self, n, size, seed):
        gen = torch.Generator().manual_seed(seed)
        self.x = torch.rand(n, 1, size, size, generator=gen)
        self.items = [f"{seed}-{i}" for i in range(n)]
        for i in range(n): self.x[i, :, :, (i % 2) * size // 2:][:, :, :size // 2] += .3
    def __len__(self): return len(self.x)
    def __getitem__(self, i): return self.x[i], torch.tensor(i % 2)

def loaders(size=6, bs=4, n=18, workers=0):
    train = DataLoader(
        Pictures(n, size, 1),
        bs,
        shuffle=True,
        drop_last=False,
        item_tfms=Noisy(),
        num_workers=workers,
        device='cpu',
    )
    return DataLoaders(train, DataLoader(Pictures(6, size, 2), bs, num_workers=0, device='cpu'))

def tiny(width=4):
    return nn.Sequential(
        ConvLayer(1, width, stride=2),
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(.2), nn.Linear(width, 2)),
    )

def learner(seed=7, width=4, precision='fp32', workers=0, n=18, bs=4, folder='.', **kwargs):
    set_seed(seed)
    return Learner(
        loaders(n=n, bs=bs, workers=workers),
        tiny(width),
        CrossEntropyLossFlat(),
        metrics=accuracy,
        precision=precision,
        splitter=lambda m: [m[0], m[1]],
        path=folder,
        **kwargs,
    )

def callbacks(names):
    known = dict(
        mixup=lambda: MixUp(.4),
        ema=lambda: EMA(.8),
        stop=lambda: EarlyStoppingCallback('valid_loss', min_delta=.01, patience=1),
        best=lambda: SaveModelCallback('valid_loss'),
        gather=lambda: GradientAccumulation(7),
    )
    return [known[o]() for o in names]

def train(learn, job, **how):
    kind, n, cbs = job['kind'], job.get('epochs', 3), callbacks(job.get('cbs', []))
    if kind == 'fit': learn.fit(n, job.get('lr', 1e-2), cbs=cbs, **how)
    elif kind == 'one_cycle': learn.fit_one_cycle(n, 1e-2, cbs=cbs, **how)
    elif kind == 'flat_cos': learn.fit_flat_cos(n, 1e-2, cbs=cbs, **how)
    elif kind == 'fine_tune': learn.fine_tune(n - 1, 1e-2, freeze_epochs=2, cbs=cbs, **how)
    elif kind == 'progressive':
        job['table'] = progressive_resizing(
            learn, loaders, [(6, 2, 4, 1e-2), (8, n - 1, 6, 1e-2)], cbs=cbs, **how)['size'].tolist()
    return cbs

# --- killing

def die(): os.kill(os.getpid(), signal.SIGKILL)

class KillAt(Callback):
    "Kill the process when `event` happens for the `k`-th time."
    in_lr_find = False
    def __init__(self, event, k, order=0): self.event, self.k, self.order = event, k, order
    def tick(self):
        self.k -= 1
        if not self.k: die()

def kill_at(event, k, order=0):
    return type('KillAt', (KillAt,), {event: KillAt.tick})(event, k, order)

def before_call(module, name, k, do):
    "Let the `k`-th call of `module.name` begin with `do()`."
    plain, left = getattr(module, name), [k]
    def f(*args, **kwargs):
        left[0] -= 1
        if not left[0]: do()
        return plain(*args, **kwargs)
    setattr(module, name, f)

class Half(io.FileIO):
    "A file that is killed, or finds the disk full, after half of what it is to write."
    def __init__(self, path, do): super().__init__(path, 'w'); self.do = do
    def write(self, data):
        super().write(bytes(data)[:len(data) // 2])
        self.do()

def full(): raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

def half_write(k, do):
    "Cut off the `k`-th file that checkpoints write."
    left = [k]
    def opened(path, mode='r', *args, **kwargs):
        left[0] -= 'w' in mode
        return Half(path, do) if not left[0] else builtins.open(path, mode, *args, **kwargs)
    files.open = opened

def arm(learn, kill):
    "Prepare the end: `[how, …]`."
    if not kill: return
    how, *args = kill
    if how == 'event': learn.add_cbs(kill_at(*args))
    elif how == 'replace': before_call(os, 'replace', args[0], die)
    elif how == 'fsync': before_call(os, 'fsync', args[0], die)
    elif how == 'unlink': before_call(Path, 'unlink', args[0], die)
    elif how == 'half': half_write(args[0], die)
    elif how == 'full': half_write(args[0], full)

# --- the server

def run(job):
    learn = learner(folder=job['folder'], **job.get('learner', {}))
    arm(learn, job.get('kill'))
    how = {}
    if 'checkpoint' in job:
        how = dict(
            checkpoint=Checkpoint(
                job['checkpoint'], every=job.get('every', 'epoch'), keep=job.get('keep', 2)
            ),
            resume=job.get('resume', True),
        )
    if job.get('seed_now') is not None: set_seed(job['seed_now'])
    cbs = train(learn, job, **how)
    rec = learn.recorder
    kept = [{k: v for k, v in checkpoints.plain(cb.state_dict(), cb.name).items()} for cb in cbs]
    torch.save(
        dict(
            model=learn.model.state_dict(),
            rows=[r[:-1] for r in rec.rows],
            names=rec.metric_names,
            losses=rec.losses,
            lrs=rec.lrs,
            moms=rec.moms,
            steps=rec.steps,
            cbs=kept,
            opt=learn.opt.state_dict(),
            random=rng_states(learn.device),
            table=job.get('table'),
            pct=learn.pct_train,
            train_iter=learn.train_iter,
        ),
        job['out'],
    )

def child(job, said):
    with open(said, 'w') as f:
        os.dup2(f.fileno(), 1); os.dup2(f.fileno(), 2)
        try: run(job)
        except BaseException: traceback.print_exc(); sys.stdout.flush(); os._exit(3)
    sys.stdout.flush(); os._exit(0)

def serve():
    torch.set_num_threads(1)
    answers = os.fdopen(os.dup(1), 'w')
    print('ready', file=answers, flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        said = Path(job['folder'])/'said.txt'
        pid = os.fork()
        if not pid: child(job, said)
        if 'seconds' in job: time.sleep(job['seconds']); os.kill(pid, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        print(json.dumps(dict(status=status, said=said.read_text())), file=answers, flush=True)

if __name__ == '__main__': serve()

def same(a, b, where='') -> list:
    "Where two nested things differ, bit for bit."
    if torch.is_tensor(a):
        return [] if torch.is_tensor(b) and a.dtype == b.dtype and torch.equal(a, b) else [where]
    if isinstance(a, dict):
        return [
            o
            for k in {**a, **b}
            for o in (same(a[k], b[k], f'{where}/{k}') if k in a and k in b else [f'{where}/{k}'])
        ]
    if isinstance(a, (list, tuple)):
        return (
            [where + ' length']
            if len(a) != len(b)
            else [o for i, (p, q) in enumerate(zip(a, b)) for o in same(p, q, f'{where}/{i}')]
        )
    return [] if a == b or a != a and b != b else [f'{where}: {a} {b}']
