"""Published methods as lists of terms; `recipes.matching` finds the layers that they compare."""

from keras_distill.recipes import matching
from keras_distill.recipes.defaults import Default, Signs, default
from keras_distill.recipes.features import at, cwd, fitnets, mgd, nst, vid
from keras_distill.recipes.outputs import dist, dkd, hinton, mlkd, standardized
from keras_distill.recipes.relations import cc, cka, crd, pkt, rkd, sp
from keras_distill.recipes.schemes import byot, kdcl, mutual, one, online
from keras_distill.recipes.several_layers import review_kd, semckd
from keras_distill.recipes.transformers import distilbert, minilm, pkd, tinybert, uld

__all__ = [
    "Default",
    "Signs",
    "at",
    "byot",
    "cc",
    "cka",
    "crd",
    "cwd",
    "default",
    "dist",
    "distilbert",
    "dkd",
    "fitnets",
    "hinton",
    "kdcl",
    "matching",
    "mgd",
    "minilm",
    "mlkd",
    "mutual",
    "nst",
    "one",
    "online",
    "pkd",
    "pkt",
    "review_kd",
    "rkd",
    "semckd",
    "sp",
    "standardized",
    "tinybert",
    "uld",
    "vid",
]
