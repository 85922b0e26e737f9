"""The training state and its initial value."""

from typing import Any

from flax import struct
from flax.traverse_util import flatten_dict
import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh
from ml_collections import ConfigDict
import optax

from msl_jax.methods.table import Method
from msl_jax.models.initial import init_variables
from msl_jax.settings.objects import model_of, preparation_of
from msl_jax.training import transfer


@struct.dataclass
class TrainState:
    """Everything that a step changes.

    Attributes:
      step: int32 scalar, steps done in this stage.
      params: float32 parameters.
      batch_stats: float32 running means and variances; {} without batch norm.
      opt_state: state of the optax optimizer.
      sums: sums of "loss", every term and "steps" over the steps with an update since the last report; float32 scalars.
      guide: variables of the guide network, or a tuple with those of two; None for a method without a guide.
      average: moving average of the trained variables, parameters and running statistics; None without.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    sums: dict[str, jax.Array]
    guide: Any = None
    average: Any = None

    def trained(self) -> dict[str, Any]:
        """The variables of the model that the optimizer has trained."""
        return {"params": self.params, "batch_stats": self.batch_stats}

    def network(self) -> dict[str, Any]:
        """The variables for evaluation, the average if there is one: the "network" item of a checkpoint."""
        return self.trained() if self.average is None else self.average

    def training(self) -> dict[str, Any]:
        """The rest of the state: the "training" item of a checkpoint."""
        items = {"step": self.step, "opt_state": self.opt_state, "sums": self.sums, "guide": self.guide}
        rest = {} if self.average is None else self.trained()
        return rest | {name: item for name, item in items.items() if item is not None}

    @classmethod
    def of(cls, network: Any, training: dict[str, Any]) -> "TrainState":
        """The state with these two items of a checkpoint."""
        return cls(**({"average": network} if "params" in training else network), **training)


def init_state(
    config: ConfigDict,
    method: Method,
    optimizer: optax.GradientTransformation,
    previous_network: Any = None,
    loaded: transfer.Arrays | None = None,
) -> TrainState:
    """The state before the first step of a stage, from the config's seed.

    Args:
      config: the filled-in config.
      method: the stage's method.
      optimizer: the optax optimizer.
      previous_network: variables that the previous stage trained, for a fixed guide or to start from.
      loaded: arrays loaded from another run; all others are initialised at random.
    """
    size, channels = preparation_of(config).size, config.data.channels
    variables = init_variables(model_of(config), size, tuple(method.branches()), config.seed, channels)
    if method.continues:
        loaded = flatten_dict(jax.tree.map(jnp.copy, previous_network))
    variables = transfer.insert(loaded, variables) if loaded else variables
    return state_of(method, optimizer, variables, previous_network, averaged=bool(config.train.average))


def state_of(
    method: Method, optimizer: optax.GradientTransformation, variables: Any, previous_network: Any, averaged: bool
) -> TrainState:
    """The state before the first step of a stage, from given variables; `averaged` for one with a moving average."""
    guide = None
    if method.ema_decay is not None:
        copies = tuple(jax.tree.map(jnp.copy, variables) for _ in range(method.averages))
        guide = copies if method.averages > 1 else copies[0]
    elif method.guide:
        guide = previous_network
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        opt_state=optimizer.init(variables["params"]),
        sums={name: jnp.zeros((), jnp.float32) for name in ("loss", "steps", *method.terms)},
        guide=guide,
        average=jax.tree.map(jnp.copy, variables) if averaged else None,
    )


def make_mesh() -> Mesh:
    """All devices of all hosts along one axis, "data"."""
    return jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))
