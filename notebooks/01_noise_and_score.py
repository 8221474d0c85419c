# %% [markdown]
# # 1 · Noise and score
#
# A diffusion model makes pictures by undoing noise. Everything it needs to know is the answer to one question:
#
# > *Here is a noisy point. Which clean point was it, on average?*
#
# The function that answers is called the **denoiser**. This chapter builds it for a data set small enough to see:
# points in the plane. There we can write down the exact answer, watch it act at every noise level, and check each
# formula against brute force. On the way, a surprise waits: used as a generator, the exact answer is useless.

# %% tags=["parameters"] fast={"N_NOISY": 2000, "SEEDS": [0, 1]}
N_POINTS = 400  # size of the data set
N_NOISY = 40_000  # noisy points for each Monte Carlo check
SEEDS = [0, 1, 2, 3, 4]

# %%
import math

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import make_moons

import gausstools as gt
from gausstools import figures, shipped
from gausstools.figures import interactive

figures.set_style()
# The checks below go down to rounding error.
torch.set_default_dtype(torch.float64)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


# %% [markdown]
# ## Noise
#
# Our data are two crescents. To noise a point $x_0$ is to add to it independent normal noise $n$, scaled by the
# **noise level** $\sigma$:
#
# $$
# x_\sigma = x_0 + \sigma\, n, \qquad n \sim \mathcal N(0, I).
# $$ (eq-noising)
#
# Small $\sigma$ blurs the crescents. Large $\sigma$ drowns them.

# %%
points, _ = make_moons(N_POINTS, noise=0.04, random_state=0)
data = torch.from_numpy(points) / 1.5 - torch.tensor([0.33, 0.17])


def noised(data, sigma, seed):
    return data + sigma * torch.randn(data.shape, generator=seeded(seed))


# %% mystnb={"figure": {"caption": "The data, and the same data at three noise levels. Each panel is as wide as its own cloud, so the shapes can be compared: at σ = 2 nothing is left of the crescents but a round cloud.", "name": "fig-noising"}, "image": {"alt": "Four scatter plots side by side. Two interleaved crescents; the same crescents slightly blurred; a lumpy oval cloud; a round cloud without structure."}}
fig, axes = plt.subplots(1, 4, figsize=(7, 2.1))
for ax, sigma in zip(axes, [0.0, 0.1, 0.4, 2.0]):
    x = noised(data, sigma, seed=0)
    reach = 1.2 + 2.5 * sigma
    ax.scatter(*x.T, s=3, color=figures.COLORS["data"], linewidths=0)
    ax.set(
        title=f"σ = {sigma:g}",
        xlim=(-reach, reach),
        ylim=(-reach, reach),
        aspect="equal",
    )
plt.show()

# %% [markdown]
# The first two moments of the noised cloud are simple. Noise has mean zero and is independent of the data, so the mean
# stays and the covariance $\Sigma$ becomes $\Sigma + \sigma^2 I$. Let us see that once, with the sampling error
# that a finite cloud has.


# %%
def covariance_error(sigma, seed):
    """Largest deviation of the covariance from Σ + σ²I, in standard errors."""
    many = data.repeat(N_NOISY // N_POINTS, 1)
    expected = torch.cov(data.T, correction=0) + sigma**2 * torch.eye(2)
    found = torch.cov(noised(many, sigma, seed).T, correction=0)
    spread = expected.diag()
    standard_error = ((spread.outer(spread) + expected**2) / len(many)).sqrt()
    return ((found - expected) / standard_error).abs().max().item()


errors = [
    covariance_error(sigma, seed) for sigma in (0.1, 0.4, 2.0) for seed in SEEDS
]
print(
    f"largest deviation in {len(errors)} clouds: {max(errors):.1f} standard errors"
)
assert max(errors) < 4.5

# %% [markdown]
# ## Density and score
#
# Noise turns a set of $N$ points into a smooth density: a bump of width $\sigma$ stands on every point $y_i$,
#
# $$
# p(x;\sigma) = \frac1N \sum_{i=1}^N \mathcal N(x;\, y_i,\, \sigma^2 I).
# $$ (eq-density)
#
# The **score** is the gradient of its logarithm, $\nabla_x \log p(x;\sigma)$. It points uphill, to where noisy points
# are more frequent. We let automatic differentiation compute it, so that nothing is assumed.


# %%
def log_weights(x, sigma):
    """log N(x; y_i, σ²I) up to a constant, shape (batch, N)."""
    return -torch.cdist(x, data).square() / (2 * sigma**2)


def log_density(x, sigma):
    constant = torch.tensor(N_POINTS * 2 * torch.pi * sigma**2).log()
    return log_weights(x, sigma).logsumexp(1) - constant


def score_by_autograd(x, sigma):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(log_density(x, sigma).sum(), x)[0]


# %% mystnb={"figure": {"caption": "Noised density (shade) and score (arrows) at three noise levels. Each arrow is σ²/3 times the score; three of them would lead to the denoised point of the next section. From far away, at σ = 1, all arrows aim at one centre. Close by, each aims at its own part of a crescent.", "name": "fig-score-field"}, "image": {"alt": "Three shaded density plots with arrows. At noise level 1 a round hill with all arrows pointing to its centre; at 0.3 one S-shaped hill; at 0.1 two sharp crescents, with arrows that point to the nearest part of a crescent."}}
def grid(reach, n):
    axis = torch.linspace(-reach, reach, n)
    return torch.cartesian_prod(axis, axis)


fig, axes = plt.subplots(1, 3, figsize=(7, 2.6))
for ax, sigma in zip(axes, [1.0, 0.3, 0.1]):
    density = log_density(grid(1.6, 120), sigma).exp().reshape(120, 120).T
    ax.imshow(density, origin="lower", extent=(-1.6, 1.6, -1.6, 1.6), cmap="Blues")
    at = grid(1.45, 11)
    figures.vector_field(
        ax, at, score_by_autograd(at, sigma) * sigma**2 / 3, width=0.006
    )
    ax.set(title=f"σ = {sigma:g}", aspect="equal")
plt.show()

# %% [markdown]
# ## The denoiser, and Tweedie's formula
#
# Back to the question of the first paragraph. Among all functions $D$, which one makes the mean squared error
# $\mathbb E\,\|D(x_\sigma) - x_0\|^2$ smallest? The **posterior mean**, $D(x,\sigma) = \mathbb E[x_0 \mid x_\sigma = x]$:
# the error splits into the squared distance of $D$ from the posterior mean, and a rest in which $D$ does not occur.
#
# For a finite data set, Bayes' rule gives it at once: each data point is weighted by how likely it is to have been
# noised into $x$,
#
# $$
# \begin{aligned}
# D(x,\sigma) &= \sum_i w_i(x)\, y_i, \\
# w_i(x) &\propto \exp\!\Big(\!-\frac{\|x-y_i\|^2}{2\sigma^2}\Big).
# \end{aligned}
# $$ (eq-denoiser)


# %%
def denoiser(x, sigma):
    return log_weights(x, sigma).softmax(1) @ data


# %% [markdown]
# Differentiate the logarithm of the noised density [(above)](#eq-density), and the same weights appear:
#
# $$
# \begin{aligned}
# \nabla \log p(x;\sigma) &= \sum_i w_i(x)\, \frac{y_i - x}{\sigma^2} \\
# &= \frac{D(x,\sigma) - x}{\sigma^2}.
# \end{aligned}
# $$ (eq-tweedie)
#
# This is **Tweedie's formula** ([proof](91_proofs.ipynb#tweedies-formula)). It holds for every data distribution: put an integral over the data for the sum, and the
# same line of algebra goes through. Who can denoise knows the score, and the other way round. In our code the two
# sides share only the distances, so we can compare them.

# %%
x = noised(data, 0.5, seed=1)
for sigma in (0.05, 0.3, 1.0, 5.0):
    by_tweedie = gt.score(denoiser, x, sigma)
    by_autograd = score_by_autograd(x, sigma)
    deviation = ((by_tweedie - by_autograd).norm() / by_autograd.norm()).item()
    print(f"σ = {sigma:<4g}  relative deviation {deviation:.0e}")
    assert deviation < 1e-11

# %% [markdown]
# That checks the algebra. Does $D$ also *denoise*? Here is brute force: noise the data many times, cut the plane into
# cells, and in each cell average the clean points that landed there. If $D$ is the posterior mean, the average of
# $x_0 - D(x_\sigma)$ in a cell is zero up to chance. We count by how many standard errors it is off: the root mean
# square of these numbers over cells must be near 1. A rival that returns the *nearest* data point gets the same
# treatment. A test that nothing can fail would prove nothing.


# %%
def bias_in_standard_errors(denoise, sigma, seed, cell=0.25):
    """Root mean square over cells of mean(x0 − D) / standard error."""
    clean = data.repeat(N_NOISY // N_POINTS, 1)
    noisy = noised(clean, sigma, seed)
    residual = clean - denoise(noisy, sigma)
    _, home = torch.unique((noisy / cell).round(), dim=0, return_inverse=True)
    z = []
    for k in range(int(home.max()) + 1):
        inside = residual[home == k]
        if len(inside) >= 50:
            z.append(inside.mean(0) / (inside.std(0) / len(inside) ** 0.5))
    return torch.stack(z).square().mean().sqrt().item()


def nearest(x, sigma):
    return data[torch.cdist(x, data).argmin(1)]


ours = torch.tensor(
    [bias_in_standard_errors(denoiser, 0.4, seed) for seed in SEEDS]
)
rival = torch.tensor(
    [bias_in_standard_errors(nearest, 0.4, seed) for seed in SEEDS]
)
print(f"posterior mean: {ours.mean():.2f} ± {ours.std():.2f} standard errors off")
print(f"nearest point:  {rival.mean():.1f} ± {rival.std():.1f} standard errors off")
assert 0.85 < ours.mean() < 1.15
assert rival.min() > 3

# %% [markdown]
# At which noise level does an answer become a single data point? The weights $w_i$ tell: $1/\sum_i w_i^2$ is the number of
# points that an answer effectively averages.


# %%
def averaged(sigma, seed):
    """Median number of data points that an answer effectively averages."""
    weights = log_weights(noised(data, sigma, seed), sigma).softmax(1)
    return (1 / weights.square().sum(1)).median().item()


for sigma in (1.0, 0.3, 0.1, 0.001):
    counts = torch.tensor([averaged(sigma, seed) for seed in SEEDS])
    print(
        f"σ = {sigma:<5g}  averages {counts.mean():5.1f} ± {counts.std():.1f} "
        f"of {N_POINTS} points (median)"
    )
    assert ((counts < 1.1) == (sigma < 0.1)).all()

# %% mystnb={"figure": {"caption": "What the denoiser answers. Each line runs from a noisy point (open end) to its posterior mean (orange dot). At σ = 1 the answers shrink to a short streak through the data's mean. As the noise falls they spread, and at 0.1 they lie along the crescents, each still an average of many neighbours.", "name": "fig-denoiser"}, "image": {"alt": "Three panels with the crescents in grey and light blue lines from noisy points to orange dots. At noise level 1 the dots form a short slanted streak in the centre; at 0.3 a rough S along the crescents; at 0.1 they lie on the crescents."}}
fig, axes = plt.subplots(1, 3, figsize=(7, 2.6))
for ax, sigma in zip(axes, [1.0, 0.3, 0.1]):
    x = noised(data, sigma, seed=3)[::5]
    answer = denoiser(x, sigma)
    ax.scatter(*data.T, s=2, color=figures.COLORS["noise"], linewidths=0)
    for start, end in zip(x, answer):
        ax.plot(
            *torch.stack([start, end]).T,
            lw=0.5,
            color=figures.COLORS["path"],
            alpha=0.8,
        )
    ax.scatter(
        *answer.T,
        s=7,
        color=figures.COLORS["denoised"],
        linewidths=0,
        zorder=3,
    )
    ax.set(
        title=f"σ = {sigma:g}",
        xlim=(-1.7, 1.7),
        ylim=(-1.7, 1.7),
        aspect="equal",
    )
plt.show()

# %% [markdown]
# Now ask it yourself. The library's `PointCloud` is the denoiser of this section, for data of any size. In the next figure
# your browser evaluates the formula [(above)](#eq-denoiser) as you go.

# %%
cloud = gt.PointCloud(data)
deviation = max(
    (cloud(noised(data, 0.4, seed), 0.4) - denoiser(noised(data, 0.4, seed), 0.4))
    .abs()
    .max()
    .item()
    for seed in SEEDS
)
print(f"library against this chapter: {deviation:.0e}")
assert deviation < 1e-12

# %% [markdown]
# Put the noisy point half way between the crescents and slide $\sigma$ down from the left end: at first it is answered with
# a place where no data lie, then one crescent wins.

# %% mystnb={"figure": {"caption": "Ask the denoiser: drag the noisy point (ring), slide the noise level. Each data point (grey) is orange in proportion to its weight; the orange dot with the dark arrow is the answer, their weighted mean. The arrow is σ² times the score.", "name": "fig-posterior"}, "image": {"alt": "The crescents in grey, a ring above them, and an arrow from the ring to an orange dot that is the mean of the data points highlighted in orange nearby. Below, a button and a slider for the noise level."}}
plane = interactive.Panel(x=(-1.6, 1.6), y=(-1.2, 1.2), equal=True, width=440)
interactive.denoiser(
    cloud, [0.85, 0.8], plane, name="posterior", sigma_max=2.0, sigma=0.35
)

# %% [markdown]
# ## Sampling: follow the score
#
# Now run the noise backwards. Move a point so that, as $\sigma$ falls, the cloud of such points keeps the noised
# density $p(\cdot\,;\sigma)$. The motion that does this without any randomness is the **probability flow**
# ([Song et al. 2021](https://arxiv.org/abs/2011.13456), [Karras et al. 2022](https://arxiv.org/abs/2206.00364)):
#
# $$
# \begin{aligned}
# \frac{\mathrm dx}{\mathrm d\sigma} &= -\sigma\,\nabla\log p(x;\sigma) \\
# &= \frac{x - D(x,\sigma)}{\sigma}.
# \end{aligned}
# $$ (eq-flow)
#
# Why this one? Adding noise is diffusion: the density obeys the heat equation
# $\partial p/\partial\sigma = \sigma\,\Delta p = -\nabla\cdot(p\,v)$ with $v = -\sigma\,\nabla\log p$. The last form is
# the continuity equation of points that move with velocity $v$.
#
# Read the right-hand side as a rule: *always walk towards the denoised point*. The library's `heun` sampler takes any
# denoiser, a starting point and a decreasing list of noise levels, and yields every state on the way. (Heun's method asks
# the denoiser twice in each step, at its start and at its end, and walks along the mean of the two directions.)
#
# First the test. Carry noised data from $\sigma = 2$ down to $\sigma = 0.1$. If the flow keeps the density, the points that
# arrive cannot be told from data that were noised at $\sigma = 0.1$ directly: their mean log density agrees, up to
# chance. The rival only shrinks the cloud to the right size.


# %%
def arrival(move, seed, n=2000):
    """Mean log density of points moved from σ = 2 to 0.1, against fresh ones."""
    clean = data.repeat(n // N_POINTS, 1)
    moved = log_density(move(noised(clean, 2.0, seed)), 0.1)
    fresh = log_density(noised(clean, 0.1, seed + 100), 0.1)
    error = ((moved.var() + fresh.var()) / n).sqrt()
    return ((moved.mean() - fresh.mean()) / error).item()


def flow(x):
    levels = torch.logspace(math.log10(2), -1, 41)
    return list(gt.samplers.heun(denoiser, x, levels))[-1].x


def shrink(x):
    return (
        data.mean(0)
        + (x - data.mean(0)) * data.std() / (data.std() ** 2 + 4) ** 0.5
    )


ours = torch.tensor([arrival(flow, seed) for seed in SEEDS])
rival = torch.tensor([arrival(shrink, seed) for seed in SEEDS])
print(f"flow:   {ours.mean():.1f} ± {ours.std():.1f} standard errors off")
print(f"shrink: {rival.mean():.0f} ± {rival.std():.0f} standard errors off")
assert ours.abs().max() < 4
assert rival.abs().min() > 10

# %% [markdown]
# It does keep the density. So let it generate: start from pure noise at a high level, and follow it down to nearly zero.
# The levels are those of Karras et al., equally spaced in $\sigma^{1/7}$: wide steps at high noise, narrow ones at low.
#
# > **Predict.** Where will the paths end: spread along the crescents like new data, in the middle where the two meet, or on
# > the data points themselves?

# %%
sigmas = gt.karras_sigmas(120, sigma_min=1e-4, sigma_max=10.0)
start = sigmas[0] * torch.randn(200, 2, generator=seeded(0))
path = [state.x for state in gt.samplers.heun(denoiser, start, sigmas)]

# %% mystnb={"figure": {"caption": "Left: 24 paths of the probability flow, from pure noise at σ = 10 (where they start far outside the frame) to nearly zero. Right: where 200 of them end (orange), with the data (black) drawn on top. Every one ends on a data point.", "name": "fig-memorised"}, "image": {"alt": "Left, light blue curves that come in from outside and bend onto the two crescents. Right, orange dots, each with a black dot of the crescents at its centre."}}
fig, (left, right) = plt.subplots(1, 2, figsize=(7, 3.2))
for line in torch.stack([start, *path])[:, :24].unbind(1):
    left.plot(*line.T, lw=0.9, color=figures.COLORS["path"])
right.scatter(*path[-1].T, s=16, color=figures.COLORS["denoised"], linewidths=0)
for ax, reach in ((left, 1.7), (right, 1.2)):
    ax.scatter(*data.T, s=3, color=figures.COLORS["data"], linewidths=0, zorder=3)
    ax.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
plt.show()

# %% [markdown]
# On the data points, and that is the surprise. The samples are not new points of the crescents. They *are* data points, to
# within the last noise level above zero, $10^{-4}$. Five sets of starting points say the same:


# %%
def end_of_flow(ask, seed, n):
    start = sigmas[0] * torch.randn(n, 2, generator=seeded(seed))
    *_, last = gt.samplers.heun(ask, start, sigmas)
    return last.x


ends = [end_of_flow(denoiser, seed, 100) for seed in SEEDS]
farthest = [torch.cdist(x, data).min(1).values.max().item() for x in ends]
between = torch.cdist(data, data).fill_diagonal_(torch.inf).min(1).values.median()
print(
    f"farthest of {100 * len(SEEDS)} samples from a data point: {max(farthest):.1e}"
)
print(f"median distance between neighbouring data points: {between:.1e}")
assert max(farthest) < 1e-4 < between / 100

# %% [markdown]
# The reason is in the formula. As $\sigma$ goes to zero, all the weight of the softmax falls on the nearest data point, and
# the flow walks to it. The exact score of a training set is a machine that returns the training set. We want a network that
# draws something new. Such a network cannot have learned this score exactly. What has it learned instead? That is the
# subject of this book.
#
# ## The first hint
#
# Look at [the score far away](#fig-score-field) once more: at large $\sigma$ the crescents are gone, and only a cloud
# with a mean and a covariance is left. Take the Gaussian that has the data's mean and covariance. How much of the exact
# score does *its* score explain? The measure is the **fraction of unexplained variance**,
#
# $$
# R(\sigma) = \frac{\mathbb E\,\|s(x_\sigma) - s_{\text{model}}(x_\sigma)\|^2}{\mathbb E\,\|s(x_\sigma)\|^2},
# $$ (eq-unexplained)
#
# zero for a perfect model and one for a model that says nothing. For comparison we also ask a rounder Gaussian, the
# **isotropic** one with the same mean and the same total variance.

# %%
gaussian = gt.Gaussian.fit(data)
one_width = gt.Gaussian.isotropic(gaussian.mean, gaussian.total_variance / 2)
levels = torch.logspace(-2, 1, 31)


def unexplained(model, sigma, seed):
    x = noised(data, sigma, seed)
    exact = gt.score(denoiser, x, sigma)
    return (
        (exact - model.score(x, sigma)).square().sum() / exact.square().sum()
    ).item()


curves = {
    name: torch.tensor(
        [[unexplained(model, s.item(), seed) for s in levels] for seed in SEEDS]
    )
    for name, model in (
        ("isotropic Gaussian", one_width),
        ("Gaussian", gaussian),
    )
}

# %% mystnb={"figure": {"caption": "Fraction of the exact score that a Gaussian leaves unexplained, against the noise level: mean of five draws, with a band of one standard deviation. Vertical lines: the standard deviations of the data along their two principal axes. Above the larger one, the Gaussian explains nearly everything.", "name": "fig-first-hint"}, "image": {"alt": "Two falling curves on logarithmic axes. Both are near one at small noise. The Gaussian's curve falls far below the isotropic one and goes on falling by many orders of magnitude."}}
fig, ax = plt.subplots(figsize=(7, 3))
colors = (figures.COLORS["path"], figures.COLORS["gaussian"])
for (name, curve), color in zip(curves.items(), colors):
    mean, spread = curve.mean(0), curve.std(0)
    ax.loglog(levels, mean, label=name, color=color)
    ax.fill_between(
        levels, mean - spread, mean + spread, color=color, alpha=0.25, lw=0
    )
for variance in gaussian.variances:
    ax.axvline(variance.sqrt(), color=figures.COLORS["noise"], lw=0.8, ls="--")
ax.set(xlabel="noise level σ", ylabel="unexplained fraction")
ax.legend()
plt.show()

# %%
width = gaussian.variances[0].sqrt().item()
at_width, at_twice = (
    torch.tensor([unexplained(gaussian, k * width, seed) for seed in SEEDS])
    for k in (1, 2)
)
print("the Gaussian leaves unexplained:")
print(f"{at_width.mean():.1%} ± {at_width.std():.1%} at σ = √λ₁ = {width:.2f}")
print(f"{at_twice.mean():.3%} ± {at_twice.std():.3%} at twice that")
assert at_width.max() < 0.02
assert at_twice.max() < 0.001
better = curves["Gaussian"].mean(0) < curves["isotropic Gaussian"].mean(0)
assert better[levels > 0.1].all()

# %% [markdown]
# Once the noise is wider than the data, one Gaussian is nearly all there is to know. Is it so for a network that has learned
# images? The paper's authors published what they measured on one, trained on the photographs of CIFAR-10:

# %%
published = {
    row["sigma"]: row["score_residual"]
    for row in shipped.published("edm_residuals")
    if row["model"] == "gaussian"
}
for sigma in (1.0, 2.0):
    print(f"published, σ = {sigma:g}: {published[sigma]:.1%} unexplained")
assert [round(100 * published[sigma], 1) for sigma in (1.0, 2.0)] == [1.6, 0.4]

# %% [markdown]
# ## What we saw
#
# **Shown here.** Who knows the denoiser knows the score, and the other way round, by Tweedie's formula
# [(above)](#eq-tweedie). Sampling is walking towards the denoised point while the noise level falls. The exact score of a
# finite data set reproduces that data set. At high noise, the score is nearly that of a Gaussian with the data's mean and
# covariance.
#
# **The paper.** [Wang & Vastola 2024](https://arxiv.org/abs/2412.09726) measure the last point on trained image networks. In
# their published table for CIFAR-10, the Gaussian leaves 1.6 % of a network's score unexplained at $\sigma = 1$ and 0.4 % at
# $\sigma = 2$.
#
# **The difference.** Our score is exact and our data are two crescents. Networks and images come in Part II.
# [The next chapter](02_gaussian_model.ipynb) solves the Gaussian model completely.
#
# ## Exercises
#
# **1. Tweedie in another convention.** Many models scale the image down as they add noise: $x_t = a\,x_0 + b\,n$. Show that
# then $\mathbb E[x_0 \mid x_t] = (x_t + b^2\, \nabla\log p_t(x_t))/a$, and check it at $a = 0.6$, $b = 0.8$.

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
# x_t / a = x0 + (b/a)·n is noised data at σ = b/a, so E[x0 | x_t] = D(x_t / a, b/a).
# log p_t(x) = log p(x/a; b/a) + const, so ∇log p_t(x) = ∇log p(x/a; b/a) / a.
a, b = 0.6, 0.8
deviations = []
for seed in SEEDS:
    x_t = a * data + b * torch.randn(data.shape, generator=seeded(seed))
    score_t = score_by_autograd(x_t / a, b / a) / a
    by_formula = (x_t + b**2 * score_t) / a
    by_translation = denoiser(x_t / a, b / a)
    deviations.append((by_formula - by_translation).abs().max().item())
print(f"largest deviation: {max(deviations):.0e}")
assert max(deviations) < 1e-12

# %% [markdown]
# **2. The best straight line.** Among all *linear* denoisers $D(x) = A x + c$, find by least squares the one with the
# smallest error on many noised points at $\sigma = 0.4$. Compare it with `gaussian(x, 0.4)`. What does that say about what
# a network would learn first, if it learned linear functions first?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
clean = data.repeat(N_NOISY // N_POINTS, 1)
probe = torch.cat([torch.eye(2), torch.zeros(1, 2)])


def by_least_squares(seed):
    noisy = noised(clean, 0.4, seed)
    with_one = torch.cat([noisy, torch.ones(len(noisy), 1)], dim=1)
    line = torch.linalg.lstsq(with_one, clean).solution
    return torch.cat([probe, torch.ones(3, 1)], dim=1) @ line


lines = torch.stack([by_least_squares(seed) for seed in SEEDS])
spread = lines.std(0)
print("least squares:", *lines.mean(0).numpy().round(3))
print("Gaussian:     ", *gaussian(probe, 0.4).numpy().round(3))
deviation = (lines.mean(0) - gaussian(probe, 0.4)).abs().max().item()
print(f"largest deviation {deviation:.4f}, spread over seeds {spread.max():.4f}")
assert deviation < 4 * spread.max() < 0.02
# They agree up to the sampling error. The normal equations of least squares read
# A = Cov(x0, x) Cov(x)⁻¹ = Σ (Σ + σ²I)⁻¹: only mean and covariance enter, so the
# Gaussian's denoiser is the best linear one for any data. A network that first learns
# what is linear learns this Gaussian first.

# %% [markdown]
# **3. More data.** With ten times as many points, does the exact score still return its data? Does the Gaussian change?


# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
def far_and_changed(seed):
    """Farthest end of the flow from a data point; change of Σ in units of λ₁."""
    points, _ = make_moons(10 * N_POINTS, noise=0.04, random_state=seed + 1)
    more = torch.from_numpy(points) / 1.5 - torch.tensor([0.33, 0.17])
    x = end_of_flow(gt.PointCloud(more), seed, 10)
    change = (gt.Gaussian.fit(more).covariance - gaussian.covariance).abs().max()
    farthest = torch.cdist(x, more).min(1).values.max()
    return farthest.item(), (change / gaussian.variances[0]).item()


farthest, changes = zip(*(far_and_changed(seed) for seed in SEEDS))
print(f"farthest sample from a data point: {max(farthest):.1e}")
print(f"covariance: changed by at most {max(changes):.1%} of λ₁")
assert max(farthest) < 1e-4
assert max(changes) < 0.05
# The samples are data points again, within the last noise level: the score
# memorises whatever it is given. The Gaussian hardly moves, since 400 points had
# already told the mean and the covariance.
