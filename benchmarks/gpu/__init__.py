"""The suite's models on one GPU: checked, tuned and timed beside the peers that run there, and measured against limits.

    python -m benchmarks.gpu make FOLDER      # where the compiler and the libraries are; no GPU
    python -m benchmarks.gpu run FOLDER       # where the GPU is: numpy, apache-tvm-ffi, this checkout; also PyTorch
    python -m benchmarks.gpu report FOLDER    # anywhere

`run` HAS NEVER RUN ON A GPU. Tests run it with a driver that emulates one, and with a stand-in for the peers.
"""
