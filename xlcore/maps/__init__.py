"""Weight maps: for every family what its parameters are called elsewhere, and where its checkpoints come from."""

from xlcore.families import FAMILIES
from xlcore.maps import (
    transfo_xl,
    transfo_xl_origins,
    xlm,
    xlm_origins,
    xlm_roberta_xl,
    xlm_roberta_xl_origins,
    xlnet,
    xlnet_origins,
)
from xlcore.maps.keras_files import keras_origin
from xlcore.origin import Origin
from xlcore.weightmap import WeightMap

# The names that HuggingFace's PyTorch classes use; ours on disk, too.
HF: dict[str, WeightMap] = {
    "transfo-xl": transfo_xl.HF,
    "xlnet": xlnet.HF,
    "xlm": xlm.HF,
    "xlm-roberta-xl": xlm_roberta_xl.HF,
}

# The first that recognises a checkpoint is its origin.
ORIGINS: tuple[Origin, ...] = (
    *transfo_xl_origins.ORIGINS,
    *xlnet_origins.ORIGINS,
    *xlm_origins.ORIGINS,
    *xlm_roberta_xl_origins.ORIGINS,
    *(keras_origin(family) for family in FAMILIES.values()),
)
