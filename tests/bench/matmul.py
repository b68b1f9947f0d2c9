"""The most floating-point operations per CPU second that PyTorch reaches here, in products of fp32 matrices.

    python tests/bench/matmul.py THREADS

Prints one number, the best of some sizes and rounds.
"""

from __future__ import annotations

import sys
import time

import torch

SIZES = (512, 1024, 2048)
ROUNDS = 7


def peak(threads: int) -> float:
    torch.set_num_threads(threads)
    best = 0.0
    for size in SIZES:
        left, right = torch.randn(size, size), torch.randn(size, size)
        left @ right
        for _ in range(ROUNDS):
            started = time.process_time()
            for _ in range(2048 // size):
                left @ right
            best = max(best, 2 * size**3 * (2048 // size) / (time.process_time() - started))
    return best


if __name__ == "__main__":
    print(peak(int(sys.argv[1])))
