"""How the operators run on a target: kernels, one module per target."""
