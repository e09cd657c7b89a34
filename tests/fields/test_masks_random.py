"""Random programs of mask operations: a field is never narrower than what the model depends on."""

import math
import random

import pytest
import torch

from helpers.dependence import disagreements, reals

T = 5
LOW = (-1e4, -1e4, -1e5, -1e5, -1e9, -math.inf)
NUMBERS = (0.0, 1.0, -1.0, 1e-5, 0.5, -3.0, 1e4, -9e3, 1e5, 1e9, *LOW)


class Program:
    """Scores, changed by a few random operations with masks from constants; softmax, and the values."""

    def __init__(self, seed):
        self.seed = seed

    def __call__(self, x):
        self.rng = random.Random(self.seed)
        self.x = x
        scores = x @ x.mT
        for _ in range(self.rng.choice((0, 0, 1))):
            scores = self.changed(scores)
        low, causal = self.rng.choice(LOW), torch.ones(T, T, device=x.device).triu(1)
        if self.rng.random() < 0.5:
            scores = scores.masked_fill(causal > 0, low)
        else:
            scores = scores + torch.full_like(causal, low, dtype=x.dtype).triu(1)
        for _ in range(self.rng.choice((0, 1, 1, 2))):
            scores = self.changed(scores)
        weights = scores.softmax(self.rng.choice((-1, -1, -1, 1)))
        for _ in range(self.rng.choice((0, 0, 1))):
            weights = self.changed(weights)
        return weights @ x if self.rng.random() < 0.8 else (x.mT @ weights).mT

    def number(self):
        return self.rng.choice(NUMBERS)

    def pattern(self):
        """Booleans from constants."""
        ones = torch.ones(T, T, device=self.x.device)
        rows = torch.arange(T, device=self.x.device)
        k = self.rng.randint(-1, 2)
        return self.rng.choice(
            (
                lambda: ones.triu(k) > 0,
                lambda: ones.tril(k) == 0,
                lambda: rows[None] > rows[:, None] + k,
                lambda: rows > k,
                lambda: (rows > k)[:, None].expand(T, T),
                lambda: ~(ones.triu(1) > 0),
            )
        )()

    def mask(self):
        """Numbers from constants."""
        a, b = self.number(), self.number()
        full = torch.full((T, T), a, device=self.x.device, dtype=self.x.dtype)
        mask = self.rng.choice(
            (
                lambda: full.triu(1),
                lambda: full.tril(),
                lambda: full,
                lambda: torch.where(self.pattern(), full, b),
                lambda: torch.zeros_like(full).masked_fill(self.pattern(), a),
                lambda: self.pattern().to(full.dtype),
                lambda: full[0],
                lambda: full.mT.triu().mT,
            )
        )()
        if self.rng.random() < 0.2 and mask.dim() == 2:
            mask = mask.clone()
            mask[self.rng.randint(0, T - 1)] = b
        return mask

    def changed(self, s):
        rng, x, a = self.rng, self.x, self.number()
        return rng.choice(
            (
                lambda: s + self.mask(),
                lambda: s + self.mask(),
                lambda: s - self.mask(),
                lambda: self.mask() - s,
                lambda: torch.add(s, self.mask(), alpha=a if math.isfinite(a) else 2),
                lambda: torch.sub(self.mask(), s, alpha=rng.choice((-1, 1, 1e-5))),
                lambda: torch.rsub(s, self.mask()),
                lambda: torch.baddbmm(self.mask().expand_as(s), x, x.mT, beta=rng.choice((0, 1, 1e-5, -1))),
                lambda: torch.baddbmm(s, x, x.mT, alpha=rng.choice((0, 1, 1e5))),
                lambda: s * self.mask(),
                lambda: s * a,
                lambda: s / rng.choice((1e9, 2.0, -1.0, 1e-5)),
                lambda: s / self.mask(),
                lambda: -s,
                lambda: s.masked_fill(self.pattern(), a),
                lambda: s.clone().masked_fill_(self.pattern(), a),
                lambda: torch.where(self.pattern(), s, a),
                lambda: torch.where(self.pattern(), a, s),
                lambda: torch.where(self.pattern(), self.mask().expand_as(s), s),
                lambda: torch.where(x[:, :, :1] > 0, s, s + rng.choice((-1.0, 1.0))),
                lambda: s.clamp(min=-5.0),
                lambda: s.clamp(max=-1e9),
                lambda: torch.minimum(s, self.mask().expand_as(s)),
                lambda: torch.maximum(s, self.mask().expand_as(s)),
                lambda: s.nan_to_num(),
                lambda: s.nan_to_num(neginf=0.0),
                lambda: s.tril(rng.randint(-1, 1)),
                lambda: s.triu(rng.randint(-1, 1)),
                lambda: s.softmax(rng.choice((1, 2))),
                lambda: s.clamp(-5.0, 5.0).exp(),
                lambda: s.abs(),
                lambda: s.relu(),
                lambda: torch.native_dropout(s, 0.5, rng.random() < 0.7)[0],
                lambda: torch.dropout(s, 0.5, True),
                lambda: s.mT,
                lambda: s.flip(-1),
                lambda: s.mT.contiguous().mT.as_strided(s.shape, s.contiguous().stride()),
                lambda: torch.cat([s[..., 2:], s[..., :2]], -1),
                lambda: torch.cat(s.split(2, -1)[::-1], -1),
                lambda: self.written(s.clone()),
                lambda: self.written_as_a_view(s.clone()),
            )
        )()

    def written(self, s):
        i = self.rng.randint(0, T - 1)
        part = self.rng.choice((s[:, i], s[..., i], s[:, i:], s[..., i:]))
        self.rng.choice((part.fill_, part.add_, part.mul_))(self.number())
        return s

    def written_as_a_view(self, s):
        s = s.contiguous()
        flat = s.view(-1)
        flat.add_(self.number())
        return flat.view(s.shape) if self.rng.random() < 0.5 else s


def holds(seed):
    wrong = disagreements((Program(seed), reals(1, T, 3)), exact=False, devices=["meta"])
    assert [text for text in wrong if "axis 2" not in text] == []


@pytest.mark.parametrize("seed", range(60))
def test_random_masks_hide_no_more_than_is_hidden(seed):
    holds(seed)


@pytest.mark.exhaustive
@pytest.mark.parametrize("seed", range(60, 1500))
def test_many_random_masks_hide_no_more_than_is_hidden(seed):
    holds(seed)
