"""A `Learner` that is whole: whoever imports anything of this room gets every method and handler
that this and later rooms teach it.

Besides `all.py` this is the only file that looks to the right. Like it, it holds nothing else.
"""
from .learner import Learner
from . import checkpoints, lr_find, oom, predict, schedules, summary, trial, weights
from ..transfer import freezing
from ..techniques import tta
from ..tasks import multilabel

__all__ = ['Learner']
