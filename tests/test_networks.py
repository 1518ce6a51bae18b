"""Networks of every kind as bodies: maps, rows of tokens, channels last, sizes of their own, and
those that are no chain."""

import pytest
import torch
from torch import nn

from sotavision import all as names
from sotavision.models.xresnet import xresnet18, xresnet50
from sotavision.training.optimizers import param_groups
from sotavision.transfer import pretrained
from sotavision.transfer.heads import create_body, create_vision_model, split_body
from sotavision.transfer.vision_learner import cnn_learner, vision_learner
from test_pretrained import loaders

class Timm(nn.Module):
    "A network with timm's methods: patches of 8 × 8 pixels, `kind` says what its features are."
    def __init__(self, kind, size=None, dim=12):
        super().__init__()
        self.kind, self.size, self.dim, self.pool = kind, size, dim, True
        self.patch = nn.Conv2d(3, dim, 8, 8)
        self.cls, self.fc_norm = nn.Parameter(torch.randn(1, 1, dim)), nn.LayerNorm(dim)
        self.head = nn.Linear(dim, 1000)
        if size: self.default_cfg = dict(input_size=(3, size, size))

    def reset_classifier(self, num_classes, global_pool=None):
        if self.kind == 'stubborn' and global_pool == '':
            raise AssertionError('Cannot disable pooling')
        self.head, self.pool = nn.Identity(), global_pool != ''

    def forward_features(self, x):
        assert not self.size or x.shape[-1] == self.size, f'Input is {x.shape[-1]}, not {self.size}'
        x = self.patch(x)
        if self.kind in ('maps', 'stubborn'): return x
        if self.kind == 'last': return x.permute(0, 2, 3, 1)
        x = x.flatten(2).mT
        if self.kind == 'several': return x, x
        return x if self.kind == 'mean' else torch.cat([self.cls.expand(len(x), -1, -1), x], 1)

    def forward(self, x):
        x = self.forward_features(x)
        if self.kind == 'token': x = x[:, 0]
        elif self.kind == 'several': x = x[0].mean(1)
        elif self.kind == 'mean': x = x.mean(1)
        elif self.pool: x = x.mean((2, 3) if self.kind != 'last' else (1, 2))
        return self.head(self.fc_norm(x) if self.pool else x)

def tried(kind, size=None, at=40, **kw):
    torch.manual_seed(0)
    return create_vision_model(lambda: Timm(kind, size), 2, pretrained=False, size=at, **kw).eval()

@pytest.mark.parametrize('size', [None, 40])
@pytest.mark.parametrize('kind', ['maps', 'last', 'stubborn'])
def test_maps_come_with_their_channels_in_front(kind, size):
    model, x = tried(kind, size), torch.randn(2, 3, 40, 40)
    net = next(m for m in model.modules() if isinstance(m, Timm))
    assert model.body(x).equal(net.patch(x)) and model(x).shape == (2, 2)

@pytest.mark.parametrize('size', [None, 40])
@pytest.mark.parametrize('kind', ['mean', 'token', 'several'])
def test_rows_are_pooled_as_the_network_does(kind, size):
    model, x = tried(kind, size), torch.randn(2, 3, 40, 40)
    net = next(m for m in model.modules() if isinstance(m, Timm))
    rows = net.patch(x).flatten(2).mT
    want = net.cls.expand(2, -1, -1)[:, 0] if kind == 'token' else rows.mean(1)
    torch.testing.assert_close(model.body(x), net.fc_norm(want)[..., None, None])
    assert model.head[-1].in_features == 512 and model(x).shape == (2, 2)

def test_rectangles_and_other_sizes():
    for kind in ('maps', 'last'):
        model = tried(kind, at=(24, 56))
        assert model.body(torch.randn(1, 3, 24, 56)).shape == (1, 12, 3, 7)
        assert model.body(torch.randn(1, 3, 80, 40)).shape == (1, 12, 10, 5)      # larger later

@pytest.mark.parametrize('kind', ['maps', 'last', 'mean', 'token'])
def test_a_network_for_one_size_says_which(kind):
    with pytest.raises(
        ValueError, match=r'does not take images of 64 × 64 .*takes 40 × 40: Resize\(40\)'
    ):
        tried(kind, 40, at=64)
    # finds out by itself
    assert tried(kind, 40, at=None)(torch.randn(1, 3, 40, 40)).shape == (1, 2)

@pytest.mark.parametrize('kind', ['maps', 'last', 'mean', 'token'])
def test_learners_try_pictures_of_the_loaders_size(kind):
    learn = vision_learner(loaders(size=40), lambda: Timm(kind, 40), pretrained=False)
    with learn.no_bar(): learn.fit(1)
    assert learn.get_preds()[0].shape == (6, 2)
    with pytest.raises(ValueError, match='48 × 48'):
        vision_learner(loaders(size=48), lambda: Timm(kind, 40), pretrained=False)

@pytest.mark.parametrize('kind', ['maps', 'last', 'mean', 'token'])
def test_opaque_bodies_have_three_parts(kind):
    model = tried(kind)
    parts = split_body(model)
    assert all(sum(1 for _ in o) for o in parts)
    assert {g['part'] for g in param_groups(model, splitter=split_body)} == {0, 1, 2}

class Between(nn.Module):
    "Its forward does something between its children."
    def __init__(self, how):
        super().__init__()
        self.how = how
        self.one, self.two = nn.Conv2d(3, 8, 4, 4), nn.Conv2d(8, 8, 3, 2, 1)
        self.rest = nn.ModuleList([nn.Conv2d(8, 8, 1)]) if how == 'list' else nn.Identity()
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(8, 10)
    def forward(self, x):
        x = self.one(x)
        x = x.relu() if self.how == 'relu' else x + 1 if self.how == 'add' else x
        x = self.two(x)
        return self.fc(self.avgpool(self.rest[0](x) if self.how == 'list' else x).flatten(1))

@pytest.mark.parametrize('how', ['relu', 'add', 'list'])
def test_a_network_that_is_no_chain_says_so(how):
    with pytest.raises(ValueError, match='is no chain') as e:
        create_body(lambda: Between(how), pretrained=False)
    assert 'cut=' not in str(e.value) and 'Resize' not in str(e.value)
    assert create_body(lambda: Between('chain'), pretrained=False)(
        torch.randn(1, 3, 64, 64)
    ).shape == (1, 8, 8, 8)

def test_torchvisions_transformer_is_no_chain_at_any_size():
    from torchvision.models import VisionTransformer
    def vit(): return VisionTransformer(32, 8, 1, 2, 12, 24)
    for size in (None, 32, 64):
        with pytest.raises(ValueError, match='is no chain') as e:
            create_body(vit, pretrained=False, size=size)
        assert 'Resize' not in str(e.value)

def test_heads_on_the_side_are_left_out():
    assert create_body('googlenet', pretrained=False)(torch.randn(2, 3, 64, 64)).shape == (
        2,
        1024,
        2,
        2,
    )
    assert (
        pretrained.find_arch('inception_v3').stats
        == pretrained.find_arch('googlenet').stats
        == ([.5] * 3, [.5] * 3)
    )

def test_a_picture_that_is_too_small_says_what_fits():
    with pytest.raises(
        ValueError, match=r'inception_v3 does not take images of 64 × 64.*takes 224 × 224'
    ):
        create_body('inception_v3', pretrained=False, size=64)

def test_channels_last_of_a_plain_network():
    class Last(nn.Module):
        def forward(self, x): return x.permute(0, 2, 3, 1)
    def net(): return nn.Sequential(nn.Conv2d(3, 7, 8, 8), Last())
    torch.manual_seed(1)
    body = create_body(net, pretrained=False, size=56)          # as many maps as rows of them
    x = torch.randn(1, 3, 56, 48)
    assert body(x).equal(body[0](x))

def test_trying_a_body_leaves_no_trace():
    "Random numbers, statistics and modes are as they would be without."
    torch.manual_seed(5); net = xresnet18(); after = torch.rand(3)
    torch.manual_seed(5)
    body = create_body('xresnet18', pretrained=False)
    assert torch.rand(3).equal(after)
    assert all(a.equal(b) for a, b in zip(net.state_dict().values(), body.state_dict().values()))
    assert all(m.training for m in body.modules())

# --- real ones

@pytest.mark.parametrize(
    'name',
    ['vit_tiny_patch16_224', 'swin_tiny_patch4_window7_224', 'mixer_s32_224', 'sequencer2d_s',
     'efficientvit_b0', 'deit_tiny_distilled_patch16_224', 'resnet18'])
def test_networks_of_timm(name):
    timm = pytest.importorskip('timm')
    model = create_vision_model(f'timm/{name}', 2, pretrained=False, size=224).eval()
    x = torch.randn(1, 3, 224, 224)
    net = next(m for m in model.modules() if hasattr(m, 'forward_features'))
    with torch.no_grad():
        out, maps = model.body(x), net.forward_features(x)
        if maps.ndim == 4:
            assert out.equal(maps if maps.shape == out.shape else maps.permute(0, 3, 1, 2))
        else:
            torch.testing.assert_close(
                out.flatten(1),
                timm.create_model(name).eval().forward_head(maps, pre_logits=True)
                if name[:3] != 'mix' else maps.mean(1))

# --- statistics that leave pictures as they are, and names

@pytest.mark.parametrize('stats', [([0.] * 3, [1.] * 3), ([.5] * 3, [.25] * 3)])
def test_a_run_with_these_statistics_is_trained_and_written(tmp_path, monkeypatch, stats):
    from PIL import Image

    from sotavision.app.config import Config
    from sotavision.app.predict import load_run
    from sotavision.app.train import train
    monkeypatch.setitem(pretrained.OURS, 'tiny', tiny)
    monkeypatch.setitem(pretrained.TRAINED, 'tiny', (lambda: tiny().state_dict(), stats))
    for i in range(24):
        at = tmp_path/'data'/'ab'[i % 2]/f'{i}.png'
        at.parent.mkdir(parents=True, exist_ok=True)
        Image.new('RGB', (32, 32), (100 * (i % 2) + i,) * 3).save(at)
    cfg = Config(str(tmp_path/'data'), 'tiny', 32, 1, 8, pretrained=True, device='cpu', workers=0)
    assert train(cfg, tmp_path/'out') == 0
    model, config = load_run(tmp_path/'out', 'cpu')
    assert [list(map(list, config['stats']))] == [list(map(list, stats))]
    assert all(torch.tensor(a).allclose(torch.tensor(b)) for a, b in zip(model.stats, stats))

def tiny(n_out=2):
    return nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU())

def test_names_of_the_texts():
    assert names.cnn_learner is names.vision_learner is vision_learner is cnn_learner
    from torchvision import models as tv
    assert all(getattr(names, o) is getattr(tv, o) for o in ('resnet18', 'resnet34', 'resnet50'))
    for model in (xresnet50(n_out=7), xresnet50(7)):
        assert model.eval()(torch.randn(1, 3, 64, 64)).shape == (1, 7)
