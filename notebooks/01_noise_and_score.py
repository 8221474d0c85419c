# %% [markdown]
# # 1 · Noise and score
#
# A diffusion model makes pictures by undoing noise. Everything it needs to know is the answer to one question:
#
# > *Here is a noisy point. Which clean point was it, on average?*
#
# The function that answers is called the **denoiser**. This chapter builds it for a data set small enough to see:
# points in the plane. There we can write down the exact answer, watch it act at every noise level, and check each
# formula against brute force. At the end, a surprise waits: used as a generator, the exact answer is useless.

# %% tags=["parameters"]
N_POINTS = 400  # size of the data set
N_NOISY = 40_000  # noisy points for each Monte Carlo check
SEEDS = [0, 1, 2, 3, 4]

# %%
import matplotlib.pyplot as plt
import torch
from sklearn.datasets import make_moons

import gausstools as gt
from gausstools import figures

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
    """Largest deviation of the cloud's covariance from Σ + σ²I, in standard errors."""
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


# %% mystnb={"figure": {"caption": "Noised density (shade) and score (arrows) at three noise levels. The arrows are drawn at length σ²|∇ log p| / 3, so that they can be compared between panels. From far away, at σ = 1, all arrows aim at one centre. Close by, each aims at its own part of a crescent.", "name": "fig-score-field"}, "image": {"alt": "Three shaded density plots with arrows. At noise level 1 a round hill with all arrows pointing to its centre; at 0.3 two overlapping ridges with arrows pointing to the nearer ridge; at 0.1 two sharp crescents with arrows pointing to the nearest part of a crescent."}}
def grid(reach, n):
    axis = torch.linspace(-reach, reach, n)
    return torch.cartesian_prod(axis, axis)


fig, axes = plt.subplots(1, 3, figsize=(7, 2.6))
for ax, sigma in zip(axes, [1.0, 0.3, 0.1]):
    density = log_density(grid(1.6, 120), sigma).exp().reshape(120, 120).T
    ax.imshow(
        density, origin="lower", extent=(-1.6, 1.6, -1.6, 1.6), cmap="Blues"
    )
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
# $\mathbb E\,\|D(x_\sigma) - x_0\|^2$ smallest? The **posterior mean**, $D(x,\sigma) = \mathbb E[x_0 \mid x_\sigma = x]$.
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
# This is **Tweedie's formula**. It holds for every data distribution, since any distribution is a limit of point
# sets. Who can denoise knows the score, and the other way round. The two sides come from different code, so we can
# compare them.

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
print(
    f"posterior mean: {ours.mean():.2f} ± {ours.std():.2f} standard errors off"
)
print(
    f"nearest point:  {rival.mean():.1f} ± {rival.std():.1f} standard errors off"
)
assert 0.85 < ours.mean() < 1.15
assert rival.min() > 3

# %% mystnb={"figure": {"caption": "What the denoiser answers. Each line runs from a noisy point (open end) to its posterior mean (dot). At σ = 1 all answers crowd near the data's mean. As the noise falls they spread along the crescents, and reach single data points at last.", "name": "fig-denoiser"}, "image": {"alt": "Three panels with the crescents in grey and lines from noisy points to their denoised positions. At noise level 1 the dots gather in a small central patch; at 0.3 they form a rough S along the crescents; at 0.1 they lie on the crescents."}}
fig, axes = plt.subplots(1, 3, figsize=(7, 2.6))
for ax, sigma in zip(axes, [1.0, 0.3, 0.1]):
    x = noised(data, sigma, seed=3)[::5]
    answer = denoiser(x, sigma)
    ax.scatter(*data.T, s=2, color=figures.COLORS["noise"], linewidths=0)
    for start, end in zip(x, answer):
        ax.plot(
            *torch.stack([start, end]).T,
            lw=0.5,
            color=figures.COLORS["gaussian"],
            alpha=0.6,
        )
    ax.scatter(
        *answer.T,
        s=7,
        color=figures.COLORS["numerical"],
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
# Read the right-hand side as a rule: *always walk towards the denoised point*. The library's `heun` sampler takes any
# denoiser, a starting point and a decreasing list of noise levels, and yields every state on the way.

# %%
sigmas = gt.karras_sigmas(120, sigma_min=1e-4, sigma_max=10.0)
start = sigmas[0] * torch.randn(200, 2, generator=seeded(0))
path = [state.x for state in gt.samplers.heun(denoiser, start, sigmas)]

# %% mystnb={"figure": {"caption": "Left: 24 paths of the probability flow, from pure noise at σ = 10 (where they start far outside the frame) to σ = 0. Right: where 200 of them end (red) on the data (grey). Every one ends on a data point.", "name": "fig-memorised"}, "image": {"alt": "Left, curved lines that come in from outside, meet near the centre and then bend out to the crescents. Right, red dots lying exactly on grey dots of the two crescents."}}
fig, (left, right) = plt.subplots(1, 2, figsize=(7, 3.2))
for line in torch.stack([start, *path])[:, :24].unbind(1):
    left.plot(*line.T, lw=0.9, color=figures.COLORS["gaussian"], alpha=0.8)
right.scatter(
    *path[-1].T, s=16, color=figures.COLORS["numerical"], linewidths=0
)
for ax, reach in ((left, 1.7), (right, 1.2)):
    ax.scatter(
        *data.T, s=3, color=figures.COLORS["data"], linewidths=0, zorder=3
    )
    ax.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
plt.show()

# %% [markdown]
# Here is the surprise. The samples are not new points of the crescents. They *are* data points, to within
# the last step:

# %%
to_nearest = torch.cdist(path[-1], data).min(1).values
between = (
    torch.cdist(data, data).fill_diagonal_(torch.inf).min(1).values.median()
)
print(f"farthest sample from a data point: {to_nearest.max():.1e}")
print(f"median distance between neighbouring data points: {between:.1e}")
assert to_nearest.max() < between / 100

# %% [markdown]
# The exact score of a training set is a machine that returns the training set. A trained network does not do that, or
# we would not use it. So a network does *not* learn this score. What does it learn instead? That is the subject of this
# book.
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
# zero for a perfect model and one for a model that says nothing.

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

# %% mystnb={"figure": {"caption": "Fraction of the exact score that a Gaussian leaves unexplained, against the noise level (mean of five draws; the band is one standard deviation). Vertical lines: the standard deviations of the data along their two principal axes. Above the larger one, the Gaussian explains nearly everything.", "name": "fig-first-hint"}, "image": {"alt": "Two falling curves on logarithmic axes. Both are near one at small noise. The Gaussian's curve falls far below the isotropic one and goes on falling by many orders of magnitude."}}
fig, ax = plt.subplots(figsize=(7, 3))
colors = (figures.COLORS["second"], figures.COLORS["gaussian"])
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
at_width = curves["Gaussian"][
    :, (levels - gaussian.variances[0].sqrt()).abs().argmin()
]
at_twice = curves["Gaussian"][
    :, (levels - 2 * gaussian.variances[0].sqrt()).abs().argmin()
]
print("the Gaussian leaves unexplained:")
print(f"{at_width.mean():.1%} at σ = √λ₁, {at_twice.mean():.2%} at σ = 2√λ₁")
assert at_width.max() < 0.10
assert at_twice.max() < 0.01
better = curves["Gaussian"].mean(0) < curves["isotropic Gaussian"].mean(0)
assert better[levels > 0.1].all()

# %% [markdown]
# Once the noise is wider than the data, one Gaussian is nearly all there is to know. In the plane that may not
# impress. In Part II we shall see the same with images and real networks, where it does.
#
# ## What we saw
#
# - A denoiser and a score are the same thing, by Tweedie's formula [(above)](#eq-tweedie), checked to rounding and by brute force.
# - Sampling is walking towards the denoised point while the noise level falls.
# - The exact score of a finite data set reproduces that data set.
# - At high noise, the score is that of a Gaussian with the data's mean and covariance.
#
# [The paper](https://arxiv.org/abs/2412.09726) behind this book (Wang & Vastola 2024) makes the last point for trained
# image networks, and so shall we. [The next chapter](02_gaussian_model.ipynb) solves the Gaussian model completely.
#
# ## Exercises
#
# **1. Tweedie in another convention.** Many models scale the image down as they add noise: $x_t = a\,x_0 + b\,n$. Show that
# then $\mathbb E[x_0 \mid x_t] = (x_t + b^2\, \nabla\log p_t(x_t))/a$, and check it at $a = 0.6$, $b = 0.8$.

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
# x_t / a = x0 + (b/a)·n is noised data at σ = b/a, so E[x0 | x_t] = D(x_t / a, b/a).
# log p_t(x) = log p(x/a; b/a) + const, so ∇log p_t(x) = ∇log p(x/a; b/a) / a.
a, b = 0.6, 0.8
x_t = a * data + b * torch.randn(data.shape, generator=seeded(5))
score_t = score_by_autograd(x_t / a, b / a) / a
by_formula = (x_t + b**2 * score_t) / a
by_translation = denoiser(x_t / a, b / a)
print(f"largest deviation: {(by_formula - by_translation).abs().max():.0e}")
assert torch.allclose(by_formula, by_translation, atol=1e-12)

# %% [markdown]
# **2. The best straight line.** Among all *linear* denoisers $D(x) = A x + c$, find by least squares the one with the
# smallest error on many noised points at $\sigma = 0.4$. Compare it with `gaussian(x, 0.4)`. What does that say about what
# a network would learn first, if it learned linear functions first?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
clean = data.repeat(N_NOISY // N_POINTS, 1)
noisy = noised(clean, 0.4, seed=6)
with_one = torch.cat([noisy, torch.ones(len(noisy), 1)], dim=1)
line = torch.linalg.lstsq(with_one, clean).solution
probe = torch.cat([torch.eye(2), torch.zeros(1, 2)])
by_least_squares = torch.cat([probe, torch.ones(3, 1)], dim=1) @ line
print("least squares:", *by_least_squares.numpy().round(3))
print("Gaussian:     ", *gaussian(probe, 0.4).numpy().round(3))
assert torch.allclose(by_least_squares, gaussian(probe, 0.4), atol=0.02)
# They agree up to the sampling error: the Gaussian's denoiser is the best linear one,
# for any data. A network that first learns what is linear learns this Gaussian first.

# %% [markdown]
# **3. More data.** Set `N_POINTS` to 4,000 in the parameters and run the chapter again. Which of its statements change?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
# None. The samples are still data points, only there are more of them: the score
# memorises whatever it is given. The Gaussian's curve does not move either, since the
# mean and the covariance were already known well from 400 points:
more = torch.from_numpy(
    make_moons(4000, noise=0.04, random_state=1)[0]
) / 1.5 - torch.tensor([0.33, 0.17])
change = (
    gt.Gaussian.fit(more).covariance - gaussian.covariance
).abs().max() / gaussian.variances[0]
print(
    f"with ten times the data, the covariance changes by at most {change:.1%} of λ₁"
)
assert change < 0.05
