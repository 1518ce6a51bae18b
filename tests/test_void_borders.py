"What an augmentation brings in from beyond the edge of a mask has no class."
import pytest
import torch
from torchvision import tv_tensors

from sotavision.augment.affine import Rotate, Warp, Zoom
from sotavision.augment.resize import RandomCrop, Resize, aug_transforms
from sotavision.data.blocks import VOID

H, W = 17, 23
ONES = torch.ones(4, H, W, dtype=torch.uint8)

def pair(mask=ONES):
    "Images that are nowhere black, and their masks of one class."
    return tv_tensors.Image(torch.ones(4, 3, H, W)), tv_tensors.Mask(mask)

MOVES = dict(
    rotate=Rotate(40, p=1, draw=40., pad_mode='zeros'),
    out=Zoom(.5, .5, p=1, pad_mode='zeros'),
    warp=Warp(.4, p=1, pad_mode='zeros'),
    joined=aug_transforms(2., size=(20, 31), max_lighting=0, p_affine=1, pad_mode='zeros')[0])

@pytest.mark.parametrize('move', MOVES)
@pytest.mark.parametrize('dtype', [torch.uint8, torch.int16, torch.int64])
def test_where_the_image_is_black_the_mask_is_void(move, dtype):
    torch.manual_seed(0)
    im, mask = MOVES[move](pair(ONES.to(dtype)), split_idx=0)
    assert mask.dtype == dtype and set(mask.unique().tolist()) == {1, VOID}
    black = im.amax(1) < .01
    assert (mask[black] == VOID).all() and (mask[im.amin(1) > .99] == 1).all()

@pytest.mark.parametrize('mode', ['reflection', 'border'])
def test_where_the_image_is_continued_so_is_the_mask(mode):
    moved = Rotate(40, p=1, draw=40., pad_mode=mode)(pair(), split_idx=0)[1]
    assert (moved == 1).all()

def test_masks_of_truths_and_of_shares_are_filled_with_zero():
    for mask in (ONES.bool(), ONES.float()):
        moved = Rotate(40, p=1, draw=40., pad_mode='zeros')(pair(mask), split_idx=0)[1]
        assert moved.dtype == mask.dtype and set(moved.unique().tolist()) == {0, 1}

def test_codes_stay_exact():
    codes = torch.randint(0, 256, (4, H, W), generator=torch.Generator().manual_seed(0))
    still = Rotate(0, p=1, draw=0., pad_mode='zeros')
    assert still(pair(codes.to(torch.uint8)), split_idx=0)[1].equal(codes.to(torch.uint8))

@pytest.mark.parametrize('tfm', [Resize((H, W + 6), 'pad', 'zeros'), Resize(40, 'pad', 'zeros'),
                                 RandomCrop((H + 4, W + 6), pad_mode='zeros')])
@pytest.mark.parametrize('split', [0, 1])
def test_padding_an_item(tfm, split):
    im, mask = tv_tensors.Image(torch.ones(3, H, W)), tv_tensors.Mask(ONES[0])
    im, mask = tfm((im, mask), split_idx=split)
    assert (im[0] == 0).any() and mask[im[0] == 0].eq(VOID).all() and mask[im[0] > 0].eq(1).all()
