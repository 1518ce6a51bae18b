"""fastai's recipe for the board on the same files: how far the files matter.

    pip install -e '.[bench]'                                     # in an environment of its own
    python benchmarks/records_peer.py --path PATH --seeds 2

PATH holds train/<class>/ and val/<class>/, Imagenette at 160 pixels. The recipe is that of fastai's
`train_imagenette.py` for 128 px and 5 epochs: xresnet50 with Mish and self-attention, ranger at
.008, batches of 64, crops of at least .35 of the area, smoothing, a flat rate with a cosine at the
end. The board's best row adds MaxBlurPool to it, from kornia. `--set` changes a choice. One line of
JSON a run in results/records/fastai.jsonl; a kept run is not done again.
"""
import argparse
import platform
import time
from functools import partial
from pathlib import Path

import fastai
import torch
from fastai.vision.all import (
    Adam,
    CategoryBlock,
    DataBlock,
    FlipItem,
    GrandparentSplitter,
    ImageBlock,
    LabelSmoothingCrossEntropyFlat,
    Learner,
    Mish,
    Normalize,
    RandomResizedCrop,
    accuracy,
    get_image_files,
    imagenet_stats,
    nn,
    parent_label,
    ranger,
    set_seed,
    xresnet50,
)

from records import as_changes, hardware, is_kept, keep

RESULTS = Path(__file__).resolve().parent / 'results' / 'records'
USUAL = dict(lr=8e-3, bs=64, size=128, epochs=5, min_scale=.35, sa=1, opt='ranger', act='Mish')

def train(choices, path, seed, precision, workers) -> dict:
    "Train once; every epoch's numbers."
    c = argparse.Namespace(**choices)
    set_seed(seed)
    block = DataBlock(
        (ImageBlock, CategoryBlock), get_items=get_image_files, get_y=parent_label,
        splitter=GrandparentSplitter(valid_name='val'),
        item_tfms=[RandomResizedCrop(c.size, min_scale=c.min_scale), FlipItem(.5)],
        batch_tfms=Normalize.from_stats(*imagenet_stats))
    dls = block.dataloaders(Path(path), bs=c.bs, num_workers=workers)
    if c.opt == 'ranger': opt = partial(ranger, mom=.95, sqr_mom=.99, eps=1e-6, beta=0.)
    else: opt = partial(Adam, mom=.9, sqr_mom=.99, eps=1e-6)
    model = xresnet50(n_out=10, act_cls=Mish if c.act == 'Mish' else nn.ReLU, sa=bool(c.sa))
    learn = Learner(dls, model, LabelSmoothingCrossEntropyFlat(), opt_func=opt, metrics=accuracy,
                    wd_bn_bias=False)
    if precision == 'fp16': learn.to_fp16()
    if precision == 'bf16': learn.to_bf16()
    began = time.perf_counter()
    with learn.no_bar(), learn.no_logging(): learn.fit_flat_cos(c.epochs, c.lr, wd=1e-2)
    epochs = [dict(zip(('train_loss', 'valid_loss', 'accuracy'), map(float, o)))
              for o in learn.recorder.values]
    return dict(accuracy=epochs[-1]['accuracy'], epochs=epochs,
                seconds=round(time.perf_counter() - began, 1))

def main():
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--path', required=True, help="Imagenette's folder")
    p.add_argument('--seeds', type=int, default=2)
    p.add_argument('--first-seed', type=int, default=0)
    p.add_argument('--set', nargs='*', default=[], metavar='NAME=VALUE')
    p.add_argument('--precision', default='fp16', choices=('fp32', 'fp16', 'bf16'))
    p.add_argument('--workers', type=int, default=2)
    p.add_argument('--busy', action='store_true', help='others compute here: seconds mean nothing')
    p.add_argument('--out', default=RESULTS)
    a = p.parse_args()
    choices = USUAL | as_changes(a.set)
    if unknown := choices.keys() - USUAL.keys(): p.error(f'--set {sorted(unknown)}: unknown')
    file = Path(a.out) / 'fastai.jsonl'
    for seed in range(a.first_seed, a.first_seed + a.seeds):
        asked = dict(choices=choices, seed=seed, precision=a.precision)
        if is_kept(file, asked): continue
        line = asked | train(choices, a.path, seed, a.precision, a.workers)
        keep(file, line | dict(busy=a.busy, hardware=hardware(
            'cuda' if torch.cuda.is_available() else 'cpu'), versions=dict(
                python=platform.python_version(), torch=torch.__version__,
                fastai=fastai.__version__)))
        print(f'seed {seed}: {line["accuracy"]:.4f} in {line["seconds"]} s', flush=True)

if __name__ == '__main__': main()
