"""Chapter 23's table: a U-Net on all of Toynette, and what each of its parts brings.

    python benchmarks/masks.py               # runs that are kept are not done again

Four epochs at 64 pixels on the CPU, one thread. One line of JSON a run in
benchmarks/results/chapters/masks.jsonl; the chapter reads it.
"""
import argparse
from pathlib import Path

import torch

from sotavision.augment.resize import Resize, aug_transforms
from sotavision.data.datablock import DataBlock, ImageBlock, MaskBlock
from sotavision.data.files import get_image_files
from sotavision.data.splits import GrandparentSplitter
from sotavision.objectives.losses import CrossEntropyLossFlat
from sotavision.objectives.segmentation import CombinedLoss, DiceLoss, IoU, PixelAccuracy, mIoU
from sotavision.study.compare import compare
from sotavision.tasks.segmentation import pixel_weights, unet_learner
from sotavision.toynette.dataset import toynette

RESULTS = Path(__file__).resolve().parent / 'results' / 'chapters' / 'masks.jsonl'

def cut_skips(decoder):
    "A U-Net's way up sees nothing of the way down but its end: zeros in place of skips."
    def cut(module, maps):
        *skips, last = maps[0]
        return [torch.zeros_like(o) for o in skips] + [last],
    decoder.register_forward_pre_hook(cut)

def masked(pretrained=True, power=.5, skips=True, dice=0., first=None, size=64, epochs=4, lr=5e-3):
    "A U-Net on all of Toynette, and what it knows of each class."
    path = toynette(extras=True)
    names = (path/'codes.txt').read_text().split()
    def loaders(side):
        block = DataBlock(
            (ImageBlock, MaskBlock(names, void='void')),
            splitter=GrandparentSplitter('train', 'val'),
            get_y=lambda o: path/'masks'/o.relative_to(path).with_suffix('.png'),
            item_tfms=Resize(side, 'squish'), batch_tfms=aug_transforms(max_warp=.1, size=side))
        files = get_image_files(path, folders=['train', 'val'])
        return block.dataloaders(files, bs=32, device='cpu')
    dls = loaders(first or size)
    loss = CrossEntropyLossFlat(axis=1, ignore_index=255, weight=pixel_weights(dls, power))
    if dice: loss = CombinedLoss([loss, DiceLoss()], [1, dice])
    learn = unet_learner(dls, 'efficientnet_lite0', pretrained=pretrained, loss_func=loss)
    if not skips: cut_skips(learn.model[1])
    n = epochs // 2 if first else epochs
    if pretrained: learn.fine_tune(n - 1, lr)
    else: learn.fit_one_cycle(n, lr)
    if first:
        learn.dls = loaders(size)
        learn.fit_one_cycle(epochs - n, slice(lr / 20, lr))
    learn.metrics = [PixelAccuracy(), mIoU(names[1:]), *(IoU(o, names[1:]) for o in names[1:])]
    return dict(zip([o.name for o in learn.metrics], learn.validate()[1:]))

VARIANTS = {
    'no skips': dict(skips=False),
    'random weights': dict(pretrained=False),
    'all classes weigh the same': dict(power=0.),
    'with Dice': dict(dice=1.),
    '32 pixels, then 64': dict(first=32),
}

def main():
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument('--seeds', type=int, default=3)
    torch.set_num_threads(1)
    print(compare(masked, VARIANTS, p.parse_args().seeds, file=RESULTS, key='masks 1'))

if __name__ == '__main__': main()
