"""Weight maps: for every family what its parameters are called elsewhere."""

from xlcore.maps import transfo_xl
from xlcore.weightmap import WeightMap

# The names that HuggingFace's PyTorch classes use; ours on disk, too.
HF: dict[str, WeightMap] = {"transfo-xl": transfo_xl.HF}
