# whichever module is imported first: the ones that make a Learner whole come through this room
from .. import training  # noqa: F401
