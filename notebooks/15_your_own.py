# %% [markdown]
# # 15 · Your own model and data
#
# So far everything came with the book: images, statistics, networks. This chapter starts from nothing but a folder of images, and
# goes the whole way: statistics, a model, the question how Gaussian it is, the jump, and what it saved. Then come labels and
# guidance, and at the end [a checklist](#9-a-checklist).
#
# > *What do I need to have, to run and to look at, before I skip the first steps of my own model?*
#
# Put your folder and your model in the place of ours, and the chapter is about them.

# %% tags=["parameters"] fast={"PATCHES": 200, "COMPONENTS": 5, "RANK": 16, "DRAWN": 8, "SET_SIZE": 64}
PATCHES = 1000  # from each of two photographs
SIDE = 16  # pixels
COMPONENTS, RANK = 20, 48  # of the model
STEPS = 18  # of Heun's method
SIGMA_MAX = 80.0
TOLERANCE = 0.02  # RMS change of a pixel, of a range of 2, that the jump may cause
DRAWN = 32  # images in each comparison
SET_SIZE = 512  # images in a set
SCALES = [0.0, 1.0, 3.0]  # of guidance

# %%
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_image

import gausstools as gt
from gausstools import figures

figures.set_style()
SIGMAS = gt.karras_sigmas(STEPS, sigma_max=SIGMA_MAX)
scratch = tempfile.TemporaryDirectory()  # gone when the chapter ends
work = Path(scratch.name)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


# %% [markdown]
# ## 1. A folder of images
#
# scikit-learn brings two photographs, of a temple and of a flower (by danielbuechele and vultilion, licence CC BY 2.0). We halve their size and cut
# patches from them, as files in a folder with a subfolder for each: what a folder of yours looks like.

# %%
folder, kinds = work / "patches", ["temple", "flower"]
for kind, name in zip(kinds, ("china.jpg", "flower.jpg")):
    photo = Image.fromarray(load_sample_image(name)).reduce(2)
    generator = np.random.default_rng(0)
    (folder / kind).mkdir(parents=True)
    for number in range(PATCHES):
        left, top = (generator.integers(length - SIDE) for length in photo.size)
        patch = photo.crop((left, top, left + SIDE, top + SIDE))
        patch.save(folder / kind / f"{number:04d}.png")

data = gt.datasets.ImageFolder(folder)
images = torch.cat(list(data))
labels = torch.tensor([kinds.index(file.parent.name) for file in data.files])
print(f"{len(data)} images of shape {tuple(data.event_shape)}")
print(f"values from {images.min():g} to {images.max():g}")
print("of each kind:", *labels.bincount().tolist())
assert len(data) == 2 * PATCHES

# %% mystnb={"figure": {"caption": "Some of the patches: 16×16 pixels of a photographed temple (above) and of a flower (below).", "name": "fig-own-patches"}, "image": {"alt": "Four rows of small colour pictures. The upper two show pale sky, bits of roofs, red walls and trees; the lower two dark green and teal ground and orange petals."}}
fig, ax = plt.subplots(figsize=(7, 1.85))
some = [images[labels == kind][:32] for kind in (0, 1)]
figures.image_grid(ax, torch.cat(some), columns=16)
plt.show()

# %% [markdown]
# ## 2. Statistics
#
# One command reads the folder once and writes the mean, the eigenpairs of the covariance, and the variance beyond them, if some are
# left out. It is `python -m gausstools stats FOLDER --out FILE`; the cell below runs just that. Any number of files will do, since
# nothing is held in memory but the moments.


# %%
def gausstools(*arguments):
    """What one would type behind `python -m gausstools`."""
    words = [sys.executable, "-m", "gausstools", *map(str, arguments)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = done.stdout.replace(str(work), "…").splitlines()
    return "\n".join(textwrap.fill(x, 80, subsequent_indent="  ") for x in said)


statistics = work / "patches.safetensors"
print(gausstools("stats", folder, "--out", statistics))
gaussian = gt.Gaussian.load(statistics)
first = (gaussian.variances[0] / gaussian.total_variance).item()
evenness = gaussian.basis[:, 0].sum().abs().item() / gaussian.dim**0.5
scale = (3 * gaussian.variances[0]).sqrt().item()
print(f"\nthe leading component holds {first:.0%} of the variance;")
print(f"its cosine to an even grey is {evenness:.2f};")
print(f"it is decided around σ = {scale:.0f}")
assert first > 0.75
assert evenness > 0.9

# %% [markdown]
# The first thing to look at is the leading component. More than three quarters of what distinguishes these patches is how bright they
# are. It also sets a scale: a component of variance $\lambda$ is decided around $\sigma = \sqrt{3\lambda}$
# ([chapter 3](03_predictions.ipynb)). Far above the first component's level nothing is decided yet, and there the Gaussian
# explains nearly all of any model of these images.
#
# ## 3. A model
#
# Any denoiser will do, any callable `D(x, sigma)`: a network of yours wrapped by `gt.networks.EDM`, a folder of diffusers or a published
# file through `gt.pretrained.load`. A network that draws such patches well would take longer to train than this page takes to
# run ([chapter 5](05_training.ipynb) trains one in the plane). So ours is a mixture of 20 Gaussians, fitted to the patches. It
# knows much that the mean and the covariance do not, and to the jump it is a black box like any other.

# %%
mine = gt.Mixture.fit(images, COMPONENTS, rank=RANK)
for sigma in (0.1, 1.0, 10.0):
    noised = images + sigma * torch.randn(images.shape, generator=seeded(0))
    missed = {
        name: (denoiser(noised, sigma) - images).square().mean().item()
        for name, denoiser in (("model", mine), ("Gaussian", gaussian))
    }
    print(
        f"σ = {sigma:4g}: mean squared error of the model {missed['model']:.4f},"
        f" of the Gaussian {missed['Gaussian']:.4f}"
    )
    if sigma <= 1:
        assert missed["model"] < 0.75 * missed["Gaussian"]

# %% [markdown]
# ## 4. How Gaussian is it, and how far may one jump?
#
# Ask before drawing. `gt.residuals` gives the fraction of the model's score that a Gaussian leaves unexplained, and
# `gt.choose_skip` the level to which a jump moves a finished pixel by no more than a tolerance
# ([chapter 11](11_teleportation.ipynb)).

# %%
levels = [0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 80.0]
isotropic = gt.Gaussian.isotropic(
    gaussian.mean, gaussian.total_variance / gaussian.dim
)
models = {"isotropic": isotropic, "Gaussian": gaussian}
found = gt.residuals(mine, models, images[::8], levels, points=256)
left = {
    name: [row.unexplained.score for row in found if row.model == name]
    for name in models
}
for sigma, *shares in zip(levels, *left.values()):
    print(
        f"σ = {sigma:4g}: isotropic leaves {shares[0]:.1e},"
        f" Gaussian {shares[1]:.1e}"
    )
assert left["Gaussian"][4] < 0.01
assert left["Gaussian"][0] > 0.1
assert left["Gaussian"][4] < left["isotropic"][4]

# %%
choice = gt.choose_skip(mine, gaussian, SIGMAS[:-1], TOLERANCE)
noise = SIGMA_MAX * gt.noise.seeded_noise(0, range(DRAWN), data.event_shape)
jump = gt.teleport(gaussian, noise, SIGMAS, choice.sigma)
calls = 2 * STEPS - 1
print(
    f"jump to σ = {choice.sigma:.2f}:"
    f" {jump.steps_skipped} of {STEPS} steps skipped,"
    f" {jump.nfe_saved_heun} of {calls} calls saved"
)
for sigma, predicted in zip(choice.sigmas, choice.predicted):
    print(f"   to {sigma:5.2f}: a pixel would move by {predicted:.4f}")
assert jump.nfe_saved_heun / calls > 0.15
assert 0.5 * scale < choice.sigma < 2 * scale

# %% [markdown]
# The jump ends where the brightness is about to be decided: the sky of one photograph and the dark ground of the other are no
# Gaussian together.
#
# ## 5. Jump, and look
#
# The same noise, with and without the jump.


# %%
@torch.no_grad()
def heun(denoiser, x, sigmas):
    *_, last = gt.samplers.heun(denoiser, x, sigmas)
    return last.x


through = heun(mine, noise, SIGMAS)
jumped = heun(mine, jump.x, jump.times)
alone = gaussian.flow(noise, SIGMA_MAX, 0.0)


def rms(difference):
    """Root mean square per pixel value, for each image."""
    return difference.flatten(1).square().mean(1).sqrt()


moved, without = rms(jumped - through), rms(alone - through)
print(
    f"by the jump: {moved.median():.4f} (median image), {moved.max():.4f} (worst)"
)
print(f"Gaussian alone: {without.median():.4f} (median image)")
others = int((moved > 0.1).sum())
print(f"{others} of {DRAWN} images have moved by more than 0.1")
assert moved.median() < TOLERANCE
assert moved.median() < 0.5 * without.median()
assert 0 < others < DRAWN / 4

# %% mystnb={"figure": {"caption": "Drawn by the model of this chapter, each column from one noise. First row: 18 steps of Heun's method. Second: after the jump. Third: the Gaussian alone. Most columns of the first two rows are the same; in the third column the jump ended at another patch.", "name": "fig-own-jump"}, "image": {"alt": "Three rows of ten small colour patches. The first two rows look the same in most columns; in the third column a pale sky has given way to something rough and dark. The third row shows noisy clouds of similar light."}}
fig, ax = plt.subplots(figsize=(7, 2.2))
rows = torch.cat([row[:10] for row in (through, jumped, alone)])
figures.image_grid(ax, rows, columns=10)
for row, label in enumerate(("model", "jump", "Gaussian")):
    ax.text(-2, (SIDE + 1) * (row + 0.5), label, ha="right", va="center")
plt.show()

# %% [markdown]
# The tolerance holds for the median image. Near a parting of the ways a small push leads to another image
# ([chapter 11](11_teleportation.ipynb#fig-jump-error)). Whether such images are worse is a question about the set.
#
# For a network in a file, `python -m gausstools sample MODEL --out FOLDER --gaussian FILE --skip auto` draws thousands, on any number of
# processes, and `python -m gausstools report MODEL --data FOLDER` writes these findings and more on one page.
#
# ## 6. Measure a set
#
# Side by side, one sees changes, not losses. A Fréchet distance compares sets ([chapter 14](14_full_scale.ipynb#eq-frechet)). If no classifier knows your images, train a small one on
# labels that you have; here it tells temple from flower. Its distances mean something only beside one another.

# %%
torch.manual_seed(0)
classifier = gt.features.Classifier(
    data.event_shape, classes=2, width=16, features=16
)
losses = list(gt.features.train(classifier, images[::2], labels[::2], epochs=8))
right = classifier.accuracy(images[1::2], labels[1::2])
reference = gt.features.gaussian(images, classifier.features)
print(f"{right:.1%} of the other patches are told rightly")
assert right > 0.9

many = SIGMA_MAX * gt.noise.seeded_noise(1, range(SET_SIZE), data.event_shape)
distances = {}
for steps in (0, jump.steps_skipped, 8, 12):
    level = float(SIGMAS[steps])
    end = heun(mine, gaussian.flow(many, SIGMA_MAX, level), SIGMAS[steps:])
    distances[steps] = gt.features.frechet(
        end.clamp(-1, 1), reference, classifier.features
    )
    print(
        f"skip {steps:2d} steps: distance {distances[steps].value:.3f}"
        f" ± {distances[steps].error:.3f}"
    )
none, chosen, far = (distances[k] for k in (0, jump.steps_skipped, 12))
assert abs(chosen.value - none.value) < none.error
assert far.value - none.value > 3 * none.error

# %% [markdown]
# ## 7. Labels
#
# A model that is told a class should jump with the statistics of that class. `Gaussian.fit_classes` fits them in one
# pass, and `gt.teleport` takes the whole family with the labels of the batch. As a model that knows the classes we take the
# exact denoiser of each kind's training patches, their point cloud.
#
# > **Predict.** Such a model jumps over 4 of its 18 steps with the statistics of *all* images. How many of its patches end as
# > another patch: one in ten, one in four, or more than half?

# %%
family = gt.Gaussian.fit_classes(images, labels)
clouds = {kind: gt.PointCloud(images[labels == kind]) for kind in (0, 1)}
wanted = torch.tensor([0, 1]).repeat_interleave(DRAWN // 2)


def by_class(x, sigma):
    """The class-conditional denoiser: each row's own cloud."""
    answers = [clouds[kind](x[wanted == kind], sigma) for kind in (0, 1)]
    return torch.cat(answers)


truth = heun(by_class, noise, SIGMAS)
landing = {}
for name, model, given in (
    ("all images together", gaussian, None),
    ("each class its own", family, wanted),
):
    for steps in (4, 6, 8):
        sigma = float(SIGMAS[steps])
        landed = gt.teleport(model, noise, SIGMAS, sigma, labels=given)
        end = heun(by_class, landed.x, landed.times)
        landing[name, steps] = rms(end - truth)
        print(
            f"{name}, skip {steps}: moved by {landing[name, steps].median():.3f},"
            f" {(landing[name, steps] > 0.1).double().mean():.0%} became another"
        )
for steps in (4, 6):
    own = landing["each class its own", steps].mean()
    assert own < landing["all images together", steps].mean()
assert (landing["all images together", 4] > 0.1).double().mean() > 0.5
assert (landing["each class its own", 4] > 0.1).double().mean() < 0.2

# %% [markdown]
# More than half; with the statistics of the class it is one in ten. Those of all images pull every patch toward their common mean.
#
# ## 8. Guidance
#
# Classifier-free guidance asks for $D_u + w\,(D_c - D_u)$, with $D_u$ the denoiser without a label and $D_c$ the one with it. Two Gaussians with *one* covariance
# $\Sigma$ stay Gaussian under it: the gains agree, and only the means are mixed ([proof](91_proofs.ipynb#guidance)),
#
# $$
# \mu_w = \mu_u + w\,(\mu_c-\mu_u).
# $$ (eq-guided-mean)
#
# So fit the classes with a shared covariance, and give `gt.teleportation.guided` the scale.

# %%
shared = gt.Gaussian.fit_classes(images, labels, shared_covariance=True)
unlabelled = shared[0].with_mean(images.mean(0))
guided = {
    (kind, w): gt.teleportation.guided(unlabelled, shared[kind], w)
    for kind in (0, 1)
    for w in SCALES
}
x = noise[:4]
for (kind, w), model in guided.items():
    mixed = unlabelled(x, 5.0) + w * (shared[kind](x, 5.0) - unlabelled(x, 5.0))
    assert torch.allclose(model(x, 5.0), mixed, atol=1e-4)
cloud = gt.PointCloud(images)


def guided_cloud(kind, w):
    def denoise(x, sigma):
        free = cloud(x, sigma)
        return free + w * (clouds[kind](x, sigma) - free)

    return denoise


part = noise[: DRAWN // 2]
sigma = float(SIGMAS[4])
print(
    f"distance from the guided model's own state after four steps, σ = {sigma:.1f}"
)
for w in SCALES:
    model = guided_cloud(1, w)
    state = heun(model, part, SIGMAS[:5])
    shift = {
        "the guided Gaussian": guided[1, w],
        "the Gaussian of all images": gaussian,
    }
    off = {
        name: rms(g.flow(part, SIGMA_MAX, sigma) - state).mean().item()
        for name, g in shift.items()
    }
    print(
        f"w = {w:g}: "
        + ", ".join(f"{name} {value:.3f}" for name, value in off.items())
    )
    if w >= 1:
        assert off["the guided Gaussian"] < off["the Gaussian of all images"]

# %% mystnb={"figure": {"caption": "Guided toward the flower, after a jump over four steps with the guided Gaussian. A row for each scale w = 0, 1 and 3, each column from one noise. From w = 1 on all patches are the flower's; at 3 they are the most typical ones, and less varied.", "name": "fig-own-guidance"}, "image": {"alt": "Three rows of ten small colour patches. The first mixes sky, a tree, a dark red wall, teal ground and orange petals; the second shows ground and petals of the flower alone; the third nearly only ground, and one deep orange petal."}}
rows = []
for w in SCALES:
    landed = gt.teleport(guided[1, w], part, SIGMAS, sigma)
    rows.append(heun(guided_cloud(1, w), landed.x, landed.times))
fig, ax = plt.subplots(figsize=(7, 2.2))
shown = [drawn[:10] for drawn in rows]
figures.image_grid(ax, torch.cat(shown), columns=10)
for row, w in enumerate(SCALES):
    ax.text(-2, (SIDE + 1) * (row + 0.5), f"w = {w:g}", ha="right", va="center")
plt.show()

# %% [markdown]
# If each class has a covariance of its own, the guided denoiser is not that of one Gaussian at all noise levels, and `guided`
# refuses them:

# %%
refused = ""
try:
    gt.teleportation.guided(family[0], family[1], 3.0)
except ValueError as error:
    refused = str(error)
print(textwrap.fill(refused, 80))
assert "shared_covariance" in refused

# %% [markdown]
# ## 9. A checklist
#
# **Before**
#
# 1. *The same images.* Statistics of the images that the model was trained on, cut, resized and scaled as it saw them: $[-1, 1]$
#    here. For a model of latents, statistics of latents.
# 2. *Enough of them.* What matters at high noise is the mean and the leading components; a thousand images are enough, thirty
#    are not ([exercise 1](#exercises)).
# 3. *The right convention.* `gt.teleport` takes VE noise levels, or a `process=` for VP and flow matching. If the jump's landing point looks
#    brighter or darker than the model's own state, this is the first suspect.
# 4. *A label?* Then a family, or for guidance a shared covariance.
#
# **Choosing**
#
# 5. *Ask the model.* `gt.choose_skip`, with the tolerance that your eye or your metric allows.
# 6. *A residual that is large at high noise* means one of three things: other statistics than the model's, a network that was
#    not trained at high noise, or a convention mixed up. Mend it before you jump.
#
# **After**
#
# 7. *Look.* Same noise, with and without, side by side.
# 8. *Measure a set.* A Fréchet distance with the same noise in both, and an error bar. A changed image is not a worse one.
# 9. *Count.* Calls saved, in your sampler: Heun asks twice a step. To a multistep method hand the Gaussian's answers along the
#    jump as its history, `gt.samplers.gaussian_history`.
#
# ## What we saw
#
# **Shown here.** From a folder of files to a jump took a command and two calls. A model of patches from two photographs
# lets more than a sixth of the calls be skipped, with pixels moved, in the median image, by less than we allowed; sets of its images
# stay as near to the data, within the error. Classes want their own statistics, and guidance with a shared covariance moves nothing
# but the mean.
#
# **The paper.** [Wang & Vastola 2024](https://arxiv.org/abs/2412.09726) take the mean and covariance of a network's training images, as we
# did here, and jump.
#
# **The difference.** The published numbers that this book holds are of an unconditional network, so for labels and guidance there is
# nothing to compare ours with. And our denoisers with labels were point clouds, not networks. How far trained networks with labels
# differ from them where one jumps was not measured.
#
# This is the last chapter. The appendices hold [the shipped networks](90_shipped_networks.ipynb), what the paper says beside what
# this book measured, the notation, and the library's pages.
#
# ## Exercises
#
# **1. How many images?** Fit the statistics to 30, 100, 300 or 1,000 of the 2,000 patches. How far does a jump to the chosen level
# land from the one with all, once the model has finished?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
missed = {}
print(f"the jump itself moves the median image by {moved.median():.4f}")
for count in (30, 100, 300, 1000):
    chosen = torch.randperm(len(images), generator=seeded(0))[:count]
    few = gt.Gaussian.fit(images[chosen])
    landed = few.flow(noise, SIGMA_MAX, choice.sigma)
    ends = heun(mine, landed, jump.times)
    missed[count] = rms(ends - jumped).median().item()
    print(f"statistics of {count:4d} images move it by {missed[count]:.4f} more")
assert missed[30] > 2 * missed[1000]
assert missed[1000] < TOLERANCE
# Up there only the mean and the few largest variances matter, and these need hundreds
# of images, not tens: a mean of n images is off by a standard deviation over √n.

# %% [markdown]
# **2. The wrong folder.** Take the statistics of the temple alone for a model of both. Does `gt.choose_skip`
# notice?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
wrong = gt.choose_skip(mine, family[0], SIGMAS[:-1], TOLERANCE)
print(f"right folder: σ = {choice.sigma:.2f}; wrong folder: σ = {wrong.sigma:.2f}")
print(
    f"residual at σ = {SIGMAS[1]:.0f}:"
    f" {choice.residual[1]:.3f} and {wrong.residual[1]:.3f}"
)
assert wrong.sigma > choice.sigma
assert wrong.residual[1] > 1.5 * choice.residual[1]
# Yes: the residual at high noise is large from the start, since there the denoiser is
# little but the mean, and this one is the temple's.

# %% [markdown]
# **3. Another process.** Your model speaks flow matching, $x_t = (1-t)\,x_0 + t\,n$. Show that `gt.teleport` with
# `process=gt.FlowMatching()`, started from pure noise at $t = 1$, lands where the VE jump from a huge $\sigma$ does.

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
pure = noise / SIGMA_MAX
times = torch.linspace(1, 0, 21)
straight = gt.teleport(
    gaussian, pure, times, sigma_skip=3.0, process=gt.FlowMatching()
)
exact = gt.Gaussian.load(statistics).double()
ve = exact.flow(1e6 * pure.double(), 1e6, 3.0)
back = straight.x / (1 - straight.times[0])  # x_t / a is the VE state
difference = (back - ve).abs().max().item()
print(
    f"lands at t = {straight.times[0]:.2f}, σ = {straight.sigma:g};"
    f" off by {difference:.0e}"
)
assert straight.sigma == 3.0
assert difference < 1e-3
# t = σ/(1+σ) = 3/4. Nothing but the coordinates differs.
