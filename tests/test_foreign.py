"""The network that nobody here trained: rebuilt from words, asked in the book's units; and the table about it."""

import math

import pytest
import torch
from safetensors.torch import save_file

from benchmarks import foreign
from gausstools import shipped


@pytest.fixture
def network():
    torch.manual_seed(0)
    network = foreign.Network()
    network.frequencies.uniform_(0.5, 20)
    return network


def test_a_checkpoint_is_the_denoiser_of_its_own_process_in_units_of_minus_1_to_1(network, tmp_path):
    save_file({f"epoch0020.{name}": value for name, value in network.state_dict().items()}, tmp_path / "a.safetensors")
    ((epoch, denoiser),) = foreign.checkpoints(tmp_path / "a.safetensors").items()
    assert epoch == 20
    t, left = 300, 1.0
    for step in range(t + 1):  # as its author's training had it: β from t = 0 on
        left *= 1 - (1e-4 + (0.02 - 1e-4) * step / 1000)
    noised = torch.randn(2, 1, 28, 28)  # √ᾱ·x0 + √(1−ᾱ)·ε, x0 in [-0.5, 0.5]
    with torch.no_grad():
        epsilon = network(noised, torch.full((2,), t - 1.0))
        found = denoiser(2 * noised / math.sqrt(left), 2 * math.sqrt(1 / left - 1))
    expected = 2 * (noised - math.sqrt(1 - left) * epsilon) / math.sqrt(left)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_it_is_told_the_time_of_each_image_and_not_its_step(network):
    x = torch.randn(1, 1, 28, 28).expand(2, -1, -1, -1)
    with torch.no_grad():
        together = network(x, torch.tensor([99.0, 499.0]))
        embedded = torch.cat([(0.5 * network.frequencies).sin(), (0.5 * network.frequencies).cos() - 1])
        first = torch.nn.functional.gelu(network.blocks[0]["net"](x[:1]))
        rest = first + network.time_embed(embedded).reshape(1, 16, 1, 1)
        for block in network.blocks[1:-1]:
            rest = torch.nn.functional.gelu(block["net"](rest))
        torch.testing.assert_close(together[1:], network.blocks[-1](rest))


def test_the_table_has_every_entry_and_errors_that_are_small():
    rows = shipped.residuals("foreign")
    keys = {(row["images"], row["images_from"], row["model"], row["sigma"]) for row in rows}
    assert len(keys) == len(rows) == 13 * 2 * 5 * 12
    assert all(row["steps"] * foreign.BATCH == row["images"] for row in rows)
    held_out = [row for row in rows if row["images_from"] == "test" and row["model"] == "gaussian"]
    # The Gaussian is the better denoiser from σ = 5 on.
    assert all((row["loss"] < row["network_loss"]) == (row["sigma"] >= 5) for row in held_out if row["images"] > 5e6)
    assert max(row["score_error"] / row["score"] for row in held_out if row["sigma"] <= 5) < 0.1
