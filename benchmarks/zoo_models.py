"""Other people's models, as they are: torchvision, timm, transformers from configurations, and networks of all kinds.

Every entry builds a model in eval mode with random weights and `rows` samples for it; nothing is downloaded.
"""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

OUTPUTS = 3


class Entry(NamedTuple):
    """A model, its samples, and what of its result are the outputs."""

    model: nn.Module
    x: Any
    outputs: str | None = None


Build = Callable[[int], Entry]

TORCHVISION = {
    "alexnet": 64, "convnext_tiny": 32, "densenet121": 32, "efficientnet_b0": 32, "efficientnet_v2_s": 32,
    "googlenet": 32, "inception_v3": 80, "maxvit_t": 224, "mnasnet0_5": 32, "mobilenet_v2": 32,
    "mobilenet_v3_small": 32, "regnet_x_400mf": 32, "regnet_y_400mf": 32, "resnet18": 32, "resnet50": 32,
    "resnext50_32x4d": 32, "shufflenet_v2_x0_5": 32, "squeezenet1_1": 32, "swin_t": 32, "swin_v2_t": 32,
    "vgg11": 32, "vgg11_bn": 32, "vit_b_16": 32, "wide_resnet50_2": 32,
}  # fmt: skip

TIMM = [
    "beit_base_patch16_224", "botnet26t_256", "cait_xxs24_224", "coatnet_nano_rw_224", "convmixer_768_32",
    "convnextv2_atto", "crossvit_tiny_240", "cspresnet50", "deit3_small_patch16_224",
    "deit_tiny_distilled_patch16_224", "dla34", "eca_nfnet_l0", "edgenext_xx_small", "efficientformer_l1",
    "efficientvit_b0", "eva02_tiny_patch14_224", "fastvit_t8", "focalnet_tiny_srf", "gcresnet33ts", "ghostnet_050",
    "gmlp_s16_224", "halonet26t", "hrnet_w18_small", "inception_next_tiny", "lambda_resnet26t", "levit_128s",
    "mambaout_femto", "mixer_s32_224", "mobileone_s0", "mobilevit_xxs", "mobilevitv2_050", "nf_resnet50", "pit_ti_224",
    "poolformer_s12", "pvt_v2_b0", "repvgg_a0", "res2net50_14w_8s", "resmlp_12_224", "resnest14d",
    "resnetv2_50x1_bit", "rexnet_100", "sequencer2d_s", "skresnet18", "starnet_s1", "swinv2_tiny_window8_256",
    "tinynet_e", "tnt_s_patch16_224", "twins_pcpvt_small", "vit_tiny_patch16_224", "xcit_nano_12_p16_224",
]  # fmt: skip

_TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "num_labels": 3}
_DECODER = _TINY | {"vocab_size": 99, "num_key_value_heads": 2, "pad_token_id": 0}
TRANSFORMERS: dict[str, tuple[str, dict[str, Any]]] = {
    "Albert": ("tokens", _TINY | {"embedding_size": 16}),
    "Bart": ("tokens", {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
             "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "num_labels": 3}),
    "Bert": ("tokens", _TINY),
    "BigBird": ("tokens", _TINY | {"attention_type": "original_full"}),
    "Bloom": ("tokens", {"hidden_size": 32, "n_layer": 2, "n_head": 4, "num_labels": 3, "pad_token_id": 0}),
    "CTRL": ("tokens", {"n_embd": 32, "n_layer": 2, "n_head": 4, "dff": 48, "num_labels": 3, "pad_token_id": 0}),
    "ConvNext": ("images", {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 2, 1], "num_labels": 3}),
    "DebertaV2": ("tokens", _TINY),
    "DistilBert": ("tokens", {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48, "num_labels": 3}),
    "Electra": ("tokens", _TINY | {"embedding_size": 16}),
    "FNet": ("tokens", _TINY),
    "Falcon": ("tokens", _TINY | {"pad_token_id": 0}),
    "Funnel": ("tokens", {"d_model": 32, "block_sizes": [1, 1], "n_head": 4, "d_head": 8, "d_inner": 48,
               "num_labels": 3}),
    "GPT2": ("tokens", {"n_embd": 32, "n_layer": 2, "n_head": 4, "num_labels": 3, "pad_token_id": 0}),
    "GPTNeoX": ("tokens", _TINY | {"pad_token_id": 0}),
    "Gemma": ("tokens", _DECODER | {"head_dim": 8}),
    "Llama": ("tokens", _DECODER),
    "MPNet": ("tokens", _TINY),
    "Mistral": ("tokens", _DECODER),
    "Mixtral": ("tokens", _DECODER | {"num_local_experts": 4}),
    "OPT": ("tokens", {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 48,
            "word_embed_proj_dim": 32, "num_labels": 3, "pad_token_id": 1}),
    "Qwen2": ("tokens", _DECODER),
    "Roberta": ("tokens", _TINY),
    "Swin": ("images", {"image_size": 32, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 4], "window_size": 4,
             "num_labels": 3}),
    "ViT": ("images", _TINY | {"image_size": 32, "patch_size": 8}),
    "XLNet": ("tokens", {"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48, "num_labels": 3}),
}  # fmt: skip
SINGLE = {"Gemma", "Mixtral"}  # these compute some of their layers in float32 whatever the weights' type


def zoo() -> dict[str, dict[str, Build]]:
    """All entries by their family."""
    return {
        "torchvision": {name: _torchvision(name, size) for name, size in TORCHVISION.items()},
        "timm": {name: _timm(name) for name in TIMM},
        "transformers": {name: _transformers(name, *how) for name, how in TRANSFORMERS.items()},
        "own": {name: _own(model, shape) for name, (model, shape) in OWN.items()},
    }


def _torchvision(name: str, size: int) -> Build:
    def build(rows: int) -> Entry:
        import torchvision

        more = {"image_size": 32} if name == "vit_b_16" else {}
        model = torchvision.models.get_model(name, num_classes=OUTPUTS, **more)
        return Entry(model, torch.randn(rows, 3, size, size))

    return build


def _timm(name: str) -> Build:
    def build(rows: int) -> Entry:
        import timm

        model = timm.create_model(name, num_classes=OUTPUTS)
        size = model.default_cfg["input_size"]
        if not model.default_cfg.get("fixed_input_size"):  # small images, where the model takes them
            size = tuple(model.default_cfg.get("min_input_size") or (3, 64, 64))
        return Entry(model, torch.randn(rows, *size))

    return build


def _transformers(name: str, kind: str, settings: dict[str, Any]) -> Build:
    def build(rows: int) -> Entry:
        import transformers

        config = getattr(transformers, f"{name}Config")(**settings)
        of = "Image" if kind == "images" else "Sequence"
        model = getattr(transformers, f"{name}For{of}Classification")(config)
        if kind == "images":
            return Entry(model, {"pixel_values": torch.randn(rows, 3, 32, 32)}, "logits")
        tokens = torch.randint(3, 90, (rows, 8))
        if name == "Bart":
            tokens[:, -1] = config.eos_token_id  # it wants one
        return Entry(model, {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}, "logits")

    return build


def _own(model: Callable[[], nn.Module], shape: tuple[int, ...]) -> Build:
    return lambda rows: Entry(model(), torch.randn(rows, *shape))


class Function(nn.Module):
    """A forward pass in one expression, with the modules that it uses."""

    def __init__(self, forward: Callable[[Any, Tensor], Tensor], **parts: Any) -> None:
        super().__init__()
        self.run = forward
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Tensor:
        """The expression."""
        return self.run(self, x)


def _recurrent(kind: type[nn.RNNBase], **more: Any) -> Callable[[], nn.Module]:
    width = 12 * (2 if more.get("bidirectional") else 1)
    return lambda: Function(
        lambda s, x: s.head(s.layer(x)[0][:, -1]),
        layer=kind(5, 12, batch_first=True, **more),
        head=nn.Linear(width, OUTPUTS),
    )


def _graph(attention: bool) -> Callable[[], nn.Module]:
    """Samples are the nodes' features of a ring of 8 (Kipf and Welling 2017; Velickovic et al. 2018)."""
    near = torch.eye(8) + torch.eye(8).roll(1, 0) + torch.eye(8).roll(-1, 0)

    def mixed(s: Any, h: Tensor, score: nn.Linear) -> Tensor:
        if not attention:
            return (s.near / 3).to(h) @ h
        pairs = F.leaky_relu(score(h) + score(h).mT)
        return pairs.masked_fill(s.near == 0, -math.inf).softmax(-1) @ h

    def forward(s: Any, x: Tensor) -> Tensor:
        h = torch.tanh(mixed(s, s.a(x), s.u))
        return s.head(torch.tanh(mixed(s, s.b(h), s.v)).mean(1))

    def build() -> nn.Module:
        parts = {"u": nn.Linear(16, 1), "v": nn.Linear(16, 1)} if attention else {"u": None, "v": None}
        return Function(
            forward, near=nn.Buffer(near), a=nn.Linear(6, 16), b=nn.Linear(16, 16), head=nn.Linear(16, OUTPUTS), **parts
        )

    return build


def _fourier(s: Any, x: Tensor) -> Tensor:
    h = s.lift(x)
    for weight, side in zip(s.weights, s.sides, strict=True):
        modes = torch.fft.rfft(h)
        mixed = torch.einsum("bix,iox->box", modes[..., :5], torch.view_as_complex(weight))
        h = F.gelu(torch.fft.irfft(F.pad(mixed, (0, modes.shape[-1] - 5)), n=h.shape[-1]) + side(h))
    return s.head(h.mean(2))


def _experts(s: Any, x: Tensor) -> Tensor:
    score, chosen = s.gate(x).topk(2, -1)
    weight, out = score.softmax(-1), x.new_zeros(len(x), OUTPUTS)
    for k, expert in enumerate(s.experts):
        row, slot = torch.where(chosen == k)
        if len(row):
            out = out.index_add(0, row, expert(x[row]) * weight[row, slot, None])
    return out


def _equilibrium(s: Any, x: Tensor) -> Tensor:
    z, u = torch.zeros(len(x), 12, dtype=x.dtype), s.u(x)
    with torch.no_grad():
        for _ in range(30):
            z = torch.tanh(0.3 * s.a(z) + u)
    return s.head(torch.tanh(0.3 * s.a(z) + u))


def _ode(s: Any, x: Tensor) -> Tensor:
    h = s.u(x)
    for _ in range(6):
        h = h + s.a(torch.tanh(h)) / 6
    return s.head(h)


def _hamiltonian(s: Any, x: Tensor) -> Tensor:
    g = torch.func.vmap(torch.func.grad(lambda z: s.net(z[None])[0, 0]))(x)
    return torch.cat([g[:, 2:], -g[:, :2]], 1)


def _mlp(*widths: int, act: Callable[[], nn.Module] = nn.GELU) -> nn.Sequential:
    layers: list[nn.Module] = []
    for i, o in pairwise(widths):
        layers += [nn.Linear(i, o), act()]
    return nn.Sequential(*layers[:-1])


OWN: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "RNN": (_recurrent(nn.RNN), (7, 5)),
    "LSTM, two layers": (_recurrent(nn.LSTM, num_layers=2), (7, 5)),
    "GRU, both ways": (_recurrent(nn.GRU, bidirectional=True), (7, 5)),
    "LSTM with projection": (
        lambda: Function(
            lambda s, x: s.head(s.layer(x)[0][:, -1]),
            layer=nn.LSTM(5, 12, proj_size=4, batch_first=True),
            head=nn.Linear(4, 3),
        ),
        (7, 5),
    ),
    "graph convolution": (_graph(attention=False), (8, 6)),
    "graph attention": (_graph(attention=True), (8, 6)),
    "deep set": (
        lambda: Function(lambda s, x: s.rho(s.phi(x).sum(1)), phi=_mlp(5, 16, 16), rho=_mlp(16, 16, OUTPUTS)),
        (9, 5),
    ),
    "Fourier neural operator": (
        lambda: Function(
            _fourier,
            lift=nn.Conv1d(1, 8, 1),
            weights=nn.ParameterList([torch.randn(8, 8, 5, 2) / 8 for _ in range(2)]),
            sides=nn.ModuleList([nn.Conv1d(8, 8, 1) for _ in range(2)]),
            head=nn.Linear(8, OUTPUTS),
        ),
        (1, 16),
    ),
    "circulant layer": (
        lambda: Function(
            lambda s, x: s.head(torch.tanh(torch.fft.irfft(torch.fft.rfft(x) * torch.fft.rfft(s.c), n=16))),
            c=nn.Parameter(torch.randn(16) / 4),
            head=nn.Linear(16, OUTPUTS),
        ),
        (16,),
    ),
    "mixture of experts": (
        lambda: Function(
            _experts, gate=nn.Linear(6, 4), experts=nn.ModuleList([_mlp(6, 10, OUTPUTS) for _ in range(4)])
        ),
        (6,),
    ),
    "deep equilibrium": (
        lambda: Function(_equilibrium, u=nn.Linear(6, 12), a=nn.Linear(12, 12), head=nn.Linear(12, OUTPUTS)),
        (6,),
    ),
    "neural ODE": (lambda: Function(_ode, u=nn.Linear(6, 12), a=nn.Linear(12, 12), head=nn.Linear(12, OUTPUTS)), (6,)),
    "Hamiltonian network": (lambda: Function(_hamiltonian, net=_mlp(4, 16, 1, act=nn.Tanh)), (4,)),
    "hypernetwork": (
        lambda: Function(
            lambda s, x: torch.einsum("bi,bio->bo", x[:, 4:], s.net(x[:, :4]).unflatten(1, (5, OUTPUTS))),
            net=_mlp(4, 16, 15),
        ),
        (9,),
    ),
    "sine network": (
        lambda: Function(lambda s, x: s.b(torch.sin(30 * s.a(x))), a=nn.Linear(2, 64), b=nn.Linear(64, OUTPUTS)),
        (2,),
    ),
    "bilinear": (lambda: Function(lambda s, x: s.a(x, x), a=nn.Bilinear(5, 5, OUTPUTS)), (5,)),
    "transposed convolutions": (
        lambda: nn.Sequential(
            nn.Linear(6, 32),
            nn.Unflatten(1, (8, 2, 2)),
            nn.ConvTranspose2d(8, 6, 3, stride=2),
            nn.PReLU(),
            nn.ConvTranspose2d(6, 4, 2, groups=2),
            nn.Flatten(),
            nn.LazyLinear(OUTPUTS),
        ),
        (6,),
    ),
    "convolutions of volumes": (
        lambda: nn.Sequential(
            nn.Conv3d(2, 6, 3),
            nn.GroupNorm(2, 6),
            nn.SiLU(),
            nn.AdaptiveAvgPool3d(1),
            nn.Flatten(),
            nn.Linear(6, OUTPUTS),
        ),
        (2, 6, 6, 6),
    ),
    "transformer encoder": (
        lambda: Function(
            lambda s, x: s.head(s.body(x).mean(1)),
            body=nn.TransformerEncoder(
                nn.TransformerEncoderLayer(16, 4, 24, batch_first=True), 2, enable_nested_tensor=False
            ),
            head=nn.Linear(16, OUTPUTS),
        ),
        (6, 16),
    ),
}
