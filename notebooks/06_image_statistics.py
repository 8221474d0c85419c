# %% [markdown]
# # 6 · Image statistics
#
# Part I solved the Gaussian model in the plane. An image is a point too: an 8×8 digit is a point in 64 dimensions, and a
# set of digits is a cloud. This chapter asks what the mean and the covariance of that cloud know:
#
# > *If a model has seen nothing of the images but their mean and covariance, what can it draw?*
#
# The answer matters because at high noise, as the next chapters will show, that is most of what a trained network uses.
#
# We work with the 1,797 handwritten digits that come inside scikit-learn, so nothing has to be downloaded. Statistics are
# computed from the first 1,437, and tested on the last 360. At the end, MNIST and CIFAR-10 join.

# %% tags=["parameters"] fast={"SEEDS": [0, 1], "SIZES": [20, 100, 400]}
DATASET = "digits"
N_SHOWN = 48  # images in the side-by-side figure
SIZES = [5, 10, 20, 50, 100, 200, 400, 800]  # numbers of images to fit with
SIGMAS = [0.1, 0.3, 1.0, 3.0]  # noise levels at which fits are judged
SIGMA_MAX = 80.0
SEEDS = [0, 1, 2, 3, 4]

# %%
import math

import matplotlib.pyplot as plt
import torch

import gausstools as gt
from gausstools import figures, shipped

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
print(f"total variance {total:.2f}, that is {total / gaussian.dim:.3f} per pixel")
assert (len(train), len(test), gaussian.dim) == (1437, 360, 64)

# %% [markdown]
# ## Mean and principal components
#
# `Gaussian.fit` has already done the work: it accumulated the mean $\mu$ and the covariance $\Sigma$, and took the
# eigenpairs $(\lambda_k, u_k)$ of $\Sigma$. For images the eigenvectors are called **principal components**, and each is
# an image itself: a pattern of ink that comes and goes as one. $\lambda_k$ is the variance of its amount. (Pixels run from
# $-1$, blank paper, to 1, full ink.)

# %% mystnb={"figure": {"caption": "The mean digit (first; black is blank paper) and the 15 leading principal components, each scaled to its largest absolute value (grey is zero; the sign is a convention).", "name": "fig-components"}, "image": {"alt": "A grid of 16 small pictures. The first is a blurred vertical blob on black. The others show light and dark patches on grey, broad in the first ones and smaller in the last."}}
components = gaussian.basis.T.reshape(-1, *gaussian.event_shape)[:15]
components = components / components.abs().amax((1, 2, 3), keepdim=True)
fig, ax = plt.subplots(figsize=(7, 1.9))
figures.image_grid(ax, torch.cat([gaussian.mean[None], components]), columns=8)
plt.show()

# %% [markdown]
# Finer patterns tend to vary less. The roughness of a component, the summed squared difference between neighbouring pixels,
# shows it on the whole, if not from one component to the next:

# %%
patterns = gaussian.basis.T.reshape(-1, 8, 8)
down, across = patterns.diff(dim=1), patterns.diff(dim=2)
roughness = down.square().sum((1, 2)) + across.square().sum((1, 2))
by_tens = roughness[:40].reshape(4, 10).mean(1)
for tens, mean in enumerate(by_tens):
    print(f"components {10 * tens + 1} to {10 * tens + 10}: {mean:.1f}")
assert (by_tens.diff() > 0).all()

# %% [markdown]
# ## The spectrum
#
# How fast do the variances fall? The spectrum says how many patterns a set of images is made of.

# %%
share = spectrum.cumsum(0) / spectrum.sum()
count = {goal: int((share < goal).sum()) + 1 for goal in (0.5, 0.9, 0.99)}
for goal, k in count.items():
    print(f"{k:2d} of {gaussian.dim} components hold {goal:.0%} of the variance")
silent = int((spectrum == 0).sum())
print(f"{silent} directions have no variance at all")
assert (count[0.5], count[0.9], silent) == (5, 21, 3)
assert (spectrum < 3e-4).sum() == 9  # these lie below the next figure's frame

# %% [markdown]
# The spectra of photographs are known to be close to a power law, $\lambda_k \propto k^{-\alpha}$, a straight line on
# logarithmic axes. Is it so for these digits? We fit the exponent $\alpha$ on two ranges; a power law has the same on both.
# For the error we draw the training images anew, with replacement, and fit again (the bootstrap).


# %%
def exponent(variances, first, last):
    """Negative slope of ln λ against ln k over components first…last."""
    k = torch.arange(first, last + 1).log()
    line = torch.stack([k, torch.ones_like(k)], dim=1)
    slope, _ = torch.linalg.lstsq(line, variances[first - 1 : last].log()).solution
    return -slope.item()


def redrawn(seed):
    return train[torch.randint(len(train), (len(train),), generator=seeded(seed))]


ranges = [(3, 15), (16, 40)]
spectra = [gt.Gaussian.fit(redrawn(seed)).variances for seed in range(20)]
alphas = torch.tensor([[exponent(v, *r) for v in spectra] for r in ranges])
for (first, last), alpha in zip(ranges, alphas):
    fitted = exponent(spectrum, first, last)
    print(f"components {first:2d} to {last}: α = {fitted:.2f} ± {alpha.std():.2f}")
assert alphas[1].min() > alphas[0].max()

# %% mystnb={"figure": {"caption": "Spectrum of the digits. Left: variance of each component on logarithmic axes (the nine smallest, three of them zero, lie below the frame), with power laws fitted to components 3–15 and 16–40. The spectrum bends down; no single exponent fits. Right: share of the variance held by the first k components; dotted lines mark 50, 90 and 99 %.", "name": "fig-spectrum"}, "image": {"alt": "Left, a falling curve of dots that starts flat, then bends down more and more steeply; two lines of different slopes follow its parts. Right, a curve that rises steeply and levels off at one."}}
fig, (left, right) = plt.subplots(1, 2, figsize=(7, 3))
k = torch.arange(1, gaussian.dim + 1)
left.loglog(k, spectrum, "o", ms=3, color=figures.COLORS["data"])
for (first, last), name in zip(ranges, ("first", "second")):
    inside, alpha = k[first - 1 : last].double(), exponent(spectrum, first, last)
    level = (spectrum[first - 1 : last].log() + alpha * inside.log()).mean().exp()
    line = level * inside**-alpha
    left.loglog(inside, line, color=figures.COLORS[name], label=f"α = {alpha:.2f}")
left.set(xlabel="component k", ylabel="variance $λ_k$", ylim=(3e-4, 6))
left.legend()
right.plot(k, share, color=figures.COLORS["data"])
for goal, at in count.items():
    right.plot(
        [0, at, at], [goal, goal, 0], ":", lw=1, color=figures.COLORS["gaussian"]
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
# A covariance of $d = 64$ dimensions has $d(d+1)/2 = 2080$ free entries. Do we need thousands of images? The fair judge is
# the job that the model has to do: denoise images that it has *not* seen. In units of $\sigma^2$, the expected error of the
# Gaussian denoiser on its own data is
#
# $$
# \begin{aligned}
# \frac{1}{\sigma^2}\,\mathbb E\,\|D(x_\sigma,\sigma) &- x_0\|^2 \\
# &= \sum_k \frac{\lambda_k}{\lambda_k+\sigma^2},
# \end{aligned}
# $$ (eq-denoising-loss)
#
# which counts the directions that the noise has not yet drowned ([proof](91_proofs.ipynb#the-gaussian-denoiser-is-the-best-affine-one)). On the training images this must come out, up to chance in
# the noise. On test images nothing guarantees it.


# %%
def denoising_loss(model, images, sigma, seed):
    """Mean squared error of a denoiser on freshly noised images, in units of σ²."""
    noise = torch.randn(images.shape, generator=seeded(seed))
    error = (model(images + sigma * noise, sigma) - images).flatten(1)
    return error.square().sum(1).mean().item() / sigma**2


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
        f"  train {on_train.mean():5.2f} ± {on_train.std():.2f}"
        f"  test {on_test.mean():5.2f} ± {on_test.std():.2f}"
    )
    assert abs(on_train.mean() / theory - 1) < 0.01
    assert on_test.mean() / theory < 1.05

# %% [markdown]
# On unseen images the Gaussian of all 1,437 does nearly as well as on its own. Now fit it to fewer.
#
# > **Predict.** Fitted to 100 images only, is its error on unseen digits about twice as large, larger by a fifth, or larger by
# > a fiftieth? Answer for much noise, $\sigma = 3$, and for little, $\sigma = 0.1$.


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
        f"σ = {sigma:<4g} 100 images cost {values.mean():.0%} ±"
        f" {values.std():.0%} more"
    )
assert abs(at_100[3.0].mean() - 1 / 50) < 0.01
assert abs(at_100[0.1].mean() - 1 / 5) < 0.05
assert all(values[:, -1].mean() < 0.01 for values in excess.values())

# %% mystnb={"figure": {"caption": "How much worse a Gaussian fitted to n images denoises unseen digits than one fitted to all 1,437, on the same noise (1 means twice the error; mean of five draws, bars of one standard deviation). At high noise a hundred images are nearly as good as all. Low noise needs the small variances, and those need more images.", "name": "fig-how-many"}, "image": {"alt": "Four falling lines on logarithmic axes, one for each noise level. The higher the noise, the lower the line; all reach a percent or less at eight hundred images."}}
fig, ax = plt.subplots(figsize=(7, 3))
colors = plt.get_cmap(figures.LEVELS)(torch.linspace(0, 0.85, len(SIGMAS)).numpy())
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
# By a fiftieth at $\sigma = 3$, by a fifth at 0.1. Much noise drowns all but the widest directions, and a hundred images know
# those.
#
# ## What the Gaussian draws
#
# Now let it draw. Samples from $\mathcal N(\mu, \Sigma)$ have the mean and the covariance of digits, and nothing else of them.

# %%
scale = gaussian.covariance.norm()
by_chance = ((total**2 + scale**2) / len(train)).sqrt() / scale


def distance(images):
    """Of their covariance from the digits', relative to its size."""
    return (
        (gt.Gaussian.fit(images).covariance - gaussian.covariance).norm() / scale
    ).item()


draws = [gaussian.sample(len(train), generator=seeded(seed)) for seed in SEEDS]
distances = torch.tensor([distance(images) for images in draws])
print("covariance of as many samples as there are digits, against the digits':")
print(
    f"{distances.mean():.1%} ± {distances.std():.1%} off; chance alone makes"
    f" it {by_chance:.1%}"
)
assert (distances / by_chance - 1).abs().max() < 0.3

outside = torch.tensor([(images.abs() > 1).double().mean() for images in draws])
print(
    f"{outside.mean():.0%} of the samples' pixels lie outside [-1, 1], where"
    " no image can be"
)
assert outside.min() > 0.2

# %% mystnb={"figure": {"caption": "Top left: real digits. Top right: samples of the Gaussian with their mean and covariance, drawn with values outside [-1, 1] as black or white. Ink is where digits have ink, but hardly any sample is a digit. Bottom: pixel values of both, on a logarithmic scale; images can only lie in the grey band (the bins are centred on the 17 grey levels, so the outer ones reach beyond it).", "name": "fig-samples"}, "image": {"alt": "Top left, a grid of legible handwritten digits. Top right, a grid of smudges with the same overall shape. Bottom, two histograms: the digits' stays within the band, with a tall spike at minus one; the samples' reaches far beyond both ends."}}
fig, axes = plt.subplot_mosaic(
    [["digits", "samples"], ["values", "values"]],
    figsize=(7, 4.4),
    height_ratios=(1.6, 1),
)
bins = torch.linspace(-2.5625, 2.5625, 42).numpy()  # centred on the grey levels
for name, images, color in (
    ("digits", train, "data"),
    ("samples", draws[0], "gaussian"),
):
    figures.image_grid(axes[name], images[:N_SHOWN], columns=8)
    axes[name].set_title(name)
    axes["values"].hist(
        images.flatten().numpy(),
        bins=bins,
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
# ## From noise to a digit-like shape, in closed form
#
# [Chapter 2](02_gaussian_model.ipynb) gave the whole path from noise to sample as a formula, and with it what the denoiser
# shows on the way. Nothing in it was special to the plane. Here it is on images: no network, no solver, one line of code
# for each noise level.

# %%
start = SIGMA_MAX * torch.randn(2, *gaussian.event_shape, generator=seeded(11))
shown = [80.0, 20.0, 8.0, 4.0, 2.0, 1.0, 0.5, 0.2, 0.05, 0.0]
states = torch.stack([gaussian.flow(start, SIGMA_MAX, sigma) for sigma in shown])
opinions = torch.stack(
    [gaussian(state, sigma) for state, sigma in zip(states, shown)]
)

# %% mystnb={"figure": {"caption": "Two closed-form paths. The state is divided by √(1 + σ²) to keep its contrast. The denoised image starts as the mean digit, decides on the broad strokes between σ = 4 and 1, earlier than the eye finds them in the state, and fills in detail after.", "name": "fig-digit-path"}, "image": {"alt": "Four rows of ten small images. In the first and third row noise turns into a smudged digit-like shape from left to right; in the second and fourth a smooth blurred blob gains structure from left to right and ends as the same shape."}}
fig, axes = plt.subplots(4, len(shown), figsize=(7, 3.1))
for column, sigma in enumerate(shown):
    pair = torch.stack(
        [states[column] / math.sqrt(1 + sigma**2), opinions[column]], 1
    )
    for ax, image in zip(axes[:, column], pair.flatten(0, 1)):
        figures.image_grid(ax, image[None], columns=1)
    axes[0, column].set_title(
        f"σ = {sigma:g}" if column == 0 else f"{sigma:g}", fontsize="small"
    )
for ax, name in zip(axes[:, 0], 2 * ("state", "denoised")):
    ax.text(-1.2, 3.5, name, rotation=90, ha="right", va="center", fontsize="small")
plt.show()

# %% [markdown]
# The order of events follows the spectrum: component $k$ of the denoised image should be half way to its final value at
# $\sigma = \sqrt{3\lambda_k}$. We ask a witness who knows no formula: Heun's method with small steps, which yields what the
# denoiser answered on the way. With ordinary steps it also tells what the usual way to sample would have cost.

# %%
levels = torch.logspace(math.log10(SIGMA_MAX), -3, 2001)
along = [state.denoised for state in gt.samplers.heun(gaussian, start, levels)]
amounts = (torch.stack(along) - gaussian.mean).flatten(2) @ gaussian.basis[:, :20]
half_way = levels[(amounts / amounts[-1] - 0.5).abs().argmin(0)].mean(0)
predicted = (3 * spectrum[:20]).sqrt()
deviation = (half_way / predicted - 1).abs().max().item()
print(f"half-way noise levels of 20 components: within {deviation:.2%} of √(3λ)")
assert deviation < 0.01
assert [round(predicted[k].item(), 1) for k in (0, 19)] == [2.9, 0.7]


def heun_error(seed):
    noise = SIGMA_MAX * torch.randn(
        64, *gaussian.event_shape, generator=seeded(seed)
    )
    end = list(gt.samplers.heun(gaussian, noise, gt.karras_sigmas(18)))[-1].x
    return (end - gaussian.flow(noise, SIGMA_MAX, 0.0)).square().mean().sqrt()


errors = torch.tensor([heun_error(seed) for seed in SEEDS])
print("Heun's method with 18 steps, 35 denoiser calls, misses the end point by")
print(
    f"{errors.mean():.4f} ± {errors.std():.4f} per pixel; the closed form"
    " calls no denoiser"
)
assert errors.max() < 0.05

# %% mystnb={"figure": {"caption": "Noise level at which each of the 20 leading components is half way to its final value: measured on the solver's path (dots) and predicted by √(3λ) (line). Every dot lies on the line.", "name": "fig-order"}, "image": {"alt": "Dots that lie on a falling line from about 2.9 for the first component to about 0.7 for the twentieth."}}
fig, ax = plt.subplots(figsize=(7, 2.6))
k = torch.arange(1, 21)
ax.plot(k, predicted, color=figures.COLORS["gaussian"], label="predicted, √(3λ)")
ax.plot(k, half_way, "o", ms=4, color=figures.COLORS["measured"], label="measured")
ax.set(
    xlabel="component k",
    ylabel="half-way noise level σ",
    xticks=[1, 5, 10, 15, 20],
)
ax.legend()
plt.show()

# %% [markdown]
# ## Larger images
#
# Is any of this special to 8×8 digits? The library ships the mean and the leading eigenpairs of two larger data sets:
# the 60,000 training digits of MNIST, 28×28 pixels, and the 50,000 photographs of CIFAR-10, 32×32 pixels in three colours.
# Statistics show no single image, so they can travel where the images cannot.

# %%
larger = {
    "MNIST": shipped.statistics("mnist").double(),
    "CIFAR-10": shipped.statistics("cifar10").double(),
}
for name, model in larger.items():
    share = model.variances.cumsum(0) / model.total_variance
    needed = [int((share < goal).sum()) + 1 for goal in (0.5, 0.9, 0.99)]
    print(
        f"{name:<8} {model.dim} dimensions; 50, 90 and 99 % of the variance in"
        f" {needed[0]}, {needed[1]} and {needed[2]} components"
    )
    expected = {"MNIST": [11, 87, 331], "CIFAR-10": [4, 94, 558]}
    assert needed == expected[name]
borders = int((larger["MNIST"].variances == 0).sum())
print(f"{borders} directions of MNIST never vary: its borders are always blank")
assert borders > 50

# %% mystnb={"figure": {"caption": "Mean image and the 15 leading principal components of MNIST (first row) and CIFAR-10 (second), each component scaled to its largest absolute value; below, 32 samples of each one's Gaussian, values outside [-1, 1] as black or white. The components of photographs are broad washes of light and of two colours, whatever the photographs show. The Gaussian draws strokes that write nothing, and light and colour that belong to nothing.", "name": "fig-larger"}, "image": {"alt": "Top row: a dark blurred blob and fifteen grey patterns like overlaid pen strokes. Second row: a grey-brown square, then smooth patterns, light in the middle, light below, bluish, orange, then striped. Below, two rows of broken white strokes on black, and two rows of coloured clouds."}}
fig, axes = plt.subplots(4, 1, figsize=(7, 3.2), height_ratios=(1, 1, 2, 2))
for model, above, below in zip(larger.values(), axes[:2], axes[2:]):
    patterns = model.basis.T.reshape(-1, *model.event_shape)[:15]
    patterns = patterns / patterns.abs().amax((1, 2, 3), keepdim=True)
    figures.image_grid(above, torch.cat([model.mean[None], patterns]), columns=16)
    figures.image_grid(below, model.sample(32, generator=seeded(0)), columns=16)
plt.show()

# %% [markdown]
# Photographs come closer to a power law than digits do: over the components 10 to 100 one exponent fits. Then the spectrum
# bends down too, since a picture of 32 pixels has no details finer than a pixel.

# %% mystnb={"figure": {"caption": "Spectra of the three data sets, the variance of each component divided by the number of pixel values, so that each curve sums to the variance of a pixel value. Grey lines: power laws fitted to the components 10 to 100 of MNIST and CIFAR-10, and to 3 to 15 of the digits, shifted up by a factor of 2 to be seen.", "name": "fig-three-spectra"}, "image": {"alt": "Three falling curves on logarithmic axes. The digits' is the shortest and bends earliest, MNIST's bends near component four hundred, that of CIFAR-10 is nearly straight over two decades."}}
fig, ax = plt.subplots(figsize=(7, 3))
slopes = {}
for (name, model), color in zip(
    {"digits": gaussian, **larger}.items(), ("data", "first", "gaussian")
):
    values = model.variances / model.dim
    first, last = (3, 15) if name == "digits" else (10, 100)
    slopes[name] = exponent(values, first, last)
    k = torch.arange(1, len(values) + 1)
    ax.loglog(
        k,
        values,
        color=figures.COLORS[color],
        label=f"{name}, α = {slopes[name]:.2f}",
    )
    inside = k[first - 1 : last].double()
    level = values[first - 1 : last].log() + slopes[name] * inside.log()
    ax.loglog(
        inside,
        2 * level.mean().exp() * inside ** -slopes[name],
        color="0.4",
        lw=0.9,
    )
ax.set(xlabel="component k", ylabel="variance per pixel value", ylim=(1e-8, 0.3))
ax.legend()
plt.show()

# %%
bends = {
    name: (exponent(model.variances, 10, 100), exponent(model.variances, 100, 300))
    for name, model in larger.items()
}
for name, (early, late) in bends.items():
    print(f"{name:<8} components 10–100: α = {early:.2f}; 100–300: α = {late:.2f}")
assert bends["CIFAR-10"][1] - bends["CIFAR-10"][0] < 0.3
assert 1 < bends["CIFAR-10"][0] < 1.5
assert all(early < late for early, late in bends.values())

# %% [markdown]
# ## How much of a network is this?
#
# That is the question of the next chapters. The paper's authors asked it of the network of
# [Karras et al. 2022](https://arxiv.org/abs/2206.00364) for CIFAR-10, with the Gaussian of its training images:

# %%
published = {
    row["sigma"]: row["score_residual"]
    for row in shipped.published("edm_residuals")
    if row["model"] == "gaussian"
}
for sigma in (0.5, 5.0):
    print(
        f"published, σ = {sigma:<3g} {published[sigma]:.2%} of the score unexplained"
    )
assert round(100 * published[0.5]) == 4
assert round(100 * published[5.0], 2) == 0.04

# %% [markdown]
# ## What we saw
#
# **Shown here.** Half of the digits' variance lies in 5 of 64 patterns, 90 % in 21; the spectrum bends, it is no power law. At
# high noise, a hundred images are enough for a Gaussian that denoises unseen digits nearly as well as one fitted to all. Its
# samples have the digits' mean and covariance and are not digits: what is missing is everything beyond second moments. Its
# closed-form path leads from the mean image through broad strokes to detail, in the order of the variances.
#
# **The paper.** [Wang & Vastola 2024](https://arxiv.org/abs/2412.09726) hold this Gaussian against trained networks. In their
# published table for CIFAR-10, it leaves 4 % of a network's score unexplained at $\sigma = 0.5$, and 0.04 % at $\sigma = 5$.
#
# **The difference.** Most of this chapter is about small grey digits, and no network is involved yet; one joins in
# [the next chapter](07_neural_scores.ipynb). The statistics of CIFAR-10 come from images most of which had been through JPEG, which takes some of the
# finest variance away (the card in `data/statistics.md` says how much).
#
# ## Exercises
#
# **1. One Gaussian for each digit.** Fit ten Gaussians, one for each class, and draw from each. Do they look better? Is the
# mixture's density of test digits higher than the single Gaussian's? (Noise everything a little, $\sigma = 0.3$, so
# that the densities exist.)

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution", "figure": {"caption": "Samples of ten Gaussians, one fitted to each class of digits, a column each, from 0 to 9.", "name": "fig-class-gaussians"}, "image": {"alt": "Ten columns of blurred shapes. Zeros, ones, twos and sixes can be read, others hardly."}}
labels = gt.datasets.load(DATASET, "train").labels
classes = [gt.Gaussian.fit(train[labels == digit]) for digit in range(10)]
drawn = torch.stack([g.sample(4, generator=seeded(0)) for g in classes], dim=1)
fig, ax = plt.subplots(figsize=(7, 2.9))
figures.image_grid(ax, drawn.flatten(0, 1), columns=10)
plt.show()

weights = torch.bincount(labels) / len(labels)
noisy = test + 0.3 * torch.randn(test.shape, generator=seeded(1))
by_class = torch.stack([g.log_prob(noisy, 0.3) for g in classes], dim=1)
mixture = (by_class + weights.log()).logsumexp(1)
gain = mixture - gaussian.log_prob(noisy, 0.3)
error = gain.std() / len(gain) ** 0.5
print(f"the mixture gives a test digit {gain.mean():.1f} ± {error:.1f} nats more")
assert gain.mean() > 5 * error
# Better: some can be read, so part of what one Gaussian lacks is which digit it is.
# The blur remains.

# %% [markdown]
# **2. Fewer components.** Keep only the 10 leading components (`gaussian.truncate(10)`) and measure the denoising loss on
# test images, with the discarded variance as an isotropic tail and without it (`"drop"`). At which noise levels does the
# tail matter?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
kept, dropped = gaussian.truncate(10), gaussian.truncate(10, "drop")
loss = {}
for sigma in (0.1, 0.3, 1.0, 3.0):
    loss[sigma] = [
        denoising_loss(model, test, sigma, 0) for model in (gaussian, kept, dropped)
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


def shuffle(images):
    return images.flatten(1)[:, order].reshape(images.shape)


shuffled = gt.Gaussian.fit(shuffle(train))
difference = (shuffled.variances - spectrum).abs().max().item()
print(f"largest change of the spectrum: {difference:.0e}")
assert difference < 1e-12
assert torch.allclose(shuffled(shuffle(noisy), 0.3), shuffle(gaussian(noisy, 0.3)))
# None, but for chance in the noise. A permutation P is an orthogonal map: μ becomes Pμ
# and Σ becomes PΣPᵀ, the spectrum stays, and the denoiser is shuffled like the images.
# The Gaussian knows which pixels are neighbours through their covariance only. Only the
# roughness of the components changes, and a convolutional network would notice.
