"""Writes tests/fixtures/import/song*: small SongUNets in EDM's files, with what they make of some arrays.

Run from the repository's root, with PyTorch (written with 1.13) and NumPy (Debian: python3-torch):

    python3 tests/reference/make_import_song.py [output folder, default tests/fixtures/import]

The networks are those of make_song.py with its hashed weights; modules, names and buffers are as in EDM's state_dict. The
pickles' bytes differ from run to run, as make_import.py says.

song.pkl          snapshot of an EDMPrecond of a DDPM++-like network with classes and augmentation labels, protocol 4
song_io.npz       x, sigma, labels (classes), denoised: computed in float64, stored as float32
song_uncond.pkl   snapshot of a smaller network without classes
song_state.pt     its weights alone, without the preconditioning's "model." before the names
"""

import pickle
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

from make_import import persistent, saved, snapshot
from make_song import Block, Denoiser, Map, Song, fill, hashed

RESOLUTION, CHANNELS, CLASSES, IMAGES = 8, 3, 3, 5
CLASSES_OF = {nn.Linear: "Linear", nn.Conv2d: "Conv2d", nn.GroupNorm: "GroupNorm", Block: "UNetBlock"}


def recorded(name, arguments):
    """An empty module of EDM's class of that name, made with the arguments."""

    class Empty(nn.Module):
        def __init__(self, *args, **kwargs):
            super().__init__()

    Empty.__name__ = name
    return persistent(Empty)(**arguments)


def as_edm(module, resized=False):
    """The module with EDM's classes and buffers: convolutions that resample keep their filter."""
    if isinstance(module, nn.ModuleDict):
        copy = nn.ModuleDict()
    elif isinstance(module, Map):
        copy = recorded("PositionalEmbedding", {"num_channels": 2 * module.half, "endpoint": True})
    else:
        copy = recorded(CLASSES_OF[type(module)], {})
    for name, parameter in module.named_parameters(recurse=False):
        copy.register_parameter(name, nn.Parameter(parameter.detach().float(), requires_grad=False))
    if isinstance(module, nn.Conv2d):
        copy.register_buffer("resample_filter", torch.full([1, 1, 2, 2], 0.25) if resized else None)
    for name, child in module.named_children():
        resamples = isinstance(module, Block) and module.resample is not None and name in ["conv0", "skip"]
        copy.add_module(name, as_edm(child, resamples))
    return copy


def precond(song, settings):
    """EDM's snapshot of the network; `settings` are those that EDM's training would give it."""
    size = {"img_resolution": RESOLUTION, "label_dim": settings.pop("label_dim", 0)}
    network = {**size, "in_channels": CHANNELS, "out_channels": CHANNELS, **settings}
    model = recorded("SongUNet", network)
    for name, child in song.named_children():
        model.add_module(name, as_edm(child))
    outer = recorded("EDMPrecond", {**size, "img_channels": CHANNELS, "model_type": "SongUNet", **settings})
    outer.add_module("model", model)
    return outer.eval()


def main():
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "tests/fixtures/import")
    torch.set_num_threads(1)
    mult = {"channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": [4]}
    song = Song(RESOLUTION, CHANNELS, 4, **mult, label_dim=CLASSES, augment_dim=9)
    denoiser = fill(Denoiser("edm", song).double())
    settings = {"model_channels": 4, **mult, "augment_dim": 9, "dropout": 0.13, "embedding_type": "positional"}
    edm = precond(song, {"label_dim": CLASSES, **settings})
    (folder / "song.pkl").write_bytes(pickle.dumps(snapshot(edm), protocol=4))

    sigma = torch.tensor([0.002, 0.05, 0.5, 4, 80]).double()
    labels = torch.tensor([0, 1, 2, 2, 1])
    noise = hashed("song.n", (IMAGES, CHANNELS, RESOLUTION, RESOLUTION)).double()
    x = (hashed("song.x0", noise.shape).double() + sigma[:, None, None, None] * noise).float().double()
    sigma = sigma.float().double()
    with torch.no_grad():
        denoised = denoiser(x, sigma, labels=torch.eye(CLASSES, dtype=torch.float64)[labels])
    floats = {"x": x, "sigma": sigma, "denoised": denoised}
    arrays = {name: value.numpy().astype(np.float32) for name, value in floats.items()}
    np.savez(folder / "song_io.npz", labels=labels.numpy(), **arrays)

    small = {"channel_mult": [1], "num_blocks": 1, "attn_resolutions": []}
    song = Song(RESOLUTION, CHANNELS, 4, **small)
    fill(song.double())
    edm = precond(song, {"model_channels": 4, **small})
    (folder / "song_uncond.pkl").write_bytes(pickle.dumps(snapshot(edm), protocol=4))
    (folder / "song_state.pt").write_bytes(saved(edm.model.state_dict()))


if __name__ == "__main__":
    main()
