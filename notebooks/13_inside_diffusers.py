# %% [markdown]
# # 13 · Inside diffusers
#
# Most people who sample from a diffusion model do so with a *pipeline* of Hugging Face diffusers: a network, a scheduler
# that knows the noise levels, and a loop over them. At high noise the network is, to good accuracy, a
# Gaussian whose flow we know in closed form ([chapter 9](09_trajectories.ipynb)), so that one jump can stand for its first
# calls ([chapter 11](11_teleportation.ipynb)).
#
# > *Can an existing pipeline leave out its first calls, without a change to its code, and what does that cost?*
#
# The bridge is `gausstools.diffusers`. We take it across with the shipped CIFAR-10 network, and look at what does not work
# as well as at what does.

# %% tags=["parameters"] fast={"SEEDS": 2, "CONVERGED": 12, "BUDGETS": [5, 7]}
SEEDS = 8  # images for each measurement
CONVERGED = 30  # steps of Heun's method that stand for the exact solution
BUDGETS = (5, 7, 10, 15)  # steps of the grids that are compared
SIGMA_SKIP = 20.0

# %%
import copy
import inspect
import textwrap

import matplotlib.pyplot as plt
import torch

import gausstools as gt
from gausstools import figures, shipped
from gausstools.diffusers import (
    HybridDenoiser,
    TeleportPipeline,
    signal_and_noise,
    teleport_latents,
)
from gausstools.networks.imports import import_diffusers

diffusers = import_diffusers("this chapter runs pipelines of")
figures.set_style()
torch.set_grad_enabled(False)
diffusers.logging.set_verbosity_error()


def seeded(seed):
    return torch.Generator().manual_seed(seed)


# %% [markdown]
# ## A network as diffusers knows it
#
# The shipped network is a denoiser $D(x, \sigma)$ for $x_\sigma = x_0 + \sigma n$ (VE, [chapter 2](02_gaussian_model.ipynb)). A
# pipeline asks another question: given $x_t = a\,x_0 + s\,n$ and the *timestep* $t$, which noise $n$ is in it? The translation is
# two lines, $\sigma = s/a$ from the table of steps and $n = (x_\sigma - D)/\sigma$. The wrapper below is a diffusers model like
# any other.


# %%
class EpsilonNetwork(diffusers.ModelMixin, diffusers.ConfigMixin):
    """The shipped network in DDPM's words: noise from a noisy image and a timestep."""

    @diffusers.configuration_utils.register_to_config
    def __init__(self, name="cifar10", sample_size=32, in_channels=3):
        super().__init__()
        self.denoiser = gt.pretrained.load(name)
        self.process = gt.DDPM.linear()

    def forward(self, sample, timestep, return_dict=True):
        t = torch.as_tensor(timestep, dtype=torch.float64)
        sigma = float(self.process.sigma(t))
        x = sample * (1 + sigma**2) ** 0.5
        noise = (x - self.denoiser(x, sigma)) / sigma
        output = diffusers.models.unets.unet_2d.UNet2DOutput(sample=noise)
        return output if return_dict else (noise,)


network = EpsilonNetwork()
gaussian = shipped.statistics("cifar10")
pipe = diffusers.DDIMPipeline(network, diffusers.DDIMScheduler())
pipe.set_progress_bar_config(disable=True)

calls = []
network.register_forward_hook(lambda *_: calls.append(1))
pipe(batch_size=1, num_inference_steps=10, generator=seeded(0))
print(f"10 steps of DDIM: {len(calls)} calls of the network")
assert len(calls) == 10

# %% [markdown]
# ## One axis for all schedulers
#
# Schedulers differ in their timesteps and in the scale of the state. What they share is how they *add* noise: each
# offers `add_noise` or `scale_noise`. Give it an image of ones without noise, and it answers $a$;
# give it noise of ones without an image, and it answers $s$. So `signal_and_noise` reads the VE noise level $\sigma = s/a$ of
# every step of every scheduler. ("Karras" is the grid of [chapter 12](12_samplers.ipynb#where-do-ten-calls-go).)
#
# > **Predict.** Asked for 20 steps, which spends the largest share of its calls above $\sigma = 20$: DDIM with its evenly spaced
# > timesteps, a Karras grid, or flow matching?

# %% mystnb={"figure": {"caption": "Noise level σ = s/a of each call of the network, for six schedulers asked for 20 steps. In the grey region, above σ = 20, a jump saves the call. Karras grids spend a third of their calls there, DDIM's evenly spaced timesteps a fifth. Heun asks twice at each level but the first. Flow matching starts at infinite σ; its first call is not shown.", "name": "fig-scheduler-levels"}, "image": {"alt": "Falling curves of dots on a logarithmic axis of noise level against the number of the call, from about 157 down to 0.01, with the part above 20 shaded in grey; the curve of Heun is twice as long as the others."}}
TABLE = {
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
}  # the network's
KARRAS = TABLE | {"use_karras_sigmas": True}
SCHEDULERS = {
    "DDIM": diffusers.DDIMScheduler(**TABLE, clip_sample=False),
    "DPM-Solver++, Karras": diffusers.DPMSolverMultistepScheduler(**KARRAS),
    "UniPC, Karras": diffusers.UniPCMultistepScheduler(**KARRAS),
    "Heun, Karras": diffusers.HeunDiscreteScheduler(**KARRAS),
    "EDM, Euler": diffusers.EDMEulerScheduler(),
    "flow matching": diffusers.FlowMatchEulerDiscreteScheduler(),
}
share = {}
fig, ax = plt.subplots()
for name, scheduler in SCHEDULERS.items():
    scheduler.set_timesteps(20)
    signal, noise = signal_and_noise(scheduler)
    levels = noise / signal
    shown = levels.isfinite()
    ax.semilogy(
        torch.arange(1, len(levels) + 1)[shown],
        levels[shown],
        "o-",
        ms=3,
        lw=0.8,
        label=name,
        visible="UniPC" not in name,  # the same levels as DPM-Solver++
    )
    spent = int((levels > SIGMA_SKIP).sum())
    share[name] = spent / len(levels)
    print(f"{name:<21} {spent:>2} of {len(levels)} calls above σ = {SIGMA_SKIP:g}")
ax.axhspan(SIGMA_SKIP, 250, color=figures.COLORS["noise"], alpha=0.2, lw=0)
ax.set(xlabel="call of the network", ylabel="noise level σ", ylim=(0.008, 250))
handles, labels = ax.get_legend_handles_labels()
labels[1] = "DPM-Solver++ and UniPC, Karras"
ax.legend(handles[:2] + handles[3:], labels[:2] + labels[3:], fontsize="small")
plt.show()
assert all(0.3 < share[name] < 0.37 for name in share if "Karras" in name)
assert share["DDIM"] == 0.2
assert share["flow matching"] == 1 / 20

# %% [markdown]
# The Karras grids: a third of their calls. DDIM spends a fifth, and flow matching one call of 20: at its evenly spaced times
# $\sigma = t/(1-t)$ is seldom high. So a jump has little to save there, unless the grid is shifted toward the noise, as large
# text-to-image models do.
#
# ## Three lines
#
# A pipeline that takes `latents` can start anywhere, if it gets the right state and a scheduler that knows where it stands.
# `teleport_latents` makes both. Text-to-image pipelines all take latents. Their weights are gigabytes, so here stands one
# with a random network of some thousand weights: Kandinsky's decoder, with guidance and an autoencoder. It draws nothing,
# but it runs every line of its code.

# %% tags=["hide-input"] mystnb={"code_prompt_show": "Show how the small pipeline is made", "code_prompt_hide": "Hide how the small pipeline is made"}
from diffusers.pipelines.kandinsky2_2.pipeline_kandinsky2_2 import (
    KandinskyV22Pipeline,
)

torch.manual_seed(0)
tiny = diffusers.UNet2DConditionModel(
    in_channels=4,
    out_channels=8,
    block_out_channels=(8, 8),
    layers_per_block=1,
    norm_num_groups=4,
    down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
    up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
    mid_block_type="UNetMidBlock2DSimpleCrossAttn",
    addition_embed_type="image",
    encoder_hid_dim=8,
    encoder_hid_dim_type="image_proj",
    cross_attention_dim=8,
    attention_head_dim=4,
    resnet_time_scale_shift="scale_shift",
)
decoder = diffusers.VQModel(
    block_out_channels=(32, 32),
    latent_channels=4,
    norm_type="spatial",
    vq_embed_dim=4,
)
text_pipe = KandinskyV22Pipeline(
    tiny, copy.deepcopy(SCHEDULERS["DPM-Solver++, Karras"]), decoder
)
text_pipe.set_progress_bar_config(disable=True)
prompt = {
    "image_embeds": torch.randn(2, 8),
    "negative_image_embeds": torch.zeros(2, 8),
    "guidance_scale": 4.0,
    "height": 16,
    "width": 16,
}
# In earnest: Gaussian.fit(autoencoder's latents of a few thousand images)
latent_gaussian = gt.Gaussian.isotropic(torch.zeros(4, 8, 8), 1.0)

# %% [markdown]
# Now the three statements. `jump.on(pipe)` lends the pipeline the scheduler that starts at $\sigma_\text{skip}$, and takes it
# back. `latent_gaussian` has the mean and covariance of the latents; for this network, which draws nothing, we take 0 and 1.

# %%
asked = []
tiny.register_forward_hook(lambda *_: asked.append(1))
jump = teleport_latents(
    text_pipe,
    latent_gaussian,
    2,
    SIGMA_SKIP,
    num_inference_steps=20,
    generator=seeded(0),
)
with jump.on(text_pipe):
    text_pipe(
        **prompt, latents=jump.latents, num_inference_steps=20, output_type="np"
    )
print(
    f"{len(asked)} calls instead of 20;"
    f" {jump.nfe_saved} saved by the jump to σ = {jump.sigma:.1f}"
)
assert len(asked) == jump.nfe == 20 - jump.nfe_saved
assert jump.nfe_saved >= 4
assert "set_timesteps" not in vars(text_pipe.scheduler)

# %% [markdown]
# The latents are not the VE state itself. A pipeline multiplies what it is given by `init_noise_sigma`, and its state is
# $a\,x_\sigma$; so the jump hands over $a\,x_\sigma / \texttt{init\_noise\_sigma}$, read after the grid is set.
#
# ## When a pipeline takes no latents
#
# `DDIMPipeline` and `DDPMPipeline` draw their own noise and take nothing from us. There are two ways in. `TeleportPipeline`
# is the same loop with a jump in front; it is made from the parts of the other. `HybridDenoiser` replaces the *network*: it
# answers as the Gaussian above $\sigma_\text{skip}$, and passes the question on below. The loop does not notice.

# %%
try:
    teleport_latents(pipe, gaussian, 1, SIGMA_SKIP, 20)
except ValueError as refusal:
    print(textwrap.fill(f"refused: {refusal}", 80))
else:
    raise AssertionError("DDIMPipeline should have been refused")
assert "latents" not in inspect.signature(pipe.__call__).parameters

settings = {"batch_size": SEEDS, "num_inference_steps": 20, "output_type": "np"}
pipe = diffusers.DDIMPipeline(network, copy.deepcopy(SCHEDULERS["DDIM"]))
pipe.set_progress_bar_config(disable=True)


def counted(run):
    """Images, and how often the network was asked for them."""
    calls.clear()
    images = torch.from_numpy(run().images).permute(0, 3, 1, 2)
    return images, len(calls)


rows = {"as it is": counted(lambda: pipe(**settings, generator=seeded(1)))}
pipe.unet = HybridDenoiser(network, gaussian, SIGMA_SKIP, pipe.scheduler)
rows["hybrid network"] = counted(lambda: pipe(**settings, generator=seeded(1)))
pipe.unet = pipe.unet.network
teleporting = TeleportPipeline(network, SCHEDULERS["DDIM"], gaussian)
teleporting.set_progress_bar_config(disable=True)
rows["after a jump"] = counted(
    lambda: teleporting(**settings, generator=seeded(1), sigma_skip=SIGMA_SKIP)
)
whole = rows["as it is"][0]
for name, (images, nfe) in rows.items():
    off = (images - whole).square().mean().sqrt()
    print(
        f"{name:<15} {nfe:>2} calls,"
        f" RMS distance from the run as it is {off:.4f} of [0, 1]"
    )
    assert off < 0.03
assert rows["hybrid network"][1] == rows["after a jump"][1] == 16

# %% mystnb={"figure": {"caption": "Eight seeds, 20 steps of DDIM. Top: the pipeline as it is. Middle: the same pipeline with a hybrid network that answers as the Gaussian above σ = 20. Bottom: TeleportPipeline, which jumps past σ = 20 and never asks above it. The rows hold the same images.", "name": "fig-three-ways"}, "image": {"alt": "Three rows of eight small soft colour images of vague landscapes and shapes; the images in each column look the same."}}
fig, ax = plt.subplots(figsize=(7, 2.5))
figures.image_grid(
    ax,
    torch.cat([images for images, _ in rows.values()]),
    columns=SEEDS,
    limits=(0, 1),
)
for row, (name, (_, nfe)) in enumerate(rows.items()):
    ax.text(
        -3,
        33 * row + 16,
        f"{name}\n{nfe} calls",
        ha="right",
        va="center",
        fontsize=7,
    )
plt.show()

# %% [markdown]
# Both save the same four calls. They differ a little from each other, since DDIM's own steps through the Gaussian's region are
# not exact and the jump's is.
#
# ## What it saves and what it costs
#
# The honest measure is the distance from the *converged* solution of the same network from the same noise, at equal numbers
# of calls. Two ways to spend what is saved: keep the grid and stop calling (`grid="cut"`), or spread all the calls anew
# below $\sigma_\text{skip}$ (`grid="karras"`).

# %%
noise = torch.randn(SEEDS, *gaussian.event_shape, generator=seeded(2))


def sample(name, steps, sigma_skip=None, grid="cut"):
    """Images in [0, 1] and the number of calls."""
    runner = TeleportPipeline(network, SCHEDULERS[name], gaussian)
    runner.set_progress_bar_config(disable=True)
    images = runner(
        num_inference_steps=steps,
        sigma_skip=sigma_skip,
        grid=grid,
        latents=noise,
        output_type="pt",
    ).images
    return images, runner.nfe


exact, _ = sample("Heun, Karras", CONVERGED)
floor = (
    (sample("Heun, Karras", CONVERGED, SIGMA_SKIP)[0] - exact)
    .square()
    .mean()
    .sqrt()
)
print(f"the jump alone, solved to convergence afterwards: RMS {floor:.4f}")
WAYS = {
    "whole run": (None, "cut"),
    "jump, grid cut": (SIGMA_SKIP, "cut"),
    "jump, grid anew": (SIGMA_SKIP, "karras"),
}
errors = {}
for name in ("DDIM", "DPM-Solver++, Karras", "UniPC, Karras"):
    for way, (sigma_skip, grid) in WAYS.items():
        if name == "DDIM" and grid == "karras":
            continue  # its levels are those of its table
        for steps in BUDGETS:
            images, nfe = sample(name, steps, sigma_skip, grid)
            off = (images - exact).square().mean().sqrt().item()
            errors.setdefault((name, way), []).append((nfe, off))
    for way in WAYS:
        found = errors.get((name, way))
        if found:
            text = ", ".join(f"{nfe}: {off:.4f}" for nfe, off in found)
            print(f"{name:<21} {way:<16} {text}")

# %% mystnb={"figure": {"caption": "Distance of the images from the network's converged solution against the calls spent, for three schedulers. Grey: from pure noise. Light blue: the same grids, without their calls above σ = 20. Orange: as many calls, all below σ = 20. The dotted line is what the jump alone costs. In the last two panels, from seven steps on, the calls above σ = 20 can be left out, three to five of them, for nearly the same error.", "name": "fig-error-per-call"}, "image": {"alt": "Three panels with falling curves of error against number of calls. In each the curves after a jump lie to the left of and below the grey curve; for the last two schedulers they come down to a dotted line."}}
STYLE = {
    "whole run": (figures.COLORS["noise"], "o-"),
    "jump, grid cut": (figures.COLORS["path"], "s-"),
    "jump, grid anew": (figures.COLORS["measured"], "^-"),
}
fig, axes = plt.subplots(1, 3, figsize=(7, 2.9), sharey=True, sharex=True)
for ax, name in zip(axes, ("DDIM", "DPM-Solver++, Karras", "UniPC, Karras")):
    for way, (color, marker) in STYLE.items():
        if (name, way) in errors:
            ax.loglog(
                *zip(*errors[name, way]), marker, ms=4, color=color, label=way
            )
    ax.axhline(floor, color="black", ls=":", lw=1)
    ax.set_title(name, fontsize="small")
    ax.set_xticks([4, 8, 16], ["4", "8", "16"])
    ax.set_xlabel("calls")
    ax.set_yticks(
        [0.005, 0.01, 0.02, 0.05, 0.1], ["0.005", "0.01", "0.02", "0.05", "0.1"]
    )
    ax.minorticks_off()
axes[0].set_ylabel("RMS of a pixel, of a range of 1")
axes[0].legend(
    *axes[1].get_legend_handles_labels(),
    fontsize="x-small",
    loc="lower left",
    bbox_to_anchor=(0, 0.08),
)
plt.show()

# %%
for name in ("DPM-Solver++, Karras", "UniPC, Karras"):
    print(name)
    for step, (nfe, whole_error) in enumerate(errors[name, "whole run"]):
        fewer, cut = errors[name, "jump, grid cut"][step]
        same, anew = errors[name, "jump, grid anew"][step]
        print(
            f"  {nfe:2d} calls: {whole_error:.4f}; cut to {fewer:2d}: {cut:.4f};"
            f" {same:2d} anew: {anew:.4f}, {whole_error / anew:.1f} times less"
        )
        assert same == nfe
        if step > 0:  # of 5 steps too few are left
            assert fewer < 0.7 * nfe
            assert cut < 1.2 * whole_error
        if nfe <= 10:
            assert anew < 0.7 * whole_error
many = (sample("UniPC, Karras", 30)[0] - exact).square().mean().sqrt()
print(f"UniPC, 30 calls without a jump: {many:.4f}; the jump alone: {floor:.4f}")
assert many < floor < 0.01

# %% [markdown]
# With a good multistep solver the calls above σ = 20, a third of all, buy next to nothing: without them the error stays what it
# was, to within a fifth. (Five steps are too few: three calls are left.) Spend as many calls, all below 20, and the error falls.
# The two ways lie on one curve. It ends at the dotted line, which no solver can pass: what the jump itself changed, because this
# network is not quite the Gaussian there. With thirty calls the run without a jump is below that line. If you can afford so many,
# jump less far, or not at all.
#
# ## What does not work, and why
#
# Some of what one would try first is wrong, and nothing says so. To see it, take a network that *is* the Gaussian, so that the
# right answer is known: a `HybridDenoiser` that answers at every level. Each pair below starts from an exact state, first in a
# wrong way, then in a right one. The numbers are the errors at the end, relative to the size of the image.


# %%
def finish(scheduler, x, first=0):
    """The Gaussian's run from step `first` on."""
    answers = HybridDenoiser(network, gaussian, 1e-9, scheduler)
    for t in scheduler.timesteps[first:]:
        scaled = scheduler.scale_model_input(x, t)
        x = scheduler.step(answers(scaled, t).sample, t, x).prev_sample
    return x


def error_from(scheduler, steps, first):
    """Relative error at the end of a run that starts at a given call."""
    scheduler.set_timesteps(steps)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(first)
    signal, spread = (
        float(values[first]) for values in signal_and_noise(scheduler)
    )
    start = gaussian.flow(noise * 150, 150.0, spread / signal)
    truth = gaussian.flow(start, spread / signal, 0.0)
    end = finish(scheduler, signal * start, first)
    return ((end - truth).norm() / truth.norm()).item()


def error_after_jump(scheduler, steps):
    jump = teleport_latents(scheduler, gaussian, noise, SIGMA_SKIP, steps)
    state = jump.latents * float(jump.scheduler.init_noise_sigma)
    truth = gaussian.flow(state, jump.sigma, 0.0)  # of LMS, whose states are VE
    return ((finish(jump.scheduler, state) - truth).norm() / truth.norm()).item()


lms = diffusers.LMSDiscreteScheduler(**TABLE)
heun = diffusers.HeunDiscreteScheduler(**TABLE)
pndm = diffusers.PNDMScheduler(**TABLE, skip_prk_steps=True)
wrong = {
    "LMS, by set_begin_index": error_from(lms, 20, 5),
    "LMS, by teleport_latents": error_after_jump(lms, 20),
    "Heun, from the second call of a step": error_from(heun, 20, 11),
    "Heun, from the first call of a step": error_from(heun, 20, 12),
    "PNDM, from the middle of its timesteps": error_from(pndm, 10, 5),
    "PNDM, from its start": error_from(pndm, 10, 0),
}
for name, off in wrong.items():
    print(f"{name:<40} {off:.3f}")
assert wrong["LMS, by set_begin_index"] > 3 * wrong["LMS, by teleport_latents"]
assert (
    wrong["Heun, from the second call of a step"]
    > 3 * wrong["Heun, from the first call of a step"]
)
assert (
    wrong["PNDM, from the middle of its timesteps"]
    > 2 * wrong["PNDM, from its start"]
)

# %% [markdown]
# * **LMS** combines as many old slopes as there were steps before, and after a jump there are none. On a grid that begins
#   after the jump it is right, and that is what `teleport_latents` gives it.
# * **Heun** and the other methods of second order ask twice a step; from the second of the two calls the step is lost. The
#   jump therefore lands on a first one.
# * **PNDM** repeats a timestep to start up. From the middle of its timesteps it takes the second for the repetition, and the
#   state lags behind from then on. It is refused.

# %%
try:
    teleport_latents(pndm, gaussian, 1, SIGMA_SKIP, 20)
except ValueError as refusal:
    print(textwrap.fill(f"refused: {refusal}", 80))
else:
    raise AssertionError("PNDM should have been refused")

# %% [markdown]
# Other traps lie in the settings. A Karras grid below 20 can be asked for by `sigma_max=20`, but some schedulers do not know
# the word, and say nothing. And `from_config` leaves out what stood at its default in the old scheduler, so that the new one
# takes *its own* default, which may be another noise schedule.

# %%
for kind in (
    diffusers.EulerDiscreteScheduler,
    diffusers.UniPCMultistepScheduler,
    diffusers.DPMSolverMultistepScheduler,
    diffusers.HeunDiscreteScheduler,
    diffusers.DEISMultistepScheduler,
):
    scheduler = kind.from_config({**KARRAS}, sigma_max=SIGMA_SKIP)
    scheduler.set_timesteps(10)
    first = float(scheduler.sigmas[0])
    ours = teleport_latents(
        kind(**TABLE), gaussian, 1, SIGMA_SKIP, 10, grid="karras"
    )
    print(
        f"{kind.__name__:<30} from_config: {first:6.1f};"
        f" teleport_latents: {ours.sigma:.1f}"
    )
    assert (abs(first - SIGMA_SKIP) < 1e-3) == (kind.__name__[:3] in ("Eul", "Uni"))
    assert abs(ours.sigma - SIGMA_SKIP) < 1e-3

other = diffusers.HeunDiscreteScheduler.from_config(
    diffusers.DDIMScheduler().config
)
other.set_timesteps(10)
print(
    "Heun made from DDIM's defaults starts at"
    f" σ = {float(other.sigmas[0]):.0f}, not 157"
)
assert float(other.sigmas[0]) < 30

shifted = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
shifted.set_timesteps(sigmas=[0.9, 0.5])
edm = diffusers.EDMEulerScheduler()
edm.set_timesteps(sigmas=torch.tensor([0.5, 1.0]))
print(
    "flow matching, given 0.9 and 0.5:",
    [round(x, 3) for x in shifted.sigmas[:2].tolist()],
)
print("EDM, given 0.5 and 1.0:", [round(x, 3) for x in edm.sigmas[:2].tolist()])
assert abs(float(shifted.sigmas[1]) - 0.75) < 1e-6
assert abs(float(edm.sigmas[1]) - 0.002) < 1e-6

# %% [markdown]
# The last two lines are about levels that one hands over oneself: flow matching applies its shift to them, and EDM's
# scheduler takes them for places on its own grid. So `teleport_latents` never trusts a setting: it reads the levels back
# after `set_timesteps`, and refuses where the start is not what was asked for.
#
# ## Beside the paper
#
# The paper judges by FID, on 50,000 images of a larger network, sampled with Heun's method. Some of the rows
# ([chapter 14](14_full_scale.ipynb) has all):

# %%
fids = {row["sigma_skip"]: row for row in shipped.published("heun_fid")}
for sigma_skip in (80.0, 40.8, 19.4, 8.4, 3.3):
    row = fids[sigma_skip]
    print(f"σ_skip = {sigma_skip:>4g}: {row['nfe']} calls, FID {row['fid']}")
assert fids[19.4]["fid"] < fids[80.0]["fid"] < fids[8.4]["fid"]

# %% [markdown]
# ## What we saw
#
# **Shown here.** A jump fits into a pipeline of diffusers in three lines; where a pipeline takes no latents, a hybrid network
# or a pipeline with the same parts does it. On the shipped CIFAR-10 network and Karras grids a third of the calls lie above
# σ = 20. Leaving them out raises the error of DPM-Solver++ and UniPC by less than a fifth, from seven steps on; spending as many
# calls below lowers it by more than 30 % at up to 10 calls. The jump's own error sets the floor.
#
# **The paper.** [Wang & Vastola 2024](https://arxiv.org/abs/2412.09726) measure the same idea by FID on larger networks: a jump to
# σ = 19.4 saves 8 of 35 calls and the FID does not suffer, 1.93 instead of 1.96.
#
# **The difference.** We measured the distance from the network's own solution, image by image, on a small network. It says
# nothing about which of two images is the better one. Text-to-image pipelines were run with random weights only: that their
# calls can be left out is shown, how Gaussian a large text-conditioned network is at high noise is not.
#
# ## Exercises
#
# **1. Start at infinite noise.** Flow matching begins at $t = 1$, where $\sigma = t/(1-t)$ is infinite. Show that a jump to time
# $t$ gives latents whose coordinate along principal direction $k$, counted from $(1-t)\,\mu$, is
# $\sqrt{t^2 + (1-t)^2\lambda_k}\;n_k$. Check it against `teleport_latents` with a jump to $\sigma = 4$.

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
jump = teleport_latents(
    diffusers.FlowMatchEulerDiscreteScheduler(),
    gaussian,
    noise,
    4.0,
    num_inference_steps=20,
)
# The factor of the VE jump is √((σ²+λ)/(σ_T²+λ)), and it starts from σ_T·n. As σ_T grows,
# the product tends to √(σ²+λ)·n. The state at t is (1−t) times that, and (1−t)σ = t.
t = jump.sigma / (1 + jump.sigma)
along = (jump.latents - (1 - t) * gaussian.mean).flatten(1) @ gaussian.basis
spread = (t**2 + (1 - t) ** 2 * gaussian.variances).sqrt()
torch.testing.assert_close(
    along, spread * (noise.flatten(1) @ gaussian.basis), rtol=1e-3, atol=1e-3
)
print(f"t = {t:.3f}, σ = {jump.sigma:.2f}, {jump.nfe_saved} of 20 calls saved")
# At t = 1 nothing but noise is left, and the formula says so: no large number had to
# stand in for infinity.

# %% [markdown]
# **2. How far should one jump?** With ten calls of DPM-Solver++ below $\sigma_\text{skip}$, try 40, 20, 10 and 5. Two errors make
# up the result: the solver's and the jump's. Which falls as $\sigma_\text{skip}$ falls, and which rises?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
by_skip = {}
for sigma_skip in (40.0, 20.0, 10.0, 5.0):
    images, _ = sample("DPM-Solver++, Karras", 10, sigma_skip, "karras")
    by_skip[sigma_skip] = (images - exact).square().mean().sqrt().item()
    print(f"σ_skip = {sigma_skip:>4g}: {by_skip[sigma_skip]:.4f}")
assert by_skip[20.0] < by_skip[5.0]
assert by_skip[20.0] < by_skip[40.0]
# The solver's error falls, since its ten steps cover less ground. The jump's own error
# rises, since the Gaussian knows less and less of what the network does. The best place
# is between, and depends on how many calls there are.
