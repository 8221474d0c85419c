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

# %% tags=["parameters"]
MODEL = "cifar10"  # or "google/ddpm-cifar10-32", or the path of edm-cifar10-32x32-uncond-vp.pkl
NUM = 80  # images for each setting; 50,000 for the published numbers
STEPS = 18  # of Heun's method, on the Karras grid from 80
SKIPPED = [0, 5, 8]  # steps that the jump replaces; list(range(9)) for the whole row
BATCH = 40  # images at once; a few hundred on a GPU
DEVICE = ""  # "" takes the GPU if there is one
OUT = ""  # folder for the images, kept and gone on with; "" is a temporary one
SEED = 0

# %%
import tempfile
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
ax.semilogy(saved, [row["fid"] for row in published], "-o", color=figures.COLORS["gaussian"])
for x, row in zip(saved, published, strict=True):
    ax.annotate(
        str(row["steps_skipped"]),
        (x, row["fid"]),
        xytext=(0, 7),
        textcoords="offset points",
        ha="center",
        fontsize="small",
    )
ax.set(xlabel="network calls saved (%)", ylabel="FID", yticks=[2, 5, 10, 20, 50, 100])
ax.set_yticklabels([f"{tick}" for tick in ax.get_yticks()])
plt.show()

# %% [markdown]
# The curve has three parts. At first it *falls*: a closed form makes no discretisation error, and the network's own
# answers at σ = 80 are not better than the Gaussian's. It is flat up to five or six steps. Then it turns up, where
# [chapter 8](08_cifar10.ipynb) found the network's score to leave the Gaussian's.
#
# ## Drawing the images
#
# The command that draws them is `python -m gausstools sample`. Image $i$ starts from noise that depends on the seed and
# $i$ alone. So the settings are compared on the same noise, a run can be killed and gone on with, and several processes
# share it without a word:
#
# ```
# python -m gausstools sample google/ddpm-cifar10-32 --num 50000 --skip 19.35 --out runs/skip4 \
#     --gaussian cifar10.safetensors --device cuda --batch-size 500
# accelerate launch --num_processes 8 -m gausstools sample ...the same...
# python -m gausstools fid runs/skip4 --reference cifar10
# ```
#
# A notebook calls the same functions. We jump to levels of the grid itself, as was done for the table above.

# %%
grid = gt.karras_sigmas(STEPS)
statistics = shipped.path("cifar10-statistics.safetensors")
folders = {k: out / f"skipped-{k}" for k in SKIPPED}


def draw(skipped, num):
    """Images with so many steps skipped, into their folder; those that are there are kept."""
    sample(
        MODEL,
        folders[skipped],
        num=num,
        steps=STEPS,
        skip=f"{float(grid[skipped]):.6g}" if skipped else None,
        gaussian=statistics,
        seed=SEED,
        batch_size=BATCH,
        device=device,
    )


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
after = {path.name: path.read_bytes() for path in folders[SKIPPED[-1]].glob("*.png")}
assert after == before
print(f"{len(after)} images, all as they were")


# %% tags=["hide-input"] mystnb={"code_prompt_show": "Show the code of this figure", "code_prompt_hide": "Hide the code of this figure", "figure": {"caption": "Ten images, from the same noise in each column. Rows: all 18 steps by the network; the first steps replaced by the jump, more of them from row to row. What the network draws after the jump is the same picture with small changes, which grow with the jump.", "name": "fig-same-noise"}, "image": {"alt": "Rows of ten small colour images; within a column the images of the rows are nearly the same."}}
def shown(folder, numbers):
    """Images of a folder as (n, 3, 32, 32) in [-1, 1]."""
    pixels = [np.array(Image.open(folder / f"{i:06d}.png")) for i in numbers]
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2) / 127.5 - 1


sets = {k: shown(folders[k], range(min(NUM, 2000))) for k in SKIPPED}
fig, ax = plt.subplots(figsize=(7, 0.75 * len(SKIPPED)))
figures.image_grid(ax, torch.cat([images[:10] for images in sets.values()]), columns=10)
plt.show()

# %%
moved = {
    k: (images - sets[0]).flatten(1).square().mean(1).sqrt() for k, images in sets.items()
}
for k in SKIPPED[1:]:
    print(
        f"{k} steps skipped: a pixel moves by {moved[k].mean():.3f} of a range of 2"
        f" (median over the images {moved[k].median():.3f})"
    )
assert moved[5].mean() < 0.06 < moved[8].mean()
