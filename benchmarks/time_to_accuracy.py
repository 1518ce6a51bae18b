"""Imagenette from random weights on a processor: seconds until so many validation images are right.

    python benchmarks/time_to_accuracy.py PATH --recipe six-minutes --seed 0
    python benchmarks/time_to_accuracy.py PATH --recipe six-minutes --held   # a trial
    python benchmarks/time_to_accuracy.py PATH --side fastai --epochs 5

PATH holds train/<class>/ and val/<class>/. The clock starts before torch is imported and with
nothing decoded; loading and every validation count. Only the last epochs are validated: a recipe is
made for one accuracy. fastai's side is its `fit_one_cycle` at its usual rate, with its xresnet18,
cuts, and smoothing, validated after each epoch. Both validate at 128 pixels, without test-time
augmentation. Trials (`--held`) train on four fifths of the training images and are judged on the
last fifth. One line of JSON a run, in results/time-to-accuracy.jsonl or -trials.jsonl; a kept run
is not done again. `--pauses` names a file with a line for each span of seconds since 1970 in which
this process was stopped from outside: they are left out.
"""
import time

START = time.time()
import argparse
import json
import platform
from dataclasses import asdict, replace
from pathlib import Path

RESULTS = Path(__file__).resolve().parent / 'results'
GOALS = .80, .85, .90, .92

def seconds(pauses=None) -> float:
    "Since the start, less the spans in which the process was stopped."
    now = time.time()
    spans = Path(pauses).read_text().splitlines() if pauses and Path(pauses).exists() else []
    stopped = (tuple(map(float, o.split())) for o in spans)
    return now - START - sum(max(0., min(b, now) - max(a, START)) for a, b in stopped)

def recipes() -> dict:
    from sotavision.techniques.recipes import Recipe
    usual = dict(arch='xresnet18', size=128, min_scale=.5, opt='muon', lr=6e-3)
    return {o.name: o for o in [
        Recipe('six-minutes', widths=(64, 128, 256, 256), epochs=11,
               sizes=(64,) * 8 + (96,) * 2 + (128,), **usual),
        Recipe('twenty-minutes', epochs=20, sizes=(64,) * 8 + (96,) * 7 + (128,) * 5, **usual),
    ]}

def ours(a, changes) -> tuple:
    from records import loaders, split
    from sotavision.core.display import quiet
    from sotavision.training.callback import Callback, CancelValidException
    class Marks(Callback):
        order = 100   # after the recorder
        def __init__(self): self.at = []
        def before_validate(self):
            if self.epoch < self.n_epoch - a.validate: raise CancelValidException
        def after_epoch(self):
            found = [o for o in self.recorder.values[-1][1:3] if o is not None]
            self.at.append([round(seconds(a.pauses), 1), *found])
    recipe = replace(recipes()[a.recipe], **changes)
    train, valid = split(a.path, a.held)
    told = {o: o.parent.name for o in [*train, *valid]}
    learn = recipe.learner(loaders(recipe, train, valid, told, 'cpu', cache='ram'), a.seed)
    marks = Marks()
    learn.add_cb(marks)
    with quiet(): recipe.train(learn)
    return asdict(recipe), marks.at

def fastais(a, changes) -> tuple:
    from fastai.callback.core import Callback
    from fastai.vision.all import (
        CategoryBlock,
        DataBlock,
        GrandparentSplitter,
        ImageBlock,
        LabelSmoothingCrossEntropy,
        Learner,
        Normalize,
        RandomResizedCrop,
        accuracy,
        get_image_files,
        imagenet_stats,
        parent_label,
        set_seed,
        xresnet18,
    )
    class Marks(Callback):
        order = 60   # after the recorder
        def after_epoch(self):
            found = self.recorder.values[-1] if self.recorder.values else []
            at.append([round(seconds(a.pauses), 1), *map(float, found[1:3])])
    at, c = [], dict(epochs=a.epochs, bs=64, lr=3e-3, size=128, min_scale=.35) | changes
    set_seed(a.seed)
    block = DataBlock((ImageBlock, CategoryBlock), get_items=get_image_files, get_y=parent_label,
                      splitter=GrandparentSplitter(valid_name='val'),
                      item_tfms=RandomResizedCrop(c['size'], min_scale=c['min_scale']),
                      batch_tfms=Normalize.from_stats(*imagenet_stats))
    dls = block.dataloaders(a.path, bs=c['bs'], num_workers=2)
    learn = Learner(dls, xresnet18(n_out=10), LabelSmoothingCrossEntropy(), metrics=accuracy,
                    cbs=Marks())
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(c['epochs'], c['lr'])
    return c, at

def run(a, changes):
    file = RESULTS / f'time-to-accuracy{"-trials" if a.held else ""}.jsonl'
    import torch
    torch.set_num_threads(a.threads)
    from records import is_kept, keep
    name = a.recipe if a.side == 'ours' else f'fastai, {a.epochs} epochs'
    asked = dict(side=a.side, name=name, changes=json.loads(json.dumps(changes)), seed=a.seed)
    if is_kept(file, asked): return print(asked, 'kept')
    choices, at = (ours if a.side == 'ours' else fastais)(a, changes)
    versions = dict(python=platform.python_version(), torch=torch.__version__)
    if a.side == 'fastai':
        import fastai
        versions['fastai'] = fastai.__version__
    keep(file, asked | dict(choices=choices, marks=at, threads=torch.get_num_threads(),
                            hardware=cpu(), versions=versions, paused=bool(a.pauses)))
    print(asked, at[-1], flush=True)

def cpu() -> str:
    "The processor's name."
    info = Path('/proc/cpuinfo')
    lines = info.read_text().splitlines() if info.exists() else []
    return next((o.split(': ')[1] for o in lines if o.startswith('model name')),
                platform.processor())

def main():
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('path', type=Path, help="Imagenette's folder")
    p.add_argument('--side', default='ours', choices=('ours', 'fastai'))
    p.add_argument('--recipe', default='six-minutes')
    p.add_argument('--set', nargs='*', default=[], metavar='NAME=VALUE', help='change the recipe')
    p.add_argument('--epochs', type=int, default=5, help="fastai's")
    p.add_argument('--seed', type=int, default=0)
    p.add_argument('--validate', type=int, default=1, help='last epochs that are validated')
    p.add_argument('--threads', type=int, default=2)
    p.add_argument('--held', action='store_true', help='a trial on split-off training images')
    p.add_argument('--pauses', help='file of spans in which this process was stopped')
    a = p.parse_args()
    from records import as_changes
    run(a, as_changes(a.set))

if __name__ == '__main__': main()
