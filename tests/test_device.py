"""What happens on a GPU, without one: tensors on the device 'meta' have a shape and no values, so
whoever looks at a value fails, as whoever looks would make a GPU wait."""
from contextlib import nullcontext

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torchvision import tv_tensors

from drawn import block, draw_folder, no_figures_left  # noqa: F401 (fixtures)
from sotavision.augment import color as colour
from sotavision.augment.affine import Dihedral
from sotavision.augment.erasing import RandomErasing
from sotavision.augment.grid import KeyPoints
from sotavision.augment.normalize import Normalize
from sotavision.augment.resize import RandomResizedCrop, Resize, aug_transforms
from sotavision.callbacks.ema import EMA
from sotavision.callbacks.gradients import GradientAccumulation, GradientClip
from sotavision.core.rng import set_seed
from sotavision.data.cache import ImageCache
from sotavision.data.crops import crops
from sotavision.models.xresnet import xresnet18
from sotavision.objectives import metrics, scores
from sotavision.objectives.losses import CrossEntropyLossFlat
from sotavision.techniques.cutmix import CutMix
from sotavision.techniques.mixup import MixUp
from sotavision.techniques.smoothing import LabelSmoothingCrossEntropy
from sotavision.training.callback import Callback
from sotavision.training.learner import Learner
from sotavision.training.recorder import RunningMean

META = torch.device('meta')
MOVES = {'aten::copy_', 'aten::_to_copy'}

class OneDevice(TorchDispatchMode):
    "Counts what a GPU would have to begin, and refuses to mix its tensors with those of the CPU."
    def __init__(self): super().__init__(); self.begun = []
    def __torch_dispatch__(self, f, types, args=(), kwargs=None):
        out, name = f(*args, **(kwargs or {})), f._schema.name
        tensors = [o for o in tree_leaves((args, kwargs)) if isinstance(o, torch.Tensor)]
        there = [o for o in tensors if o.device == META]
        if there and name not in MOVES and any(o.device != META and o.ndim for o in tensors):
            raise RuntimeError(f'{name} takes tensors from both devices')
        # views and bare memory begin nothing
        looks = (
            any(r.alias_info is not None and not r.alias_info.is_write for r in f._schema.returns)
            or 'empty' in name
        )
        if not looks and any(
            isinstance(o, torch.Tensor) and o.device == META for o in tree_leaves(out)
        ):
            self.begun.append(name)
        return out

def pictures(n=6, size=(40, 50), dtype=torch.uint8):
    return tv_tensors.Image(torch.empty(n, 3, *size, dtype=dtype, device=META))

def through(tfms, *batch):
    """`batch` after the transforms, as a loader applies them in training, and what a GPU would have
    had to begin."""
    with OneDevice() as seen:
        for t in tfms:
            t.in_loader = True
            batch = t(batch, split_idx=0)
    return batch, seen.begun

def test_looking_and_mixing_are_noticed():
    x = torch.empty(3, device=META)
    with pytest.raises(RuntimeError): x.sum().item()
    with pytest.raises(RuntimeError): x[x > 0]
    with OneDevice(), pytest.raises(RuntimeError, match='both devices'): x.mul_(torch.ones(3))
    with OneDevice() as seen: (x[1:] + 1).view(2, 1)
    assert seen.begun == ['aten::add']

@pytest.mark.parametrize(
    'tfms',
    [aug_transforms(size=24),
     aug_transforms(flip_vert=True, min_scale=.3, size=(20, 30), mode='bicubic', pad_mode='zeros'),
     [RandomResizedCrop(24), RandomErasing(1., max_count=3)],
     [colour.Hue(), colour.Saturation(), colour.Contrast(space='linear')],
     [Dihedral(p=1, draw=5), Normalize(mean=(.5,) * 3, std=(.2,) * 3)]], ids=str)
def test_augmentation_never_looks_and_never_loops(tfms):
    begun = []
    for n in 5, 3, 7:           # what is made once is made for the first
        set_seed(0)
        (x, mask, y), kernels = through(
            tfms,
            pictures(n),
            tv_tensors.Mask(torch.empty(n, 40, 50, dtype=torch.uint8, device=META)),
            torch.empty(n, device=META),
        )
        assert x.device == mask.device == META and len(x) == len(mask) == len(y) == n
        assert x.shape[-2:] == mask.shape[-2:]
        begun.append(kernels)
    assert begun[1] == begun[2]

def test_the_usual_augmentation_begins_little():
    """A GPU's host needs microseconds for every kernel: dice and matrices are made on the CPU, and
    arrive in one piece for moves and one for light."""
    tfms = [*aug_transforms(size=24), Normalize(mean=(.5,) * 3, std=(.2,) * 3)]
    through(tfms, pictures(8))                              # what is made once
    begun = through(tfms, pictures(64))[1]
    assert begun.count('aten::_to_copy') <= 2 and len(begun) <= 18

@pytest.mark.skipif(not KeyPoints, reason='this torchvision has no KeyPoints')
def test_points_follow():
    points = KeyPoints(torch.empty(6, 2, 2, device=META), canvas_size=(40, 50))
    (_, moved), _ = through(aug_transforms(size=24), pictures(), points)
    assert moved.shape == (6, 2, 2) and moved.device == META and moved.canvas_size == (24, 24)

def test_dice_are_those_of_the_cpu():
    tfm, draws = aug_transforms(size=24)[0], []
    for device in 'cpu', META:
        set_seed(3)
        tfm(tv_tensors.Image(torch.zeros(5, 3, 30, 30, device=device)), split_idx=0)
        draws.append(torch.rand(3))
    assert draws[0].equal(draws[1])

def test_a_resident_set_is_cut_without_a_loop(folder):
    ds = block().datasets(folder).train
    kept = ImageCache(ds, Resize(24), 'device').fill()
    source, begun = crops(kept, 0, META), []
    for idxs in [3, 1], [0, 5, 5, 2, 9, 4]:
        with OneDevice() as seen: x, y = source.batch(idxs)
        assert x.device == y.device == META and x.shape == (len(idxs), 3, 24, 24)
        assert y.shape == (len(idxs),) and y.dtype == torch.int64
        begun.append(seen.begun)
    # which one, how far to the right, how far down
    assert begun[0] == begun[1] and begun[0].count('aten::_to_copy') == 1

class Adds(Callback):
    "Losses and metrics as the recorder gathers them, without reading them."
    order = 20
    def __init__(self):
        self.seen = RunningMean(
            [metrics.as_metric(o) for o in (metrics.accuracy, metrics.error_rate, scores.FBeta())]
        )
    def after_batch(self):
        self.seen.add(
            self.loss,
            self.pred.softmax(1),
            self.y if self.y.ndim == 1 else self.y.argmax(1),
            len(self.x),
        )

@pytest.mark.parametrize(
    'technique', [None, MixUp, CutMix, GradientAccumulation, GradientClip, EMA])
@pytest.mark.parametrize('loss', [CrossEntropyLossFlat, LabelSmoothingCrossEntropy])
def test_no_step_looks(folder, technique, loss, monkeypatch):
    # which torch has for real devices only
    monkeypatch.setattr('sotavision.training.learner.autocast', lambda *_: nullcontext())
    dls = block(
        batch_tfms=[*aug_transforms(size=16), Normalize(mean=(.5,) * 3, std=(.2,) * 3)]
    ).dataloaders(folder, bs=5, device=META)
    learn = Learner(
        dls,
        xresnet18(n_out=2),
        loss(),
        precision='fp32',
        default_cbs=False,
        cbs=[Adds, *([technique] if technique else [])],
    )
    with OneDevice() as seen: learn.fit_one_cycle(1)
    assert learn.cbs[0].seen.count == 28 and len(seen.begun) > 1000
    with pytest.raises((RuntimeError, NotImplementedError)): learn.cbs[0].seen.values()
