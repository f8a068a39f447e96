"""Writes tests/fixtures/song.safetensors: EDM's SongUNet and its preconditionings in PyTorch, written anew from the papers.

Run from the repository's root, with PyTorch (written with 1.13) and NumPy (Debian: python3-torch):

    python3 tests/reference/make_song.py [output folder, default tests/fixtures]

It takes half a minute on one core, nearly all for the network of 55.7 million parameters, and wants 2 GB of memory.

Weights and inputs are not stored: both sides compute them by `hashed`. Gradients are stored as sketches: for every parameter
the norm of its gradient g and the products <g, v_k> with SKETCHES hashed vectors, in the order of `state_dict`. A wrong
gradient g + e shows in them: <e, v_k> has the mean square |e|^2 / 3.

<network>.denoised, .loss       the denoiser at x0 + sigma n, and EDM's loss with the weight 1 / c_out^2
<network>.sigma                 inputs x0, n, labels, augment are hashed
<network>.sketch                [parameters, 1 + SKETCHES]
block.<name>.y, .sketch         single blocks; x, the embedding and the loss's weights are hashed; loss = <y, weights>
cifar10.parameters              their number: thousands and the rest, which float32 can hold
cifar10.denoised                every 97th element of one image, in float32
"""

import json
import math
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from make_fixtures import write_safetensors

SQRT_HALF = math.sqrt(0.5)
SKETCHES = 8
SIGMA_DATA = 0.5
BETA_D, BETA_MIN, VP_STEPS = 19.9, 0.1, 1000


# The rule for weights and inputs


def hashed(name, shape, scale=1.0, shift=0.0):
    """Numbers in shift ± scale, as float32: Murmur's finaliser of the name's FNV-1a hash and the element's index."""
    seed = 0x811C9DC5
    for byte in name.encode():
        seed = (seed ^ byte) * 0x01000193 & 0xFFFFFFFF
    h = np.arange(math.prod(shape), dtype=np.uint32) * np.uint32(0x9E3779B9) + np.uint32(seed)
    h = (h ^ (h >> 16)) * np.uint32(0x85EBCA6B)
    h = (h ^ (h >> 13)) * np.uint32(0xC2B2AE35)
    h ^= h >> 16
    unit = ((h >> 8).astype(np.float64) + 0.5) / 2**23 - 1
    return torch.from_numpy((shift + scale * unit).astype(np.float32).reshape(shape))


def fill(module):
    """Weights of variance 1 / fan-in, gains around 1, biases around 0, and frequencies up to 16."""
    for name, tensor in module.state_dict().items():
        if name.endswith("freqs"):
            tensor.copy_(hashed(name, tensor.shape, 16))
        elif tensor.ndim > 1:
            tensor.copy_(hashed(name, tensor.shape, math.sqrt(3 / tensor[0].numel())))
        else:
            tensor.copy_(hashed(name, tensor.shape, 0.2, 1 if name.endswith("weight") else 0))
    return module


# Networks


def norm(channels):
    return nn.GroupNorm(min(32, channels // 4), channels, eps=1e-6)


def depthwise(taps, channels, like):
    taps = torch.tensor(taps, dtype=like.dtype)
    kernel = torch.outer(taps, taps) / taps.sum() ** 2
    return kernel.expand(channels, 1, len(taps), len(taps))


def halve(x, taps, padding=None):
    padding = len(taps) // 2 - 1 if padding is None else padding
    return F.conv2d(x, depthwise(taps, x.shape[1], x), stride=2, padding=padding, groups=x.shape[1])


def double(x, taps):
    kernel = 4 * depthwise(taps, x.shape[1], x)
    return F.conv_transpose2d(x, kernel, stride=2, padding=len(taps) // 2 - 1, groups=x.shape[1])


class Block(nn.Module):
    def __init__(self, cin, cout, emb, taps=(1, 1), resample=None, heads=0, adaptive=False):
        super().__init__()
        self.taps, self.resample, self.heads, self.adaptive, self.cin = taps, resample, heads, adaptive, cin
        self.norm0, self.conv0 = norm(cin), nn.Conv2d(cin, cout, 3, padding=1)
        self.affine = nn.Linear(emb, cout * (2 if adaptive else 1))
        self.norm1, self.conv1 = norm(cout), nn.Conv2d(cout, cout, 3, padding=1)
        if cin != cout or resample:
            self.skip = nn.Conv2d(cin, cout, 1)
        if heads:
            self.norm2, self.qkv, self.proj = norm(cout), nn.Conv2d(cout, 3 * cout, 1), nn.Conv2d(cout, cout, 1)

    def resized(self, x):
        return x if self.resample is None else {"up": double, "down": halve}[self.resample](x, self.taps)

    def forward(self, x, emb):
        h = self.conv0(self.resized(F.silu(self.norm0(x))))
        modulation = self.affine(emb)[:, :, None, None]
        if self.adaptive:
            scale, shift = modulation.chunk(2, dim=1)
            h = self.norm1(h) * (1 + scale) + shift
        else:
            h = self.norm1(h + modulation)
        shortcut = self.skip(self.resized(x)) if hasattr(self, "skip") else x
        x = SQRT_HALF * (self.conv1(F.silu(h)) + shortcut)
        return SQRT_HALF * (x + self.proj(self.attend(x))) if self.heads else x

    def attend(self, x):
        n, c, height, width = x.shape
        # Rows of the projection: for every head and each of its channels, one of the query, the key and the value.
        q, k, v = self.qkv(self.norm2(x)).view(n, self.heads, c // self.heads, 3, height * width).unbind(3)
        weights = torch.softmax(torch.einsum("nhcq,nhck->nhqk", q, k) / math.sqrt(c // self.heads), dim=3)
        return torch.einsum("nhqk,nhck->nhcq", weights, v).reshape(x.shape)


class Branch(nn.Conv2d):
    """The residual encoder's: the convolution at full resolution, also beyond the border, then the filter."""

    def __init__(self, cin, cout, taps):
        super().__init__(cin, cout, 3, padding=len(taps) // 2)
        self.taps = taps

    def forward(self, x):
        return halve(F.conv2d(x, self.weight, padding=self.padding), self.taps, 0) + self.bias[:, None, None]


class Map(nn.Module):
    """Noise level -> sines and cosines, sines first."""

    def __init__(self, channels, fourier):
        super().__init__()
        self.half = channels // 2
        if fourier:
            self.register_buffer("freqs", torch.zeros(self.half))

    def forward(self, noise):
        if hasattr(self, "freqs"):
            frequencies = (2 * math.pi * self.freqs).float()
        else:
            frequencies = (1 / 10000) ** (torch.arange(self.half, dtype=torch.float64) / (self.half - 1))
        # Single precision here decides on what angle is meant.
        angles = (noise.float()[:, None] * frequencies.float()).to(noise.dtype)
        return torch.cat([angles.sin(), angles.cos()], dim=1)


class Song(nn.Module):
    def __init__(
        self, resolution, channels, model_channels, channel_mult, num_blocks, attn_resolutions=(), label_dim=0,
        augment_dim=0, fourier=False, channel_mult_noise=1, encoder="standard", decoder="standard", taps=(1, 1),
    ):  # fmt: skip
        super().__init__()
        self.encoder, self.decoder, self.taps, self.label_dim = encoder, decoder, taps, label_dim
        waves, emb = model_channels * channel_mult_noise, 4 * model_channels
        self.map_noise = Map(waves, fourier)
        if label_dim:
            self.map_label = nn.Linear(label_dim, waves)
        if augment_dim:
            self.map_augment = nn.Linear(augment_dim, waves, bias=False)
        self.map_layer0, self.map_layer1 = nn.Linear(waves, emb), nn.Linear(emb, emb)
        self.enc, self.dec = nn.ModuleDict(), nn.ModuleDict()
        name = lambda level: f"{resolution >> level}x{resolution >> level}"
        attends = lambda level: int(resolution >> level in attn_resolutions)
        self.enc[name(0) + "_conv"] = nn.Conv2d(channels, model_channels, 3, padding=1)
        c, caux, kept = model_channels, channels, [model_channels]
        for level, mult in enumerate(channel_mult):
            if level > 0:
                self.enc[name(level) + "_down"] = Block(c, c, emb, taps, "down")
                kept.append(c)
                if encoder == "skip":
                    self.enc[name(level) + "_aux_skip"] = nn.Conv2d(caux, c, 1)
                if encoder == "residual":
                    self.enc[name(level) + "_aux_residual"] = Branch(caux, c, taps)
                    caux = c
            for i in range(num_blocks):
                self.enc[f"{name(level)}_block{i}"] = Block(c, model_channels * mult, emb, heads=attends(level))
                c = model_channels * mult
                kept.append(c)
        for level in reversed(range(len(channel_mult))):
            if level == len(channel_mult) - 1:
                self.dec[name(level) + "_in0"] = Block(c, c, emb, heads=1)
                self.dec[name(level) + "_in1"] = Block(c, c, emb)
            else:
                self.dec[name(level) + "_up"] = Block(c, c, emb, taps, "up")
            for i in range(num_blocks + 1):
                cin, c = c + kept.pop(), model_channels * channel_mult[level]
                heads = attends(level) if i == num_blocks else 0
                self.dec[f"{name(level)}_block{i}"] = Block(cin, c, emb, heads=heads)
            if decoder == "skip" or level == 0:
                self.dec[name(level) + "_aux_norm"] = norm(c)
                self.dec[name(level) + "_aux_conv"] = nn.Conv2d(c, channels, 3, padding=1)

    def embed(self, noise, labels, augment):
        emb = self.map_noise(noise)
        if labels is not None:
            emb = emb + self.map_label(math.sqrt(self.label_dim) * labels)
        if augment is not None:
            emb = emb + self.map_augment(augment)
        return F.silu(self.map_layer1(F.silu(self.map_layer0(emb))))

    def forward(self, x, noise, labels=None, augment=None):
        emb = self.embed(noise, labels, augment)
        kept, aux = [], x
        for name, module in self.enc.items():
            if "aux_skip" in name:
                aux = halve(aux, self.taps)
                x = kept[-1] = x + module(aux)
            elif "aux_residual" in name:
                x = kept[-1] = aux = SQRT_HALF * (x + module(aux))
            else:
                x = module(x, emb) if isinstance(module, Block) else module(x)
                kept.append(x)
        total = None
        for name, module in self.dec.items():
            if "aux_norm" in name:
                normed = module(x)
            elif "aux_conv" in name:
                out = module(F.silu(normed))
                total = out if total is None else double(total, self.taps) + out
            else:
                x = module(torch.cat([x, kept.pop()], dim=1) if "block" in name else x, emb)
        return total


class Denoiser(nn.Module):
    """c_skip x + c_out F(c_in x, c_noise), EDM's table 1."""

    def __init__(self, kind, model):
        super().__init__()
        self.kind, self.model = kind, model

    def coefficients(self, sigma):
        if self.kind == "vp":
            time = ((BETA_MIN**2 + 2 * BETA_D * (1 + sigma**2).log()).sqrt() - BETA_MIN) / BETA_D
            return 1, -sigma, 1 / (1 + sigma**2).sqrt(), (VP_STEPS - 1) * time
        if self.kind == "ve":
            return 1, sigma, torch.ones_like(sigma), (0.5 * sigma).log()
        total = sigma**2 + SIGMA_DATA**2
        return SIGMA_DATA**2 / total, SIGMA_DATA * sigma / total.sqrt(), 1 / total.sqrt(), sigma.log() / 4

    def forward(self, x, sigma, **conditions):
        over = lambda values: values[:, None, None, None] if torch.is_tensor(values) else values
        c_skip, c_out, c_in, c_noise = self.coefficients(sigma)
        return over(c_skip) * x + over(c_out) * self.model(over(c_in) * x, c_noise, **conditions)

    def loss(self, denoised, x0, sigma):
        c_out = self.coefficients(sigma)[1]
        return (((denoised - x0) ** 2).sum(dim=(1, 2, 3)) / c_out**2).mean()


# Fixtures


def sketch(loss, module):
    names, parameters = zip(*module.named_parameters())
    gradients = dict(zip(names, torch.autograd.grad(loss, parameters)))
    row = lambda name, g: [g.norm()] + [(g * hashed(f"{name}/{k}", g.shape)).sum() for k in range(SKETCHES)]
    return torch.tensor([row(name, gradients[name]) for name in names])


NETWORKS = {
    "ddpmpp": (
        "edm",
        [0.05, 0.7, 20],
        dict(channel_mult=[1, 2], num_blocks=1, attn_resolutions=[4], label_dim=3, augment_dim=9),
    ),
    "ncsnpp": (
        "ve",
        [0.05, 2, 60],
        dict(
            channel_mult=[1, 1, 2], num_blocks=1, attn_resolutions=[4], fourier=True, channel_mult_noise=2,
            encoder="residual", taps=[1, 3, 3, 1],
        ),
    ),
    "skip": (
        "vp",
        [0.02, 1, 40],
        dict(channel_mult=[2, 1, 1], num_blocks=1, encoder="skip", decoder="skip", taps=[1, 3, 3, 1]),
    ),
}  # fmt: skip


def network(name):
    kind, sigma, settings = NETWORKS[name]
    denoiser = fill(Denoiser(kind, Song(resolution=8, channels=3, model_channels=16, **settings)).double())
    sigma = torch.tensor(sigma, dtype=torch.float64).float().double()
    given = lambda key, *shape: hashed(f"{name}.{key}", shape).double()
    x0, n = given("x0", 3, 3, 8, 8), given("n", 3, 3, 8, 8)
    conditions = {}
    if "label_dim" in settings:
        conditions = {"labels": given("labels", 3, 3), "augment": given("augment", 3, 9)}
    denoised = denoiser(x0 + sigma[:, None, None, None] * n, sigma, **conditions)
    loss = denoiser.loss(denoised, x0, sigma)
    results = {"sigma": sigma, "denoised": denoised, "loss": loss, "sketch": sketch(loss, denoiser)}
    return {f"{name}.{key}": value for key, value in results.items()}


BLOCKS = {
    "adaptive": dict(cin=8, cout=16, heads=2, adaptive=True, resample="down", taps=[1, 3, 3, 1]),
    "up": dict(cin=16, cout=16, heads=4, resample="up", taps=[1, 1]),
    "same": dict(cin=16, cout=16, heads=0, adaptive=True),
}


def block(name):
    settings = BLOCKS[name]
    module = fill(Block(emb=12, **settings).double())
    x = hashed(f"{name}.x", (2, settings["cin"], 6, 4)).double()
    y = module(x, hashed(f"{name}.emb", (2, 12)).double())
    loss = (y * hashed(f"{name}.weights", y.shape)).sum()
    return {f"block.{name}.y": y, f"block.{name}.sketch": sketch(loss, module)}


def cifar10():
    model = Song(32, 3, 128, [2, 2, 2], 4, [16], augment_dim=9)
    denoiser = fill(Denoiser("edm", model))
    with torch.no_grad():
        denoised = denoiser(hashed("cifar10.x", (1, 3, 32, 32)), torch.tensor([0.7]))
    count = sum(parameter.numel() for parameter in model.parameters())
    return {"cifar10.parameters": torch.tensor([count // 1000, count % 1000]), "cifar10.denoised": denoised.flatten()[::97]}


def main():
    # One thread: the order of sums, and so the file's bytes, must not depend on the number of cores.
    torch.set_num_threads(1)
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path("tests/fixtures")
    tensors = {}
    for name in NETWORKS:
        tensors.update(network(name))
    for name in BLOCKS:
        tensors.update(block(name))
    tensors.update(cifar10())
    settings = {name: json.dumps({"preconditioning": kind, **s}) for name, (kind, _, s) in NETWORKS.items()}
    write_safetensors(folder / "song.safetensors", tensors, {**settings, "blocks": json.dumps(BLOCKS)})


if __name__ == "__main__":
    main()
