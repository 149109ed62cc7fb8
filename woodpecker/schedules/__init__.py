"""How the operators run on a target: kernels, and the spaces in which they are tuned. One module per target."""
