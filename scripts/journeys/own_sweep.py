"""Writes runs.csv as another trainer's sweep would leave it: width, rate, seed, parametrization and final loss.

The curves are parabolas in the log of the rate with noise between seeds; the optimum of `sp` falls by an octave each
time that the width doubles, and that of `mup` stays.
"""

import csv
import math
import sys

import numpy as np

draw = np.random.default_rng(0)
with open(sys.argv[1], "w", newline="") as file:
    writer = csv.writer(file)
    writer.writerow(["param", "n_embd", "learning_rate", "seed", "val_loss"])
    for param, falls in (("mup", 0.0), ("sp", 1.0)):
        for width in (64, 128, 256, 512):
            for power in (half / 2 for half in range(-24, -7)):
                for seed in range(3):
                    off = power + 7 + falls * math.log2(width / 64)
                    loss = 3.2 - 0.1 * math.log2(width / 64) + 0.04 * off**2 + 0.004 * draw.normal()
                    writer.writerow([param, width, 2.0**power, seed, round(loss, 5)])
