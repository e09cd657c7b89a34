"""Thresholds of noise and waiting, each with the reason for its value.

Shares of the seconds asked for are no matter of noise, and stand where the seconds are shared out.
"""

from __future__ import annotations

# Fewest samples, or pairs of them, for a result: with fewer, a single interruption would change the median.
FEWEST = 5
# Rounds that are done whatever the seconds: the median of three survives one outlier.
LEAST_ROUNDS = 3
# Rounds of a comparison of paths: the median of 25 is known to a fifth of the interquartile range.
ROUNDS = 25
# Rounds of old against new layers: 15 know a median to a quarter of it, and many pairs share the seconds.
PAIR_ROUNDS = 15
# Attempts at a sample in a round while it is interrupted: where every second is, 7 of 8 rounds have a good
# sample.
TRIES = 3

# Wall time may exceed CPU time by this share: beyond it another program ran; below it no median moves.
TOLERANCE = 0.1
# And by this, since reading two clocks takes about a microsecond; a preempted thread loses a tick of the
# scheduler, a millisecond or more.
GAP_NS = 20_000
# A sample lasts 2 ms or more, so that the microsecond of reading the clocks is below a thousandth of it.
BLOCK_S = 0.002
# And 20 steps of its clock, which on Windows moves by 15.6 ms: a step more or less is then a twentieth.
LEAST_STEPS = 20
# Most calls in a sample: a function that needs more than a million of them takes no measurable time.
MOST_CALLS = 1 << 20

# A candidate whose first call takes 8 times as long as the fastest is not called again: new memory and cold
# caches make a first call a few times as long, not eight. Below 20 ms they may be most of the time.
FAR, FAR_S = 8.0, 0.02
# After a sample of each, candidates 3 times slower than the fastest are dropped: single samples of the same
# function differ by tens of per cent on a shared machine, not by 200.
HOPELESS = 3.0

# The model is warm when two passes agree within 5 %: a cold pass takes longer than that. Ten at most, because
# on a busy machine they may never agree.
STEADY, MOST_WARMING = 0.05, 10
# Relative precision wanted of the medians, and the least share of a pass for which a call counts: smaller
# calls would take long to know, and change nothing.
PRECISION, LARGE = 0.02, 0.02
# Most passes, whatever the seconds: each leaves a record of every call, and so many settle the median.
MOST_PASSES = 10_000
# Repeats of the chain on which the hooks' own cost is measured, and its modules: 15 differences, each over
# 130 laps, for what two passes differ by is much more than what one hook takes.
HOOK_REPEATS, HOOK_MODULES = 15, 64

# Share by which two runs of the same function differ on a quiet machine: no smaller gain is reported.
NOISE = 0.03
# A gain of a quarter is reported however noisy the times: noise is taken to be no larger than that.
MOST_NOISE = 0.25
# Multiples of the interquartile range over the root of the samples: the standard error of a median
# (1.25 / 1.35 for a normal distribution), and half its 95 % interval (McGill, Tukey and Larsen, 1978).
STANDARD_ERROR, HALF_INTERVAL = 0.93, 1.57
# A time that is disturbed, in messages.
UNRELIABLE = "unreliable: other processes interrupted every sample"

# Time for five pairs, over five times that of the first calls: what surrounds them adds at most half.
AROUND = 1.5
# Seconds for each pair of old and new layers at least: a smaller share would hold no five pairs of blocks.
LEAST_PAIR_S = 0.1
# A matrix product that takes this long is large enough that the overhead of the call does not count.
LONG_S = 0.05
