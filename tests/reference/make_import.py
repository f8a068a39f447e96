"""Writes tests/fixtures/import/: files of PyTorch and EDM in every form the import reads, and what they hold.

Run from the repository's root, with PyTorch (written with 1.13) and NumPy (Debian: python3-torch):

    python3 tests/reference/make_import.py [output folder, default tests/fixtures/import]

It takes a second. Legacy streams, also those inside pickles, name their storages by addresses in memory: their bytes
differ from run to run, what they hold does not.

plain_p0.pkl … p5     the data of plain() by Python's pickle, protocols 0 to 5

tensors.safetensors   what all of the next hold, as PyTorch converts it to float32
zip.pt                torch.save, protocol 2, stored entries
zip_p5.pt             the same, protocol 5
deflated.pt           zip.pt packed again with deflate
big_endian.pt         zip.pt as PyTorch 2.1 writes it on a big-endian machine
legacy.pth            a checkpoint with epoch, optimizer and so on around the state_dict, as PyTorch wrote it before 1.6
pickle_p2.pkl … p5    the state_dict through Python's pickle, protocols 2 to 5
foreign.safetensors   some of the tensors in their own types and without a checksum, as Hugging Face's library writes them

edm.safetensors       the state_dict of a network of EDM's layout: EDMPrecond around an NCSN++-like SongUNet
edm.pkl               its snapshot, protocol 4
vp.safetensors        the same for VPPrecond around a DDPM++-like one with labels
vp.pkl                protocol 2, arguments given by place
edm_training.pt       a training's dump: torch.save of network and optimizer
"""

import io
import pickle
import struct
import sys
import types
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from make_fixtures import write_safetensors
from torch import nn

THIRD = 1 / 3


# Plain data


def plain():
    integers = [0, -2, 255, 65535, 70000, -(2**40), 2**70, -(2**70)]
    data = {
        "numbers": [*integers, 1.5, float("-inf"), None, True, False],
        "tuples": (1, (2, 3), (1, 2, 3, 4), ()),
        "sets": [{7}, frozenset([3])],
        "bytes": [b"\x00\xff", b"", bytearray(b"\x80")],
        "text": "\u00e4\u20ac\U0001f600\n\\",
        "long": "y" * 300,
        "inner": OrderedDict([(1, "x"), ("y", {})]),
    }
    data["again"] = data["tuples"]
    return data


# Tensors


def state_dict():
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6) / 7
    shared = torch.arange(8, dtype=torch.float32) - THIRD
    state = OrderedDict(
        f32=torch.tensor([[1, -2, THIRD], [1e-40, 3e38, -0.0]]),
        f64=torch.tensor([THIRD, 1e-50, -1e30], dtype=torch.float64),
        f16=torch.tensor([THIRD, 6e-8, -65504, 1e-5], dtype=torch.float16),
        bf16=torch.tensor([THIRD, 1e-40, -3e38, 256.5], dtype=torch.bfloat16),
        i64=torch.tensor([-(2**40), 123456]),
        i32=torch.tensor([[-7], [2**31 - 1]], dtype=torch.int32),
        i16=torch.tensor([-32768, 5], dtype=torch.int16),
        i8=torch.tensor([-128, 127], dtype=torch.int8),
        u8=torch.tensor([0, 255], dtype=torch.uint8),
        flags=torch.tensor([True, False, True]),
        transposed=base.t(),
        strided=base[1:, ::2],
        half_strided=base.half().t()[2:],
        shared_a=shared[2:],
        shared_b=shared[:6].reshape(2, 3),
        expanded=torch.tensor([[1.5], [2.5]]).expand(2, 3),
        scalar=torch.tensor(0.25),
        empty=torch.zeros(0, 3),
        parameter=nn.Parameter(base[0].clone()),
    )
    state["block.0.weight"] = base[2]
    state._metadata = OrderedDict(version=1)  # as Module.state_dict does
    return state


def floats(state):
    return {name: tensor.detach().float().contiguous() for name, tensor in state.items()}


def checkpoint(state):
    """What training scripts keep beside a state_dict."""
    return {
        "epoch": 3,
        "best": np.float64(91.25),
        "args": {"shape": torch.Size([4, 6]), "device": torch.device("cpu"), "dtype": torch.float16, "tags": {"a"}},
        "state_dict": state,
        "optimizer": {"state": {0: {"step": torch.tensor(5.0), "exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]},
    }


def saved(value, **options):
    file = io.BytesIO()
    torch.save(value, file, **options)
    return file.getvalue()


def deflated(archive):
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(zipfile.ZipInfo(name), old.read(name), zipfile.ZIP_DEFLATED)
    return file.getvalue()


def big_endian(archive, state):
    """The storages' keys count up in the order of the tensors, each storage once."""
    widths = {}
    for tensor in state.values():
        widths.setdefault(tensor.storage().data_ptr() or id(tensor), tensor.element_size())
    widths = dict(enumerate(widths.values()))
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(file, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            folder, _, key = name.rpartition("/")
            if folder.endswith("/data"):
                content = np.frombuffer(content, f"V{widths[int(key)]}")
                content = content.view("u1").reshape(-1, widths[int(key)])[:, ::-1].tobytes()
            new.writestr(zipfile.ZipInfo(name), content)
        new.writestr(zipfile.ZipInfo(f"{old.namelist()[0].split('/')[0]}/byteorder"), b"big")
    return file.getvalue()


def foreign_safetensors(path, state):
    """A header without a checksum; types that NumPy lacks go through their bits."""
    header, data = [], b""
    for name, kind in [("f64", "F64"), ("i64", "I64"), ("f32", "F32"), ("f16", "F16"), ("bf16", "BF16")]:
        tensor = state[name].contiguous()
        content = (tensor.view(torch.int16) if kind == "BF16" else tensor).numpy().tobytes()
        place = f"[{len(data)},{len(data) + len(content)}]"
        header.append(f'"{name}":{{"dtype":"{kind}","shape":{list(tensor.shape)},"data_offsets":{place}}}')
        data += content
    text = f'{{"__metadata__":{{"format":"pt"}},{",".join(header)}}}'.encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


# EDM


SOURCE = "# the source text of the module stands here; it must never be run\nraise SystemExit(99)\n"


def module_of(name, **content):
    sys.modules[name] = types.ModuleType(name)
    for value in content.values():
        value.__module__ = name
        value.__qualname__ = value.__name__
    sys.modules[name].__dict__.update(content)


def reconstruct(meta):
    raise NotImplementedError


class EasyDict(dict):
    pass


reconstruct.__name__ = "_reconstruct_persistent_obj"
for parent in ["torch_utils", "dnnlib"]:
    module_of(parent)
module_of("torch_utils.persistence", _reconstruct_persistent_obj=reconstruct)
module_of("dnnlib.util", EasyDict=EasyDict)


def persistent(cls):
    """Records a class as EDM's decorator of that name does: arguments, name, source text and state."""

    class Recorded(cls):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self._init_args = args
            self._init_kwargs = kwargs

        def __reduce__(self):
            record = {"type": "class", "version": 6, "module_src": SOURCE, "class_name": cls.__name__}
            return reconstruct, ({**record, "state": self.__dict__},)

    return Recorded


@persistent
class Linear(nn.Module):
    def __init__(self, in_features, out_features, bias=True):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_features, in_features))
        self.bias = nn.Parameter(torch.randn(out_features)) if bias else None


@persistent
class Conv2d(nn.Module):
    def __init__(self, in_channels, out_channels, kernel, down=False):
        super().__init__()
        weight = torch.randn(out_channels, in_channels, kernel, kernel) if kernel else None
        self.weight = nn.Parameter(weight) if kernel else None
        self.bias = nn.Parameter(torch.randn(out_channels)) if kernel else None
        self.register_buffer("resample_filter", torch.full([1, 1, 2, 2], 0.25) if down else None)
        self.register_buffer("scratch", torch.zeros(3), persistent=False)


@persistent
class GroupNorm(nn.Module):
    def __init__(self, num_channels):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(num_channels))
        self.bias = nn.Parameter(torch.randn(num_channels))


@persistent
class UNetBlock(nn.Module):
    def __init__(self, channels, emb_channels, down=False):
        super().__init__()
        self.skip_scale = np.sqrt(0.5)
        self.norm0 = GroupNorm(channels)
        self.conv0 = Conv2d(channels, channels, 3, down=down)
        self.affine = Linear(emb_channels, channels)
        self.skip = Conv2d(channels, channels, 0, down=down) if down else None


@persistent
class PositionalEmbedding(nn.Module):
    def __init__(self, num_channels, endpoint=False):
        super().__init__()


@persistent
class FourierEmbedding(nn.Module):
    def __init__(self, num_channels, scale=16):
        super().__init__()
        self.register_buffer("freqs", torch.randn(num_channels // 2) * scale)


@persistent
class SongUNet(nn.Module):
    def __init__(self, img_resolution, in_channels, out_channels, label_dim=0, model_channels=4, **settings):
        super().__init__()
        fourier = settings.get("embedding_type") == "fourier"
        self.map_noise = (FourierEmbedding if fourier else PositionalEmbedding)(num_channels=model_channels)
        self.map_label = Linear(in_features=label_dim, out_features=model_channels) if label_dim else None
        self.enc = nn.ModuleDict()
        self.enc["8x8_conv"] = Conv2d(in_channels, model_channels, kernel=3)
        self.enc["4x4_down"] = UNetBlock(model_channels, model_channels, down=True)
        self.dec = nn.ModuleDict({"8x8_aux_norm": GroupNorm(num_channels=model_channels)})
        self.dec["8x8_aux_conv"] = Conv2d(model_channels, out_channels, kernel=3)


def precond(name):
    class Precond(nn.Module):
        def __init__(self, img_resolution, img_channels, label_dim=0, use_fp16=False, *numbers, **settings):
            super().__init__()
            settings = {name: value for name, value in settings.items() if name not in ["sigma_data", "model_type"]}
            self.model = SongUNet(img_resolution, img_channels, img_channels, label_dim=label_dim, **settings)

    Precond.__name__ = name
    return persistent(Precond)


@persistent
class EDMLoss:
    def __init__(self, P_mean=-1.2):
        self.P_mean = P_mean
        self.table = np.arange(3.0)


@persistent
class AugmentPipe:
    def __init__(self, p=1):
        self.p = p


def snapshot(network):
    data = EasyDict(class_name="training.dataset.ImageFolderDataset", path="images.zip", use_labels=np.bool_(True))
    return {"ema": network, "loss_fn": EDMLoss(), "augment_pipe": AugmentPipe(p=0.12), "dataset_kwargs": data}


def write_edm(folder):
    torch.manual_seed(1)
    settings = {"model_channels": 4, "channel_mult": [1, np.int64(2)], "embedding_type": "fourier", "dropout": 0.13}
    edm = precond("EDMPrecond")(
        img_resolution=8, img_channels=3, sigma_data=np.float32(0.5), model_type="SongUNet", **settings
    )
    edm.eval().requires_grad_(False)
    write_safetensors(folder / "edm.safetensors", floats(edm.state_dict()), {})
    (folder / "edm.pkl").write_bytes(pickle.dumps(snapshot(edm), protocol=4))
    optimizer = torch.optim.Adam(edm.parameters()).state_dict()
    (folder / "edm_training.pt").write_bytes(saved({"net": edm, "optimizer_state": optimizer}))
    vp = precond("VPPrecond")(8, 1, 10, False, 19.9, 0.1)
    write_safetensors(folder / "vp.safetensors", floats(vp.state_dict()), {})
    (folder / "vp.pkl").write_bytes(pickle.dumps(snapshot(vp), protocol=2))


def main():
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "tests/fixtures/import")
    folder.mkdir(parents=True, exist_ok=True)
    state = state_dict()
    write_safetensors(folder / "tensors.safetensors", floats(state), {})
    archive = saved(state)
    (folder / "zip.pt").write_bytes(archive)
    (folder / "zip_p5.pt").write_bytes(saved(state, pickle_protocol=5))
    (folder / "deflated.pt").write_bytes(deflated(archive))
    (folder / "big_endian.pt").write_bytes(big_endian(archive, state))
    (folder / "legacy.pth").write_bytes(saved(checkpoint(state), _use_new_zipfile_serialization=False))
    for protocol in range(6):
        (folder / f"plain_p{protocol}.pkl").write_bytes(pickle.dumps(plain(), protocol=protocol))
    for protocol in range(2, 6):
        (folder / f"pickle_p{protocol}.pkl").write_bytes(pickle.dumps(state, protocol=protocol))
    foreign_safetensors(folder / "foreign.safetensors", state)
    write_edm(folder)


if __name__ == "__main__":
    main()
