"""Writes tests/fixtures/augment.safetensors: EDM's augmentation in stages, by PyTorch, in float64.

Run from the repository's root, with PyTorch (written with 1.13) and NumPy (Debian: python3-torch):

    python3 tests/reference/make_augment.py [output folder, default tests/fixtures]

For each case: x, uniforms, normals -> y, labels. The draws' meaning is in kernels/augment.wgsl; p is 0.5. The images are:
nothing done, both flips, scaling, rotation, stretching along a turned axis, translation, everything, everything.
"""

import math
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from make_fixtures import write_safetensors

# sym6's scaling filter.
LOW_PASS = torch.tensor([
    0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633,
    0.4910559419267466, 0.787641141030194, 0.3379294217276218, -0.07263752278646252,
    -0.021060292512300564, 0.04472490177066578, 0.0017677118642428036, -0.007800708325034148,
], dtype=torch.float64)
P = 0.5
STD = {"scale": 0.2, "stretch": 0.2, "translate": 0.125}


def homogeneous(rows):
    return torch.tensor(rows, dtype=torch.float64)


def shift(x, y):
    return homogeneous([[1, 0, x], [0, 1, y], [0, 0, 1]])


def scale(x, y):
    return homogeneous([[x, 0, 0], [0, y, 0], [0, 0, 1]])


def turn(angle):
    c, s = math.cos(angle), math.sin(angle)
    return homogeneous([[c, -s, 0], [s, c, 0], [0, 0, 1]])


def parameters(u, z, width, height):
    """Labels, the inverse transform about the centre, and the flips of one image."""
    flip_x, flip_y = u[0] >= 0.5, u[1] >= 0.5 and u[2] < P
    log_scale = z[0] if u[3] < P else 0.0
    angle = math.pi * (2 * u[4] - 1) if u[5] < P else 0.0
    log_stretch = z[1] if u[7] < P else 0.0
    axis = math.pi * (2 * u[6] - 1) if u[8] < 0.5 else 0.0
    tx, ty = (z[2], z[3]) if u[9] < P else (0.0, 0.0)
    labels = [flip_x, flip_y, log_scale, math.cos(angle) - 1, math.sin(angle)]
    labels += [log_stretch * math.cos(axis), log_stretch * math.sin(axis), tx, ty]
    s, a = 2 ** (STD["scale"] * log_scale), 2 ** (STD["stretch"] * log_stretch)
    forward = shift(STD["translate"] * width * tx, STD["translate"] * height * ty)
    forward = forward @ turn(axis).inverse() @ scale(a, 1 / a) @ turn(axis) @ turn(angle).inverse() @ scale(s, s)
    return [float(v) for v in labels], forward.inverse(), flip_x, flip_y


def filtered(x, taps, axis, **options):
    weight = taps.reshape((1, 1, 12, 1) if axis == 2 else (1, 1, 1, 12)).expand(x.shape[1], 1, -1, -1)
    return F.conv2d(x, weight.reshape(x.shape[1], 1, *weight.shape[2:]), groups=x.shape[1], **options)


def upsampled(x, axis):
    spread = torch.stack([x, torch.zeros_like(x)], dim=axis + 1).flatten(axis, axis + 1)
    spread = spread.narrow(axis, 0, spread.shape[axis] - 1)
    return filtered(spread, LOW_PASS.flip(0), axis, padding=(6, 0) if axis == 2 else (0, 6))


def downsampled(x, axis):
    options = {"stride": (2, 1), "padding": (5, 0)} if axis == 2 else {"stride": (1, 2), "padding": (0, 5)}
    y = filtered(x, LOW_PASS, axis, **options)
    return y.narrow(axis, 3, y.shape[axis] - 6)


def transformed(image, inverse):
    """One image [1, C, H, W]."""
    height, width = image.shape[2:]
    image = F.pad(image, [width - 1, width - 1, height - 1, height - 1], mode="reflect")
    image = upsampled(upsampled(image, 3), 2)
    fine = shift(-0.5, -0.5) @ scale(2, 2) @ inverse @ scale(0.5, 0.5) @ shift(0.5, 0.5)
    shape = [1, image.shape[1], 2 * (height + 6), 2 * (width + 6)]
    theta = scale(2 / image.shape[3], 2 / image.shape[2]) @ fine @ scale(shape[3] / 2, shape[2] / 2)
    grid = F.affine_grid(theta[None, :2], shape, align_corners=False)
    samples = F.grid_sample(image, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return downsampled(downsampled(samples, 3), 2)


def case(rng, channels, height, width):
    count = 8
    x = torch.from_numpy(rng.standard_normal((count, channels, height, width)).astype("f4")).double()
    # "Whether" numbers above P: nothing is done; those of an image's own change are below.
    u = rng.uniform(0.55, 0.95, (count, 10))
    u[:, [4, 6]] = rng.uniform(0, 1, (count, 2))
    for image, on in enumerate([[], [2], [3], [5], [7, 8], [9], [2, 3, 5, 7, 8, 9], [3, 5, 7, 9]]):
        u[image, on] = rng.uniform(0.05, 0.45, len(on))
        u[image, 0] = 0.9 if image % 2 else 0.1
    z = 1.5 * rng.standard_normal((count, 4))
    u, z = u.astype("f4").astype("f8"), z.astype("f4").astype("f8")
    results, labels = [], []
    for n in range(count):
        own, inverse, flip_x, flip_y = parameters(u[n], z[n], width, height)
        image = x[n : n + 1]
        image = image.flip(3) if flip_x else image
        image = image.flip(2) if flip_y else image
        results.append(transformed(image, inverse))
        labels.append(own)
    return {"x": x, "uniforms": torch.from_numpy(u), "normals": torch.from_numpy(z), "y": torch.cat(results),
            "labels": torch.tensor(labels, dtype=torch.float64)}


def main():
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "tests/fixtures")
    rng = np.random.default_rng(4)
    tensors = {}
    for name, shape in {"rgb": (3, 8, 8), "grey": (1, 5, 12)}.items():
        tensors.update({f"{name}.{key}": value for key, value in case(rng, *shape).items()})
    write_safetensors(folder / "augment.safetensors", tensors, {"p": str(P)})


if __name__ == "__main__":
    main()
