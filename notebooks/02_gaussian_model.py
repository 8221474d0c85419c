# %% [markdown]
# # 2 · The Gaussian model, solved
#
# [Chapter 1](01_noise_and_score.ipynb) ended with a hint: at high noise, the score of the data was nearly the score of one
# Gaussian. So suppose the data *were* Gaussian. What would a diffusion model do then?
#
# > *Everything, in closed form.* The denoiser, the whole path from noise to sample, and each denoised image on the way
# > are one-line formulas. No solver, no steps, no network.
#
# This chapter derives the formulas in the plane and tests each against a solver that knows nothing of them.

# %% tags=["parameters"] fast={"SEEDS": [0, 1], "STEPS": [8, 16, 32, 64]}
SIGMA_MAX = 80.0  # where sampling starts, as in EDM
VARIANCES = [1.0, 0.04]  # of the data, along its two principal axes
SEEDS = [0, 1, 2, 3, 4]
STEPS = [8, 16, 32, 64, 128, 256, 512]

# %%
import math
import textwrap

import matplotlib.pyplot as plt
import torch

import gausstools as gt
from gausstools import figures, shipped
from gausstools.figures import interactive

figures.set_style()
# Errors far below a millionth are read off below.
torch.set_default_dtype(torch.float64)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


# %% [markdown]
# ## A Gaussian in its own axes
#
# The data are normal with mean $\mu$ and covariance $\Sigma$. Write $\Sigma$ by its **eigenpairs**: variances
# $\lambda_k$ along orthonormal directions $u_k$. For images, $u_k$ are the principal components; here they are the two
# axes of a tilted ellipse, one with standard deviation 1, the other with 0.2.

# %%
tilt = math.radians(30)
basis = torch.tensor(
    [[math.cos(tilt), -math.sin(tilt)], [math.sin(tilt), math.cos(tilt)]]
)
gaussian = gt.Gaussian(
    mean=torch.tensor([0.4, -0.2]), variances=VARIANCES, basis=basis
)
print(gaussian)
print(gaussian.covariance)

# %% [markdown]
# Noise adds $\sigma^2$ to every variance, so the noised density is normal with covariance $\Sigma + \sigma^2 I$. Its
# score is linear in $x$, and by Tweedie's formula so is the denoiser:
#
# $$
# \begin{aligned}
# \nabla\log p &= -(\Sigma+\sigma^2 I)^{-1}(x-\mu), \\
# D(x,\sigma) &= \mu + \sum_k \frac{\lambda_k}{\lambda_k+\sigma^2}\, z_k u_k,
# \end{aligned}
# $$ (eq-gaussian-denoiser)
#
# where $z_k = u_k^\top (x-\mu)$ is the coordinate of $x$ along $u_k$. Read the sum one direction at a time: along $u_k$,
# keep the fraction $\lambda_k/(\lambda_k+\sigma^2)$ of what you see and give up the rest. Where the noise is much narrower
# than the data, keep everything. Where it is much wider, keep nothing and answer with the mean. The switch happens at
# $\sigma = \sqrt{\lambda_k}$. Signal processing knows this as the **Wiener filter**.

# %% mystnb={"figure": {"caption": "Left: the share of a noisy deviation that the denoiser keeps, along the wide axis (λ = 1) and the narrow one (λ = 0.04). Each is one half at σ = √λ (dotted). Right: noisy points at σ = 0.5 (black) and what the denoiser makes of them (orange). Along the narrow axis it keeps 14 %, along the wide one 80 %, so the cloud turns into a thin band. Blue: the data's one- and two-deviation ellipses.", "name": "fig-shrinkage"}, "image": {"alt": "Left, two falling S-shaped curves on a logarithmic noise axis, crossing one half at 1 and at 0.2. Right, a tilted oval cloud of black points, each joined by a short line to an orange point in a thin tilted band; two ellipses."}}
fig, (left, right) = plt.subplots(1, 2, figsize=(7, 3))
sigmas = torch.logspace(-2.5, 2, 200)
for variance, color in zip(
    gaussian.variances,
    (figures.COLORS["first"], figures.COLORS["second"]),
):
    left.semilogx(
        sigmas,
        variance / (variance + sigmas**2),
        color=color,
        label=f"λ = {variance:g}",
    )
    left.axvline(variance.sqrt(), ls=":", color=color, lw=1)
left.set(xlabel="noise level σ", ylabel="share kept")
left.legend()
x = gaussian.sample(150, 0.5, generator=seeded(0))
for start, end in zip(x, gaussian(x, 0.5)):
    right.plot(*torch.stack([start, end]).T, color=figures.COLORS["noise"], lw=0.6)
right.scatter(*x.T, s=5, color=figures.COLORS["data"], linewidths=0)
right.scatter(
    *gaussian(x, 0.5).T,
    s=9,
    color=figures.COLORS["denoised"],
    linewidths=0,
    zorder=3,
)
figures.draw_covariance(
    right, gaussian.mean, gaussian.covariance, color=figures.COLORS["gaussian"]
)
right.set(aspect="equal", xlim=(-3.3, 3.4), ylim=(-2.6, 2.6))
plt.show()

# %%
kept = (gaussian.variances / (gaussian.variances + 0.5**2)).tolist()
print(f"kept at σ = 0.5: {kept[0]:.0%} (wide axis), {kept[1]:.0%} (narrow axis)")
assert [round(100 * share) for share in kept] == [80, 14]

# %% [markdown]
# ## The path from noise to sample
#
# Sampling follows the probability flow $\mathrm dx/\mathrm d\sigma = (x - D)/\sigma$. Put the Gaussian's denoiser in, and
# look along one direction, at the coordinate $z_k$:
#
# $$
# \begin{aligned}
# \frac{\mathrm dz_k}{\mathrm d\sigma} &= \frac{\sigma}{\lambda_k+\sigma^2}\, z_k, \\
# \text{so}\quad z_k(\sigma) &= \sqrt{\frac{\sigma^2+\lambda_k}{\sigma_T^2+\lambda_k}}\; z_k(\sigma_T).
# \end{aligned}
# $$ (eq-gaussian-flow)
#
# Here $\sigma_T$ is the noise level at which the path starts. The directions do not talk to each other, and each is a
# separable equation ([solved here](91_proofs.ipynb#the-flow-of-a-gaussian)). The solution says: *keep your position in units of the noised standard deviation*
# $\sqrt{\sigma^2+\lambda_k}$. A point that starts 1.3 deviations out along $u_k$ ends 1.3 deviations out.
#
# In the library this is `gaussian.flow(x, sigma_from, sigma_to)`. The independent witness is Heun's method, which only
# asks the denoiser, with steps small enough to trust.


# %%
start = gaussian.mean + SIGMA_MAX * torch.cat(
    [torch.randn(50, 2, generator=seeded(seed)) for seed in SEEDS]
)
grid = torch.logspace(math.log10(SIGMA_MAX), -3, 4001)
deviation = max(
    (state.x - gaussian.flow(start, SIGMA_MAX, state.sigma)).abs().max().item()
    for state in gt.samplers.heun(gaussian, start, grid)
)
print(f"solver against formula, anywhere on {len(start)} paths:")
print(f"largest deviation {deviation:.0e}")
assert deviation < 1e-5

# %% mystnb={"figure": {"caption": "Closed-form paths from σ = 80, seen in the last part of their way. Left: paths of 16 points that start 1.5 deviations out (light blue), their places at σ = 2, 1, 0.5 and 0 (dots), and the noised Gaussian's 1.5-deviation ellipses at these levels (grey to black). Every dot lies on its ellipse: a point keeps its place in units of the noised deviation. Right: the factor of the flow for four variances, relative to where it starts. Each follows the noise down (slope one) until σ = √λ, and then stays.", "name": "fig-flow"}, "image": {"alt": "Left, light blue lines converge from all sides and bend into a tilted ellipse; dots sit where they cross four nested ellipses. Right, four curves on logarithmic axes fall together along a diagonal and level off one after the other, the largest variance first."}}
fig, (left, right) = plt.subplots(1, 2, figsize=(7, 3.2))
angles = torch.linspace(0, 2 * math.pi, 17)[:-1]
start = gaussian.mean + SIGMA_MAX * 1.5 * torch.stack(
    [angles.cos(), angles.sin()], 1
)
path = torch.stack(
    [gaussian.flow(start, SIGMA_MAX, s) for s in torch.logspace(1, -3, 200)]
)
for line in path.unbind(1):
    left.plot(*line.T, color=figures.COLORS["path"], lw=0.9)
for sigma, shade in zip((2.0, 1.0, 0.5, 0.0), ("0.75", "0.6", "0.4", "0")):
    spread = gaussian.covariance + sigma**2 * torch.eye(2)
    figures.draw_covariance(
        left, gaussian.mean, spread, deviations=(1.5,), color=shade, linewidth=1
    )
    place = gaussian.flow(start, SIGMA_MAX, sigma)
    left.scatter(*place.T, s=9, color=shade, linewidths=0, zorder=3)
    offset = place - gaussian.mean
    deviations = (offset @ torch.linalg.inv(spread) * offset).sum(1).sqrt()
    assert ((deviations - 1.5).abs() < 1e-3).all()
left.set(aspect="equal", xlim=(-3.4, 4.2), ylim=(-3.6, 3.2))
levels = torch.logspace(-2, math.log10(SIGMA_MAX), 200)
colors = plt.get_cmap(figures.LEVELS)(torch.linspace(0, 0.85, 4).numpy())
for variance, color in zip((10.0, 1.0, 0.1, 0.01), colors):
    factor = torch.hypot(levels, torch.tensor(variance**0.5)) / math.hypot(
        SIGMA_MAX, variance**0.5
    )
    right.loglog(levels, factor, color=color, label=f"λ = {variance:g}")
right.set(xlabel="noise level σ", ylabel="$z_k(σ)/z_k(80)$")
right.invert_xaxis()
right.legend()
plt.show()

# %% [markdown]
# ## What the denoiser shows on the way
#
# At each moment the denoiser has an opinion of the final image, $D(x_\sigma) = D(x_\sigma, \sigma)$. Along the path, that
# opinion is also closed:
#
# $$
# \begin{aligned}
# D(x_\sigma) &= \mu + \sum_k c_k(\sigma)\, z_k(\sigma_T)\, u_k, \\
# c_k(\sigma) &= \frac{\lambda_k}{\sqrt{(\lambda_k+\sigma^2)(\lambda_k+\sigma_T^2)}}.
# \end{aligned}
# $$ (eq-denoiser-path)
#
# Divided by its final value, $c_k(\sigma)/c_k(0) = \sqrt{\lambda_k/(\lambda_k+\sigma^2)}$. Drawn over $\ln\sigma$ that is a
# sigmoid: as the noise falls, it climbs from nearly 0 to 1. It is one half where $\lambda_k/(\lambda_k+\sigma^2) = 1/4$,
# that is at
#
# $$
# \sigma_{1/2} = \sqrt{3\lambda_k}.
# $$ (eq-half-way)
#
# Directions with large variance settle first, at high noise; those with small variance last. The order follows from the
# variances $\lambda_k$ of the data alone. (Together they are its **spectrum**.)
#
# Again we let the solver witness: `heun` yields what the denoiser answered at each step.

# %%
# A start that lies 1 and 1.3 deviations out along the two axes.
start = gaussian.mean + SIGMA_MAX * torch.tensor([[1.0, 1.3]]) @ basis.T
levels = torch.logspace(math.log10(SIGMA_MAX), -3, 4001)
states = list(gt.samplers.heun(gaussian, start, levels))
opinion = torch.cat([state.denoised for state in states])  # at levels[:-1]
share = (opinion - gaussian.mean) @ basis
share = share / share[-1]
for k, variance in enumerate(gaussian.variances):
    half_way = levels[:-1][(share[:, k] - 0.5).abs().argmin()].item()
    predicted = (3 * variance).sqrt().item()
    print(
        f"λ = {variance:<4g}  half way at σ = {half_way:.4f}, √(3λ) ="
        f" {predicted:.4f}"
    )
    assert abs(half_way / predicted - 1) < 0.005

# %% mystnb={"figure": {"caption": "Left: the denoised point's coordinates along one path, each as a share of its final value; dotted lines stand at √(3λ). Right: the same path in the plane, with the data's ellipses in grey. The denoised point (orange) leaves the mean along the wide axis first and turns to the narrow one late; the state (light blue) comes in from far outside and meets it at the end.", "name": "fig-denoiser-path"}, "image": {"alt": "Left, two S-shaped curves rising as the noise falls, the wide axis first. Right, an orange curve with a bend, from the centre of two ellipses to the sample, and a light blue curve that arrives from above at the same end point."}}
fig, (left, right) = plt.subplots(1, 2, figsize=(7, 3))
for k, color in enumerate((figures.COLORS["first"], figures.COLORS["second"])):
    variance = gaussian.variances[k]
    left.semilogx(levels[:-1], share[:, k], color=color, label=f"λ = {variance:g}")
    left.axvline((3 * variance).sqrt(), color=color, ls=":", lw=1)
left.set(xlabel="noise level σ", ylabel="share of the final value")
left.invert_xaxis()
left.legend()
path = torch.cat([state.x for state in states])
right.plot(*path.T, color=figures.COLORS["path"], label="state")
right.plot(*opinion.T, color=figures.COLORS["denoised"], label="denoised point")
figures.draw_covariance(
    right,
    gaussian.mean,
    gaussian.covariance,
    color=figures.COLORS["noise"],
    linewidth=0.8,
)
right.set(aspect="equal", xlim=(-1.7, 2.5), ylim=(-1.5, 1.6))
right.legend(loc="upper left", fontsize="small")
plt.show()

# %% [markdown]
# Both formulas in one picture that moves. It starts at $\sigma = 3$, so that the start fits into the frame, and one deviation
# out, $z_k = \sqrt{(9+\lambda_k)/2}$ along each axis. Then the state should ride on the noised Gaussian's one-deviation
# ellipse all the way down.

# %%
start = gaussian.mean + ((9 + gaussian.variances) / 2).sqrt() @ basis.T
levels = torch.logspace(math.log10(3), math.log10(0.02), 121)
*states, last = gt.samplers.heun(gaussian, start[None], levels)
off = []
for state in [*states, last]:
    spread = gaussian.noised(state.sigma).covariance
    offset = state.x - gaussian.mean
    off.append(abs((offset @ torch.linalg.inv(spread) * offset).sum().item() - 1))
print(f"squared distance in deviations: 1, up to {max(off):.0e}")
assert max(off) < 0.01

# %% [markdown]
# Drag the start to a point on the extended narrow axis and slide: the denoised point now stays near the mean until
# $\sigma$ falls below $\sqrt{3 \cdot 0.04} = 0.35$. Back on the wide axis it is out early.

# %% mystnb={"figure": {"caption": "One path of the Gaussian model. Drag the start (ring, at σ = 3), slide the noise level. Light blue: the path, and the state at this level. Orange: the denoised point, at the tip of the arrow. Blue: the noised Gaussian's one-deviation ellipse; grey: the data's ellipses of one and two deviations.", "name": "fig-drag-path"}, "image": {"alt": "A tilted ellipse pair in grey inside a wider blue ellipse. From a ring at the upper right a light blue path bends into the blue ellipse, where it meets it; an arrow leads from there to an orange dot. Below, a button and a slider for the noise level."}}
plane = interactive.Panel(x=(-4, 4.8), y=(-3.6, 3.4), equal=True, width=440)
interactive.flow(
    gaussian, start, plane, name="gaussian-path", sigma_max=3.0, sigma=0.8
)

# %% [markdown]
# ## Three conventions, one path
#
# Papers disagree on how to add noise. All of them write $x_t = a(t)\,x_0 + b(t)\,n$ and choose $a$ and $b$:
#
# | convention | signal $a$ | noise $b$ | time |
# |---|---|---|---|
# | variance exploding (VE), EDM | $1$ | $\sigma$ | $\sigma$ itself |
# | variance preserving (VP), DDPM | $\sqrt{1-b^2}$ | $\sqrt{1-e^{-\int_0^t\beta}}$ | $0 \le t \le 1$ |
# | flow matching | $1-t$ | $t$ | $0 \le t \le 1$ |
#
# EDM is the design of [Karras et al. 2022](https://arxiv.org/abs/2206.00364), DDPM that of
# [Ho et al. 2020](https://arxiv.org/abs/2006.11239), and $\beta(t)$ is VP's rate of noising. Divide by the signal:
# $x_t/a = x_0 + (b/a)\,n$ is a VE point at noise level $\sigma = b/a$. So a denoiser of one is a denoiser of all, and their
# probability flows are one path in three coordinate systems. The library keeps VE inside and translates at its border, by
# `to_ve` and `from_ve`.
#
# Each convention has its own differential equation, $\dot x_t = \dot a\,\mathbb E[x_0|x_t] + \dot b\,\mathbb E[n|x_t]$. We
# solve all three, each in its own time and coordinates, and bring the paths home to VE to compare.

# %%
processes = {"VE": gt.VE(), "VP": gt.VP(), "flow matching": gt.FlowMatching()}
high, low = 20.0, 0.05
x_high = gaussian.mean + high * torch.randn(6, 2, generator=seeded(4))


def own_path(process, steps=2000):
    """Integrate a process's own flow by the midpoint rule, in its own time."""
    x, t_start = process.from_ve(x_high, high)
    t_end = process.time(torch.tensor([low]))
    fraction = torch.linspace(0, 1, steps + 1)
    times = (t_start.log() + fraction * (t_end / t_start).log()).exp()
    states = [x]
    for t, t_next in zip(times[:-1], times[1:]):
        half = x + (t_next - t) / 2 * process.velocity(gaussian, x, t)
        x = x + (t_next - t) * process.velocity(gaussian, half, (t + t_next) / 2)
        states.append(x)
    return times, torch.stack(states)


def worst_at_home(process, times, states):
    """Largest distance of a path, translated to VE, from the closed form."""
    home = [process.to_ve(x, t) for x, t in zip(states, times)]
    return max(
        (x - gaussian.flow(x_high, high, s)).abs().max().item() for x, s in home
    )


paths = {name: own_path(process) for name, process in processes.items()}
for name, path in paths.items():
    deviation = worst_at_home(processes[name], *path)
    print(f"{name:<14} at most {deviation:.0e} from the closed form")
    assert deviation < 1e-5

# %% mystnb={"figure": {"caption": "The same six paths, first coordinate against time, in the three conventions. VE points start far out and shrink; VP and flow matching keep a scale near one, and bend each in its own way. Translated to VE they are the same curves.", "name": "fig-conventions"}, "image": {"alt": "Three panels with six lines each. In VE the lines start spread over tens of units and run together; in VP and in flow matching they stay within three units, with different bends."}}
fig, axes = plt.subplots(1, 3, figsize=(7, 2.6))
labels = ("noise level σ", "time t", "time t")
for ax, (name, (times, states)), label in zip(axes, paths.items(), labels):
    ax.plot(times, states[:, :, 0])
    ax.set(title=name, xlabel=label)
    ax.invert_xaxis()
axes[0].set_xscale("log")
axes[0].set_ylabel("first coordinate of $x_t$")
plt.show()

# %% [markdown]
# ## A solver converges to the formula
#
# A real network has no closed form, so we step. How good are the steps? Here we know the truth, and can see
# a method's **order**: if halving the steps divides the error by $2^p$, the order is $p$. Theory says one for Euler's method,
# which walks each step along the direction at its start, and two for Heun's. But Heun pays two denoiser calls a step. A fair
# axis therefore counts calls (**NFE**, the number of function evaluations).


# %%
def error_of(end, start):
    exact = gaussian.flow(start, SIGMA_MAX, 0.01)
    return (end - exact).square().sum(1).mean().sqrt().item()


def errors(sampler, seed):
    start = SIGMA_MAX * torch.randn(64, 2, generator=seeded(seed))
    grids = [torch.logspace(math.log10(SIGMA_MAX), -2, n + 1) for n in STEPS]
    ends = [list(sampler(gaussian, start, grid))[-1].x for grid in grids]
    return torch.tensor([error_of(end, start) for end in ends])


curves = {
    sampler.__name__: torch.stack([errors(sampler, seed) for seed in SEEDS])
    for sampler in (gt.samplers.euler, gt.samplers.heun)
}
for name, expected in (("euler", 1), ("heun", 2)):
    fine = curves[name][:, -3:].log2()
    order = -(fine[:, -1] - fine[:, 0]) / 2
    print(
        f"{name}: order {order.mean():.2f} ± {order.std():.2f}, theory {expected}"
    )
    assert (order - expected).abs().max() < 0.1

# %% mystnb={"figure": {"caption": "Root-mean-square error of Euler's and Heun's methods against the number of denoiser calls, on a grid uniform in ln σ, with lines of slope −1 and −2 through their last points. Heun's method costs two calls a step, and still overtakes.", "name": "fig-convergence"}, "image": {"alt": "Two falling lines on logarithmic axes with dashed reference lines of slope minus one and minus two; Heun's falls more steeply and crosses below Euler's."}}
fig, ax = plt.subplots(figsize=(7, 3))
for (name, curve), slope, calls, color in zip(
    curves.items(),
    (1, 2),
    (1, 2),
    (figures.COLORS["first"], figures.COLORS["second"]),
):
    nfe = calls * torch.tensor(STEPS)
    mean = curve.mean(0)
    ax.loglog(nfe, mean, "o-", ms=4, color=color, label=name.capitalize())
    ax.loglog(nfe, mean[-1] * (nfe[-1] / nfe) ** slope, "--", lw=0.9, color=color)
ax.set(xlabel="denoiser calls (NFE)", ylabel="RMS error of the end point")
ax.legend()
plt.show()

# %% [markdown]
# Where on the path is the error made? Take Euler's method with 32 steps, and replace its first 8 by the closed form: one
# exact jump from $\sigma = 80$ to 8.5.
#
# > **Predict.** A quarter of the steps is exact now. Has most of the error gone, about a quarter of it, or almost none?


# %%
grid, skip = torch.logspace(math.log10(SIGMA_MAX), -2, 33), 8
remaining = []
for seed in SEEDS:
    start = SIGMA_MAX * torch.randn(64, 2, generator=seeded(seed))
    jumped = gaussian.flow(start, SIGMA_MAX, grid[skip])
    whole = list(gt.samplers.euler(gaussian, start, grid))[-1].x
    saved = list(gt.samplers.euler(gaussian, jumped, grid[skip:]))[-1].x
    remaining.append(error_of(saved, start) / error_of(whole, start))
print(f"jump to σ = {grid[skip]:.1f}: {skip} of 32 calls saved")
print(f"error: at least {min(remaining):.0%} of what it was")
assert round(grid[skip].item(), 1) == 8.5
assert 0.985 < min(remaining) <= max(remaining) <= 1.0

# %% [markdown]
# Almost none: 99 % of the error is still there. At high noise the paths are straight lines to the mean, and even large steps
# are nearly exact. The error is made where the factors bend, around $\sigma = \sqrt{\lambda_k}$. So the first calls buy almost
# nothing. If a network's score *is* nearly Gaussian at high noise, one closed-form jump can replace them, and the calls that
# it saves can go where the error is. That is **analytical teleportation**, and Part III of this book will be about it.
# The paper's authors did it to a network of CIFAR-10:

# %%
published = {row["sigma_skip"]: row for row in shipped.published("heun_fid")}
for sigma in (80.0, 19.4):
    row = published[sigma]
    print(
        f"published, sampling from σ = {sigma:<4g} {row['nfe']} calls, FID {row['fid']:.2f}"
    )
assert [
    (published[sigma]["nfe"], round(published[sigma]["fid"], 2))
    for sigma in (80.0, 19.4)
] == [(35, 1.96), (27, 1.93)]

# %% [markdown]
# (FID, the Fréchet inception distance, measures how far a set of images is from the data; smaller is better.
# [Chapter 11](11_teleportation.ipynb) looks at this table and does the same to networks of ours.)
#
# ## What we saw
#
# **Shown here.** For Gaussian data the denoiser is a Wiener filter, direction by direction. The sampling path is closed: each
# coordinate keeps its place in units of $\sqrt{\sigma^2+\lambda_k}$. Directions settle in order of variance, half way at
# $\sigma = \sqrt{3\lambda_k}$. VE, VP and flow matching are one path in three coordinate systems.
#
# **The paper.** [Wang & Vastola 2024](https://arxiv.org/abs/2412.09726) solve the same model and use it on image networks. In
# their published table for CIFAR-10, 18 Heun steps give an FID of 1.96 with 35 calls, and 1.93 with 27 after a jump to
# $\sigma = 19.4$.
#
# **The difference.** Here the data are exactly Gaussian, so the jump has no error of its own. For a network it has, and
# Part III will measure it. [The next chapter](03_predictions.ipynb) asks what else the solution foretells, and
# [chapter 6](06_image_statistics.ipynb) takes it to images.
#
# ## Exercises
#
# **1. No variance at all.** Give the narrow axis variance 0, so that the data lie on a line. What does the flow do to a point
# off that line? Can one run it backwards from $\sigma = 0$?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
line = gt.Gaussian(gaussian.mean, [1.0, 0.0], basis)
noise = torch.stack([torch.randn(5, 2, generator=seeded(seed)) for seed in SEEDS])
end = line.flow(line.mean + SIGMA_MAX * noise.flatten(0, 1), SIGMA_MAX, 0.0)
off_the_line = ((end - line.mean) @ basis)[:, 1].abs().max().item()
print(f"distance of {len(end)} ends from the line at σ = 0: {off_the_line:.0e}")
assert off_the_line < 1e-12
# Every point lands on the line, wherever it came from: the factor √(σ²+0) vanishes.
# So the way back is lost, and the library says so instead of dividing by zero.
try:
    line.flow(end, 0.0, 1.0)
except ValueError as error:
    print(textwrap.fill(str(error), 80))
else:
    raise AssertionError("the way back should have been refused")

# %% [markdown]
# **2. Which grid?** Compare Euler's method with 20 steps on three grids from 80 to 0.01: uniform in $\ln\sigma$, Karras' with
# $\rho = 7$, uniform in $\sigma$. Explain the order of the errors by the right-hand panel [above](#fig-flow).

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
grids = {
    "uniform in ln σ": torch.logspace(math.log10(SIGMA_MAX), -2, 21),
    "Karras, ρ = 7": gt.karras_sigmas(21, sigma_min=0.01, sigma_max=SIGMA_MAX)[:-1],
    "uniform in σ": torch.linspace(SIGMA_MAX, 0.01, 21),
}
starts = [SIGMA_MAX * torch.randn(64, 2, generator=seeded(seed)) for seed in SEEDS]
error_on = {
    name: torch.tensor(
        [
            error_of(list(gt.samplers.euler(gaussian, start, grid))[-1].x, start)
            for start in starts
        ]
    )
    for name, grid in grids.items()
}
for name, error in error_on.items():
    print(f"{name:<16} error {error.mean():.3f} ± {error.std():.3f}")
careful = torch.stack([error_on["uniform in ln σ"], error_on["Karras, ρ = 7"]])
assert (error_on["uniform in σ"] > 2 * careful.amax(0)).all()
assert (careful[1] < 1.2 * careful[0]).all()
assert not ((grids["uniform in σ"] > 0.02) & (grids["uniform in σ"] < 4)).any()
# The factors bend around σ = √λ, here 1 and 0.2. The grid that is uniform in σ jumps
# from 4 to 0.01 and has no level there at all. The other two are nearly equal.

# %% [markdown]
# **3. Two jumps.** Show that jumping from 80 to 5 and from 5 to 0 is the same as jumping from 80 to 0. Why must it be?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
every_start = torch.cat(starts)
at_once = gaussian.flow(every_start, SIGMA_MAX, 0.0)
by_way = gaussian.flow(gaussian.flow(every_start, SIGMA_MAX, 5.0), 5.0, 0.0)
print(f"largest difference: {(at_once - by_way).abs().max():.0e}")
assert torch.allclose(at_once, by_way, atol=1e-12)
# The factors √((σ²+λ)/(σ_T²+λ)) telescope. They must: a path through a point does not
# depend on where you pause.
