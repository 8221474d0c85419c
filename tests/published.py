"""Pickles with the byte stream of EDM's published ones, from stand-ins for the modules that those name."""

import collections
import io
import pickle
import sys
import types

import numpy as np
import torch
from torch import nn

from gausstools.networks import DDPMpp

SOURCE = "raise SystemExit('the source in the file was run')"
TINY = {
    "img_resolution": 8,
    "in_channels": 1,
    "out_channels": 1,
    "label_dim": 0,
    "augment_dim": 3,
    "model_channels": 8,
    "channel_mult": [1, 2],
    "channel_mult_emb": 4,
    "num_blocks": 1,
    "attn_resolutions": [4],
    "dropout": 0.13,
    "embedding_type": "positional",
    "channel_mult_noise": 1,
    "encoder_type": "standard",
    "decoder_type": "standard",
    "resample_filter": [1, 1],
}


class EasyDict(dict):
    """Pickled under the name dnnlib.util.EasyDict."""


def _reconstruct_persistent_obj(meta):
    raise AssertionError("called while reading")


class Persistent(nn.Module):
    """An object that reduces as the published ones do: to a function, its class's source and its attributes."""

    def __init__(self, class_name, **attributes):
        super().__init__()
        self.class_name, self.__dict__["_init_args"], self.__dict__["_init_kwargs"] = class_name, (), {}
        for name, value in attributes.items():
            self.__dict__[name] = value

    def __reduce__(self):
        state = {name: value for name, value in self.__dict__.items() if name != "class_name"}
        meta = {"type": "class", "version": 6, "module_src": SOURCE, "class_name": self.class_name, "state": state}
        return _reconstruct_persistent_obj, (meta,), None


def constants(layer: nn.Module, name: str) -> tuple[str, dict]:
    """The class that a layer has in the published files, and what it states beside its weights."""
    if isinstance(layer, nn.Conv2d):
        resampling = {"up": layer.up, "down": layer.down}
        resampling["fused_resample"] = name.endswith("aux_residual")
        return "Conv2d", {"in_channels": layer.in_channels, "out_channels": layer.out_channels} | resampling
    if isinstance(layer, nn.GroupNorm):
        return "GroupNorm", {"num_groups": min(32, layer.num_channels // 4), "eps": 1e-6}
    if isinstance(layer, nn.Linear):
        return "Linear", {"in_features": layer.in_features, "out_features": layer.out_features}
    if name == "map_noise":
        if hasattr(layer, "freqs"):
            return "FourierEmbedding", {}
        return "PositionalEmbedding", {"num_channels": layer.num_channels, "max_positions": 10000, "endpoint": True}
    channels = {"in_channels": layer.conv0.in_channels, "out_channels": layer.conv0.out_channels}
    more = {"emb_channels": layer.affine.in_features, "num_heads": int(hasattr(layer, "qkv")), "dropout": 0.13}
    return "UNetBlock", channels | more | {"skip_scale": np.sqrt(0.5), "adaptive_scale": False}


def persistent(module: nn.Module, class_name: str, **attributes) -> nn.Module:
    """The same parameters, buffers and children, as stand-ins."""
    copy = Persistent(class_name, **attributes)
    for name, parameter in module.named_parameters(recurse=False):
        copy.register_parameter(name, parameter)
    for name, buffer in module.named_buffers(recurse=False):
        copy.register_buffer(name, buffer)
    if class_name == "Conv2d" and "resample_filter" not in copy._buffers:
        copy.register_buffer("resample_filter", None)
    for name, child in module.named_children():
        copy.add_module(name, _within(name, child))
    return copy


def _within(name: str, child: nn.Module) -> nn.Module:
    if isinstance(child, nn.ModuleDict):
        return nn.ModuleDict({inner: _within(inner, layer) for inner, layer in child.items()})
    class_name, attributes = constants(child, name)
    return persistent(child, class_name, **attributes)


def snapshot(network: nn.Module, arguments: dict, model="SongUNet", precond="EDMPrecond", sigma_data=0.5) -> dict:
    """What a training run of EDM writes."""
    outer = Persistent(precond, img_resolution=8, img_channels=1, label_dim=arguments["label_dim"], use_fp16=False)
    outer.__dict__.update(sigma_min=0, sigma_max=float("inf"), sigma_data=sigma_data)
    outer.__dict__["_init_kwargs"] = EasyDict(model_type=model, **arguments)
    outer.add_module("model", persistent(network, model, _init_kwargs=arguments, label_dropout=0))
    loss = Persistent("EDMLoss", P_mean=-1.2, P_std=1.2)
    return {"ema": outer.eval(), "loss_fn": loss, "augment_pipe": None, "dataset_kwargs": {"resolution": 8}}


def dump(content: object, protocol: int = 4) -> bytes:
    """Pickle it with the published names of the stand-ins."""
    names = {"dnnlib": None, "dnnlib.util": EasyDict, "torch_utils": None}
    names["torch_utils.persistence"] = _reconstruct_persistent_obj
    before = {name: sys.modules.get(name) for name in names}
    homes = {value: value.__module__ for value in names.values() if value}
    try:
        for name, value in names.items():
            sys.modules[name] = types.ModuleType(name)
            if value:
                setattr(sys.modules[name], value.__name__, value)
                value.__module__ = name
        return pickle.dumps(content, protocol)
    finally:
        for value, home in homes.items():
            value.__module__ = home
        for name, module in before.items():
            sys.modules.pop(name)
            if module:
                sys.modules[name] = module


def write(path, seed: int = 0, **changes) -> DDPMpp:
    """Write a tiny published network and return the raw network in it."""
    torch.manual_seed(seed)
    arguments = TINY | changes
    network = DDPMpp(**arguments).eval()
    for parameter in network.parameters():  # what ends a branch is tiny at first, and would hide faults
        nn.init.normal_(parameter, 0, 0.1)
    path.write_bytes(dump(snapshot(network, arguments)))
    return network


def tensor_pickle(storage: bytes, size=(2,), stride=(1,), offset=0, of=None) -> dict:
    """A file in which the last weight of the network, of shape (2,), has these parts, whatever they are."""

    class Part:
        def __init__(self, function, *args):
            self.parts = function, args

        def __reduce__(self):
            return self.parts

    stored = Part(torch.storage._load_from_bytes, storage)
    hooks = collections.OrderedDict()
    tensor = Part(torch._utils._rebuild_tensor_v2, stored, offset, size, stride, False, hooks)
    parameter = Part(torch._utils._rebuild_parameter, tensor, True, hooks)
    arguments = TINY | {"out_channels": 2}
    content = snapshot(DDPMpp(**arguments), arguments)
    content["ema"]._modules["model"].dec["8x8_aux_conv"].__dict__["_parameters"]["bias"] = (
        parameter if of is None else of
    )
    return content


def stored(values: torch.Tensor) -> bytes:
    """The bytes of a storage, as they stand within the file."""
    buffer = io.BytesIO()
    storage = torch.storage.TypedStorage(wrap_storage=values.untyped_storage(), dtype=values.dtype, _internal=True)
    torch.save(storage, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()
