# %% [markdown]
# # 15 · Your own model and data
#
# So far everything came with the book: images, statistics, networks. This chapter starts from nothing but a folder of images that
# stands nowhere else in it, and goes the whole way: statistics, a network, the question how Gaussian it is, the jump, and
# what it saved. Then come labels and guidance, and at the end a checklist.
#
# > *What do I need to have, to run and to look at, before I skip the first steps of my own model?*
#
# Replace the folder by yours, and the network by yours, and the chapter is about them.

# %% tags=["parameters"]
PATCHES = 1000  # from each of two photographs
SIDE = 16  # pixels
TRAINING = 20_000  # patches that the network sees, with repetitions
WIDTHS = (32, 64)  # of the network
STEPS = 18  # of Heun's method
SIGMA_MAX = 80.0
TOLERANCE = 0.03  # RMS change of a pixel, of a range of 2, that the jump may cause
DRAWN = 32  # images drawn in the comparison
SCALES = [0.0, 1.0, 3.0]  # of guidance

# %%
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_image
from tqdm import tqdm

import gausstools as gt
from gausstools import figures
from gausstools.training import Recipe, Trainer

figures.set_style()
SIGMAS = gt.karras_sigmas(STEPS, sigma_max=SIGMA_MAX)
work = Path(tempfile.mkdtemp())


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
print(
    f"{len(data)} images of shape {tuple(data.event_shape)}, from {images.min():g}"
)
print(f"to {images.max():g}; of each kind {labels.bincount().tolist()}")
assert len(data) == 2 * PATCHES

# %% mystnb={"figure": {"caption": "Some of the patches: 16×16 pixels of a photographed temple (above) and of a flower (below).", "name": "fig-own-patches"}, "image": {"alt": "Four rows of small colour pictures. The upper two show bits of red and grey roofs, sky and trees; the lower two smooth greens and a red petal's edge."}}
fig, ax = plt.subplots(figsize=(7, 1.85))
some = [images[labels == kind][:32] for kind in (0, 1)]
figures.image_grid(ax, torch.cat(some), columns=16)
plt.show()

# %% [markdown]
# ## 2. Statistics
#
# One command reads the folder once and writes mean, eigenpairs and tail. It is `python -m gausstools stats FOLDER --out FILE`; the
# cell below runs just that, and any size of images and number of files will do, since nothing is held in memory but the moments.


# %%
def gausstools(*arguments):
    """What one would type behind `python -m gausstools`."""
    words = [sys.executable, "-m", "gausstools", *map(str, arguments)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.replace(str(work), "…")


statistics = work / "patches.safetensors"
print(gausstools("stats", folder, "--out", statistics))
gaussian = gt.Gaussian.load(statistics)
first = (gaussian.variances[0] / gaussian.total_variance).item()
assert first > 0.5

# %% [markdown]
# The first line to look at is the share of the leading component. More than half of what distinguishes these patches is their
# overall brightness. That is usual for photographs, and it is why the jump works: large variances are decided at high noise, and
# a Gaussian decides them rightly.
#
# ## 3. A model
#
# Any denoiser will do: a network of yours wrapped by `gt.networks.EDM`, a folder of diffusers or a published file through
# `gt.pretrained.load`. Here we train a small one while you wait.

# %%
torch.manual_seed(0)
spread = float((gaussian.total_variance / gaussian.dim).sqrt())
untrained = gt.networks.EDM(
    gt.networks.UNet(data.event_shape, WIDTHS, layers=1, groups=8),
    data.event_shape,
    sigma_data=spread,
)
recipe = Recipe(batch_size=64, learning_rate=1e-3, warmup=2000)
trainer = Trainer(untrained, images, work / "run", recipe)
steps = TRAINING // recipe.batch_size
losses = list(tqdm(trainer.run(TRAINING), total=steps, desc="training"))
network = gt.pretrained.load(work / "run" / "network.safetensors")
size = sum(weights.numel() for weights in network.parameters())
early, late = (sum(part) / len(part) for part in (losses[:30], losses[-30:]))
print(
    f"{size / 1e6:.2f} million weights; loss {early:.2f} at first, {late:.2f} at last"
)
assert late < early

# %% [markdown]
# ## 4. How Gaussian is it, and how far may one jump?
#
# Ask before drawing. `gt.residuals` gives the fraction of the network's score that a model leaves unexplained, and
# `gt.choose_skip` the level to which a jump moves a finished pixel by no more than a tolerance
# ([chapter 11](11_teleportation.ipynb)).

# %%
levels = [0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 80.0]
isotropic = gt.Gaussian.isotropic(
    gaussian.mean, gaussian.total_variance / gaussian.dim
)
models = {"isotropic": isotropic, "Gaussian": gaussian}
found = gt.residuals(network, models, images[::8], levels, points=256)
left = {
    name: [row.unexplained.score for row in found if row.model == name]
    for name in models
}
for sigma, *shares in zip(levels, *left.values()):
    print(
        f"σ = {sigma:4g}: isotropic leaves {shares[0]:.1e}, Gaussian {shares[1]:.1e}"
    )
assert left["Gaussian"][4] < 0.01
assert left["Gaussian"][0] > 0.05
assert left["Gaussian"][3] < left["isotropic"][3]

# %%
choice = gt.choose_skip(network, gaussian, SIGMAS[:-1], TOLERANCE)
noise = SIGMA_MAX * gt.noise.seeded_noise(0, range(DRAWN), data.event_shape)
jump = gt.teleport(gaussian, noise, SIGMAS, choice.sigma)
calls = 2 * STEPS - 1
print(
    f"jump to σ = {choice.sigma:.2f}: {jump.steps_skipped} of {STEPS} steps skipped,"
    f" {jump.nfe_saved_heun} of {calls} calls saved"
)
for sigma, predicted in zip(choice.sigmas, choice.predicted):
    print(f"   to {sigma:5.2f}: a pixel would move by {predicted:.4f}")
assert jump.nfe_saved_heun / calls > 0.2

# %% [markdown]
# ## 5. Jump, and look
#
# The same noise, with and without the jump.


# %%
@torch.no_grad()
def heun(denoiser, x, sigmas):
    *_, last = gt.samplers.heun(denoiser, x, sigmas)
    return last.x


through = heun(network, noise, SIGMAS)
jumped = heun(network, jump.x, jump.times)
alone = gaussian.flow(noise, SIGMA_MAX, 0.0)


def rms(difference):
    """Root mean square per pixel value, for each image."""
    return difference.flatten(1).square().mean(1).sqrt()


moved, without = rms(jumped - through), rms(alone - through)
print(
    f"by the jump: {moved.median():.4f} (median image), {moved.max():.4f} (worst)"
)
print(f"Gaussian alone: {without.median():.4f} (median image)")
assert moved.median() < 2 * TOLERANCE
assert moved.median() < 0.5 * without.median()

# %% mystnb={"figure": {"caption": "Drawn by the network of this chapter, each column from one noise. First row: 18 steps of Heun's method. Second: after the jump. Third: the Gaussian alone.", "name": "fig-own-jump"}, "image": {"alt": "Three rows of sixteen small colour patches. The first two rows look the same; the third shows softer versions of the same light and colour."}}
fig, ax = plt.subplots(figsize=(7, 1.5))
rows = torch.cat([row[:16] for row in (through, jumped, alone)])
figures.image_grid(ax, rows, columns=16)
for row, label in enumerate(("network", "jump", "Gaussian")):
    ax.text(
        -3, (SIDE + 1) * (row + 0.5), label, ha="right", va="center", fontsize=8
    )
plt.show()

# %% [markdown]
# For thousands of images use the command: it writes numbered files, goes on where it stopped, and makes the same images on any
# number of processes. `--skip auto` chooses as above.

# %%
drawn = work / "drawn"
print(
    gausstools(
        "sample",
        work / "run" / "network.safetensors",
        *("--out", drawn),
        *("--num", 64),
        *("--steps", STEPS),
        *("--gaussian", statistics),
        *("--skip", "auto"),
        *("--tolerance", TOLERANCE),
    )
)
assert len(list(drawn.glob("*.png"))) == 64
first_image = torch.from_numpy(np.array(Image.open(drawn / "000000.png")))
as_drawn = ((jumped[0].clamp(-1, 1) + 1) * 127.5).round().permute(1, 2, 0)
assert (first_image.float() - as_drawn).abs().max() <= 1

# %% [markdown]
# The first of those files is the first image of the figure: image $i$ depends on seed and $i$ alone. To keep all of these findings for a model,
# `python -m gausstools report MODEL --data FOLDER` writes them on one page: residuals, choice, images, and the error of every sampler.
#
# ## 6. Labels
#
# A model that is told a class should jump with the statistics of that class. `Gaussian.fit_classes` fits them in one
# pass, and `gt.teleport` takes the whole family with the labels of the batch. For a model that knows classes exactly,
# we take what a perfectly trained one would be: the point cloud of each kind's patches.

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
            f"{name}, skip {steps}: moved by {landing[name, steps].median():.4f}"
            f" (median), {(landing[name, steps] > 0.1).double().mean():.0%} of the images"
            " became another"
        )
for steps in (4, 6):
    own = landing["each class its own", steps].mean()
    assert own < landing["all images together", steps].mean()

# %% [markdown]
# The statistics of all images pull every patch toward their common mean; those of the class do not.
#
# ## 7. Guidance
#
# Classifier-free guidance asks for $D_u + w\,(D_c - D_u)$, with $D_u$ the denoiser without a label and $D_c$ the one with it. Two Gaussians with *one* covariance
# $\Sigma$ stay Gaussian under it: the gains agree, and only the means are mixed,
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
        f"w = {w:g}, four steps, to σ = {sigma:.1f}: "
        + ", ".join(f"{name} misses by {value:.3f}" for name, value in off.items())
    )
    if w >= 1:
        assert off["the guided Gaussian"] < off["the Gaussian of all images"]

# %% mystnb={"figure": {"caption": "Guided toward the flower, after a jump over four steps with the guided Gaussian. A row for each scale w = 0, 1 and 3, each column from one noise.", "name": "fig-own-guidance"}, "image": {"alt": "Three rows of sixteen small colour patches. The first mixes roofs, sky and greenery; the second shows greens and reds of the flower alone; the third the same, stronger in colour."}}
rows = []
for w in SCALES:
    landed = gt.teleport(guided[1, w], part, SIGMAS, sigma)
    rows.append(heun(guided_cloud(1, w), landed.x, landed.times))
fig, ax = plt.subplots(figsize=(7, 1.5))
figures.image_grid(ax, torch.cat(rows), columns=len(part))
for row, w in enumerate(SCALES):
    ax.text(
        -3,
        (SIDE + 1) * (row + 0.5),
        f"w = {w:g}",
        ha="right",
        va="center",
        fontsize=8,
    )
plt.show()

# %% [markdown]
# With covariances of their own the guided denoiser is no Gaussian's at all noise levels, and `guided` refuses them:

# %%
refused = ""
try:
    gt.teleportation.guided(family[0], family[1], 3.0)
except ValueError as error:
    refused = str(error)
print(refused)
assert "shared_covariance" in refused

# %% [markdown]
# ## 8. A checklist
#
# **Before**
#
# 1. *The same images.* Statistics of the images that the model was trained on, cut, resized and scaled as it saw them: $[-1, 1]$
#    here. For a model of latents, statistics of latents.
# 2. *Enough of them.* A few hundred are enough for the leading components, which are what matters at high noise (exercise 1).
# 3. *The right convention.* `gt.teleport` takes VE noise levels, or a `process=` for VP and flow matching. If the jump's landing point looks
#    brighter or darker than the network's own state, this is the first suspect.
# 4. *A label?* Then a family, or for guidance a shared covariance.
#
# **Choosing**
#
# 5. *Ask the network.* `gt.choose_skip`, with the tolerance that your eye or your metric allows.
# 6. *A residual that is large at high noise* means one of three things: other statistics than the network's, a network that was
#    not trained at high noise, or a convention mixed up. Mend it before you jump.
#
# **After**
#
# 7. *Look.* Same noise, with and without, side by side.
# 8. *Measure a set.* A Fréchet distance with the same noise in both, and an error bar. A changed image is not a worse one.
# 9. *Count.* Calls saved, in your sampler: Heun asks twice a step. With multistep methods hand over the
#    history that the jump passed, `gt.samplers.gaussian_history`.
#
# ## What we saw
#
# **Shown here.** From a folder of files to a jump took a command and two calls. A network trained for seconds on patches of two photographs
# lets a good fifth or more of the calls be skipped, with pixels moved by no more than twice what we allowed. Classes want their own
# statistics, and guidance with a shared covariance moves nothing but the mean.
#
# **The paper.** [Wang & Vastola 2024](https://arxiv.org/abs/2412.09726) show the jump on unconditional networks of CIFAR-10, FFHQ
# and AFHQ, with statistics of their training sets.
#
# **The difference.** Labels and guidance are not in the paper. Here the labelled denoisers were point clouds, exact and without a
# network; trained networks with labels will differ from them at low noise, less where one jumps.
#
# ## Exercises
#
# **1. How many images?** Fit the statistics to 30, 100, 300 or 1,000 of the 2,000 patches. How far does a jump to the chosen level
# land from the one with all?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
target = gaussian.flow(noise, SIGMA_MAX, choice.sigma)
missed = {}
for count in (30, 100, 300, 1000):
    chosen = torch.randperm(len(images), generator=seeded(0))[:count]
    few = gt.Gaussian.fit(images[chosen])
    landed = few.flow(noise, SIGMA_MAX, choice.sigma)
    missed[count] = rms(landed - target).mean().item()
    print(f"{count:4d} images: off by {missed[count]:.4f} per pixel")
assert missed[30] > missed[1000]
# Even 300 put the landing point where the tolerance does not see it. What they get
# wrong are small variances, and those are drowned in noise up there.

# %% [markdown]
# **2. The wrong folder.** Take the statistics of the temple alone for a network that was trained on both. Does `gt.choose_skip`
# notice?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
wrong = gt.choose_skip(network, family[0], SIGMAS[:-1], TOLERANCE)
print(f"right folder: σ = {choice.sigma:.2f}; wrong folder: σ = {wrong.sigma:.2f}")
print(
    f"residual at σ = {SIGMAS[1]:.0f}: {choice.residual[1]:.3f} and {wrong.residual[1]:.3f}"
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
    f"lands at t = {straight.times[0]:.2f}, σ = {straight.sigma:g}; off by {difference:.0e}"
)
assert straight.sigma == 3.0
assert difference < 1e-3
# t = σ/(1+σ) = 3/4. Nothing but the coordinates differs.
