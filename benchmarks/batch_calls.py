"""Function calls and modules that a warm batch passes through, by cProfile: no times, so that it
does not matter what else the machine does.

    python benchmarks/batch_calls.py              # prints a row for each way to load
    python benchmarks/batch_calls.py --as NAME    # and writes them to results/batch-calls.json

Pictures are noise, saved as PNG. The batches of a second pass count, but for its first one.
"""
import argparse
import cProfile
import json
import pstats
import statistics
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from sotavision import all as lib
from sotavision.core.device import machine

RESULTS = Path(__file__).parent/'results'/'batch-calls.json'
ITEMS, BS = 160, 16
CROP = lambda: lib.Resize(32)
WAYS = {
    'decoded each time': (None, CROP),
    'kept, then flipped': ('ram', lambda: [lib.Resize(32), lib.FlipItem()]),
    'kept, windows copied': ('ram', CROP),
    'kept on the disk, windows copied': ('disk', CROP),
    'kept, windows gathered on the device': ('device', CROP),
}

def pictures(folder:Path) -> list:
    "Noise of different sizes, in two classes."
    rng = np.random.default_rng(0)
    for n in range(ITEMS):
        path = folder/'ab'[n % 2]/f'{n:03}.png'
        path.parent.mkdir(exist_ok=True)
        h, w = rng.integers(40, 80, 2)
        Image.fromarray(rng.integers(0, 255, (h, w, 3), dtype=np.uint8)).save(path)
    return sorted(folder.rglob('*.png'))

def loader(files, cache, tfms):
    "The training loader of a block as chapters make it, on the CPU, without processes."
    block = lib.DataBlock(get_y=lib.parent_label, splitter=lambda o: (range(len(o)), [0]),
                          item_tfms=tfms(), batch_tfms=lib.aug_transforms(size=24))
    return block.dataloaders(files, bs=BS, device='cpu', cache=cache).train

def counted(dl) -> dict:
    "Medians over the batches of a second pass, without its first one."
    for _ in dl: pass
    it, calls, modules = iter(dl), [], set()
    next(it)
    for _ in range(len(dl) - 1):
        with cProfile.Profile() as profile: next(it)
        stats = pstats.Stats(profile)
        calls.append(stats.total_calls)
        modules |= {file for file, *_ in stats.stats if Path(file).is_file()}
    own = sum('sotavision' in o for o in modules)
    return dict(calls=statistics.median(calls), modules=len(modules), own_modules=own,
                batches=len(calls))

def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
    parser.add_argument('--as', dest='name', help='key of these rows in the file of results')
    name, rows = parser.parse_args().name, {}
    with tempfile.TemporaryDirectory() as folder:
        files = pictures(Path(folder))
        for way, (cache, tfms) in WAYS.items():
            rows[way] = counted(loader(files, cache, tfms))
            print(f'{way:40}', rows[way])
    if not name: return
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    found[name] = dict(machine(), items=ITEMS, bs=BS, rows=rows)
    RESULTS.write_text(json.dumps(found, indent=1) + '\n')

if __name__ == '__main__': main()
