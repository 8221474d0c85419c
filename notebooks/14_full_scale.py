# %% [markdown]
# # 14 · CIFAR-10 at full scale
#
# An error per pixel says how far a jump moves an image. Whoever draws images asks another question: is the *set* of them
# as good as before? Its usual answer, the Fréchet inception distance (FID), wants 50,000 images and a GPU.
#
# > *How many network calls can be skipped before a set of images gets worse?*
#
# This chapter is written for a machine with one GPU or with several. On a laptop the same cells run with a few dozen
# images, on the small network that comes with the book, and measure a stand-in for the FID. What a few dozen images can
# say, and what not, is part of the story.

# %% tags=["parameters"] fast={"NUM": 66, "STEPS": 9, "BATCH": 33}
MODEL = "cifar10"  # or "google/ddpm-cifar10-32", or the path of edm-cifar10-32x32-uncond-vp.pkl
NUM = 80  # images for each setting; 50,000 for the published numbers
STEPS = 18  # of Heun's method, on the Karras grid from 80
SKIPPED = [0, 5, 8]  # steps that the jump replaces; 0 to 8 for the whole row
BATCH = 40  # images at once; a few hundred on a GPU
DEVICE = ""  # "" takes the GPU if there is one
OUT = ""  # folder for the images, kept and gone on with; "" is a temporary one
SEED = 0

# %%
import contextlib
import io
import tempfile
import textwrap
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image

import gausstools as gt
from gausstools import features, figures, shipped
from gausstools.commands.sample import sample

figures.set_style()
device = DEVICE or ("cuda" if torch.cuda.is_available() else "cpu")
temporary = tempfile.TemporaryDirectory()
out = Path(OUT or temporary.name)
print(f"{NUM:,} images for each of {len(SKIPPED)} settings, by {MODEL} on {device}")

# %% [markdown]
# ## What was published
#
# The authors of the paper took the EDM network of [Karras et al. 2022](https://arxiv.org/abs/2206.00364), 18 steps of
# Heun's method, and let the Gaussian's closed form replace the first steps. For each they drew 50,000 images and
# measured the FID.

# %%
published = shipped.published("heun_fid")
for row in published:
    saved = 1 - row["nfe"] / published[0]["nfe"]
    print(
        f"{row['steps_skipped']:2d} skipped, to σ = {row['sigma_skip']:4.1f}:"
        f" {row['nfe']} calls ({saved:3.0%} saved), FID {row['fid']:.3f}"
    )
by_skip = {row["steps_skipped"]: row for row in published}
assert min(by_skip, key=lambda k: by_skip[k]["fid"]) == 4
assert by_skip[5]["fid"] < by_skip[0]["fid"] < by_skip[6]["fid"]

# %% tags=["hide-input"] mystnb={"code_prompt_show": "Show the code of this figure", "code_prompt_hide": "Hide the code of this figure", "figure": {"caption": "Published FID of 50,000 images against the share of network calls that the jump saves, with the number of steps skipped. Lower is better. Up to five steps, 29 % of the calls, the images get no worse; after eight the jump reaches noise levels at which the network knows more than the Gaussian.", "name": "fig-published-fid"}, "image": {"alt": "A curve that is flat near 1.95 up to 30 percent saved, then rises to 2.1 at 40 percent, and steeply beyond 45 percent to over 20."}}
fig, ax = plt.subplots()
saved = [100 * (1 - row["nfe"] / published[0]["nfe"]) for row in published]
ax.semilogy(
    saved, [row["fid"] for row in published], "-o", color=figures.COLORS["gaussian"]
)
for x, row in zip(saved, published, strict=True):
    ax.annotate(
        str(row["steps_skipped"]),
        (x, row["fid"]),
        xytext=(0, 7),
        textcoords="offset points",
        ha="center",
        fontsize="small",
    )
ax.set(
    xlabel="network calls saved (%)", ylabel="FID", yticks=[2, 5, 10, 20, 50, 100]
)
ax.set_yticklabels([f"{tick}" for tick in ax.get_yticks()])
plt.show()

# %% [markdown]
# The curve has three parts. At first it *falls* a little. Two reasons are possible: a closed form makes no discretisation error,
# and at the highest noise a network may be the worse denoiser, as ours is ([chapter 8](08_cifar10_scores.ipynb#fig-who-denoises)).
# It is flat up to five or six steps. Then it turns up, at the levels where the Gaussian leaves more and more of the network
# ([chapter 11](11_teleportation.ipynb#fig-jump-frechet)).
#
# ## Drawing the images
#
# The command that draws them is `python -m gausstools sample`. Image $i$ starts from noise that depends on the seed and
# $i$ alone. So the settings are compared on the same noise, a run can be killed and gone on with, and several processes
# share it without a word:
#
# ```
# python -m gausstools sample google/ddpm-cifar10-32 --num 50000 \
#     --skip 19.35 --gaussian cifar10.safetensors --out runs/skip4 \
#     --device cuda --batch-size 500
# accelerate launch --num_processes 8 -m gausstools sample ...the same...
# python -m gausstools fid runs/skip4 --reference cifar10
# ```
#
# A notebook calls the same functions. We jump to levels of the grid itself, as was done for the table above.

# %%
grid = gt.karras_sigmas(STEPS)
statistics = shipped.path("cifar10-statistics.safetensors")
folders = {k: out / f"skipped-{k}" for k in SKIPPED}


def report(said):
    """Print what a command said, in lines that fit the page."""
    print(textwrap.fill(said.replace(str(out), "…"), 84, subsequent_indent="  "))


def draw(skipped, num):
    """Images with so many steps skipped, into their folder; what is there is kept."""
    with contextlib.redirect_stdout(io.StringIO()) as said:
        sample(
            MODEL,
            folders[skipped],
            num=num,
            steps=STEPS,
            skip=str(float(grid[skipped])) if skipped else None,
            gaussian=statistics,
            seed=SEED,
            batch_size=BATCH,
            device=device,
        )
    report(said.getvalue())


for skipped in SKIPPED:
    draw(skipped, NUM)

# %% [markdown]
# What happens after a power cut? We throw five images away, as if they had never been written, and call again. Only
# their batches are drawn anew, and the images come out the same, byte for byte.

# %%
some = sorted(folders[SKIPPED[-1]].glob("*.png"))
before = {path.name: path.read_bytes() for path in some}
for path in some[:5]:
    path.unlink()
draw(SKIPPED[-1], NUM)
after = {
    path.name: path.read_bytes() for path in folders[SKIPPED[-1]].glob("*.png")
}
assert after == before
print(f"{len(after)} images, all as they were")


# %% tags=["hide-input"] mystnb={"code_prompt_show": "Show the code of this figure", "code_prompt_hide": "Hide the code of this figure", "figure": {"caption": "Ten images, from the same noise in each column. Rows: all 18 steps by the network; the first steps replaced by the jump, more of them from row to row. What the network draws after the jump is the same picture with small changes, which grow with the jump.", "name": "fig-same-noise"}, "image": {"alt": "Rows of ten small colour images; within a column the images of the rows are nearly the same."}}
def shown(folder, numbers):
    """Images of a folder as (n, 3, 32, 32) in [-1, 1]."""
    pixels = [np.array(Image.open(folder / f"{i:06d}.png")) for i in numbers]
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2) / 127.5 - 1


sets = {k: shown(folders[k], range(min(NUM, 2000))) for k in SKIPPED}
fig, ax = plt.subplots(figsize=(7, 0.7 * len(SKIPPED)))
figures.image_grid(
    ax, torch.cat([images[:10] for images in sets.values()]), columns=10
)
for row, k in enumerate(SKIPPED):
    label = f"skip {k}" if k else "all steps"
    ax.text(-3, 33 * row + 16, label, ha="right", va="center", fontsize=8)
plt.show()


# %% [markdown]
# ## How far from real images?
#
# The FID compares two clouds of points: the features that an Inception network sees in the drawn images, and in the
# training images. Each cloud is replaced by its Gaussian, and the distance is that of the two Gaussians, squared
# ([Heusel et al. 2017](https://arxiv.org/abs/1706.08500); [proof](91_proofs.ipynb#distances-of-gaussians)):
#
# $$
# \begin{aligned}
# F = {}& \|\mu_1-\mu_2\|^2 \\
# &+ \operatorname{tr}(\Sigma_1+\Sigma_2) \\
# &- 2\operatorname{tr}\,(\Sigma_1\Sigma_2)^{1/2}.
# \end{aligned}
# $$ (eq-frechet)
#
# Inception's weights are not on this machine. The book ships a small classifier of CIFAR-10 instead, and `fid` takes its
# 64 features where torch-fidelity is not installed. The distance in them is **no FID**: it has other units, sees
# other faults, and compares with its own kind only.

# %%
classifier = features.load("cifar10")
training = shipped.feature_statistics("cifar10")
found = {
    k: features.frechet(images, training, classifier.features)
    for k, images in sets.items()
}
for k, distance in found.items():
    calls = 2 * (STEPS - k) - 1
    print(
        f"{k} steps skipped, {calls} calls: {distance.value:.2f} ± {distance.error:.2f},"
        f" without the bias of few images {distance.extrapolated:.2f}"
    )
beyond = {
    k: features.frechet_difference(sets[k], sets[0], training, classifier.features)
    for k in SKIPPED[1:]
}
for k, difference in beyond.items():
    print(
        f"beyond no jump, {k} steps skipped:"
        f" {difference.value:+.3f} ± {difference.error:.3f}"
    )
floor = shipped.floor("cifar10")
print(f"held-out photographs: {floor['value']:.2f} ± {floor['error']:.2f}")
assert abs(found[5].value - found[0].value) < found[0].error
assert found[0].extrapolated > 20 * floor["extrapolated"]

# %% [markdown]
# Two things can be read off, and one cannot.
#
# *The jump is not what is wrong with these images.* Replacing five steps, 29 % of the network's calls, leaves the distance
# where it was, well within its error. *The network is*: its images are dozens of times as far from the training images
# as held-out photographs are. It has 6 million weights and was trained on a laptop's processor.
#
# What cannot be read off is a change of one percent, such as the published one from 1.959 to 1.934. For that the error bar
# is much too wide ([exercise 1](#exercises)). But the noise was the same in each setting, and what it adds to one distance it
# adds to the other. So the *difference* of two distances has a far smaller error, if the same images are left out of both
# sets when it is estimated: `features.frechet_difference`, already printed above. The record of 1,024 images behind
# [chapter 11](11_teleportation.ipynb#fig-jump-frechet) sees clearly what five skipped steps do to the distance:

# %%
record = {row["steps_skipped"]: row for row in shipped.jumps("cifar10")}
unit = record[0]["distance"]
change = record[5]["difference"] / unit
change_error = record[5]["difference_error"] / unit
print(
    f"{record[5]['images']:,} images, no jump:"
    f" {unit:.2f} ± {record[0]['error']:.2f}; five steps skipped:"
    f" {change:+.1%} ± {change_error:.1%}"
)
assert 4 * change_error < change < record[0]["error"] / unit
if NUM <= 100:
    assert beyond[5].error < 0.5 * found[0].error

# %% [markdown]
# With this network the jump *costs* one percent, well hidden within the error bar of either distance and well outside that of
# the difference. And single images from the same noise can be compared too, where nothing is left to chance:

# %%
moved = {
    k: (images - sets[0]).flatten(1).square().mean(1).sqrt()
    for k, images in sets.items()
}
for k in SKIPPED[1:]:
    print(
        f"{k} steps skipped: a pixel moves by {moved[k].mean():.3f} on average,"
        " of a range of 2"
    )
assert moved[5].mean() < 0.06 < moved[8].mean()

# %% [markdown]
# To the eye the rows hold the same pictures; after eight skipped steps some details differ.
# [Chapter 11](11_teleportation.ipynb#fig-jump-error) measures this change against the noise level, and predicts it without
# drawing an image.
#
# ## Beside the paper
#
# The ratio of the distance with five steps skipped to that with none is a number that both can state. It compares an FID
# of 50,000 images with another distance of a few dozen, so its agreement should please nobody too much.

# %% tags=["hide-input"] mystnb={"code_prompt_show": "Show the code of this table", "code_prompt_hide": "Hide the code of this table"}
figures.BesidePaper(
    [
        figures.Entry(
            "Fréchet distance with 5 of 18 steps skipped, over that with none "
            f"(FID of 50,000 images; ours: small classifier, {NUM} images)",
            by_skip[5]["fid"] / by_skip[0]["fid"],
            found[5].value / found[0].value,
            beyond[5].error / found[0].value,
        )
    ],
    "published_heun_fid.csv",
)

# %% [markdown]
# ## What we saw
#
# **Shown here.** The whole measurement, from noise to distance, in the form that runs at any scale: images numbered and
# resumable, the same bytes from any number of processes, and a distance with its error. At a few dozen images, skipping 29 % of
# the calls changes nothing that lies outside this error. A thousand pairs of images show what lies within: the images of our
# network move away from the data, by one percent of the distance.
#
# **The paper.** [Wang & Vastola 2024](https://arxiv.org/abs/2412.09726) drew 50,000 images for each setting with EDM's
# network. The FID fell from 1.959 to 1.934 with four steps skipped, and stayed there with five.
#
# **The difference.** This page was made without a GPU, with a small network and a small classifier in place of Inception.
# The full run has not been made for this edition. Set `MODEL`, `NUM = 50_000`, `SKIPPED` and `OUT` at the top on a machine
# with a GPU, and the same cells make it.
#
# ## Exercises
#
# **1. How many images?** An error of independent draws falls as $1/\sqrt N$. How many images does this distance need
# before a change of one percent is twice its error?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
needed = NUM * (2 * found[0].error / (0.01 * found[0].value)) ** 2
print(f"about {needed:,.0f} images")
assert needed > 5_000
# Thousands, which is why an FID is made of 50,000. Images from the same noise need fewer:
# what they have in common cancels in the difference.

# %% [markdown]
# **2. Does the batch matter?** The files promise that image $i$ depends on the seed and $i$ alone. Draw the first
# twenty again, in batches of another size. Are they the same to the byte?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
again = out / "another-batch"
with contextlib.redirect_stdout(io.StringIO()) as said:
    sample(
        MODEL,
        again,
        num=20,
        steps=STEPS,
        skip=str(float(grid[SKIPPED[-1]])),
        gaussian=statistics,
        seed=SEED,
        batch_size=20,
        device=device,
    )
report(said.getvalue())
off = (shown(again, range(20)) - sets[SKIPPED[-1]][:20]).abs() * 127.5
print(
    f"{(off > 0.5).double().mean():.2%} of the pixels differ,"
    f" by {off.max():.0f} grey levels at most"
)
assert off.max() < 1.5
# The noise is the same, so the images are. A processor may add in another order in
# another batch, and a last digit could tip a rounding here and there. So the folder notes
# the batch size, and refuses to go on with another.
temporary.cleanup()
