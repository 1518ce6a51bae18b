"""CamVid from random weights: our `unet_learner` and fastai's, the same files, size and seconds.

    pip install -e '.[bench]'                                     # in an environment of its own
    python benchmarks/camvid_peer.py --path PATH --side ours
    python benchmarks/camvid_peer.py --path PATH --side fastai

PATH as for `camvid.py`. Both train xresnet18 as a U-Net at 180 × 240 with the same rate, batches,
cross-entropy without void and `aug_transforms`. An epoch is timed first, by a network that is then
thrown away; the cycle gets as many epochs as the seconds have room for. The 233 test frames are
judged at 180 × 240 by one matrix of pixels. Run both at once, a thread each, or one by one: not
mixed. One line of JSON a run in results/chapters/camvid-peer.jsonl; a kept run is not done again.
"""
import argparse
import json
import time
from pathlib import Path

import torch

from records import hardware, is_kept, keep
from sotavision.objectives.segmentation import pixel_matrix

RESULTS = Path(__file__).resolve().parent / 'results' / 'chapters' / 'camvid-peer.jsonl'
SIZE, BS, RATE = (180, 240), 8, 3e-3

def known(path) -> tuple:
    "Names of the codes, the code of void, the names of the test frames."
    names = (path/'codes.txt').read_text().split()
    return names, names.index('Void'), set((path/'valid.txt').read_text().split())

class Ours:
    "sotavision's learner."
    def __init__(self, path, seed):
        from sotavision.all import (
            CrossEntropyLossFlat,
            DataBlock,
            FuncSplitter,
            ImageBlock,
            MaskBlock,
            Resize,
            aug_transforms,
            get_image_files,
            set_seed,
            unet_learner,
        )
        set_seed(seed)
        names, _, test = known(path)
        block = DataBlock(
            (ImageBlock, MaskBlock(names, void='Void')), get_items=get_image_files,
            get_y=lambda o: path/'labels'/f'{o.stem}_P.png',
            splitter=FuncSplitter(lambda o: o.name in test), item_tfms=Resize(SIZE, 'squish'),
            batch_tfms=aug_transforms(max_warp=.1, size=SIZE))
        dls = block.dataloaders(path/'images', bs=BS, device='cpu')
        self.learn = unet_learner(dls, 'xresnet18', pretrained=False,
                                  loss_func=CrossEntropyLossFlat(axis=1, ignore_index=255))

    def fit(self, epochs):
        with self.learn.no_bar(): self.learn.fit_one_cycle(epochs, RATE)

    def answers(self):
        probs, targs = self.learn.get_preds()
        return probs.argmax(1), targs

class Fastai:
    "fastai's learner."
    def __init__(self, path, seed):
        from fastai.vision.all import (
            CrossEntropyLossFlat,
            DataBlock,
            FuncSplitter,
            ImageBlock,
            MaskBlock,
            Normalize,
            Resize,
            ResizeMethod,
            aug_transforms,
            get_image_files,
            imagenet_stats,
            set_seed,
            unet_learner,
            xresnet18,
        )
        set_seed(seed)
        names, self.void, test = known(path)
        block = DataBlock(
            (ImageBlock, MaskBlock(names)), get_items=get_image_files,
            get_y=lambda o: path/'labels'/f'{o.stem}_P.png',
            splitter=FuncSplitter(lambda o: o.name in test),
            item_tfms=Resize(SIZE, method=ResizeMethod.Squish),
            batch_tfms=[*aug_transforms(max_warp=.1, size=SIZE),
                        Normalize.from_stats(*imagenet_stats)])
        dls = block.dataloaders(path/'images', bs=BS, num_workers=0, device=torch.device('cpu'))
        loss = CrossEntropyLossFlat(axis=1, ignore_index=self.void)
        self.learn = unet_learner(dls, xresnet18, pretrained=False, n_out=len(names),
                                  normalize=False, loss_func=loss)

    def fit(self, epochs):
        with self.learn.no_bar(), self.learn.no_logging(): self.learn.fit_one_cycle(epochs, RATE)

    def answers(self):
        with self.learn.no_bar(): probs, targs = self.learn.get_preds()
        probs, targs = probs.as_subclass(torch.Tensor), targs.as_subclass(torch.Tensor).clone()
        probs[:, self.void] = -1
        targs[targs == self.void] = 255
        return probs.argmax(1), targs

SIDES = dict(ours=Ours, fastai=Fastai)

def scores(codes, targs, n:int) -> dict:
    "Share of the pixels that are right, and the mean IoU of the classes."
    m = pixel_matrix(codes, targs, n).double()
    right = m.diagonal()
    either = m.sum(0) + m.sum(1) - right
    return dict(pixel_accuracy=(right.sum() / m.sum()).item(),
                miou=(right / either)[either > 0].mean().item())

def run(side, path, seconds, seed) -> dict:
    "Train as long as the seconds allow, and judge."
    clock = SIDES[side](path, seed)
    began = time.perf_counter()
    clock.fit(1)
    epoch = time.perf_counter() - began
    epochs = max(1, int(seconds / epoch))
    made = SIDES[side](path, seed)
    began = time.perf_counter()
    made.fit(epochs)
    training = time.perf_counter() - began
    return dict(epochs=epochs, training=round(training, 1),
                **scores(*made.answers(), len(known(path)[0])))

def main():
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--path', required=True, help="CamVid's folder")
    p.add_argument('--side', required=True, choices=list(SIDES))
    p.add_argument('--seconds', type=int, default=600)
    p.add_argument('--seeds', type=int, default=2)
    p.add_argument('--threads', type=int, default=1)
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    for seed in range(a.seeds):
        asked = dict(side=a.side, seconds=a.seconds, seed=seed, threads=a.threads)
        if is_kept(RESULTS, asked): continue
        versions = dict(torch=torch.__version__)
        if a.side == 'fastai': versions['fastai'] = __import__('fastai').__version__
        line = asked | run(a.side, Path(a.path), a.seconds, seed)
        keep(RESULTS, line | dict(hardware=hardware('cpu'), versions=versions,
                                  when=time.strftime('%Y-%m-%d')))
        print(json.dumps(line), flush=True)

if __name__ == '__main__': main()
