# %% [markdown]
# # The shipped networks
#
# Three trained networks come with the library, small enough that a laptop's processor trained them: one for the digits, one
# for MNIST, one for CIFAR-10. The chapters of Parts II and III work on them, so that no GPU and no download is needed.
# Before one trusts results on a network, two questions should be answered:
#
# > *What does it draw? And how, in the course of its training, did formulas come to explain it?*
#
# This page draws from each, then shows what analytic models left of it along its training. The chapters hold the finished
# networks against the models, [the digits and MNIST](07_neural_scores.ipynb) and
# [CIFAR-10, beside published numbers](08_cifar10_scores.ipynb). The cards in the folder `data` say exactly which images each
# was trained on, how, and for how long.

# %% tags=["parameters"] fast={"N_SAMPLES": 8, "STEPS": 6}
N_SAMPLES = 64
STEPS = 18  # of Heun's method, on the grid of Karras et al.
SIGMA_MAX = 80.0
SEED = 0
DEVICE = None  # of the networks: the GPU if there is one, or "cpu", "cuda", …

# %%
import matplotlib.pyplot as plt
import torch

import gausstools as gt
from gausstools import figures, shipped

figures.set_style()
NAMES = {"digits": "digits", "mnist": "MNIST", "cifar10": "CIFAR-10"}
networks = {name: gt.pretrained.load(name, device=DEVICE) for name in NAMES}
tables = {name: shipped.residuals(name) for name in NAMES}
for name, network in networks.items():
    size = sum(weights.numel() for weights in network.parameters())
    seen = tables[name][-1]["images"]
    print(
        f"{name:<8} images {tuple(network.event_shape)!s:<12}"
        f"{size / 1e6:4.1f} million weights, trained on {seen:9,} images"
    )

# %% [markdown]
# ## What they draw
#
# The same recipe for all: noise at $\sigma = 80$, then 18 steps of Heun's method, which ask the network 35 times. Nothing is
# picked: these are the first 64 of a fixed seed.


# %%
def draw(name):
    """Sample from a network."""
    network = networks[name]
    generator = torch.Generator().manual_seed(SEED)
    noise = torch.randn(N_SAMPLES, *network.event_shape, generator=generator)
    sigmas = gt.karras_sigmas(STEPS, sigma_max=SIGMA_MAX)
    with torch.no_grad():
        *_, last = gt.samplers.heun(network, SIGMA_MAX * noise, sigmas)
    return last.x


samples = {name: draw(name) for name in NAMES}
for name, images in samples.items():
    assert images.isfinite().all()
    print(
        f"{name:<8} mean {images.mean():6.3f}, of the data "
        f"{shipped.statistics(name).mean.mean():6.3f}"
    )
    apart = (images.mean() - shipped.statistics(name).mean.mean()).item()
    assert abs(apart) < 0.02 or (name == "cifar10" and -0.1 < apart < 0)

# %% [markdown]
# In the mean brightness the digits and MNIST come within a hundredth or two of their data (of a range of 2); the images of CIFAR-10
# are a little too dark.

# %% mystnb={"figure": {"caption": "64 images that the shipped network of the digits draws, 8×8 pixels each. Nearly all can be read.", "name": "fig-drawn-digits"}, "image": {"alt": "Four rows of sixteen coarse handwritten digits, white on black, nearly all of them readable."}}
fig, ax = plt.subplots(figsize=(7, 1.8))
figures.image_grid(ax, samples["digits"], columns=16)
plt.show()

# %% mystnb={"figure": {"caption": "64 images that the shipped network of MNIST draws, 28×28 pixels each. Nearly all can be read; a few are no digit.", "name": "fig-drawn-mnist"}, "image": {"alt": "Four rows of sixteen handwritten digits, white on black, nearly all of them readable."}}
fig, ax = plt.subplots(figsize=(7, 1.8))
figures.image_grid(ax, samples["mnist"], columns=16)
plt.show()

# %% mystnb={"figure": {"caption": "64 images that the shipped network of CIFAR-10 draws, 32×32 pixels each. Colours, textures and a layout of ground and object are there; few objects can be named.", "name": "fig-drawn-cifar10"}, "image": {"alt": "Four rows of sixteen small colour pictures: patches of sky, water, grass and fur, with blurred shapes of animals and vehicles in them."}}
fig, ax = plt.subplots(figsize=(7, 1.8))
figures.image_grid(ax, samples["cifar10"], columns=16)
plt.show()

# %% [markdown]
# ## Along the training
#
# A table comes with each network. It holds the fraction of the network's score that analytic models leave unexplained
# (chapter 7, [its equation](07_neural_scores.ipynb#eq-residual)), at a dozen noise levels and at a dozen marks along the training:
# the data's mean alone, an isotropic Gaussian, the Gaussian, mixtures and the point cloud of the training images, on noised
# training images and on noised held-out ones. The tables begin before the first step, where the network is an isotropic Gaussian
# by construction ([chapter 5](05_training.ipynb)). So the isotropic model is ahead at first. Then the Gaussian is.
# [Chapter 10](10_learned_first.ipynb) reads these tables at all levels.

# %%
MODELS = {
    "isotropic": ("isotropic", figures.COLORS["path"]),
    "gaussian": ("Gaussian", figures.COLORS["gaussian"]),
    "mixture-10": ("mixture of 10", figures.COLORS["first"]),
    "cloud": ("point cloud", figures.COLORS["second"]),
}


def pick(rows, x, y, **wanted):
    """Columns x and y of the rows in which the other columns are as wanted."""
    found = [row for row in rows if wanted.items() <= row.items()]
    return [row[x] for row in found], [row[y] for row in found]


# %% mystnb={"figure": {"caption": "Unexplained score at σ = 1 against the images seen in training, from none: on training images (lines) and held-out images (dashed). In each network the Gaussian and the mixture overtake the isotropic model within the first 20,000 images.", "name": "fig-residuals-training"}, "image": {"alt": "Three panels, one for each data set. In each, the isotropic model begins lowest and rises; the curves of the Gaussian and of the mixture fall by more than a hundred times and cross it after a few thousand images."}}
fig, axes = plt.subplots(1, 3, figsize=(7, 2.8), sharey=True)
for ax, name in zip(axes, NAMES):
    for model, (label, color) in MODELS.items():
        for images_from, line in (("train", "-"), ("test", "--")):
            curve = pick(
                tables[name],
                "images",
                "score",
                sigma=1.0,
                model=model,
                images_from=images_from,
            )
            ax.plot(*curve, line, color=color, lw=1.4, label=label)
    ax.set(yscale="log", title=NAMES[name], xlabel="images seen")
    ax.set_xscale("symlog", linthresh=1000)
    ax.set_xlim(left=0)
    ax.set_xticks([0, 1e3, 1e5], ["0", "$10^3$", "$10^5$"])
axes[0].set_ylabel("fraction unexplained")
handles, labels = axes[2].get_legend_handles_labels()
fig.legend(handles[::2], labels[::2], ncols=4, loc="outside upper center")
plt.show()

# %%
for name, rows in tables.items():
    first, last = (
        {
            model: pick(
                rows, "images", "score",
                images=images, images_from="train", model=model, sigma=1.0,
            )[1][0]
            for model in MODELS
        }
        for images in (0, rows[-1]["images"])
    )  # fmt: skip
    print(
        f"{name:<8} isotropic {first['isotropic']:.3f} → {last['isotropic']:.3f},"
        f" Gaussian {first['gaussian']:.3f} → {last['gaussian']:.3f}"
    )
    assert first["isotropic"] < first["gaussian"]
    assert last["gaussian"] < last["isotropic"]
    wanted = {"images_from": "train", "sigma": 1.0}
    images, isotropic = pick(rows, "images", "score", model="isotropic", **wanted)
    for model in ("gaussian", "mixture-10"):
        _, left = pick(rows, "images", "score", model=model, **wanted)
        at = next(k for k, seen in enumerate(images) if seen > 20_000)
        assert left[at] < isotropic[at]
