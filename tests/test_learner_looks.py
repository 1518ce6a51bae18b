"Looks at a learner: its table of layers, its plots, its logging; none leaves a trace."
import matplotlib
import matplotlib.pyplot as plt
import pytest
import torch
from torch import nn

from learners import deep, learner, one_thread, same, weights  # noqa: F401 (a fixture)
from sotavision.training.recorder import ProgressCallback

class Odd(nn.Module):
    "A parameter of its own, a layer used twice, a layer never used, several outputs."
    def __init__(self):
        super().__init__()
        self.token, self.flat = nn.Parameter(torch.zeros(1, 64)), nn.Flatten()
        self.twice, self.head, self.spare = nn.Linear(64, 64), nn.Linear(64, 3), nn.Linear(5, 7)
    def forward(self, x):
        o = self.head(self.twice(self.twice(self.flat(x) + self.token)))
        return o, o * 2

def test_every_parameter_is_counted_once():
    learn = learner(Odd)
    with pytest.warns(UserWarning, match='sees that alone'): table = learn.summary()
    counts = table['parameters'].to_dict() if table.index.is_unique else None
    assert counts is None   # the layer that is used twice has two rows
    assert table.loc['twice', 'parameters'].tolist() == [64 * 65, 0]
    assert table.loc['(not passed)', 'parameters'] == 42
    assert table.loc['', 'parameters'] == 64 and table.loc['', 'output'] == '8 × 3, 8 × 3'
    total = sum(p.numel() for p in learn.model.parameters())
    assert table.loc['total', 'parameters'] == total == table['parameters'][:-1].sum()

@pytest.mark.parametrize('n', [0, 1])
def test_what_rests_learns_nothing(n):
    learn = learner(deep, splitter=lambda m: [m[:3], m[3:]])
    learn.freeze_to(n, train_bn=False)
    table = learn.summary()
    assert table['learning']['total'] == sum(
        p.numel() for p in learn.model.parameters() if p.requires_grad
    )
    assert (table['learning'] == table['parameters']).all() == (n == 0)

def test_a_table_for_a_model_that_does_not_fit_its_data():
    from learners import linear
    assert learner(lambda: linear(2)).summary()['output']['1'] == '8 × 2'   # fit would refuse it

def test_looking_leaves_no_trace():
    learn = learner(deep).fit(1)
    learn.model.train()
    before, state = weights(learn), torch.get_rng_state()
    rows = [list(o) for o in learn.recorder.rows]
    for _ in range(2): learn.summary()
    assert same(before, weights(learn)) and state.equal(torch.get_rng_state())
    assert learn.model.training
    assert learn.recorder.rows == rows and not any(m._forward_hooks for m in learn.model.modules())

@pytest.mark.parametrize(
    'keys, wanted',
    [(None, ['learning rate', 'momentum']), ('lr', ['learning rate']), (['mom'], ['momentum']),
     (('mom', 'lr'), ['momentum', 'learning rate'])])
def test_schedules_that_are_asked_for(keys, wanted):
    learn = learner().fit_one_cycle(1)
    learn.recorder.plot_sched(keys=keys)
    assert [ax.get_ylabel() for ax in plt.gcf().axes] == wanted
    ax = plt.figure().subplots()
    learn.recorder.plot_sched([ax], keys='mom')
    assert ax.get_ylabel() == 'momentum'
    with pytest.raises(ValueError, match="keys='lrs'.*Did you mean 'lr'"):
        learn.recorder.plot_sched(keys='lrs')
    plt.close('all')

def test_plots_leave_open_figures_and_the_backend_alone():
    from sotavision.objectives.metrics import accuracy
    learn = learner(metrics=accuracy).fit(2)
    fig, ax = plt.subplots()
    ax.plot([1, 2], label='mine')
    backend, params = matplotlib.get_backend(), dict(matplotlib.rcParams)
    for draw in (
        learn.recorder.plot_loss, learn.recorder.plot_sched, learn.recorder.plot_metrics,
        lambda: learn.lr_find(num_it=10, suggest_funcs=None), lambda: learn.show_results(max_n=2)
    ): draw()
    assert matplotlib.get_backend() == backend and dict(matplotlib.rcParams) == params
    assert fig.number in plt.get_fignums() and len(fig.axes) == 1 and len(ax.lines) == 1
    plt.close('all')

def test_no_logging(capsys):
    learn = learner(default_cbs=True, cbs=None)
    with learn.no_logging() as quiet: quiet.fit(1)
    assert not capsys.readouterr().out and any(isinstance(o, ProgressCallback) for o in learn.cbs)
    learn.fit(1)
    assert 'train_loss' in capsys.readouterr().out

def test_the_device_is_known_without_reading_the_model():
    from torchvision.models import resnet18

    from learners import block, items_of
    from sotavision.transfer.vision_learner import vision_learner
    learn = vision_learner(
        block().dataloaders(items_of(42), bs=8, device='cpu'), resnet18, pretrained=False
    )
    class Blind(type(learn.model)):
        @property
        def stats(self): raise AssertionError('read')
    learn.model.__class__ = Blind
    assert learn.device == torch.device('cpu')
