# %% [markdown]
# # 4 · Mixtures and point clouds
#
# One Gaussian has one bump. Real data come in kinds: cats and dogs, sevens and ones. And what a network is trained on is
# not a smooth density at all but a finite list of images. Both have exact scores. They are mixtures: of a few Gaussians, or
# of as many spikes as there are images. [Chapter 3](03_predictions.ipynb) met both on digits, where they kept the order that
# the Gaussian predicts and broke its rule for kicks.
#
# > *When does a sample decide what it will be? And why, before that, does a single Gaussian know almost everything?*
#
# This chapter answers both in the plane. The first answer is a noise level with a formula. The second is an expansion, which
# also says where the Gaussian must fail.

# %% tags=["parameters"] fast={"SEEDS": [0, 1], "N_PATHS": 100, "SIZES": [30, 100, 300], "N_FRESH": 100}
SEEDS = [0, 1, 2, 3, 4]
N_PATHS = 1000  # paths for each seed
SIZES = [30, 100, 300, 1000, 3000]  # training sets whose scores are measured
N_FRESH = 400  # unseen points that they are measured at

# %%
import math

import matplotlib.pyplot as plt
import torch
from matplotlib.colors import to_rgb
from scipy.optimize import brentq

import gausstools as gt
from gausstools import figures
from gausstools.figures import interactive

figures.set_style()
# The far field is read off down to errors of a billionth.
torch.set_default_dtype(torch.float64)
KINDS = [figures.COLORS[name] for name in ("first", "second", "gaussian")]


def seeded(seed):
    return torch.Generator().manual_seed(seed)


# %% [markdown]
# ## Which bump did it come from?
#
# Our data are of three kinds. Kind $k$ has share $w_k$, mean $\mu_k$ and covariance $\Sigma_k$:
#
# $$
# p(x_0) = \sum_k w_k\, \mathcal N(x_0;\, \mu_k, \Sigma_k).
# $$ (eq-mixture)


# %%
def kind(mean, deviations, degrees):
    angle = math.radians(degrees)
    axes = torch.tensor(
        [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    )
    return gt.Gaussian(torch.tensor(mean), torch.tensor(deviations) ** 2, axes)


mixture = gt.Mixture(
    weights=[0.5, 0.3, 0.2],
    components=[
        kind([-1.0, -0.3], [0.35, 0.12], 60),
        kind([0.8, 0.7], [0.30, 0.10], -20),
        kind([0.6, -0.9], [0.15, 0.15], 0),
    ],
)
print(mixture)
print(
    "widths of the whole:", mixture.to_gaussian().variances.sqrt().numpy().round(2)
)

# %% [markdown]
# Noise widens each bump to $\Sigma_k + \sigma^2 I$ and leaves the shares alone. Differentiate the logarithm of the sum:
#
# $$
# \begin{aligned}
# \nabla\log p &= \sum_k \rho_k(x)\, s_k(x), \\
# \rho_k &\propto w_k\, \mathcal N(x;\, \mu_k, \Sigma_k+\sigma^2 I),
# \end{aligned}
# $$ (eq-mixture-score)
#
# where $s_k$ is the score of bump $k$ alone, which we know from [chapter 2](02_gaussian_model.ipynb). The weight $\rho_k$ is
# the probability that $x$ came from kind $k$, by Bayes' rule: its **responsibility**. The denoiser is weighted in the same
# way: each Gaussian answers for itself, and the answers are averaged with the weights $\rho_k$.
#
# The check takes the gradient of the log density by automatic differentiation, and the right-hand side from the components.


# %%
def deviation_from_autograd(sigma, seed):
    x = mixture.sample(500, sigma, generator=seeded(seed)).requires_grad_()
    logs = torch.stack([g.log_prob(x, sigma) for g in mixture], 1)
    density = (logs + mixture.weights.log()).logsumexp(1)
    gradient = torch.autograd.grad(density.sum(), x)[0]
    scores = torch.stack([g.score(x, sigma) for g in mixture], 1)
    weighted = (mixture.posterior(x, sigma)[..., None] * scores).sum(1)
    return ((weighted - gradient).norm() / gradient.norm()).item()


deviations = [
    deviation_from_autograd(s, seed) for s in (0.1, 0.5, 2) for seed in SEEDS
]
print(f"weighted scores against the gradient: {max(deviations):.0e} apart at most")
assert max(deviations) < 1e-12


# %% mystnb={"figure": {"caption": "The mixture at three noise levels. Colour: the responsibilities, one colour for each kind, mixed where none is certain. Arrows: σ²/3 times the score. At σ = 2 the colours run into each other and all arrows aim at one centre. At 0.2 the plane is divided among the kinds, with borders as narrow as the eye can see.", "name": "fig-responsibilities"}, "image": {"alt": "Three square panels with three tilted ellipses. In the first the background is a soft mixture of purple, green and blue, and arrows point to the centre; in the last it is cut into three flat areas of pure colour, one around each ellipse, and the arrows point to the ellipse of their own area."}}
def grid(reach, n):
    axis = torch.linspace(-reach, reach, n)
    return torch.cartesian_prod(axis, axis)


palette = torch.tensor([to_rgb(color) for color in KINDS])


def tint(shares):
    """Colours of rows of shares (n, 3), pale enough to draw on."""
    return 1 - 0.45 * (1 - shares @ palette)


fig, axes = plt.subplots(1, 3, figsize=(7, 2.6))
for ax, sigma in zip(axes, [2.0, 0.7, 0.2]):
    colors = tint(mixture.posterior(grid(2.2, 150), sigma))
    ax.imshow(
        colors.reshape(150, 150, 3).transpose(0, 1),
        origin="lower",
        extent=(-2.2, 2.2, -2.2, 2.2),
    )
    at = grid(2.0, 11)
    figures.vector_field(
        ax, at, mixture.score(at, sigma) * sigma**2 / 3, width=0.006
    )
    for component, color in zip(mixture, KINDS):
        figures.draw_covariance(
            ax, component.mean, component.covariance, edgecolor=color
        )
    ax.set(
        title=f"σ = {sigma:g}", xlim=(-2.2, 2.2), ylim=(-2.2, 2.2), aspect="equal"
    )
plt.show()

# %% [markdown]
# ## When does a path decide?
#
# The probability flow has no dice in it. Where a path ends is settled by where it starts. And yet at high noise the denoiser
# answers with a blend of all kinds, and at low noise with one. When does the one become the other? And when do two neighbours,
# bound for different kinds, part?
#
# Take the simplest case that has a choice: two round bumps of variance $w^2$, equally frequent, whose means lie a distance
# $2m$ apart. Only the coordinate $x$ along the line through the means matters; put its zero half-way. With $v = w^2+\sigma^2$
# for the noised variance, the weighted score [(above)](#eq-mixture-score) becomes
#
# $$
# \begin{aligned}
# \partial_x \log p &= -\frac xv + \frac mv \tanh\frac{mx}{v} \\
# &\approx -\Big(1-\frac{m^2}{v}\Big)\frac xv,
# \end{aligned}
# $$ (eq-pair-score)
#
# the second line near $x = 0$. The sign of the bracket decides. For $v > m^2$ the middle is a hilltop of the density, and the
# flow gathers paths there. For $v < m^2$ it is a valley, and paths leave it on both sides. The change comes at
#
# $$
# \sigma_c = \sqrt{m^2 - w^2}.
# $$ (eq-parting)
#
# So the flow decides once the noise is as wide as *half the distance between the means*, a little less if the bumps are wide
# themselves. Bumps with $w > m$ never separate.
#
# The gap $\delta$ between two paths that run close to the middle, one on each side, can be solved as well:
# $\mathrm d\delta/\mathrm d\sigma = -\sigma\, \partial_x^2 \log p \cdot \delta$ gives
#
# $$
# \delta(\sigma) \propto \sqrt v\; e^{m^2/2v}.
# $$ (eq-gap)
#
# The root is the Gaussian's contraction, the exponential the parting. The gap is smallest where $v = m^2$: at $\sigma_c$. We let
# Heun's method follow two neighbours past three pairs of bumps.


# %%
def pair_of(m, w):
    means = (torch.tensor([-m, 0.0]), torch.tensor([m, 0.0]))
    return gt.Mixture([0.5, 0.5], [gt.Gaussian.isotropic(mu, w**2) for mu in means])


def follow(denoiser, x, levels):
    """States at every level, (levels, batch, 2), by Heun's method."""
    return torch.stack([x, *(s.x for s in gt.samplers.heun(denoiser, x, levels))])


PAIRS = [(2.0, 0.3), (1.0, 0.3), (1.0, 0.8)]
gaps = {}
for m, w in PAIRS:
    levels = torch.logspace(math.log10(20), -1.5, 801)
    neighbours = torch.tensor([[-1e-8, 0.0], [1e-8, 0.0]])
    path = follow(pair_of(m, w), neighbours, levels)[..., 0]
    gap = path[:, 1] - path[:, 0]
    v = w**2 + levels**2
    formula = gap[0] * (v / v[0]).sqrt() * (m**2 / 2 * (1 / v - 1 / v[0])).exp()
    close = gap < 0.01 * w
    worst = (gap / formula - 1)[close].abs().max().item()
    narrowest, parting = levels[gap.argmin()].item(), math.sqrt(m**2 - w**2)
    print(
        f"m = {m:g}, w = {w:g}: narrowest at σ = {narrowest:.3f}, σ_c ="
        f" {parting:.3f};"
        f" gap within {worst:.1%} of the formula"
    )
    assert abs(narrowest / parting - 1) < 0.01
    assert worst < 0.02
    gaps[m, w] = levels, gap, formula

# %% mystnb={"figure": {"caption": "Left: 24 paths past two bumps (m = 1, w = 0.3), in units of the noised deviation, so that a Gaussian's paths would be level lines. They are level until about $\\sigma_c$ (dotted) and then go to one side or the other. Right: the gap between two neighbours in the middle, relative to its start, for three pairs of bumps: followed by a solver (lines) and by the formula (dots, as long as the gap is small against w). Each is narrowest at its $\\sigma_c$ (dotted).", "name": "fig-parting"}, "image": {"alt": "Left, horizontal lines that, going to lower noise, split at a dotted line into two bundles with an empty space between them. Right, three curves that fall along one diagonal and then turn up steeply, each at its own dotted vertical line, with dots lying on the curves."}}
fig, (left, right) = plt.subplots(1, 2, figsize=(7, 3.1))
m, w = PAIRS[1]
levels = gaps[m, w][0][::4]
places = torch.linspace(-2.3, 2.3, 24)[:, None] * torch.tensor([1.0, 0.0])
lines = follow(pair_of(m, w), places * math.hypot(20, w, m), levels)[..., 0]
lines = lines / (levels**2 + w**2 + m**2).sqrt()[:, None]
for line in lines.unbind(1):
    color = KINDS[0] if line[-1] < 0 else KINDS[1]
    left.semilogx(levels, line, color=color, lw=0.9)
left.axvline(math.sqrt(m**2 - w**2), color="black", ls=":", lw=1)
left.set(xlabel="noise level σ", ylabel="x, in noised deviations")
for ((m, w), (levels, gap, formula)), color in zip(gaps.items(), KINDS):
    right.loglog(levels, gap / gap[0], color=color, label=f"m = {m:g}, w = {w:g}")
    dots = (gap < 0.01 * w).nonzero()[::40]
    right.loglog(levels[dots], (formula / gap[0])[dots], "o", ms=3, color="black")
    # They end above the legend.
    right.axvline(math.sqrt(m**2 - w**2), 0.28, color=color, ls=":", lw=1)
right.set(xlabel="noise level σ", ylabel="gap, relative to the start")
right.set(ylim=(4e-3, 30))
right.legend(fontsize="small", loc="lower left")
for ax in (left, right):
    ax.invert_xaxis()
plt.show()

# %% [markdown]
# That is the fate of neighbours. What does a typical path know, and when? Measure its doubt by the **entropy** of the
# responsibilities, $-\sum_k \rho_k \log_2 \rho_k$: one bit where both kinds are equally likely, none where one is certain. Call a
# path decided once less than half a bit is left, that is when one kind has $\rho > 0.89$.
#
# This too can be predicted. From the responsibilities, a path is decided where $|x| > x^*$, with
# $x^* = \tfrac{v}{2m}\ln\frac{\rho}{1-\rho}$ at that $\rho$. And since the flow keeps the noised density, the share of decided
# paths is the mass of that density beyond $x^*$. At $\sigma_c$, where $v = m^2$, both $m$ and $w$ drop out of it, and the mass
# comes to very nearly one half. *Half of all paths have decided when the noise has fallen to $\sigma_c$*, whatever the pair.

# %%
certain = brentq(
    lambda p: p * math.log2(p) + (1 - p) * math.log2(1 - p) + 0.5, 0.5, 1 - 1e-9
)
assert round(certain, 2) == 0.89
odds = math.log(certain / (1 - certain))
normal = torch.distributions.Normal(0.0, 1.0)
relative = torch.logspace(1.3, -1.5, 57)  # noise levels over σ_c, 1 among them


def bits(model, x, sigma):
    return torch.special.entr(model.posterior(x, sigma)).sum(1) / math.log(2)


def decided_share(m, w):
    """Of paths, (seeds, levels): measured, and what the noised density predicts."""
    pair, levels = pair_of(m, w), math.sqrt(m**2 - w**2) * relative
    start = [pair.sample(N_PATHS, levels[0], generator=seeded(s)) for s in SEEDS]
    path = follow(pair, torch.cat(start), levels)
    doubt = torch.stack([bits(pair, x, s) for x, s in zip(path, levels)], 1)
    v = w**2 + levels**2
    edge, width = v * odds / (2 * m), v.sqrt()
    mass = normal.cdf((m - edge) / width) + normal.cdf((-m - edge) / width)
    return (
        (doubt.reshape(len(SEEDS), N_PATHS, -1) < 0.5).double().mean(1),
        mass,
        doubt,
    )


decided = {(m, w): decided_share(m, w) for m, w in PAIRS}
at_parting = int((relative - 1).abs().argmin())
for (m, w), (share, mass, _) in decided.items():
    chance = (mass * (1 - mass) / N_PATHS).sqrt().clamp(min=1e-3)
    off = ((share - mass).abs() / chance).max().item()
    half = share[:, at_parting]
    print(
        f"m = {m:g}, w = {w:g}: {half.mean():.1%} ± {half.std():.1%} decided"
        " at σ_c,"
        f" predicted {mass[at_parting]:.1%}"
    )
    print(f"  anywhere at most {off:.1f} standard errors off the prediction")
    assert abs(mass[at_parting] - 0.5) < 0.005
    assert off < 4.5

# %% mystnb={"figure": {"caption": "Left: doubt along twelve paths of the pair m = 1, w = 0.3, from the same draw. Each falls from one bit to none, early or late. Right: the share of paths with less than half a bit left, for the three pairs: measured on paths (lines, with a band of one standard deviation over five draws) and predicted from the density (dots). All pass through one half at $\\sigma_c$. Bumps that overlap (w = 0.8) leave some paths undecided for good.", "name": "fig-decided"}, "image": {"alt": "Left, twelve curves that start at one bit and drop to zero at different noise levels around the dotted line. Right, three S-shaped curves with dots on them that cross at the point where the noise is at the critical level and half of the paths are decided; two of them reach one, the third levels off below."}}
fig, (left, right) = plt.subplots(1, 2, figsize=(7, 3))
left.semilogx(relative, decided[PAIRS[1]][2][:12].T, color=KINDS[1], lw=0.9)
left.axhline(0.5, color=figures.COLORS["noise"], lw=0.8)
left.set(ylabel="doubt, in bits")
for ((m, w), (share, mass, _)), color in zip(decided.items(), KINDS):
    mean, spread = share.mean(0), share.std(0)
    right.semilogx(relative, mean, color=color, label=f"m = {m:g}, w = {w:g}")
    right.fill_between(
        relative, mean - spread, mean + spread, color=color, alpha=0.25, lw=0
    )
    right.plot(relative[::3], mass[::3], "o", ms=3, color="black")
right.set(ylabel="share of decided paths")
right.legend(fontsize="small")
for ax in (left, right):
    ax.axvline(1, color="black", ls=":", lw=1)
    ax.set_xlabel("noise level, $σ/σ_c$")
    ax.invert_xaxis()
plt.show()

# %% [markdown]
# ## Basins
#
# Back to three kinds. All starting points whose paths end at one kind form its **basin**. The map of basins is drawn before any
# step is taken: it is a property of the score alone. And one thing about it is known without drawing. The flow keeps the density,
# so of the noise that we start from, each basin holds the share of its kind, $w_k$, up to the overlap of the kinds.

# %%
HIGH = 40.0
ladder = gt.karras_sigmas(120, sigma_min=0.02, sigma_max=HIGH)[:-1]


def ends_at(x, sigma):
    """Kind at which the path from x at noise level sigma ends, (batch,)."""
    levels = gt.karras_sigmas(50, sigma_min=0.02, sigma_max=sigma)[:-1]
    return mixture.posterior(follow(mixture, x, levels)[-1], 0.02).argmax(1)


noise = torch.stack([torch.randn(N_PATHS, 2, generator=seeded(s)) for s in SEEDS])
start = mixture.mean + HIGH * noise.flatten(0, 1)
path = follow(mixture, start, ladder)
final = mixture.posterior(path[-1], ladder[-1]).argmax(1)
shares = torch.stack(
    [torch.bincount(f, minlength=3) for f in final.chunk(len(SEEDS))]
)
shares = shares / N_PATHS
for k, weight in enumerate(mixture.weights):
    print(
        f"kind {k + 1}: basin holds {shares[:, k].mean():.1%} ±"
        f" {shares[:, k].std():.1%}"
        f" of the noise, share of the data {weight:.0%}"
    )
chance = (mixture.weights * (1 - mixture.weights) / N_PATHS).sqrt()
assert ((shares - mixture.weights).abs() / chance).max() < 4

# %% mystnb={"figure": {"caption": "Where paths end, as a map of where they are now. Left: starting points at σ = 40, in units of 40. Middle and right: states at σ = 1 and 0.3. The colour is the kind at which the path from there ends. Dashed (left): one and two deviations of the noise. Black: borders between the kinds that the responsibilities favour at that level. At σ = 40 there is none, since the most frequent kind is the favourite everywhere; at 1 and 0.3 they come to lie on the borders of the basins where the paths are.", "name": "fig-basins"}, "image": {"alt": "Three maps in purple, green and blue. The left one shows three wedges that meet near the middle of two dashed circles. In the middle and right one the areas' borders run between three ellipses, and black lines nearly or wholly follow them there."}}
fig, axes = plt.subplots(1, 3, figsize=(7, 2.6))
for ax, sigma in zip(axes, [HIGH, 1.0, 0.3]):
    x = grid(2.4, 121)
    x = mixture.mean + HIGH * x if sigma == HIGH else x
    where = torch.nn.functional.one_hot(ends_at(x, sigma), 3).double()
    extent = (-2.4, 2.4, -2.4, 2.4)
    image = tint(where).reshape(121, 121, 3).transpose(0, 1)
    ax.imshow(image, origin="lower", extent=extent)
    favourite = mixture.posterior(x, sigma).argmax(1).reshape(121, 121).T
    assert sigma < HIGH or (favourite == 0).all()
    for k in range(3 if sigma < HIGH else 0):
        ax.contour(
            (favourite == k).double(),
            [0.5],
            extent=extent,
            colors="black",
            linewidths=0.8,
        )
    if sigma == HIGH:
        figures.draw_covariance(
            ax, torch.zeros(2), torch.eye(2), linestyle="--", edgecolor="white"
        )
    else:
        for component, color in zip(mixture, KINDS):
            figures.draw_covariance(
                ax, component.mean, component.covariance, edgecolor=color
            )
    ax.set(
        title=f"σ = {sigma:g}", aspect="equal", xlim=(-2.4, 2.4), ylim=(-2.4, 2.4)
    )
plt.show()

# %% [markdown]
# Try it. Drag the start across a border, and slide the noise level down.

# %% mystnb={"figure": {"caption": "Drag the black circle, or move it by the arrow keys: the path that starts there at σ = 2 is solved while you drag. Small dots: the basins at σ = 2, by colour. Light blue: the path, with its state and denoised point (orange) at the slider's noise level. Blue ellipses: the noised kinds, the stronger the colour the more responsible. Dark blue: the path from the same start under the one Gaussian with the mixture's mean and covariance. The two run side by side until there is something to choose.", "name": "fig-basins-live"}, "image": {"alt": "A plane of small dots in three colours, one for each basin, with three ellipses in the middle. From a black circle two curves run inwards together and part near the middle; one of them ends inside an ellipse."}}
at = grid(3.8, 25)
ends = ends_at(at, 2.0)
plane = interactive.Panel(
    x=(-4, 4),
    y=(-4, 4),
    equal=True,
    width=480,
    background=[
        interactive.Points(at[ends == k], color, 5, 0.6)
        for k, color in enumerate(KINDS)
    ],
)
interactive.flow(
    mixture,
    [3.2, -0.3],
    plane,
    name="basins",
    sigma_max=2.0,
    sigma_min=0.1,
    sigma=0.5,
    other=mixture.to_gaussian(),
)

# %% [markdown]
# At which noise level can one *read off* the kind? We ask for the favourite, the kind with the largest responsibility, on
# the way down, and for the mean doubt. Each two of the three kinds form a pair with a level of its own [(above)](#eq-parting); for
# $w$ take the width along the line through the two means.

# %%
ways = [(0, 1), (0, 2), (1, 2)]
partings = []
for i, j in ways:
    line = mixture.means[j] - mixture.means[i]
    inside = (mixture[i].covariance + mixture[j].covariance) / 2
    width = (line @ inside @ line) / line.square().sum()
    partings.append((line.square().sum() / 4 - width).sqrt().item())
print("σ_c of the three pairs:", *(f"{level:.2f}" for level in partings))

doubt = torch.stack([bits(mixture, x, s) for x, s in zip(path, ladder)])
doubt = doubt.reshape(len(ladder), len(SEEDS), -1).mean(2)
right_guess = torch.stack(
    [
        (mixture.posterior(x, s).argmax(1) == final).double().mean()
        for x, s in zip(path, ladder)
    ]
)
for sigma in (HIGH, 3.0, 1.0, 0.5, 0.2):
    i = int((ladder - sigma).abs().argmin())
    print(
        f"σ = {ladder[i]:<5.2f} favourite right on {right_guess[i]:.0%} of paths,"
        f" mean doubt {doubt[i].mean():.2f} bits"
    )
half_way = ladder[(doubt - doubt[0] / 2).abs().argmin(0)]
print(
    f"half of the doubt is gone at σ = {half_way.mean():.2f} ± {half_way.std():.2f}"
)
assert 0.95 * min(partings) < half_way.min() <= half_way.max() < max(partings)

# %% [markdown]
# At the start the favourite is simply the most frequent kind, which is right for half of the paths, though the end of every path is
# already settled. The doubt is the denoiser's, not the path's. It goes where the pairs part.
#
# ## A training set is a mixture too
#
# Now the extreme case. A training set $y_1 \dots y_N$ is a mixture of $N$ bumps without width, and its score is
# the weighted one [(above)](#eq-mixture-score) with $\Sigma_k = 0$. The responsibilities are the softmax weights of
# [chapter 1](01_noise_and_score.ipynb), where we saw that this score returns its training points and nothing else. The library
# calls it `PointCloud`.
#
# Here we know more than chapter 1 did: the distribution that the points were drawn from, and its exact score. So we can ask what a
# training set gets right. From the same noise, how far is the end of its path from the *truth*, the end of the mixture's path? We
# measure it (the median over 300 starts) in units of the **spacing** $d$: the root-mean-square distance from an unseen point of the
# distribution to the nearest training point.


# %%
def drawn(n, seed):
    return gt.PointCloud(mixture.sample(n, generator=seeded(1000 + seed)))


def spacing(cloud, fresh):
    """Root-mean-square distance of unseen points from the nearest in the cloud."""
    nearest = gt.NearestNeighbour(cloud)(fresh, 0.0)
    return (fresh - nearest).square().sum(1).mean().sqrt().item()


fine = gt.karras_sigmas(50, sigma_min=1e-3, sigma_max=HIGH)[:-1]
some = start[:: len(SEEDS)][:300]
truth = follow(mixture, some, fine)
for n in (30, 300, 3000):
    cloud = drawn(n, 0)
    end = follow(cloud, some, fine)[-1]
    off_data = (gt.NearestNeighbour(cloud)(end, 0.0) - end).norm(dim=1).max()
    d = spacing(cloud, mixture.sample(2000, generator=seeded(0)))
    apart = (end - truth[-1]).norm(dim=1).median().item() / d
    print(
        f"{n:4d} points, d = {d:.3f}: ends {off_data:.3f} from one of them at most,"
        f" {apart:.2f} d from the truth"
    )
    assert off_data < 10 * fine[-1]
    assert 0.6 < apart < 1.5

# %% mystnb={"figure": {"caption": "The same ten starts, followed down the score of the mixture (grey, ending in open circles) and down the score of points drawn from it (light blue, ending in orange dots); black: the points. The two run together until the noise is as narrow as the gaps between points. Then the mixture's path stops at a new point and the cloud's goes on to an old one.", "name": "fig-memorise"}, "image": {"alt": "Two panels with black points in three groups, 30 on the left and 300 on the right. Pairs of grey and light blue curves come in together and part close to their ends; every orange dot has a black point at its centre. On the right the pairs end much closer to each other."}}
fig, axes = plt.subplots(1, 2, figsize=(7, 3.3))
for ax, n in zip(axes, (30, 300)):
    cloud = drawn(n, 0)
    ax.scatter(
        *cloud.data.T, s=4, color=figures.COLORS["data"], linewidths=0, zorder=4
    )
    for lines, color in (
        (truth, figures.COLORS["noise"]),
        (follow(cloud, some, fine), figures.COLORS["path"]),
    ):
        for line in lines[:, :10].unbind(1):
            ax.plot(*line.T, color=color, lw=1.1)
        ends = lines[-1, :10].T
        if color == figures.COLORS["path"]:
            ax.scatter(
                *ends,
                s=22,
                color=figures.COLORS["denoised"],
                linewidths=0,
                zorder=3,
            )
        else:
            ax.scatter(*ends, s=22, facecolors="none", edgecolors=color, zorder=3)
    ax.set(title=f"{n} points", xlim=(-1.9, 1.7), ylim=(-1.5, 1.5), aspect="equal")
plt.show()

# %% [markdown]
# ## Where the cloud's score strays from the truth
#
# The sample of a training set is, so to speak, the sample of the distribution rounded to training data. The unit of rounding is
# the spacing. In the plane $d \propto N^{-1/2}$, in $D$ dimensions $N^{-1/D}$.
#
# How wrong is the cloud's denoiser at noise level $\sigma$? Two limits are easy, for points with density $\nu$ per area.
#
# - *Much less noise than the spacing.* The cloud answers with its nearest point, the distribution with $x$ itself. The mean
#   squared error is $d^2$, which for random points is $1/(\pi\nu)$.
# - *Much more.* The cloud averages the points in sight with normal weights. An average of finitely many points errs by chance:
#   the squared weights add up to $1/(4\pi\sigma^2\nu)$, and under them a point lies $\sigma$ away. The mean squared error is
#   $1/(4\pi\nu)$, a quarter of $d^2$.
#
# So in the plane the error of the *denoiser* hardly depends on the noise level: it is between $d/2$ and $d$, until the noise is as
# wide as the distribution. The error of the *score* is that over $\sigma^2$, and explodes at small $\sigma$. Relative to the
# score of the distribution itself,
#
# $$
# \begin{aligned}
# R(\sigma) &= \frac{\mathbb E\,\|s_\text{cloud}-s\|^2}{\mathbb E\,\|s\|^2} \\
# &= \frac{c\,d^2}{\sigma^4\, \mathbb E\,\|s\|^2},
# \end{aligned}
# $$ (eq-cloud-error)
#
# with $c$ between ¼ and 1. This is chapter 1's fraction of unexplained variance, with the distribution's score as the one to
# be explained.

# %%
levels = torch.logspace(-2.4, 0.2, 18)


def cloud_error(n, seed):
    """d, and at each level E|s_cloud − s|² and E|s|², at noised unseen points."""
    cloud = drawn(n, seed)
    fresh = mixture.sample(N_FRESH, generator=seeded(seed))
    errors, sizes = [], []
    for sigma in levels.tolist():
        x = gt.evaluation_points(fresh, sigma, N_FRESH, seed)
        score = mixture.score(x, sigma)
        errors.append((cloud.score(x, sigma) - score).square().sum(1).mean())
        sizes.append(score.square().sum(1).mean())
    return spacing(cloud, fresh), torch.stack(errors), torch.stack(sizes)


measured = {(n, seed): cloud_error(n, seed) for n in SIZES for seed in SEEDS}
c = torch.stack([e * levels**4 / d**2 for d, e, _ in measured.values()])
spacings = torch.tensor([d for d, _, _ in measured.values()])
for low, high in ((0.05, 0.2), (0.5, 1.0), (1.0, 2.0)):
    inside = (levels > low * spacings[:, None]) & (
        levels < high * spacings[:, None]
    )
    print(
        f"{low:g} d < σ < {high:g} d: c = {c[inside].mean():.2f} ±"
        f" {c[inside].std():.2f}"
    )
    assert 0.25 < c[inside].mean() < 1

# %% [markdown]
# Two noise levels follow. Where $R$ reaches one half, the score has **strayed** from the truth. By the formula this is
# $\sigma \propto \sqrt d$, since the score of the distribution is bounded: the geometric mean of the spacing and the width of
# the bumps. And where the denoiser errs by as much as the noise that it should remove, between $\sigma = d/2$ and $d$, it no
# longer denoises, it **recites**: its answer is nearly a training point.
#
# > **Predict.** From 30 training points to 3,000, the spacing falls about eightfold. How far does the level fall where the
# > score strays: eightfold, three- to fourfold, or hardly? And the level below which the denoiser recites?


# %%
def highest(curve, target):
    """The highest level at which a falling curve is above the target."""
    i = int((curve > target).nonzero().max())
    (a, b), (at, below) = curve[i : i + 2].log(), levels[i : i + 2].log()
    return (at + (below - at) * (a - math.log(target)) / (a - b)).exp().item()


found = {
    "spacing": spacings,
    "strays": [highest(error / size, 0.5) for _, error, size in measured.values()],
    "recites": [highest(e * levels**2, 1.0) for _, e, _ in measured.values()],
}
found = {k: torch.as_tensor(v).reshape(len(SIZES), -1) for k, v in found.items()}
for n, d, strays, recites in zip(SIZES, *found.values()):
    print(
        f"{n:4d} points: strays at σ = {strays.mean():.3f} ± {strays.std():.3f},"
        f" recites below {recites.mean():.3f} ± {recites.std():.3f}"
        f" = {(recites / d).mean():.2f} d"
    )
recited = found["recites"] / found["spacing"]
assert 0.5 < recited.min() <= recited.max() < 1.0

# %%
log_n = torch.tensor(SIZES[1:]).double().log()
log_n = (log_n - log_n.mean())[:, None]
for name, plain in (("spacing", -1 / 2), ("strays", -1 / 4), ("recites", -1 / 2)):
    # Least squares from 100 points on, for each seed.
    power = (log_n * found[name][1:].log()).sum(0) / log_n.square().sum()
    error = power.std() / len(SEEDS) ** 0.5
    print(
        f"{name:<7} ∝ N to the power {power.mean():.2f} ± {error:.2f}, plain"
        f" {plain}"
    )
    assert abs(power.mean() - plain) < 0.1
gain = {name: (at[0].mean() / at[-1].mean()).item() for name, at in found.items()}
print(f"from {SIZES[0]} to {SIZES[-1]} points, to become smaller by a factor:")
print(", ".join(f"{name} {factor:.1f}" for name, factor in gain.items()))
assert 3 < gain["strays"] < 4
assert 7 < gain["recites"] < 10
assert 7 < gain["spacing"] < 10

# %% mystnb={"figure": {"caption": "Left: fraction of the mixture's score that the exact score of N training points leaves unexplained, on noised unseen points (mean of five clouds). Bands: the formula from c = ¼ to c = 1, for the fewest and the most points. Right: the noise level where that fraction is one half (dots), and the one below which the denoiser recites training points (squares); bars of one standard deviation; lines of slope −1/4 and −1/2.", "name": "fig-cloud-strays"}, "image": {"alt": "Left, five parallel falling curves with shaded bands around them, the lower the more points. Right, two falling series of points on logarithmic axes, the upper one with half the slope of the lower one, so that they move apart."}}
fig, (left, right) = plt.subplots(1, 2, figsize=(7, 3.1))
shades = plt.get_cmap(figures.LEVELS)(torch.linspace(0, 0.85, len(SIZES)).numpy())
for n, color in zip(SIZES, shades):
    d, error, size = zip(*(measured[n, seed] for seed in SEEDS))
    size, d = torch.stack(size).mean(0), sum(d) / len(d)
    curve = torch.stack(error).mean(0) / size
    left.loglog(levels, curve, color=color, label=f"N = {n}")
    if n in (SIZES[0], SIZES[-1]):
        near = levels < 4 * d
        band = (d**2 / (levels**4 * size))[near]
        left.fill_between(
            levels[near], band / 4, band, color=color, alpha=0.25, lw=0
        )
left.axhline(0.5, color=figures.COLORS["noise"], lw=0.8)
left.set(xlabel="noise level σ", ylabel="unexplained fraction R", ylim=(3e-5, 1e4))
left.legend(fontsize="small")
for name, marker, slope in (("strays", "o", -0.25), ("recites", "s", -0.5)):
    mean, spread = found[name].mean(1), found[name].std(1)
    right.errorbar(
        SIZES,
        mean,
        spread,
        fmt=marker,
        ms=5,
        color=figures.COLORS["measured"],
        label=name,
    )
    guide = mean[2] * (torch.tensor(SIZES) / SIZES[2]) ** slope
    right.plot(SIZES, guide, color=figures.COLORS["noise"], lw=1, zorder=0)
right.set(
    xscale="log", yscale="log", xlabel="training points N", ylabel="noise level σ"
)
right.set_xticks(SIZES, SIZES)
right.set_yticks([0.02, 0.05, 0.1, 0.2], ["0.02", "0.05", "0.1", "0.2"])
right.minorticks_off()
right.legend()
plt.show()

# %% [markdown]
# Three- to fourfold: more points help, but slowly. The level where the score strays falls as the root of the spacing only. The
# level below which the denoiser recites keeps pace with the spacing. And this is the plane. In $D$ dimensions
# $d \propto N^{-1/D}$: even if images had only twenty, halving the spacing would take $2^{20}$ times as many, a million.
# Whatever makes a network draw new images, it is not that it learned this score well.
#
# (The plain powers hold for points spread evenly. In the thin tails of the mixture they are sparse whatever $N$ is, and $d$ falls a
# little more slowly.)
#
# ## From far away, every cloud is a Gaussian
#
# Go the other way, to high noise. Why should a Gaussian describe 300 points in three groups? Measure everything
# from the mean: $c_i = y_i - \mu$. Noised points lie about $\sigma$ away, so write $x = \mu + \sigma z$ and keep $z$ fixed. The
# weights are
#
# $$
# \begin{aligned}
# w_i &\propto \exp\!\Big(\frac{c_i\cdot z}{\sigma} - \frac{|c_i|^2}{2\sigma^2}\Big) \\
# &= \frac1N\Big(1 + \frac{c_i\cdot z}{\sigma} + O(\sigma^{-2})\Big).
# \end{aligned}
# $$ (eq-far-weights)
#
# If the cloud is bounded, the exponent is small for all points at once when $\sigma$ is large. From afar every point has nearly
# the same weight, and what differs is a *linear* function of where it lies. The denoiser is the average of the points under these
# weights:
#
# $$
# \begin{aligned}
# D &= \mu + \frac1N \sum_i c_i\, \frac{c_i\cdot z}{\sigma} + \dots \\
# &= \mu + \frac{\Sigma z}{\sigma} + O(\sigma^{-2}).
# \end{aligned}
# $$ (eq-far-field)
#
# Only mean and covariance are left. Now expand the Gaussian with the same two:
# $\Sigma(\Sigma+\sigma^2 I)^{-1}\sigma z = \Sigma z/\sigma - \Sigma^2 z/\sigma^3 + \dots$ The first term is the same. *To first
# order, every cloud is its Gaussian* ([proof](91_proofs.ipynb#from-far-away)). This is the far field: as with the charges of a molecule, from far away only the first moments
# count.

# %%
cloud = drawn(300, 0)
gaussian = cloud.to_gaussian()
z = torch.tensor([1.0, 0.5])


def weights_at(sigma):
    """Exact weights times N, and their expansion to first order."""
    exact = len(cloud) * cloud.posterior((cloud.mean + sigma * z)[None], sigma)[0]
    return exact, 1 + cloud.points @ z / sigma


for sigma in (32.0, 16.0, 8.0):
    exact, first = weights_at(sigma)
    print(
        f"σ = {sigma:<3g} weights off by {(exact - first).abs().max():.4f} at most"
    )
far, farther = (
    (torch.sub(*weights_at(sigma))).abs().max().item() for sigma in (160.0, 320.0)
)
print(
    f"twice as far, the error is {farther / far:.3f} of what it was; order two: 1/4"
)
assert abs(farther / far - 0.25) < 0.01

# %% mystnb={"figure": {"caption": "Weights of the 300 points, times 300, at one place z = (1, 0.5) and three noise levels: the exact softmax against its first-order expansion. On the dashed line both agree. At σ = 8 all weights are near one and on the line. At 0.7 the expansion is useless: it makes many weights negative, and two groups of points with the same first-order weight have different exact ones.", "name": "fig-weights"}, "image": {"alt": "Three scatter plots around a dashed diagonal. In the first the points lie on the diagonal near one; in the second they bend away a little; in the third they form a curved branch and two scattered heaps off the diagonal, the branch at negative values of the expansion."}}
fig, axes = plt.subplots(1, 3, figsize=(7, 2.6))
for ax, sigma in zip(axes, (8.0, 2.0, 0.7)):
    exact, first = weights_at(sigma)
    ends = torch.stack([first.min(), first.max()])
    ax.plot(ends, ends, "--", color=figures.COLORS["noise"], lw=1)
    ax.scatter(first, exact, s=5, color=figures.COLORS["data"], linewidths=0)
    ax.set(title=f"σ = {sigma:g}", xlabel="1 + c·z/σ")
axes[0].set_ylabel("exact weight × N")
plt.show()

# %% [markdown]
# ## How far is far?
#
# The next order of the cloud, worked out in the same way, is
# $\tfrac{1}{2\sigma^2}\big(\mathbb E[c\,(c\cdot z)^2] - \mathbb E[c\,|c|^2]\big)$, with averages over the points: third moments. The
# Gaussian has none there, since its next term is in $\sigma^{-3}$. So we know how each approximation of the denoiser must err
# from afar:
#
# | approximation | error |
# |---|---|
# | mean field: $\mu$ | $\sigma^{-1}$ |
# | first order: $\mu + \Sigma z/\sigma$ | $\sigma^{-2}$ |
# | second order: third moments too | $\sigma^{-3}$ |
# | the Gaussian | $\sigma^{-2}$ |
#
# And from near? Below the spacing, a noised point is taken for another only if that one happens to be within the noise, which in the
# plane has a chance $\propto \sigma^2$. So the error of the nearest neighbour vanishes as $\sqrt{\sigma^2}\cdot\sigma = \sigma^2$, and
# that of the Gaussian, which ends up answering with $x$ itself, as $\sigma$.
#
# In between, the expansions must break down. Look at one direction of a Gaussian, with variance $\lambda$. The share that it
# keeps is a geometric series,
#
# $$
# \frac{\lambda}{\lambda+\sigma^2} = \frac{\lambda}{\sigma^2} - \frac{\lambda^2}{\sigma^4} + \dots,
# $$ (eq-geometric)
#
# which converges only for $\sigma^2 > \lambda$. Cut off after its first term, it errs by $\lambda^2/\sigma^2(\lambda+\sigma^2)$;
# the mean field errs by $\lambda/(\lambda+\sigma^2)$. The ratio is $\lambda/\sigma^2$. Below $\sigma^2 = \lambda_{\max}$ the first
# order is worse than saying nothing but the mean. The whole Gaussian has no such limit. It even has a guarantee: at every noise
# level it is the best *linear* denoiser of these data ([chapter 1, exercise 2](01_noise_and_score.ipynb)), and mean field and first
# order are linear.
#
# We measure all of it on the cloud of 300 points and on six clouds of random clumps, some wide, some skewed.


# %%
def clumps(seed):
    """200 points in three random clumps."""
    centres = torch.randn(3, 2, generator=seeded(seed))
    chosen = centres[torch.randint(3, (200,), generator=seeded(seed + 50))]
    return gt.PointCloud(
        chosen + 0.15 * torch.randn(200, 2, generator=seeded(seed))
    )


def approximations(cloud):
    return {
        "mean field": gt.FarField(cloud, 0),
        "first order": gt.FarField(cloud, 1),
        "second order": gt.FarField(cloud, 2),
        "Gaussian": cloud.to_gaussian(),
        "nearest neighbour": gt.NearestNeighbour(cloud),
    }


relative = torch.cat([torch.logspace(-2.5, 1.8, 40), torch.tensor([300.0, 1000.0])])


def errors_of(cloud):
    """RMS distance of each approximation from the exact denoiser, by level."""
    unit = cloud.to_gaussian().variances[0].sqrt().item()
    models, found = approximations(cloud), []
    for sigma in (unit * relative).tolist():
        x = gt.evaluation_points(cloud.data, sigma, 500, seed=0)
        exact = cloud(x, sigma)
        found.append(
            [(m(x, sigma) - exact).square().sum(1).mean() for m in models.values()]
        )
    return dict(zip(models, torch.tensor(found).sqrt().T / unit))


clouds = [cloud, *(clumps(seed) for seed in range(6))]
errors = [errors_of(c) for c in clouds]

# %%
FAR = {"mean field": -1, "first order": -2, "second order": -3, "Gaussian": -2}
NEAR = {"mean field": 0, "Gaussian": 1, "nearest neighbour": 2}


def slopes(name, low, high):
    """Of an error between two noise levels in units of √λ_max, for each cloud."""
    i, j = ((relative - level).abs().argmin() for level in (low, high))
    curves = torch.stack([e[name] for e in errors]).log()
    return (curves[:, j] - curves[:, i]) / (relative[j] / relative[i]).log()


for name, predicted in FAR.items():
    found = slopes(name, 300, 1000)
    print(
        f"far  {name:<17} {found.mean():6.3f} ± {found.std():.3f}, theory"
        f" {predicted}"
    )
    assert (found - predicted).abs().max() < 0.05
for name, predicted in NEAR.items():
    found = slopes(name, 0.003, 0.015)
    print(
        f"near {name:<17} {found.mean():6.3f} ± {found.std():.3f}, theory"
        f" {predicted}"
    )
    assert abs(found.mean() - predicted) < 0.3

# %% mystnb={"figure": {"caption": "Error of five approximations of the exact denoiser of 300 points, against the noise level, both in units of √λ, the largest deviation of the cloud. Dashed: the predicted slopes. From afar first order and Gaussian are one line. In the shaded region σ² < λ the truncated orders explode, while the Gaussian is never worse than the mean. From near, the nearest neighbour is best.", "name": "fig-far-field"}, "image": {"alt": "Five curves on logarithmic axes. To the right three of them fall with slopes of minus one, two and three, and the nearest neighbour is level. Left of one, in a shaded region, first and second order shoot up and out of the frame, the mean field levels off, and the Gaussian and, more steeply, the nearest neighbour fall."}}
fig, ax = plt.subplots(figsize=(7, 4))
colors = [
    figures.COLORS[c] for c in ("noise", "first", "second", "gaussian", "data")
]
shown = relative <= 64
ax.axvspan(relative[0], 1, color="0.94", zorder=0)
ax.text(0.004, 12, "σ² < λ", va="center")
for (name, error), color in zip(errors[0].items(), colors):
    ax.loglog(relative[shown], error[shown], color=color, label=name)
    for guides, at in ((FAR, relative[shown][-8:]), (NEAR, relative[:8])):
        if guides.get(name):
            end = error[relative == at[-1 if guides is FAR else 0]]
            line = end * (at / at[-1 if guides is FAR else 0]) ** guides[name]
            ax.plot(at, 1.6 * line, "--", color=color, lw=1)
ax.set(
    xlabel="noise level, σ/√λ",
    ylabel="error of the denoiser, in units of √λ",
    xlim=(relative[0], 64),
    ylim=(5e-6, 30),
)
ax.legend(fontsize="small", loc="lower left", bbox_to_anchor=(0.2, 0.0))
plt.show()


# %%
def crossing(error, other):
    """The highest σ/√λ_max at which one approximation is worse than another."""
    ratio = (error / other).log()
    i = int((ratio > 0).nonzero().max())
    share = ratio[i] / (ratio[i] - ratio[i + 1])
    return (relative[i] * (relative[i + 1] / relative[i]) ** share).item()


for name in ("first order", "second order"):
    level = torch.tensor([crossing(e[name], e["mean field"]) for e in errors])
    print(
        f"{name} worse than the mean below {level.mean():.2f} ±"
        f" {level.std():.2f} √λ"
    )
    assert 0.9 < level.min() <= level.max() < 1.3
assert all((e["Gaussian"] <= e["mean field"]).all() for e in errors)
assert all((e["Gaussian"] < e["first order"])[relative < 3].all() for e in errors)


# %%
def unexplained(cloud, name, factor):
    """Fraction of the score that an approximation leaves, at σ = factor·√λ_max."""
    sigma = factor * cloud.to_gaussian().variances[0].sqrt().item()
    x = gt.evaluation_points(cloud.data, sigma, 1000, seed=1)
    score = cloud.score(x, sigma)
    missed = approximations(cloud)[name].score(x, sigma) - score
    return (missed.square().sum() / score.square().sum()).item()


left_over = {}
for factor in (2.0, 1.0, 0.5):
    for name in ("Gaussian", "first order"):
        values = [unexplained(c, name, factor) for c in clouds]
        left_over[name, factor] = min(values), max(values)
        print(
            f"σ = {factor:g} √λ: the {name} leaves {min(values):.2g} to"
            f" {max(values):.2g}"
        )
assert left_over["Gaussian", 2.0][1] < 0.01
assert left_over["Gaussian", 1.0][1] < 0.1 < left_over["first order", 1.0][0]
assert left_over["Gaussian", 0.5][1] < 0.7 < 30 < left_over["first order", 0.5][0]

# %% mystnb={"figure": {"caption": "Slide the noise level. Left: score of the 300 points (black) and of their Gaussian (blue), times σ²/3; grey: the points. Right: the fraction of the cloud's score that the Gaussian leaves unexplained, with a dot at the slider's level and lines at the parting levels of the three pairs. From far away both fields are one. They come apart when the score begins to choose.", "name": "fig-field-live"}, "image": {"alt": "Left, grey points in three groups under a lattice of black arrows, each with a blue arrow from the same place; black ones aim at the nearest group, blue ones across. Right, a curve that falls from nearly all to almost nothing as the noise grows, with a dot on it and three vertical lines near σ = 1."}}
shown = torch.logspace(-0.9, 0.4, 18)
at = grid(2.1, 9)
fields = [[m.score(at, s) * s**2 / 3 for m in (cloud, gaussian)] for s in shown]


def left_out(sigma):
    """What the Gaussian leaves unexplained of the cloud's score, in per cent."""
    x = gt.evaluation_points(cloud.data, sigma, 2000, seed=2)
    score = cloud.score(x, sigma)
    missed = gaussian.score(x, sigma) - score
    return 100 * (missed.square().sum() / score.square().sum()).item()


curve = torch.tensor([[sigma, left_out(sigma)] for sigma in shown.tolist()])
plane = interactive.Panel(
    x=(-2.5, 2.5),
    y=(-2.5, 2.5),
    equal=True,
    width=300,
    background=[interactive.Points(cloud.data, "noise", 3, 0.6)],
)
fraction = interactive.Panel(
    x=(0.1, 3),
    y=(0.01, 200),
    xscale="log",
    yscale="log",
    xlabel="noise level σ",
    ylabel="unexplained, %",
    width=300,
    background=[
        interactive.Line(curve, "gaussian"),
        *(interactive.Line([[s, 0.01], [s, 200]], "noise", 1) for s in partings),
    ],
)
interactive.frames(
    [
        [
            [
                interactive.Arrows(at, exact, "data", label="points"),
                interactive.Arrows(at, linear, "gaussian", label="Gaussian"),
            ],
            [interactive.Points(place, "measured", 9)],
        ]
        for (exact, linear), place in zip(fields, curve)
    ],
    shown.tolist(),
    [plane, fraction],
    name="field",
    start=8,
)

# %% [markdown]
# So the expansion explains *why* the Gaussian works from far away, and gives its error there. It does not explain how near it still
# works. Where the series has long exploded, the Gaussian is merely imprecise. It loses its hold for a reason that we have met: its
# denoiser is linear, and a linear function cannot choose. Once the noise is below the parting level [(above)](#eq-parting) of the
# clumps, the score is a choice.
#
# ## What we saw
#
# **Shown here.** The score of a mixture is the scores of its parts, weighted by responsibility. Paths part, and half of them have
# decided, at $\sigma_c = \sqrt{m^2-w^2}$, about half the distance of the means. Basins hold the shares of the kinds. The exact score
# of $N$ points in the plane strays from that of their distribution at $\sigma \propto N^{-1/4}$ and recites below
# $\sigma \propto N^{-1/2}$. From afar every cloud is its Gaussian, to first order. The truncated expansions fail below
# $\sigma^2 = \lambda_{\max}$; the Gaussian does not.
#
# **The paper.** [Wang & Vastola 2024](https://arxiv.org/abs/2412.09726) give the far-field argument for the training set of a
# network and note that the Gaussian works over a wider range of noise than the argument grants. At low noise they find that
# networks are nearer to a mixture of a few Gaussians than to the exact score of their training set.
#
# **The difference.** The two noise levels are known from studies of symmetry breaking, and as *speciation* and *collapse*
# ([Raya & Ambrogioni 2023](https://arxiv.org/abs/2305.19693), [Biroli et al. 2024](https://arxiv.org/abs/2402.18491)); what the
# cloud's score costs in between we derived for the plane. The guarantee of the best linear denoiser is one reason why the Gaussian
# outlasts its expansion. Which of these scores a trained network follows is the question of
# [the next chapter](05_training.ipynb) and of Part II.
#
# ## Exercises
#
# **1. Unequal kinds.** Two round bumps on a line, with shares 0.8 and 0.2. Where, among the starts $x = \sigma_T z$, is the border
# between the basins? Predict it without solving anything, then find it.

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
# Paths on a line cannot cross, and the flow keeps the density. So a path keeps its
# quantile, and the border is where the noised density has mass 0.8 to its left.
unequal = gt.Mixture(
    [0.8, 0.2],
    [gt.Gaussian.isotropic(torch.tensor([m, 0.0]), 0.04) for m in (-1.0, 1.0)],
)
width = math.hypot(HIGH, 0.2)
predicted = brentq(
    lambda x: (
        0.8 * normal.cdf(torch.tensor((x + 1) / width)).item()
        + 0.2 * normal.cdf(torch.tensor((x - 1) / width)).item()
        - 0.8
    ),
    -100,
    100,
)
candidates = torch.linspace(predicted - 2, predicted + 2, 401)
end = follow(unequal, candidates[:, None] * torch.tensor([1.0, 0.0]), fine)[
    -1, :, 0
]
found = candidates[(end > 0).double().argmax()].item()
print(f"border at x = {found:.2f}, predicted {predicted:.2f}, of σ = {HIGH:g}")
assert abs(found - predicted) < 0.1
# It lies far from the middle: at high noise the rare kind needs a start well on its side.

# %% [markdown]
# **2. A quarter.** Check the two limits of the cloud's error, $d^2$ and $d^2/4$, where they hold best: for points spread evenly over
# a square, at places well inside it.

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
# Well inside an evenly filled square, the exact denoiser of the distribution is x itself.
density = 2000 / 4
ratios = []
for seed in SEEDS:
    even = gt.PointCloud(2 * torch.rand(2000, 2, generator=seeded(seed)) - 1)
    x = torch.rand(2000, 2, generator=seeded(seed + 10)) - 0.5
    ratios.append(
        [
            (even(x, sigma) - x).square().sum(1).mean() * math.pi * density
            for sigma in (0.002, 0.1)
        ]
    )
near, far = torch.tensor(ratios).T
print(f"little noise: {near.mean():.2f} ± {near.std():.2f} of 1/(πν), theory 1")
print(f"much noise:   {far.mean():.2f} ± {far.std():.2f} of 1/(πν), theory 0.25")
assert abs(near.mean() - 1) < 0.1
assert abs(far.mean() - 0.25) < 0.06

# %% [markdown]
# **3. Jump, then choose.** Replace the first part of the way by the closed form of the mixture's own Gaussian: one jump from
# $\sigma = 40$ to $\sigma_\text{skip}$, then follow the mixture. How many paths still end at their own kind, and how far from their
# own end? Compare with the parting levels.

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
blind = mixture.to_gaussian()
moved = {}
for skip in (8.0, 4.0, 2.0, 1.0, 0.5, 0.25):
    rest = gt.karras_sigmas(60, sigma_min=0.02, sigma_max=skip)[:-1]
    end = follow(mixture, blind.flow(start, HIGH, skip), rest)[-1]
    same = (mixture.posterior(end, 0.02).argmax(1) == final).double().mean()
    distance = (end - path[-1]).norm(dim=1).reshape(len(SEEDS), -1)
    moved[skip] = distance.square().mean(1).sqrt()
    print(
        f"jump to {skip:<4g}: {same:.1%} keep their kind,"
        f" ends moved by {moved[skip].mean():.3f} ± {moved[skip].std():.3f}"
    )
steps = torch.stack(list(moved.values()))
assert (steps.mean(1).diff() > 0).all()
assert steps[2].max() < 0.05
assert steps[4].min() > 0.1
# A jump to twice the parting levels, 0.8 to 1, moves the ends by much less than the
# kinds are wide: there was nothing to choose yet. Even later jumps rarely change the
# kind. On a line both flows keep the order of the paths, so most fall on the same side;
# but the Gaussian does not pull the sides apart, and the ends are off by a width. This is
# why a sampler may start late (Raya & Ambrogioni 2023), and how late: see Part III.
