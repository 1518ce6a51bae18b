"""The flows of the subject's book, chapters 5 to 7 and the first lessons, on a few drawn pictures:
what a reader types after changing the import line. Whether it learns is asked elsewhere."""
import matplotlib

matplotlib.use('agg')
import pytest

from drawn import draw
from sotavision.all import *

BREEDS = 'great_pyrenees', 'Bengal', 'pug', 'Sphynx'   # capitals mean cats, as in the set of pets

@pytest.fixture(autouse=True)
def no_figures_left():
    yield
    plt.close('all')

@pytest.fixture(scope='module', name='pets')
def draw_pets(tmp_path_factory):
    root = tmp_path_factory.mktemp('pets')/'images'
    for k, breed in enumerate(BREEDS):
        for i in range(10):
            draw(root / f'{breed}_{i}.jpg', (44 + 4 * (i % 3), 48 - 5 * (i % 2)), seed=10 * k + i)
    return root.parent

@pytest.fixture(scope='module', name='toys')
def draw_toys(tmp_path_factory):
    root = tmp_path_factory.mktemp('toys')
    for split, n in (('train', 8), ('val', 4)):
        for k, name in enumerate(('tench', 'church', 'pump')):
            for i in range(n): draw(root/split/name/f'{i}.jpg', (40 + i, 44), seed=100 * k + i)
    return root

@pytest.fixture(scope='module', name='tags')
def draw_tags(tmp_path_factory):
    "A table of three columns and its folder of pictures, as satellite pictures come."
    root, rows = tmp_path_factory.mktemp('planet'), []
    for i in range(16):
        draw(root/'train'/f'{i}.jpg', (40, 40), seed=i)
        rows.append(
            (
                f'{i}.jpg',
                ' '.join(
                    ['clear', 'haze'][i % 2 : i % 2 + 1]
                    + ['water'] * (i % 3 == 0)
                    + ['road'] * (i % 4 == 1)
                ),
                i % 5 == 0,
            )
        )
    pd.DataFrame(rows, columns=['fname', 'labels', 'is_valid']).to_csv(
        root / 'labels.csv', index=False
    )
    return root

def pets_block(**kwargs):
    return DataBlock(
        blocks=(ImageBlock, CategoryBlock),
        get_items=get_image_files,
        splitter=RandomSplitter(seed=42),
        get_y=using_attr(RegexLabeller(r'(.+)_\d+.jpg$'), 'name'),
        **kwargs,
    )

def is_cat(name): return name[0].isupper()

# --- the first lesson: one line of loaders, three of training

def test_a_cat_or_no_cat(pets):
    dls = ImageDataLoaders.from_name_func(
        pets,
        get_image_files(pets / 'images'),
        valid_pct=.2,
        seed=42,
        label_func=is_cat,
        item_tfms=Resize(32),
        bs=8,
    )
    learn = cnn_learner(dls, xresnet18, metrics=error_rate, pretrained=False, path=pets)
    learn.fine_tune(1)
    cat, which, probs = learn.predict(PILImage.create((pets/'images').ls()[0]))
    assert str(cat) in ('True', 'False') and probs[which] == probs.max()
    assert dls.vocab.o2i[dls.vocab[0]] == 0

def test_a_block_is_tried_with_other_transforms(toys):
    bears = DataBlock(
        blocks=(ImageBlock, CategoryBlock),
        get_items=get_image_files,
        splitter=RandomSplitter(valid_pct=.3, seed=42),
        get_y=parent_label,
        item_tfms=Resize(24),
    )
    bears.dataloaders(toys, bs=8).valid.show_batch(max_n=4, nrows=1)
    for tfm in (
        Resize(24, 'squish'),
        Resize(24, 'pad', pad_mode='zeros'),
        RandomResizedCrop(24, min_scale=.3),
    ):
        dls = bears.new(item_tfms=tfm).dataloaders(toys, bs=8)
        dls.train.show_batch(max_n=4, nrows=1, unique=True)
        assert dls.one_batch()[0].shape[-2:] == (24, 24)
    dls = bears.new(
        item_tfms=RandomResizedCrop(24, min_scale=.5), batch_tfms=aug_transforms()
    ).dataloaders(toys, bs=8)
    learn = Learner(dls, xresnet18(n_out=dls.c), metrics=error_rate)
    learn.fine_tune(1)
    interp = ClassificationInterpretation.from_learner(learn)
    interp.plot_confusion_matrix()
    interp.plot_top_losses(5, nrows=1)
    assert list(learn.dls.vocab) == ['church', 'pump', 'tench']
    failed = verify_images(get_image_files(toys))
    assert L(failed).map(Path.unlink) == []

# --- breeds of pets

def test_summary_shows_what_cannot_be_collated(pets, capsys):
    with pytest.raises(Exception, match='Resize'): pets_block().summary(pets/'images', bs=4)
    said = capsys.readouterr().out
    assert 'collat' in said and '[3, ' in said

def test_breeds_from_the_first_batch_to_the_rates_of_parts(pets):
    dls = pets_block(
        item_tfms=Resize(40), batch_tfms=aug_transforms(size=32, min_scale=.75)
    ).dataloaders(pets / 'images', bs=8)
    dls.show_batch(nrows=1, ncols=3)
    learn = cnn_learner(dls, resnet18, pretrained=False, metrics=error_rate)
    learn.fine_tune(1)
    x, y = dls.one_batch()
    preds, _ = learn.get_preds(dl=[(x, y)])
    assert preds.shape == (len(x), 4)
    assert torch.allclose(preds.sum(1), torch.ones(len(x)), atol=1e-4)
    interp = ClassificationInterpretation.from_learner(learn)
    interp.plot_confusion_matrix(figsize=(6, 6), dpi=60)
    assert all(n >= 1 for *_, n in interp.most_confused(min_val=1))
    learn = cnn_learner(dls, resnet18, pretrained=False, metrics=error_rate).to_fp32()
    learn.fit_one_cycle(1, 3e-3)
    learn.unfreeze()
    learn.fit_one_cycle(1, lr_max=slice(1e-6, 1e-4))
    learn.recorder.plot_loss()
    learn.fine_tune(1, freeze_epochs=2)
    assert len(learn.recorder.values) == 3            # the head's epochs are part of the record

# --- several tags

def test_tags_from_a_table_to_thresholds(tags):
    df = pd.read_csv(tags/'labels.csv')
    dsets = DataBlock().datasets(df)
    x, y = dsets.train[0]
    assert x['fname'] == y['fname']
    def splitter(df): return df.index[~df['is_valid']].tolist(), df.index[df['is_valid']].tolist()
    block = DataBlock(
        blocks=(ImageBlock, MultiCategoryBlock),
        splitter=splitter,
        get_x=lambda r: tags / 'train' / r['fname'],
        get_y=lambda r: r['labels'].split(' '),
        item_tfms=RandomResizedCrop(32, min_scale=.35),
    )
    dsets = block.datasets(df)
    idxs = torch.where(dsets.train[0][1] == 1.)[0]
    assert list(dsets.train.vocab[idxs]) == sorted(df['labels'][splitter(df)[0][0]].split(' '))
    dls = block.dataloaders(df, bs=4)
    dls.show_batch(nrows=1, ncols=3)
    learn = cnn_learner(
        dls, xresnet18, pretrained=False, metrics=partial(accuracy_multi, thresh=.2)
    )
    learn.fine_tune(1, base_lr=3e-3, freeze_epochs=1)
    before = learn.validate()[1]
    learn.metrics = partial(accuracy_multi, thresh=.99)
    after = learn.validate()[1]
    preds, targs = learn.get_preds()
    assert after == pytest.approx(
        float(accuracy_multi(preds, targs, thresh=.99, sigmoid=False)), abs=1e-6
    )
    assert before == pytest.approx(
        float(accuracy_multi(preds, targs, thresh=.2, sigmoid=False)), abs=1e-6
    )

def test_the_same_tags_in_one_line(tags):
    dls = ImageDataLoaders.from_csv(
        tags,
        'labels.csv',
        folder='train',
        label_delim=' ',
        valid_col='is_valid',
        item_tfms=Resize(32),
        bs=4,
    )
    assert dls.c == 4 and len(dls.valid_ds) == 4
    same = ImageDataLoaders.from_df(
        pd.read_csv(tags / 'labels.csv'),
        tags,
        folder='train',
        label_delim=' ',
        valid_pct=.25,
        seed=1,
        item_tfms=Resize(32),
        bs=4,
    )
    assert same.c == 4 and len(same.valid_ds) == 4

# --- from scratch, as well as anybody

def toy_dls(path, bs, size, **kwargs):
    block = DataBlock(
        blocks=(ImageBlock, CategoryBlock),
        get_items=get_image_files,
        get_y=parent_label,
        splitter=GrandparentSplitter(),
        item_tfms=Resize(40),
        batch_tfms=[
            *aug_transforms(size=size, min_scale=.75),
            Normalize.from_stats(*imagenet_stats),
        ],
    )
    return block.dataloaders(path, bs=bs)

def test_small_pictures_first_then_larger_ones(toys):
    dls = toy_dls(toys, 8, 24)
    x, _ = dls.one_batch()
    assert x.mean(dim=[0, 2, 3]).abs().max() < 3
    learn = Learner(dls, xresnet50(n_out=dls.c), loss_func=CrossEntropyLossFlat(), metrics=accuracy)
    learn.fit_one_cycle(1, 3e-3)
    learn.dls = toy_dls(toys, 8, 32)
    learn.fine_tune(1, 1e-3)
    preds, targs = learn.tta()
    assert 0 <= accuracy(preds, targs).item() <= 1 and preds.shape == (12, 3)

@pytest.mark.parametrize(
    'extra', [dict(cbs=MixUp()), dict(cbs=CutMix()), dict(loss_func=LabelSmoothingCrossEntropy())],
    ids=['mixup', 'cutmix', 'smoothing'])
def test_softer_targets(toys, extra):
    dls = toy_dls(toys, 8, 24)
    learn = Learner(dls, xresnet18(n_out=dls.c), metrics=accuracy, **extra)
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(1, 3e-3)
    assert len(learn.recorder.values) == 1

def test_interpretation_with_sizes_of_figures(toys):
    dls = ImageDataLoaders.from_folder(toys, valid='val', item_tfms=Resize(24), bs=8)
    learn = Learner(dls, xresnet18(n_out=dls.c), metrics=accuracy)
    learn.fit(1)
    learn.show_results(nrows=2, figsize=(4, 4))
    interp = ClassificationInterpretation.from_learner(learn)
    interp.plot_top_losses(4, nrows=2, figsize=(5, 5))
    interp.plot_confusion_matrix(
        figsize=(4, 4), dpi=60, cmap='Greens', normalize=True, title='Toys'
    )
    learn.recorder.plot_sched(keys='lr')
    parts = learn.get_preds(with_input=True, with_decoded=True, with_loss=True)
    assert [len(o) for o in parts] == [12] * 5
    learn.summary()

# --- names that cells rely on

def test_names_of_every_cell(pets):
    assert torch.equal(tensor([1, 2, 3]), torch.tensor([1, 2, 3])) and tensor(1.5).item() == 1.5
    im = Image.open((pets/'images').ls()[0])
    assert max(im.to_thumb(16).size) == 16 and tensor(im).shape == (im.height, im.width, 3)
    assert callable(F.softmax) and issubclass(nn.Linear, nn.Module) and np.array([1]).sum() == 1
    assert isinstance(L(1), L)
