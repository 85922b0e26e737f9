import math

import pytest

from msl_jax.training.state import make_schedule


def test_schedule_falls_from_the_rate_to_0(tiny_config):
    config = tiny_config()
    config.optimizer.learning_rate, config.train.steps = 0.5, 10
    schedule = make_schedule(config)
    assert [float(schedule(step)) for step in (0, 5, 10)] == pytest.approx([0.5, 0.25, 0])
    assert 0 < schedule(9) < 0.5 * (1 - math.cos(math.pi / 10)) / 2 + 1e-6


def test_schedule_warms_up_if_set(tiny_config):
    config = tiny_config()
    config.optimizer.learning_rate, config.optimizer.warmup_steps, config.train.steps = 0.5, 4, 10
    schedule = make_schedule(config)
    assert [float(schedule(step)) for step in (0, 1, 4, 7, 10)] == pytest.approx([0, 0.125, 0.5, 0.25, 0])
