"""How much memory a training step takes, by part, and its peak.

In: a `ModelConfig` and a `Setup`. Out: a `Memory`, in bytes on each GPU. The activations are
counted from what autograd keeps for each kind of block; `measured` corrects the count.

The peak is the largest of these moments: the end of the forward pass, when all activations and the
logits are there; the end of the backward pass, when all gradients are; the optimizer's update.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from hornbook.model.config import ModelConfig
from hornbook.model.count import parameters
from hornbook.model.families import FAMILIES
from hornbook.plan.matrices import state_bytes
from hornbook.plan.measured import CONTEXT, FRAGMENTATION, PROCESS, SAVED, WORKSPACE
from hornbook.plan.setup import Setup

CHUNK_LOGITS = 2**28
"""Logits that `chunked` cross-entropy holds (model/cross_entropy.py)."""


@dataclass(frozen=True)
class Memory:
    """Bytes on each GPU, at the peak.

    Attributes:
        weights: as stored, and their copies in the type of the products.
        copies: those copies alone, kept between forward and backward.
        gradients: that are there then, with those that several GPUs exchange.
        optimizer: its state.
        activations: of one micro-batch.
        logits: and their gradient, and what computing the loss takes.
        workspace: of libraries and kernels, and of the update; on a CPU of the whole process.
        moment: when that is: forward, backward or update.
        all_gradients: bytes of the weights' gradients when all are there.
        reserved: the peak with the allocator's fragmentation and CUDA's own context: what the GPU
            must have.
    """

    weights: float
    copies: float
    gradients: float
    optimizer: float
    activations: float
    logits: float
    workspace: float
    moment: str
    all_gradients: float
    reserved: float

    @property
    def peak(self) -> float:
        """The most that is allocated at once (torch.cuda.max_memory_allocated)."""
        return (
            self.weights + self.gradients + self.optimizer + self.activations + self.logits
            + self.workspace
        )  # fmt: skip


def memory(config: ModelConfig, setup: Setup) -> Memory:
    """Memory of a step on each GPU."""
    count = parameters(config).total
    shards = setup.gpus if setup.sharding == "fsdp" else 1
    weights = gradients = setup.weight_bytes * count / shards
    state = state_bytes(config, setup.optimizer) / shards
    copies = _copies(config, setup)
    on_cpu = setup.device == "cpu"
    saved = SAVED["cpu" if on_cpu else "eager" if setup.engine.compile == "off" else "compiled"]
    tokens = setup.micro_tokens
    block = saved.block * block_bytes(config, setup) * tokens
    kept = saved.block * kept_bytes(config, setup) * tokens
    # A block that is computed again is there as a whole while its gradient is found.
    again = block - kept
    outside = _outside_bytes(config, setup) * tokens
    logits, logits_last = _logits(config, setup, saved.logits)
    scaled = logits_last + _scaling(config, setup)
    several = setup.micro_batches > 1
    # Between micro-batches: those added up, or with FSDP those of the whole model, not yet reduced.
    # A recorded pass adds to gradients that are always there.
    held = 4.0 * count if several and setup.gathered else gradients
    held *= several or setup.cuda_graph
    # A compiled backward pass hands over all gradients at its end, beside those added up before.
    summed = held + (gradients if setup.engine.compile == "on" or not several else 0.0)
    # DDP exchanges gradients in buckets of its own.
    buckets = gradients if setup.sharding == "ddp" else 0.0
    activations = config.layers * kept + outside
    update = _update(config, setup)
    # Gradients, activations, logits and work at each moment (the backward pass begins with the loss
    # and the last block); what else there is stays.
    moments = {
        "forward": (held, activations, logits, 0.0),
        "loss": (held, activations, scaled, 0.0),
        "last block": (held, activations + again, logits_last, 0.0),
        "backward": (summed, (block if again else 0.0) + outside, logits_last, 0.0),
        "update": (gradients, 0.0, 0.0, update - copies),
    }
    moment = max(moments, key=lambda name: sum(moments[name]))
    at, active, loss, work = moments[moment]
    if moment == "update":
        copies, work = 0.0, update
    found = Memory(
        weights=weights + copies,
        copies=copies,
        gradients=at + buckets,
        optimizer=state,
        activations=active,
        logits=loss,
        workspace=(PROCESS if on_cpu else WORKSPACE) + work,
        moment="backward" if moment in ("loss", "last block") else moment,
        all_gradients=gradients,
        reserved=0.0,
    )
    over = 0.0 if on_cpu else FRAGMENTATION * found.peak + CONTEXT
    return replace(found, reserved=found.peak + over)


def block_bytes(config: ModelConfig, setup: Setup) -> float:
    """Bytes a token that one block keeps for its backward pass, without checkpointing.

    As in the graph that PyTorch's partitioner makes of each family's block
    (tests/plan/test_memory.py compares them): the inputs of all matrix products, query, key, value
    and output of attention, the MLP's products before its activation function, and the residual
    stream at each norm. The rest is computed again. Rotated queries and keys are apart
    from the product they came from, which stays whole, as the values are a part of it.
    """
    architecture = FAMILIES[config.family].architecture
    narrow = setup.narrow_bytes
    query, key = config.heads * config.head_dim, config.kv_heads * config.head_dim
    norms = 1 if architecture.parallel else 2
    eager = setup.engine.compile == "off"
    total = float(norms * (_normed_bytes(config, setup, eager) + narrow) * config.width)
    total += narrow * (2 * query + 2 * key) + 4 * config.heads
    if architecture.query_key_norm:
        total += narrow * (query + key)  # before their norms, in that product
    if architecture.positions == "rotary" and (eager or not architecture.query_key_norm):
        total += narrow * (query + key)  # before their rotation
    inner = config.mlp_width * (2 if architecture.mlp == "swiglu" else 1)
    total += narrow * (inner + config.mlp_width)
    if eager and architecture.mlp == "swiglu":
        total += narrow * config.mlp_width  # silu(gate), which the compiler does again
    return total


def kept_bytes(config: ModelConfig, setup: Setup) -> float:
    """Bytes a token that one block keeps, with the setup's checkpointing."""
    engine = setup.engine
    everything = block_bytes(config, setup)
    only_input = float(setup.residual_bytes * config.width)
    if engine.checkpointing == "full":
        return only_input
    if engine.checkpointing == "selective":
        query, key = config.heads * config.head_dim, config.kv_heads * config.head_dim
        products = 2 * query + 2 * key
        if not FAMILIES[config.family].architecture.parallel:
            products += config.width  # what attention adds to the stream, from which the MLP begins
        return only_input + setup.narrow_bytes * products + 4 * config.heads
    if engine.checkpointing == "budget":
        return only_input + engine.budget * (everything - only_input)
    return everything


def head_parameters(config: ModelConfig) -> int:
    """Numbers in the matrix that makes the logits, tied or not."""
    return config.vocabulary_rows * config.width


def _normed_bytes(config: ModelConfig, setup: Setup, eager: bool) -> int:
    """Bytes of each number that a norm keeps of its input: without the compiler autocast copies it
    to float32 for a LayerNorm on a GPU."""
    layer = FAMILIES[config.family].architecture.norm == "layer"
    return 4 if eager and layer and setup.device == "cuda" else setup.residual_bytes


def _outside_bytes(config: ModelConfig, setup: Setup) -> float:
    """Bytes a token kept after the last block: the final norm's input and output. That norm is
    compiled with the whole step only; a float32 output is there beside its narrow copy."""
    stream = _normed_bytes(config, setup, setup.engine.compile != "on")
    output = stream if stream > setup.residual_bytes else 0
    return float((stream + output + setup.narrow_bytes) * config.width)


def _copies(config: ModelConfig, setup: Setup) -> float:
    """Narrow copies of the weights: those that autocast makes and the backward pass needs again, or
    those that FSDP gathers (of the blocks one, and the next meanwhile, or all)."""
    count = parameters(config)
    if setup.sharding == "fsdp":
        blocks = (
            count.blocks
            if setup.gathered
            else min(2, config.layers) * count.blocks // config.layers
        )
        return setup.narrow_bytes * float(blocks + count.embedding)
    if setup.precision == "fp32" or setup.weights == "bf16":
        return 0.0
    again = setup.engine.checkpointing in ("selective", "full")
    blocks = count.blocks // config.layers if again else count.blocks
    return setup.narrow_bytes * float(blocks + head_parameters(config))


def _logits(config: ModelConfig, setup: Setup, plain_bytes: float) -> tuple[float, float]:
    """Bytes that the loss takes while it is computed, and what is left of them afterwards."""
    logits = config.vocabulary_rows * setup.micro_tokens
    kind = setup.engine.cross_entropy
    if kind == "plain":
        whole = plain_bytes * logits
        if setup.engine.compile != "off":
            whole *= setup.narrow_bytes / 2
        return whole, whole
    # Gradients of the hidden states and of the head's weights wait for the backward pass.
    later = float(setup.narrow_bytes * config.width * setup.micro_tokens)
    later += setup.weight_bytes * head_parameters(config)
    if kind == "fused":
        return setup.narrow_bytes * logits + later, later
    chunk = min(logits, CHUNK_LOGITS)
    total = 4 * head_parameters(config) if setup.weights == "bf16" and chunk < logits else 0
    return setup.narrow_bytes * chunk + total + later, later


def _scaling(config: ModelConfig, setup: Setup) -> float:
    """Bytes for multiplying the gradients that the loss found by the one that comes from above."""
    if setup.engine.cross_entropy == "plain":
        return 0.0
    hidden = setup.narrow_bytes * config.width * setup.micro_tokens
    return float(setup.weight_bytes * head_parameters(config) + hidden)


def _update(config: ModelConfig, setup: Setup) -> float:
    """Bytes that the optimizer's update takes beyond weights, gradients and state."""
    if setup.optimizer.kind == "muon":
        # A stack of all blocks' largest matrix, in bfloat16: the update, and two products.
        return 6.0 * config.layers * config.width * config.mlp_width
    return 0.0
