"""EDM's pickles: what is read, and that nothing in them is run."""

import builtins
import codecs
import collections
import io
import itertools
import os
import pickle
import struct
import subprocess
import zipfile

import hostile
import numpy as np
import published
import pytest
import torch
from torch import nn

from gausstools.networks import DDPMpp, edm_pickle

pytestmark = pytest.mark.usefixtures("as_installed")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "edm-tiny-8x8-uncond-vp.pkl"


class Calls:
    """Pickled as a call of any function."""

    def __init__(self, function, *args):
        self.parts = function, args

    def __reduce__(self):
        return self.parts


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"augment_dim": 0, "channel_mult": [2, 1], "attn_resolutions": [8, 4]},
        {"label_dim": 5},
        {
            "embedding_type": "fourier",
            "encoder_type": "residual",
            "resample_filter": [1, 3, 3, 1],
            "channel_mult_noise": 2,
        },
    ],
    ids=["DDPM++", "without augmentation", "with classes", "NCSN++"],
)
def test_weights_arguments_and_sigma_data_come_through(path, changes):
    network = published.write(path, **changes)
    denoiser = edm_pickle.load(path)
    expected, found = network.state_dict(), denoiser.network.state_dict()
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert denoiser.sigma_data == 0.5
    assert denoiser.event_shape == (1, 8, 8)
    x, level = torch.randn(2, 1, 8, 8), 0.7
    total = (level**2 + 0.25) ** 0.5
    raw = network(x / total, torch.full((2,), level).log() / 4)
    torch.testing.assert_close(denoiser(x, level), 0.25 / total**2 * x + level * 0.5 / total * raw)


def test_the_stream_is_that_of_the_published_files(path):
    """The stand-ins are of use only if they leave the names that the real files hold."""
    published.write(path)
    content = path.read_bytes()
    assert all(
        part.encode() in content
        for name in (edm_pickle.PERSISTENT, *edm_pickle.MAPPINGS, edm_pickle.MODULES, edm_pickle.STORAGE)
        for part in name.rsplit(".", 1)
    )
    assert published.SOURCE.encode() in content
    with pytest.raises((ModuleNotFoundError, AttributeError)):  # Python's own reader looks for NVIDIA's modules
        pickle.loads(content)


@pytest.mark.parametrize(
    ("function", "args", "name"),
    [
        (os.system, ("touch {}",), f"{os.system.__module__}.system"),
        (subprocess.Popen, ("touch {}",), "subprocess.Popen"),
        (builtins.eval, ("open('{}', 'w')",), "builtins.eval"),
        (builtins.exec, ("open('{}', 'w')",), "builtins.exec"),
        (builtins.open, ("{}", "w"), "io.open"),
        (builtins.getattr, ("text", "join"), "builtins.getattr"),
        (builtins.__import__, ("antigravity",), "builtins.__import__"),
        (torch.load, ("{}",), "torch.serialization.load"),
        (torch.hub.load, ("{}", "x"), "torch.hub.load"),
        (pickle.loads, (b"N.",), "_pickle.loads"),
        (collections.Counter, ("abc",), "collections.Counter"),
        (torch._utils._rebuild_tensor, (), "torch._utils._rebuild_tensor"),
        (nn.Linear, (1, 1), "torch.nn.modules.linear.Linear"),
    ],
)
@pytest.mark.parametrize("where", ["file", "ema", "kwargs", "attribute"])
def test_other_names_are_refused_in_full_and_run_nothing(path, tmp_path, function, args, name, where):
    mark = tmp_path / "mark"
    hostile = Calls(function, *(arg.format(mark) if isinstance(arg, str) else arg for arg in args))
    content = published.snapshot(DDPMpp(**published.TINY), published.TINY)
    if where == "file":
        content = hostile
    elif where == "ema":
        content["ema"] = hostile
    elif where == "kwargs":
        content["ema"]._modules["model"].__dict__["_init_kwargs"] = published.TINY | {"dropout": hostile}
    else:
        content["loss_fn"].__dict__["P_mean"] = hostile
    path.write_bytes(published.dump(content))
    with pytest.raises(ValueError, match=r"asks for .*Nothing of it was run") as caught:
        edm_pickle.load(path)
    assert f"asks for {name}," in str(caught.value)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no complete pickle"),
        (b"\x89PNG\r\n\x1a\n", "the operation PERSID NG"),
        (b"cos\nsystem\n(S'true'\ntR.", "asks for os.system"),
        (b"(S'true'\nios\nsystem\n.", "the operation INST os system, which no EDM pickle uses; none was run"),
        (b"cposix\nsystem\n\x8c\x04true\x85R.", "asks for posix.system"),
        (b"\x80\x04\x8c\x08builtins\x8c\x0ffoo.bar.getattr\x93.", r"asks for builtins.foo.bar.getattr"),
        (b"c__main__\n__builtins__\n.", "asks for __main__.__builtins__"),
        (b"Psomething\n.", "PERSID something"),
        (b"\x82\x01.", "EXT1"),
        (b"\x80\x05\x97.", "NEXT_BUFFER"),
        (b"\x80\x04Nr\xff\xff\xff\x7f.", "has nothing at the file"),
        (b"\x80\x04N" + b"p99999999999\n.", "has nothing at the file"),
        (b"\x80\x04\x8e" + struct.pack("<Q", 2**60) + b"abc.", "no complete pickle"),
        (b"\x80\x04\x95" + struct.pack("<Q", 2**60) + b"N.", "has nothing at the file"),
        (b"\x80\xff.", "no complete pickle"),
        (b"ccollections\nOrderedDict\n}b.", "collections.OrderedDict at the file"),  # the state of a class
        (b"ccollections\nOrderedDict\nNNs.", "has nothing at 'ema'"),
        (pickle.dumps([1, 2]), "a list at the file, expected a dictionary"),
        (pickle.dumps({"net": 1}), "has nothing at 'ema', expected a network"),
        (pickle.dumps({"ema": 1}), "has a int at 'ema', expected a network"),
    ],
)
def test_what_is_no_such_pickle_is_said(path, content, message):
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        edm_pickle.load(path)


def test_a_truncated_file_is_refused_wherever_it_ends(path):
    published.write(path)
    content = path.read_bytes()
    for end in range(0, len(content) - 1, len(content) // 40):
        path.write_bytes(content[:end])
        with pytest.raises(ValueError, match="no complete pickle"):
            edm_pickle.load(path)


@pytest.mark.parametrize("protocol", [3, 5])
def test_the_protocol_makes_no_difference(path, protocol):
    network = published.write(path)
    expected = edm_pickle.load(path).state_dict()
    path.write_bytes(published.dump(published.snapshot(network, published.TINY), protocol))
    found = edm_pickle.load(path).state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_there_must_be_a_file(path):
    with pytest.raises(FileNotFoundError, match=r"there is no file .*vp\.pkl"):
        edm_pickle.load(path)


def _zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data.pkl", bytes(1_000_000))
    return file.getvalue()


GOOD = published.stored(torch.ones(4))


@pytest.mark.parametrize(
    ("storage", "shape", "message"),
    [
        (pickle.dumps(Calls(os.system, "true")), {}, "no readable tensor"),
        (published.stored(torch.ones(4, dtype=torch.int64)), {}, "expected a storage of floats"),
        (GOOD[:-3], {}, "no readable tensor"),
        (_zipped(), {}, "no readable tensor .* expected .* PyTorch's old format"),
        ("text", {}, "a str, expected bytes"),
        (GOOD, {"size": (5,)}, r"size \(5,\) on 4 values"),
        (GOOD, {"size": (2,), "offset": 3}, "no readable tensor"),
        (GOOD, {"size": (2,), "offset": -1}, "offset -1"),
        (GOOD, {"size": (2,), "stride": (10,)}, "no readable tensor"),
        (GOOD, {"size": (10**9, 10**9), "stride": (0, 0)}, "on 4 values"),
        (GOOD, {"size": (3.0,)}, "on 4 values"),
        (GOOD, {"stride": (1, 1)}, "no readable tensor"),
        (GOOD, {"size": None}, "size None on 4 values"),
    ],
)
def test_tensors_must_be_what_they_say(path, storage, shape, message):
    path.write_bytes(published.dump(published.tensor_pickle(storage, **shape)))
    with pytest.raises(ValueError, match=message):
        edm_pickle.load(path)


def test_a_storage_may_not_claim_more_than_the_file_has(path):
    """In PyTorch's old format the length stands in the pickle before the numbers."""
    claim = GOOD.replace(b"K\x04N", b"\x8a\x06" + (10**12).to_bytes(6, "little") + b"N")
    assert claim != GOOD
    path.write_bytes(published.dump(published.tensor_pickle(claim)))
    with pytest.raises(ValueError, match="no readable tensor"):
        edm_pickle.load(path)


def test_a_nested_pickle_runs_nothing(path, tmp_path):
    mark = tmp_path / "mark"
    inner = io.BytesIO()
    torch.save(Calls(os.system, f"touch {mark}"), inner, _use_new_zipfile_serialization=False)
    path.write_bytes(published.dump(published.tensor_pickle(inner.getvalue())))
    with pytest.raises(ValueError, match="nothing of it was run"):
        edm_pickle.load(path)
    assert not mark.exists()


def test_known_names_do_nothing_with_wrong_arguments(path):
    for content, message in [
        (Calls(torch._utils._rebuild_tensor_v2), "has torch._utils._rebuild_tensor_v2 at 'ema'"),
        (Calls(published._reconstruct_persistent_obj, 1, 2), "has torch_utils.persistence._reconstruct_persistent_obj"),
        (Calls(published._reconstruct_persistent_obj, 1), "has a int at 'ema', expected a dictionary"),
        (Calls(torch.storage._load_from_bytes, b"x"), "has torch.storage._load_from_bytes at 'ema'"),
    ]:
        path.write_bytes(published.dump({"ema": content}))
        with pytest.raises(ValueError, match=message):
            edm_pickle.load(path)


@pytest.mark.parametrize("levels", [1, 40])
def test_modules_may_not_repeat_or_nest_without_end(path, levels):
    """Forty modules, each twice in the next, are 2^40 by name."""
    content = published.snapshot(DDPMpp(**published.TINY), published.TINY)
    inner = content["ema"]._modules["model"]
    module = nn.ModuleDict()
    for _ in range(levels):
        module = nn.ModuleDict({"a": module, "b": module})
    inner._modules["enc"] = module
    path.write_bytes(published.dump(content))
    with pytest.raises(ValueError, match="other parts at 'enc' than a network of these arguments"):
        edm_pickle.load(path)


def paired(depth: int):
    """A tuple that is small in memory and has 2^depth leaves."""
    value = None
    for _ in range(depth):
        value = (value, value)
    return value


def snapshot_with(**parts) -> bytes:
    """A published file in which some attributes of the network are others."""
    content = published.snapshot(nn.Module(), published.TINY)
    network = content["ema"]._modules["model"]
    network.class_name = parts.pop("class_name", network.class_name)
    network.__dict__["_init_kwargs"] = published.TINY | parts.pop("arguments", {})
    network.__dict__.update(parts)
    return published.dump(content)


def weights_on(storage, count: int, size: tuple = (2,)) -> bytes:
    """A published file with so many more names for one tensor."""
    content = published.tensor_pickle(storage, size)
    parameters = content["ema"]._modules["model"].dec["8x8_aux_conv"].__dict__["_parameters"]
    parameters.update({f"bias{index}": parameters["bias"] for index in range(count)})
    return published.dump(content)


def shared() -> bytes:
    """A published file in which all convolutions of one shape have the same numbers, which it holds once."""
    arguments = published.TINY | {"model_channels": 32, "channel_mult": [1, 1], "num_blocks": 4}
    content = published.snapshot(DDPMpp(**arguments), arguments)
    layers = [layer for layer in content["ema"]._modules["model"].modules() if "weight" in layer._parameters]
    alike = [layer for layer in layers if layer._parameters["weight"].shape == (32, 32, 3, 3)]
    for layer in alike:
        layer._parameters["weight"] = alike[0]._parameters["weight"]
    return published.dump(content)


def with_length(count: int) -> bytes:
    """A storage that declares so many numbers, before them and in their pickle, and has none."""
    declared = GOOD[:-24].replace(b"K\x04N", b"\x8a\x08" + count.to_bytes(8, "little") + b"N")
    return declared + count.to_bytes(8, "little")


TEXT = "x" * 2**20
PAIRS = b"N\x94" + b"".join(2 * (b"j" + struct.pack("<I", i)) + b"\x86\x94" for i in range(60)) + b"}h\x3c"
KEYS = b"".join(b"\x8a\x0a" + (i * (2**61 - 1)).to_bytes(10, "little") + b"N" for i in range(1, 80_000))  # of one hash
STORED = b"\x80\x02(X"  # where the fourth of the pickles in a storage begins
WITHOUT_NUMBERS = GOOD[: GOOD.index(b"\x80\x02]q")] + b"\x80\x02]."


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x80\x04}N" + b"2\x86" * 60 + b"Ns.", "DUP"),
        (b"\x80\x04" + PAIRS + b"Ns.", "has nothing at 'ema'"),
        (b"\x80\x04}N" + b"\x85" * 10**6 + b"Ns.", "more than 500,000 operations"),
        (b"\x80\x04}N" + b"\x85" * 150_000 + b"Ns.", "has nothing at 'ema'"),
        (b"\x80\x04" + b"]" * 120_000 + b"a" * 90_000 + b".", "has a list at the file"),
        (
            b"\x80\x04ccollections\nOrderedDict\n\x94" + b"h\x00" * 9**5 + b")" + b"R\x85" * (9**5 - 1) + b"R" + b".",
            "collections.OrderedDict at the file",
        ),
        (b"\x80\x04}(" + KEYS + b"u.", "has nothing at 'ema'"),
        (b"\x80\x04L" + b"1" * 10**6 + b"L\n.", "no complete pickle"),
        (b"\x80\x04" + b"(" * 100_000 + b"t" * 100_000 + b".", "has a tuple at the file"),
        (lambda: snapshot_with(class_name=paired(60)), r"has the class \[None, None\] .*, expected 'SongUNet'"),
        (lambda: snapshot_with(class_name=[TEXT] * 20_000), "a list for the class"),
        (lambda: snapshot_with(_parameters={"w": paired(60)}), "other parts at ''"),
        (lambda: published.dump(published.tensor_pickle(GOOD, of=paired(60))), "has a tuple at dec.8x8_aux_conv.bias"),
        (lambda: snapshot_with(arguments={"num_blocks": [TEXT] * 20_000}), "a list for num_blocks"),
        (lambda: snapshot_with(arguments={"num_blocks": [TEXT] * 20}), "a str for num_blocks"),
        (lambda: snapshot_with(arguments={"num_blocks": paired(60)}), r"num_blocks is \[None, None\]"),
        (lambda: snapshot_with(arguments={"num_blocks": 10**20_000}), "a int for num_blocks"),
        (lambda: snapshot_with(arguments={"attn_resolutions": list(range(10**6))}), "more than 500,000 operations"),
        (lambda: snapshot_with(arguments={TEXT: 1}), "unexpected keyword argument 'xxx"),
        (
            lambda: snapshot_with(
                arguments={"img_resolution": 4096, "num_blocks": 32, "channel_mult": [64] * 8, "model_channels": 4096}
            ),
            "other parts at ''",
        ),
        (shared, "the same numbers for several"),
        (lambda: weights_on(GOOD, 0, paired(60)), r"size \("),
        (lambda: weights_on(published.stored(torch.ones(2)), 30_000), "other parts at 'dec.8x8_aux_conv'"),
        (lambda: weights_on(Calls(codecs.encode, TEXT, "latin1"), 20_000), "asks for _codecs.encode"),
        (lambda: weights_on(pickle.dumps(Calls(bytearray, 3 * 2**30)), 0), "asks for builtins.bytearray"),
        (
            lambda: weights_on(GOOD[: GOOD.index(STORED)] + pickle.dumps(Calls(bytearray, 3 * 2**30), 2), 0),
            "asks for __builtin__.bytearray",
        ),
        (lambda: weights_on(with_length(2**30), 0, (2**30,)), "no readable tensor .* its parts do not fit"),
        (lambda: weights_on(with_length(2**60), 0, (2**60,)), "no readable tensor .* its parts do not fit"),
        (lambda: weights_on(WITHOUT_NUMBERS, 0), "no readable tensor .* its parts do not fit"),
        (lambda: weights_on(GOOD, 0, (2**8000,) * 20_000), r"no readable tensor .* size \("),
        (lambda: weights_on(GOOD, 0, paired(60)), r"no readable tensor .* size \("),
        (lambda: weights_on(GOOD, 0, (1,) * 10**5), r"no readable tensor .* size \("),
        (
            lambda: snapshot_with(arguments={"dropout": Calls(np.float64(1).__reduce__()[0], paired(60))}),
            "not enough values",
        ),
    ],
    ids=itertools.count(),
)
def test_a_hostile_file_costs_nothing(path, content, message):
    path.write_bytes(content if isinstance(content, bytes) else content())
    hostile.assert_refused(edm_pickle.load, path, message)


@pytest.mark.parametrize(
    ("layer", "name", "value", "message"),
    [
        ("enc.8x8_block0", "skip_scale", 1.0, r"has skip_scale 1.0 at 'enc.8x8_block0', expected 0.7071"),
        ("enc.8x8_block0", "skip_scale", np.float32(0.5), "has skip_scale 0.5"),
        ("enc.8x8_block0", "adaptive_scale", True, "has adaptive_scale True"),
        ("enc.8x8_conv", "in_channels", 16, "has in_channels 16"),
        (
            "enc.8x8_block0",
            "class_name",
            "DhariwalBlock",
            "the class 'DhariwalBlock' at 'enc.8x8_block0', expected 'UNetBlock'",
        ),
        ("enc.8x8_conv", "class_name", "Linear", "the class 'Linear' at .* expected 'Conv2d'"),
        ("enc.8x8_block0.norm0", "eps", 1e-5, "has eps 1e-05 at 'enc.8x8_block0.norm0', expected 1e-06"),
        ("enc.8x8_block0.norm1", "num_groups", 1, "has num_groups 1"),
        ("enc.4x4_down.conv0", "fused_resample", True, "has fused_resample True"),
        ("enc.4x4_down.skip", "down", False, "has down False"),
        ("dec.8x8_up.skip", "up", "yes", "has up 'yes'"),
        ("dec.4x4_in0", "num_heads", 2, "has num_heads 2 at 'dec.4x4_in0', expected 1"),
        ("dec.4x4_in1", "num_heads", np.int64(1), "has num_heads 1 at 'dec.4x4_in1', expected 0"),
        ("map_layer0", "in_features", 4, "has in_features 4"),
        ("map_noise", "max_positions", 1000, "has max_positions 1000"),
        ("map_noise", "endpoint", False, "has endpoint False"),
        (
            "map_noise",
            "class_name",
            "FourierEmbedding",
            "the class 'FourierEmbedding' at .*, expected 'PositionalEmbedding'",
        ),
    ],
)
def test_other_classes_and_constants_would_give_other_answers(path, layer, name, value, message):
    content = published.snapshot(DDPMpp(**published.TINY), published.TINY)
    content["ema"]._modules["model"].get_submodule(layer).__dict__[name] = value
    path.write_bytes(published.dump(content))
    with pytest.raises(ValueError, match=message):
        edm_pickle.load(path)


def test_the_order_of_layers_and_the_classes_told_are_those_of_the_network(path):
    content = published.snapshot(DDPMpp(**published.TINY), published.TINY)
    layers = content["ema"]._modules["model"].enc._modules
    layers["8x8_conv"] = layers.pop("8x8_conv")
    path.write_bytes(published.dump(content))
    with pytest.raises(ValueError, match=r"has other parts at 'enc' .* differ in 'their order'"):
        edm_pickle.load(path)
    content = published.snapshot(DDPMpp(**published.TINY), published.TINY)
    content["ema"].__dict__["label_dim"] = 3
    path.write_bytes(published.dump(content))
    with pytest.raises(ValueError, match="has label_dim 3 at 'ema', expected 0"):
        edm_pickle.load(path)


def test_what_does_not_touch_the_answers_may_be_anything(path):
    network = published.write(path)
    expected = edm_pickle.load(path)(torch.ones(1, 1, 8, 8), 0.7)
    content = published.snapshot(network, published.TINY)
    content["ema"].__dict__.update(use_fp16=True, sigma_min=0.002, sigma_max=80)  # of a GPU, and of samplers
    content["ema"]._modules["model"].enc["8x8_block0"].__dict__["dropout"] = 0.5  # of training
    del content["ema"]._modules["model"].enc["8x8_block0"].__dict__["skip_scale"]  # unsaid, it is the published one
    path.write_bytes(published.dump(content))
    assert torch.equal(edm_pickle.load(path)(torch.ones(1, 1, 8, 8), 0.7), expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "DhariwalUNet"}, "has the class 'DhariwalUNet' at .* expected 'SongUNet'"),
        ({"precond": "VPPrecond"}, "has the class 'VPPrecond' at .* expected 'EDMPrecond'"),
        ({"precond": "VEPrecond"}, "has the class 'VEPrecond'"),
        ({"sigma_data": "0.5"}, "'float' and 'str'"),
        ({"sigma_data": -1.0}, "sigma_data is -1.0"),
        ({"arguments": {"label_dim": 10}}, "other parts at '' .*map_label"),
        ({"arguments": {"label_dim": 10**9}}, "label_dim is 1000000000"),
        ({"arguments": {"encoder_type": "skip"}}, "encoder_type is 'skip'"),
        ({"arguments": {"decoder_type": "skip"}}, "decoder_type is 'skip'"),
        ({"arguments": {"model_channels": 10**9}}, "model_channels is 1000000000"),
        ({"arguments": {"num_blocks": 10**9}}, "num_blocks is 1000000000"),
        (
            {"arguments": {"model_channels": 4096}},
            "has num_channels 8 at 'map_noise', expected 4096",
        ),  # tens of GB, had they been allocated
        ({"arguments": {"colour": 1}}, "unexpected keyword argument 'colour'"),
        ({"arguments": {"dropout": {}}}, "a dict for dropout, expected a number"),
        ({"arguments": {"num_blocks": 2}}, "other parts at 'enc' .*block1"),
    ],
)
def test_networks_that_cannot_be_rebuilt_are_named(path, changes, message):
    arguments = published.TINY | changes.pop("arguments", {})
    path.write_bytes(published.dump(published.snapshot(DDPMpp(**published.TINY), arguments, **changes)))
    with pytest.raises(ValueError, match=message):
        edm_pickle.load(path)
