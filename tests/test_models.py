"""Models at the edges: odd sizes, one picture, many channels, precision, memory format, bad
arguments."""
import copy
import inspect

import pytest
import torch
from torch import nn

from sotavision.models import layers, xresnet as xr
from sotavision.models.layers import ConvLayer, SimpleSelfAttention, init_kaiming
from sotavision.models.xresnet import ResBlock, archs, get_arch, xresnet, xresnet18, xresnet50

small = lambda **kw: xresnet(1, (1, 1), 5, **kw)


def seeded(make, seed=42):
    torch.manual_seed(seed)
    return make()


@pytest.mark.parametrize('name', archs)
def test_every_architecture_takes_the_same_arguments(name):
    assert list(inspect.signature(get_arch(name)).parameters) == [
        'n_out',
        'c_in',
        'act_cls',
        'sa',
        'p',
        'pool',
        'stem_widths',
        'stem_stride',
        'widths',
        'se',
        'groups',
    ]


@pytest.mark.parametrize(
    'n,expected',
    [('xresnet18', 11_708_744), ('xresnet34', 21_816_904), ('xresnet50', 25_576_264),
     ('xresnet101', 44_568_392)])
def test_parameters_agree_with_fastai_and_timm(n, expected):
    with torch.device('meta'): model = archs[n]()
    assert sum(p.numel() for p in model.parameters()) == expected


@pytest.mark.parametrize('size', [(1, 1), (2, 3), (7, 7), (31, 33), (32, 256), (65, 17)])
def test_any_size_works_in_evaluation(size):
    with torch.inference_mode():
        assert xresnet18(3).eval()(torch.randn(1, 3, *size)).shape == (1, 3)


@pytest.mark.parametrize('size', [(33, 33), (37, 50)])
def test_odd_sizes_train(size):
    model = small()
    model(torch.randn(2, 3, *size)).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize('expansion', [1, 2, 4])
@pytest.mark.parametrize('stride', [1, 2])
@pytest.mark.parametrize('ni,nf', [(8, 8), (8, 16), (16, 8)])
def test_both_paths_of_a_block_agree_in_shape(expansion, stride, ni, nf):
    block, x = ResBlock(ni, nf, stride, expansion), torch.randn(2, ni, 9, 6)
    assert block.residual(x).shape == block.shortcut(x).shape == block(x).shape


def test_stride_three_keeps_both_paths_together():
    assert ResBlock(4, 8, stride=3)(torch.randn(1, 4, 10, 7)).shape == (1, 8, 4, 3)


def test_new_block_is_the_identity_for_positive_input():
    x = torch.rand(2, 8, 5, 5)
    for kw in (dict(), dict(expansion=4), dict(sa=True)):
        assert torch.equal(ResBlock(8, 8, **kw)(x), x)


def test_pooled_shortcut_passes_a_constant_picture_unchanged_at_the_edge():
    pool = ResBlock(4, 4, stride=2).shortcut
    assert torch.equal(pool(torch.ones(1, 4, 5, 7)), torch.ones(1, 4, 3, 4))


def test_pictures_of_a_batch_do_not_meet_in_evaluation():
    model, x = seeded(lambda: small(sa=True)).eval(), torch.randn(3, 3, 32, 32)
    nn.init.ones_(model.stage1[-1].residual[-1].gamma)
    with torch.inference_mode(): torch.testing.assert_close(model(x)[1:2], model(x[1:2]))


def test_evaluation_changes_no_state():
    model = small().eval()
    before = copy.deepcopy(model.state_dict())
    with torch.inference_mode(): model(torch.randn(2, 3, 32, 32))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_same_seed_same_weights_other_seed_others():
    a, b, c = (seeded(small, s) for s in (1, 1, 2))
    same = lambda m, n: all(
        torch.equal(p, q) for p, q in zip(m.state_dict().values(), n.state_dict().values())
    )
    assert same(a, b) and not same(a, c)


def test_two_trainings_agree_bit_for_bit():
    def train():
        model = seeded(lambda: small(sa=True)); opt = torch.optim.SGD(model.parameters(), .1)
        for _ in range(3):
            model(torch.randn(4, 3, 32, 32)).square().mean().backward(); opt.step(); opt.zero_grad()
        return model.state_dict()
    assert all(torch.equal(a, b) for a, b in zip(train().values(), train().values()))


@pytest.mark.parametrize('sa', [False, True])
def test_channels_last_survives_every_part_and_changes_no_number(sa):
    model = seeded(lambda: xresnet(4, (2, 1), 5, sa=sa)).eval()
    x = torch.randn(2, 3, 48, 40)
    with torch.inference_mode():
        expected, last = model(x), x.to(memory_format=torch.channels_last)
        for part in model[:-1]:
            last = part(last)
            assert last.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(model.head(last), expected, atol=1e-4, rtol=1e-4)


def test_bfloat16_autocast_gives_finite_gradients_in_fp32():
    model = small(sa=True)
    with torch.autocast('cpu', torch.bfloat16):
        loss = model(torch.randn(4, 3, 32, 32)).float().square().mean()
    loss.backward()
    assert all(
        p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in model.parameters()
    )


def test_double_precision():
    assert (
        small(sa=True).double()(torch.randn(2, 3, 32, 32, dtype=torch.float64)).dtype
        == torch.float64
    )


def test_weights_survive_saving_deepcopy_and_pickling(tmp_path):
    model = small(sa=True).eval()
    torch.save(model.state_dict(), tmp_path/'m.pt')
    other = small(sa=True).eval()
    other.load_state_dict(torch.load(tmp_path/'m.pt', weights_only=True))
    x = torch.randn(1, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(model(x), other(x)) and torch.equal(model(x), copy.deepcopy(model)(x))


@pytest.mark.parametrize('act', [nn.Mish, nn.SiLU, lambda: nn.LeakyReLU(.1)])
def test_activation_replaces_every_relu(act):
    model = small(act_cls=act)
    assert not any(isinstance(m, nn.ReLU) for m in model.modules())
    assert sum(isinstance(m, type(act())) for m in model.modules()) == 3 + 2 * 2


def test_self_attention_sits_at_the_end_of_stage_one_only():
    found = [
        n for n, m in xresnet50(10, sa=True).named_modules() if isinstance(m, SimpleSelfAttention)
    ]
    assert found == ['stage1.2.residual.3']


def test_self_attention_scale_does_not_grow_with_the_picture():
    sa = SimpleSelfAttention(4); nn.init.ones_(sa.gamma)
    x = torch.randn(1, 4, 6, 6)
    torch.testing.assert_close(sa(x.repeat(1, 1, 2, 2))[..., :6, :6], sa(x))


def test_dropout_is_only_active_in_training():
    model, x = small(p=.9), torch.randn(2, 3, 32, 32)
    model.eval()
    assert torch.equal(model(x), model(x))
    model.train()
    assert not torch.equal(model(x), model(x))


def test_body_can_be_cut_off_by_slicing():
    body = xresnet50(10)[:-1]
    assert [n for n, _ in body.named_children()] == ['stem', 'stage1', 'stage2', 'stage3', 'stage4']


def test_init_kaiming_leaves_norms_alone():
    model = nn.Sequential(nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4), nn.Linear(4, 2)).apply(
        init_kaiming
    )
    assert (model[1].weight == 1).all() and (model[0].bias == 0).all()
    assert (model[2].bias == 0).all()


@pytest.mark.parametrize(
    'kw,match',
    [(dict(n_out=0), 'n_out is 0'), (dict(n_out=-3), 'n_out is -3'), (dict(c_in=0), 'c_in is 0')])
@pytest.mark.parametrize('name', archs)
def test_impossible_sizes_are_named(name, kw, match):
    with pytest.raises(ValueError, match=match): get_arch(name)(**kw)


@pytest.mark.parametrize(
    'call',
    [lambda: xresnet18(n_classes=3), lambda: xresnet(1, (1,), widen=2),
     lambda: ResBlock(4, 4, dilation=2), lambda: ConvLayer(3, 4, transpose=True),
     lambda: SimpleSelfAttention(4, ks=1), lambda: init_kaiming(nn.ReLU(), a=1),
     lambda: get_arch('xresnet18', n=1)])
def test_unknown_keyword_is_a_type_error(call):
    with pytest.raises(TypeError, match='unexpected keyword'): call()


@pytest.mark.parametrize(
    'name,hint',
    [('xresnet19', "Did you mean 'xresnet18'"), ('XResNet50', "Did you mean 'xresnet50'"),
     ('', 'There are: xresnet18'), (None, 'unknown architecture None')])
def test_unknown_architecture_gets_a_hint(name, hint):
    with pytest.raises(ValueError, match=hint): get_arch(name)


def test_public_names():
    assert set(layers.__all__) == {'init_kaiming', 'ConvLayer', 'SimpleSelfAttention', 'tiny_cnn',
                                   'SelfAttention', 'binomial', 'MaxBlurPool', 'SigmoidRange',
                                   'SqueezeExcite', 'Mish'}
    assert set(xr.__all__) == {
        'ResBlock',
        'xresnet',
        'xresnet18',
        'xresnet34',
        'xresnet50',
        'xresnet101',
        'xresnext50',
        'xse_resnet18',
        'xse_resnet50',
        'archs',
        'get_arch',
    }
