"""The names of activations: what a config may say, and what both frameworks must know."""

# gelu is exact; gelu_new, gelu_fast and gelu_pytorch_tanh are one approximation by tanh.
ACTIVATIONS = (
    "gelu", "gelu_python", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "quick_gelu", "relu", "relu2", "relu6",
    "leaky_relu", "silu", "swish", "mish", "tanh", "sigmoid", "linear",
)  # fmt: skip
