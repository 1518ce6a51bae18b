"Recipes on the command line: what is said wins, what is trained is the recipe, predict finds it."
import json

import pytest

from cli_runs import error, make_data  # noqa: F401
from sotavision.app.config import Config, command, make_learner, recipe_of, usual_folder
from sotavision.app.predict import load_run
from sotavision.cli import main
from sotavision.techniques.recipes import get_recipe, recipes

NAME = 'imagenette-128-5'
SMALL = '--arch', 'xresnet18', '--size', '32', '--epochs', '2', '--bs', '8', '--device', 'cpu'

def test_a_recipe_says_what_is_not_said(data):
    cfg = Config.of_recipe(NAME, str(data), size=64)
    recipe = get_recipe(NAME)
    assert (cfg.arch, cfg.size, cfg.lr, cfg.bs) == ('xresnet50', 64, recipe.lr, recipe.bs)
    assert recipe_of(cfg).opt == 'muon' and recipe_of(cfg).size == 64
    # 64 is the usual size of a run without a recipe: said, it counts
    assert Config.of_recipe(NAME, str(data)).size == 128

def test_train_predict_and_report(data, tmp_path, capsys):
    out = tmp_path/'run'
    assert main(['train', '--data', str(data), '--recipe', NAME, *SMALL, '--out', str(out)]) == 0
    config = json.loads((out/'config.json').read_text())
    assert config['recipe'] == NAME and config['lr'] == .006
    model, _ = load_run(out, 'cpu')
    assert any(type(m).__name__ == 'Mish' for m in model.modules())
    capsys.readouterr()
    picture = next((data/'val'/'dark').iterdir())
    assert main(['predict', str(out), str(picture), '--format', 'json', '--device', 'cpu']) == 0
    assert 'dark' in capsys.readouterr().out
    assert main(['report', str(out), '--device', 'cpu']) == 0

@pytest.mark.parametrize('name', [NAME, 'imagenette-128-5-noisy'])   # one cycle; flat, then cosine
def test_the_run_is_the_recipe(data, name):
    cfg = Config.of_recipe(name, str(data), arch='xresnet18', size=32, epochs=2, bs=8,
                           device='cpu', precision='fp32')
    from sotavision.app.train import fit
    a = make_learner(cfg)
    with a.no_bar(): fit(a, cfg)
    recipe = recipe_of(cfg)
    b = recipe.learner(make_learner(cfg).dls, cfg.seed, precision='fp32')
    with b.no_bar(): recipe.train(b)
    assert type(a.opt).__name__ == 'Muon'
    assert all(x.equal(y) for x, y in zip(a.model.state_dict().values(),
                                          b.model.state_dict().values()))

def test_the_command_says_it_again(data):
    cfg = Config.of_recipe(NAME, 'toynette', epochs=7, seed=1)
    line = command(cfg)
    assert line == f'sotavision train --data toynette --epochs 7 --seed 1 --recipe {NAME}'
    assert command(Config.of_recipe(NAME, 'toynette')).endswith(f'--recipe {NAME}')
    assert '--recipe' not in command(Config('toynette'))
    folders = {usual_folder(Config.of_recipe(o, 'toynette', epochs=5, bs=32))
               for o in (NAME, 'imagenette-128-5-noisy')} | {
        usual_folder(Config('toynette', 'xresnet50', 128))}
    assert len(folders) == 3

@pytest.mark.parametrize('more, said', [
    (('--pretrained',), 'pretrained=True'), (('--augment',), 'augment=True'),
    (('--method', 'crop'), "method='crop'"), (('--folds', '3'), 'folds=3'),
    (('--first-size', '16'), 'first_size=16')])
def test_what_a_recipe_says_itself_is_refused(data, tmp_path, capsys, more, said):
    text = error(capsys, 'train', '--data', data, '--recipe', NAME, *SMALL, *more,
                 '--out', tmp_path/'a')
    assert said in text and NAME in text and not (tmp_path/'a').exists()

def test_an_unknown_recipe_is_named(data, tmp_path, capsys):
    text = error(capsys, 'train', '--data', data, '--recipe', 'imagenette-128-6', '--out',
                 tmp_path/'a')
    assert 'imagenette-128-6' in text and 'Did you mean' in text
    assert 'Did you mean' in error(capsys, 'recipes', 'imagenette-128-6')

def test_the_list_and_the_code(capsys):
    assert main(['recipes']) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [o.split()[0] for o in lines] == list(recipes)
    assert main(['recipes', NAME]) == 0
    assert capsys.readouterr().out.strip() == get_recipe(NAME).code().strip()

def test_a_variant_may_be_a_recipe(data, tmp_path, monkeypatch):
    from sotavision.app import trials
    asked = []
    def run(seed, **choices):
        asked.append(Config(**choices, seed=seed))
        return dict(accuracy=.5, valid_loss=1.)
    monkeypatch.setattr(trials, '_run_scores', run)
    cfg = Config(str(data), size=32, epochs=1, device='cpu')
    trials.trial(cfg, [('recipe', dict(recipe=NAME, epochs=2))], 1, tmp_path/'c')
    base, other = asked
    assert base.recipe is None and (base.size, base.arch) == (32, 'xresnet18')
    assert (other.recipe, other.size, other.epochs, other.lr) == (NAME, 128, 2, .006)
