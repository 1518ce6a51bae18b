"Files of weights: ours, those of other programs, and those that fit only partly."
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from learners import (
    block,
    deep,
    items_of,
    learner,
    linear,
    one_thread,  # noqa: F401 (a fixture)
    same,
    told_already,  # noqa: F401 (a fixture)
    trained,
    weights,
)
from sotavision.models.weights import load_weights, read_weights, write_weights
from sotavision.training.checkpoints import Checkpoint
from sotavision.transfer.heads import create_body, create_vision_model

LIB = Path(__file__).resolve().parents[1]/'sotavision'

def test_one_function_reads_weights():
    "Nothing else in the library asks torch to open a file."
    ways = 'torch.load(', 'load_state_dict_from_url(', 'import safetensors'
    found = {
        p.relative_to(LIB).as_posix()
        for p in LIB.rglob('*.py')
        for o in ways
        if o in p.read_text(encoding='utf8')
    }
    assert found == {'models/weights.py'}

# --- ours

def test_ours_is_a_file_that_others_can_open(tmp_path):
    learn = trained(tmp_path)
    file = learn.save('w', with_opt=False)
    assert same(load_file(file), learn.model.state_dict()) and file.name == 'w.safetensors'
    n = int.from_bytes(file.read_bytes()[:8], 'little')
    about = json.loads(json.loads(file.read_bytes()[8:8 + n])['__metadata__']['sotavision'])
    assert about['vocab'] == ['a', 'b', 'c'] and about['versions']['torch'] == torch.__version__

def test_names_are_found(tmp_path):
    learn = trained(tmp_path)
    w = weights(learn)
    for name in ('a.ckpt', 'b.bin', 'c.pt', 'd.pth', 'e.pth.tar', 'f'):
        torch.save(learn.model.state_dict(), tmp_path / name)
    for name in ('a', 'a.ckpt', 'b', 'b.bin', 'c', 'c.pt', 'd', 'e.pth.tar', 'f'):
        other = learner(deep, seed=9, path=tmp_path)
        assert not same(w, weights(other)) and same(w, weights(other.load(tmp_path/name))), name
    learn.save('d.pth'); learn.save('d')
    with torch.no_grad(): learn.model[-1].bias.zero_()
    # .safetensors comes first
    assert learn.load('d').model[-1].bias.any()
    (tmp_path/'models'/'folder.pth').mkdir()
    with pytest.raises(FileNotFoundError, match="No weights at .*Did you mean 'd.safetensors'"):
        learn.load('dd')
    with pytest.raises(FileNotFoundError): learn.load('folder')

class Tied(nn.Module):
    """Two names for one tensor, a state that is no tensor, and a tensor that is no whole number of
    rows."""
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(3, 3); self.b = nn.Linear(3, 3); self.b.weight = self.a.weight
        self.register_buffer('part', torch.arange(12.).view(3, 4)[:, ::2])
        self.register_buffer('none', torch.zeros(0))
        self.said = (1, None, 'ü', float('inf'), [True, {2: 3.5}])
    def get_extra_state(self): return self.said
    def set_extra_state(self, o): self.said = o

def test_odd_models_go_round(tmp_path):
    one, two = Tied(), Tied()
    two.said = None
    load_weights(two, write_weights(tmp_path/'odd', one.state_dict()))
    assert two.said == one.said and two.a.weight.equal(one.a.weight)
    assert two.b.weight is two.a.weight and two.part.equal(one.part)
    with pytest.raises(TypeError, match='object'):
        write_weights(tmp_path / 'odd', dict(o=object(), w=torch.ones(1)))

def test_numbers_that_are_not_finite_are_words_in_the_header(tmp_path):
    "A bare NaN is no JSON: other readers refuse the whole file."
    odd = dict(w=torch.ones(1), a=float('nan'), b=[float('-inf'), 1.])
    file = write_weights(tmp_path/'w', odd)
    data = file.read_bytes()
    def refuse(word): raise AssertionError(word)
    header = json.loads(data[8:8 + int.from_bytes(data[:8], 'little')], parse_constant=refuse)
    kept = [json.loads(o, parse_constant=refuse) for k, o in header['__metadata__'].items()
            if o.startswith('{')]
    assert "'nan'" in str(kept) and "'-inf'" in str(kept)
    got = read_weights(file)['model']
    assert got['a'] != got['a'] and got['b'] == odd['b']

@pytest.mark.parametrize(
    'dtype', [torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.bool, torch.uint8])
def test_types_of_numbers_go_round(tmp_path, dtype):
    w = dict(a=torch.ones(2, 3).to(dtype), b=torch.tensor(1).to(dtype))
    assert same(read_weights(write_weights(tmp_path/'w', w))['model'], w)

@pytest.mark.parametrize(
    'make',
    [lambda p: torch.optim.AdamW(p, 1e-3, amsgrad=True),
     lambda p: torch.optim.SGD(p, .1, momentum=.9), lambda p: torch.optim.RMSprop(p, .1),
     lambda p: torch.optim.Adagrad(p, .1), lambda p: torch.optim.Rprop(p)])
def test_memories_of_optimizers_go_round(tmp_path, make):
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 2)).to(
        memory_format=torch.channels_last
    )
    opt = make(net.parameters())
    for _ in range(2): net(torch.randn(3, 1, 4, 4)).sum().backward(); opt.step()
    state = read_weights(write_weights(tmp_path/'w', net.state_dict(), opt=opt.state_dict()))['opt']
    assert same(state, opt.state_dict())
    make(net.parameters()).load_state_dict(state)

def test_training_goes_on_as_from_memory(tmp_path):
    "Channels-last weights and fused steps: the memory lies as its parameter does."
    def conv():
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, 3))
    a = trained(tmp_path, conv); a.save('w'); b = learner(conv, seed=4, path=tmp_path).load('w')
    for p, q in zip(a.model.parameters(), b.model.parameters()):
        assert all(u.stride() == b.opt.state[q][k].stride() for k, u in a.opt.state[p].items())
    for o in (a, b): torch.manual_seed(3); o.fit(1, .01)
    assert same(weights(a), weights(b))

def test_a_checkpoint_gives_its_weights(tmp_path):
    learn = learner(deep, path=tmp_path)
    learn.fit(1, .01, checkpoint=tmp_path/'c')
    newest = Checkpoint(tmp_path/'c').files()[-1]
    assert same(weights(learn), weights(learner(deep, seed=3).load(newest.resolve())))

# --- foreign

WRAPS = {
    '': lambda w: w,
    'module.': lambda w: w,
    '_orig_mod.': lambda w: w,
    'module._orig_mod.': lambda w: w,
    'model.': lambda w: dict(state_dict=w, epoch=3),
    'net.model.': lambda w: dict(model_state_dict=w, loss=.5),
    'backbone.': lambda w: dict(model=w, args=None),
}

@pytest.mark.parametrize('front', WRAPS)
@pytest.mark.parametrize('suffix', ['.pth', '.ckpt', '.safetensors'])
def test_what_stands_in_front_of_names_is_seen_through(tmp_path, front, suffix):
    learn, at = trained(tmp_path), tmp_path/f'theirs{suffix}'
    w = {front + k: v for k, v in learn.model.state_dict().items()}
    save_file(w, at) if suffix == '.safetensors' else torch.save(WRAPS[front](w), at)
    other = learner(deep, seed=2)
    other.load(at)
    assert same(weights(learn), weights(other))

def test_wrapped_models_load_bare_files_and_each_other(tmp_path):
    net = linear()
    plain = write_weights(tmp_path/'plain', net.state_dict())
    for wrap in (nn.DataParallel, torch.compile, lambda m: nn.DataParallel(torch.compile(m))):
        mine = wrap(linear(seed=5) if 'seed' in linear.__code__.co_varnames else linear())
        theirs = wrap(net)
        load_weights(mine, plain)
        assert same(list(mine.state_dict().values()), list(net.state_dict().values()))
        load_weights(linear(), write_weights(tmp_path/'wrapped', theirs.state_dict()))

def test_averaged_weights_of_torch_load(tmp_path):
    learn = trained(tmp_path)
    torch.save(torch.optim.swa_utils.AveragedModel(learn.model).state_dict(), tmp_path/'ema.pth')
    assert same(weights(learn), weights(learner(deep, seed=2).load(tmp_path/'ema.pth')))

@pytest.mark.parametrize('fronts', [('student.', 'teacher.'), ('module.', '')])
def test_weights_that_are_there_twice_are_not_chosen_from(tmp_path, fronts):
    learn = trained(tmp_path)
    torch.save(
        {f + k: v for f in fronts for k, v in learn.model.state_dict().items()},
        tmp_path / 'two.pth',
    )
    for strict in (True, False):
        with pytest.raises(ValueError, match='more than once'):
            learn.load(tmp_path / 'two.pth', strict=strict)

@pytest.mark.parametrize(
    'what',
    [dict(epoch=3), {}, dict(model={}), dict(state_dict=dict(a=1)), [1], torch.ones(3), 'text'])
def test_what_holds_no_weights(tmp_path, what):
    torch.save(what, tmp_path/'x.pth')
    with pytest.raises(ValueError, match='no weights|instead of weights'):
        read_weights(tmp_path / 'x.pth')

def test_weights_of_a_network_for_a_body(tmp_path):
    """What `save` writes of a learner with a body and a head, bare files, and wrapped ones: all
    give the body."""
    whole = create_vision_model('resnet18', 3, pretrained=False)
    whole.set_stats(([.1, .2, .3], [.4, .5, .6]))
    at = write_weights(tmp_path/'w.safetensors', whole.state_dict(), 'abc')
    model = create_vision_model('resnet18', 7, weights=at)
    assert same(weights_of(model.body), weights_of(whole.body)) and model.head[-1].out_features == 7
    # they come with the weights
    assert model.stats == whole.stats
    assert create_vision_model('resnet18', 7, c_in=1, weights=at).stats[0] == pytest.approx([.2])
    from torchvision.models import resnet18
    theirs = resnet18().state_dict()
    torch.save(
        dict(state_dict={f'module.{k}': v for k, v in theirs.items()}), tmp_path / 'theirs.bin'
    )
    assert create_body('resnet18', weights=tmp_path / 'theirs.bin')[0].weight.equal(
        theirs['conv1.weight']
    )
    assert create_body('resnet18', weights=str(tmp_path / 'theirs'))[0].weight.equal(
        theirs['conv1.weight']
    )
    with pytest.raises(ValueError, match='do not fit the body of resnet34'):
        create_body('resnet34', weights=at)

def weights_of(net): return [o.clone() for o in net.state_dict().values()]

@pytest.mark.parametrize('c_in', [1, 2, 4])
def test_weights_for_other_channels_keep_their_first_convolution(tmp_path, c_in):
    whole = create_vision_model('resnet18', 3, c_in=c_in, pretrained=False)
    at = write_weights(tmp_path/'w.safetensors', whole.state_dict())
    assert same(weights_of(create_body('resnet18', c_in, weights=at)), weights_of(whole.body))
    assert create_body('resnet18', 3, weights=at)[0].weight.shape[1] == 3

# --- partial

def test_another_number_of_classes_loads_all_but_the_head(tmp_path, capsys):
    learn = trained(tmp_path); learn.save('w')
    dls = block(get_y=lambda o: 'xy'[o[1] == 'a']).dataloaders(items_of(42), bs=8, device='cpu')
    other = learner(
        lambda: deep(2) if deep.__code__.co_argcount else deep(), dls=dls, path=tmp_path
    )
    if other.model[-1].out_features == 3:
        other.model[-1] = nn.Linear(other.model[-1].in_features, 2)
    before = weights(other)
    with pytest.raises(ValueError, match='know the classes.*strict=False'): other.load('w')
    assert same(before, weights(other))
    head = [o.clone() for o in other.model[-1].parameters()]
    with pytest.warns(UserWarning, match='Train the head'): other.load('w', strict=False)
    n = len(learn.model.state_dict())
    assert (
        f"{n - 2} of the model's {n} tensors are taken" in (said := capsys.readouterr().out)
        and '2 of another shape' in said
    )
    assert same(head, list(other.model[-1].parameters())) and other.opt is None
    assert all(
        v.equal(learn.model.state_dict()[k])
        for k, v in other.model.state_dict().items()
        if v.shape == learn.model.state_dict()[k].shape
    )

@pytest.mark.parametrize('change, said', [
    (lambda w: {k: v for k, v in w.items() if not k.startswith('1.')}, 'are missing, 0 too many'),
    (lambda w: w | dict(new=torch.ones(2)), '0 are missing, 1 too many'),
    (lambda w: {k: (v[:1] if v.ndim else v) for k, v in w.items()}, 'of another shape')])
def test_partial_files(tmp_path, capsys, change, said):
    learn = trained(tmp_path)
    torch.save(change(learn.model.state_dict()), tmp_path/'part.pth')
    other = learner(deep, seed=3, path=tmp_path)
    before = weights(other)
    with pytest.raises(ValueError, match=said): other.load(tmp_path/'part.pth')
    assert same(before, weights(other))

def test_nothing_that_fits_is_an_error(tmp_path):
    learn = trained(tmp_path)
    before = weights(learn)
    torch.save({f'layers.{i}.w{i}': torch.ones(2) for i in range(6)}, tmp_path/'x.pth')
    torch.save({k: torch.ones(7, 7) for k in learn.model.state_dict()}, tmp_path/'y.pth')
    for name in 'xy':
        with pytest.raises(ValueError, match='None of them fits'):
            learn.load(tmp_path / f'{name}.pth', strict=False)
        assert same(before, weights(learn))

def test_statistics_alone_are_no_weights(tmp_path):
    "Every `VisionModel` has `mean` and `std`; that they fit says nothing."
    one, two = (
        create_vision_model(o, 3, pretrained=False, lin_ftrs=n)
        for o, n in (('squeezenet1_1', None), ('efficientnet_lite0', 64))
    )
    at = write_weights(tmp_path/'w', one.state_dict())
    with pytest.raises(ValueError, match='another model'): load_weights(two, at, strict=False)

def test_counts_of_batches_are_not_missed(tmp_path):
    "Files of old torch have none."
    learn = trained(tmp_path)
    torch.save(
        {k: v for k, v in learn.model.state_dict().items() if 'num_batches' not in k},
        tmp_path / 'old.pth',
    )
    learner(deep, seed=1).load(tmp_path/'old.pth')
