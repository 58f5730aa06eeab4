#!/usr/bin/env python3
"""Writes golden.json: pruning methods on small random matrices, in float64.

A second implementation for the tests, written with numpy from the published
algorithms and sharing nothing with the Go code:

    python3 golden.py > golden.json
"""
import json

import numpy as np

rng = np.random.default_rng(2026)
ROWS, COLS, TOKENS, BLOCK = 12, 44, 96, 16  # 44 leaves a tail of 12 columns


def f32(a):
    return np.asarray(a, np.float32).astype(np.float64)


def gram_factor(x, damp=0.01):
    h = x.T @ x
    dead = np.diag(h) == 0
    h[dead, dead] = 1
    h += damp * np.mean(np.diag(h)) * np.eye(len(h))
    return np.linalg.cholesky(np.linalg.inv(h)).T, dead  # upper U, U^T U = H^-1


def smallest(score, k):
    """Mask of exactly k smallest entries of a flat score, ties by position."""
    m = np.zeros(score.size, bool)
    m[np.argsort(score.ravel(), kind="stable")[:k]] = True
    return m.reshape(score.shape)


def sparsegpt(w, x, sparsity=None, nm=None):
    w = w.copy()
    u, dead = gram_factor(x)
    w[:, dead] = 0
    block = BLOCK if nm is None else BLOCK // nm[1] * nm[1]
    for i1 in range(0, COLS, block):
        i2 = min(i1 + block, COLS)
        w1, u1 = w[:, i1:i2].copy(), u[i1:i2, i1:i2]
        err = np.zeros_like(w1)
        m = np.zeros(w1.shape, bool)
        if nm is None:
            m = smallest(w1**2 / np.diag(u1) ** 2, int(w1.size * sparsity))
        for i in range(i2 - i1):
            if nm is not None and i % nm[1] == 0:
                n = min(nm[1], i2 - i1 - i)
                keep = -(-n * nm[0] // nm[1])
                s = w1[:, i : i + n] ** 2 / np.diag(u1)[i : i + n] ** 2
                for r in range(ROWS):
                    m[r, i : i + n] = smallest(s[r], n - keep)
            q = np.where(m[:, i], 0, w1[:, i])
            e = (w1[:, i] - q) / u1[i, i]
            w1[:, i:] -= np.outer(e, u1[i, i:])
            w1[:, i] = q
            err[:, i] = e
        w[:, i1:i2] = w1
        w[:, i2:] -= err @ u[i1:i2, i2:]
    return w


def wanda(w, x, sparsity=None, nm=None):
    s = np.abs(w) * np.sqrt((x**2).sum(0))
    return np.where(row_mask(s, sparsity, nm), 0, w)


def row_mask(s, sparsity=None, nm=None):
    m = np.zeros(s.shape, bool)
    for r in range(len(s)):
        if nm is None:
            m[r] = smallest(s[r], int(s.shape[1] * sparsity))
            continue
        for i in range(0, s.shape[1], nm[1]):
            n = min(nm[1], s.shape[1] - i)
            m[r, i : i + n] = smallest(s[r, i : i + n], n - -(-n * nm[0] // nm[1]))
    return m


def wanda_variant(w, x, target):
    s = np.abs(w) * np.sqrt((x**2).mean(0))
    order = np.argsort(s, axis=1, kind="stable")
    cum = np.cumsum(np.take_along_axis(s, order, 1), axis=1)

    def mask(alpha):
        m = np.zeros(s.shape, bool)
        for r in range(len(s)):
            m[r, order[r, : (cum[r] <= alpha * cum[r, -1]).sum()]] = True
        return m

    lo, hi, alpha = 0.0, 0.8, 0.4
    m = mask(alpha)
    while abs(m.mean() - target) > 0.001 and hi - lo >= 0.001:
        if m.mean() > target:
            hi = alpha
        else:
            lo = alpha
        alpha = (lo + hi) / 2
        m = mask(alpha)
    return np.where(m, 0, w)


def ria(w, x, sparsity=None, nm=None, a=0.5):
    s = np.abs(w) / np.abs(w).sum(0) + np.abs(w) / np.abs(w).sum(1, keepdims=True)
    s = s * np.sqrt((x**2).sum(0)) ** a
    if nm is None:  # over the whole matrix
        return np.where(smallest(s, int(w.size * sparsity)), 0, w)
    return np.where(row_mask(s, None, nm), 0, w)


def dsnot(w, x, window, sparsity=None, nm=None, cycles=50, threshold=0.1):
    s = np.abs(w) * np.sqrt((x**2).mean(0))
    keep = ~row_mask(s, sparsity, nm)
    add, var = w * x.mean(0) * window, x.var(0)
    group = COLS if nm is None else nm[1]
    for r in range(ROWS):
        err = add[r, ~keep[r]].sum()
        for _ in range(cycles):
            if abs(err) <= threshold:
                break
            sign = np.sign(err)
            best = (0, None, None)
            for c in np.flatnonzero(~keep[r] & (np.sign(add[r]) == sign) & (var > 0)):
                g = np.arange(c // group * group, min(COLS, (c // group + 1) * group))
                give = [p for p in g if keep[r, p] and np.sign(add[r, p]) == -sign]
                if give and abs(add[r, c]) / var[c] > best[0]:
                    best = (abs(add[r, c]) / var[c], c, min(give, key=lambda p: s[r, p]))
            if best[1] is None:
                break
            after = err - add[r, best[1]] + add[r, best[2]]
            if np.sign(after) != sign:
                break
            keep[r, best[1]], keep[r, best[2]] = True, False
            err = after
    return np.where(keep, w, 0)


def resolve(w, pruned, x, ridge):
    """Least squares on the support of pruned, a direct solve per row."""
    h = x.T @ x
    h += ridge * np.mean(np.diag(h)) * np.eye(COLS)
    out = np.zeros_like(w)
    for r in range(ROWS):
        k = np.flatnonzero(pruned[r])
        out[r, k] = np.linalg.solve(h[np.ix_(k, k)], h[k] @ w[r])
    return out


mix = rng.normal(size=(COLS, COLS)) / 5 + np.eye(COLS)  # correlated channels
x = f32(rng.normal(size=(TOKENS, COLS)) @ mix * np.exp(rng.normal(size=COLS)))
x[:, 5] = 0  # a dead channel
w = f32(rng.normal(size=(ROWS, COLS)))
cases = {
    "sparsegpt 2:4": sparsegpt(w, x, nm=(2, 4)),
    "sparsegpt 4:8": sparsegpt(w, x, nm=(4, 8)),
    "sparsegpt 1:4": sparsegpt(w, x, nm=(1, 4)),
    "sparsegpt 3:5": sparsegpt(w, x, nm=(3, 5)),
    "sparsegpt 0.5": sparsegpt(w, x, sparsity=0.5),
    "sparsegpt 0.7": sparsegpt(w, x, sparsity=0.7),
    "wanda 2:4": wanda(w, x, nm=(2, 4)),
    "wanda 0.5": wanda(w, x, sparsity=0.5),
    "wanda-alpha 0.5": wanda_variant(w, x, 0.5),
    "dsnot 2:4": dsnot(w, x, 8, nm=(2, 4)),
    "dsnot 0.5": dsnot(w, x, 8, sparsity=0.5),
    "ria 2:4": ria(w, x, nm=(2, 4)),
    "ria 0.5": ria(w, x, sparsity=0.5),
}
cases["resolve 2:4"] = resolve(w, cases["sparsegpt 2:4"], x, 0.01)
digits = lambda a: [float(f"{v:.9g}") for v in np.ravel(a)]
print(json.dumps({"rows": ROWS, "cols": COLS, "tokens": TOKENS, "block": BLOCK, "w": digits(w), "x": digits(x),
                  "want": {k: digits(v) for k, v in cases.items()}}))
