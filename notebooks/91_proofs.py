# %% [markdown]
# # Proofs
#
# The chapters state a formula where they need it and try it out on the spot. This page collects the formulas and proves
# them, in the order in which they build on each other:
#
# > *Why is it so?* Sixteen steps of half a page lead from the definition of noise to the error of a jump.
#
# Each section states its formulas, derives them, and then computes both sides in ways that share as little as possible:
# the library on one side; on the other sympy's algebra, automatic differentiation, linear algebra written out, scipy's
# solver of differential equations, or chance. The symbols are those of the [notation](../book/notation.md). Data $x_0$
# have mean $\mu$ and covariance $\Sigma$ with eigenpairs $(\lambda_k, u_k)$, where $k$ runs over all $d$ directions:
# off the span of a Gaussian of low rank, $\lambda_k$ is its tail. We abbreviate the noised covariance and the noised
# deviation by
#
# $$
# \begin{aligned}
# S &= \Sigma+\sigma^2 I, \\
# \psi_k(\sigma) &= \sqrt{\lambda_k+\sigma^2}.
# \end{aligned}
# $$

# %% tags=["parameters"] fast={"DRAWS": 2000}
SIGMA_MAX = 80.0
DRAWS = 100_000  # where chance is the witness
SEED = 0

# %%
import math

import sympy as sp
import torch
from scipy.integrate import quad_vec, solve_ivp
from torch.autograd.functional import jacobian

import gausstools as gt
from gausstools import theory

torch.set_default_dtype(torch.float64)


def seeded(number):
    return torch.Generator().manual_seed(SEED + number)


# %% [markdown]
# Three witnesses: for algebra, for numbers, and for averages over draws, where "equal" means within four standard
# errors.


# %%
def identity(what, expression):
    assert sp.simplify(expression) == 0, what
    print(f"{what}: identical")


def same(what, left, right, at_most=1e-9):
    off = (torch.as_tensor(left) - torch.as_tensor(right)).abs().max().item()
    print(f"{what}: off by {off:.0e}")
    assert off < at_most


def by_chance(what, draws, expected):
    error = draws.std().item() / len(draws) ** 0.5
    mean, expected = draws.mean().item(), float(expected)
    print(f"{what}: {mean:.4f} ± {error:.4f}, expected {expected:.4f}")
    assert abs(mean - expected) < 4 * error


def solve(slope, state, start, end):
    """Integrate d(state)/dt = slope(state, t) with scipy."""

    def flat(t, y):
        return slope(torch.tensor(y).reshape(state.shape), t).flatten().numpy()

    y = state.flatten().numpy()
    path = solve_ivp(flat, (start, end), y, "DOP853", rtol=1e-11, atol=1e-12)
    return torch.tensor(path.y[:, -1]).reshape(state.shape)


def flow_of(denoiser):
    return lambda x, sigma: (x - denoiser(x, sigma)) / sigma


# %% [markdown]
# They are asked about three models: a Gaussian in five dimensions, whose tail fills two of them; a mixture in the
# plane; and a cloud of twelve points drawn from it. What is said to hold for *any* data has to hold for the last two.

# %%
turn = torch.linalg.qr(torch.randn(5, 5, generator=seeded(0))).Q
gaussian = gt.Gaussian(
    mean=torch.tensor([0.5, -0.3, 0.0, 0.2, 1.0]),
    variances=torch.tensor([4.0, 1.0, 0.09]),
    basis=turn[:, :3],
    tail=0.01,
)
variances = torch.tensor([4.0, 1.0, 0.09, 0.01, 0.01])  # along the columns of turn


def coordinates(x):
    return (x - gaussian.mean) @ turn


def psi(sigma):
    return (variances + sigma**2).sqrt()


centres = torch.tensor([[-1.0, 0.0], [1.0, 0.5], [0.3, -1.2]])
shapes = torch.tensor(
    [[[0.3, 0.1], [0.1, 0.2]], [[0.1, 0], [0, 0.4]], [[0.05, 0], [0, 0.05]]]
)
bumps = [gt.Gaussian.from_covariance(m, c) for m, c in zip(centres, shapes)]
mixture = gt.Mixture([0.5, 0.3, 0.2], bumps)
cloud = gt.PointCloud(mixture.sample(12, generator=seeded(1)))
overall = mixture.to_gaussian()  # same mean and covariance

# %% [markdown]
# ## Tweedie's formula
#
# Let $D$ be the denoiser: of all functions, the one with the smallest error $\mathbb E\,\|D(x_\sigma)-x_0\|^2$. Then,
# for any data, and with "given $x$" short for "given that $x_\sigma=x$",
#
# $$
# \begin{aligned}
# D(x,\sigma) &= \mathbb E[x_0\mid x], \\
# \nabla\log p(x;\sigma) &= \frac{D(x,\sigma)-x}{\sigma^2}, \\
# \frac{\partial D}{\partial x} &= \frac{\operatorname{Cov}[x_0\mid x]}{\sigma^2}.
# \end{aligned}
# $$ (eq-proof-tweedie)
#
# *Used in* [chapter 1](01_noise_and_score.ipynb#eq-tweedie).
#
# **The best answer is the posterior mean.** Write $m(x) = \mathbb E[x_0\mid x]$. Once $x_\sigma$ is given, $D$ and $m$
# are fixed and $x_0-m$ averages to zero, so the mixed term of the square vanishes:
#
# $$
# \begin{aligned}
# \mathbb E\,\|D-x_0\|^2 = {}& \mathbb E\,\|D-m\|^2 \\
# &+ \mathbb E\,\|m-x_0\|^2 .
# \end{aligned}
# $$
#
# $D$ does not occur in the last term, and the first is 0 for $D=m$ alone.
#
# **The score.** The noised density is an average of normal ones over the data,
# $p(x;\sigma) = \mathbb E_{x_0}\,\mathcal N(x;x_0,\sigma^2I)$. The gradient of a normal density is the density times
# $(x_0-x)/\sigma^2$, so
#
# $$
# \nabla p = \mathbb E_{x_0}\Big[\mathcal N(x;x_0,\sigma^2I)\,\frac{x_0-x}{\sigma^2}\Big].
# $$
#
# (For $\sigma>0$ all this is bounded, and one may differentiate under the average.) Divide by $p$. By Bayes' rule,
# $\mathcal N/p$ turns the average over the data into the one over $x_0$ *given* $x$. What remains is
# $\mathbb E[x_0-x\mid x]/\sigma^2$, which is $(D-x)/\sigma^2$.
#
# **The Jacobian.** In the same way $p\,D = \mathbb E_{x_0}[\mathcal N\,x_0]$. Differentiate both sides, divide by $p$,
# and put $D-x$ for $\sigma^2\,\nabla\log p$:
#
# $$
# \begin{aligned}
# &D\,(D-x)^\top + \sigma^2\,\frac{\partial D}{\partial x} \\
# &\quad= \mathbb E[x_0\,(x_0-x)^\top\mid x] .
# \end{aligned}
# $$
#
# The terms with $x^\top$ are $-Dx^\top$ on both sides and cancel. What is left is
# $\sigma^2\,\partial D/\partial x = \mathbb E[x_0x_0^\top\mid x] - DD^\top$, the covariance. So the Jacobian is
# symmetric and has no negative eigenvalue, and the total posterior variance is $\sigma^2\operatorname{div} D$.

# %%
sigma = 0.7
x0 = mixture.sample(DRAWS, generator=seeded(2))
x = x0 + sigma * torch.randn(x0.shape, generator=seeded(3))
best, other = mixture(x, sigma), overall(x, sigma)
parts = [(other - x0), (other - best), (best - x0)]
whole, first, second = (part.square().sum(1) for part in parts)
by_chance("the mixed term", whole - first - second, 0)

some = x[:5]
gradient = jacobian(lambda x: mixture.log_prob(x, sigma).sum(), some)
same("score of the mixture", gradient, (mixture(some, sigma) - some) / sigma**2)

for point in some[:2]:
    squares = (point - cloud.data).square().sum(1)
    weights = (-squares / (2 * sigma**2)).softmax(0)  # Bayes' rule
    mean = weights @ cloud.data
    covariance = (weights * (cloud.data - mean).T) @ (cloud.data - mean)
    slope = jacobian(lambda x: cloud(x[None], sigma)[0], point)
    same("Jacobian of the cloud", slope, covariance / sigma**2)
    trace = cloud.posterior_variance(point[None], sigma)
    same("its trace", sigma**2 * slope.trace(), trace)

# %% [markdown]
# ## The flow, in VE and in other conventions
#
# A point that moves by the first equation keeps the noised density: if it is distributed as $x_\sigma$ at one level
# above 0, it is at all. The second is the same motion seen in a convention $x_t = a(t)\,x_0+b(t)\,n$, with $D$ asked at
# $x_t/a$ and $\sigma=b/a$:
#
# $$
# \begin{aligned}
# \frac{\mathrm dx}{\mathrm d\sigma} &= -\sigma\,\nabla\log p(x;\sigma) \\
# &= \frac{x-D}{\sigma}, \\
# \frac{\mathrm dx_t}{\mathrm dt} &= \dot a\,D + \dot b\,\frac{x_t/a-D}{\sigma}.
# \end{aligned}
# $$ (eq-proof-flow)
#
# *Used in* [chapter 1](01_noise_and_score.ipynb#eq-flow),
# [chapter 2](02_gaussian_model.ipynb#three-conventions-one-path).
#
# **VE.** The normal density solves the heat equation $\partial_\sigma\,\mathcal N=\sigma\,\Delta\,\mathcal N$, in any
# dimension; the check differentiates both sides. Averages over $x_0$ do the same, so with $v = -\sigma\,\nabla\log p$
#
# $$
# \begin{aligned}
# \partial_\sigma p &= \sigma\,\Delta p = \nabla\cdot(\sigma\,p\,\nabla\log p) \\
# &= -\nabla\cdot(p\,v).
# \end{aligned}
# $$
#
# That is the continuity equation: the density of points that move with velocity $v$ changes just so. Tweedie's formula
# turns $v$ into $(x-D)/\sigma$. Along a path the density changes by
#
# $$
# \begin{aligned}
# \frac{\mathrm d\log p}{\mathrm d\sigma} &= \partial_\sigma\log p + v\cdot\nabla\log p \\
# &= -\nabla\cdot v = -\frac{d-\operatorname{div}D}{\sigma},
# \end{aligned}
# $$
#
# which is what the check follows.
#
# **Other conventions.** $x_t = a\,x_\sigma$, where $x_\sigma$ is a VE point at level $\sigma = b/a$. By the product
# rule, and since $b=a\sigma$ means $a\dot\sigma = \dot b-\dot a\sigma$,
#
# $$
# \begin{aligned}
# \dot x_t &= \dot a\,x_\sigma + a\,\dot\sigma\,\frac{x_\sigma-D}{\sigma} \\
# &= \dot a\,x_\sigma + (\dot b-\dot a\,\sigma)\,\frac{x_\sigma-D}{\sigma} \\
# &= \dot a\,D + \dot b\,\frac{x_\sigma-D}{\sigma}.
# \end{aligned}
# $$
#
# Here $(x_\sigma-D)/\sigma$ is $\mathbb E[n\mid x_t]$, so the velocity is the average of $\dot a\,x_0+\dot b\,n$. And
# as $p_t$ is $p(\cdot\,;\sigma)$ stretched by $a$, its score is $(a\,D-x_t)/b^2$: Tweedie's formula reads
# $D = (x_t+b^2\,\nabla\log p_t)/a$.

# %%
r, s, d = sp.symbols("r sigma d", positive=True)
normal = s ** (-d) * sp.exp(-(r**2) / (2 * s**2))  # but for a constant
laplace = sp.diff(normal, r, 2) + (d - 1) / r * sp.diff(normal, r)
identity("heat equation", (sp.diff(normal, s) - s * laplace) / normal)


def flow_and_density(state, sigma):
    x = state[:, :2]
    spread = (2 - mixture.posterior_variance(x, sigma) / sigma**2) / sigma
    return torch.cat([(x - mixture(x, sigma)) / sigma, -spread[:, None]], 1)


start = mixture.sample(4, 5.0, generator=seeded(4))
state = torch.cat([start, mixture.log_prob(start, 5.0)[:, None]], 1)
state = solve(flow_and_density, state, 5.0, 0.1)
arrived, log_p = state[:, :2], state[:, 2]
same("density along the paths", log_p, mixture.log_prob(arrived, 0.1), 1e-7)

for process in (gt.VP(), gt.FlowMatching()):

    def velocity(x, t, process=process):
        return process.velocity(mixture, x, t)

    x, t = process.from_ve(start, 5.0)
    end = process.time(torch.tensor([0.1]))
    x = solve(velocity, x, t.item(), end.item())
    back, _ = process.to_ve(x, end)
    same(f"{type(process).__name__} against VE", back, arrived, 1e-7)

# %% [markdown]
# ## The denoiser of a Gaussian
#
# If the data are $\mathcal N(\mu,\Sigma)$, and $z_k=u_k^\top(x-\mu)$ are the coordinates of $x$, then
#
# $$
# \begin{aligned}
# \nabla\log p &= -S^{-1}(x-\mu), \\
# D &= \mu+\Sigma S^{-1}(x-\mu) \\
# &= \mu+\sum_k\frac{\lambda_k}{\lambda_k+\sigma^2}\,z_ku_k,
# \end{aligned}
# $$ (eq-proof-gaussian)
#
# and the posterior covariance is $\sigma^2\,\Sigma S^{-1}$.
#
# *Used in* [chapter 2](02_gaussian_model.ipynb#eq-gaussian-denoiser).
#
# The sum of independent normal vectors is normal, and covariances add: $x_\sigma\sim\mathcal N(\mu,S)$. So
# $\log p = -\tfrac12(x-\mu)^\top S^{-1}(x-\mu)$ plus a constant, whose gradient is the first line. Tweedie's formula
# gives the second,
#
# $$
# \begin{aligned}
# D &= x-\sigma^2S^{-1}(x-\mu) \\
# &= \mu+(S-\sigma^2I)\,S^{-1}(x-\mu),
# \end{aligned}
# $$
#
# and $S-\sigma^2I=\Sigma$. All these matrices have the eigenvectors $u_k$, and $\Sigma S^{-1}$ the eigenvalues
# $\lambda_k/(\lambda_k+\sigma^2)$: the **gains**. The posterior covariance is $\sigma^2$ times the Jacobian of $D$. It does not
# depend on $x$.
#
# Where all directions off the span of $u_1\dots u_r$ share one variance $\tau$, their terms add up to
# $\tau/(\tau+\sigma^2)$ times $(I-UU^\top)(x-\mu)$, and no more vectors are needed than the first $r$.

# %%
sigma = 0.4
x = gaussian.sample(6, sigma, generator=seeded(5))
dense = turn @ torch.diag(variances) @ turn.T
noised = dense + sigma**2 * torch.eye(5)
oracle = torch.distributions.MultivariateNormal(gaussian.mean, noised)
same("log density", gaussian.log_prob(x, sigma), oracle.log_prob(x))
same(
    "score",
    gaussian.score(x, sigma),
    jacobian(lambda x: oracle.log_prob(x).sum(), x),
)
same(
    "denoiser",
    gaussian(x, sigma),
    gaussian.mean + (x - gaussian.mean) @ torch.linalg.solve(noised, dense),
)
posterior = dense - dense @ torch.linalg.solve(noised, dense)  # Schur's complement
same("posterior variance", gaussian.posterior_variance(x, sigma), posterior.trace())

# %% [markdown]
# ## The flow of a Gaussian
#
# From $\sigma_T$ to any other level $\sigma$, up or down, the flow carries $x_T$ to the point below. ($z_k(\sigma_T)$
# are the coordinates of $x_T$, and $S_\sigma$, $S_T$ are $S$ at the two levels.)
#
# $$
# \begin{aligned}
# x_\sigma &= \mu+\sum_k\frac{\psi_k(\sigma)}{\psi_k(\sigma_T)}\,z_k(\sigma_T)\,u_k \\
# &= \mu+S_\sigma^{1/2}\,S_T^{-1/2}(x_T-\mu).
# \end{aligned}
# $$ (eq-proof-gaussian-flow)
#
# *Used in* [chapter 2](02_gaussian_model.ipynb#eq-gaussian-flow), [chapter 11](11_teleportation.ipynb#eq-jump).
#
# Put the gain into the flow and look along $u_k$:
#
# $$
# \begin{aligned}
# \frac{\mathrm dz_k}{\mathrm d\sigma} &= \frac1\sigma\Big(1-\frac{\lambda_k}{\lambda_k+\sigma^2}\Big)z_k \\
# &= \frac{\sigma}{\lambda_k+\sigma^2}\,z_k.
# \end{aligned}
# $$
#
# No other direction occurs. Divide by $z_k$: $\mathrm d\ln z_k = \sigma\,\mathrm d\sigma/(\lambda_k+\sigma^2)$, which
# is $\mathrm d\ln\psi_k$. So $z_k/\psi_k$ does not change, and that is the first line.
#
# **It composes, and it can be undone.** Factors telescope: from $\sigma_1$ to $\sigma_2$ and on to $\sigma_3$ is
# $\frac{\psi_k(\sigma_2)}{\psi_k(\sigma_1)}\frac{\psi_k(\sigma_3)}{\psi_k(\sigma_2)}$, the factor from $\sigma_1$ to
# $\sigma_3$. The inverse has the reciprocal. It is missing in one case only: from $\sigma=0$, along directions with
# $\lambda_k=0$.
#
# **In other conventions** a VE point is multiplied by $a$, and so are its coordinates $z_k(t)=u_k^\top(x_t-a\mu)$. As
# $a\,\psi_k(b/a)=\sqrt{a^2\lambda_k+b^2}$, from $t$ to $t'$
#
# $$
# z_k(t')=\sqrt{\frac{a'^2\lambda_k+b'^2}{a^2\lambda_k+b^2}}\;z_k(t).
# $$ (eq-proof-process-flow)

# %%
s, s_T, lam = sp.symbols("sigma sigma_T lambda", positive=True)
z = sp.sqrt((lam + s**2) / (lam + s_T**2))
identity("differential equation", sp.diff(z, s) - s / (lam + s**2) * z)

x = gaussian.sample(4, SIGMA_MAX, generator=seeded(6))
numerical = solve(flow_of(gaussian), x, SIGMA_MAX, 0.05)
same("solver", gaussian.flow(x, SIGMA_MAX, 0.05), numerical, 1e-8)
end = gaussian.flow(x, SIGMA_MAX, 0.0)
same("composed", gaussian.flow(gaussian.flow(x, SIGMA_MAX, 3.0), 3.0, 0.0), end)
same("and back", gaussian.flow(end, 0.0, SIGMA_MAX), x)

# %%
vp, times = gt.VP(), torch.tensor([0.9, 0.4])


def deviations(x, t):
    """Coordinates in units of the noised deviation, which the flow should keep."""
    a, b = vp.signal(t), vp.noise(t)
    return (x - a * gaussian.mean) @ turn / (a**2 * variances + b**2).sqrt()


jump = gt.teleport(gaussian, x, times, float(vp.sigma(times[1])), process=vp)
same("VP", deviations(jump.x, times[1]), deviations(x, times[0]))

# %% [markdown]
# ## What the denoiser shows on the way
#
# Along the path from $x_T$, the denoised image is
#
# $$
# \begin{aligned}
# D(x_\sigma) &= \mu+\sum_kc_k(\sigma)\,z_k(\sigma_T)\,u_k, \\
# c_k(\sigma) &= \frac{\lambda_k}{\psi_k(\sigma)\,\psi_k(\sigma_T)}, \\
# \frac{c_k(\sigma)}{c_k(0)} &= \sqrt{\frac{\lambda_k}{\lambda_k+\sigma^2}},
# \end{aligned}
# $$ (eq-proof-share)
#
# so that the share of the final value is one half at $\sigma^2=3\lambda_k$.
#
# *Used in* [chapter 2](02_gaussian_model.ipynb#eq-denoiser-path) and [again](02_gaussian_model.ipynb#eq-half-way),
# [chapter 3](03_predictions.ipynb#eq-one-sigmoid).
#
# The coefficient is gain times flow, $\frac{\lambda_k}{\psi_k(\sigma)^2}\cdot\frac{\psi_k(\sigma)}{\psi_k(\sigma_T)}$.
# Divided by its value at $\sigma=0$, everything that depends on $\sigma_T$ cancels.
#
# **A sigmoid in $\ln\sigma$.** With $v=\ln\sigma-\tfrac12\ln\lambda_k$ the share is $(1+e^{2v})^{-1/2}$: one curve for
# all directions, shifted by half of $\ln\lambda_k$. Its square is the logistic function of $-2v$. It is $q$ at
# $\sigma^2=\lambda_k(q^{-2}-1)$, which is $3\lambda_k$ for $q=\tfrac12$.
#
# **The order.** At a given $\sigma$ the share grows with $\lambda_k$, since $\lambda/(\lambda+\sigma^2)$ has the
# derivative $\sigma^2/(\lambda+\sigma^2)^2>0$. So at every level the wider direction is further on.
#
# **What is exact.** All of the above, for every $\sigma_T$. Two readings need $\sigma_T^2\gg\lambda_k$. First, the path
# starts with the share $\varepsilon_k=\sqrt{\lambda_k}/\psi_k(\sigma_T)$, not with 0. Half of the *climb* is behind it
# where the share is $(1+\varepsilon_k)/2$, at
#
# $$
# \begin{aligned}
# \sigma^2 &= \Big(\frac{4}{(1+\varepsilon_k)^2}-1\Big)\,\lambda_k \\
# &= (3-8\,\varepsilon_k+\dots)\,\lambda_k .
# \end{aligned}
# $$
#
# Second, samplers start from pure noise $\sigma_T\,n$ instead of $\mathcal N(\mu,S_T)$. The flow ends at
# $z_k(0)=\varepsilon_k\,(\sigma_T\,u_k^\top n-u_k^\top\mu)$, with the variance $(1-\varepsilon_k^2)\,\lambda_k$ instead
# of $\lambda_k$ and the mean $(1-\varepsilon_k)\,u_k^\top\mu$ instead of $u_k^\top\mu$.

# %%
share = sp.sqrt(lam / (lam + s**2))
eps = sp.sqrt(lam / (lam + s_T**2))
start_share = share.subs(s, s_T)
identity("half way", share.subs(s, sp.sqrt(3 * lam)) - sp.Rational(1, 2))
v = sp.log(s) - sp.log(lam) / 2
identity("sigmoid", share - 1 / sp.sqrt(1 + sp.exp(2 * v)))
half_climb = sp.sqrt(lam * (4 / (1 + eps) ** 2 - 1))
climbed = (share.subs(s, half_climb) - start_share) / (1 - start_share)
identity("half of the climb", climbed - sp.Rational(1, 2))
e = sp.symbols("epsilon", positive=True)
print("σ² of half the climb, in λ:", sp.series(4 / (1 + e) ** 2 - 1, e, 0, 3))

for sigma in (10.0, 1.0, 0.1):
    shown = coordinates(gaussian(gaussian.flow(x, SIGMA_MAX, sigma), sigma))
    expected = variances / (psi(sigma) * psi(SIGMA_MAX)) * coordinates(x)
    same(f"denoised at σ = {sigma:g}", shown, expected)
n = torch.randn(DRAWS, 5, generator=seeded(7))
z = coordinates(gaussian.flow(SIGMA_MAX * n, SIGMA_MAX, 0.0))[:, 0]
eps_1 = 2 / psi(SIGMA_MAX)[0]
mean = -eps_1 * (gaussian.mean @ turn)[0]
by_chance("variance from pure noise", (z - mean) ** 2, (1 - eps_1**2) * 4)

# %% [markdown]
# ## A kick
#
# Push the state at level $\sigma'$ by $\delta$ along $u_k$, and let it flow on to $\sigma$. The difference it makes
# there is
#
# $$
# \begin{aligned}
# \delta_\sigma &= \delta\,\frac{\psi_k(\sigma)}{\psi_k(\sigma')}, \\
# \delta_0 &= \delta\,\sqrt{\frac{\lambda_k}{\lambda_k+\sigma'^2}},
# \end{aligned}
# $$ (eq-proof-kick)
#
# and of a kick in a random direction the share $\frac1d\sum_k\lambda_k/(\lambda_k+\sigma'^2)$ of its squared length is
# left, on average.
#
# *Used in* [chapter 3](03_predictions.ipynb#eq-kick) and [again](03_predictions.ipynb#eq-random-kick).
#
# The flow is affine [(above)](#eq-proof-gaussian-flow). In the difference of two paths the mean drops out and only the
# factor is left. A random direction has coordinates $\delta_k$ with $\mathbb E\,\delta_k^2=\|\delta\|^2/d$, and squares
# of coordinates add up.
#
# In the VP convention a kick $\delta$ of $x_t$ is one of $\delta/a$ in VE. It ends as
# $\delta\sqrt{\lambda_k/(a^2\lambda_k+b^2)}$: as $a^2+b^2=1$, directions with $\lambda_k>1$ amplify it.

# %%
for sigma in (10.0, 0.5):
    slope = jacobian(
        lambda x, sigma=sigma: gaussian.flow(x[None], sigma, 0.0)[0], x[0]
    )
    along = turn.T @ slope @ turn
    factor = variances.sqrt() / psi(sigma)
    same(f"kicked at σ = {sigma:g}", along, torch.diag(factor))
kick = torch.randn(DRAWS, 5, generator=seeded(8))
kick = kick / kick.norm(dim=1, keepdim=True)
left = gaussian.flow(x[:1] + kick, 0.5, 0.0) - gaussian.flow(x[:1], 0.5, 0.0)
expected = (variances / psi(0.5) ** 2).mean()
by_chance("random kick", left.square().sum(1), expected)

# %% [markdown]
# ## In VP the path is nearly a rotation
#
# Let $a^2+b^2=1$, and let the path begin at $a_T=0$: pure noise $x_T$. With $\zeta_k = u_k^\top x_T$,
#
# $$
# \begin{aligned}
# x_t &= a\,x_0+b\,x_T \\
# &\quad{}+\sum_ke_k\,\zeta_k\,u_k, \\
# e_k &= \sqrt{a^2\lambda_k+b^2}-a\sqrt{\lambda_k}-b, \\
# 0 &\le -e_k\le\min(a\sqrt{\lambda_k},\,b).
# \end{aligned}
# $$ (eq-proof-rotation)
#
# *Used in* [chapter 3](03_predictions.ipynb#eq-rotation).
#
# With $a=\cos\theta$ and $b=\sin\theta$ the first two terms are the quarter of an ellipse in the plane of $x_0$ and
# $x_T$; of a circle, if these are equally long and at right angles.
#
# By the flow in this convention [(above)](#eq-proof-process-flow), from $a=0$, $b=1$,
#
# $$
# u_k^\top(x_t-a\mu)=\sqrt{a^2\lambda_k+b^2}\;\zeta_k .
# $$
#
# At $t=0$ it says $u_k^\top(x_0-\mu)=\sqrt{\lambda_k}\,\zeta_k$. Subtract $a$ times that and $b\,\zeta_k$: the means
# cancel, and $e_k\,\zeta_k$ is left. This is exact.
#
# **How large is it?** $h=\sqrt{a^2\lambda_k+b^2}$ is the hypotenuse over the legs $p=a\sqrt{\lambda_k}$ and $b$. It is
# at most their sum and at least the longer one; that is the third line. Since $(p+b)^2-h^2=2pb$,
#
# $$
# e_k=-\frac{2\,p\,b}{h+p+b}.
# $$
#
# So the error is second order where one leg is short. Relative to $h$ it is worst where the legs are equal, at
# $\sigma=b/a=\sqrt{\lambda_k}$: then $e_k=(1-\sqrt2)\,h$. If the path starts at a finite $\sigma_T$, its noise end is
# $\sqrt{a_T^2\lambda_k+b_T^2}\;\zeta_k$ instead of $\zeta_k$.

# %%
p, q = sp.symbols("p b", positive=True)
h = sp.sqrt(p**2 + q**2)
identity("the other form of the error", (h - p - q) + 2 * p * q / (h + p + q))
identity("worst", sp.diff((h - p - q) / h, p).subs(p, q))
identity("there", ((h - p - q) / h).subs(p, q) - (1 - sp.sqrt(2)))

times = torch.tensor([1.0, 0.5, 0.0])
a, b, half = vp.signal(times[1]), vp.noise(times[1]), float(vp.sigma(times[1]))
noise = torch.randn(4, 5, generator=seeded(9))
middle = gt.teleport(gaussian, noise, times, half, process=vp).x
image = gt.teleport(gaussian, noise, times, 0.0, process=vp).x
zeta = deviations(noise, times[0])
error = (a**2 * variances + b**2).sqrt() - a * variances.sqrt() - b
bent = (middle - a * image) @ turn - b * zeta
same("rotation and its error", bent, error * zeta)

# %% [markdown]
# ## The Gaussian denoiser is the best affine one
#
# For *any* data with mean $\mu$ and covariance $\Sigma$, the affine denoiser $D(x)=\beta+W(x-\mu)$ has the expected
# loss
#
# $$
# \begin{aligned}
# L &= \mathbb E\,\|D(x_\sigma)-x_0\|^2 \\
# &= \|\beta-\mu\|^2 \\
# &\;{}+\operatorname{tr}\,(W-W_*)\,S\,(W-W_*)^\top \\
# &\;{}+\sigma^2\operatorname{tr}W_* ,
# \end{aligned}
# $$ (eq-proof-affine)
#
# with $W_*=\Sigma S^{-1}$. It is smallest for the Gaussian's denoiser, $\beta=\mu$ and $W=W_*$, and then
#
# $$
# \frac{L}{\sigma^2}=\operatorname{tr}W_*=\sum_k\frac{\lambda_k}{\lambda_k+\sigma^2}.
# $$ (eq-proof-loss)
#
# *Used in* [chapter 1, exercise 2](01_noise_and_score.ipynb#exercises), [chapter 4](04_mixtures_and_clouds.ipynb),
# [chapter 5](05_training.ipynb#eq-pythagoras), [chapter 6](06_image_statistics.ipynb#eq-denoising-loss).
#
# Write $c=x_0-\mu$. The error is $(\beta-\mu)+(W-I)\,c+\sigma Wn$: a constant and two independent vectors of mean zero.
# Their mean squares add up, with covariances $\Sigma$ and $I$. That is all that enters of the data:
#
# $$
# \begin{aligned}
# L &= \|\beta-\mu\|^2+\operatorname{tr}(W-I)\Sigma(W-I)^\top \\
# &\quad{}+\sigma^2\operatorname{tr}WW^\top \\
# &= \|\beta-\mu\|^2+\operatorname{tr}WSW^\top \\
# &\quad{}-2\operatorname{tr}W\Sigma+\operatorname{tr}\Sigma .
# \end{aligned}
# $$
#
# Now complete the square. As $W_*S=\Sigma$, the trace with $W-W_*$ in the statement is
# $\operatorname{tr}WSW^\top-2\operatorname{tr}W\Sigma+\operatorname{tr}W_*\Sigma$. What it does not account for is
# $\operatorname{tr}(I-W_*)\Sigma$, and $I-W_*=\sigma^2S^{-1}$, so that is $\sigma^2\operatorname{tr}W_*$.
#
# **Squares add up.** Let $D$ be the exact denoiser of the data, $D_G$ the Gaussian's and $\ell$ any affine function.
# Then
#
# $$
# \mathbb E\,(D-D_G)\cdot\ell(x_\sigma)=0 .
# $$ (eq-proof-orthogonal)
#
# For $D-x_0$ averages to zero at every $x_\sigma$, so $\mathbb E\,(D-x_0)\cdot\ell=0$. And
# $\mathbb E\,(D_G-x_0)\cdot\ell=0$, else moving $D_G$ a little along $\ell$ would make its loss smaller. So
#
# $$
# \begin{aligned}
# \mathbb E\,\|D-\ell\|^2 = {}& \mathbb E\,\|D-D_G\|^2 \\
# &+ \mathbb E\,\|D_G-\ell\|^2 :
# \end{aligned}
# $$
#
# in the eyes of affine functions, the denoiser of any data *is* the Gaussian's.

# %%
sigma, mu = 0.7, overall.mean
x0 = mixture.sample(DRAWS, generator=seeded(2))
x = x0 + sigma * torch.randn(x0.shape, generator=seeded(3))
squared = (overall(x, sigma) - x0).square().sum(1)
sum_of_gains = (overall.variances / (overall.variances + sigma**2)).sum()
by_chance("on draws of the mixture", squared, sigma**2 * sum_of_gains)
value = theory.denoising_loss(overall, sigma)
same("library", value, sigma**2 * sum_of_gains)

beta = torch.randn(2, generator=seeded(10))
W = torch.randn(2, 2, generator=seeded(11))
Sigma = mixture.covariance
S = Sigma + sigma**2 * torch.eye(2)
best = torch.linalg.solve(S, Sigma).T
error = W - best
loss = (beta - mu).square().sum() + (error @ S @ error.T).trace()
loss = loss + sigma**2 * best.trace()
affine = beta + (x - mu) @ W.T
by_chance("another affine one", (affine - x0).square().sum(1), loss)
apart = mixture(x, sigma) - overall(x, sigma)
by_chance("uncorrelated", (apart * affine).sum(1), 0)

# %% [markdown]
# ## How a linear denoiser learns
#
# Let an affine denoiser descend on its expected loss at one noise level, $\dot W=-\eta\,\partial L/\partial W$ and the
# same for $\beta$. Then
#
# $$
# \begin{aligned}
# \dot W &= -2\eta\,(WS-\Sigma), \\
# W(t) &= W_*+(W_0-W_*)\,e^{-2\eta St}, \\
# \beta(t) &= \mu+(\beta_0-\mu)\,e^{-2\eta t},
# \end{aligned}
# $$ (eq-proof-learning)
#
# and the gain $g_k=u_k^\top Wu_k$ approaches $\lambda_k/(\lambda_k+\sigma^2)$ at the rate
# $2\eta\,(\lambda_k+\sigma^2)$.
#
# *Used in* [chapter 5](05_training.ipynb#eq-linear-learning), [chapter 10](10_learned_first.ipynb#eq-gains).
#
# From the loss in its second form [(above)](#eq-proof-affine), $\partial L/\partial W=2\,(WS-\Sigma)$ and
# $\partial L/\partial\beta=2\,(\beta-\mu)$. Since $WS-\Sigma=(W-W_*)S$, the error $E=W-W_*$ obeys $\dot E=-2\eta\,ES$,
# which the exponential solves. Apply it to $u_k$, an eigenvector of $S$: $Eu_k$ shrinks as
# $e^{-2\eta(\lambda_k+\sigma^2)t}$, the whole column of it, gain and leakage alike. From $W_0=0$,
#
# $$
# g_k(t)=\frac{\lambda_k}{\lambda_k+\sigma^2}\Big(1-e^{-2\eta(\lambda_k+\sigma^2)t}\Big).
# $$
#
# The loss falls mode by mode:
#
# $$
# \begin{aligned}
# L(t) &= \sigma^2\operatorname{tr}W_*+e^{-4\eta t}\,\|\beta_0-\mu\|^2 \\
# &\quad{}+\sum_k\psi_k^2\,e^{-4\eta\psi_k^2t}\,\|E_0u_k\|^2 .
# \end{aligned}
# $$
#
# (This is for $W$ acting on $x-\mu$. A layer that acts on $x$ itself couples its bias to $W\mu$, unless the data are
# centred.)

# %%
eta, moments = 0.3, gt.Gaussian.from_covariance(mu, Sigma)
W0, beta0 = torch.randn(2, 2, generator=seeded(12)), torch.zeros(2)


def expected_loss(beta, W):
    missed = W - torch.eye(2)
    spread = missed @ Sigma @ missed.T + sigma**2 * W @ W.T
    return (beta - mu).square().sum() + spread.trace()


def descent(state, t):
    return -eta * jacobian(lambda s: expected_loss(s[0], s[1:]), state)


trained = solve(descent, torch.cat([beta0[None], W0]), 0.0, 1.5)
learning = theory.LinearDynamics(moments, sigma, eta, W0, beta0)
at = torch.tensor([1.5])
answers = trained[0] + (x[:5] - mu) @ trained[1:].T
same("denoiser after training", learning.denoiser(1.5)(x[:5], sigma), answers)
gains = (moments.basis.T @ trained[1:] @ moments.basis).diagonal()
same("gains", learning.gains(at)[0], gains)
same("loss", learning.loss(at), expected_loss(trained[0], trained[1:]))
same("rates", learning.rates, 2 * eta * (moments.variances + sigma**2))

# %% [markdown]
# ## Mixtures and point clouds
#
# For data $\sum_kw_k\,\mathcal N(\mu_k,\Sigma_k)$, with $S_k=\Sigma_k+\sigma^2I$ and the denoisers $D_k$ and scores
# $s_k$ of the parts,
#
# $$
# \begin{aligned}
# D &= \sum_k\rho_kD_k, \\
# \nabla\log p &= \sum_k\rho_ks_k, \\
# \rho_k(x) &\propto w_k\,\mathcal N(x;\mu_k,S_k),
# \end{aligned}
# $$ (eq-proof-mixture)
#
# where the responsibilities $\rho_k$ sum to 1. For points $y_1\dots y_N$ they are a softmax:
#
# $$
# \begin{aligned}
# D &= \sum_iw_iy_i, \\
# w_i &\propto \exp\Big(\!-\frac{\|x-y_i\|^2}{2\sigma^2}\Big) \\
# &\propto \exp\Big(\frac{x\cdot y_i-\frac12\|y_i\|^2}{\sigma^2}\Big).
# \end{aligned}
# $$ (eq-proof-cloud)
#
# *Used in* [chapter 1](01_noise_and_score.ipynb#eq-denoiser),
# [chapter 4](04_mixtures_and_clouds.ipynb#eq-mixture-score).
#
# Draw the part first, then the point. Given the part, the noised point is $\mathcal N(\mu_k,S_k)$, so by Bayes' rule
# $\rho_k$ is the probability of part $k$ given $x$. The average over $x_0$ given $x$ is that over the parts of the
# averages within each: $D=\sum_k\rho_kD_k$. The score follows from Tweedie's formula, since $\sum_k\rho_k=1$; or from
# $\nabla p=\sum_kw_k\,\mathcal N_k\,s_k$ divided by $p$. The law of total variance gives
#
# $$
# \begin{aligned}
# &\operatorname{Cov}[x_0\mid x] \\
# &\quad=\sum_k\rho_k\big(\sigma^2\Sigma_kS_k^{-1} \\
# &\qquad{}+(D_k-D)(D_k-D)^\top\big).
# \end{aligned}
# $$
#
# A cloud is the case $w_i=1/N$, $\Sigma_i=0$: then $D_i=y_i$, and the $S_i$ are equal, so the factors in front of the
# exponentials cancel. So does $\|x\|^2$, which is common to all; what is left is attention, with the query $x$ and the
# data as keys and values.

# %%
x, sigma = mixture.sample(6, 0.5, generator=seeded(13)), 0.5
eye = torch.eye(2)
laws = [
    torch.distributions.MultivariateNormal(m, c + sigma**2 * eye)
    for m, c in zip(centres, shapes)
]
joint = torch.stack([law.log_prob(x) for law in laws], 1) + mixture.weights.log()
rho = joint.softmax(1)
parts = torch.stack([bump(x, sigma) for bump in bumps], 1)
D = (rho[:, :, None] * parts).sum(1)
same("responsibilities", mixture.posterior(x, sigma), rho)
same("denoiser", mixture(x, sigma), D)
scores = torch.stack([bump.score(x, sigma) for bump in bumps], 1)
same("score", mixture.score(x, sigma), (rho[:, :, None] * scores).sum(1))
within = torch.stack([bump.posterior_variance(x, sigma) for bump in bumps], 1)
between = (parts - D[:, None]).square().sum(2)
same(
    "total variance",
    mixture.posterior_variance(x, sigma),
    (rho * (within + between)).sum(1),
)
y = cloud.data
attention = ((x @ y.T - y.square().sum(1) / 2) / sigma**2).softmax(1)
same("softmax weights", cloud.posterior(x, sigma), attention)
same("denoiser of the cloud", cloud(x, sigma), attention @ y)

# %% [markdown]
# ## From far away
#
# Let $c=x_0-\mu$ be bounded, $x=\mu+\sigma z$ with $z$ fixed, and $\sigma\to\infty$. With averages over the data,
#
# $$
# \begin{aligned}
# D &= \mu+\frac{\Sigma z}{\sigma}+\frac{T(z)}{2\sigma^2} \\
# &\quad{}+O(\sigma^{-3}), \\
# T(z) &= \mathbb E[c\,(c\cdot z)^2] \\
# &\quad{}-\mathbb E[c\,\|c\|^2].
# \end{aligned}
# $$ (eq-proof-far)
#
# The Gaussian with the same $\mu$ and $\Sigma$ has the same first term and none in $\sigma^{-2}$. Its own series, cut
# off after $m$ terms, is off by a share of exactly $(\lambda_k/\sigma^2)^m$ along $u_k$, and diverges where
# $\sigma^2<\lambda_k$.
#
# *Used in* [chapter 4](04_mixtures_and_clouds.ipynb#eq-far-field) and
# [again](04_mixtures_and_clouds.ipynb#eq-geometric).
#
# **The cloud.** The weight of a point is proportional to $e^\varepsilon$ with
#
# $$
# \varepsilon=\frac{c\cdot z}{\sigma}-\frac{\|c\|^2}{2\sigma^2},
# $$
#
# since $\|z\|^2$ is common to all. So $D-\mu=\mathbb E[c\,e^\varepsilon]/\mathbb E[e^\varepsilon]$. Expand the
# numerator, with $\mathbb E\,c=0$ and $\mathbb E\,cc^\top=\Sigma$:
#
# $$
# \begin{aligned}
# \mathbb E[c\,e^\varepsilon] &= \mathbb E[c\,\varepsilon]+\tfrac12\mathbb E[c\,\varepsilon^2]+\dots \\
# &= \frac{\Sigma z}{\sigma}+\frac{T(z)}{2\sigma^2}+O(\sigma^{-3}).
# \end{aligned}
# $$
#
# The denominator is $1+\mathbb E\,\varepsilon+\dots=1+O(\sigma^{-2})$, as $\mathbb E\,c\cdot z=0$. It changes the
# numerator by $O(\sigma^{-3})$.
#
# **The Gaussian.** Along $u_k$ its $D-\mu$ is $\frac{\lambda_k}{\lambda_k+\sigma^2}\,\sigma z_k$, where here
# $z_k=u_k^\top z$. With $q=\lambda_k/\sigma^2$ the gain is $q/(1+q)=q-q^2+q^3-\dots$, so the powers of $1/\sigma$ are
# odd: $\lambda_kz_k/\sigma-\lambda_k^2z_k/\sigma^3+\dots$ What the Gaussian misses of the cloud is therefore
# $T(z)/2\sigma^2$: third moments.
#
# **Cut off.** By the formula of the geometric series, $q-q^2+\dots\pm q^m$ is $\frac q{1+q}\big(1-(-q)^m\big)$.
# Relative to the gain itself it is off by $q^m$. That goes to 0 with more terms if $q<1$, and grows without bound if
# $q>1$. So on a Gaussian the series is useless below $\sigma^2=\lambda_{\max}$, where the gain itself is as good as
# ever.

# %%
q = sp.symbols("q", positive=True)
for m in (1, 2, 5):
    cut = sum(-((-q) ** j) for j in range(1, m + 1))
    identity(f"cut off after {m}", cut - q / (1 + q) * (1 - (-q) ** m))

z, c = torch.randn(3, 2, generator=seeded(14)), cloud.data - cloud.mean
like = cloud.to_gaussian()
cubic = (c @ z.T).square() - c.square().sum(1, keepdim=True)  # (points, batch)
third = cubic.T @ c / len(c)
scaled = []
for sigma in (100.0, 1000.0):
    x = cloud.mean + sigma * z
    missed = sigma**2 * (cloud(x, sigma) - like(x, sigma))
    same(f"missed at σ = {sigma:g}", missed, third / 2, 10 / sigma)
    off = [
        gt.FarField(cloud, order)(x, sigma) - cloud(x, sigma) for order in range(3)
    ]
    scaled.append([e.abs().max() * sigma ** (k + 1) for k, e in enumerate(off)])
for order, (near, far) in enumerate(zip(*scaled)):
    print(f"order {order}: error · σ^{order + 1} = {near:.3f} and {far:.3f}")
    assert abs(near / far - 1) < 0.05

# %% [markdown]
# ## The Gaussian exponential integrator
#
# Write any denoiser as $D=D_G+R$, the Gaussian's answer and what it leaves. For $y_k=u_k^\top(x-\mu)$ the flow from
# $\sigma=a$ down to $b$ is exactly
#
# $$
# \begin{aligned}
# y_k(b) &= \frac{\psi_k(b)}{\psi_k(a)}\,y_k(a) \\
# &\quad{}+\int_{\ln b}^{\ln a}\frac{\psi_k(b)}{\psi_k(\sigma)}\,R_k\,\mathrm d\ln\sigma .
# \end{aligned}
# $$ (eq-proof-exponential)
#
# With $R_k=\frac{\sigma}{\psi_k(\sigma)}\,r_k$ and $r_k$ replaced by the polynomial in $\ln\sigma$ through its values
# at $\sigma_1,\sigma_2,\dots$, the integral becomes $\sum_jW_{jk}R_k(\sigma_j)$ with the weights
#
# $$
# \begin{aligned}
# W_{jk} &= \frac{\psi_k(b)\,\psi_k(\sigma_j)}{\sigma_j} \\
# &\quad{}\times\int_{\ln b}^{\ln a}\frac{\sigma}{\psi_k(\sigma)^2}\,\ell_j\,\mathrm d\ln\sigma,
# \end{aligned}
# $$ (eq-proof-weights)
#
# where $\ell_j$ is the Lagrange polynomial that is 1 at $\sigma_j$ and 0 at the others.
#
# *Used in* [chapter 12](12_samplers.ipynb#eq-exponential).
#
# **The formula.** Put $D$ into the flow. The Gaussian's part is [as before](#the-flow-of-a-gaussian), and $R$ is added:
#
# $$
# \frac{\mathrm dy_k}{\mathrm d\sigma}=\frac{\sigma}{\lambda_k+\sigma^2}\,y_k-\frac{R_k}{\sigma}.
# $$
#
# Divide by $\psi_k$, which solves the equation without $R$. Then
# $\frac{\mathrm d}{\mathrm d\sigma}\frac{y_k}{\psi_k}=-\frac{R_k}{\sigma\,\psi_k}$. Integrate from $a$ to $b$, multiply
# by $\psi_k(b)$, and write $\mathrm d\sigma/\sigma=\mathrm d\ln\sigma$; as $b<a$, the sign turns. With $R=0$ the jump
# alone is left. The weights follow by putting in the polynomial. Where $r_k$ *is* a polynomial of a degree below the
# number of values, the step is exact, whatever its length. In general $p$ values miss $r_k$ by $O(h^p)$ over a step of
# length $h$ in $\ln\sigma$: order $p$.
#
# **Why $r$.** Where $\lambda_k\ll\sigma^2$, $r=R$ is the residual of the denoiser. Where $\lambda_k\gg\sigma^2$ it is
# $\sqrt{\lambda_k}\,R/\sigma$: that of the noise prediction $(x-D)/\sigma$, but for a constant. So each direction is
# treated by the method that suits it.
#
# **Order 1** has a closed form, since $\int\mathrm d\sigma/(\lambda+\sigma^2)$ is an arctangent:
#
# $$
# W_k=\frac{\psi_k(a)\,\psi_k(b)}{a\,\sqrt{\lambda_k}}\Big[\arctan\frac{\sigma}{\sqrt{\lambda_k}}\Big]_b^a .
# $$
#
# **No variance.** For $\lambda_k=0$ the factor is $b/\sigma$ and $r=R=D-\mu$. These are the exponential Adams–Bashforth
# methods in data prediction. With one value $W=1-b/a$, and $x(b)=\frac ba\,x(a)+(1-\frac ba)\,D$ is DDIM.
#
# **The step to 0.** $\ln\sigma$ has no end there, so one value must do. If the data's mean were $\mu+\delta$, with the
# same $\Sigma$, the residual would be $R_k=\frac{\sigma^2}{\lambda_k+\sigma^2}\,\delta_k$. Read $\delta_k$ off the last
# answer, $\delta_k=\frac{\psi_k(a)^2}{a^2}R_k(a)$, and integrate:
#
# $$
# \begin{aligned}
# y_k(0) &= f_k\,y_k(a) \\
# &\;{}+(1-f_k)\,\frac{\psi_k(a)^2}{a^2}\,R_k(a), \\
# f_k &= \frac{\sqrt{\lambda_k}}{\psi_k(a)},
# \end{aligned}
# $$ (eq-proof-last-step)
#
# exact for every mean that goes with $\Sigma$. For $\lambda_k=0$ it lands on $D$.

# %%
a, b, s, lam = sp.symbols("a b sigma lambda", positive=True)
root = sp.sqrt(lam)
y, R = sp.Function("y")(s), sp.Function("R")(s)
spread = sp.sqrt(lam + s**2)
slope = s / (lam + s**2) * y - R / s
divided = sp.diff(y / spread, s).subs(sp.diff(y, s), slope)
identity("divided by ψ", divided + R / (s * spread))
last = sp.integrate(root * s / (lam + s**2) ** sp.Rational(3, 2), (s, 0, a))
identity("step to 0", last - (1 - root / sp.sqrt(lam + a**2)))
order_1 = (
    sp.sqrt((lam + a**2) * (lam + b**2))
    / (a * root)
    * (sp.atan(a / root) - sp.atan(b / root))
)
identity("no variance", sp.limit(order_1, lam, 0, "+") - (1 - b / a))

# %% [markdown]
# For the numbers, a network whose residual is known: $r_k$ is a parabola in $\ln\sigma$. With three values, one step
# from 3 to 0.2 must be exact.


# %%
def last_of(steps):
    *_, last = steps
    return last.x


shape = torch.randn(3, 5, generator=seeded(15))
powers = torch.arange(3)[:, None]


def residual(sigma):
    return sigma / psi(sigma) * (shape * math.log(sigma) ** powers).sum(0)


def network(x, sigma):
    return gaussian(x, sigma) + residual(float(sigma)) @ turn.T


x, (a, b) = gaussian.sample(3, 3.0, generator=seeded(16)), (3.0, 0.2)
path = solve(flow_of(network), x, a, b)


def integrand(log):
    return (psi(b) / psi(math.exp(log)) * residual(math.exp(log))).numpy()


added, _ = quad_vec(integrand, math.log(b), math.log(a))
exact = psi(b) / psi(a) * coordinates(x) + torch.tensor(added)
same("formula against the solver", exact, coordinates(path), 1e-8)

# %%
exponential = gt.samplers.gaussian_exponential
ours = {"gaussian": gaussian, "warm": False}
past = [gt.samplers.Evaluation(x, s, network(x, s)) for s in (9.0, 5.0)]
grid = torch.tensor([a, b])
step = last_of(exponential(network, x, grid, order=3, history=past, **ours))
same("one step of order 3", step, path, 1e-8)

arc = torch.atan(a / variances.sqrt()) - torch.atan(b / variances.sqrt())
weight = psi(a) * psi(b) / (a * variances.sqrt()) * arc
expected = psi(b) / psi(a) * coordinates(x) + weight * residual(a)
step = last_of(exponential(network, x, grid, order=1, **ours))
same("order 1", coordinates(step), expected)

shifted = gaussian.with_mean(gaussian.mean + torch.randn(5, generator=seeded(17)))
step = last_of(exponential(shifted, x, torch.tensor([a, 0.0]), **ours))
same("to 0, with another mean", step, shifted.flow(x, a, 0.0))

# %%
ours = {"gaussian": gt.Gaussian.isotropic(overall.mean, 0.0), "warm": False}
x = 5 * torch.randn(3, 2, generator=seeded(18))
grid = gt.karras_sigmas(8, sigma_max=5.0)
for order in (1, 2, 3):
    found = last_of(exponential(mixture, x, grid, order=order, **ours))
    if order == 1:
        known = gt.samplers.ddim(mixture, x, grid)
    else:
        known = gt.samplers.dpmpp(mixture, x, grid, order=order, weights="exact")
    same(f"no variance, order {order}", found, last_of(known))

# %% [markdown]
# ## Guidance
#
# If two Gaussians share $\Sigma$, the guided denoiser $D_w=D_u+w\,(D_c-D_u)$ is, at every noise level, the denoiser of
#
# $$
# \mathcal N\big(\mu_u+w\,(\mu_c-\mu_u),\;\Sigma\big),
# $$ (eq-proof-guidance)
#
# so the [flow of a Gaussian](#the-flow-of-a-gaussian) solves guided sampling too.
#
# *Used in* [chapter 15](15_your_own.ipynb#eq-guided-mean).
#
# With $W=\Sigma S^{-1}$ both denoisers have the form $D_i=Wx+(I-W)\,\mu_i$. The combination has the coefficients $1-w$
# and $w$, which add up to 1:
#
# $$
# \begin{aligned}
# D_w &= Wx \\
# &\;{}+(I-W)\big((1-w)\,\mu_u+w\,\mu_c\big),
# \end{aligned}
# $$
#
# the denoiser with the mixed mean, and the same mean at every $\sigma$. Multiply the noised densities:
# $p_u^{1-w}\,p_c^{\,w}$ is, up to a constant, the normal density with that mean and covariance $S$. So here guidance
# samples from the sharpened density exactly. In general it does not: the product of noised densities is not the noised
# product.
#
# **Two covariances** give the gain $W_u+w\,(W_c-W_u)$. The gain of a Gaussian lies between 0 and 1; this one need not.
# With variances 1 and 4 and $w=3$ it is $0.5+3\,(0.8-0.5)=1.4$ at $\sigma=1$, which no Gaussian has.

# %%
conditional = gaussian.with_mean(torch.randn(5, generator=seeded(19)))
model = gt.teleportation.guided(gaussian, conditional, 3.0)


def guided(x, sigma):
    plain = gaussian(x, sigma)
    return plain + 3.0 * (conditional(x, sigma) - plain)


x = 10 * torch.randn(3, 5, generator=seeded(20))
same("denoiser", guided(x, 0.6), model(x, 0.6))
path = solve(flow_of(guided), x, 10.0, 0.1)
same("flow", path, model.flow(x, 10.0, 0.1), 1e-8)
product = -2 * gaussian.log_prob(x, 0.6) + 3 * conditional.log_prob(x, 0.6)
same("sharpened density", (product - model.log_prob(x, 0.6)).diff(), 0.0)
narrow, wide = (gt.Gaussian.isotropic(torch.zeros(1), v) for v in (1.0, 4.0))
one = torch.ones(1, 1)
gain = narrow(one, 1.0) + 3 * (wide(one, 1.0) - narrow(one, 1.0))
same("the gain of two covariances", gain, 1.4)

# %% [markdown]
# ## Distances of Gaussians
#
# For $p=\mathcal N(\mu_p,\Sigma_p)$ and $q=\mathcal N(\mu_q,\Sigma_q)$ with $\delta=\mu_p-\mu_q$, the squared
# Wasserstein distance, least of $\mathbb E\,\|x-y\|^2$ over all ways to draw $x\sim p$ and $y\sim q$ together, and the
# divergence are
#
# $$
# \begin{aligned}
# W_2^2 &= \|\delta\|^2+\operatorname{tr}(\Sigma_p+\Sigma_q) \\
# &\quad{}-2\operatorname{tr}\big(\Sigma_p^{1/2}\Sigma_q\Sigma_p^{1/2}\big)^{1/2}, \\
# \mathrm{KL} &= \tfrac12\big(\operatorname{tr}\Sigma_q^{-1}\Sigma_p-d \\
# &\quad{}+\delta^\top\Sigma_q^{-1}\delta+\ln\tfrac{\det\Sigma_q}{\det\Sigma_p}\big).
# \end{aligned}
# $$ (eq-proof-distances)
#
# *Used in* [chapter 5](05_training.ipynb), [chapter 14](14_full_scale.ipynb#eq-frechet).
#
# **Wasserstein.** Let $C$ be the covariance of $x$ with $y$. Then
#
# $$
# \begin{aligned}
# \mathbb E\,\|x-y\|^2 &= \|\delta\|^2-2\operatorname{tr}C \\
# &\quad{}+\operatorname{tr}(\Sigma_p+\Sigma_q).
# \end{aligned}
# $$
#
# The joint covariance has
# no negative eigenvalue just if $C=\Sigma_p^{1/2}K\,\Sigma_q^{1/2}$ with no singular value of $K$ above 1. So we want
# the largest $\operatorname{tr}C=\operatorname{tr}KM$ with $M=\Sigma_q^{1/2}\Sigma_p^{1/2}$. Write $M=P\Lambda Q^\top$
# by its singular values: $\operatorname{tr}KM=\sum_i\Lambda_i\,(Q^\top KP)_{ii}\le\sum_i\Lambda_i$, with equality for
# $K=QP^\top$. And $\sum_i\Lambda_i$ is the trace of the root of $M^\top M=\Sigma_p^{1/2}\Sigma_q\Sigma_p^{1/2}$. A
# Gaussian pair with this $C$ exists, so the bound is reached. (Only moments entered, so no two distributions with these
# moments are nearer to each other. And as $\Sigma_p\Sigma_q$ has the same eigenvalues, one may write its root instead.)
#
# If the two share eigenvectors, it is $\|\delta\|^2+\sum_k(\sqrt{\lambda_k}-\sqrt{\nu_k})^2$, reached by stretching
# each axis. So the flow of a Gaussian is the shortest transport between its noised laws.
#
# **Divergence.** $\mathrm{KL}=\mathbb E_p[\ln p-\ln q]$. But for a common constant the logarithms are
# $-\tfrac12\ln\det\Sigma$ minus half of $(x-\mu)^\top\Sigma^{-1}(x-\mu)$, which under $p$ is on average $d$ for $p$
# itself and $\operatorname{tr}\Sigma_q^{-1}\Sigma_p+\delta^\top\Sigma_q^{-1}\delta$ for $q$. In eigenvectors, with the
# overlaps $O_{ij}=v_i^\top u_j$, it is
#
# $$
# \begin{aligned}
# \mathrm{KL} &= \tfrac12\sum_{ij}O_{ij}^2\Big(\frac{\lambda_j}{\nu_i}-1-\ln\frac{\lambda_j}{\nu_i}\Big) \\
# &\quad{}+\tfrac12\sum_i\frac{(v_i^\top\delta)^2}{\nu_i},
# \end{aligned}
# $$
#
# since each row and column of $O_{ij}^2$ sums to 1. No term is negative, so none is lost in the difference of large
# ones: this is what the library adds up.


# %%
def root_of(matrix):
    values, vectors = torch.linalg.eigh(matrix)
    return vectors @ torch.diag(values.clamp(min=0).sqrt()) @ vectors.T


tilt = torch.randn(5, 5, generator=seeded(21))
other = gt.Gaussian.from_covariance(
    torch.ones(5), tilt @ tilt.T / 5 + 0.1 * torch.eye(5)
)
P, Q = gaussian.covariance, other.covariance
delta = gaussian.mean - other.mean
cross = root_of(root_of(P) @ Q @ root_of(P)).trace()
squared = delta.square().sum() + P.trace() + Q.trace() - 2 * cross
same("Wasserstein", theory.frechet_distance(gaussian, other), squared)
laws = [
    torch.distributions.MultivariateNormal(m.mean, m.covariance)
    for m in (gaussian, other)
]
divergence = torch.distributions.kl_divergence(*laws)
same("divergence", theory.kl_divergence(gaussian, other), divergence)

pair = gaussian.noised(3.0), gaussian.noised(0.5)
x = pair[0].sample(DRAWS, generator=seeded(22))
moved = (gaussian.flow(x, 3.0, 0.5) - x).square().sum(1)
by_chance("the flow as transport", moved, theory.frechet_distance(*pair))

# %% [markdown]
# ## How much a Gaussian explains
#
# Let $s$ be the exact score of any data, $s_G$ that of the Gaussian with their moments, and $s_r$ that of the Gaussian
# cut off after $r$ eigenpairs, the other variances replaced by their mean $\tau_r$. Then, with averages over
# $x_\sigma$,
#
# $$
# \begin{aligned}
# &\mathbb E\,\|s-s_G\|^2 \\
# &\quad=\mathbb E\,\|s\|^2-\sum_k\frac1{\lambda_k+\sigma^2}, \\
# &\mathbb E\,\|s-s_r\|^2-\mathbb E\,\|s-s_G\|^2 \\
# &\quad=\sum_{k>r}\frac{(\lambda_k-\tau_r)^2}{(\lambda_k+\sigma^2)(\tau_r+\sigma^2)^2},
# \end{aligned}
# $$ (eq-proof-unexplained)
#
# and divided by $\mathbb E\,\|s\|^2$ these are fractions of unexplained variance.
#
# *Used in* [chapter 1](01_noise_and_score.ipynb#eq-unexplained), [chapter 7](07_neural_scores.ipynb#eq-rank-residual).
#
# By Tweedie's formula $s-s_G=(D-D_G)/\sigma^2$. It is uncorrelated with every affine function
# [(above)](#eq-proof-orthogonal), and $s_G$ is one. So
#
# $$
# \mathbb E\,\|s\|^2=\mathbb E\,\|s-s_G\|^2+\mathbb E\,\|s_G\|^2 .
# $$
#
# The last is $\operatorname{tr}S^{-1}SS^{-1}$, the
# sum of the first line. For the second, $s_G-s_r$ is affine too, so squares add up again. Along a direction that was
# cut off it is
#
# $$
# \Big(\frac1{\tau_r+\sigma^2}-\frac1{\lambda_k+\sigma^2}\Big)\,u_k^\top(x-\mu),
# $$
#
# and $u_k^\top(x-\mu)$ has the variance $\lambda_k+\sigma^2$.
#
# In passing: as a mean square is not negative, $\mathbb E\,\|s\|^2$ is never below $\sum_k1/(\lambda_k+\sigma^2)$. A
# Gaussian has the least mean square score of all data with its moments, and it alone. (All this is about an *exact*
# score and a ratio of means. For a network it holds as far as it is the denoiser of some data; a mean of ratios comes
# near it in many dimensions.)

# %%
sigma = 0.3
x = mixture.sample(DRAWS, sigma, generator=seeded(23))
s, s_G = mixture.score(x, sigma), overall.score(x, sigma)
gap = s.square().sum(1) - (s - s_G).square().sum(1)
by_chance("explained", gap, (1 / (overall.variances + sigma**2)).sum())


def check_ranks(data, whole, x):
    full = gt.unexplained(data, whole, x, sigma, pooled=True).score
    predicted = theory.rank_residuals(whole, sigma, full)
    for rank in range(whole.rank):
        cut = gt.unexplained(data, whole.truncate(rank), x, sigma, pooled=True)
        print(
            f"rank {rank}: {cut.score:.4f} ± {cut.score_error:.4f},"
            f" expected {predicted[rank]:.4f}"
        )
        assert abs(cut.score - predicted[rank]) < 4 * cut.score_error


check_ranks(mixture, overall, x)
check_ranks(gaussian, gaussian, gaussian.sample(DRAWS, sigma, generator=seeded(26)))

# %% [markdown]
# ## What a jump costs
#
# A network $D=D_G+R$ starts where the jump starts, at $\sigma_{\max}$. At the landing point $s$ its state differs from
# the jump's by
#
# $$
# \begin{aligned}
# e_k(s) &= \int_{\ln s}^{\ln\sigma_{\max}}\frac{\psi_k(s)}{\psi_k(\sigma)}\,R_k\,\mathrm d\ln\sigma, \\
# e_k(0) &\approx \frac{\sqrt{\lambda_k}}{\psi_k(s)}\,e_k(s).
# \end{aligned}
# $$ (eq-proof-jump-error)
#
# The first line is exact with $R$ along the network's own path, and right to first order in $R$ along the Gaussian's.
# The second is what the Gaussian would make of it.
#
# *Used in* [chapter 11](11_teleportation.ipynb#eq-jump-error).
#
# Set $a=\sigma_{\max}$ and $b=s$ in the exponential formula [(above)](#eq-proof-exponential): its first term is where
# the jump lands, its integral $e_k(s)$. On the network's path $R$ is asked $e(\sigma)$ away from the Gaussian's, so it
# differs by $\partial R\cdot e$, a product of two small things. That lets one ask before anything is drawn:
# `choose_skip` asks $R$ along the Gaussian's path and integrates by the trapezoidal rule. Its factor is the
# Gaussian's flow, so the integral goes on from level to level without looking back.
#
# **Down to the sample.** Below $s$ the change is carried on by the network's flow. For a Gaussian the factor is [that
# of a kick](#a-kick). For other data a random push at the start is carried further, on average. Let $x_0=F(n)$ be the
# flow from $\sigma_T\,n$ for very large $\sigma_T$, with $n$ standard normal. Poincaré's inequality says
# $\operatorname{Var}f(n)\le\mathbb E\,\|\nabla f(n)\|^2$ for every smooth $f$. Add it up over the coordinates of $F$:
#
# $$
# \mathbb E\,\|\partial F/\partial n\|^2\;\ge\;\operatorname{tr}\Sigma,
# $$ (eq-proof-poincare)
#
# with equality for affine $F$ alone: the Gaussian's. A random push $\epsilon$ of $n$ changes the sample by
# $\|\partial F/\partial n\|^2\,\|\epsilon\|^2/d$ in mean square. So `choose_skip` measures the factor, at one level,
# and takes it to be the same at all: that is an assumption, and so is that second-order terms are small.
#
# The first check needs no small $R$: if the network is the Gaussian with another mean $\mu+\delta$, then
# $R_k=\frac{\sigma^2}{\lambda_k+\sigma^2}\,\delta_k$ does not depend on $x$, and the integral is
# $e_k(s)=\delta_k\big(1-\psi_k(s)/\psi_k(\sigma_{\max})\big)$.

# %%
s, s_max, lam = sp.symbols("s sigma_max lambda", positive=True)
level = sp.symbols("sigma", positive=True)
integrand = sp.sqrt(lam + s**2) * level / (lam + level**2) ** sp.Rational(3, 2)
whole = sp.integrate(integrand, level).subs(level, s_max)
whole = whole - sp.integrate(integrand, level).subs(level, s)
identity("another mean", whole - (1 - sp.sqrt((lam + s**2) / (lam + s_max**2))))

x = gaussian.sample(4, SIGMA_MAX, generator=seeded(24))
ahead = shifted.flow(x, SIGMA_MAX, 5.0) - gaussian.flow(x, SIGMA_MAX, 5.0)
e_5 = (shifted.mean - gaussian.mean) @ turn * (1 - psi(5.0) / psi(SIGMA_MAX))
same("two flows", ahead @ turn, e_5.expand(4, 5))
levels = torch.logspace(math.log10(SIGMA_MAX), math.log10(5.0), 200)
curve = gt.choose_skip(shifted, gaussian, levels, tolerance=10.0, x=x, finish=0)
expected = (e_5 * variances.sqrt() / psi(5.0)).square().mean().sqrt()
same("choose_skip", curve.predicted[-1], expected, 1e-5)

# %% [markdown]
# The second: mix a share of the mixture into its Gaussian. Half the share should halve the relative error of the
# prediction, if that is right to first order.

# %%
x = overall.sample(16, 20.0, generator=seeded(25))
levels, off = torch.logspace(math.log10(20.0), 0, 400), []
for share in (0.2, 0.1):

    def between(x, sigma, share=share):
        plain = overall(x, sigma)
        return plain + share * (mixture(x, sigma) - plain)

    arrived = solve(flow_of(between), x, 20.0, 1.0)
    true = overall.flow(arrived, 1.0, 0.0) - overall.flow(x, 20.0, 0.0)
    true = true.square().mean().sqrt()
    skip = gt.choose_skip(between, overall, levels, tolerance=10.0, x=x, finish=0)
    off.append(abs(float(skip.predicted[-1] / true) - 1))
    print(f"share {share:g}: prediction off by {off[-1]:.2%} of {true:.4f}")
assert 1.8 < off[0] / off[1] < 2.2

# %% [markdown]
# The third is Poincaré's inequality, for two bumps on a line and for the Gaussian with their variance.

# %%
two = gt.Mixture(
    [0.5, 0.5], [gt.Gaussian.isotropic(torch.tensor([m]), 0.1) for m in (-1.0, 1.0)]
)
n = torch.linspace(-6, 6, 4001)
density = torch.exp(-(n[:-1] + n[1:]).square() / 8) / math.sqrt(2 * math.pi)
for name, model in {"two bumps": two, "Gaussian": two.to_gaussian()}.items():
    grid = gt.karras_sigmas(300, sigma_max=1000.0)
    *_, last = gt.samplers.heun(model, 1000 * n[:, None], grid)
    slope = last.x[:, 0].diff() / n.diff()
    mean_square = (density * slope**2 * n.diff()).sum()
    print(
        f"{name}: E|∂F/∂n|² = {mean_square:.3f}, variance {two.total_variance:.3f}"
    )
    if name == "Gaussian":
        same("equal", mean_square, two.total_variance, 1e-3)
    else:
        assert mean_square > 1.5 * two.total_variance
