"""Time of collectives: a latency for each step of the algorithm, bytes over the link, and a library's choice.

NCCL and its kin send small messages by a low-latency protocol (LL, LL128) and large ones by a bulk protocol (Simple);
the custom all-reduce kernels of serving engines read their neighbors' buffers at once (one shot) or in two halves (two
shots) and hand large messages to NCCL. Devices of one link domain talk over the link; hosts talk over a network.

References
----------
NCCL, src/graph/tuning.cc: steps, protocols and the choice between them. Thakur, Rabenseifner & Gropp (2005),
"Optimization of collective communication operations in MPICH", §4. vLLM, csrc/custom_all_reduce.cuh: one and two shots.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from capacity.errors import InputError, UnknownNameError
from capacity.timing.form import Array, Board, Form, MissingFactError, Parameter, Values
from capacity.work.operations import Collective

HOST_DEVICES = 8
"""Devices of a host where the profile states no link domain; also the longest chain NCCL walks before trees pay."""
NIC_SHARE = 25 / 31.5
"""Network over PCIe bandwidth where each device has its own adapter: DGX A100 200 Gbit/s on PCIe 4.0 x16, DGX H100
400 Gbit/s on PCIe 5.0 x16 (NVIDIA DGX system user guides)."""
FASTEST_NIC_BYTES_PER_S = 100e9
"""ConnectX-8, 800 Gbit/s: devices that reach their host by a faster chip-to-chip link still leave it by this."""
NIC_LATENCY_S = 5e-6
"""A step of a tree between hosts (NCCL, src/graph/tuning.cc: hwLat of NET, Tree LL)."""
CHOICE = 16.0
"""How sharply a library's choice turns between two protocols of nearly equal time [1]."""
FAR = 1e12
"""Ratio beyond which a choice is no longer a question [1]."""
HOST_SHARPNESS = 8.0
"""How sharply the slower of host and device sets the pace of eager launches [1]."""
LARGEST_CUSTOM = 8
"""Devices that the custom kernels serve; more go to NCCL (vLLM and SGLang: world sizes 2, 4, 6, 8)."""
ONE_SHOT_BYTES = {4: 512 * 2**10, LARGEST_CUSTOM: 256 * 2**10}
"""Message from which the custom kernels take two shots, by most devices (vLLM, csrc/custom_all_reduce.cuh); two
devices always take one."""
SGLANG_FUSED = (0, 5, 14)
"""First SGLang release measured with the new custom all-reduce; none between it and 0.5.10 was, on NVLink."""
SIMILAR = {"send": "alltoall", "recv": "alltoall", "sendrecv": "alltoall", "all_to_all": "alltoall",
           "p2p": "alltoall", "broadcast": "all_gather", "reduce": "reduce_scatter"}  # fmt: skip
"""Collectives that travel like another: NCCL builds an alltoall from sends; the others walk half an all-reduce."""

Path: TypeAlias = Callable[[Collective, Board, Values], Array]


@dataclass(frozen=True, slots=True)
class Network:
    """What joins hosts: an adapter for each device.

    Attributes
    ----------
    bytes_per_s
        Bandwidth of one device's adapter, one direction [byte/s].
    latency_s
        Time of one step between hosts [s].
    host_devices
        Devices that talk without the network; by default `domain(board)`.
    """

    bytes_per_s: float
    latency_s: float = NIC_LATENCY_S
    host_devices: int | None = None

    def __post_init__(self) -> None:
        if not (self.bytes_per_s > 0 and self.latency_s >= 0 and (self.host_devices is None or self.host_devices > 0)):
            raise InputError(f"a network needs bandwidth > 0, latency ≥ 0 and at least one device a host, not {self}")

    @classmethod
    def assumed(cls, board: Board) -> Network:
        """Return the network that hosts of such devices usually have: an adapter a device, on PCIe lanes like its own.

        Raises
        ------
        MissingFactError
            When the profile does not state `host_bandwidth`.
        """
        host = board.hardware.host_bandwidth
        if host is None:
            raise MissingFactError(f"{board.hardware.id} has no host_bandwidth in its profile: say which network joins")
        return cls(min(NIC_SHARE * host.value, FASTEST_NIC_BYTES_PER_S))


def domain(board: Board) -> int:
    """Return how many devices talk without a network: those of the link domain, or of a host where it is smaller."""
    link = board.hardware.link
    return max(HOST_DEVICES, int(link.value.devices or 0) if link is not None else 0)


def steps(operation: Collective) -> Array:
    """Return the messages that follow one another: 2(n − 1) of an all-reduce, n − 1 of the others, 1 of a send.

    Beyond eight devices trees and switches shorten the chain to one more step, there and back, for each doubling; a
    device still posts one message for each peer of an alltoall.
    """
    devices = np.asarray(operation.devices, dtype=np.float64)
    if operation.kind == "send":
        return np.ones_like(devices)
    if operation.kind == "alltoall":
        return devices - 1
    chain = np.minimum(devices, HOST_DEVICES) - 1 + np.log2(np.maximum(devices / HOST_DEVICES, 1))
    return chain * (2 if operation.kind == "all_reduce" else 1)


def wire_bytes(operation: Collective) -> Array:
    """Return the bytes that each device puts on its link [byte]; a sender all of its message."""
    sent = operation.message_bytes if operation.kind == "send" else operation.moved_bytes
    return np.asarray(sent, dtype=np.float64)


def reach_bytes_per_s(devices: Array, board: Board, crowding: float) -> Array:
    """Return the bandwidth to the other devices, each talking at once, as the facts have it [byte/s].

    link, all pairs alike, inside a domain of linked devices; host · (2/n)^crowding where they share the PCIe of a host.
    """
    link, host = board.hardware.link, board.hardware.host_bandwidth
    full = board.link_bytes_per_s
    crowd = np.maximum(devices / 2, 1.0) ** -crowding
    if link is None or not board.linked:
        return full * crowd
    joined = link.value.devices or (2 if "bridge" in link.value.kind else HOST_DEVICES)
    through_host = min(full, host.value) if host is not None else full
    return np.where(devices <= joined, full, through_host * crowd)


def _least(first: Array, second: Array) -> Array:
    """Return the smaller of two times, rounded off where they meet; never above it, and never falls as one rises."""
    low, high = np.minimum(first, second), np.maximum(first, second)
    return np.asarray(low * (1 + (low / high) ** CHOICE) ** (-1 / CHOICE))


def _handed_over(first: Callable[[Array], Array], then: Array, message_bytes: Array, limit_bytes: Array) -> Array:
    """Return `first` up to a limit of the message and `then` above it, which never takes less than it did before."""
    ratio = np.clip(message_bytes / limit_bytes, 1 / FAR, FAR)
    share = 1 / (1 + ratio**-CHOICE)
    before = first(np.minimum(message_bytes, limit_bytes * (1 + ratio**-CHOICE) ** (-1 / CHOICE)))
    return np.asarray(before ** (1 - share) * np.maximum(before, then) ** share)


def _protocols(operation: Collective, board: Board, values: Values) -> Array:
    """Return the time by NCCL and its kin [s]: LL, LL128 or Simple, whichever is the fastest.

    With α = start + step · steps and β = wire bytes / (e·B), where B is the reach of the link and e the share of it
    that large messages get (less between two devices, which open fewer channels): LL takes α + β/e_ll, LL128
    [(λα)^p + (β/e_mid)^p]^(1/p), Simple λα + (σ^q + β^q)^(1/q). q between ½ and 1 is a pipe that fills: cut into the
    best number of chunks, a message takes (√σ + √β)².
    """
    devices = np.asarray(operation.devices, dtype=np.float64)
    devices = np.full_like(devices, 2.0) if operation.kind == "send" else devices
    share = values["link_share"] * np.where(devices <= 2, values["pair"], 1.0)
    wire_s = wire_bytes(operation) / (share * reach_bytes_per_s(devices, board, values["crowding"]))
    latency_s = values["start_s"] + values["step_s"] * steps(operation)
    lifted_s, sharp, fill = values["lift"] * latency_s, values["sharpness"], values["fill"]
    low_latency = latency_s + wire_s / values["low_latency_share"]
    middle = (lifted_s**sharp + (wire_s / values["middle_share"]) ** sharp) ** (1 / sharp)
    bulk = lifted_s + (values["bulk_s"] ** fill + wire_s**fill) ** (1 / fill)
    return _least(_least(low_latency, middle), bulk)


def _custom(operation: Collective, board: Board, values: Values) -> Array:
    """Return the time of a custom all-reduce kernel [s]: one shot, two shots, and NCCL for what is too large for it.

    One shot start + hop·(n − 1) + (n − 1)·b/(e₁·B), with e_pair for e₁ between two devices; two shots start + (hop +
    meet)·(n − 1) + 2(n − 1)/n·b/(e₂·B); NCCL bulk + step·2(n − 1) + 2(n − 1)/n·b/(e·B).
    """
    devices = np.asarray(operation.devices, dtype=np.float64)
    message_bytes = np.asarray(operation.message_bytes, dtype=np.float64)
    devices, message_bytes = np.broadcast_arrays(devices, message_bytes)
    reach = reach_bytes_per_s(devices, board, values["crowding"])
    start_s, peers = values["start_s"] + values["hop_s"] * (devices - 1), devices - 1
    one_share = np.where(devices <= 2, values["pair_share"], values["one_share"])
    most = np.where(devices <= 4, float(ONE_SHOT_BYTES[4]), float(ONE_SHOT_BYTES[LARGEST_CUSTOM]))

    def one(size: Array) -> Array:
        return start_s + peers * size / (one_share * reach)

    def shots(size: Array) -> Array:
        two = start_s + values["meet_s"] * peers + 2 * peers / devices * size / (values["two_share"] * reach)
        return np.where(devices <= 2, one(size), _handed_over(one, two, size, most))

    bulk = (
        values["bulk_s"] + values["step_s"] * steps(operation) + wire_bytes(operation) / (values["link_share"] * reach)
    )
    limit_bytes = np.full_like(devices, values["limit_bytes"])
    return np.where(devices > LARGEST_CUSTOM, bulk, _handed_over(shots, bulk, message_bytes, limit_bytes))


def _launched(path: Path) -> Path:
    """Return the path as eager code walks it: a copy into the shared buffer, and a host that takes its time."""

    def seconds(operation: Collective, board: Board, values: Values) -> Array:
        copy_s = 2 * np.asarray(operation.message_bytes) / (values["copy_share"] * board.bandwidth)
        busy, host = path(operation, board, values) + copy_s, np.float64(values["host_s"])
        return np.asarray((busy**HOST_SHARPNESS + host**HOST_SHARPNESS) ** (1 / HOST_SHARPNESS))

    return seconds


def _hierarchical(path: Path, operation: Collective, board: Board, values: Values, network: Network) -> Array:
    """Return the time over hosts [s]; see `form`."""
    devices = np.asarray(operation.devices, dtype=np.float64)
    message_bytes = np.asarray(operation.message_bytes, dtype=np.float64)
    local = np.minimum(devices, network.host_devices or domain(board))
    hosts = np.ceil(devices / local)
    rounds, out_bytes = hosts - 1, message_bytes * (1 - 1 / hosts) / local
    if operation.kind == "all_reduce":
        rounds, out_bytes = 2 * np.ceil(np.log2(hosts)), 2 * out_bytes
    elif operation.kind == "alltoall":
        out_bytes = message_bytes * (1 - local / devices)
    elif operation.kind == "send":
        rounds, out_bytes = np.sign(hosts - 1), message_bytes * np.sign(hosts - 1)
    inside_s = path(dataclasses.replace(operation, devices=local), board, values)
    return np.asarray(np.maximum(inside_s, out_bytes / network.bytes_per_s) + rounds * network.latency_s)


_LINK = (
    Parameter("link_share", 0.75, 0.02, 0.95, 0.1),
    Parameter("crowding", 1.8, 0.01, 3.0, 0.5),
)
"""What a device gets of its link in large messages; how PCIe divides it: to the 5 % of the datasheet that measurements
of eight devices showed, 0.75 · (2/8)^1.8 = 6 %."""
_PROTOCOLS = (
    Parameter("start_s", 7e-6, 1e-6, 1e-4, 0.3),
    Parameter("bulk_s", 2e-5, 1e-6, 3e-4, 0.5),
    Parameter("low_latency_share", 0.04, 0.001, 0.5, 0.5),
    Parameter("middle_share", 0.4, 0.02, 0.9, 0.3),
    Parameter("pair", 0.85, 0.5, 1.0, 0.1),
    Parameter("lift", 1.15, 1.0, 2.0, 0.1, shared=True),
    Parameter("sharpness", 1.5, 1.0, 4.0, 0.3, shared=True),
    Parameter("fill", 0.8, 0.5, 1.0, 0.2, shared=True),
    *_LINK,
)
_CUSTOM = (
    Parameter("start_s", 5e-6, 1e-6, 1e-4, 0.3),
    Parameter("hop_s", 2e-7, 1e-8, 5e-6, 0.5),
    Parameter("meet_s", 1.5e-6, 1e-8, 1e-5, 0.5),
    Parameter("pair_share", 0.5, 0.02, 0.95, 0.4),
    Parameter("one_share", 0.6, 0.02, 0.95, 0.4),
    Parameter("two_share", 0.4, 0.02, 0.95, 0.4),
    Parameter("bulk_s", 2.5e-5, 1e-6, 3e-4, 0.3),
    Parameter("step_s", 1e-6, 1e-7, 1e-5, 0.3),
    *_LINK,
)
_EAGER = (Parameter("host_s", 3e-5, 1e-6, 5e-4, 0.5), Parameter("copy_share", 0.75, 0.2, 1.0, 0.2, shared=True))
STEP_S = {"all_reduce": 1.2e-6, "all_gather": 1.2e-6, "reduce_scatter": 1.2e-6, "alltoall": 4e-7}
"""Typical time of a step of each NCCL collective [s]: where fits start."""
LIMIT_BYTES = {"vllm": 6 * 2**20, "sglang": 12 * 2**20, "sglang_fused": 24 * 2**20, "trtllm": 12 * 2**20}
"""Typical message that a custom kernel hands over [byte], between two powers of two: vLLM takes less than 8 MiB
(max_size of its CustomAllreduce); the others as their measured rows show, 8 MiB and 16 MiB still taken."""


def _known() -> dict[str, tuple[tuple[Parameter, ...], Path]]:
    """Return the parameters and the path of each family."""
    found: dict[str, tuple[tuple[Parameter, ...], Path]] = {}
    for library in ("nccl", "oneccl"):
        for operation, step_s in STEP_S.items():
            found[f"{library}.{operation}"] = ((Parameter("step_s", step_s, 1e-8, 3e-5, 0.3), *_PROTOCOLS), _protocols)
    for engine, limit_bytes in LIMIT_BYTES.items():
        parameters = (Parameter("limit_bytes", limit_bytes, 1e4, 1e9, 0.3), *_CUSTOM)
        found[f"custom.{engine}"] = (parameters, _custom)
        found[f"custom.{engine}.eager"] = ((*parameters, *_EAGER), _launched(_custom))
    return found


_FAMILIES = _known()


def form(name: str, network: Network | None = None) -> Form:
    """Return the form of a family, as `family` names it.

    Parameters
    ----------
    network
        What joins hosts; `Network.assumed(board)` by default, which an estimate should call assumed.

    Raises
    ------
    UnknownNameError
        When no family has that name.

    Notes
    -----
    With H hosts of L devices, hierarchically: inside each host as before, while every device exchanges its part with
    its peers in the other hosts. The two overlap chunk by chunk, so that the slower sets the pace:
    t = max(t(L), w/B) + rounds · latency. An all-reduce puts w = 2(H − 1)/H · b/L on each adapter in 2⌈log₂ H⌉ rounds,
    its halves (H − 1)/H · b/L in H − 1, an alltoall (n − L)/n · b in H − 1 (what leaves a host gathers at the right
    adapter first: all of b passes inside), a send b in one.
    """
    if name not in _FAMILIES:
        raise UnknownNameError("collective family", name, _FAMILIES)
    parameters, path = _FAMILIES[name]

    def seconds(operation: Collective, board: Board, values: Values) -> Array:
        if network is None and np.all(np.asarray(operation.devices) <= domain(board)):
            return path(operation, board, values)
        return _hierarchical(path, operation, board, values, network or Network.assumed(board))

    return Form("collective", parameters, seconds)


FORMS: Mapping[str, Form] = {name: form(name) for name in _FAMILIES}


def family(kernel: str, variant: str, engine_family: str, operation: str, version: str = "") -> str:
    """Return the name of the form for a row of a measurement table; what nobody knows is taken for NCCL.

    Custom kernels only reduce: their engines leave the other collectives to NCCL. A send is one peer of an alltoall.

    Examples
    --------
    >>> family("NCCL", "NCCL", "nccl", "all_gather")
    'nccl.all_gather'
    >>> family("vLLM_custom_eager", "vllm_eager", "vllm", "all_reduce")
    'custom.vllm.eager'
    >>> family("a kernel of tomorrow", "", "", "send")
    'nccl.alltoall'
    """
    words = f"{kernel} {variant}".casefold()
    action = operation.casefold().removeprefix("collective.")
    if action == "all_reduce" and any(word in words for word in ("custom", "trtllm", "tensorrt")):
        eager = ".eager" if "eager" in words else ""
        return f"custom.{_engine(f'{words} {engine_family}'.casefold(), version)}{eager}"
    library = "oneccl" if "oneccl" in words else "nccl"
    return f"{library}.{action if action in STEP_S else SIMILAR.get(action, 'all_reduce')}"


def _engine(words: str, version: str) -> str:
    """Return whose custom all-reduce a row ran."""
    if "custom" not in words or ("trtllm" in words and "sglang" not in words):
        return "trtllm"
    if "sglang" not in words:
        return "vllm"
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:3])
    return "sglang_fused" if numbers >= SGLANG_FUSED else "sglang"
