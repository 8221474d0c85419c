# %% [markdown]
# # 9 · Predicting trajectories
#
# A sampler starts from noise and asks a network for directions, dozens of times. The Gaussian of
# [chapter 2](02_gaussian_model.ipynb) needs to be asked once: its path is a formula. So give both the same noise, and
# let them go.
#
# > *How far along the network's own path does the formula lead, and what is still true when it has lost the way?*
#
# This chapter measures it on the three shipped networks. (Their samples are in [an appendix](90_shipped_networks.ipynb).)
# Beside the Gaussian stand two models that know more: a mixture of one Gaussian for each class, and the point cloud, the
# exact score of a training set.

# %% tags=["parameters"] fast={"SEEDS": 16, "BATCH": 16}
SEEDS = 256  # starting points, for each network
STEPS = 18  # of Heun's method, for every path that needs a solver
SIGMA_MAX = 80.0
SHOWN = 3  # seeds in the first figure
BATCH = 64
CLASS_RANK = 50  # of the class Gaussians of MNIST, fitted to 400 images each
FEATURES = 20  # leading components whose order is measured
DEVICE = None  # of the networks: the GPU if there is one, or "cpu", "cuda", …

# %%
import math

import matplotlib.pyplot as plt
import torch
from tqdm import tqdm

import gausstools as gt
from gausstools import figures, shipped

figures.set_style()
NAMES = {"digits": "digits", "mnist": "MNIST", "cifar10": "CIFAR-10"}
SIGMAS = gt.karras_sigmas(STEPS, sigma_max=SIGMA_MAX)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


# %% [markdown]
# ## The travellers
#
# The networks and the statistics of their training images come with the library. For the digits and for MNIST there are
# images too (of MNIST, 4,000 of the 60,000 training digits), from which we make the class mixture and the point cloud. Of
# CIFAR-10 no image is shipped, so there the Gaussian stands alone.


# %%
def class_mixture(images, labels, rank=None):
    """One Gaussian for each class, weighted by how common the class is."""
    family = gt.Gaussian.fit_classes(images, labels, rank)
    counts = torch.bincount(labels).float()
    return gt.Mixture(counts / counts.sum(), list(family.values()))


networks = {name: gt.pretrained.load(name, device=DEVICE) for name in NAMES}
gaussians = {name: shipped.statistics(name) for name in NAMES}
solved = {name: {} for name in NAMES}  # models whose path needs a solver
for name, rank in (("digits", None), ("mnist", CLASS_RANK)):
    data = gt.datasets.load("mnist-5000" if name == "mnist" else name)
    solved[name]["class mixture"] = class_mixture(data.images, data.labels, rank)
    solved[name]["point cloud"] = gt.PointCloud(data.images)
    print(f"{name}: {len(data)} images for the class mixture and the cloud")


# %%
def heun_path(denoiser, noise):
    """States after each step, and what was answered before it."""
    states = list(gt.samplers.heun(denoiser, noise, SIGMAS))
    return torch.stack([noise, *(s.x for s in states)]), torch.stack(
        [s.denoised for s in states]
    )


def gaussian_path(gaussian, noise):
    """The same for the Gaussian, whose path is a formula."""
    levels = SIGMAS.float()[:, None]
    states = gaussian.flow(noise, SIGMA_MAX, levels)
    answers = [gaussian(x, float(s)) for x, s in zip(states[:-1], SIGMAS)]
    return states, torch.stack(answers)


@torch.no_grad()
def travel(name):
    """All paths from the same noise: states and answers, by traveller."""
    shape = networks[name].event_shape
    noise = SIGMA_MAX * torch.randn(SEEDS, *shape, generator=seeded(0))
    parts = noise.split(BATCH)
    paths = {"network": [], "Gaussian": []} | {model: [] for model in solved[name]}
    for part in tqdm(parts, desc=name):
        paths["network"].append(heun_path(networks[name], part))
        paths["Gaussian"].append(gaussian_path(gaussians[name], part))
        for model, denoiser in solved[name].items():
            paths[model].append(heun_path(denoiser, part))
    return {
        model: tuple(torch.cat(pieces, 1) for pieces in zip(*found))
        for model, found in paths.items()
    }


paths = {name: travel(name) for name in NAMES}

# %% mystnb={"figure": {"caption": "Three seeds on MNIST. In each block the first row is what the network believes the final image to be, step by step from σ = 80 (left) to the end (right; the numbers on top are σ); the rows below are what the Gaussian, the class mixture and the point cloud believe on their own paths from the same noise. Until σ is about 8 the rows show the same image. Then the network, the mixture and the cloud write a digit, each its own or the same one, and the Gaussian a blur in its place.", "name": "fig-beliefs"}, "image": {"alt": "Three blocks of four rows of small pictures. On the left all four rows show the same soft bright blob; toward the right the first, third and fourth row of each block sharpen into digits, often the same one, while the second becomes a smudge."}}
columns = [0, 4, 6, 7, 8, 9, 10, 11, 12, 14, 17]
fig, axes = plt.subplots(SHOWN, 1, figsize=(7, 2.65 * SHOWN))
for seed, ax in enumerate(axes):
    rows = [answers[columns, seed] for _, answers in paths["mnist"].values()]
    figures.image_grid(ax, torch.cat(rows), columns=len(columns))
    for row, model in enumerate(paths["mnist"]):
        ax.text(-3, 29 * row + 14, model, ha="right", va="center", fontsize=7)
    if seed == 0:
        for column, step in enumerate(columns):
            ax.text(
                29 * column + 14,
                -4,
                f"{SIGMAS[step]:.2g}",
                ha="center",
                fontsize=7,
            )
plt.show()

# %% [markdown]
# ## How long is the formula right?
#
# Follow both states down, $x_\sigma$ of the network and $\hat x_\sigma$ of a model, and measure their distance relative to the
# network's state, $|\hat x_\sigma - x_\sigma|/|x_\sigma|$. The state is mostly noise at first, and both carry the same noise.
# So ask about the harder thing too: the *denoised* images $D$, which have no noise in them.


# %%
def relative(mine, theirs):
    """Distance over the network's own length: (levels, seeds)."""
    return (mine - theirs).flatten(2).norm(dim=2) / theirs.flatten(2).norm(dim=2)


def deviations(name, model):
    (states, answers), (true_states, true_answers) = (
        paths[name][model],
        paths[name]["network"],
    )
    return relative(states[1:], true_states[1:]), relative(answers, true_answers)


off = {
    name: {
        model: deviations(name, model)
        for model in paths[name]
        if model != "network"
    }
    for name in NAMES
}

# %% [markdown]
# > **Predict.** The point cloud has the exact score of the training images, and of nothing else. From the same noise, does its
# > path end nearer to the network's image than the Gaussian's path, or farther away?

# %% mystnb={"figure": {"caption": "Distance of each model's path from the network's, relative to the network's: state (top) and denoised image (bottom); lines are means over 256 seeds, bands hold four fifths of the seeds. The Gaussian's state stays within a hundredth of the network's down to σ = 8 on every data set. Only the class mixture of the digits does clearly better at the end; the point cloud does worse.", "name": "fig-deviation"}, "image": {"alt": "Two rows of three panels, one for each data set. States leave zero near noise level 3 and level off at a third to a half; the point cloud's is the highest at the end. Denoised images do the same for the digits and MNIST. For CIFAR-10 the denoised image is off by two fifths already at the highest noise."}}
MODEL_COLORS = {
    "Gaussian": figures.COLORS["gaussian"],
    "class mixture": figures.COLORS["first"],
    "point cloud": figures.COLORS["second"],
}
fig, axes = plt.subplots(2, 3, figsize=(7, 4.4), sharex=True, sharey="row")
for column, name in enumerate(NAMES):
    for model, (states, answers) in off[name].items():
        for ax, levels, values in (
            (axes[0, column], SIGMAS[1:-1], states[:-1]),
            (axes[1, column], SIGMAS[:-1], answers),
        ):
            color = MODEL_COLORS[model]
            low, high = values.quantile(torch.tensor([0.1, 0.9]), dim=1)
            ax.semilogx(levels, values.mean(1), color=color, label=model)
            ax.fill_between(levels, low, high, color=color, alpha=0.15, lw=0)
    axes[0, column].set_title(NAMES[name])
    axes[1, column].set_xlabel("noise level σ")
axes[0, 0].set_ylabel("state, off by")
axes[1, 0].set_ylabel("denoised, off by")
axes[0, 0].invert_xaxis()
axes[0, 0].legend(fontsize="small")
plt.show()

# %%
print("distance of the Gaussian's state, relative; mean over seeds, worst seed")
for name in NAMES:
    states = off[name]["Gaussian"][0]
    for step in (4, 6, 8):  # states after so many of the 18 steps
        sigma = float(SIGMAS[step])
        print(
            f"{name:<8} after {step} of {STEPS} steps, σ = {sigma:5.2f}:"
            f" {states[step - 1].mean():.4f}, {states[step - 1].max():.4f}"
        )
    assert states[4 - 1].max() < 0.01
    assert states[6 - 1].mean() < 0.01
    assert states[6 - 1].max() < 0.03
    assert states[-1].mean() > 0.1
print("denoised image at σ = 80 and at the end, off by (mean over seeds)")
for name in NAMES:
    for model, (_, answers) in off[name].items():
        print(
            f"{name:<8} {model:<13} {answers[0].mean():.2f} {answers[-1].mean():.2f}"
        )
for name in ("digits", "mnist"):
    last = {model: answers[-1].mean() for model, (_, answers) in off[name].items()}
    assert last["point cloud"] > last["Gaussian"]
    at_end = paths[name]["point cloud"][0][-1].flatten(1)
    training = solved[name]["point cloud"].data.flatten(1)
    assert torch.cdist(at_end, training).amin(1).max() < 0.1
assert 0.3 < off["cifar10"]["Gaussian"][1][0].mean() < 0.5
assert off["digits"]["Gaussian"][1][0].mean() < 0.1
assert off["mnist"]["Gaussian"][1][0].mean() < 0.1

# %% [markdown]
# Farther, on the digits and on MNIST. Its paths end *on* a training image, and the network's do not. To know more about the
# training images is not to know more about the network.
#
# One number looks wrong. On CIFAR-10 the denoised images are two fifths apart from the start, where all is noise. That is the
# network's own error at the highest noise ([chapter 8](08_cifar10_scores.ipynb#fig-who-denoises)). It hardly moves the state,
# which is a hundred times larger there than any image.
#
# ## Where they end
#
# The last states are images. The usual measure is the squared difference of a pixel value on images in $[0, 1]$, averaged
# over pixels and seeds. For scale, the same between two samples of the network from *different* noise ("another seed").


# %%
def error(mine, theirs):
    """Mean squared difference per pixel value on [0, 1], for each seed."""
    mine, theirs = (x.clamp(-1, 1) / 2 for x in (mine, theirs))
    return (mine - theirs).square().flatten(1).mean(1)


ends = {}
for name in NAMES:
    final = paths[name]["network"][0][-1]
    ends[name] = {
        model: error(states[-1], final)
        for model, (states, _) in paths[name].items()
        if model != "network"
    } | {"another seed": error(final.roll(1, 0), final)}
    for model, values in ends[name].items():
        print(
            f"{name:<8} {model:<13} {values.mean():.4f}"
            f" ± {values.std() / math.sqrt(SEEDS):.4f}"
        )
    assert ends[name]["Gaussian"].mean() < 0.5 * ends[name]["another seed"].mean()
for name in ("digits", "mnist"):
    assert ends[name]["point cloud"].mean() > ends[name]["Gaussian"].mean()
mixture_ends = {
    name: ends[name]["class mixture"].mean() for name in solved if solved[name]
}
assert mixture_ends["digits"] < 0.85 * ends["digits"]["Gaussian"].mean()
assert abs(mixture_ends["mnist"] / ends["mnist"]["Gaussian"].mean() - 1) < 0.15

# %% [markdown]
# The Gaussian's image is far nearer to the network's than another of the network's own. A Gaussian for each class comes nearer
# on the digits, hardly on MNIST, and the point cloud is the farthest of the three. The paper measured the same on the network of
# [Karras et al. 2022](https://arxiv.org/abs/2206.00364), for CIFAR-10: 0.0130 for the Gaussian, 0.0118 for the class mixture,
# 0.0473 for the point cloud.

# %%
compared = figures.BesidePaper(
    [
        (
            "CIFAR-10, Gaussian's final sample against the network's, MSE on"
            " [0, 1]",
            0.0130,
            ends["cifar10"]["Gaussian"].mean().item(),
            ends["cifar10"]["Gaussian"].std().item() / math.sqrt(SEEDS),
        )
    ],
    "published.md",
)
assert 0.4 < compared.entries[0].ratio < 0.6
compared

# %% [markdown]
# ## What is still true at the end
#
# A single number hides what kind of error this is. Write both final images in the principal components of the data, and ask
# of each component how well the Gaussian predicted the network's coordinate: the correlation over the 256 seeds.


# %%
def coordinates(name, images):
    """Coordinates along the principal components: (seeds, components)."""
    gaussian = gaussians[name]
    return (images - gaussian.mean).flatten(1) @ gaussian.basis


def correlation(a, b):
    a, b = (values - values.mean(0) for values in (a, b))
    return (a * b).sum(0) / (a.norm(dim=0) * b.norm(dim=0)).clamp(min=1e-12)


predicted = {
    name: correlation(
        *(coordinates(name, paths[name][m][0][-1]) for m in ("Gaussian", "network"))
    )
    for name in NAMES
}
for name, values in predicted.items():
    print(
        f"{name:<8} correlation of components 1 to 5: {values[:5].mean():.2f},"
        f" 31 to 40: {values[30:40].mean():.2f}"
    )
    assert values[:5].mean() > 0.7
for name in ("digits", "mnist"):
    assert predicted[name][:5].mean() > predicted[name][30:40].mean()

# %% mystnb={"figure": {"caption": "Correlation over 256 seeds between the coordinate that the Gaussian predicts from the noise alone and the one that the network's sample has, for each of the leading principal components. Of digits the formula foresees best what varies most. Of photographs, as this network draws them, it foresees nearly all.", "name": "fig-predicted-components"}, "image": {"alt": "Three noisy curves that start between 0.7 and 1 for the first components and fall for the digits and MNIST, and stay high for CIFAR-10."}}
fig, ax = plt.subplots(figsize=(7, 2.8))
tones = ("data", "first", "gaussian")
for (name, values), color in zip(predicted.items(), tones):
    shown = values[: 60 if name == "digits" else 300]
    ax.semilogx(
        range(1, len(shown) + 1),
        shown,
        color=figures.COLORS[color],
        lw=1.2,
        label=NAMES[name],
    )
ax.axhline(0, color=figures.COLORS["noise"], lw=0.8)
ax.set(xlabel="principal component", ylabel="correlation")
ax.legend()
plt.show()

# %% [markdown]
# ## Do features appear in order, on the network?
#
# For the Gaussian, component $k$ of the denoised image has half its final size at $\sigma = \sqrt{3\lambda_k}$
# ([chapter 3](03_predictions.ipynb)). A network need not keep to that. Let $c_{ik}(\sigma)$ be the coordinate of seed $i$'s
# denoised image along component $k$. The share of component $k$ that stands at level $\sigma$ is the slope of a regression,
# over the seeds, of the coordinate there on the final one:
#
# $$
# \mathrm{share}_k(\sigma) = \frac{\sum_i c_{ik}(\sigma)\, c_{ik}(0)}{\sum_i c_{ik}(0)^2}.
# $$ (eq-share)


# %%
def half_way(name):
    """Noise level at which the regression on the final coordinate is one half."""
    answers = paths[name]["network"][1]
    along = torch.stack([coordinates(name, x)[:, :FEATURES] for x in answers])
    final = along[-1]
    share = (along * final).sum(1) / final.square().sum(0)
    logs = SIGMAS[:-1].log().float()
    found = []
    for values in share.T:
        after = int((values > 0.5).nonzero()[0])
        low, high = values[after - 1], values[after]
        part = (0.5 - low) / (high - low)
        found.append(
            (logs[after - 1] + part * (logs[after] - logs[after - 1])).exp()
        )
    return torch.stack(found)


def ranks(values):
    return values.argsort().argsort().float()


order = {}
for name in NAMES:
    measured = half_way(name)
    formula = (3 * gaussians[name].variances[:FEATURES]).sqrt()
    order[name] = (formula, measured)
    agreement = correlation(
        ranks(formula)[:, None], ranks(measured)[:, None]
    ).item()
    ratio = measured / formula
    print(
        f"{name:<8} rank correlation {agreement:.2f}; measured/formula"
        f" {ratio.min():.2f} to {ratio.max():.2f}, median {ratio.median():.2f}"
    )
    assert agreement > 0.8
    assert 0.8 < ratio.median() < 1.3

# %% mystnb={"figure": {"caption": "Noise level at which each of the 20 leading components of the denoised image is half way, on the network's paths, against the Gaussian's formula √(3λ). Dots on the line would be a network that is the Gaussian. On CIFAR-10 nearly all are; on the digits and MNIST the smaller components come earlier than foretold, at higher noise.", "name": "fig-order-network"}, "image": {"alt": "Three panels of dots along the diagonal; for the digits and MNIST the dots of the smaller components lie above it, for CIFAR-10 nearly all lie on it."}}
fig, axes = plt.subplots(1, 3, figsize=(7, 2.7))
for ax, (name, (formula, measured)) in zip(axes, order.items()):
    limits = [0.8 * formula.min(), 1.2 * formula.max()]
    ax.loglog(limits, limits, color=figures.COLORS["gaussian"], lw=1)
    ax.loglog(formula, measured, "o", ms=4, color=figures.COLORS["measured"])
    ax.set(title=NAMES[name], xlabel="foretold σ = √(3λ)")
    marks = (0.5, 1, 2, 3, 5, 7, 10, 20)
    ticks = [t for t in marks if limits[0] < t < limits[1]]
    ax.minorticks_off()
    ax.set_xticks(ticks, ticks)
    ax.set_yticks(ticks, ticks)
axes[0].set_ylabel("measured half-way σ")
plt.show()

# %% [markdown]
# ## Is the network's path a rotation in a plane?
#
# Scaled to constant size, $x_t = a\,x_\sigma$ with $a = 1/\sqrt{1+\sigma^2}$, a Gaussian's path is close to
# $a\,x_0 + s\,x_T$ with $s = \sqrt{1-a^2}$: a rotation in the plane of its own final image and its own noise. Here both are
# the network's. Two questions: how much of the path lies outside that plane, and how far it is from the rotation itself.

# %%
share_outside = {}
for name in NAMES:
    states = paths[name]["network"][0].flatten(2)
    scale = (1 + SIGMAS.float() ** 2).rsqrt()
    path = states * scale[:, None, None]
    start, end = path[0], path[-1]
    plane = torch.linalg.qr(torch.stack([start, end], 2)).Q  # (seeds, D, 2)
    inside = torch.einsum("sdk,tsd->tsk", plane, path)
    outside = (path.square().sum(2) - inside.square().sum(2)).clamp(min=0)
    share_outside[name] = (outside / path.square().sum(2)).sqrt()
    rotation = (
        scale[:, None, None] * end + (1 - scale**2).sqrt()[:, None, None] * start
    )
    distance = (path - rotation).norm(dim=2) / path.norm(dim=2)
    beyond = share_outside[name].mean(1).max()
    print(
        f"{name:<8} outside the plane at most {beyond:.2f}"
        f" of the length, from the rotation at most {distance.mean(1).max():.2f}"
    )
    assert share_outside[name].mean(1).max() < 0.2
    assert distance.mean(1).max() < 0.3

# %% [markdown]
# Nearly. At any level less than a fifth of the path's length lies outside the plane, and the rotation itself is off by less than
# three tenths.
#
# ## What we saw
#
# **Shown here.** From the same noise, the formula and a network are on the same path for the first third of the steps: where σ is
# above 8 the states differ by less than a hundredth on average, on every data set, and by less than three hundredths at the
# worst of 256 seeds. After that the network
# decides on things of which two moments know nothing. At the end, the formula still foretells the network's leading
# components. A Gaussian for each class ends nearer on the digits and hardly so on MNIST; the point cloud ends farthest away, on an image
# of the training set. The network's features appear in the formula's order, and its
# path stays close to a plane.
#
# **The paper.** [Wang & Vastola 2024](https://arxiv.org/abs/2412.09726) find the same on the network of Karras et al., nine times as large as ours: on
# CIFAR-10 a final squared error of 0.0130 for the Gaussian, 0.0118 for the class mixture, 0.0473 for the cloud.
#
# **The difference.** Our networks are small, and that of CIFAR-10 was trained on a laptop. It ends half as far from its
# Gaussian (in squared error) as the published one, as a network does that has not learned the details yet
# ([chapter 8](08_cifar10_scores.ipynb#why-half)). Of CIFAR-10 no image comes with the book, so the mixture and the cloud
# are missing there. [The next chapter](10_learned_first.ipynb) asks how networks come to be near their Gaussians;
# [chapter 11](11_teleportation.ipynb) puts the shared path to use.
#
# ## Exercises
#
# **1. Skip the beginning.** Start the network on the digits not at σ = 80, but at the Gaussian's state after 4, 6, 8 or 10 of
# the 18 steps. How far from its own final image does it end, and how many of the 35 calls are saved?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
start = paths["digits"]["Gaussian"][0]
own = paths["digits"]["network"][0][-1]
skipped = {}
for steps in (4, 6, 8, 10):
    with torch.no_grad():
        *_, last = gt.samplers.heun(
            networks["digits"], start[steps], SIGMAS[steps:]
        )
    skipped[steps] = error(last.x, own).mean().item()
    print(
        f"from σ = {float(SIGMAS[steps]):5.2f}: error {skipped[steps]:.5f},"
        f" {2 * steps} of {2 * STEPS - 1} calls saved"
    )
assert skipped[6] < 0.05 * ends["digits"]["Gaussian"].mean()
assert skipped[4] < skipped[6] < skipped[8] < skipped[10]
# A third of the calls can be saved for an error of less than a twentieth of the
# Gaussian's own: the network does the rest of the path itself. This is analytical
# teleportation, the subject of Part III.

# %% [markdown]
# **2. Is it the covariance?** Any model that pulls noise toward the mean image stays near the network at first. Send an
# isotropic Gaussian with the digits' mean and mean variance along, and compare it with the full Gaussian at each step.

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
full = gaussians["digits"]
round_one = gt.Gaussian.isotropic(full.mean, full.total_variance / full.dim)
noise = paths["digits"]["network"][0][0]
states = round_one.flow(noise, SIGMA_MAX, SIGMAS.float()[:, None])
isotropic = relative(states[1:], paths["digits"]["network"][0][1:]).mean(1)
with_shape = off["digits"]["Gaussian"][0].mean(1)
for step in (4, 6, 8, 10, 18):
    print(
        f"σ = {float(SIGMAS[step]):5.2f}: isotropic {isotropic[step - 1]:.4f},"
        f" Gaussian {with_shape[step - 1]:.4f}"
    )
assert (isotropic[5:] > 1.2 * with_shape[5:]).all()
# Both are good at first, since there all is noise. The covariance matters as soon as σ
# comes near the largest standard deviations, about 1.7 here.
assert 1.5 < full.variances[0].sqrt() < 1.9
