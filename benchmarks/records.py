"""Imagenette from random weights: the rows of its board, run by run.

    python benchmarks/records.py run --path PATH --labels noisy_imagenette.csv --seeds 5
    python benchmarks/records.py run --held ... # a trial, on split-off training images
    python benchmarks/records.py run --parts ... # each part of the recipe taken away, in turn
    python benchmarks/records.py table

PATH holds train/<class>/ and val/<class>/; the labels are Imagenette's own table of noisy ones.
`--queue` works through all rows of 128 px and 5 and 20 epochs, seed by seed, at the lowest
priority. A finished run is one line of JSON in results/records/<row>.jsonl and is not done again; a
run that was killed goes on from its last epoch. Validation labels are clean, and validation images
no larger than training images; no test-time augmentation. Trials (`--held`) train on four fifths of
the training images and are judged on the last fifth: validation images are not looked at. Each of
them is a line of trials.jsonl, so that they can be counted.
"""
import argparse
import hashlib
import json
import os
import platform
import random
import shutil
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import torch

from sotavision import __version__
from sotavision.core.display import quiet
from sotavision.data.datablock import CategoryBlock, DataBlock, ImageBlock
from sotavision.data.files import get_image_files
from sotavision.study.intervals import interval
from sotavision.techniques.recipes import Recipe, get_recipe, recipes

RESULTS = Path(__file__).resolve().parent / 'results' / 'records'
# What takes a part of `imagenette-128-5` away, or puts the usual in its place
PARTS = {
    'without Muon': dict(opt='ranger', lr=8e-3, fit='fit_flat_cos'),
    'batches of 64': dict(bs=64), 'without Mish': dict(act=None),
    'without blur pool': dict(pool=None), 'without attention': dict(sa=False),
    'with crops': dict(min_scale=.35), 'without smoothing': dict(smoothing=0.),
}
# The board as read in November 2026: (px, epochs, % of wrong labels) → its mean, our bar
BOARD = {
    (128, 5, 0): (87.43, 88.0), (128, 5, 5): (83.44, 84.5), (128, 5, 50): (66.60, 70.0),
    (128, 20, 0): (91.57, 92.1), (128, 20, 5): (89.53, None), (128, 20, 50): (79.36, None),
}

def row_name(px:int, epochs:int, noise:int) -> str: return f'{px}px-{epochs}ep-{noise}noise'

DEFAULTS = json.loads(json.dumps(asdict(Recipe(''))))   # choices that came after a run was kept

def read(file) -> list:
    "The lines of a file; one that a kill has cut off is left out."
    rows = []
    for line in Path(file).read_text().splitlines() if Path(file).exists() else []:
        try: row = json.loads(line)
        except json.JSONDecodeError: continue
        if 'recipe' in row: row['recipe'] = DEFAULTS | row['recipe']
        rows.append(row)
    return rows

def keep(file, line:dict):
    "Add a line, on one of its own also after one that was cut off."
    file = Path(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    cut = file.exists() and file.read_bytes()[-1:] not in (b'', b'\n')
    with file.open('a') as f: f.write('\n' * cut + json.dumps(line) + '\n')

def told_labels(path, items, labels, noise:int) -> dict:
    "The class that each image is given; validation images have their own."
    if not noise: return {o: o.parent.name for o in items}
    import pandas as pd
    table = pd.read_csv(labels).set_index('path')[f'noisy_labels_{noise}']
    name = {o: o.relative_to(path).as_posix() for o in items}
    return {o: table[name[o]] if name[o].startswith('train/') else o.parent.name for o in items}

def split(path, held:bool) -> tuple:
    "Training and validation images; with `held` both from train/, the same fifth always."
    train, valid = (sorted(get_image_files(path/o)) for o in ('train', 'val'))
    if not held: return train, valid
    order = list(range(len(train)))
    random.Random(0).shuffle(order)
    n = len(train) // 5
    return [train[i] for i in sorted(order[n:])], [train[i] for i in sorted(order[:n])]

def data_mark(path, train, valid, told) -> str:
    "A fingerprint of the images' names and sizes and of what they are said to show."
    h = hashlib.sha256()
    for o in [*train, None, *valid]:
        h.update(repr(o and (o.relative_to(path).as_posix(), o.stat().st_size, told[o])).encode())
    return h.hexdigest()[:16]

def loaders(recipe, train, valid, told, device=None, workers=None, cache='auto'):
    "The data of a run, decoded once."
    block = DataBlock(
        (ImageBlock, CategoryBlock(sorted({o.parent.name for o in train}))), get_y=told.get,
        splitter=lambda o: (range(len(train)), range(len(train), len(o))), **recipe.transforms(),
    )
    return block.dataloaders([*train, *valid], bs=recipe.bs, device=device, num_workers=workers,
                             cache=cache, cache_share=.5)

def hardware(device) -> str:
    if torch.device(device).type == 'cuda': return torch.cuda.get_device_name()
    return f'{platform.machine()}, {torch.get_num_threads()} threads'

def unnamed(recipe:dict) -> dict: return json.loads(json.dumps({**recipe, 'name': ''}))

def is_kept(file, asked:dict) -> bool:
    "Whether a line answers all that is asked; a recipe may have had another name."
    def same(k, a, b): return unnamed(a) == unnamed(b) if k == 'recipe' and a else a == b
    return any(all(same(k, o.get(k), v) for k, v in asked.items()) for o in read(file))

def one_run(recipe, path, labels=None, noise=0, seed=0, held=False, out=RESULTS, work=None,
            busy=False, device=None, workers=None, precision='auto', cache='auto', file=None):
    """Train once and keep the line, in the row's own file if `file` names no other; None where it
    is kept already."""
    path, work = Path(path), Path(work or 'runs/records')
    row = row_name(recipe.size, recipe.epochs, noise)
    file = Path(out) / f'{"trials" if held else file or row}.jsonl'
    train, valid = split(path, held)
    told = told_labels(path, train, labels, noise) | {o: o.parent.name for o in valid}
    asked = json.loads(json.dumps(dict(row=row, recipe=asdict(recipe), seed=seed, held=held,
                                       data=data_mark(path, train, valid, told))))
    if is_kept(file, asked): return
    mark = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:12]
    dls = loaders(recipe, train, valid, told, device, workers, cache)
    learn = recipe.learner(dls, seed, precision=precision)
    began, cpu = time.perf_counter(), time.process_time()
    with quiet(): recipe.train(learn, checkpoint=work/mark, resume=True)
    rec = learn.recorder
    at = 2   # after the losses of both parts
    epochs = [dict(zip(('train_loss', 'valid_loss', 'accuracy'), r[:3])) for r in rec.values]
    line = asked | dict(
        accuracy=rec.values[-1][at], epochs=epochs, seconds=round(time.perf_counter() - began, 1),
        cpu_seconds=round(time.process_time() - cpu, 1), busy=busy, hardware=hardware(dls.device),
        precision=precision, versions=dict(python=platform.python_version(),
                                           torch=torch.__version__, sotavision=__version__),
    )
    keep(file, line)
    shutil.rmtree(work/mark, ignore_errors=True)
    return line

def named(px:int, epochs:int, noise:int) -> dict:
    "The recipe that stands for a row of the board, without its name."
    name = f'imagenette-{px}-{epochs}'
    noisy = f'{name}-noisy'
    return unnamed(asdict(recipes[noisy if noise == 50 and noisy in recipes else name]))

def runs_of_row(px:int, epochs:int, noise:int, out=RESULTS) -> tuple:
    """Accuracies of the row's own recipe, which trials have chosen; without such runs those of the
    recipe with most seeds. Second: whether it is the row's own."""
    by = {}
    for o in read(Path(out) / f'{row_name(px, epochs, noise)}.jsonl'):
        by.setdefault(json.dumps(unnamed(o['recipe']), sort_keys=True), {})[o['seed']] = o
    own = json.dumps(named(px, epochs, noise), sort_keys=True)
    runs = by[own] if own in by else max(by.values(), key=len, default={})
    return [o['accuracy'] for o in runs.values()], own in by

def table(out=RESULTS) -> str: # Markdown
    "The board beside our runs; a row without runs, or below its bar, says so."
    lines = ['| px | epochs | wrong labels | board | bar | ours | seeds | |',
             '|--:|--:|--:|--:|--:|:--|--:|:--|']
    for (px, epochs, noise), (board, bar) in BOARD.items():
        runs, own = runs_of_row(px, epochs, noise, out)
        ours, n, said = '–', len(runs), 'not run yet'
        if runs:
            i = interval([100 * o for o in runs])
            ours = f'{i.mean:.2f}' + (f' ({i.low:.2f} to {i.high:.2f})' if n > 1 else '')
            goal = board if bar is None else bar
            said = 'too few seeds' if n < 5 else 'reached' if i.mean >= goal else 'missed'
            if not own: said += ', with an earlier recipe'
        bar = '–' if bar is None else f'{bar:.2f}'
        about = f'{px} | {epochs} | {noise} % | {board:.2f} | {bar}'
        lines.append(f'| {about} | {ours} | {n} | {said} |')
    n = len(read(Path(out) / 'trials.jsonl'))
    return '\n'.join([*lines, '', f'Trials on split-off training images before: {n}.'])

def _arguments():
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('do', choices=('run', 'table'))
    p.add_argument('--path', help="Imagenette's folder")
    p.add_argument('--labels', help='its table of noisy labels')
    p.add_argument('--recipe', default='imagenette-128-5')
    p.add_argument('--set', nargs='*', default=[], metavar='NAME=VALUE', help='change the recipe')
    p.add_argument('--noise', type=int, nargs='*', default=[0], choices=(0, 1, 5, 25, 50))
    p.add_argument('--seeds', type=int, default=5)
    p.add_argument('--first-seed', type=int, default=0)
    p.add_argument('--queue', action='store_true', help='all rows, at the lowest priority')
    p.add_argument('--held', action='store_true', help='a trial on split-off training images')
    p.add_argument('--parts', action='store_true', help='the recipe with each part taken away')
    p.add_argument('--busy', action='store_true', help='others compute here: seconds mean nothing')
    p.add_argument('--out', default=RESULTS)
    p.add_argument('--work', default='runs/records', help='folder for checkpoints')
    p.add_argument('--device')
    p.add_argument('--workers', type=int)
    p.add_argument('--precision', default='auto')
    p.add_argument('--cache', default='auto')
    a = p.parse_args()
    if a.do == 'run' and not a.path: p.error('--path says where Imagenette is')
    if a.do == 'run' and (a.queue or any(a.noise)) and not a.labels:
        p.error('--labels says where its noisy labels are')
    return a

def as_changes(texts) -> dict:
    "NAME=VALUE pairs; a value is JSON, or a text."
    def value(s):
        try: v = json.loads(s)
        except json.JSONDecodeError: return s
        return tuple(v) if isinstance(v, list) else v
    return {k: value(v) for k, _, v in (o.partition('=') for o in texts)}

def main():
    a = _arguments()
    if a.do == 'table': return print(table(a.out))
    if a.queue: os.nice(19)
    names, noises = [a.recipe], a.noise
    if a.queue: names, noises = ['imagenette-128-5', 'imagenette-128-20'], (0, 5, 50)
    changes = [as_changes(a.set)]
    if a.parts: changes = [changes[0] | o for o in PARTS.values()]
    try: wanted = [replace(get_recipe(o), **c) for o in names for c in changes]
    except (TypeError, ValueError) as e: sys.exit(f'error: {e}')
    for seed in range(a.first_seed, a.first_seed + a.seeds):
        for recipe in wanted:
            for noise in noises:
                line = one_run(recipe, a.path, a.labels, noise, seed, a.held, a.out, a.work,
                               a.busy, a.device, a.workers, a.precision, a.cache,
                               'parts' if a.parts else None)
                done = f'{line["accuracy"]:.4f} in {line["seconds"]} s' if line else 'kept'
                print(recipe.name, a.set, f'{noise} %, seed {seed}: {done}', flush=True)

if __name__ == '__main__': main()
