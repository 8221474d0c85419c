# %% [markdown]
# # 5 · Training a score network
#
# So far every score was exact: of a Gaussian, of a mixture, of a cloud of points. A diffusion model has none of these. It has
# a network that is shown noisy points and told to guess the clean ones. All our exact scores are candidates for what it
# might learn, from coarse to fine. Which does it learn, and when?
#
# > *First the Gaussian, then something else.* Early in training the network's score is nearly the Gaussian's. Later it
# > leaves it, on its way to the data.
#
# The network here is small enough to be trained five times while you read this page. On the way we shall see why the order
# is as it is, an advantage that the network is given before it has learned anything, and what happens when it has
# too little to learn from.

# %% tags=["parameters"] fast={"STEPS": 1024, "SEEDS": [0, 1], "LONG": 200}
N_POINTS = 1000  # training points; as many unseen ones are kept for judging
STEPS = 2048  # of training
SIGMAS = [0.1, 0.2, 0.4, 1.0]  # noise levels at which scores are compared
SEEDS = [0, 1, 2, 3, 4]
FEW = 12  # points of the small training set
LONG = 3000  # steps on it

# %%
import copy

import matplotlib.pyplot as plt
import torch
from torch import nn

import gausstools as gt
from gausstools import figures, shipped
from gausstools.figures import interactive

figures.set_style()
# Matrices this small are multiplied fastest by one thread.
torch.set_num_threads(1)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


# %% [markdown]
# ## Four descriptions of one cloud
#
# The data must give the candidates something to disagree about: three arcs, each thin and bent, spread more along one
# direction of the plane than along the other. A complex number is a handy way to shift and turn an arc.

# %%
tilt = torch.exp(torch.tensor(0.35j))
centres = tilt * torch.tensor([-1.1 - 0.3j, 0.55j, 1.1 - 0.3j])
turns = tilt * torch.exp(1j * torch.tensor([0.4, 3.3, 0.5]))


def draw(n, seed):
    """Return n points of three arcs, chosen at random, ``(n, 2)``."""
    generator = seeded(seed)
    arc = torch.randint(3, (n,), generator=generator)
    along = 2 * torch.rand(n, generator=generator) - 1
    across = 0.04 * torch.randn(n, generator=generator)
    bent = torch.complex(0.6 * along, 0.7 * along**2 - 0.23 + across)
    return torch.view_as_real(centres[arc] + turns[arc] * bent)


shift = draw(N_POINTS, 0).mean(0)
data, unseen = draw(N_POINTS, 0) - shift, draw(N_POINTS, 1) - shift
gaussian = gt.Gaussian.fit(data)
sigma_data = (gaussian.total_variance / 2).sqrt().item()
models = {
    "isotropic": gt.Gaussian.isotropic(torch.zeros(2), sigma_data**2),
    "Gaussian": gaussian,
    "mixture": gt.Mixture.fit(data, 3),
    "point cloud": gt.PointCloud(data),
}
print("variances", [round(v, 2) for v in gaussian.variances.tolist()])
print(f"standard deviation per coordinate, σ_d = {sigma_data:.2f}")

# %% [markdown]
# The four models form a ladder. The **isotropic Gaussian** knows the size of the cloud. The **Gaussian** knows its mean and
# covariance. The **mixture** knows that there are three arcs, and describes each by an ellipse. The **point cloud**
# knows every training point. (`Mixture.fit` finds the three by expectation maximisation, without being told which point
# belongs to which arc.)

# %% mystnb={"figure": {"caption": "The training data (black), and 1,000 samples of each of the three models that are smooth. The fourth, the point cloud, draws the training points themselves.", "name": "fig-ladder"}, "image": {"alt": "Four scatter plots. Three thin separate arcs; a round cloud; a tilted oval cloud; three blurred oval clouds where the arcs were."}}
smooth = {name: models[name] for name in ("isotropic", "Gaussian", "mixture")}
palette = ("path", "gaussian", "first", "second")
shades = {name: figures.COLORS[c] for name, c in zip(models, palette)}


def panel(ax, points, color, title="", size=3):
    ax.scatter(*points.T, s=size, color=color, linewidths=0)
    ax.set(xlim=(-2.2, 2.2), ylim=(-2.2, 2.2), aspect="equal", title=title)
    ax.set(xticks=[-2, 0, 2], yticks=[-2, 0, 2])


fig, axes = plt.subplots(1, 4, figsize=(7, 2.1), sharey=True)
panel(axes[0], data, figures.COLORS["data"], "data")
for ax, (name, model) in zip(axes[1:], smooth.items()):
    panel(ax, model.sample(1000, generator=seeded(0)), shades[name], name)
plt.show()

# %% [markdown]
# ## What does an untrained network know?
#
# A raw network $F$ is seldom used as the denoiser itself. At $\sigma = 80$ its input would be a hundred times as large as at
# $\sigma = 0.1$. [Karras et al. 2022](https://arxiv.org/abs/2206.00364) wrap it, so that it sees inputs and gives answers
# of unit size at every noise level. This is called **preconditioning**:
#
# $$
# \begin{aligned}
# D(x,\sigma) &= \frac{\sigma_d^2}{v}\,x \\
# &\quad + \frac{\sigma\,\sigma_d}{\sqrt v}\;F\!\Big(\frac{x}{\sqrt v},\,\tfrac14\ln\sigma\Big), \\
# v &= \sigma_d^2+\sigma^2,
# \end{aligned}
# $$ (eq-edm)
#
# with $\sigma_d$ the standard deviation of the data. Now look at the first line alone. Where $F$ is 0, the denoiser is
# $\sigma_d^2/(\sigma_d^2+\sigma^2)\,x$. We have met that factor
# [in chapter 2](02_gaussian_model.ipynb#eq-gaussian-denoiser): it is the exact denoiser of a Gaussian with mean 0 and variance
# $\sigma_d^2$ in every direction.
#
# So an untrained network is not a blank slate. It *is* the isotropic Gaussian, by construction, and needs to learn only what
# the data have beyond it. Whoever asks what a network learns must not count this as learned.
#
# Our $F$ has three hidden layers of 64 units. Its last layer starts at zero, as is customary, so that the statement is exact.


# %%
class Small(nn.Module):
    def __init__(self, width=64):
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Linear(3, width), nn.SiLU()),
            *(nn.Linear(width, width), nn.SiLU()),
            *(nn.Linear(width, width), nn.SiLU()),
            nn.Linear(width, 2),
        )
        nn.init.zeros_(self.layers[-1].weight)
        nn.init.zeros_(self.layers[-1].bias)

    def forward(self, x, c_noise):
        return self.layers(torch.cat([x, c_noise[:, None]], dim=1))


untrained = gt.networks.EDM(Small(), (2,), sigma_data)
for sigma in (0.01, 0.1, 1.0, 10.0, 80.0):
    x = gt.evaluation_points(unseen, sigma, 1000)
    with torch.no_grad():
        left = gt.unexplained(untrained, models["isotropic"], x, sigma, pooled=True)
    print(
        f"σ = {sigma:<4g}  unexplained by the isotropic Gaussian: {left.score:.0e}"
    )
    assert left.score < 1e-9
weights = sum(p.numel() for p in untrained.parameters())
print(f"{weights} weights")

# %% [markdown]
# ## Training is ten lines
#
# Take clean points, noise each at a level of its own, ask for the clean points back, and descend on the squared error. The
# wrapper's loss divides the error by $\sigma^2\sigma_d^2/(\sigma_d^2+\sigma^2)$, so that $F$ gets targets of unit size at
# all levels. The levels are drawn with $\ln\sigma$ normal around $-1$. We keep a copy of the network after 0, 1, 2, … steps,
# in ratios of $\sqrt2$.


# %%
marks = [0, *sorted({round(2 ** (k / 2)) for k in range(25)})]


def train(points, steps, seed, lr=2e-3, batch=128):
    """Train on points; return copies of the network, by the step of each."""
    torch.manual_seed(seed)
    network = gt.networks.EDM(Small(), (2,), sigma_data)
    optimizer = torch.optim.Adam(network.parameters(), lr, fused=True)
    kept = {0: copy.deepcopy(network)}
    for step in range(1, steps + 1):
        x0 = points[torch.randint(len(points), (batch,))]
        sigma = torch.exp(-1 + 1.2 * torch.randn(batch))
        loss = network.loss(x0, sigma, torch.randn(batch, 2))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step in marks or step == steps:
            kept[step] = copy.deepcopy(network)
    return {step: one.requires_grad_(False) for step, one in kept.items()}


runs = [train(data, STEPS, seed) for seed in SEEDS]
steps = torch.tensor(list(runs[0]))

# %% [markdown]
# ## Which model is the network nearest to?
#
# The yardstick is the fraction of unexplained variance of [chapter 1](01_noise_and_score.ipynb#eq-unexplained): the mean
# squared difference between the network's score and a model's, divided by the mean square of the network's. Zero means that
# the model *is* the network. Now it is the network that is to be explained, and we ask at points that it was not trained on.
#
# The paper averages the ratio point by point instead. In two dimensions that average does not exist, as
# [exercise 3](#exercises) shows, so we ask for the ratio of the two averages, `pooled=True`.


# %%
def unexplained_by(models, runs, points, sigmas):
    """Return the fractions, by name of the model: (noise level, seed, step)."""
    rows = [
        gt.residuals(
            network, models, points, sigmas, points=500, pooled=True, batch_size=500
        )
        for kept in runs
        for network in kept.values()
    ]
    values = torch.tensor(
        [[row.unexplained.score for row in table] for table in rows]
    )
    values = values.reshape(len(runs), -1, len(sigmas), len(models))
    return dict(zip(models, values.permute(3, 2, 0, 1)))


fraction = unexplained_by(models, runs, unseen, SIGMAS)


# %% mystnb={"figure": {"caption": "What each model leaves unexplained of the network's score, during training, at four noise levels: mean of five trainings, with a band of one standard deviation. (The vertical axis ends at 0.002; the isotropic Gaussian's fraction starts at exactly zero, at step 0.) The models take their turns: the network starts as the isotropic Gaussian, comes closest to the Gaussian after a few dozen steps, then leaves it for the mixture and the point cloud.", "name": "fig-turns"}, "image": {"alt": "Four panels of four curves on logarithmic axes. In each, the isotropic curve rises from the bottom, the blue Gaussian curve dips to a sharp minimum near 30 steps and rises, the mixture's falls later and flattens or turns up at the end, the point cloud's falls throughout."}}
def shaded(ax, values, steps=steps, **style):
    mean, spread = values.mean(0), values.std(0)
    (line,) = ax.plot(steps, mean, **style)
    band = (mean - spread).clamp(min=1e-9), mean + spread
    ax.fill_between(steps, *band, color=line.get_color(), alpha=0.2, lw=0)
    ax.set_xscale("symlog", linthresh=1)
    ax.set_xticks([0, 1, 10, 100, 1000], ["0", "1", "10", "100", "1000"])


fig, axes = plt.subplots(2, 2, figsize=(7, 5), sharex=True, sharey=True)
for k, (ax, sigma) in enumerate(zip(axes.flat, SIGMAS)):
    for name in models:
        shaded(ax, fraction[name][k], color=shades[name], label=name)
    ax.set(yscale="log", ylim=(2e-3, 60), title=f"σ = {sigma:g}")
for ax in axes[1]:
    ax.set_xlabel("training steps")
for ax in axes[:, 0]:
    ax.set_ylabel("unexplained fraction")
axes[0, 0].legend(fontsize="small")
plt.show()

# %%
least = {name: values.min(-1) for name, values in fraction.items()}
print("the Gaussian leaves unexplained:")
for k, sigma in enumerate(SIGMAS):
    curve, low = fraction["Gaussian"][k], least["Gaussian"].values[k]
    place = steps[least["Gaussian"].indices[k]]
    print(
        f"σ = {sigma:<4g} {curve[0, 0]:.2f} at first,"
        f" {low.mean():.3f} ± {low.std():.3f} at steps {place.min()} to"
        f" {place.max()},"
        f" {curve[:, -1].mean():.2f} ± {curve[:, -1].std():.2f} at last"
    )
    assert (low < curve[:, 0] / 2).all()
    assert (low < curve[:, -1] / 2).all()
    assert (place > 8).all()
    assert (place < 64).all()

# %% [markdown]
# In every training and at every level the Gaussian's fraction falls, reaches its minimum within the first 64 steps, and rises
# again. Then come the others, in the order of the ladder, where the noise is low enough to tell them apart:

# %%
for sigma in (0.1, 0.2):
    k = SIGMAS.index(sigma)
    turn = [steps[least[name].indices[k]] for name in models]
    for name, place in zip(models, turn):
        print(
            f"σ = {sigma:g}  {name:<11} nearest at steps {sorted(place.tolist())}"
        )
    for early, late in zip(turn[:-2], turn[1:-1]):
        assert (early < late / 8).all()
    assert (turn[2] <= turn[3]).all()
    assert (turn[3] == STEPS).all()
mixture = fraction["mixture"][SIGMAS.index(0.1)]
rise = mixture[:, -1] / mixture.min(-1).values - 1
print(
    f"σ = 0.1  the mixture's fraction has risen again by {rise.mean():.0%} on"
    " average"
)
assert rise.min() > 0
assert rise.mean() > 0.1

# %% [markdown]
# At $\sigma = 1$ something else happens. The Gaussian's fraction rises to a hump and comes *down* again, and so does that of
# the point cloud. But at this level the point cloud's score is as good as the truth. So the hump is no structure that the
# network has found. It is an error, made perhaps while the network is busy with lower noise, and repaired later.

# %%
hump = fraction["point cloud"][SIGMAS.index(1.0), :, 10:]
print(
    f"point cloud at σ = 1: down to {hump[:, :6].min(1).values.mean():.3f},"
    f" up to {hump[:, 6:].max(1).values.mean():.3f}, at last"
    f" {hump[:, -1].mean():.3f}"
)
assert (hump[:, 6:].max(1).values > 2 * hump[:, -1]).all()

# %% [markdown]
# ## Why does the Gaussian come first, and why is it left?
#
# Regress the network's score on $x$: write it as the best affine function of the noised points, plus a rest. The rest, as a
# share of the mean square, is the **bent share** of the score: what no straight answer can give. The rest is
# orthogonal to every affine function, and the Gaussian's score is one. So its unexplained fraction splits exactly, as in
# Pythagoras' theorem, into the distance of the affine part from the Gaussian and the bent share:
#
# $$
# R_{\text{Gaussian}} = R_{\text{straight}} + R_{\text{bent}}.
# $$ (eq-pythagoras)
#
# > **Predict.** After some 32 steps the blue curve rises again. Which part makes it rise: does the straight part move away from
# > the Gaussian again, does the bent share grow, or both?


# %%
def split(network, sigma):
    """Return R_straight and R_bent of the Gaussian, and the affine part's gains."""
    x = gt.evaluation_points(unseen, sigma, 500)
    theirs, gaussians = gt.score(network, x, sigma), gaussian.score(x, sigma)
    design = torch.cat([x, torch.ones(len(x), 1)], dim=1)
    slope = torch.linalg.lstsq(design, theirs).solution
    straight, size = design @ slope, theirs.square().sum()
    gains = 1 + sigma**2 * (gaussian.basis.T @ slope[:2] @ gaussian.basis).diag()
    return torch.stack(
        [
            (straight - gaussians).square().sum() / size,
            (theirs - straight).square().sum() / size,
            *gains,
        ]
    )


at_level = 0.2
parts = torch.stack(
    [torch.stack([split(one, at_level) for one in kept.values()]) for kept in runs]
)
straight, bent = parts[..., 0], parts[..., 1]
whole = fraction["Gaussian"][SIGMAS.index(at_level)]
print(
    f"sum of the parts: off by at most {(straight + bent - whole).abs().max():.0e}"
)
torch.testing.assert_close(straight + bent, whole, rtol=1e-3, atol=1e-4)
for step in (0, 32, STEPS):
    k = steps.tolist().index(step)
    print(
        f"step {step:<4} straight {straight[:, k].mean():.3f} ±"
        f" {straight[:, k].std():.3f}"
        f"  bent {bent[:, k].mean():.3f} ± {bent[:, k].std():.3f}"
    )
print(
    "bent share up to step 16: at most"
    f" {bent[:, : steps.tolist().index(23)].max():.3f}"
)
assert bent[:, : steps.tolist().index(23)].max() < 0.01
k = steps.tolist().index(32)
assert bent[:, k].max() < 0.05
assert straight[:, -1].max() < 0.05
assert bent[:, -1].min() > 0.7
assert straight[:, 0].min() > 0.4

# %% [markdown]
# The bent share. The two parts move one after the other. The straight part finds the Gaussian, wavers a little, and *stays*: at
# the last step it is nearer than at step 32. The bent share comes later, and grows. So nothing of the Gaussian is unlearned: the
# network adds to it.
#
# Why does the straight part stay? The Gaussian denoiser is the best affine denoiser of *any* data with that mean and
# covariance ([chapter 1, exercise 2](01_noise_and_score.ipynb#exercises)), so the best affine fit to the exact denoiser is the
# Gaussian's. Who learns the arcs has learned the Gaussian with them.
#
# And why is the straight part quick? For a denoiser that can be nothing else, $D(x) = b + W(x-\mu)$, learning can be
# solved. Gradient descent with a small rate $\eta$ on the denoising loss at one $\sigma$ follows
#
# $$
# \frac{\mathrm dW}{\mathrm dt} = -2\eta\,\big(W(\Sigma+\sigma^2 I) - \Sigma\big).
# $$ (eq-linear-learning)
#
# In the eigenvectors of $\Sigma$ that is one equation for each direction: the gain along $u_k$ approaches
# $\lambda_k/(\lambda_k+\sigma^2)$ as $e^{-2\eta(\lambda_k+\sigma^2)t}$ ([proof](91_proofs.ipynb#how-a-linear-denoiser-learns)). There is no plateau on the way, wide directions come
# first, and where it stops is the Gaussian. A network whose answers are still straight can go nowhere else. We let a linear
# denoiser learn from noisy samples, starting from the isotropic Gaussian as our networks do, and compare.

# %%
rate, head_start = 0.02, sigma_data**2 / (sigma_data**2 + at_level**2)
theory = gt.theory.LinearDynamics(gaussian, at_level, rate, weight=head_start)


def descend(seed, steps=200, batch=128):
    """Return the gains of a linear denoiser along the two axes at each step."""
    generator, weight = seeded(seed), head_start * torch.eye(2)
    gains = []
    for _ in range(steps):
        gains.append((gaussian.basis.T @ weight @ gaussian.basis).diag())
        x0 = data[torch.randint(len(data), (batch,), generator=generator)]
        x = x0 + at_level * torch.randn(batch, 2, generator=generator)
        weight = weight - 2 * rate * (x @ weight.T - x0).T @ x / batch
    return torch.stack(gains)


learned = torch.stack([descend(seed) for seed in SEEDS])
predicted = theory.gains(torch.arange(200))
deviation = (learned.mean(0) - predicted).abs().max().item()
print(f"mean gain of {len(SEEDS)} runs: within {deviation:.3f} of the formula")
assert deviation < 0.02
ratio = (theory.rates[0] / theory.rates[1]).item()
print(f"the wide direction is learned {ratio:.1f} times as fast as the narrow one")

# %% mystnb={"figure": {"caption": "Left: the Gaussian's unexplained fraction at σ = 0.2 (blue), split into the straight part, which falls and stays down, and the bent share, which rises later (mean of five trainings, bands of one standard deviation). Right: a linear denoiser that learns at σ = 0.2 from noisy samples (five runs, thin), the exact solution (thick), and the Gaussian's gains (dashed), where it stops.", "name": "fig-split"}, "image": {"alt": "Left, a falling curve and a rising curve that cross near step 30, where their sum has its minimum. Right, thin noisy lines around two smooth curves, which approach two dashed levels, the wide axis sooner."}}
fig, (left, right) = plt.subplots(1, 2, figsize=(7, 3))
pair = (figures.COLORS["first"], figures.COLORS["second"])
shaded(left, whole, color=figures.COLORS["gaussian"], label="Gaussian")
shaded(left, straight, color=pair[0], label="straight part", ls="--")
shaded(left, bent, color=figures.COLORS["measured"], label="bent share", ls="--")
left.set(xlabel="training steps", ylabel="unexplained fraction")
left.legend(fontsize="small")
for k, (color, name) in enumerate(zip(pair, ("wide", "narrow"))):
    right.plot(learned[:, :, k].T, color=color, lw=0.5, alpha=0.6)
    right.plot(predicted[:, k], color=color, lw=2, label=f"{name} axis")
    variance = gaussian.variances[k]
    right.axhline(variance / (variance + at_level**2), color=color, ls="--", lw=1)
right.set(xlabel="steps of gradient descent", ylabel="gain along the axis")
right.legend(fontsize="small")
plt.show()

# %% [markdown]
# ## What it looks like
#
# Here is one of the five trainings, caught at four moments, with the rungs of the ladder below it.

# %% mystnb={"figure": {"caption": "Above: the network's score at σ = 0.4, before training, after 32 and 1,024 steps, and at the end (first training; each arrow is 0.6 σ² times the score). Below: the scores of the four models. Each column is a pair.", "name": "fig-fields"}, "image": {"alt": "Two rows of four arrow fields over faint arcs. The fields of a column look alike: short arrows to the centre; arrows to a slanted axis; longer arrows that aim at three separate regions; arrows that aim at the bent arcs."}}
axis = torch.linspace(-1.6, 1.6, 9)
grid = torch.cartesian_prod(axis, axis)
shown = (0, 32, 1024, STEPS)
fig, axes = plt.subplots(2, 4, figsize=(7, 3.9), sharex=True, sharey=True)
for column, step, (name, model) in zip(axes.T, shown, models.items()):
    for ax, title, denoiser, color in (
        (column[0], f"step {step}", runs[0][step], figures.COLORS["measured"]),
        (column[1], name, model, shades[name]),
    ):
        panel(ax, data, "0.8", title, size=1)
        arrows = 0.6 * (denoiser(grid, 0.4) - grid)
        figures.vector_field(ax, grid, arrows, width=0.01, color=color)
plt.show()

# %% [markdown]
# Now let each network draw. From the same noise, Heun's method follows the flow of each.

# %%
levels = gt.karras_sigmas(30, sigma_min=0.01, sigma_max=20.0)
noise = levels[0] * torch.randn(400, 2, generator=seeded(7))


def sample(denoiser):
    return list(gt.samplers.heun(denoiser, noise, levels))[-1].x


# %% mystnb={"figure": {"caption": "Samples of the first network after 0, 32, 1,024 and 2,048 steps (orange), all from the same noise, over the data (grey). First a round cloud, then the Gaussian's oval, then the arcs.", "name": "fig-training-samples"}, "image": {"alt": "Four scatter plots of orange points over grey arcs: a round cloud, a tilted oval cloud, three bent smears joined by stray points, and thin arcs on top of the grey ones with a few stray points."}}
fig, axes = plt.subplots(1, 4, figsize=(7, 2.1), sharey=True)
for ax, step in zip(axes, shown):
    panel(ax, data, "0.7", f"step {step}", size=2)
    points = sample(runs[0][step])
    ax.scatter(*points.T, s=3, color=figures.COLORS["denoised"], linewidths=0)
plt.show()

# %% [markdown]
# Two numbers say the same. How far are the samples' mean and covariance from the data's? (We take the Wasserstein distance of
# the Gaussians that have these moments.) And how far is a sample from the data, that is, from the nearest training point?


# %%
def moments_off(points):
    return gt.theory.wasserstein2(gt.Gaussian.fit(points), gaussian).item()


def shape_off(points):
    return torch.cdist(points, data).min(1).values.median().item()


off = torch.tensor(
    [
        [
            [f(sample(kept[step])) for f in (moments_off, shape_off)]
            for step in shown
        ]
        for kept in runs
    ]
)
for step, (moments, shape) in zip(shown, off.permute(1, 2, 0)):
    print(
        f"step {step:<4} moments {moments.mean():.2f} ± {moments.std():.2f} off,"
        f" distance from the data {shape.mean():.3f} ± {shape.std():.3f}"
    )
best = torch.tensor([moments_off(unseen), shape_off(unseen)])
print(f"unseen data    {best[0]:.2f}                             {best[1]:.3f}")
missing = (off - best).mean(0)
gone = 1 - missing[1] / missing[0]
print(f"after 32 steps, {gone[0]:.0%} and {gone[1]:.0%} of the excess are gone")
assert gone[0] > 0.6 > 0.4 > gone[1]

# %% [markdown]
# Moments come early, shape comes late. [The next figure](#fig-training-live) lets you step through the training.

# %% mystnb={"figure": {"caption": "Step through the first training. Left: samples of the network (orange) over the data (grey), with the one- and two-deviation ellipses of the Gaussian. Right: the network's score at σ = 0.4 (black arrows) over the Gaussian's (blue). Watch the arrows cover each other near step 32, and part again.", "name": "fig-training-live"}, "image": {"alt": "Two panels with a slider for the training step. Left, orange samples over grey arcs and two blue ellipses. Right, black arrows drawn over blue ones."}}
still = interactive.Points(data[::3], "noise", 2.5, opacity=0.5)
ellipses = interactive.Ellipse(gaussian.mean, gaussian.covariance, label="Gaussian")
gaussians = interactive.Arrows(
    grid, 0.6 * (gaussian(grid, 0.4) - grid), "gaussian", label="Gaussian"
)
plane = {"x": (-2.2, 2.2), "y": (-2.2, 2.2), "equal": True, "width": 300}
views = [
    interactive.Panel(**plane, title="samples", background=[still, ellipses]),
    interactive.Panel(**plane, title="score", background=[still, gaussians]),
]
stages = [
    [
        [interactive.Points(sample(one), "denoised", 3, label="network")],
        [interactive.Arrows(grid, 0.6 * (one(grid, 0.4) - grid), label="network")],
    ]
    for one in runs[0].values()
]
interactive.frames(
    stages,
    [str(step) for step in runs[0]],
    views,
    name="training",
    control="training steps",
    start=list(runs[0]).index(32),
)

# %% [markdown]
# ## What if there is too little to learn from?
#
# The ladder's last rung is a trap. [Chapter 1](01_noise_and_score.ipynb) showed what the exact score of a training set
# draws: the training set. With a thousand points, and noise wider than the gaps between them, that score can hardly be told
# from the arcs' own. With twelve points it can. So we train on twelve only, for longer, and ask twice: at noised training
# points, and at noised points that it has not seen.

# %%
few = draw(FEW, 100) - shift
longer = [train(few, LONG, seed) for seed in SEEDS[:3]]
rivals = {"twelve": gt.PointCloud(few), "arcs": models["point cloud"]}
around = {"training points": few, "unseen points": unseen}
memory = {
    place: unexplained_by(rivals, longer, points, [0.1])
    for place, points in around.items()
}
end = {
    (name, place): memory[place][name][0, :, -1]
    for name in rivals
    for place in around
}
for (name, place), left_over in end.items():
    print(
        f"cloud of the {name:<6} around {place:<15}"
        f" {left_over.mean():.2f} ± {left_over.std():.2f} unexplained at σ = 0.1"
    )
assert end["twelve", "training points"].max() < 0.4
assert end["twelve", "unseen points"].min() > 0.9
assert (end["twelve", "training points"] < end["arcs", "training points"]).all()
assert (end["twelve", "unseen points"] > end["arcs", "unseen points"]).all()

# %% [markdown]
# Around its twelve points the network has come close to their cloud, and goes on approaching it. Around points that it has not
# seen, that cloud explains nothing. This is **memorisation**: right where one looks during training, and nowhere else. The
# networks with a thousand points show no such gap:

# %%
last = [{STEPS: kept[STEPS]} for kept in runs]
cloud = {"cloud": models["point cloud"]}
fair = {
    place: unexplained_by(cloud, last, points, [0.1])["cloud"].flatten()
    for place, points in (("training", data), ("unseen", unseen))
}
gap = fair["unseen"] / fair["training"]
print(f"1000 points: unseen / training = {gap.mean():.2f} ± {gap.std():.2f}")
wide = end["twelve", "unseen points"] / end["twelve", "training points"]
print(f"  12 points: unseen / training = {wide.mean():.1f} ± {wide.std():.1f}")
assert gap.max() < 1.2
assert wide.min() > 3


def near_few(points):
    """Share of points within 0.05 of one of the twelve."""
    return (torch.cdist(points, few).min(1).values < 0.05).double().mean()


shares = torch.stack([near_few(sample(kept[LONG])) for kept in longer])
print(
    f"within 0.05 of one of the twelve: {shares.mean():.0%} ±"
    f" {shares.std():.0%} of samples,"
    f" {near_few(unseen):.0%} of unseen points"
)
assert shares.min() > 2 * near_few(unseen)

# %% mystnb={"figure": {"caption": "Three networks trained on twelve points. Left: what the cloud of the twelve leaves unexplained at σ = 0.1, around those points and around unseen ones, and what the cloud of a thousand points leaves around unseen ones (means, bands of one standard deviation). Right: samples of the first network (orange), its twelve points (rings), and the arcs that they came from (grey). The cloud of the twelve comes to explain the network around them and never elsewhere; the samples crowd around the rings.", "name": "fig-few"}, "image": {"alt": "Left, three falling curves on logarithmic axes: one goes far below one, one ends near one, one levels off below one. Right, orange dots crowded around black rings on parts of grey arcs, and hardly any elsewhere."}}
fig, (left, right) = plt.subplots(1, 2, figsize=(7, 3.2))
for (name, place), label, color in (
    (("twelve", "training points"), "the twelve, around them", "data"),
    (("twelve", "unseen points"), "the twelve, around unseen", "first"),
    (("arcs", "unseen points"), "a thousand, around unseen", "second"),
):
    curve, color = memory[place][name][0], figures.COLORS[color]
    shaded(left, curve, list(longer[0]), color=color, label=label)
left.axhline(1, color=figures.COLORS["noise"], lw=0.8, ls=":")
left.set(yscale="log", xlabel="training steps", ylabel="unexplained fraction")
left.legend(fontsize="x-small")
panel(right, data, "0.8")
drawn = sample(longer[0][LONG])
right.scatter(*drawn.T, s=4, color=figures.COLORS["denoised"], linewidths=0)
right.scatter(*few.T, s=30, facecolors="none", edgecolors=figures.COLORS["data"])
plt.show()

# %% [markdown]
# ## Beside a network that learns images
#
# The paper's authors recorded the Gaussian's fraction while a network learned CIFAR-10. How far does it fall there, and how
# far does it rise again? [Chapter 10](10_learned_first.ipynb) looks closer, and watches image networks of our own.

# %%
record = torch.tensor(
    [
        [row["kimg"], row["score_residual"]]
        for row in shipped.published("edm_training")
        if row["model"] == "gaussian" and row["sigma"] == 0.5
    ]
)
marked = record[[0, int(record[:, 1].argmin()), -1]]
for images, value in marked:
    print(f"published, σ = 0.5, {images:5,.0f} thousand images: {value:.2g}")
published_rise = marked[2, 1] / marked[1, 1]
print(f"it rises {published_rise:.2f}-fold")
assert [f"{value:.2g}" for value in marked[:, 1]] == ["0.82", "0.023", "0.034"]
assert 295 < marked[1, 0] < 305
assert marked[2, 0] == 5000
assert 1.4 < published_rise < 1.6
for sigma in (0.2, 0.4):
    k = SIGMAS.index(sigma)
    rises = fraction["Gaussian"][k][:, -1] / least["Gaussian"].values[k]
    print(
        f"ours, σ = {sigma:g}: {rises.mean():.0f}-fold on average of the trainings"
    )
    assert rises.mean() > 11

# %% [markdown]
# ## What we saw
#
# **Shown here.** A preconditioned network starts as the isotropic Gaussian, exactly. Its score then comes close to the
# Gaussian's, within a few dozen steps in every training, and departs from it as it learns what is bent. At low noise it passes the
# mixture too. The Gaussian is not unlearned on the way: the straight part of the score stays there. A network with a
# dozen points comes close to their cloud around them, and is far from it elsewhere.
#
# **The paper.** [Wang & Vastola 2024](https://arxiv.org/abs/2412.09726) follow the same fractions while a network learns
# CIFAR-10. In their published table, at $\sigma = 0.5$, the Gaussian's fraction falls from 0.82 to 0.023 by 300 thousand
# images, and has risen to 0.034 after five million.
#
# **The difference.** Images in thousands of dimensions are much closer to Gaussian than three thin arcs in two: their curve
# rises by half, ours more than tenfold at $\sigma = 0.2$ and 0.4. They average a ratio at each point; in the plane one cannot.
# Their figures leave out the isotropic Gaussian, which explains the untrained network for no merit of its own; here it is
# shown. Our networks are small and were trained for seconds: at the lowest noise they are still on their way.
# [The next chapter](06_image_statistics.ipynb) begins with images: what do their mean and covariance know?
#
# ## Exercises
#
# **1. Is the head start exact?** Leave the last layer of `Small` as PyTorch initialises it. How much of the untrained
# network does the isotropic Gaussian then leave unexplained?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
found = []
for seed in SEEDS:
    torch.manual_seed(seed)
    network = gt.networks.EDM(Small(), (2,), sigma_data).requires_grad_(False)
    network.network.layers[-1].reset_parameters()
    table = gt.residuals(
        network, {"": models["isotropic"]}, unseen, SIGMAS, points=500, pooled=True
    )
    found.append([row.unexplained.score for row in table])
found = torch.tensor(found)
for sigma, values in zip(SIGMAS, found.T):
    print(f"σ = {sigma:<4g} {values.mean():.3f} ± {values.std():.3f} unexplained")
assert found[:, -1].max() < 0.02
assert found[:, 0].mean() > 0.05
# Not at low noise. F answers with numbers near 0.1 where its targets have size 1, but the
# score is (D − x)/σ², so F's share of it grows as 1/σ, and the isotropic one's does not.

# %% [markdown]
# **2. Data that are Gaussian.** Train on a thousand samples of the Gaussian instead of the arcs. Does the Gaussian's fraction at
# $\sigma = 0.2$ rise again?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
for seed in SEEDS[:2]:
    normal = gaussian.sample(N_POINTS, generator=seeded(seed))
    fresh = gaussian.sample(N_POINTS, generator=seeded(seed + 100))
    kept = train(normal, STEPS, seed)
    curve = unexplained_by({"": gaussian}, [kept], fresh, [at_level])[""].flatten()
    print(f"from {curve[0]:.2f} to {curve.min():.3f}, at last {curve[-1]:.3f}")
    assert curve[-1] < 0.15 < whole[:, -1].min() / 4
# No: there is nothing bent to be found. What remains is the error of a small network
# that still trains with noisy steps.

# %% [markdown]
# **3. Average of ratios, ratio of averages.** The paper's measure takes the ratio at each point first. Compute these ratios
# for the Gaussian and a trained network at $\sigma = 0.4$, at very many points. Which share of them exceeds 10, 100, 1000?
# What does that say about their mean?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
tails = []
for kept in runs:
    x = gt.evaluation_points(unseen, 0.4, 400_000, seed=3)
    theirs, ours = gt.score(kept[STEPS], x, 0.4), gaussian.score(x, 0.4)
    ratios = (theirs - ours).square().sum(1) / theirs.square().sum(1)
    tails.append([(ratios > bound).double().mean() for bound in (10, 100, 1000)])
tail = torch.tensor(tails).mean(0)
for bound, share in zip((10, 100, 1000), tail):
    print(f"{share:.4%} of the ratios exceed {bound}")
assert ((tail[:-1] / tail[1:]) > 6).all()
assert ((tail[:-1] / tail[1:]) < 16).all()
# Each tenfold bound leaves a tenth: P(ratio > r) is proportional to 1/r, and a mean with
# such a tail is infinite. The reason: the network's score is zero at some points where
# the Gaussian's is not, and close to them 1/|s|² is as large as 1/distance², whose
# integral over the plane diverges. In more than two dimensions it does not.
