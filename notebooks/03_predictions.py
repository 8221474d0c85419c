# %% [markdown]
# # 3 · What the solution predicts
#
# [Chapter 2](02_gaussian_model.ipynb) solved the Gaussian model. A solution is worth what it predicts. This chapter asks
# it three questions about the way from noise to image:
#
# > *What is drawn first? What shape has the path? And if something pushes the path aside, who will ever notice?*
#
# Each answer is a short formula. Each is then held against a solver that only asks the denoiser, and the deviation is
# printed. At the end we ask the same of data that are *not* Gaussian, to see which answers survive.

# %% tags=["parameters"] fast={"STEPS": 90, "PATHS": 2, "SEEDS": [0, 1]}
SIGMA_MAX = 80.0  # where sampling starts, as in EDM
SIDE = 16  # pixels along a side of the textures
STEPS = 720  # of the solver on the texture's paths
PATHS = 8  # for each seed
SEEDS = [0, 1, 2, 3, 4]

# %%
import math

import matplotlib.pyplot as plt
import torch

import gausstools as gt
from gausstools import figures
from gausstools.figures import interactive

figures.set_style()
torch.set_default_dtype(torch.float64)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


# %% [markdown]
# ## A Gaussian with something to order
#
# Two directions, as in chapter 2, make a poor order. So here is a Gaussian of 256. Its samples are pictures: sums of
# cosine waves over 16×16 pixels, with $p$ half-waves down and $q$ across, each with an independent normal amplitude.
# Photographs have more variance in coarse waves than in fine ones, roughly by a power law. We choose
#
# $$
# \lambda_{pq} \propto (1 + p^2 + q^2)^{-3/2},
# $$
#
# scaled so that a pixel has variance $1/4$. The waves are orthonormal, so they are the directions $u_k$, and the
# $\lambda_{pq}$, sorted, are the $\lambda_k$.

# %%
half_waves = torch.arange(SIDE)
centres = (half_waves + 0.5) / SIDE
waves = torch.cos(math.pi * half_waves[:, None] * centres)
waves = waves / waves.norm(dim=1, keepdim=True)
patterns = torch.einsum("pi,qj->pqij", waves, waves).reshape(SIDE**2, SIDE**2)
variances = (1 + half_waves[:, None] ** 2 + half_waves**2).flatten() ** -1.5
variances = 0.25 * SIDE**2 * variances / variances.sum()
order = variances.argsort(descending=True, stable=True)
texture = gt.Gaussian(
    torch.zeros(1, SIDE, SIDE), variances[order], patterns[order].T
)
spectrum = texture.variances
print(
    f"{texture.rank} patterns, variances from {spectrum[0]:.0f} to"
    f" {spectrum[-1]:.4f}"
)
print(f"{int((spectrum > 1).sum())} of them above 1, the variance of unit noise")

# %% [markdown]
# One run of the solver serves most of this chapter: Heun's method, from pure noise at $\sigma = 80$ to zero, with 720
# steps, on eight paths for each of five seeds. The steps are equal in an angle $\theta$ with $\sigma = \tan\theta$; the
# second question will tell why.

# %%
theta = torch.linspace(math.atan(SIGMA_MAX), 0, STEPS + 1)
levels = theta.tan()
start = SIGMA_MAX * torch.cat(
    [torch.randn(PATHS, *texture.event_shape, generator=seeded(s)) for s in SEEDS]
)
states = list(gt.samplers.heun(texture, start, levels))
path = torch.stack([start] + [state.x for state in states]).flatten(2)
opinion = torch.stack([state.denoised for state in states]).flatten(2)
exact = texture.flow(start, SIGMA_MAX, levels[:, None]).flatten(2)
print(f"solver against the closed form: at most {(path - exact).abs().max():.0e}")
assert (path - exact).abs().max() < 5e-4

# %% mystnb={"figure": {"caption": "What the denoiser shows on two of the paths. First a pale tilt of the whole picture, then large patches, then their outlines, at last the grain. Nothing told the model to work from coarse to fine: coarse waves are those with the large variances.", "name": "fig-coarse-to-fine"}, "image": {"alt": "Two rows of eight small grey pictures. At high noise they are nearly flat, then smooth dark and light patches appear, which keep their places and gain ever finer detail to the right."}}
shown = [20.0, 8.0, 4.0, 2.0, 1.0, 0.5, 0.2, 0.0]
fig, axes = plt.subplots(2, len(shown), figsize=(7, 2.1))
for column, sigma in zip(axes.T, shown):
    at = (levels[:-1] - sigma).abs().argmin()
    for ax, image in zip(column, opinion[at, [0, PATHS]]):
        image = image.reshape(1, 1, SIDE, SIDE)
        figures.image_grid(ax, image, columns=1, limits=(-1.5, 1.5))
    column[0].set_title(f"σ = {sigma:g}" if sigma == 20 else f"{sigma:g}")
plt.show()

# %% [markdown]
# ## What is drawn first?
#
# Chapter 2 found how much of direction $u_k$ the denoised image shows on the way, as a share $c_k(\sigma)/c_k(0)$ of its
# final value: $\sqrt{\lambda_k/(\lambda_k+\sigma^2)}$, which is one half at $\sigma = \sqrt{3\lambda_k}$
# [(there)](02_gaussian_model.ipynb#eq-half-way). Write it in logarithms:
#
# $$
# \begin{aligned}
# \frac{c_k(\sigma)}{c_k(0)} &= \frac{1}{\sqrt{1+e^{2v}}}, \\
# v &= \ln\sigma - \ln\sqrt{\lambda_k}.
# \end{aligned}
# $$ (eq-one-sigmoid)
#
# This says more than an order. There is *one* curve, and $\lambda_k$ only shifts it along $\ln\sigma$. So if the 256
# measured curves are drawn against $\sigma/\sqrt{\lambda_k}$, they must all fall on each other.


# %%
def half_way(share, levels):
    """Noise level at which each share, (levels, k), passes 1/2: linear in ln σ."""
    after = (share > 0.5).int().argmax(0)
    high, low = (share.gather(0, i[None])[0] for i in (after - 1, after))
    weight = (0.5 - high) / (low - high)
    return levels[after - 1].log().lerp(levels[after].log(), weight).exp()


amounts = opinion @ texture.basis
share = amounts / (path[-1] @ texture.basis)
predicted_share = (spectrum / (spectrum + levels[:-1, None] ** 2)).sqrt()
deviation = (share - predicted_share[:, None]).abs().max().item()
print(f"256 shares on {share.shape[1]} paths: within {deviation:.4f} of the curve")
assert deviation < 0.003

measured = torch.stack([half_way(s, levels) for s in share.unbind(1)])
predicted = (3 * spectrum).sqrt()
deviation = (measured / predicted - 1).abs().max().item()
print(
    f"half-way levels, from {predicted[0]:.1f} down to {predicted[-1]:.2f}:"
    f" within {deviation:.2%} of √(3λ)"
)
assert deviation < 0.01

# %% mystnb={"figure": {"caption": "Left: how much of six of the patterns the denoiser shows on one path, as a share of the final amount: measured (dots) and predicted (lines). Ticks on the dotted line at one half stand at √(3λ). Right: the same for all 256 patterns, measured, against σ/√λ. They fall on the one curve of the formula (blue), which is one half at √3.", "name": "fig-one-sigmoid"}, "image": {"alt": "Left, six S-shaped curves that rise one after the other as the noise falls, dots on lines. Right, a dense band of orange dots along a single S-shaped blue curve."}}
fig, (left, right) = plt.subplots(1, 2, figsize=(7, 3))
six = [0, 3, 10, 30, 100, 255]
colors = plt.get_cmap(figures.LEVELS)(torch.linspace(0, 0.88, len(six)).numpy())
sparse = torch.logspace(1.8, -2, 26)
rows = [int((levels[:-1] - sigma).abs().argmin()) for sigma in sparse]
for k, color in zip(six, colors):
    left.semilogx(
        levels[:-1],
        predicted_share[:, k],
        color=color,
        label=f"k = {k + 1}",
    )
    left.plot(levels[rows], share[rows, 0, k], "o", ms=3, color=color)
    left.plot(predicted[k], 0.5, "|", ms=14, mew=1.5, color=color)
left.axhline(0.5, ls=":", lw=0.8, color=figures.COLORS["noise"])
left.set(xlabel="noise level σ", ylabel="share of the final amount")
left.set_xlim(100, 0.008)
left.legend(fontsize="x-small", labelspacing=0.2)
ratios = levels[rows][:, None] / spectrum.sqrt()
right.semilogx(
    ratios.flatten(),
    share[rows, 0].flatten(),
    ".",
    ms=6,
    color=figures.COLORS["measured"],
    label="256 patterns, measured",
)
v = torch.logspace(-2, 3, 200)
right.plot(
    v, (1 + v**2).rsqrt(), color=figures.COLORS["gaussian"], lw=1, label="formula"
)
right.plot([3**0.5, 3**0.5, 1e3], [0, 0.5, 0.5], ":", lw=0.9, color="0.5")
right.set(xlabel="σ/√λ", xlim=(1e3, 1e-2))
right.legend(loc="upper left", fontsize="x-small")
plt.show()

# %% [markdown]
# **How strict is the order?** Less than the word suggests. The curve is broad: from a tenth to nine tenths, $\sigma$ has to
# fall by a factor of twenty, since $\sqrt{1/(1+r^2)} = 0.1$ at $r = \sqrt{99}$ and $0.9$ at $r = 0.48$. Two patterns come one
# *after* the other only if their variances differ by the square of that, a factor of four hundred. Otherwise they
# overlap, and most of the time many are under way at once.

# %%
rise = math.sqrt(1 / 0.1**2 - 1) / math.sqrt(1 / 0.9**2 - 1)
print(f"from 10 % to 90 %: a factor {rise:.1f} in σ, {rise**2:.0f} in λ")
assert 20 < rise < 21
for sigma in (8.0, 2.0, 0.5, 0.1):
    shares = (spectrum / (spectrum + sigma**2)).sqrt()
    done, waiting = int((shares > 0.9).sum()), int((shares < 0.1).sum())
    print(
        f"σ = {sigma:<3g}  done {done:3d}, under way {256 - done - waiting:3d},"
        f" not begun {waiting:3d}"
    )
    assert sigma != 0.5 or 256 - done - waiting > 128

# %% [markdown]
# ## What shape has the path?
#
# At $\sigma = 80$ the state is eighty times wider than the data, and all that one sees of the path is a straight line
# inwards. In the variance-preserving convention, VP, the scale stays put, and the shape comes out. There the state is
# $x_t = a\,x_0 + b\,n$ with $a^2+b^2=1$, so we may write
#
# $$
# a = \cos\theta, \quad b = \sin\theta, \quad \sigma = \tfrac{b}{a} = \tan\theta.
# $$
#
# The angle runs from 90° (noise) to 0° (image), whatever the schedule. A VE state is brought to VP by the factor
# $a$. Now look along one direction. By the closed form of the flow
# [(there)](02_gaussian_model.ipynb#eq-gaussian-flow), the coordinate of the state stays in step with the noised deviation
# $\sqrt{\lambda_k+\sigma^2}$; call the ratio $\zeta_k$. For a random path it is a standard normal number. Times $a$, and with
# $a\sigma = b$,
#
# $$
# u_k^\top(x_t - a\mu) = \sqrt{a^2\lambda_k + b^2}\;\zeta_k.
# $$ (eq-hypotenuse)
#
# So the image is $\sqrt{\lambda_k}\,\zeta_k$, and the noise it came from is $\zeta_k$. *The same numbers*, with other
# weights: the image is in the noise from the start. And the path between them is the hypotenuse of a right triangle with
# the legs $a\sqrt{\lambda_k}$ and $b$.
#
# A **rotation** from noise $x_T$ to image $x_0$ would be $a\,x_0 + b\,x_T$: the *sum of the legs*. Along $u_k$ the path differs
# from it by $e_k\,\zeta_k$, with
#
# $$
# e_k = \sqrt{a^2\lambda_k+b^2} - a\sqrt{\lambda_k} - b.
# $$ (eq-rotation)
#
# Think of the triangle ([proof](91_proofs.ipynb#in-vp-the-path-is-nearly-a-rotation)). The hypotenuse is shorter than the two legs together, so $e_k$ is never positive: the path takes a
# short cut inside the rotation. And the short cut saves at most the shorter leg. So the error is small where one leg is much
# shorter than the other: for directions with $\sqrt{\lambda_k} \gg \sigma$, and for those with $\sqrt{\lambda_k}\ll\sigma$. In
# between, the worst is an isosceles triangle, $\sqrt{\lambda_k} = \sigma$, whose legs together are $\sqrt2$ times the
# hypotenuse. *Each* direction with variance passes through that once, and then the rotation is 41 % too long for it.
#
# Which direction suffers most on the whole way? Measure its error by the wider of its two ends, 1 for the noise and
# $\sqrt{\lambda_k}$ for the image. The shorter leg is at most $\sqrt{\lambda_k}$ and at most 1, so the error is at most
# $\sqrt{\lambda_k}$ of the wider end for a narrow direction, and at most $1/\sqrt{\lambda_k}$ of it for a wide one. The worst is
# $\lambda_k = 1$: data as wide as the noise.
#
# (This is the limit $a_T = 0$. At $\sigma_T = 80$ the noise end is $\sqrt{a_T^2\lambda_k+b_T^2}\;\zeta_k$, which for these variances is $\zeta_k$
# to within a fifth of a percent; the checks use it as it is.)

# %%
a, b = theta.cos()[:, None], theta.sin()[:, None]
vp = a[:, None] * path
legs = a * spectrum.sqrt() + b * (a[0] ** 2 * spectrum + b[0] ** 2).sqrt()
hypotenuse = (a**2 * spectrum + b**2).sqrt()
zeta = vp[0] @ texture.basis / hypotenuse[0]
assert (hypotenuse[0] - 1).abs().max() < 0.002
rotation = a[:, None] * vp[-1] + b[:, None] * vp[0]
error = (vp - rotation) @ texture.basis
deviation = (error - (hypotenuse - legs)[:, None] * zeta).abs().max().item()
print(f"error of the rotation, solver against formula: within {deviation:.0e}")
assert deviation < 1e-3

longest = (legs / hypotenuse - 1).max(0)
at = levels[longest.indices] / spectrum.sqrt()
print(f"worst for each of 256 directions: {longest.values.mean():.1%} too long")
print(f"met where σ/√λ lies between {at.min():.2f} and {at.max():.2f}")
assert ((longest.values - (2**0.5 - 1)).abs() < 0.003).all()
assert ((at - 1).abs() < 0.05).all()

on_the_way = (legs - hypotenuse).max(0).values / spectrum.sqrt().clamp(min=1)
for k in (0, int((spectrum - 1).abs().argmin()), 255):
    print(
        f"λ = {spectrum[k]:<6.2g} error at most {on_the_way[k]:.0%} of the"
        " wider end"
    )
assert (on_the_way < torch.minimum(spectrum.sqrt(), spectrum.rsqrt())).all()
assert 0.8 < spectrum[on_the_way.argmax()] < 1.2

# %% [markdown]
# How far off is the rotation for a whole picture? Add up the directions, with the mean square 1 for each $\zeta_k$. Its
# error, relative to the length of $x_t$, is about
#
# $$
# \sqrt{\frac{\sum_k e_k^2}{\sum_k (a^2\lambda_k+b^2)}} .
# $$ (eq-rotation-error)
#
# At each moment only the directions with $\sqrt{\lambda_k}$ near $\sigma$ are badly off. If the spectrum is steep, they are
# few.
#
# The rotation makes a second, weaker claim: that the path stays in the *plane* of $x_0$ and $x_T$, wherever in it.
# How far it leaves that plane follows from the spectrum too: take $\sqrt{a^2\lambda_k+b^2}$ as a vector over $k$, and remove
# its part in the plane of the vectors $\sqrt{\lambda_k}$ and $1$.


# %%
def off_plane(vectors, first, second):
    """What is left of each row after projection off the plane of two vectors."""
    axes = torch.linalg.qr(torch.stack([first, second], dim=1)).Q
    return vectors - vectors @ axes @ axes.T


length = hypotenuse.norm(dim=1)
by_rotation = ((hypotenuse - legs).norm(dim=1) / length).max().item()
by_plane = off_plane(hypotenuse, spectrum.sqrt(), hypotenuse[0])
by_plane = (by_plane.norm(dim=1) / length).max().item()


def worst(missed):
    """Largest relative error on each path: mean and spread over the seeds."""
    relative = missed.norm(dim=2) / vp.norm(dim=2)
    return relative.max(0).values.reshape(len(SEEDS), PATHS).mean(1)


found_rotation = worst(vp - rotation)
off = [off_plane(x, x[-1], x[0]) for x in vp.unbind(1)]
found_plane = worst(torch.stack(off, dim=1))
for name, found, predicted_error in (
    ("rotation", found_rotation, by_rotation),
    ("plane", found_plane, by_plane),
):
    print(
        f"{name:<9} misses the path by at most {found.mean():.1%} ±"
        f" {found.std():.1%}"
        f" of its length; predicted {predicted_error:.1%}"
    )
    assert (found / predicted_error - 1).abs().max() < 0.2
assert round(100 * by_rotation) == 23
assert round(100 * by_plane) == 8

# %% [markdown]
# Since noise and image are made of the same numbers $\zeta_k$, they do not stand at a right angle either: their cosine is near
# $\sum_k\sqrt{\lambda_k}$ over $\sqrt{d\,\sum_k\lambda_k}$.

# %%
angle = (vp[0] * vp[-1]).sum(1) / (vp[0].norm(dim=1) * vp[-1].norm(dim=1))
angle = torch.rad2deg(angle.acos())
by_spectrum = (spectrum.sqrt() @ hypotenuse[0]) / (
    spectrum.sum().sqrt() * length[0]
)
by_spectrum = torch.rad2deg(by_spectrum.acos()).item()
print(
    f"image and noise stand at {angle.mean():.0f}° ± {angle.std():.0f}°,", end=" "
)
print(f"predicted {by_spectrum:.0f}°")
assert abs(angle.mean() - by_spectrum) < 3

# %% mystnb={"figure": {"caption": "Left: how much too long the rotation is along four of the patterns, measured on a solver's path (dots) and by the formula (lines). Each peaks at √2 − 1 where σ = √λ (dotted), the patterns of large variance first. Right: eight paths, each in the plane of its own noise and image, scaled so that the noise has length 1. The exact paths (light blue) take a short cut inside the rotation (dashed).", "name": "fig-rotation"}, "image": {"alt": "Left, four humps of equal height, 41 percent, one after the other as the angle falls, each with dots on its line. Right, a bundle of gently bent curves from a point on the right up and to the left, each with a dashed arc well outside it."}}
fig, (left, right) = plt.subplots(1, 2, figsize=(7, 3.1))
degrees = torch.rad2deg(theta)
four = [0, 3, 30, 255]
colors = plt.get_cmap(figures.LEVELS)(torch.linspace(0, 0.88, len(four)).numpy())
for k, color in zip(four, colors):
    too_long = -error[:, 0, k] / (hypotenuse[:, k] * zeta[0, k])
    left.plot(
        degrees,
        100 * (legs / hypotenuse - 1)[:, k],
        color=color,
        label=f"λ = {spectrum[k]:.2g}",
    )
    left.plot(degrees[::24], 100 * too_long[::24], "o", ms=3, color=color)
    peak = math.degrees(math.atan(spectrum[k].sqrt()))
    left.plot([peak, peak], [0, 41.4], color=color, ls=":", lw=1)
left.set(xlabel="angle θ (degrees)", ylabel="rotation too long by (%)")
left.set(xticks=[90, 60, 30, 0], xlim=(92, -2), ylim=(0, 62))
left.legend(fontsize="x-small", ncols=2, loc="upper center")
for x, arc in zip(vp[:, :PATHS].unbind(1), rotation[:, :PATHS].unbind(1)):
    axes = torch.linalg.qr(torch.stack([x[0], x[-1]], dim=1))
    axes = axes.Q * axes.R.diag().sign() / x[0].norm()
    right.plot(*(x @ axes).T, color=figures.COLORS["path"], lw=1.2)
    right.plot(*(arc @ axes).T, "--", color=figures.COLORS["noise"], lw=0.8)
    right.plot(*(x[-1] @ axes), "o", ms=4, color=figures.COLORS["denoised"])
right.plot(1, 0, "o", ms=5, color=figures.COLORS["data"])
right.annotate("noise", (1, 0), (-10, -3), textcoords="offset points", ha="right")
right.annotate(
    "images", (0.24, 0.55), ha="center", color=figures.COLORS["denoised"]
)
right.set(xlabel="along the noise $x_T$", ylabel="across, towards $x_0$")
right.set(aspect="equal", xlim=(-0.05, 1.15), ylim=(-0.08, 0.7))
plt.show()

# %% [markdown]
# So "a rotation" is a fair sketch, not a law. The plane is right to eight percent. Within it, the rotation is too long by up
# to a quarter. And the spectrum decides: the first exercise finds spectra that are kinder to it, and one that is
# as unkind as can be.
#
# ## How many numbers make a path?
#
# The path lives in 256 dimensions and nearly lies in a plane. Perhaps some other plane than that of $x_0$ and $x_T$ fits
# better? Take the states of one path as a data set, and ask for its principal components: how much of the path is left
# unexplained by its mean over time and the best $m$ directions? (All in VP, with steps equal in $\theta$. In VE a single
# straight line would explain nearly everything, and say nothing.)
#
# The formula knows why few are enough. With $\cos^2\theta = (1+c)/2$ and $\sin^2\theta=(1-c)/2$, where $c = \cos 2\theta$,
#
# $$
# \begin{aligned}
# \sqrt{a^2\lambda_k + b^2} &\propto \sqrt{1 - m_k\, c}, \\
# m_k &= \frac{1-\lambda_k}{1+\lambda_k}.
# \end{aligned}
# $$ (eq-one-family)
#
# Up to a factor, all 256 coordinates are the same function of the one variable $c$, with a parameter $m_k$ between $-1$ and $1$. Expand
# the root: $1 - \tfrac12 m_k c - \tfrac18 m_k^2c^2 - \dots$, and the path is
#
# $$
# x_t \approx v_0 + v_1\,c + v_2\,c^2 + \dots
# $$
#
# with fixed vectors $v_j$: a straight line, plus a little of a parabola, plus less of a cubic. The terms fall off fast unless
# $|m_k|$ is near 1, and the directions where it is share a curve: all narrow ones nearly follow $\sqrt{1-c}$.
#
# For numbers, put the mean 1 for $\zeta_k^2$ again. Then the principal components are those of a table whose rows, one for each time, hold
# $\sqrt{a^2\lambda_k+b^2}$ for all $k$. The rival is a random walk of as many steps: in many dimensions a random walk
# is surprisingly flat too, so "a few components explain most of it" would prove little.


# %%
def left_over(curves):
    """Share of each curve's variance that 1, 2, … components leave: a row each."""
    centred = curves - curves.mean(1, keepdim=True)
    squares = torch.linalg.svdvals(centred).square()
    return 1 - squares.cumsum(1) / squares.sum(1, keepdim=True)


every = slice(None, None, 4)  # 181 of the 721 times
by_formula = left_over(hypotenuse[None, every])[0]
on_paths = left_over(vp[every].transpose(0, 1))
walks = torch.stack(
    [
        torch.randn(len(theta[every]), SIDE**2, generator=seeded(seed)).cumsum(0)
        for seed in SEEDS
    ]
)
on_walks = left_over(walks)
print("left unexplained by m components")
print("m   formula     paths  random walk")
for m in range(4):
    print(
        f"{m + 1} {by_formula[m]:9.4%} {on_paths[:, m].mean():9.4%}"
        f"  {on_walks[:, m].mean():.0%}"
    )
assert ((on_paths.mean(0) / by_formula)[:3] - 1).abs().max() < 0.5
with_own_zeta = left_over((hypotenuse[:, None] * zeta)[every].transpose(0, 1))
deviation = (on_paths - with_own_zeta).abs().max().item()
print(f"with each path's own ζ in the formula: within {deviation:.0e}")
assert deviation < 1e-5
needed = (on_paths > 1e-3).sum(1) + 1
walk_needed = (on_walks > 1e-3).sum(1) + 1
print(
    f"99.9 % of a path takes {needed.max()} components, of a random walk"
    f" {walk_needed.min()} to {walk_needed.max()}"
)
assert needed.min() == needed.max() == 2
assert walk_needed.min() > 100

# %% mystnb={"figure": {"caption": "Left: share of a path's variance over time that its first components leave unexplained: formula (line), 40 solver's paths (dots, with the range over paths), and random walks of as many steps in as many dimensions (grey). Right: one path's coordinates along its first three components, against c = cos 2θ, each scaled to its largest value: roughly a line, a parabola and a cubic, as the expansion says, with a bend at the image end, where 1 − mc comes near zero for narrow directions.", "name": "fig-low-dimension"}, "image": {"alt": "Left, on a logarithmic axis a blue line with orange dots falls from one percent by a factor of thirty or more with each component; grey dots stay near the top. Right, three curves over c from minus one to one: a rising line, a U, and an S."}}
fig, (left, right) = plt.subplots(1, 2, figsize=(7, 3))
m = torch.arange(1, 6)
left.semilogy(m, by_formula[:5], color=figures.COLORS["gaussian"], label="formula")
mean, low, high = (
    on_paths.mean(0)[:5],
    on_paths.min(0).values[:5],
    on_paths.max(0).values[:5],
)
left.errorbar(
    m,
    mean,
    torch.stack([mean - low, high - mean]),
    fmt="o",
    ms=4,
    color=figures.COLORS["measured"],
    label="paths",
)
left.plot(
    m,
    on_walks.mean(0)[:5],
    "o",
    ms=4,
    color=figures.COLORS["noise"],
    label="random walk",
)
left.set(xlabel="components", ylabel="share left unexplained", ylim=(1e-8, 2))
left.legend(fontsize="small")
x = vp[:, 0] - vp[:, 0].mean(0)
directions = torch.linalg.svd(x, full_matrices=False).Vh[:3]
for i, (coordinate, color) in enumerate(
    zip((x @ directions.T).T, ("gaussian", "measured", "second"))
):
    coordinate = coordinate / coordinate.abs().max() * coordinate[-1].sign()
    right.plot(
        (2 * theta).cos(),
        coordinate,
        color=figures.COLORS[color],
        label=f"component {i + 1}",
    )
right.set(xlabel="c = cos 2θ (−1 noise, 1 image)", ylabel="coordinate (scaled)")
right.legend(fontsize="small")
plt.show()

# %% [markdown]
# Two components, around the mean over time, hold 99.9 % of every path. How so, if the plane of $x_0$ and $x_T$ is missed by
# eight percent of its length? Because that plane has to contain both ends and the origin. The best one is free.
#
# ## Who notices a push?
#
# Push the state at noise level $\sigma'$ by a small step $\delta$ along $u_k$, and let it flow on. The flow is linear, so the
# difference of two paths flows like a path, and ends as
#
# $$
# \delta_0 = \delta\,\sqrt{\frac{\lambda_k}{\lambda_k+\sigma'^2}} .
# $$ (eq-kick)
#
# Along a direction with much variance, $\lambda_k \gg \sigma'^2$, the kick is **kept**: the model takes it for a feature
# of the image. Along one with little variance it is **forgotten**, and off the data, $\lambda_k = 0$, it is forgotten
# without trace at whatever time it comes. Push the path yourself, in the plane of chapter 2:

# %%
tilt = math.radians(30)
basis = torch.tensor(
    [[math.cos(tilt), -math.sin(tilt)], [math.sin(tilt), math.cos(tilt)]]
)
mean = torch.tensor([0.4, -0.2])
plane = gt.Gaussian(mean, [1.0, 0.04], basis)

# %% mystnb={"figure": {"caption": "Kick the path. Light blue: a path from σ = 2 down to its end (black), over the data's ellipses. At the noise level of the slider it is kicked, by 1 along the wide axis (purple) or the narrow one (green), and flows on to another end. Right: how far the ends are from the black one, as a share of the kick, on the curves of the formula. Move the slider: an early kick along the narrow axis is forgotten on the way, one along the wide axis is mostly kept.", "name": "fig-kick-the-path"}, "image": {"alt": "Left, a light blue path that comes down from above to a tilted ellipse; two short arrows leave it at one point, and from their tips a purple and a green path lead to ends of their own. Right, two rising S-shaped curves with a dot on each; a slider moves arrows and dots."}}
origin = mean + torch.tensor([[1.8, 2.6]]) @ basis.T
kick_sigmas = torch.logspace(math.log10(2), -2, 41)


def flow_on(x, sigma):
    """The path from a state at level sigma to zero, (levels, 2)."""
    way = torch.cat([torch.linspace(sigma, sigma / 20, 30), torch.zeros(1)])
    return plane.flow(x, sigma, way[:, None])[:, 0]


undisturbed = flow_on(origin, 2.0)
frames = []
for sigma in kick_sigmas.tolist():
    at = plane.flow(origin, 2.0, sigma)
    in_plane, beside = [], []
    for kick, color in zip(basis.T, ("first", "second")):
        kicked = flow_on(at + kick, sigma)
        rest = (kicked[-1] - undisturbed[-1]).norm()
        in_plane += [
            interactive.Line(kicked, color),
            interactive.Arrows(at, kick[None], color, width=2),
            interactive.Points(kicked[-1], color, 9),
        ]
        beside.append(interactive.Points([[sigma, rest]], color, 9))
    frames.append([in_plane, beside])
formulas = [
    interactive.Line(
        torch.stack([kick_sigmas, (v / (v + kick_sigmas**2)).sqrt()], 1),
        color,
        label=f"{name}, λ = {v:g}",
    )
    for v, color, name in zip(
        plane.variances, ("first", "second"), ("wide", "narrow")
    )
]
scene = [
    interactive.Ellipse(mean, plane.covariance, color="noise"),
    interactive.Line(undisturbed, "path", 2, label="undisturbed path"),
    interactive.Points(undisturbed[-1], "data", 9, label="its end"),
]
interactive.frames(
    frames,
    [f"{sigma:.2g}" for sigma in kick_sigmas],
    [
        interactive.Panel(
            (-2, 3), (-1.6, 3.4), background=scene, equal=True, width=300
        ),
        interactive.Panel(
            (3, 0.008),
            (-0.05, 1.1),
            "noise level σ′ of the kick",
            "left of the kick",
            xscale="log",
            background=formulas,
            width=300,
        ),
    ],
    name="kick-the-path",
    control="noise level σ′",
    start=12,
)

# %% [markdown]
# Now the test. We kick a random state, run the solver for it with and without the kick, and compare the ends: in the plane of
# chapter 2, along its wide axis and its narrow one, and off the line when the narrow axis has no variance at all.


# %%
line = gt.Gaussian(mean, [1.0, 0.0], basis)
kick_levels = torch.logspace(math.log10(30), -2, 12)


def kept(model, kicks, sigma):
    """Length that the solver leaves of kicks, (n, *event), to n random states."""
    x = model.sample(len(kicks), sigma, generator=seeded(0))
    grid = torch.cat([torch.logspace(math.log10(sigma), -3, 200), torch.zeros(1)])
    *_, last = gt.samplers.heun(model, torch.cat([x, x + kicks]), grid)
    undisturbed, kicked = last.x.chunk(2)
    return (kicked - undisturbed).flatten(1).norm(dim=1)


cases = {"wide": (plane, 0), "narrow": (plane, 1), "off the data": (line, 1)}
found = {}
for name, (model, k) in cases.items():
    kicks = basis[:, k].expand(5, 2)
    found[name] = torch.stack([kept(model, kicks, s.item()) for s in kick_levels])
for name, (model, k) in cases.items():
    variance = model.variances[k]
    formula = (variance / (variance + kick_levels**2)).sqrt()
    deviation = (found[name].T - formula).abs().max().item()
    print(f"{name:<13} solver against formula: within {deviation:.0e}")
    assert deviation < 1e-3

# %% [markdown]
# Is an early kick worse than a late one? It depends on the ruler. A kick of *fixed size* is kept the better the later it
# comes, since less time is left to forget it. But early states are large. A kick that is a fixed *share of the noise*,
# $\delta = \varepsilon\sigma'$, ends as
#
# $$
# \frac{\delta_0}{\sqrt{\lambda_k}} = \varepsilon\,\frac{\sigma'}{\sqrt{\lambda_k+\sigma'^2}}
# $$
#
# in units of the data's deviation: fully kept while $\sigma' \gg \sqrt{\lambda_k}$, and lost after. By this ruler early kicks
# count and late ones do not, and the window in which a feature can be changed closes at $\sigma' \approx \sqrt{\lambda_k}$: for
# broad features early, for fine ones late.

# %% mystnb={"figure": {"caption": "What is left of a kick at the end, against the noise level at which it comes: solver (dots, five states on top of each other) and formula (lines). Left: a kick of fixed size, as a multiple of it. Off the data nothing is left. Right: a kick that is a fixed share ε of the noise, in units of ε and of the data's deviation along its direction. The two rulers disagree on whether early or late kicks matter.", "name": "fig-kicks"}, "image": {"alt": "Two panels with the noise level falling to the right. Left, two rising S-shaped curves, the wide axis first, and a flat line at zero. Right, two falling S-shaped curves, the wide axis first."}}
fig, (left, right) = plt.subplots(1, 2, figsize=(7, 3))
fine = torch.logspace(math.log10(30), -2, 200)
for (name, (model, k)), color in zip(cases.items(), ("first", "second", "noise")):
    color, variance = figures.COLORS[color], model.variances[k]
    left.semilogx(
        fine, (variance / (variance + fine**2)).sqrt(), color=color, label=name
    )
    left.plot(kick_levels, found[name], "o", ms=3.5, color=color)
    if variance > 0:
        right.semilogx(fine, fine / (variance + fine**2).sqrt(), color=color)
        in_deviations = found[name] * kick_levels[:, None] / variance.sqrt()
        right.plot(kick_levels, in_deviations, "o", ms=3.5, color=color)
left.set(ylabel="left of the kick δ", title="fixed size")
right.set(ylabel="left of it (ε deviations)", title="fixed share of the noise")
for ax in (left, right):
    ax.set(
        xlabel="noise level σ′ of the kick", xlim=(40, 0.008), ylim=(-0.05, 1.05)
    )
left.legend(fontsize="small")
plt.show()

# %% [markdown]
# And a kick in a *random* direction? It splits evenly over the $d$ directions, and of its squared length there remains on
# average
#
# $$
# \frac1d\sum_k \frac{\lambda_k}{\lambda_k+\sigma'^2},
# $$ (eq-random-kick)
#
# the share of the directions that the noise has not drowned. For our textures that is little until late: a random error is
# nearly all along directions with hardly any variance, and the steps that follow clean it up.

# %%
for sigma in (8.0, 1.0, 0.1):
    kicks = torch.randn(40, 1, SIDE, SIDE, generator=seeded(1))
    kicks = kicks / kicks.flatten(1).norm(dim=1)[:, None, None, None]
    left_of_it = kept(texture, kicks, sigma).square()
    expected = (spectrum / (spectrum + sigma**2)).mean().item()
    standard_error = left_of_it.std().item() / len(kicks) ** 0.5
    print(
        f"σ′ = {sigma:<3g}  left of the square: {left_of_it.mean():.2%}"
        f" ± {standard_error:.2%}, predicted {expected:.2%}"
    )
    assert abs(left_of_it.mean() - expected) < 4 * standard_error

# %% [markdown]
# ## What of data that are not Gaussian?
#
# No set of images is Gaussian, and no network is linear. Which of the three answers survive? We ask two models of the 8×8
# handwritten digits whose denoisers are exact, and which are far from Gaussian in opposite ways. The **mixture** has one
# Gaussian for each digit; it makes new images. The **point cloud** is the training set itself, as in
# [chapter 1](01_noise_and_score.ipynb); it can only repeat. Both have the mean and the covariance of the digits, so the Gaussian with
# these moments predicts the same for both.
#
# The share needs an average now, over paths: the slope of the least-squares line from what the denoised image shows of
# $u_k$ in the end to what it shows at $\sigma$. For a Gaussian that is the old share.

# %%
digits = gt.datasets.load("digits", "train")
images = digits.images.double()
classes = [gt.Gaussian.fit(images[digits.labels == label]) for label in range(10)]
class_shares = torch.bincount(digits.labels) / len(images)
gaussian = gt.Gaussian.fit(images)
models = {
    "Gaussian": gaussian,
    "mixture": gt.Mixture(class_shares.double(), classes),
    "point cloud": gt.PointCloud(images),
}
noise = SIGMA_MAX * torch.cat(
    [torch.randn(16, 1, 8, 8, generator=seeded(seed)) for seed in SEEDS]
)
coarse = torch.linspace(math.atan(SIGMA_MAX), 2e-3, 121)
runs = {
    name: list(gt.samplers.heun(model, noise, coarse.tan()))
    for name, model in models.items()
}
gap = (models["mixture"].covariance - gaussian.covariance).abs().max().item()
assert gap < 1e-10


# %% [markdown]
# Three measurements, the same for each model: the half-way levels, how flat the paths are, and what is left of a kick along
# the widest direction $u_1$ at $\sigma' = 0.5$.
#
# > **Predict.** On digits one of the three formulas fails. Which: that of the order, of the low dimension, or of the kick?
# > And of the two models, which is further from it?


# %%
def half_ways(run):
    """Measured half-way noise levels of 20 leading components, for each seed."""
    shown = torch.stack([state.denoised for state in run]) - gaussian.mean
    shown = (shown.flatten(2) @ gaussian.basis[:, :20]).unflatten(
        1, (len(SEEDS), -1)
    )
    slopes = (shown * shown[-1]).sum(2) / shown[-1].square().sum(1)
    return torch.stack([half_way(s, coarse[:-1].tan()) for s in slopes.unbind(1)])


def flatness(run):
    """What two components leave of each path, in VP."""
    states = (torch.stack([state.x for state in run]) - gaussian.mean).flatten(2)
    return left_over((coarse[1:].cos()[:, None, None] * states).transpose(0, 1))[
        :, 1
    ]


def kick_left(model, run, sigma=0.5, size=0.05):
    """Length left of a small kick along u₁ at level sigma, for each path."""
    after = int((coarse.tan() < sigma).int().argmax())
    kick = size * gaussian.basis[:, 0].reshape(1, 8, 8)
    *_, last = gt.samplers.heun(
        model, run[after - 1].x + kick, coarse[after:].tan()
    )
    return (last.x - run[-1].x).flatten(1).norm(dim=1) / size


halves = {name: half_ways(run) for name, run in runs.items()}
flat = {name: flatness(run) for name, run in runs.items()}
rests = {name: kick_left(models[name], run) for name, run in runs.items()}

# %%
in_theory = (3 * gaussian.variances[:20]).sqrt()
for name in models:
    ratio = (halves[name] / in_theory).mean(0)
    ranks = halves[name].argsort(1).argsort(1).double()
    in_order = torch.corrcoef(
        torch.cat([ranks, in_theory.argsort().argsort()[None]])
    )
    in_order = in_order[-1, :-1]
    print(f"{name}:")
    print(
        f"  rank correlation with √(3λ): {in_order.mean():.2f}, least"
        f" {in_order.min():.2f}"
    )
    print(
        f"  half way at {ratio[:10].mean():.2f} · √(3λ) for components 1 to 10,"
        f" {ratio[10:].mean():.2f} for 11 to 20"
    )
    print(
        f"  two components leave {flat[name].mean():.2%}, most"
        f" {flat[name].max():.2%}"
    )
    median = rests[name].reshape(len(SEEDS), -1).median(1).values
    print(
        f"  of a kick at σ′ = 0.5 is left {median.mean():.3f} ± {median.std():.3f}"
    )
    assert in_order.min() > 0.7
    assert flat[name].max() < 0.01
    assert 0.9 < ratio[:10].mean() < 1.25
    assert ratio[10:].mean() < 1.7
    within = {
        "Gaussian": (0.95, 0.97),
        "mixture": (0.6, 0.75),
        "point cloud": (0, 0.01),
    }
    low, high = within[name]
    assert low <= median.min()
    assert median.max() <= high

# %% mystnb={"figure": {"caption": "The Gaussian's predictions on digits, tested on data that are not Gaussian. Left: half-way noise levels of the 20 leading components (dots: mean over five seeds of 16 paths, bars: one standard deviation) and √(3λ) (line). The order holds; fine components come earlier than predicted. Right: what is left of a small kick along the first component at σ′ = 0.5, for 80 paths in increasing order. The Gaussian keeps 0.96 of each, the mixture about two thirds of most, the point cloud next to nothing. The few at the right end leave the frame: the kick pushed them over to another digit or another training image.", "name": "fig-beyond-gaussian"}, "image": {"alt": "Left, two sets of dots near a rising straight line on logarithmic axes, above it at the lower left end. Right, a flat line at 0.96, a curve that rises slowly from 0.57 to 0.73, and a flat line at zero; the last two shoot up at the right end."}}
fig, (left, right) = plt.subplots(1, 2, figsize=(7, 3))
left.loglog(in_theory, in_theory, color=figures.COLORS["gaussian"], label="√(3λ)")
for name, color, shift in (
    ("mixture", "first", 0.99),
    ("point cloud", "second", 1.01),
):
    left.errorbar(
        in_theory * shift,
        halves[name].mean(0),
        halves[name].std(0),
        fmt="o",
        ms=3,
        lw=0.8,
        color=figures.COLORS[color],
        label=name,
    )
left.set(xlabel="predicted half-way level, √(3λ)", ylabel="measured half-way level")
left.set_xticks([1, 2, 3], [1, 2, 3])
left.set_yticks([1, 2, 3], [1, 2, 3])
left.minorticks_off()
left.legend(fontsize="small")
for name, color in zip(models, ("gaussian", "first", "second")):
    right.plot(rests[name].sort().values, color=figures.COLORS[color], label=name)
right.set(xlabel="paths, sorted", ylabel="left of the kick", ylim=(-0.05, 1.6))
right.legend(fontsize="small", loc="upper left")
plt.show()

# %% [markdown]
# **The formula of the kick fails**, most of all for the point cloud. The cloud forgets the kick: nearly all directions are off
# a set of single points. The mixture keeps two thirds of it.
#
# **The order survives**, with a twist. The broad strokes are half way where $\sqrt{3\lambda}$ says, or a little before. Finer
# components come earlier than predicted, and measured levels are less far apart. A likely reason: once the broad strokes have
# decided which digit it is, much of its detail follows, and need not wait for its own noise level. **The low dimension
# survives.** Two components leave several times more than for the Gaussian, and still less than one percent of any path.
#
# Why does the mixture keep less of the kick than the Gaussian says? Within one digit there is less variance along $u_1$ than
# across all. If that is the reason, then the answer of each digit's own Gaussian, averaged, should come near what was
# measured.

# %%
unit = gaussian.basis[:, :1].T.reshape(1, 1, 8, 8)
own = torch.stack(
    [
        (g.flow(g.mean + unit, 0.5, 0.0) - g.flow(g.mean[None], 0.5, 0.0)).norm()
        for g in classes
    ]
)
expected = (class_shares.double() @ own).item()
lost = {name: int((rest > 1.6).sum()) for name, rest in rests.items()}
print(f"mean over the digits' own Gaussians: {expected:.3f}")
print(f"measured, median over the mixture's paths: {rests['mixture'].median():.3f}")
print("paths that the kick pushed over to another place, of 80:")
print(", ".join(f"{name} {count}" for name, count in lost.items()))
assert abs(rests["mixture"].median() / expected - 1) < 0.1
assert 0 < lost["mixture"] + lost["point cloud"] < 10
assert lost["Gaussian"] == 0

# %% [markdown]
# Why does this matter for a real network? It is asked at high noise first, and there, as Part II will show, its score is
# nearly the Gaussian's. So the order tells which parts of an image are settled in which calls: the broad ones in the early
# calls. The low dimension is one reason why samplers can manage with few steps: the path bends little, and its past tells its
# future. And kicks are what every step of a solver adds. What falls off the data is cleaned up; what falls along the data
# stays, and looks like an image. Nothing here *proves* any of this for a network. It says what to measure. That is the
# business of Part II.
#
# ## What we saw
#
# **Shown here.** One sigmoid in $\ln\sigma$ serves all directions: half at $\sigma=\sqrt{3\lambda}$, and so broad that many features
# are under way at once. In VP the path is the hypotenuse over the legs $a\sqrt\lambda$ and $b$, the rotation their sum: 41 % too
# long for a direction at $\sigma=\sqrt\lambda$, about a quarter off for our textures, at worst. Two components hold 99.9 % of a path. A kick is
# kept along wide directions and forgotten off the data. On digits, for an exact mixture and an exact training set, the order and the
# low dimension survive, the kick formula does not.
#
# **The paper.** [Wang & Vastola 2024](https://arxiv.org/abs/2412.09726) derive the closed form that all of this comes from.
# [An earlier paper of theirs](https://arxiv.org/abs/2303.02490) reports for trained models, Stable Diffusion among them, that
# paths are low-dimensional and resemble two-dimensional rotations, that high-variance features emerge earlier, and
# that early perturbations change the image more than late ones.
#
# **The difference.** We give the error of the rotation, which is not small for every spectrum. Whether early or late kicks
# matter more is a question of the ruler: late ones by absolute size, early ones by their share of the noise. And our models
# are exact; theirs were trained. [The next chapter](04_mixtures_and_clouds.ipynb) looks into the two that the Gaussian does
# not fully foretell, the mixture and the point cloud.
#
# ## Exercises
#
# **1. Kind and unkind spectra.** How far off is the rotation, at its worst, for a picture of 3,072 numbers with mean
# variance $1/4$ and a spectrum $\lambda_k \propto k^{-\alpha}$, with $\alpha = 1$, $1.5$, $2$? And for data with $\lambda_k = 1$ in
# every direction? What does the path do there?


# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
def rotation_error(variances):
    """Largest relative error of the rotation over all angles."""
    a, b = (
        f(torch.linspace(0, math.pi / 2, 361))[:, None]
        for f in (torch.cos, torch.sin)
    )
    path = (a**2 * variances + b**2).sqrt()
    missed = path - a * variances.sqrt() - b
    return (missed.norm(dim=1) / path.norm(dim=1)).max().item()


k = torch.arange(1, 3073).double()
worst_of = {
    alpha: rotation_error(768 * k**-alpha / (k**-alpha).sum())
    for alpha in (1, 1.5, 2)
}
worst_of["all 1"] = rotation_error(torch.ones(64))
for name, value in worst_of.items():
    print(f"{name:<5} {value:.1%}")
assert worst_of[2] < 0.1 < worst_of[1.5] < worst_of[1] < worst_of["all 1"]
assert abs(worst_of["all 1"] - (2**0.5 - 1)) < 1e-4
# The steeper the spectrum, the better: fewer directions are near σ = √λ at any time.
# With λ = 1 everywhere, √(a²+b²) = 1: in VP the path stands still. Image and noise are
# the same point, and no rotation leads from a point to itself.

# %% [markdown]
# **2. The VP ruler.** In VP, kick the state $x_t$ by a fixed $\delta$ along $u_k$. What is left at the end? Which
# directions *amplify* a kick, and which early kicks do most? Check it on the textures, for $k = 1$ and $k = 101$, at
# $\theta = 85°$ and $30°$.

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
# A VP kick δ is a VE kick δ/a. With σ' = b/a it ends as δ/a·√(λ/(λ+b²/a²)), which is
# δ·√(λ/(a²λ+b²)): from √λ for the earliest kicks to 1 for the latest.
for degree in (85, 30):
    a, b = math.cos(math.radians(degree)), math.sin(math.radians(degree))
    for i in (0, 100):
        kick = texture.basis[:, i].reshape(1, 1, SIDE, SIDE)
        measured_rest = kept(texture, kick / a, b / a).item()
        formula = (spectrum[i] / (a**2 * spectrum[i] + b**2)).sqrt().item()
        print(
            f"θ = {degree}°  λ = {spectrum[i]:<6.2g} {measured_rest:.3f},"
            f" formula {formula:.3f}"
        )
        assert abs(measured_rest - formula) < 1e-3 * max(formula, 1)
        assert (formula > 1) == (spectrum[i] > 1)
# Directions with λ > 1 amplify kicks, the more the earlier: by this ruler, early
# perturbations do change an image more than late ones, along its broad features.

# %% [markdown]
# **3. Noise on the way.** Stochastic samplers add fresh noise after each step. The simplest one goes from $\sigma$ to
# $\sigma_-$ by $x \leftarrow D + r^2 (x - D) + \sigma_-\sqrt{1-r^2}\;n$ with $r = \sigma_-/\sigma$ and $n$ normal. Are its paths
# low-dimensional?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
angles, fresh = theta[every], seeded(7)
x = start[:PATHS]
wandering = [x]
for high, low in zip(angles[:-1].tan().tolist(), angles[1:].tan().tolist()):
    r, denoised = low / high, texture(x, high)
    n = torch.randn(x.shape, generator=fresh)
    x = denoised + r**2 * (x - denoised) + low * math.sqrt(1 - r**2) * n
    wandering.append(x)
wandering = angles.cos()[:, None, None] * torch.stack(wandering).flatten(2)
rest = left_over(wandering.transpose(0, 1))
count = (rest > 1e-3).sum(1) + 1
print(
    f"two components leave {rest[:, 1].mean():.0%}, against"
    f" {on_paths[:, 1].mean():.2%}"
)
print(
    f"99.9 % takes {count.min()} to {count.max()} components, against"
    f" {needed.max()}"
)
assert count.min() > 50
assert rest[:, 1].min() > 0.1
# No. Each step's fresh noise points into a direction of its own. It is the path without
# noise that is flat.
