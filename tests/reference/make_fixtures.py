"""Writes the PyTorch fixtures of tests/fixtures/, against which ops, networks, losses and gradients are tested.

Run from the repository's root, with PyTorch (written with 1.13) and NumPy (Debian: python3-torch):

    python3 tests/reference/make_fixtures.py [output folder, default tests/fixtures]

It takes a few seconds on one core and prints every file's keys and shapes; the same versions give the same bytes.

Conventions. Images are NCHW, convolution weights OIHW, linear weights [out, in]. Inputs and parameters are drawn as
float32, everything is then computed in float64 from exactly those values, and results are rounded to float32 once, on
writing. Every tensor is float32, labels and counts included. Each file's metadata states its settings.

unet.safetensors        param.* x sigma n -> denoised, loss, grad.*; adam.*: the parameters after one Adam step.
                        denoised = D(x + sigma n, sigma). The key third of mid.block0.qkv.bias has a gradient that is
                        zero in exact arithmetic (the softmax ignores it) and rounding noise in float32, which Adam
                        turns into a full step: feed Adam grad.* rather than float32 gradients, or skip that third.
classifier.safetensors  param.* x sigma -> logit = classifier(c_in x, ln(sigma) / 4), loss, grad.*; x is noisy already.
                        Rows 0, 1 real, 2, 3 fake: loss = mean softplus(-logit_real) + mean softplus(logit_fake).
distill.safetensors     gen.* fake.* teacher.* cls.* z n sigma -> x, xt, logit, r, d_fake, d_teacher, normaliser and,
                        for h in kl and jeffreys, c.h (batch mean 1), g.h and grad.h.*, the generator's gradients.
                        dx.*: what other objectives give at x (see objective_gradients).
ops.safetensors         single ops: <case>.<operand>, cotangents dy, gradients d<operand>.
heun.safetensors        z -> x0 by EDM's deterministic sampler, on the network of unet.safetensors.
"""

import json
import math
import struct
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

IMG_CHANNELS = 1
RESOLUTION = 8
CHANNEL_MULT = (1, 2)
NUM_BLOCKS = 1
SIGMA_DATA = 0.5
NORM_EPS = 1e-6
SQRT_HALF = math.sqrt(0.5)


# Networks


def group_norm(channels):
    return nn.GroupNorm(min(32, channels // 4), channels, eps=NORM_EPS)


def conv3x3(cin, cout, stride=1):
    return nn.Conv2d(cin, cout, 3, stride=stride, padding=1)


class Block(nn.Module):
    """Residual block with the embedding added after the first convolution, optionally followed by self-attention."""

    def __init__(self, cin, cout, emb_channels, attention=False):
        super().__init__()
        self.norm0 = group_norm(cin)
        self.conv0 = conv3x3(cin, cout)
        self.affine = nn.Linear(emb_channels, cout)
        self.norm1 = group_norm(cout)
        self.conv1 = conv3x3(cout, cout)
        self.skip = nn.Conv2d(cin, cout, 1) if cin != cout else None
        self.attention = attention
        if attention:
            self.norm2 = group_norm(cout)
            self.qkv = nn.Conv2d(cout, 3 * cout, 1)
            self.proj = nn.Conv2d(cout, cout, 1)

    def forward(self, x, emb):
        h = self.conv0(F.silu(self.norm0(x)))
        h = h + self.affine(emb)[:, :, None, None]
        h = self.conv1(F.silu(self.norm1(h)))
        x = (h + (x if self.skip is None else self.skip(x))) * SQRT_HALF
        if self.attention:
            q, k, v = self.qkv(self.norm2(x)).flatten(2).chunk(3, dim=1)
            x = (x + self.proj(attend(q, k, v).reshape(x.shape))) * SQRT_HALF
        return x


def attend(q, k, v):
    """Attention over channel-first q [N, C, queries], k and v [N, C, keys] -> [N, C, queries]."""
    scores = q.transpose(1, 2) @ k / math.sqrt(q.shape[1])
    return v @ scores.softmax(dim=2).transpose(1, 2)


class Trunk(nn.Module):
    """What the UNet and the classifier share: noise embedding, encoder, middle."""

    def __init__(self, model_channels):
        super().__init__()
        self.model_channels = model_channels
        self.emb_channels = 2 * model_channels
        self.map_layer0 = nn.Linear(model_channels, self.emb_channels)
        self.map_layer1 = nn.Linear(self.emb_channels, self.emb_channels)

        self.enc = nn.ModuleDict({f"{RESOLUTION}x{RESOLUTION}_conv": conv3x3(IMG_CHANNELS, model_channels)})
        channels = model_channels
        self.skip_channels = [channels]
        for level, mult in enumerate(CHANNEL_MULT):
            size = RESOLUTION >> level
            if level > 0:
                self.enc[f"{size}x{size}_down"] = conv3x3(channels, channels, stride=2)
                self.skip_channels.append(channels)
            for j in range(NUM_BLOCKS):
                self.enc[f"{size}x{size}_block{j}"] = Block(channels, model_channels * mult, self.emb_channels)
                channels = model_channels * mult
                self.skip_channels.append(channels)

        self.mid = nn.ModuleDict(
            {
                "block0": Block(channels, channels, self.emb_channels, attention=True),
                "block1": Block(channels, channels, self.emb_channels),
            }
        )
        self.channels = channels

    def embed(self, c_noise):
        half = self.model_channels // 2
        frequencies = (1 / 10000) ** (torch.arange(half, dtype=c_noise.dtype) / (half - 1))
        angles = c_noise[:, None] * frequencies
        emb = torch.cat([angles.sin(), angles.cos()], dim=1)
        return F.silu(self.map_layer1(F.silu(self.map_layer0(emb))))

    def encode(self, x, emb):
        """The middle's output and the stack of skip connections, one per encoder module."""
        skips = []
        for module in self.enc.values():
            x = module(x, emb) if isinstance(module, Block) else module(x)
            skips.append(x)
        for block in self.mid.values():
            x = block(x, emb)
        return x, skips


class UNet(Trunk):
    """The raw network F(c_in x, c_noise) of EDM: x [N, 1, 8, 8], c_noise [N] -> [N, 1, 8, 8]."""

    def __init__(self, model_channels):
        super().__init__(model_channels)
        channels, skip_channels = self.channels, list(self.skip_channels)
        self.dec = nn.ModuleDict()
        for level, mult in reversed(list(enumerate(CHANNEL_MULT))):
            size = RESOLUTION >> level
            for j in range(NUM_BLOCKS + 1):
                cin = channels + skip_channels.pop()
                channels = model_channels * mult
                self.dec[f"{size}x{size}_block{j}"] = Block(cin, channels, self.emb_channels)
            if level > 0:
                self.dec[f"{2 * size}x{2 * size}_up"] = conv3x3(channels, channels)
        self.out = nn.ModuleDict({"norm": group_norm(channels), "conv": conv3x3(channels, IMG_CHANNELS)})

    def forward(self, x, c_noise):
        emb = self.embed(c_noise)
        x, skips = self.encode(x, emb)
        for module in self.dec.values():
            if isinstance(module, Block):
                x = module(torch.cat([x, skips.pop()], dim=1), emb)
            else:
                x = module(F.interpolate(x, scale_factor=2, mode="nearest"))
        return self.out["conv"](F.silu(self.out["norm"](x)))


class Classifier(Trunk):
    """Time-conditional logit of "real": x [N, 1, 8, 8], c_noise [N] -> [N]."""

    def __init__(self, model_channels):
        super().__init__(model_channels)
        self.head = nn.ModuleDict({"norm": group_norm(self.channels), "linear": nn.Linear(self.channels, 1)})

    def forward(self, x, c_noise):
        x, _ = self.encode(x, self.embed(c_noise))
        return self.head["linear"](F.silu(self.head["norm"](x)).mean(dim=(2, 3)))[:, 0]


# EDM (Karras et al. 2022, table 1)


def per_sample(values):
    """[N] -> [N, 1, 1, 1], to broadcast over CHW."""
    return values[:, None, None, None]


def c_in(sigma):
    return 1 / (sigma**2 + SIGMA_DATA**2).sqrt()


def c_noise(sigma):
    return sigma.log() / 4


def denoise(net, xt, sigma):
    """D(xt, sigma) = c_skip xt + c_out F(c_in xt, c_noise), sigma [N]."""
    c_skip = SIGMA_DATA**2 / (sigma**2 + SIGMA_DATA**2)
    c_out = sigma * SIGMA_DATA * c_in(sigma)
    return per_sample(c_skip) * xt + per_sample(c_out) * net(per_sample(c_in(sigma)) * xt, c_noise(sigma))


def classify(net, xt, sigma):
    return net(per_sample(c_in(sigma)) * xt, c_noise(sigma))


def edm_loss(denoised, x, sigma):
    """Sum over CHW, mean over the batch."""
    weight = (sigma**2 + SIGMA_DATA**2) / (sigma * SIGMA_DATA) ** 2
    return (per_sample(weight) * (denoised - x) ** 2).sum(dim=(1, 2, 3)).mean()


def heun_sigmas(steps, sigma_min, sigma_max, rho):
    ramp = torch.arange(steps, dtype=torch.float64) / (steps - 1)
    sigmas = (sigma_max ** (1 / rho) + ramp * (sigma_min ** (1 / rho) - sigma_max ** (1 / rho))) ** rho
    return torch.cat([sigmas, sigmas.new_zeros(1)])


def heun_sample(net, z, sigmas):
    """Deterministic second-order sampler (EDM's algorithm 1); returns the images and the evaluations an image."""
    evaluations = 0

    def slope(x, sigma):
        nonlocal evaluations
        evaluations += 1
        return (x - denoise(net, x, sigma.expand(len(x)))) / sigma

    x = z * sigmas[0]
    for sigma, following in zip(sigmas[:-1], sigmas[1:]):
        d = slope(x, sigma)
        euler = x + (following - sigma) * d
        if following > 0:
            euler = x + (following - sigma) * (d + slope(euler, following)) / 2
        x = euler
    return x, evaluations


# Random values and files


def normal(rng, *shape):
    """Normal float64 values that float32 represents exactly."""
    return exact(rng.standard_normal(shape))


def exact(values):
    """Numbers or a tensor, as float64 values that float32 represents exactly."""
    return torch.as_tensor(values).float().double()


def randomise(net, rng):
    """Moderate random parameters with nothing zero, so that every path carries a gradient."""
    for module in net.modules():
        weight = getattr(module, "weight", None)
        if weight is None:
            continue
        noise = normal(rng, *weight.shape)
        is_gamma = isinstance(module, nn.GroupNorm)
        weight.data = exact(1 + 0.1 * noise if is_gamma else noise / math.sqrt(weight[0].numel()))
        module.bias.data = exact(0.1 * normal(rng, *module.bias.shape))
    return net


def prefixed(prefix, named):
    return {f"{prefix}.{name}": tensor for name, tensor in named}


def gradients(loss, net):
    names, parameters = zip(*net.named_parameters())
    return list(zip(names, torch.autograd.grad(loss, parameters, retain_graph=True)))


def write_safetensors(path, tensors, metadata):
    """Header length (u64, little-endian), JSON header padded to 8 bytes, then the tensors' bytes in order."""
    header, data = {"__metadata__": metadata}, []
    offset = 0
    for name, tensor in tensors.items():
        array = tensor.detach().numpy().astype("<f4")
        if not np.isfinite(array).all():
            raise ValueError(f"{path.name}: {name} is not finite.")
        end = offset + array.nbytes
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [offset, end]}
        data.append(array.tobytes())
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(data))

    print(f"\n{path.name}: {path.stat().st_size} bytes, {len(tensors)} tensors, {metadata}")
    for name, tensor in tensors.items():
        print(f"  {name} {list(tensor.shape)}")


def network_settings(model_channels):
    return {
        "img_channels": str(IMG_CHANNELS),
        "resolution": str(RESOLUTION),
        "model_channels": str(model_channels),
        "channel_mult": json.dumps(CHANNEL_MULT),
        "num_blocks": str(NUM_BLOCKS),
        "sigma_data": str(SIGMA_DATA),
        "norm_eps": str(NORM_EPS),
    }


# Fixtures

UNET_CHANNELS = 16
SMALL_CHANNELS = 8


def unet_fixture_network():
    return randomise(UNet(UNET_CHANNELS), np.random.default_rng(1))


def unet_fixture(folder):
    net, rng = unet_fixture_network(), np.random.default_rng(2)
    lr, betas, eps = 1e-3, (0.9, 0.999), 1e-8
    x, n = (normal(rng, 3, IMG_CHANNELS, RESOLUTION, RESOLUTION) for _ in range(2))
    x = exact(0.5 * x)
    sigma = exact([0.05, 0.6, 5.0])

    denoised = denoise(net, x + per_sample(sigma) * n, sigma)
    loss = edm_loss(denoised, x, sigma)
    tensors = prefixed("param", [(name, p.detach().clone()) for name, p in net.named_parameters()])
    tensors.update({"x": x, "sigma": sigma, "n": n, "denoised": denoised, "loss": loss})
    tensors.update(prefixed("grad", gradients(loss, net)))

    optimizer = torch.optim.Adam(net.parameters(), lr=lr, betas=betas, eps=eps)
    loss.backward()
    optimizer.step()
    tensors.update(prefixed("adam", net.named_parameters()))
    adam = {"lr": str(lr), "beta1": str(betas[0]), "beta2": str(betas[1]), "eps": str(eps)}
    write_safetensors(folder / "unet.safetensors", tensors, {**network_settings(UNET_CHANNELS), **adam})


def classifier_fixture(folder):
    rng = np.random.default_rng(3)
    net = randomise(Classifier(SMALL_CHANNELS), rng)
    x, sigma = normal(rng, 4, IMG_CHANNELS, RESOLUTION, RESOLUTION), exact([0.1, 1.5, 0.4, 6.0])

    logit = classify(net, x, sigma)
    loss = F.softplus(-logit[:2]).mean() + F.softplus(logit[2:]).mean()
    tensors = prefixed("param", net.named_parameters())
    tensors.update({"x": x, "sigma": sigma, "logit": logit, "loss": loss})
    tensors.update(prefixed("grad", gradients(loss, net)))
    write_safetensors(folder / "classifier.safetensors", tensors, network_settings(SMALL_CHANNELS))


def objective_gradients(x, n, sigma, fake, teacher, cls, c):
    """dx.*: gradients at the generator's images of SiD's loss (alpha = 1), through both denoisers, with DMD's normaliser
    and with w = sigma^2; of what fools each kind of classifier; and of -sigma^2 c l, the score-free form, c = jeffreys'."""
    x.requires_grad_()
    batch = len(x)
    xt = x + per_sample(sigma) * n
    d_fake, d_teacher, f = denoise(fake, xt, sigma), denoise(teacher, xt, sigma), classify(cls, xt, sigma)
    sid = ((d_teacher - d_fake) * (d_fake - x)).sum(dim=(1, 2, 3))
    normaliser = (x - d_teacher).abs().mean(dim=(1, 2, 3)).detach()
    losses = {
        "sid.dmd": (sid / normaliser).mean(),
        "sid.sigma2": sid.mean(),
        "adversarial.logistic": F.softplus(-f).mean(),
        "adversarial.least-squares": 0.5 * ((f - 1) ** 2).mean(),
        "adversarial.hinge": -f.mean(),
        "classifier": -(c / c.mean() * sigma**2 * f).mean(),
    }
    return {f"dx.{name}": torch.autograd.grad(loss, x, retain_graph=True)[0] for name, loss in losses.items()}


def distill_fixture(folder):
    """One generator gradient in DMD's normalised form; c(r) = h''(r) r is 1 for kl and 1 + 1/r for jeffreys."""
    rng, batch = np.random.default_rng(4), 5
    sigma_init, logit_clamp, ratio_min, ratio_max, epsilon = 2.5, 10.0, 0.05, 10.0, 1e-8
    gen, fake, teacher = (randomise(UNet(SMALL_CHANNELS), rng) for _ in range(3))
    cls = randomise(Classifier(SMALL_CHANNELS), rng)
    # A random head's logits lie within 1 of each other, off zero; spread and centre them so that both ratio clips act.
    cls.head["linear"].weight.data *= 16
    cls.head["linear"].bias.data = exact([6.5])
    z, n = (normal(rng, batch, IMG_CHANNELS, RESOLUTION, RESOLUTION) for _ in range(2))
    sigma = exact([0.1, 0.4, 1.0, 3.0, 12.0])

    x = denoise(gen, sigma_init * z, torch.full((batch,), sigma_init, dtype=torch.float64))
    with torch.no_grad():
        xt = x + per_sample(sigma) * n
        logit = classify(cls, xt, sigma)
        r = (-logit.clamp(-logit_clamp, logit_clamp)).exp().clamp(ratio_min, ratio_max)
        d_fake, d_teacher = denoise(fake, xt, sigma), denoise(teacher, xt, sigma)
        normaliser = (x - d_teacher).abs().mean(dim=(1, 2, 3)) + epsilon
    if not ((r == ratio_min).any() and (r == ratio_max).any() and ((r > ratio_min) & (r < ratio_max)).sum() >= 2):
        raise ValueError(f"The ratios {r.tolist()} do not cover both clips and the range between.")

    tensors = {}
    for prefix, net in {"gen": gen, "fake": fake, "teacher": teacher, "cls": cls}.items():
        tensors.update(prefixed(prefix, net.named_parameters()))
    tensors.update({"z": z, "n": n, "sigma": sigma, "x": x, "xt": xt, "logit": logit, "r": r})
    tensors.update({"d_fake": d_fake, "d_teacher": d_teacher, "normaliser": normaliser})
    for name, c in {"kl": torch.ones_like(r), "jeffreys": 1 + 1 / r}.items():
        c = c / c.mean()
        g = per_sample(c / normaliser) * (d_fake - d_teacher) / batch
        tensors.update({f"c.{name}": c, f"g.{name}": g})
        tensors.update(prefixed(f"grad.{name}", gradients((x * g).sum(), gen)))
    tensors.update(objective_gradients(x.detach(), n, sigma, fake, teacher, cls, 1 + 1 / r))
    settings = {
        "sigma_init": str(sigma_init),
        "logit_clamp": str(logit_clamp),
        "ratio_min": str(ratio_min),
        "ratio_max": str(ratio_max),
        "epsilon": str(epsilon),
    }
    write_safetensors(folder / "distill.safetensors", tensors, {**network_settings(SMALL_CHANNELS), **settings})


def op_case(rng, op, operands, fixed=()):
    """The operands, y = op(operands), a random cotangent dy and the gradient of every operand not in `fixed`."""
    leaves = {name: t.clone().requires_grad_(name not in fixed) for name, t in operands.items()}
    y = op(**leaves)
    dy = normal(rng, *y.shape)
    wanted = [name for name in leaves if name not in fixed]
    grads = torch.autograd.grad(y, [leaves[name] for name in wanted], dy)
    return {**operands, "y": y, "dy": dy, **{f"d{name}": grad for name, grad in zip(wanted, grads)}}


def ops_fixture(folder):
    rng, tensors = np.random.default_rng(5), {}
    groups = 2

    def add(name, op, operands, fixed=()):
        tensors.update(prefixed(name, op_case(rng, op, operands, fixed).items()))

    for name, kernel, stride in (("conv3s1", 3, 1), ("conv3s2", 3, 2), ("conv1x1", 1, 1)):
        operands = {"x": normal(rng, 2, 3, 7, 5), "w": normal(rng, 4, 3, kernel, kernel), "b": normal(rng, 4)}
        add(name, lambda x, w, b: F.conv2d(x, w, b, stride=stride, padding=kernel // 2), operands)
    add(
        "group_norm_silu",
        lambda x, gamma, beta: F.silu(F.group_norm(x, groups, gamma, beta, eps=NORM_EPS)),
        {"x": exact(0.3 + 2 * normal(rng, 3, 6, 5, 3)), "gamma": normal(rng, 6), "beta": normal(rng, 6)},
    )
    # Channel-first, queries and keys of different number; scale 1/sqrt(C).
    add("attention", attend, {"q": normal(rng, 2, 6, 7), "k": normal(rng, 2, 6, 10), "v": normal(rng, 2, 6, 10)})
    add("softmax", lambda x: F.softmax(x, dim=1), {"x": exact(3 * normal(rng, 5, 11))})
    add(
        "cross_entropy",
        lambda logits, labels: F.cross_entropy(logits, labels.long(), reduction="none"),
        {"logits": exact(3 * normal(rng, 5, 11)), "labels": exact([0, 10, 3, 7, 3])},
        fixed=("labels",),
    )
    operands = {"x": normal(rng, 5, 7), "w": normal(rng, 3, 7), "b": normal(rng, 3)}
    add("linear", lambda x, w, b: F.linear(x, w, b), operands)
    settings = {"norm_eps": str(NORM_EPS), "group_norm_groups": str(groups)}
    write_safetensors(folder / "ops.safetensors", tensors, settings)


def heun_fixture(folder):
    net = unet_fixture_network()
    steps, sigma_min, sigma_max, rho = 18, 0.002, 80.0, 7.0
    z = normal(np.random.default_rng(6), 2, IMG_CHANNELS, RESOLUTION, RESOLUTION)
    sigmas = heun_sigmas(steps, sigma_min, sigma_max, rho)
    with torch.no_grad():
        x0, evaluations = heun_sample(net, z, sigmas)
    settings = {"steps": str(steps), "sigma_min": str(sigma_min), "sigma_max": str(sigma_max), "rho": str(rho)}
    tensors = {"z": z, "sigmas": sigmas, "x0": x0, "evaluations": torch.tensor([evaluations])}
    write_safetensors(folder / "heun.safetensors", tensors, {**network_settings(UNET_CHANNELS), **settings})


def main():
    # One thread: the order of float64 sums, and so the files' bytes, must not depend on the number of cores.
    torch.set_num_threads(1)
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path("tests/fixtures")
    folder.mkdir(parents=True, exist_ok=True)
    for build in (UNet, Classifier):
        for channels in (SMALL_CHANNELS, UNET_CHANNELS, 32):
            count = sum(p.numel() for p in build(channels).parameters())
            print(f"{build.__name__}, {channels} channels: {count} parameters")
    for make in (unet_fixture, classifier_fixture, distill_fixture, ops_fixture, heun_fixture):
        make(folder)


if __name__ == "__main__":
    main()
