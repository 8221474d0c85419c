# %% [markdown]
# # 6 · Image statistics
#
# Part I solved the Gaussian model in the plane. An image is a point too: an 8×8 digit is a point in 64 dimensions, and a
# set of digits is a cloud. This chapter asks what the mean and the covariance of that cloud know:
#
# > *If a model has seen nothing of the images but their mean and covariance, what can it draw?*
#
# The answer matters because, as Part II will show, that is most of what a trained network uses at high noise.
#
# We work with the 1,797 handwritten digits that come inside scikit-learn, so nothing has to be downloaded. Statistics are
# computed from the first 1,437, and tested on the last 360.

# %% tags=["parameters"]
DATASET = "digits"
N_SHOWN = 48  # images in the side-by-side figure
SIZES = [5, 10, 20, 50, 100, 200, 400, 800]  # numbers of images to fit with
SIGMAS = [0.1, 0.3, 1.0]  # noise levels at which fits are judged
SIGMA_MAX = 80.0
SEEDS = [0, 1, 2, 3, 4]

# %%
import math

import matplotlib.pyplot as plt
import torch

import gausstools as gt
from gausstools import figures

figures.set_style()
torch.set_default_dtype(torch.float64)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


# %%
train = gt.datasets.load(DATASET, "train").images.double()
test = gt.datasets.load(DATASET, "test").images.double()
gaussian = gt.Gaussian.fit(train)
spectrum = gaussian.variances
total = gaussian.total_variance
print(
    f"{len(train)} training and {len(test)} test images, {gaussian.dim} pixels each"
)
print(
    f"total variance {total:.2f}, that is {total / gaussian.dim:.3f} per pixel"
)

# %% [markdown]
# ## Mean and principal components
#
# `Gaussian.fit` has already done the work: it accumulated the mean $\mu$ and the covariance $\Sigma$, and took the
# eigenpairs $(\lambda_k, u_k)$ of $\Sigma$. For images the eigenvectors are called **principal components**, and each is
# an image itself: a pattern of ink that comes and goes as one. $\lambda_k$ is the variance of its amount.

# %% mystnb={"figure": {"caption": "The mean digit (first) and the 15 leading principal components, each between its own extremes (grey is zero). The first ones are broad patches of ink; later ones alternate faster, like waves of rising frequency.", "name": "fig-components"}, "image": {"alt": "A grid of 16 small pictures. The first is a blurred vertical blob. The next show a few broad light and dark patches, and later ones finer and finer patterns of stripes and spots."}}
components = gaussian.basis.T.reshape(-1, *gaussian.event_shape)[:15]
components = components / components.abs().amax((1, 2, 3), keepdim=True)
fig, ax = plt.subplots(figsize=(7, 1.9))
figures.image_grid(ax, torch.cat([gaussian.mean[None], components]), columns=8)
plt.show()

# %% [markdown]
# ## The spectrum
#
# How fast do the variances fall? The **spectrum** says how many patterns a set of images is made of.

# %%
share = spectrum.cumsum(0) / spectrum.sum()
count = {goal: int((share < goal).sum()) + 1 for goal in (0.5, 0.9, 0.99)}
for goal, k in count.items():
    print(
        f"{k:2d} of {gaussian.dim} components hold {goal:.0%} of the variance"
    )
silent = int((spectrum < 1e-12 * spectrum[0]).sum())
print(f"{silent} directions have no variance at all")
assert count[0.9] < gaussian.dim / 2

# %% [markdown]
# For photographs the spectrum is close to a power law, $\lambda_k \propto k^{-\alpha}$, a straight line on logarithmic
# axes. Is it for these digits? Fit the exponent on two ranges; a power law has the same exponent on both.


# %%
def exponent(first, last):
    """Slope of ln λ against ln k over components first…last, and its standard error."""
    k = torch.arange(first, last + 1).log()
    centred = k - k.mean()
    y = spectrum[first - 1 : last].log()
    slope = (centred * y).sum() / centred.square().sum()
    rest = y - y.mean() - slope * centred
    error = (rest.square().sum() / (len(k) - 2) / centred.square().sum()).sqrt()
    return -slope.item(), error.item()


ranges = [(3, 15), (16, 40)]
fits = [exponent(*r) for r in ranges]
for (first, last), (alpha, error) in zip(ranges, fits):
    print(f"components {first:2d} to {last}: α = {alpha:.2f} ± {error:.2f}")
gap = (fits[1][0] - fits[0][0]) / math.hypot(fits[0][1], fits[1][1])
print(f"the exponents differ by {gap:.1f} standard errors")
assert gap > 3

# %% mystnb={"figure": {"caption": "Spectrum of the digits. Left: variance of each component on logarithmic axes, with power laws fitted to components 3–15 and 16–40. The spectrum bends down: 64 pixels are too few for a power law. Right: share of the variance held by the first k components; dotted lines mark 50, 90 and 99 %.", "name": "fig-spectrum"}, "image": {"alt": "Left, a falling curve of dots that starts flat, then bends down more and more steeply; two dashed lines of different slopes follow its parts. Right, a curve that rises steeply and levels off at one."}}
fig, (left, right) = plt.subplots(1, 2, figsize=(7, 3))
k = torch.arange(1, gaussian.dim + 1)
visible = spectrum > 1e-6
left.loglog(
    k[visible], spectrum[visible], "o", ms=3, color=figures.COLORS["data"]
)
for (first, last), (alpha, _), color in zip(
    ranges, fits, (figures.COLORS["gaussian"], figures.COLORS["highlight"])
):
    inside = k[first - 1 : last].double()
    level = (
        (spectrum[first - 1 : last].log() + alpha * inside.log()).mean().exp()
    )
    left.loglog(
        inside,
        level * inside**-alpha,
        "--",
        color=color,
        label=f"α = {alpha:.2f}",
    )
left.set(xlabel="component k", ylabel="variance $λ_k$", ylim=(3e-4, 6))
left.legend()
right.plot(k, share, color=figures.COLORS["data"])
for goal, at in count.items():
    right.plot(
        [0, at, at],
        [goal, goal, 0],
        ":",
        lw=1,
        color=figures.COLORS["gaussian"],
    )
right.set(
    xlabel="components",
    ylabel="share of variance",
    xlim=(0, 64),
    ylim=(0, 1.02),
)
plt.show()

# %% [markdown]
# ## How many images does a covariance need?
#
# A covariance of 64 dimensions has 2,080 free entries. Do we need thousands of images? The fair judge is the job that the
# model has to do: denoise images that it has *not* seen. In units of $\sigma^2$, the expected error of the Gaussian
# denoiser on its own data is
#
# $$
# \frac{1}{\sigma^2}\,\mathbb E\,\|D(x_\sigma,\sigma) - x_0\|^2 = \sum_k \frac{\lambda_k}{\lambda_k+\sigma^2},
# $$ (eq-denoising-loss)
#
# which counts the directions that the noise has not yet drowned. On the training images this must come out
# exactly, up to the chance in the noise; on test images it can only be approached.


# %%
def denoising_loss(model, images, sigma, seed):
    """Mean squared error of a denoiser on freshly noised images, in units of σ²."""
    noise = torch.randn(images.shape, generator=seeded(seed))
    error = (
        (model(images + sigma * noise, sigma) - images)
        .flatten(1)
        .square()
        .sum(1)
    )
    return error.mean().item() / sigma**2


full = {}
for sigma in SIGMAS:
    theory = (spectrum / (spectrum + sigma**2)).sum().item()
    on_train, on_test = (
        torch.tensor(
            [denoising_loss(gaussian, images, sigma, seed) for seed in SEEDS]
        )
        for images in (train, test)
    )
    full[sigma] = on_test
    print(
        f"σ = {sigma:<4g} theory {theory:5.2f}"
        f"   training images {on_train.mean():5.2f} ± {on_train.std():.2f}"
        f"   test images {on_test.mean():5.2f} ± {on_test.std():.2f}"
    )
    assert abs(on_train.mean() / theory - 1) < 0.01
    assert on_test.mean() / theory < 1.05


# %%
def subset_loss(n, sigma, seed):
    chosen = torch.randperm(len(train), generator=seeded(seed))[:n]
    return denoising_loss(gt.Gaussian.fit(train[chosen]), test, sigma, seed)


excess = {
    sigma: torch.tensor(
        [[subset_loss(n, sigma, seed) for n in SIZES] for seed in SEEDS]
    )
    / full[sigma][:, None]
    - 1
    for sigma in SIGMAS
}
at_100 = {sigma: excess[sigma][:, SIZES.index(100)] for sigma in SIGMAS}
for sigma, values in at_100.items():
    print(
        f"σ = {sigma:<4g} 100 images cost {values.mean():.0%} ± {values.std():.0%} more"
    )
assert at_100[1.0].max() < at_100[0.1].min()
assert at_100[1.0].max() < 0.1

# %% mystnb={"figure": {"caption": "How much worse a Gaussian fitted to n images denoises unseen digits than one fitted to all 1,437, on the same noise (mean of five draws; bars: one standard deviation). At high noise a hundred images are nearly as good as all. Low noise needs the small variances, and those need more images.", "name": "fig-how-many"}, "image": {"alt": "Three falling lines on logarithmic axes, one for each noise level. The line for high noise is lowest; all reach a few percent or less at several hundred images."}}
fig, ax = plt.subplots(figsize=(7, 3))
colors = plt.get_cmap(figures.LEVELS)(
    torch.linspace(0, 0.85, len(SIGMAS)).numpy()
)
for (sigma, values), color in zip(excess.items(), colors):
    ax.errorbar(
        SIZES,
        values.mean(0),
        values.std(0),
        marker="o",
        ms=4,
        color=color,
        label=f"σ = {sigma:g}",
    )
ax.set(
    xscale="log",
    yscale="log",
    xlabel="training images n",
    ylabel="excess error on test images",
)
ax.set_xticks(SIZES, SIZES)
ax.minorticks_off()
ax.legend()
plt.show()

# %% [markdown]
# ## What the Gaussian draws
#
# Now let it draw. Samples from $\mathcal N(\mu, \Sigma)$ have the mean and the covariance of digits, and nothing else.

# %%
samples = gaussian.sample(len(train), generator=seeded(0))
scale = gaussian.covariance.norm()
distance = (
    gt.Gaussian.fit(samples).covariance - gaussian.covariance
).norm() / scale
by_chance = (
    (gaussian.total_variance**2 + scale**2) / len(samples)
).sqrt() / scale
print(f"covariance of the samples: {distance:.1%} from the digits'")
print(f"chance alone makes it {by_chance:.1%}")
assert distance < 1.3 * by_chance
outside = (samples.abs() > 1).double().mean().item()
blank = (train == -1).double().mean().item()
print(
    f"{outside:.0%} of the samples' pixels lie outside [-1, 1], where no image can be"
)
print(f"{blank:.0%} of the digits' pixels are exactly blank")
assert outside > 0.2
assert blank > 0.4

# %% mystnb={"figure": {"caption": "Top left: real digits. Top right: samples of the Gaussian with their mean and covariance. Ink is where digits have ink, strokes have a digit's thickness, but hardly any sample is a digit. Bottom: pixel values of both; images can only be within the grey band.", "name": "fig-samples"}, "image": {"alt": "Top left, a grid of legible handwritten digits. Top right, a grid of smudges with the same overall shape. Bottom, two histograms: the digits' has a tall spike at minus one, the samples' reaches far beyond both ends of the range."}}
fig, axes = plt.subplot_mosaic(
    [["digits", "samples"], ["values", "values"]],
    figsize=(7, 4.4),
    height_ratios=(1.6, 1),
)
for name, images, color in (
    ("digits", train, "data"),
    ("samples", samples, "gaussian"),
):
    figures.image_grid(axes[name], images[:N_SHOWN], columns=8)
    axes[name].set_title(name)
    axes["values"].hist(
        images.flatten().numpy(),
        bins=torch.linspace(
            -2.5625, 2.5625, 42
        ).numpy(),  # centred on the digits' 17 levels
        density=True,
        log=True,
        histtype="step",
        color=figures.COLORS[color],
        label=name,
    )
axes["values"].axvspan(-1, 1, color="0.93", zorder=0)
axes["values"].set(xlabel="pixel value", ylabel="density")
axes["values"].legend()
plt.show()

# %% [markdown]
# ## From noise to a blurred digit, in closed form
#
# [Chapter 2](02_gaussian_model.ipynb) gave the whole path from noise to sample as a formula, and with it what the denoiser
# shows on the way. Nothing in it was special to the plane. Here it is on images: no network, no solver, one line of code
# for each noise level.

# %%
start = SIGMA_MAX * torch.randn(2, *gaussian.event_shape, generator=seeded(11))
shown = [80.0, 20.0, 8.0, 4.0, 2.0, 1.0, 0.5, 0.2, 0.05, 0.0]
states = torch.stack(
    [gaussian.flow(start, SIGMA_MAX, sigma) for sigma in shown]
)
opinions = torch.stack(
    [gaussian(state, sigma) for state, sigma in zip(states, shown)]
)

# %% mystnb={"figure": {"caption": "Two closed-form paths. Odd rows: the state, divided by √(1 + σ²) to keep its contrast. Even rows: the denoised image at that moment. It starts as the mean digit, decides on the broad strokes between σ = 4 and 1, when the state is still mostly noise to the eye, and fills in detail after.", "name": "fig-digit-path"}, "image": {"alt": "Four rows of ten small images. In the first and third row noise turns into a smudged digit-like shape from left to right; in the second and fourth a smooth blurred blob gains structure from left to right and ends as the same shape."}}
fig, axes = plt.subplots(4, len(shown), figsize=(7, 3.1))
for column, sigma in enumerate(shown):
    axes[0, column].set_title(f"{sigma:g}", fontsize="small")
    for example in range(2):
        for row, image in (
            (0, states[column] / math.sqrt(1 + sigma**2)),
            (1, opinions[column]),
        ):
            figures.image_grid(
                axes[2 * example + row, column],
                image[example : example + 1],
                columns=1,
            )
fig.suptitle("noise level σ", fontsize="small")
plt.show()

# %% [markdown]
# The order of events follows the spectrum: component $k$ of the denoised image is half way to its final value at
# $\sigma = \sqrt{3\lambda_k}$. Let us measure that on the path, and let a solver with ordinary step sizes confirm the
# end point.

# %%
levels = torch.logspace(math.log10(SIGMA_MAX), -3, 3000)
along = torch.stack(
    [gaussian(gaussian.flow(start, SIGMA_MAX, s), s) for s in levels]
)
amounts = (along - gaussian.mean).flatten(2) @ gaussian.basis[:, :20]
half_way = levels[(amounts / amounts[-1] - 0.5).abs().argmin(0)].mean(0)
predicted = (3 * spectrum[:20]).sqrt()
deviation = (half_way / predicted - 1).abs().max().item()
print(
    f"half-way noise levels of 20 components: within {deviation:.2%} of √(3λ)"
)
assert deviation < 0.01

heun = list(gt.samplers.heun(gaussian, start, gt.karras_sigmas(18)))[-1].x
error = (
    (heun - gaussian.flow(start, SIGMA_MAX, 0.0)).square().mean().sqrt().item()
)
print("against the closed form, which calls no denoiser:")
print(f"Heun with 18 steps, 35 calls, is off by {error:.4f} per pixel")
assert error < 0.05

# %% mystnb={"figure": {"caption": "Noise level at which each of the 20 leading components is half way to its final value, measured on the path (dots) and predicted by √(3λ) (line).", "name": "fig-order"}, "image": {"alt": "Dots that lie on a falling line from about 2.9 for the first component to about 0.7 for the twentieth."}}
fig, ax = plt.subplots(figsize=(7, 2.6))
k = torch.arange(1, 21)
ax.plot(
    k, predicted, color=figures.COLORS["gaussian"], label="predicted, √(3λ)"
)
ax.plot(
    k, half_way, "o", ms=4, color=figures.COLORS["numerical"], label="measured"
)
ax.set(
    xlabel="component k",
    ylabel="half-way noise level σ",
    xticks=[1, 5, 10, 15, 20],
)
ax.legend()
plt.show()

# %% [markdown]
# ## What we saw
#
# - The digits' covariance is dominated by a few broad patterns; its spectrum bends, it is no power law.
# - At high noise, a hundred images are enough for a Gaussian that denoises unseen digits nearly as well as one from all.
# - Its samples have the digits' mean and covariance and are not digits. What is missing is everything beyond second moments.
# - Its closed-form path goes from the mean image through broad strokes to detail, in the order of the variances.
#
# [The paper](https://arxiv.org/abs/2412.09726) computes these statistics for MNIST, CIFAR-10 and faces, and finds that trained
# networks follow the Gaussian path until the strokes are decided. MNIST and CIFAR-10 join this chapter with the networks.
#
# ## Exercises
#
# **1. One Gaussian for each digit.** Fit ten Gaussians, one for each class, and draw from each. Do they look better? Is the
# mixture's density of test digits higher than the single Gaussian's? (Noise everything a little, $\sigma = 0.3$, so
# that the densities exist.)

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution", "figure": {"caption": "Samples of ten Gaussians, one fitted to each class of digits, a column each.", "name": "fig-class-gaussians"}, "image": {"alt": "A grid with ten columns of blurred shapes that can be read as the digits zero to nine."}}
labels = gt.datasets.load(DATASET, "train").labels
classes = [gt.Gaussian.fit(train[labels == digit]) for digit in range(10)]
drawn = torch.stack([g.sample(4, generator=seeded(0)) for g in classes], dim=1)
fig, ax = plt.subplots(figsize=(7, 2.9))
figures.image_grid(ax, drawn.flatten(0, 1), columns=10)
plt.show()

weights = torch.bincount(labels) / len(labels)
noisy = test + 0.3 * torch.randn(test.shape, generator=seeded(1))
by_class = (
    torch.stack([g.log_prob(noisy, 0.3) for g in classes])
    + weights.log()[:, None]
)
gain = (by_class.logsumexp(0) - gaussian.log_prob(noisy, 0.3)).mean().item()
print(
    f"the mixture gives test digits {gain:.1f} nats more than the single Gaussian"
)
assert gain > 1

# %% [markdown]
# **2. Fewer components.** Keep only the 10 leading components (`gaussian.truncate(10)`) and measure the denoising loss on
# test images, with the discarded variance as an isotropic tail and without it (`"drop"`). At which noise levels does the
# tail matter?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
kept, dropped = gaussian.truncate(10), gaussian.truncate(10, "drop")
loss = {}
for sigma in (0.1, 0.3, 1.0, 3.0):
    loss[sigma] = [
        denoising_loss(model, test, sigma, 0)
        for model in (gaussian, kept, dropped)
    ]
    whole, with_tail, without = loss[sigma]
    print(
        f"σ = {sigma:<4g} full {whole:5.2f}"
        f"   rank 10 with tail {with_tail:5.2f}   without {without:6.2f}"
    )
assert loss[0.1][2] > 5 * loss[0.1][1]
assert loss[3.0][2] < 1.1 * loss[3.0][0]
# At high noise the discarded directions are drowned and nobody misses them. At low
# noise a model without a tail flattens every image onto ten patterns: an error that
# does not shrink with σ.

# %% [markdown]
# **3. Is it the eyes?** Shuffle the pixels of all digits by one fixed permutation. Which numbers of this chapter change?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
order = torch.randperm(gaussian.dim, generator=seeded(2))
shuffled = gt.Gaussian.fit(train.flatten(1)[:, order].reshape(train.shape))
difference = (shuffled.variances - spectrum).abs().max().item()
print(f"largest change of the spectrum: {difference:.0e}")
assert difference < 1e-12
# None. A permutation is a rotation, and everything here depends on the spectrum alone.
# The Gaussian knows which pixels are neighbours through their covariance only.
