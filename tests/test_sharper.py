"""Attention, pools that blur, squeeze-and-excitation, and the options of `xresnet` for them."""
import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from sotavision.models.layers import (
    MaxBlurPool,
    Mish,
    SelfAttention,
    SqueezeExcite,
    binomial,
)
from sotavision.models.xresnet import (
    ResBlock,
    xresnet,
    xresnet18,
    xresnext50,
    xse_resnet18,
    xse_resnet50,
)

def numel(make, **kw):
    with torch.device('meta'): model = make(**kw)
    return sum(p.numel() for p in model.parameters())

def attending(c=16, **kw):
    torch.manual_seed(0)
    layer = SelfAttention(c, **kw)
    nn.init.ones_(layer.gamma)
    return layer

# --- attention

@pytest.mark.parametrize('size', [(1, 1), (1, 7), (5, 3), (16, 16)])
def test_attention_begins_as_the_identity_bit_for_bit(size):
    x = torch.randn(2, 16, *size)
    assert torch.equal(SelfAttention(16)(x), x)

@pytest.mark.parametrize('reduction', [1, 4, 8, 100])
def test_attention_is_the_softmax_by_hand(reduction):
    layer, x = attending(reduction=reduction).double(), torch.randn(3, 16, 4, 5).double()
    for one, out in zip(x, layer(x)):
        seq = one.flatten(1).T
        q, k = layer.query(seq), layer.key(seq)
        byhand = (q @ k.T / q.shape[1] ** .5).softmax(1) @ layer.value(seq)
        torch.testing.assert_close(out, one + byhand.T.reshape(one.shape), atol=1e-10, rtol=0)

def test_the_gradient_of_attention_is_the_numeric_one():
    layer = attending(4, reduction=2).double()
    x = torch.randn(1, 4, 3, 2, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(layer, x)

def test_gamma_learns_from_the_first_step_and_the_rest_from_the_second():
    layer, x = SelfAttention(8), torch.randn(2, 8, 4, 4)
    layer(x).square().sum().backward()
    assert layer.gamma.grad.abs() > 0 and (layer.value.weight.grad == 0).all()

@pytest.mark.parametrize('kw', [dict(n_channels=0), dict(n_channels=4, reduction=0)])
def test_attention_of_nothing(kw):
    with pytest.raises(ValueError, match='both are 1 or more'): SelfAttention(**kw)

# --- pools

@pytest.mark.parametrize('n,row', [(1, [1]), (2, [1, 1]), (3, [1, 2, 1]), (5, [1, 4, 6, 4, 1])])
def test_rows_of_the_triangle(n, row):
    assert torch.equal(binomial(n), torch.tensor(row) / sum(row))

@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize('size', [(1, 1), (1, 9), (2, 2), (3, 8), (17, 12)])
@pytest.mark.parametrize('blur', [1, 3, 5])
def test_a_constant_stays_one(size, blur, dtype):
    out = MaxBlurPool(blur=blur)(torch.full((2, 3, *size), 5., dtype=dtype))
    assert out.shape == nn.MaxPool2d(3, 2, 1)(torch.zeros(2, 3, *size)).shape
    assert out.dtype == dtype and (out == 5).all()

@pytest.mark.parametrize('size', [(9, 6), (8, 8), (4, 11)])
def test_without_a_blur_it_is_the_max_pool(size):
    x = torch.randn(2, 3, *size)
    assert torch.equal(MaxBlurPool(blur=1)(x), nn.MaxPool2d(3, 2, 1)(x))

@pytest.mark.parametrize('ks,stride,blur', [(3, 2, 3), (5, 2, 3), (3, 3, 5), (1, 2, 3)])
def test_it_is_max_blur_and_step_by_hand(ks, stride, blur):
    x = torch.randn(2, 4, 13, 10)
    wide = F.pad(F.max_pool2d(x, ks, 1, ks // 2), [blur // 2] * 4, mode='reflect')
    row = binomial(blur)
    across = sum(w * wide[..., i:i + 10] for i, w in enumerate(row))
    both = sum(w * across[:, :, i:i + 13] for i, w in enumerate(row))
    torch.testing.assert_close(MaxBlurPool(ks, stride, blur)(x), both[:, :, ::stride, ::stride])

def test_a_shift_of_one_pixel_changes_less():
    x = torch.rand(8, 1, 33, 33, generator=torch.Generator().manual_seed(0))
    def change(pool): return (pool(x[..., 1:]) - pool(x[..., :-1])).abs().mean()
    assert change(MaxBlurPool()) < .7 * change(nn.MaxPool2d(3, 2, 1))

def test_nothing_of_it_is_learned_or_saved():
    assert not list(MaxBlurPool().parameters()) and not MaxBlurPool().state_dict()
    plain, blurred = xresnet18(3), xresnet18(3, pool=MaxBlurPool)
    blurred.load_state_dict(plain.state_dict())

@pytest.mark.parametrize('kw', [dict(ks=2), dict(blur=4), dict(ks=0), dict(blur=-1)])
def test_even_sides_are_refused(kw):
    with pytest.raises(ValueError, match='must be odd'): MaxBlurPool(**kw)

# --- squeeze-and-excitation, Mish

def test_channels_are_weighed_by_the_whole_image():
    layer, x = SqueezeExcite(32), torch.randn(2, 32, 4, 5)
    one, _, two, _ = layer.gate
    byhand = torch.sigmoid(two(torch.relu(one(x.mean((2, 3))))))
    torch.testing.assert_close(layer(x), x * byhand[:, :, None, None])

def test_mish_and_its_gradient():
    z = torch.linspace(-20, 20, 401, dtype=torch.double, requires_grad=True)
    out = Mish()(z)
    out.sum().backward()
    t = F.softplus(z).tanh()
    torch.testing.assert_close(out, z * t, atol=1e-6, rtol=0)
    torch.testing.assert_close(z.grad, t + z * z.sigmoid() * (1 - t ** 2), atol=1e-6, rtol=0)

# --- networks

def test_xresnext50_is_torchvisions_but_for_the_stem():
    def stem(net): return sum(p.numel() for p in net.parameters())
    with torch.device('meta'):
        theirs = torchvision.models.resnext50_32x4d()
        ours = xresnext50()
    old = stem(theirs.conv1) + stem(theirs.bn1)
    assert stem(ours) - stem(ours.stem) == stem(theirs) - old

def test_squeezing_adds_two_small_layers_a_block():
    def added(c): return c * (c // 16) * 2 + c // 16 + c
    widths = [64] * 2 + [128] * 2 + [256] * 2 + [512] * 2
    assert numel(xse_resnet18) - numel(xresnet18) == sum(map(added, widths))
    assert numel(xse_resnet50, n_out=10) > numel(xse_resnet18, n_out=10)

OPTIONS = dict(pool=MaxBlurPool, sa=SelfAttention, se=True, act_cls=Mish, stem_stride=1,
               stem_widths=(8, 16), widths=(16, 24))

@pytest.mark.parametrize('left_out', OPTIONS)
@pytest.mark.parametrize('size', [(32, 32), (33, 47)])
def test_every_option_trains_at_any_size(left_out, size):
    kw = {k: v for k, v in OPTIONS.items() if k != left_out}
    model = xresnet(1, (1, 1), 5, **kw)
    model(torch.randn(2, 3, *size)).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    last = torch.randn(2, 3, *size).contiguous(memory_format=torch.channels_last)
    model.eval().to(memory_format=torch.channels_last)
    with torch.inference_mode():
        assert model[:-1](last).is_contiguous(memory_format=torch.channels_last)

def test_without_stride_and_pool_the_stem_keeps_the_size():
    net = xresnet18(3, stem_stride=1, pool=None)
    assert net.stem(torch.randn(1, 3, 20, 30)).shape == (1, 64, 20, 30)

@pytest.mark.parametrize('kw', [dict(sa=SelfAttention), dict(se=True), dict(groups=4)])
def test_a_new_block_is_still_the_identity(kw):
    x = torch.rand(2, 16, 5, 5)
    assert torch.equal(ResBlock(16, 16, **kw)(x), x)

@pytest.mark.parametrize('kw,error,match', [
    (dict(pool='blur'), TypeError, "pool='blur' cannot be called.*MaxBlurPool"),
    (dict(act_cls='mish'), TypeError, "act_cls='mish' cannot be called.*nn.ReLU"),
    (dict(act_cls=None), TypeError, 'act_cls=None cannot be called'),
    (dict(widths=(64, 128)), ValueError, '2 widths for 4 stages'),
    (dict(widths=(64, 0, 1, 1)), ValueError, 'a number of channels from 1 on'),
    (dict(stem_widths=()), ValueError, 'a number of channels from 1 on'),
    (dict(groups=7), ValueError, 'divisible by groups'),
    (dict(stride=3), TypeError, 'multiple values for argument|unexpected keyword'),
])
def test_what_makes_no_network(kw, error, match):
    with pytest.raises(error, match=match): xresnet18(3, **kw)

def test_a_network_with_all_of_it_exports():
    model = xresnet(1, (1, 1), 5, **OPTIONS).eval()
    nn.init.ones_(model.stage1[-1].residual[-1].gamma)
    x = torch.randn(2, 3, 32, 32)
    with torch.inference_mode(False), torch.no_grad():
        out = torch.export.export(model, (x,)).module()(x)
        torch.testing.assert_close(out, model(x))
