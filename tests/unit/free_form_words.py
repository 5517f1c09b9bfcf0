"""Words in every wording, and problems of the free-form toy."""

import random
from itertools import islice

from verl_ext.toy.free_form import WORDINGS
from verl_ext.toy.task import stream
from verl_ext.toy.variants import recipe_of

RECIPE = recipe_of("rlpr")
TASK = RECIPE.task


def written(word):
    return [write(word) for write in WORDINGS.values()]


def some(data_source, split, count=300):
    return list(islice(stream(TASK, data_source, split, random.Random(0)), count))
