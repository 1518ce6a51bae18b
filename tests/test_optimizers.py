"Optimizers against torch's, their groups, and their rates and momentums."
import pytest
import torch
from torch import nn

from sotavision.training.optimizers import SGD, Adam, get_hypers, param_groups, set_hypers

def trained(make, steps=25, seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 5), nn.LayerNorm(5), nn.Tanh(), nn.Linear(5, 2))
    opt = make(model)
    for i in range(steps):
        set_hypers(opt, lr=.1 / (i + 1), mom=.95 - .002 * i)
        model(torch.randn(8, 3)).square().mean().backward()
        opt.step(); opt.zero_grad()
    return torch.cat([p.detach().flatten() for p in model.parameters()])

def test_adam_equals_torchs_adamw_under_a_schedule():
    ours = trained(lambda m: Adam(m.parameters()))
    plain = trained(lambda m: Adam(m.parameters(), fused=False))
    theirs = trained(
        lambda m: torch.optim.AdamW(
            m.parameters(), betas=(.9, .99), eps=1e-5, weight_decay=.01, foreach=False
        )
    )
    assert torch.equal(plain, theirs) and torch.allclose(ours, theirs, atol=1e-6)
    assert torch.equal(ours, trained(lambda m: Adam(m.parameters())))

def test_sgd_equals_torchs():
    ours = trained(lambda m: SGD(m.parameters(), wd=.1))
    assert torch.equal(
        ours, trained(lambda m: torch.optim.SGD(m.parameters(), lr=1., weight_decay=.1))
    )

@pytest.mark.parametrize('make', [Adam, SGD])
def test_groups_keep_what_they_set(make):
    a, b = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    opt = make(
        [dict(params=a, lr=.5), dict(params=iter([b]), weight_decay=.2, part=1)], lr=.1, wd=.3
    )
    assert get_hypers(opt)['lr'] == [.5, .1] and get_hypers(opt)['wd'] == [.3, .2]
    assert opt.param_groups[0]['params'][0] is a
    with pytest.raises(TypeError): make([a], betas=(.9, .99))

def test_only_what_should_decays():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    for p in model.parameters(): p.data.fill_(1.); p.grad = torch.zeros_like(p)
    Adam(param_groups(model, wd=.5), lr=.1).step()
    assert [round(p.mean().item(), 4) for p in model.parameters()] == [.95, 1, 1, 1]

class Odd(nn.Module):
    "Tied weights, a norm with two axes, attention, a gain without axes, and a frozen layer."
    def __init__(self):
        super().__init__()
        self.emb, self.norm = nn.Embedding(7, 4), nn.LayerNorm((2, 4))
        self.att = nn.MultiheadAttention(4, 2, add_bias_kv=True)
        self.group, self.frozen = nn.GroupNorm(2, 4), nn.Conv2d(4, 4, 1)
        self.head = nn.Linear(4, 7, bias=False)
        self.gamma, self.head.weight = nn.Parameter(torch.zeros(())), self.emb.weight
        self.frozen.requires_grad_(False)

@pytest.mark.parametrize(
    'splitter',
    [None, lambda m: [m.emb, [m.norm, m.att, [m.group, m.gamma]], nn.ModuleList([m.frozen])],
     lambda m: [list(m.parameters())]])
@pytest.mark.parametrize('wd_bn_bias', [True, False])
def test_every_parameter_is_in_one_group(splitter, wd_bn_bias):
    model = Odd()
    groups = param_groups(model, .1, wd_bn_bias, splitter)
    ids = [id(p) for g in groups for p in g['params']]
    assert sorted(ids) == sorted(id(p) for p in model.parameters())
    names = {id(p): n for n,p in model.named_parameters()}
    spared = {names[id(p)] for g in groups for p in g['params'] if g['weight_decay'] == 0}
    assert spared == (
        set()
        if wd_bn_bias
        else {
            n
            for n in names.values()
            if n.split('.')[0] in ('norm', 'group', 'gamma') or 'bias' in n
        }
        - {'att.bias_k', 'att.bias_v'}
    )
    assert [g['part'] for g in groups] == sorted(g['part'] for g in groups)
    assert all(g['decay'] or g['weight_decay'] == 0 for g in groups)
    Adam(groups).step()

def test_splitters_that_are_wrong():
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    for splitter, says in (
        (lambda m: [m[0]], '2 parameters are in no part of the splitter: 2.weight, 2.bias'),
        (lambda m: [m, m[2].bias], "'2.bias' is in parts 0 and 1"),
        (
            lambda m: [m, nn.Linear(1, 1)],
            r'Part 1 of the splitter holds a parameter of shape \(1, 1\)',
        ),
        (lambda m: [], '4 parameters are in no part'),
    ):
        with pytest.raises(ValueError, match=says):
            param_groups(model, splitter=splitter)
    assert [g['part'] for g in param_groups(model, splitter=lambda m: [m[1], m[0], m[2]])] == [
        1,
        1,
        2,
        2,
    ]
    with pytest.raises(TypeError): param_groups(model, weight_decay=.1)

def test_hypers_survive_saving():
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    def make(): return Adam(param_groups(model, .1, splitter=list))
    opt, other = make(), make()
    set_hypers(opt, lr=[.1, .2], mom=.7, wd=[.3, .4])
    other.load_state_dict(opt.state_dict())
    assert (
        get_hypers(other)
        == get_hypers(opt)
        == dict(lr=[.1, .1, .2, .2], mom=[.7] * 4, wd=[.3, 0, .4, 0])
    )
    assert [g['part'] for g in other.param_groups] == [0, 0, 1, 1]

def test_set_hypers_touches_only_what_it_is_told():
    p = nn.Parameter(torch.ones(2))
    opt = Adam([p], lr=.1, mom=.8, sqr_mom=.95, wd=.2)
    before = get_hypers(opt)
    set_hypers(opt); assert get_hypers(opt) == before
    set_hypers(opt, mom=.5)
    assert get_hypers(opt) == before | dict(mom=[.5]) and opt.param_groups[0]['betas'] == (
        .5,
        .95,
    )
    set_hypers(opt, lr=0); assert get_hypers(opt)['lr'] == [0]
    for bad in dict(lr=[1, 2]), dict(lr=-1.), dict(mom=float('nan')), dict(wd=[-.1]):
        with pytest.raises(ValueError, match=next(iter(bad))): set_hypers(opt, **bad)
    with pytest.raises(TypeError): set_hypers(opt, momentum=.9)

def test_a_rate_that_is_a_tensor_is_changed_in_place():
    lr = torch.tensor(.1)
    opt = torch.optim.AdamW([nn.Parameter(torch.ones(2))], lr=lr)
    set_hypers(opt, lr=.5)
    assert opt.param_groups[0]['lr'] is lr and lr == .5

def test_optimizers_without_momentum():
    opt = torch.optim.Adagrad([nn.Parameter(torch.ones(2))])
    set_hypers(opt, lr=.3); assert get_hypers(opt) == dict(lr=[.3], wd=[0])
    with pytest.raises(ValueError, match='no momentum'): set_hypers(opt, mom=.9)
    rms = torch.optim.RMSprop([nn.Parameter(torch.ones(2))])
    set_hypers(rms, mom=.6); assert get_hypers(rms)['mom'] == [.6]

# What decay spares

class Tokens(nn.Module):
    "What networks of tokens own besides products."
    def __init__(self):
        super().__init__()
        new = lambda *shape: nn.Parameter(torch.ones(*shape))
        self.cls_token, self.pos_embed, self.reg_token = new(1, 1, 4), new(1, 9, 4), new(1, 2, 4)
        self.relative_position_bias_table, self.odd = new(25, 2), new(3, 3)
        self.position_embeddings, self.words = nn.Embedding(9, 4), nn.Embedding(5, 4)
        self.proj, self.bias_proj = nn.Linear(4, 4), nn.Linear(4, 4)
        self.to_bias, self.cls_token_proj = nn.Linear(4, 4), nn.Linear(4, 4)
        self.pos_embedding, self.to_tokens = nn.Conv2d(4, 4, 3), nn.Sequential(nn.Linear(4, 4))
        self.attn = nn.ModuleDict(dict(bias=nn.Linear(4, 4), cls_token=nn.Linear(4, 4)))
        self.relative_attention_bias = nn.Embedding(8, 2)
        self.cls_tokens = nn.ParameterList([new(1, 4), new(1, 4)])

class Asks(Tokens):
    def no_weight_decay(self): return {'odd'}

LINEAR = 'proj bias_proj to_bias cls_token_proj pos_embedding to_tokens.0 attn.bias attn.cls_token'
DECAYED = {'odd', 'words.weight', *(f'{o}.weight' for o in LINEAR.split())}

@pytest.mark.parametrize('wrap', [lambda m: m, lambda m: nn.Sequential(nn.Identity(), m)])
@pytest.mark.parametrize('make, wanted', [(Tokens, DECAYED), (Asks, DECAYED - {'odd'})])
def test_tokens_positions_and_what_the_model_names_are_spared(make, wanted, wrap):
    model = wrap(make())
    names = {id(p): n.removeprefix('1.') for n, p in model.named_parameters()}
    for wd in None, .1:
        groups = param_groups(model, wd)
        assert {names[id(p)] for g in groups if g['decay'] for p in g['params']} == wanted
    assert len(param_groups(model, .1, wd_bn_bias=True)) == 1

@pytest.mark.parametrize('said', [['odd'], ('odd',), {'odd'}, frozenset(['odd']),
                                  dict(odd=1).keys(), [], lambda: ['odd'], lambda: ('odd',)])
def test_what_a_model_names_may_be_a_list_or_a_method(said):
    model = Tokens()
    model.no_weight_decay = said
    found = {id(p) for g in param_groups(nn.Sequential(model)) if g['decay'] for p in g['params']}
    assert (id(model.odd) in found) == (said == []) and id(model.proj.weight) in found

@pytest.mark.parametrize('said', ['odd', 3, True, ['odd', 3], [torch.ones(3)], dict(odd=1),
                                  lambda: 'odd', lambda: None, [['odd']], (o for o in ['odd'])])
def test_anything_else_is_refused(said):
    model = Tokens()
    model.no_weight_decay = said
    with pytest.raises(TypeError, match=r'Tokens.no_weight_decay gives .*list, tuple or set'):
        param_groups(nn.Sequential(model))

def test_a_vision_transformer_of_torchvision():
    from torchvision.models import VisionTransformer
    model = VisionTransformer(16, 8, 1, 2, 8, 8)
    spared = {id(p) for g in param_groups(model) if not g['decay'] for p in g['params']}
    assert {id(model.class_token), id(model.encoder.pos_embedding)} <= spared
    assert id(model.conv_proj.weight) not in spared
