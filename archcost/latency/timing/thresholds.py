"""Every number about noise and patience outside `archcost.accelerating`, each with the reason for its value.

What is not here is no matter of noise: shares of the seconds that were asked for stand where they are shared.
"""

from __future__ import annotations

# Least samples, or pairs of them, for a result: with fewer, one interruption more would change the median.
FEWEST = 5
# Rounds that are done whatever the seconds: the median of three outlives one that is off.
LEAST_ROUNDS = 3
# Rounds of a comparison of paths: the median of 25 is known to a fifth of the interquartile range.
ROUNDS = 25
# Rounds of old against new layers: 15 know a median to a quarter of it, and many pairs share the seconds.
PAIR_ROUNDS = 15
# How often a sample is taken in one round while it is interrupted: at one in two, seven of eight are good.
TRIES = 3

# Wall time may exceed CPU time by this share: more was another program's turn, less hardly moves a median.
TOLERANCE = 0.1
# And by this for reading two clocks, which takes about a microsecond; a processor that is taken away is gone
# for a tick of the scheduler, a millisecond or more.
GAP_NS = 20_000
# A sample takes 2 ms or more: the clocks' own microsecond is then a thousandth at most, less than any noise.
BLOCK_S = 0.002
# And 20 steps of its clock, which on Windows moves by 15.6 ms: a step more or less is a twentieth.
LEAST_STEPS = 20
# Calls in one sample: what would need more than a million has no time of its own.
MOST_CALLS = 1 << 20

# A first call that takes so many times as long as the fastest is not repeated: what only a first call does
# (new memory, cold caches) makes it a few times as long, not eight. Below 20 ms it may be most of it.
FAR, FAR_S = 8.0, 0.02
# After one sample of each, what is this much slower than the fastest is out: single samples of the same
# function differ by tens of per cent on a shared machine, not by 200.
HOPELESS = 3.0

# The model is warm when two passes agree so well: a cold one takes longer by more than that. Ten at most, for
# on a busy machine they never do.
STEADY, MOST_WARMING = 0.05, 10
# Of the pass and of each call that takes at least this share of it, the median is to be known so well.
# Smaller calls would be waited for long, and change nothing.
PRECISION, LARGE = 0.02, 0.02
# Passes, whatever the seconds: each leaves a record of every call, and the median of so many is certain.
MOST_PASSES = 10_000
# Repeats of the chain on which the hooks' own cost is measured, and its modules: 15 differences, each over
# 130 laps, for what two passes differ by is much more than what one hook takes.
HOOK_REPEATS, HOOK_MODULES = 15, 64

# Of a time: what two runs of the same differ by on a quiet machine. No smaller gain is called one.
NOISE = 0.03
# A gain of a quarter is one, however noisy the times: the noise is taken to be no larger than that.
MOST_NOISE = 0.25
# Of the interquartile range over the root of the samples: the standard error of a median (1.25 / 1.35 for a
# normal distribution), and half the width of its 95 % interval (McGill, Tukey and Larsen, 1978).
STANDARD_ERROR, HALF_INTERVAL = 0.93, 1.57

# What five pairs take, over five times the first calls: there is something around them, half as much at most.
AROUND = 1.5
# Seconds for each pair of old and new layers at least: a smaller share would hold no five pairs of blocks.
LEAST_PAIR_S = 0.1
# A product of matrices that takes this long is large enough: what is not the product no longer counts.
LONG_S = 0.05
