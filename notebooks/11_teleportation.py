# %% [markdown]
# # 11 · Analytical teleportation
#
# [Chapter 9](09_trajectories.ipynb) ended with a finding that asks to be used. From the same noise, a formula and a network
# walk the same path for the first third of the steps. The formula costs next to nothing. So let it walk that
# part, in one jump, and call the network where it is needed.
#
# > *How far can one jump before the picture changes, and can one know it before having drawn anything?*
#
# The paper calls the jump **analytical teleportation**. We jump with the three shipped networks, measure what it does to single images and
# to whole sets of them, and learn to choose the landing point before anything is drawn.
#
# **If you came for this alone.** A *denoiser* $D(x,\sigma)$ answers a noisy image with the mean of the clean ones behind it
# ([chapter 1](01_noise_and_score.ipynb)); a diffusion network is one. A sampler follows the *probability flow*
# $\mathrm dx/\mathrm d\sigma = (x-D)/\sigma$ from $\sigma = 80$, where all is noise, down to 0. Heun's method asks the network
# twice in each of its 18 steps but the last: 35 calls. *The Gaussian* has the mean and covariance of the training images, and
# its flow is a formula ([chapter 2](02_gaussian_model.ipynb)). [Chapter 13](13_inside_diffusers.ipynb) puts the jump into
# pipelines of diffusers, [chapter 15](15_your_own.ipynb) goes through it with a model and images of your own.

# %% tags=["parameters"] fast={"SHOWN": 3, "SEEDS": {"digits": 8, "mnist": 2, "cifar10": 2}, "SET_SIZE": 64}
STEPS = 18  # of Heun's method, on the grid of Karras et al.
SKIPPED = [4, 6, 8]  # steps that are skipped in the first figure
SHOWN = 10  # images in it, from each network
FINE = 24  # steps of the finer solver that isolates the jump's own error
STOPS = [1, 3, 5, 7, 8, 9, 11]  # where jumps land on its grid
SEEDS = {"digits": 64, "mnist": 16, "cifar10": 16}  # images for that
SETS = [4, 6, 8, 10]  # steps skipped where sets of images are compared
SET_SIZE = 256  # digits in a set
TOLERANCE = 0.02  # RMS change of a pixel, of a range of 2, that is allowed
SIGMA_MAX = 80.0
DEVICE = None  # of the networks: the GPU if there is one, or "cpu", "cuda", …

# %%
import math

import matplotlib.pyplot as plt
import torch
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

import gausstools as gt
from gausstools import figures, shipped
from gausstools.noise import seeded_noise

figures.set_style()
NAMES = {"digits": "digits", "mnist": "MNIST", "cifar10": "CIFAR-10"}
SIGMAS = gt.karras_sigmas(STEPS, sigma_max=SIGMA_MAX)
networks = {name: gt.pretrained.load(name, device=DEVICE) for name in NAMES}
gaussians = {name: shipped.statistics(name) for name in NAMES}


def start(name, count):
    """Noise at SIGMA_MAX; image i is the same in any number of them."""
    shape = networks[name].event_shape
    return SIGMA_MAX * seeded_noise(0, range(count), shape)


@torch.no_grad()
def finish(sampler, name, x, sigmas, **options):
    *_, last = sampler(networks[name], x, sigmas, **options)
    return last.x


# %% [markdown]
# ## The jump
#
# The probability flow of a Gaussian is solved in closed form ([chapter 2](02_gaussian_model.ipynb)). From $\sigma_{\max}$ to
# $\sigma_{\mathrm{skip}}$ it takes the noise to
#
# $$
# \begin{aligned}
# x_{\mathrm{skip}} &= \mu + \sum_k g_k\, u_k u_k^\top (x_T-\mu), \\
# g_k &= \sqrt{\frac{\sigma_{\mathrm{skip}}^2+\lambda_k}{\sigma_{\max}^2+\lambda_k}},
# \end{aligned}
# $$ (eq-jump)
#
# with the mean $\mu$ and the eigenpairs $(\lambda_k, u_k)$ of the training images' covariance. No step, no network.
# `gt.teleport` does this and keeps the books: where the jump landed, which levels of the grid are left, which calls are saved.

# %%
noise = {name: start(name, SHOWN) for name in NAMES}
calls = 2 * STEPS - 1
for steps in range(2, 11):
    jump = gt.teleport(
        gaussians["cifar10"], noise["cifar10"], SIGMAS, float(SIGMAS[steps])
    )
    saved = jump.nfe_saved_heun
    print(
        f"skip {steps:2d} of {STEPS} steps: land at σ = {jump.sigma:5.2f},"
        f" save {saved:2d} of {calls} calls, {saved / calls:.0%}"
    )
    assert jump.steps_skipped == steps
    assert saved == 2 * steps

# %% [markdown]
# Now the same noise, with and without.


# %%
def skip(name, x, steps):
    """Jump over so many steps, then let Heun's method do the others."""
    jump = gt.teleport(gaussians[name], x, SIGMAS, float(SIGMAS[steps]))
    return finish(gt.samplers.heun, name, jump.x, jump.times)


rows = {}
for name in ("mnist", "cifar10"):
    rows[name] = {0: finish(gt.samplers.heun, name, noise[name], SIGMAS)}
    for steps in tqdm(SKIPPED, desc=name):
        rows[name][steps] = skip(name, noise[name], steps)
    rows[name]["all"] = gaussians[name].flow(noise[name], SIGMA_MAX, 0.0)

# %% mystnb={"figure": {"caption": "Each column starts from one noise. First row: 18 steps of Heun's method. Below: the first 4, 6 and 8 steps replaced by the jump. Last row: the Gaussian all the way, without a network. Up to six skipped steps, a third of the calls, it takes a lens to see a difference; after eight, the zero of the fifth column is no zero any more.", "name": "fig-jump-images"}, "image": {"alt": "Two blocks of five rows of small pictures, digits above and coloured scenes below. In each column the first three rows look alike; the fourth differs in some; the last row shows smudges and soft clouds of light in the same places."}}
fig, axes = plt.subplots(2, 1, figsize=(7, 6))
for ax, name in zip(axes, rows):
    images = torch.cat(list(rows[name].values()))
    side = images.shape[-1] + 1
    figures.image_grid(ax, images, columns=SHOWN)
    ax.set_title(NAMES[name])
    for row, label in enumerate(["all 18 steps", *SKIPPED, "Gaussian"]):
        text = f"skip {label}" if label in SKIPPED else label
        ax.text(
            -0.1 * side, side * (row + 0.5), text, ha="right", va="center", size=8
        )
plt.show()


# %%
def rms(difference):
    """Root mean square per pixel value, for each image."""
    return difference.flatten(1).square().mean(1).sqrt()


change = {
    name: {key: rms(images - found[0]) for key, images in found.items()}
    for name, found in rows.items()
}
print("change of a pixel, root mean square, in the median image")
for name, found in change.items():
    print(
        f"{name:<8} "
        + ", ".join(f"skip {key} {found[key].median():.3f}" for key in SKIPPED)
        + f"; Gaussian alone {found['all'].median():.3f}"
    )
    assert found[6].median() < 0.25 * found["all"].median()
    assert 0.005 < found[6].median() < 0.02

# %% [markdown]
# ## What does the jump itself change?
#
# With six steps skipped a pixel changes by about a hundredth, of a range of 2. But that comparison mixes two things. Heun's
# method makes errors of its own on the steps that the jump replaces, and the jump, as far as the network is Gaussian there,
# makes none. To see the jump's own error we take a finer solver and let both runs share its grid below the landing point:
# what differs then is the jump alone.

# %%
fine = gt.karras_sigmas(FINE, sigma_max=SIGMA_MAX)


def solve(name, x, sigmas):
    return finish(gt.samplers.dpmpp, name, x, sigmas, order=3)


own = {}
for name in NAMES:
    x = start(name, SEEDS[name])
    through = solve(name, x, fine)
    own[name] = torch.stack(
        [
            rms(
                solve(
                    name,
                    gaussians[name].flow(x, SIGMA_MAX, float(fine[stop])),
                    fine[stop:],
                )
                - through
            )
            for stop in tqdm(STOPS, desc=name)
        ]
    )

# %% [markdown]
# Could that have been foreseen? Write the network as $D = D_G + R$, where $D_G$ is the Gaussian's denoiser and $R$ the
# residual, what it leaves. Along the jump the network would have added $-R_k\,d\ln\sigma$ in direction $k$ at each level. The
# Gaussian's flow carries each of these contributions down to the landing point $s$ ([proof](91_proofs.ipynb#what-a-jump-costs)):
#
# $$
# \begin{aligned}
# e_k(s) &= \int_{\ln s}^{\ln \sigma_{\max}} c_k(\sigma)\, R_k \; d\ln\sigma, \\
# c_k(\sigma) &= \sqrt{\frac{\lambda_k+s^2}{\lambda_k+\sigma^2}}.
# \end{aligned}
# $$ (eq-jump-error)
#
# Everything in it can be asked before anything is drawn: $R$ along the *Gaussian's* path, at a few levels, for a few noises.
# `gt.choose_skip` does so. Below $s$ it is the network's flow that carries the change on, and not quite as the Gaussian's would: a
# network that has to decide between digits magnifies it. So `choose_skip` measures that factor too, by finishing a few samples
# from both states in eight steps.

# %%
levels = fine[[0, *STOPS]]
curves = {
    name: gt.choose_skip(networks[name], gaussians[name], levels, tolerance=10.0)
    for name in NAMES
}
for name, curve in curves.items():
    print(
        f"{name:<8} carries a change {curve.amplification:.2f} times"
        " as far as the Gaussian does"
    )
    for sigma, residual, predicted, measured in zip(
        levels[1:], curve.residual[1:], curve.predicted[1:], own[name]
    ):
        middle, worst = measured.median(), measured.max()
        print(
            f"   σ = {sigma:5.2f}: residual {residual:.3f}, predicted"
            f" {predicted:.4f}, measured {middle:.4f} (worst {worst:.4f})"
        )

# %% [markdown]
# The prediction is of first order in $R$: it follows one path and asks how far it is bent. It cannot know where paths part.
# A few noises stand near such a parting, and a small push carries them far; the worst images above are theirs. So we hold the
# *median* image against the prediction, and count those that became another digit later.


# %% mystnb={"figure": {"caption": "What a jump to σ changes in the finished image, root mean square of a pixel of range 2: measured (dots: the median of 16 seeds, of 64 for the digits; bars from the 10th to the 90th percentile) and predicted before anything was drawn (line). Grey: the residual, what the Gaussian leaves of the network's denoiser at that level. While the residual lies on its floor the jump costs little; where it rises, the curve goes with it. Dotted: the residual has risen by half.", "name": "fig-jump-error"}, "image": {"alt": "Three panels on logarithmic axes, one for each network, noise level falling to the right. Blue line and orange dots rise together from a thousandth to a tenth. A grey line is flat or falls at first, then rises; a dotted vertical line marks where."}}
def risen(curve, factor=1.5):
    """Level, going down, at which the residual is so many times its smallest value."""
    low = int(curve.residual.argmin())
    after = low + int(
        (curve.residual[low:] > factor * curve.residual[low]).nonzero()[0]
    )
    ratios = (curve.residual[after - 1 : after + 1] / curve.residual[low]).log()
    part = (math.log(factor) - ratios[0]) / (ratios[1] - ratios[0])
    above, below = curve.sigmas[after - 1 : after + 1].log()
    return float((above + part * (below - above)).exp())


knees = {name: risen(curve) for name, curve in curves.items()}
fig, axes = plt.subplots(1, 3, figsize=(7, 2.9), sharey=True)
for ax, (name, curve) in zip(axes, curves.items()):
    at, found = levels[1:], own[name]
    low, middle, high = found.quantile(torch.tensor([0.1, 0.5, 0.9]), dim=1)
    ax.loglog(
        at,
        curve.predicted[1:],
        color=figures.COLORS["gaussian"],
        label="predicted",
    )
    ax.errorbar(
        at,
        middle,
        torch.stack([middle - low, high - middle]),
        fmt="o",
        ms=4,
        lw=1,
        color=figures.COLORS["measured"],
        label="measured",
    )
    ax.loglog(
        curve.sigmas,
        curve.residual,
        color=figures.COLORS["noise"],
        label="residual",
    )
    ax.axvline(knees[name], ls=":", lw=1, color=figures.COLORS["data"])
    ax.set(title=NAMES[name], xlabel="σ jumped to", xlim=(85, 2.8))
    ax.set_xticks([60, 20, 10, 5, 3], [60, 20, 10, 5, 3])
    ax.minorticks_off()
axes[0].set_ylabel("RMS of a pixel, of a range of 2")
fig.legend(
    *axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3
)
plt.show()

# %%
for name, curve in curves.items():
    ratio = own[name].median(1).values / curve.predicted[1:]
    lowest = curve.sigmas[curve.residual.argmin()]
    print(
        f"{name:<8} measured over predicted:"
        f" {ratio.min():.2f} to {ratio.max():.2f}\n"
        f"         residual smallest at σ = {lowest:.0f},"
        f" half as large again at σ = {knees[name]:.1f}"
    )
    assert ratio.min() > 0.4
    assert ratio.max() < 2
    assert 3 < knees[name] < 30

# %% [markdown]
# Network and Gaussian differ by no less than a floor, at the highest noise too. Whose is it, the data's or the network's? For the
# digits we can ask the exact denoiser of the training images, the point cloud of [chapter 4](04_mixtures_and_clouds.ipynb), on
# the same path.
#
# > **Predict.** At σ = 60, which is nearer to the exact denoiser of the digits: the network that was trained to be it, or
# > the Gaussian, which knows two moments?

# %%
cloud = gt.PointCloud(gt.datasets.load("digits").images)
x = start("digits", SEEDS["digits"])
exact = {}
for sigma in levels[1:].tolist():
    state = gaussians["digits"].flow(x, SIGMA_MAX, sigma)
    with torch.no_grad():
        left = [
            rms(denoiser(state, sigma) - gaussians["digits"](state, sigma)).mean()
            for denoiser in (networks["digits"], cloud)
        ]
    exact[sigma] = float(left[1] / left[0])
    print(
        f"σ = {sigma:5.2f}: from the Gaussian to the network {left[0]:.4f},"
        f" to the exact denoiser {left[1]:.4f}"
    )
assert max(ratio for sigma, ratio in exact.items() if sigma > 20) < 0.2
assert min(exact.values()) < 0.02
assert exact[min(exact)] > 0.8

# %% [markdown]
# The Gaussian, by far. At high noise the floor is the *network's*, and a jump replaces the worse of the two there. Further down
# the exact denoiser leaves the Gaussian too, at σ = 3 nearly as far as the network does.
#
# So here is **the knee, and why it is there**. A residual that lies on its floor is the network's imperfection, and its
# integral grows slowly. Where the residual rises, the data show that they are no Gaussian, and the integral rises with it.

# %%
growth = {}
for name in NAMES:
    size = own[name].median(1).values
    growth[name] = (size[-1] / size[STOPS.index(8)]).item()
    print(
        f"{name:<8} a jump to σ = {float(fine[STOPS[-1]]):.1f} changes"
        f" {growth[name]:.1f} times as much as one to {float(fine[8]):.1f}"
    )
assert growth["mnist"] > 5
assert growth["digits"] > 3
assert growth["cifar10"] < 4

# %% [markdown]
# Digits and MNIST have a sharp knee: below it some noises end as *another digit* ([we count them](#are-the-images-as-good)).
# Our network of CIFAR-10, which draws textures more than objects, has a higher floor and a gentler rise.
#
# ## Choosing
#
# Say how much a pixel may move, and `gt.choose_skip` walks down a sampler's grid until its curve crosses that. The cost is that
# of sampling a few images once.

# %%
chosen = {
    name: gt.choose_skip(networks[name], gaussians[name], SIGMAS[:-1], TOLERANCE)
    for name in NAMES
}
print(f"a pixel may move by {TOLERANCE:g}")
for name, choice in chosen.items():
    place = int((SIGMAS - choice.sigma).abs().argmin())
    measured = own[name].median(1).values
    above = int(
        (levels[1:] > choice.sigma).sum()
    )  # stops above and below bracket it
    around = measured[max(above - 1, 0)], measured[min(above, len(STOPS) - 1)]
    print(
        f"{name:<8} jump to σ = {choice.sigma:.2f}, skip {place} steps,"
        f" {2 * place / calls:.0%} of the calls\n"
        f"         measured just above and below: {around[0]:.4f}, {around[1]:.4f}"
    )
    assert around[0] < 1.5 * TOLERANCE
    assert 2 * place / calls > 0.2

# %% [markdown]
# ## Are the images as good?
#
# A changed image is not a worse one. What counts is whether the *set* of images is as near to the data as before. The
# Fréchet distance says so: both sets are sent through a classifier, and the means and covariances of its features are
# compared (chapter 14, [its equation](14_full_scale.ipynb#eq-frechet)). With the Inception network's features that is the FID. Here they are those of a small classifier of digits that
# comes with the library (`gt.features`), so its numbers cannot be set beside any FID; ratios and knees can.
#
# Both sets start from the same noise, so what chance adds to one it adds to the other, and their *difference* is known far
# better than either. Its error: leave out a thirty-second of the images, the same from both sets, in turn (the jackknife).

# %%
classifier = gt.features.load("digits")
reference = shipped.feature_statistics("digits")
noise_set = start("digits", SET_SIZE)
sets = {0: finish(gt.samplers.heun, "digits", noise_set, SIGMAS)}
for steps in tqdm(SETS, desc="digits"):
    sets[steps] = skip("digits", noise_set, steps)
sets = {steps: images.clamp(-1, 1) for steps, images in sets.items()}
found = gt.features.frechet(sets[0], reference, classifier.features)
whole, own_error = found.value, found.error
gained = {}  # distance beyond that without a jump, and its standard error
for steps in SETS:
    beyond = gt.features.frechet_difference(
        sets[steps], sets[0], reference, classifier.features
    )
    gained[steps] = beyond.value, beyond.error
classes = {steps: classifier(images).argmax(1) for steps, images in sets.items()}
other = {
    steps: (classes[steps] != classes[0]).double().mean().item() for steps in SETS
}
print(
    f"Fréchet distance of {SET_SIZE} digits without a jump: {whole:.2f} ± {own_error:.2f}"
)
for steps, (value, error) in gained.items():
    print(
        f"skip {steps:2d}, from σ = {float(SIGMAS[steps]):5.2f}:"
        f" {value:+.3f} ± {error:.3f}; {other[steps]:.1%} became another digit"
    )
assert other[4] == other[6] == 0
assert 0.1 < other[10] < 0.2

# %% [markdown]
# The distance stays where it was, well within its error bar, while a third of the calls is saved. At ten skipped steps it rises,
# and one digit in seven has become another.
#
# For MNIST and CIFAR-10 the same takes most of an hour, so the page shows a record: 1,024 images of our networks in each row,
# judged by the classifiers that come with the library (`python -m benchmarks.jumps` makes it again; the card `data/jumps.md`
# says what is in it). Beside that of CIFAR-10, the authors' table for the network of
# [Karras et al. 2022](https://arxiv.org/abs/2206.00364), the FID of 50,000 images a row.

# %%
numerals, record = (
    {row["steps_skipped"]: row for row in shipped.jumps(name)}
    for name in ("mnist", "cifar10")
)
published = {row["steps_skipped"]: row for row in shipped.published("heun_fid")}
base, ours = published[0]["fid"], record[0]["distance"]
for title, rows_of in (("MNIST", numerals), ("CIFAR-10", record)):
    distance, error = (rows_of[0][column] for column in ("distance", "error"))
    print(f"{title}, no jump: {distance:.3f} ± {error:.3f}")
    for steps, row in rows_of.items():
        if steps:
            value, error = row["difference"], row["difference_error"]
            print(
                f"   skip {steps}: {value:+.4f} ± {error:.4f}, {value / distance:+.1%};"
                f" {1 - row['nfe'] / calls:.0%} of the calls saved"
            )
print(f"published for CIFAR-10, no jump: FID {base}")
for steps in list(record)[1:]:
    fid = published[steps]["fid"]
    print(f"   skip {steps}: FID {fid}, {fid / base - 1:+.1%}")
for steps in (4, 5, 6):
    change, error = record[steps]["difference"], record[steps]["difference_error"]
    assert 6 * error < change < 0.02 * ours < record[steps]["error"]
    assert abs(published[steps]["fid"] / base - 1) < 0.02
    assert abs(numerals[steps]["difference"]) < numerals[steps]["difference_error"]
for steps in (4, 6):
    value, error = gained[steps]
    assert abs(value) < max(3 * error, 0.03 * whole) < own_error
assert 1 - record[5]["nfe"] / calls > 0.25
assert gained[10][0] > 2 * gained[10][1]
assert record[8]["difference"] > 2 * record[8]["error"]
assert (base, published[4]["fid"]) == (1.959, 1.934)

# %% [markdown]
# So does skipping a quarter of the calls leave the distance unchanged? Within its error bar, yes. Shared noise sees through that
# bar. On MNIST nothing is behind it: after six skipped steps the distance has grown by 1.2 %, half the error of that difference.
# On CIFAR-10 it has grown by 1.1 % after five steps (29 % of the calls) and by 1.6 % after six: less than the distance's own
# error, but more than six times the error of the difference. These images move *away* from the data, from the first skipped
# steps on. The published ones come nearer at first: 1.934 with four steps skipped, 1.959 without. That a jump can gain is no
# wonder, if at high noise the Gaussian is nearer to the exact denoiser than the network is, as it was for the digits. Why ours
# does not, this page cannot tell.

# %% mystnb={"figure": {"caption": "Distance to the data against the steps skipped, in units of the distance without a jump: measured on our digits (dots), our MNIST network (triangles) and our CIFAR-10 network (diamonds), bars of one standard error of the difference, and published for CIFAR-10 (squares: the FID of 50,000 images). Features, data and networks differ, so only the shape can be compared: flat, then a knee.", "name": "fig-jump-frechet"}, "image": {"alt": "Four series of markers along a horizontal line at one from zero to six skipped steps; the published one and our MNIST turn up steeply at eight, our CIFAR-10 a little, our digits at ten."}}
fig, ax = plt.subplots(figsize=(7, 3))
ax.axhline(1, lw=1, color=figures.COLORS["noise"])
ax.errorbar(
    [0, *SETS],
    [1, *(1 + value / whole for value, _ in gained.values())],
    [0, *(error / whole for _, error in gained.values())],
    fmt="o-",
    ms=5,
    capsize=3,
    color=figures.COLORS["measured"],
    label=f"{SET_SIZE} digits, ours",
)
for title, rows_of, marker, color in (
    ("MNIST", numerals, "^-", "data"),
    ("CIFAR-10", record, "D-", "second"),
):
    unit = rows_of[0]["distance"]
    ax.errorbar(
        list(rows_of),
        [1 + row["difference"] / unit for row in rows_of.values()],
        [row["difference_error"] / unit for row in rows_of.values()],
        fmt=marker,
        ms=4,
        capsize=3,
        color=figures.COLORS[color],
        label=f"{rows_of[0]['images']:,} of {title}, ours",
    )
shown = [row for steps, row in published.items() if steps <= 8]
ax.plot(
    [row["steps_skipped"] for row in shown],
    [row["fid"] / base for row in shown],
    "s-",
    ms=5,
    color=figures.COLORS["first"],
    label="CIFAR-10, published FID",
)
ax.set(xlabel=f"steps skipped, of {STEPS}", ylabel="distance over that without")
ax.legend(loc="upper left")
plt.show()

# %% [markdown]
# Can the residual foresee the published knee too? Their table of residuals gives the fraction of the network's denoiser that
# the Gaussian leaves, at each noise level. As a size per pixel, with the Gaussian's own length for the network's:

# %%
photos = shipped.statistics("cifar10").double()
variances = torch.cat(
    [photos.variances, photos.tail.repeat(photos.dim - photos.rank)]
)
theirs = {}
for row in shipped.published("edm_residuals"):
    if row["model"] == "gaussian" and row["sigma"] >= 2:
        gain = variances / (variances + row["sigma"] ** 2)
        length = photos.mean.square().sum() + (gain * variances).sum()
        theirs[row["sigma"]] = (
            (row["denoiser_residual"] * length / photos.dim).sqrt().item()
        )
for sigma, size in theirs.items():
    print(f"σ = {sigma:4g}: {size:.3f} per pixel")
floor = min(theirs.values())
assert theirs[20.0] < 1.5 * floor
assert theirs[10.0] > 2 * floor
flat = [row["sigma_skip"] for row in published.values() if row["fid"] < 1.01 * base]
print(f"the FID stays within 1 % down to σ = {min(flat)}")
assert 5 < min(flat) < 10

# %% [markdown]
# The floor reaches down to $\sigma = 20$, and at 10 the residual has doubled. The FID holds until 8.4. It is a little more
# patient than the images: a small move in a random direction changes an image by its size, but a *distribution* only by its
# square. In numbers, theirs beside our record (FID there, the features of a small classifier here):

# %%
compared = figures.BesidePaper(
    [
        (
            f"CIFAR-10, Fréchet distance after {steps} of {STEPS} steps skipped, over none",
            published[steps]["fid"] / base,
            1 + record[steps]["difference"] / ours,
            record[steps]["difference_error"] / ours,
        )
        for steps in (4, 6, 8)
    ],
    "published_heun_fid.csv",
)
compared

# %% [markdown]
# ## What does it cost?
#
# Count multiplications and additions. The jump is two matrix products, into the eigenbasis and back: $4BDr$ operations for
# $B$ images of $D$ values and $r$ eigenpairs. Beside it, one evaluation of the network of Karras et al., DDPM++: we build it
# without memory for its weights, and let PyTorch count.


# %%
def operations(call, *arguments):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        call(*arguments)
    return counter.get_total_flops()


batch = 64
with torch.device("meta"):
    ddpmpp = gt.networks.DDPMpp(32, 3, 3, augment_dim=9, channel_mult=[2, 2, 2])
    theirs_once = operations(
        ddpmpp, torch.zeros(batch, 3, 32, 32), torch.zeros(batch)
    )
ours_once = (
    operations(networks["cifar10"], start("cifar10", 2), SIGMA_MAX) * batch / 2
)
rank = gaussians["cifar10"].rank
once = operations(
    gaussians["cifar10"].flow, start("cifar10", batch), SIGMA_MAX, 8.0
)
assert once == 4 * batch * photos.dim * rank
weights = sum(weight.numel() for weight in ddpmpp.parameters())
print(f"jump, {batch} images, rank {rank}: {once / 1e9:.1f} billion operations")
print(
    f"of one evaluation of DDPM++, {weights / 1e6:.1f} million weights:"
    f" {once / theirs_once:.3%}"
)
print(f"of one evaluation of our small network: {once / ours_once:.1%}")
full_rank = 4 * batch * photos.dim**2
print(f"with all {photos.dim} eigenpairs: {full_rank / theirs_once:.2%} of DDPM++")
assert full_rank < 0.01 * theirs_once

# %% [markdown]
# And is it exact in single precision? Against the same jump in float64, the largest error of any pixel, relative to the size of
# the state:

# %%
for seed in range(3):
    x = SIGMA_MAX * seeded_noise(seed, range(batch), photos.event_shape)
    for sigma in (40.0, 8.0, 0.0):
        exact = photos.flow(x.double(), SIGMA_MAX, sigma)
        single = gaussians["cifar10"].flow(x, SIGMA_MAX, sigma)
        worst = ((single - exact).abs().max() / exact.square().mean().sqrt()).item()
        if seed == 0:
            print(f"to σ = {sigma:g}: {worst:.0e}")
        assert worst < 1e-5

# %% [markdown]
# ## What we saw
#
# **Shown here.** Two matrix products replace the first third of sampling. Skipping six of 18 steps, 34 % of the calls, leaves the
# Fréchet distance where it was, within its error bar, on the digits, MNIST and CIFAR-10. The same noise in both sets shows that on
# CIFAR-10 it still grows, by 1.6 %; on MNIST nothing can be seen. The jump's own error grows with the residual
# between network and Gaussian. At high noise that is a floor, the network's own imperfection; from a level between $\sigma = 20$ and
# 5 on it rises, since the data are no Gaussian: there is the knee. A few hundred questions to the network predict the curve within a factor of two,
# before anything is drawn. For 64 images the jump costs less than a hundredth of *one* evaluation of the published network.
#
# **The paper.** [Wang & Vastola 2024](https://arxiv.org/abs/2412.09726) report on CIFAR-10, with 18 steps of Heun, an FID of 1.934
# after four skipped steps, 1.959 without.
#
# **The difference.** Our distances are those of at most a thousand images in the features of small classifiers; theirs are FIDs of
# 50,000 images of a network many times larger. Theirs becomes *better* by 1.3 % with four steps skipped, ours worse by 0.7 %; and
# theirs has the sharper knee, at eight steps, as our MNIST has. The choice of the landing point from the residual is ours.
#
# ## Exercises
#
# **1. Which statistics?** The jump needs the mean and covariance of the images. Replace the digits' covariance by an isotropic
# one of the same total variance, or keep the covariance and set the mean to zero. How far can one jump then?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
import warnings

full = gaussians["digits"]
poorer = {
    "full": full,
    "isotropic": gt.Gaussian.isotropic(full.mean, full.total_variance / full.dim),
    "mean of zero": full.with_mean(torch.zeros_like(full.mean)),
}
reach, misfits = {}, []
for name, model in poorer.items():
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        choice = gt.choose_skip(networks["digits"], model, SIGMAS[:-1], TOLERANCE)
    reach[name] = choice.sigma
    misfits += [name] if told else []
    print(f"{name:<13} jump to σ = {choice.sigma:.2f}")
print("the library warns that these are not of the network's data:", misfits)
assert reach["full"] < reach["isotropic"] < reach["mean of zero"]
assert misfits == ["mean of zero"]
# The mean matters first: at high noise the denoiser is little else. The covariance is
# the next order in 1/σ²; without it one has to stop earlier too, but not as early.

# %% [markdown]
# **2. Does the rank matter?** Keep only the leading 4, 16, 64 or 256 eigenpairs of CIFAR-10, the discarded variance as a tail, and
# compare where the jump to $\sigma = 8$ lands. How much of the jump's own error is that?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
x = start("cifar10", SEEDS["cifar10"])
target = gaussians["cifar10"].flow(x, SIGMA_MAX, 8.0)
off = {}
for rank in (4, 16, 64, 256):
    landed = gaussians["cifar10"].truncate(rank).flow(x, SIGMA_MAX, 8.0)
    off[rank] = rms(landed - target).mean().item()
    print(f"rank {rank:3d}: off by {off[rank]:.4f} per pixel")
jump_error = own["cifar10"][STOPS.index(8)].mean().item()
print(f"the jump's own error at σ = {float(fine[8]):.1f}: {jump_error:.4f}")
assert off[4] > off[16] > off[64] > off[256]
assert off[64] < 0.5 * jump_error
# 64 of 3,072 components are enough: at σ = 8 a direction of variance below 1 is drowned
# in noise of variance 64, and a tail describes it well.

# %% [markdown]
# **3. Or just fewer steps?** Without a jump one can save calls by taking fewer steps. On the digits, compare Heun's method with 12 steps from
# $\sigma = 80$ (23 calls) with the jump over six of 18 steps (23 calls too), both against the fine solver.

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
x = start("digits", 32)
goal = solve("digits", x, gt.karras_sigmas(64))
coarse = finish(gt.samplers.heun, "digits", x, gt.karras_sigmas(12))
ends = {
    "18 steps, 35 calls": finish(gt.samplers.heun, "digits", x, SIGMAS),
    "12 steps, 23 calls": coarse,
    "jump and 12 steps, 23 calls": skip("digits", x, 6),
}
missed = {name: rms(end - goal).median().item() for name, end in ends.items()}
for name, value in missed.items():
    print(f"{name:<28} off by {value:.4f} (median image)")
assert missed["jump and 12 steps, 23 calls"] < 0.7 * missed["12 steps, 23 calls"]
assert missed["jump and 12 steps, 23 calls"] < 1.1 * missed["18 steps, 35 calls"]
# The jump does with 23 calls what Heun's method does with 35: the steps that it replaces
# it replaces exactly, as far as the network is Gaussian there. A shorter grid takes steps
# away everywhere, also where the digit is decided.
